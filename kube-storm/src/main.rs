//! Pods with small CPU limits on a real cluster, beside busy neighbours: started, probed by
//! kubelet, resized in place, restarted, deleted. Measures what users see, once with the bare
//! runtime and once with frostlock. It reads only the answers of kubelet and the API server, and
//! knows nothing of frostlock.

mod api;
mod cpu;
mod kubelet;
mod plan;
mod pod;
mod report;
mod side;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::side::{Options, Side};

#[derive(Debug, Parser)]
#[command(version, about)]
enum Cli {
    /// Run a storm over a cluster of one node, and write what was seen
    Run {
        #[command(flatten)]
        options: Options,
        #[arg(long)]
        result: PathBuf,
    },
    /// Print the table of two sides. Fails if the second had a failure, or the first had none
    Compare { bare: PathBuf, wrapped: PathBuf },
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kube-storm: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match cli {
        Cli::Run { options, result } => {
            let side = side::run(options)?;
            std::fs::write(result, serde_json::to_vec_pretty(&side)?)
                .with_context(|| format!("cannot write {}", result.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Cli::Compare { bare, wrapped } => {
            let sides = [read(bare)?, read(wrapped)?];
            print!("{}", report::table(&sides));
            let (text, holds) = report::verdict(&sides[0], &sides[1]);
            println!("{text}");
            Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Side> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not a result", path.display()))
}
