//! How doctor says it: to a person, to node-problem-detector, and about itself.

use std::io::Write;

use anstyle::{AnsiColor, Style};

use super::checks::{self, Check};
use super::finding::{Finding, Severity};
use super::hierarchy::Layout;
use super::{Done, Report};
use crate::exit::Exit;
use crate::output::Output;

pub(crate) const HELP: &str = "\
Every finding says what was seen where, what comes of it, and what to do. Notes are no problems: the
exit status is 1 for a warning or an error, 0 else.

  frostctl doctor                          look
  frostctl doctor --fix                    mend what is safe, look again
  frostctl doctor --explain                what the checks look at
  frostctl doctor --npd --check kubepods   one line for node-problem-detector (exit 0, 1 or 2)

--fix makes a missing kubepods root with its controllers (by mkdir, or as a slice through
systemd), mounts a v1 controller that is not mounted, thaws what an operation of frostlock's that
was killed has left frozen, puts back the threads that one has left lifted, and removes empty
cgroups of pods that are gone, those of a doctor that was killed, thawed first, and stale files of
frostlock's. It never thaws anything else (--thaw PATH does, one cgroup at a time), ends no
process, edits no configuration.";

/// node-problem-detector cuts what a plugin prints there (max_output_length).
const PLUGIN_BYTES: usize = 80;

fn style(severity: Severity) -> Style {
    let color = match severity {
        Severity::Error => AnsiColor::Red,
        Severity::Warning => AnsiColor::Yellow,
        Severity::Note => AnsiColor::Cyan,
    };
    Style::new().bold().fg_color(Some(color.into()))
}

pub(super) fn text(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", headline(report))?;
    for done in &report.fixes {
        fixed(done, out)?;
    }
    for finding in &report.findings {
        writeln!(out)?;
        one(finding, out)?;
    }
    writeln!(out)?;
    writeln!(out, "{}", summary(report))
}

fn headline(report: &Report) -> String {
    let version = match report.cgroup_version {
        Layout::V1 => "cgroup v1",
        Layout::V2 => "cgroup v2",
        Layout::Hybrid => "cgroup v1 with v2 beside it (hybrid)",
        Layout::None => return "no cgroups".to_owned(),
    };
    match report.kubepods.as_slice() {
        [] => format!("{version}; no kubepods"),
        roots => format!("{version}, {} driver; {}", report.cgroup_driver, roots.join(", ")),
    }
}

fn fixed(done: &Done, out: &mut dyn Write) -> std::io::Result<()> {
    let (color, label) =
        if done.ok { (AnsiColor::Green, "fixed") } else { (AnsiColor::Red, "not fixed") };
    let style = Style::new().bold().fg_color(Some(color.into()));
    writeln!(out, "{style}{label}{style:#}  {}", plain(&done.result))
}

fn one(finding: &Finding, out: &mut dyn Write) -> std::io::Result<()> {
    let style = style(finding.severity);
    let (severity, check) = (finding.severity, finding.check);
    writeln!(out, "{style}{severity}{style:#}  {}  [{check}]", plain(&finding.what))?;
    for evidence in &finding.evidence {
        let (path, content) = (evidence.path.to_string_lossy(), plain(&evidence.content));
        writeln!(out, "  seen  {}: {content}", plain(&path))?;
    }
    if !finding.consequence.is_empty() {
        writeln!(out, "  so    {}", plain(&finding.consequence))?;
    }
    writeln!(out, "  do    {}", plain(&finding.remedy))
}

/// Paths and contents are others': a newline or an escape sequence in them is shown, not obeyed.
fn plain(text: &str) -> String {
    cgroup::text::one_line(text.as_ref(), 2000)
}

fn summary(report: &Report) -> String {
    let count = |severity| report.findings.iter().filter(|it| it.severity == severity).count();
    let of =
        |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let checks = of(report.checks.len(), "check");
    let notes = of(count(Severity::Note), "note");
    if report.is_clean() {
        return format!("Nothing is wrong: {checks}, {notes}.");
    }
    let mendable = report.findings.iter().filter(|it| it.fix.is_some()).count();
    let next = match (mendable, report.fixes.is_empty()) {
        (0, _) => String::new(),
        (count, true) => format!(" `frostctl doctor --fix` mends {count} of them."),
        (count, false) => format!(" {count} could not be mended."),
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    format!("{}, {}, {notes} from {checks}.{next}", of(errors, "error"), of(warnings, "warning"))
}

/// The worst finding in one line.
pub(super) fn plugin(findings: &[Finding], checks: usize) -> (String, Exit) {
    let problems: Vec<&Finding> =
        findings.iter().filter(|it| it.severity >= Severity::Warning).collect();
    let untried = findings.iter().find(|it| it.is_untried);
    match problems.as_slice() {
        [] if untried.is_some() => {
            let what = untried.map_or("", |it| it.what.as_str());
            (short(&format!("cannot tell: {what}")), Exit::Unknown)
        }
        [] => (format!("OK: {checks} checks"), Exit::Clean),
        [one] => (short(&format!("{}: {}", one.check, one.what)), Exit::Found),
        [first, more @ ..] => {
            let rest = format!(" (+{})", more.len());
            let line = format!("{}: {}", first.check, first.what);
            (cut(&line, PLUGIN_BYTES - rest.len()) + &rest, Exit::Found)
        }
    }
}

pub(super) fn short(line: &str) -> String {
    cut(line, PLUGIN_BYTES)
}

fn cut(line: &str, bytes: usize) -> String {
    cgroup::text::one_line(line.as_ref(), bytes)
}

pub(super) fn explain(name: Option<&str>, output: &Output) -> anyhow::Result<Exit> {
    #[derive(serde::Serialize)]
    struct Explained {
        check: &'static str,
        about: &'static str,
    }
    let wanted = checks::ALL.iter().filter(|it| name.is_none_or(|name| it.name == name));
    let all: Vec<Explained> =
        wanted.map(|&Check { name: check, about, .. }| Explained { check, about }).collect();
    output.print(&all, |out| {
        let bold = Style::new().bold();
        for it in &all {
            writeln!(out, "{bold}{}{bold:#}\n  {}", it.check, it.about)?;
        }
        Ok(())
    })?;
    Ok(Exit::Clean)
}
