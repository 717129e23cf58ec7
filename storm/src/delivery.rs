//! Where a report goes.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use crate::report::{Report, Verdict};
use crate::{plot, table};

/// Prints the report, and saves it with the plot.
pub(crate) fn deliver(report: &Report, out: &Path) -> anyhow::Result<ExitCode> {
    let text = table::text(report);
    print!("{text}");
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let save = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    save("storm.txt", text.as_bytes())?;
    save("storm.json", &serde_json::to_vec_pretty(report)?)?;
    save("storm.svg", plot::svg(report).as_bytes())?;
    let good = matches!(report.verdict, Verdict::Shown | Verdict::Done);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
