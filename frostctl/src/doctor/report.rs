//! doctor's output: for a person, for node-problem-detector, and about the checks.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::checks::{self, Check};
use super::finding::{Brief, Finding, Severity};
use super::node::Node;
use crate::exit::Exit;
use crate::node::hierarchy::Layout;
use crate::node::tree::Driver;
use crate::output::Output;

pub(crate) const HELP: &str = "\
Every finding says what was seen where, what comes of it, and what to do. A note is not a problem.
\"not checked\" is what could not be seen, and why: neither fine nor wrong.

Exit status:
  0  every check saw all of it, and found nothing but notes
  1  a warning or an error; with --fix: one is left, or could not be mended
  2  no warning and no error, but something was not checked; or the command line is wrong
  3  doctor could not look, or could not print; standard error says why

  frostctl doctor                          look
  frostctl doctor --fix                    mend what is safe, look again
  frostctl doctor --explain                what the checks look at
  frostctl doctor --npd --check kubepods   one line for node-problem-detector (exit 0, 1 or 2)

--fix makes a missing kubepods root with its controllers (by mkdir, or as a slice through systemd),
mounts a v1 controller that is not mounted, thaws what a killed operation of frostlock's left
frozen, puts back the threads that a killed one left lifted, and removes empty cgroups of pods that
are gone, cgroups of a killed doctor, thawed first, and stale files of frostlock's. It thaws
nothing else (--thaw PATH does, one cgroup at a time), ends no process, edits no configuration.";

/// The output of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) cgroup_version: Layout,
    pub(super) cgroup_driver: Driver,
    pub(super) kubepods: Vec<String>,
    pub(super) checks: Vec<&'static str>,
    /// Those of the checks that could not see everything.
    pub(super) not_checked: Vec<&'static str>,
    pub(super) findings: Vec<Finding>,
    /// What `--fix` did; `findings` are what is left after it.
    pub(super) fixes: Vec<Done>,
}

#[derive(Debug, Serialize)]
pub(super) struct Done {
    pub(super) fix: String,
    pub(super) ok: bool,
    /// What was done, or why it was not done.
    pub(super) result: String,
}

/// Warnings and errors decide first, then what could not be seen.
pub(super) fn verdict(findings: &[Finding]) -> Exit {
    match findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Warning | Severity::Error) => Exit::Found,
        Some(Severity::NotChecked) => Exit::Unknown,
        Some(Severity::Note) | None => Exit::Clean,
    }
}

impl Report {
    pub(super) fn new(node: &Node, findings: Vec<Finding>, fixes: Vec<Done>) -> Report {
        let is_blind = |name: &&str| {
            let mut of = findings.iter().filter(|finding| finding.check == *name);
            of.any(|finding| finding.severity == Severity::NotChecked)
        };
        let checks = node.ask.checks.clone();
        Report {
            cgroup_version: node.cgroups.layout,
            cgroup_driver: node.driver(),
            kubepods: node.tree.roots.iter().map(|root| root.path.to_string()).collect(),
            not_checked: checks.iter().copied().filter(is_blind).collect(),
            checks,
            findings,
            fixes,
        }
    }

    pub(super) fn exit(&self) -> Exit {
        match self.fixes.iter().all(|done| done.ok) {
            true => verdict(&self.findings),
            false => Exit::Found,
        }
    }
}

/// node-problem-detector cuts a plugin's output at this length (max_output_length).
const PLUGIN_BYTES: usize = 80;

fn style(severity: Severity) -> Style {
    let color = match severity {
        Severity::Error => AnsiColor::Red,
        Severity::Warning => AnsiColor::Yellow,
        Severity::NotChecked => AnsiColor::Magenta,
        Severity::Note => AnsiColor::Cyan,
    };
    Style::new().bold().fg_color(Some(color.into()))
}

pub(super) fn text(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", headline(report))?;
    for done in &report.fixes {
        fixed(done, out)?;
    }
    for (at, finding) in report.findings.iter().enumerate() {
        if report.findings[..at].iter().any(|before| is_the_same(before, finding)) {
            continue;
        }
        let all = report.findings.iter().filter(|it| is_the_same(finding, it));
        let checks: Vec<_> = all.map(|it| it.check).collect();
        writeln!(out)?;
        one(finding, &checks.join(", "), out)?;
    }
    writeln!(out)?;
    writeln!(out, "{}", summary(report))
}

fn headline(report: &Report) -> String {
    let version = match report.cgroup_version {
        Layout::V1 => "cgroup v1",
        Layout::V2 => "cgroup v2",
        Layout::Hybrid => "cgroup v1 with v2 beside it (hybrid)",
        Layout::None => return "no cgroups are visible".to_owned(),
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

/// What several checks could not see is reported once.
fn is_the_same(one: &Finding, other: &Finding) -> bool {
    let is_not_checked = one.severity == Severity::NotChecked && other.severity == one.severity;
    std::ptr::eq(one, other) || (is_not_checked && one.what == other.what)
}

fn one(finding: &Finding, checks: &str, out: &mut dyn Write) -> std::io::Result<()> {
    let style = style(finding.severity);
    let severity = finding.severity;
    writeln!(out, "{style}{severity}{style:#}  {}  [{checks}]", plain(&finding.what))?;
    for evidence in &finding.evidence {
        writeln!(out, "  seen  {}: {}", plain(&evidence.path), plain(&evidence.content))?;
    }
    if !finding.consequence.is_empty() {
        writeln!(out, "  so    {}", plain(&finding.consequence))?;
    }
    writeln!(out, "  do    {}", plain(&finding.remedy))
}

/// Paths and contents come from others: newlines and escape sequences in them are made visible.
fn plain(text: &str) -> String {
    cgroup::text::one_line(text.as_ref(), 2000)
}

fn summary(report: &Report) -> String {
    let count = |severity| report.findings.iter().filter(|it| it.severity == severity).count();
    let checks = of(report.checks.len(), "check");
    let notes = of(count(Severity::Note), "note");
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let unseen = match report.not_checked.as_slice() {
        [] => String::new(),
        names => {
            format!(
                " Not checked, or not all of it: {} ({}).",
                of(names.len(), "check"),
                names.join(", ")
            )
        }
    };
    if errors + warnings == 0 {
        return match report.not_checked.is_empty() {
            true => format!("Nothing is wrong: {checks}, {notes}."),
            false => format!("Nothing wrong was found by {checks}, {notes}.{unseen}"),
        };
    }
    let mendable = report.findings.iter().filter(|it| it.fix.is_some()).count();
    let next = match (mendable, report.fixes.is_empty()) {
        (0, _) => String::new(),
        (count, true) => format!(" `frostctl doctor --fix` mends {count} of them."),
        (count, false) => format!(" {count} could not be mended."),
    };
    let (errors, warnings) = (of(errors, "error"), of(warnings, "warning"));
    format!("{errors}, {warnings}, {notes} from {checks}.{next}{unseen}")
}

fn of(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The worst finding in one line.
pub(super) fn plugin(findings: &[Finding], checks: usize) -> String {
    let is_wrong = |it: &&Finding| it.severity >= Severity::Warning;
    match findings.iter().filter(is_wrong).collect::<Vec<_>>().as_slice() {
        [first, more @ ..] => {
            let rest = if more.is_empty() { String::new() } else { format!(" (+{})", more.len()) };
            line(first, PLUGIN_BYTES - rest.len()) + &rest
        }
        [] => match findings.iter().find(|it| it.severity == Severity::NotChecked) {
            Some(unseen) => short(&format!("not checked: {}: {}", unseen.check, unseen.what)),
            None => format!("OK: {}", of(checks, "check")),
        },
    }
}

/// The name and the state, if the finding has them: a pod's path alone would not fit.
fn line(finding: &Finding, bytes: usize) -> String {
    match &finding.brief {
        Some(Brief { whose, state }) => {
            let state = cut(state, bytes / 2);
            format!("{} {state}", cut(whose, bytes.saturating_sub(state.len() + 1)))
        }
        None => cut(&format!("{}: {}", finding.check, finding.what), bytes),
    }
}

pub(super) fn short(line: &str) -> String {
    cut(line, PLUGIN_BYTES)
}

fn cut(line: &str, bytes: usize) -> String {
    cgroup::text::one_line(line.as_ref(), bytes)
}

pub(super) fn explain(name: Option<&str>, output: &Output) -> anyhow::Result<Exit> {
    let wanted = checks::ALL.iter().filter(|it| name.is_none_or(|name| it.name == name));
    let all: Vec<&Check> = wanted.collect();
    output.print(&all, |out| {
        let bold = Style::new().bold();
        for it in &all {
            writeln!(out, "{bold}{}{bold:#}\n  {}", it.name, it.about)?;
        }
        Ok(())
    })?;
    Ok(Exit::Clean)
}
