//! The report for a terminal.

use std::io::{self, Write};

use anstyle::Style;

use super::columns::{self, Column};
use super::findings::{Finding, times};
use super::summary::Report;
use super::tally::{Numbers, Pod};
use crate::output::{count, fitted, plain, right, table, time};

const BOLD: Style = Style::new().bold();

pub(super) fn write(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let numbers = &report.numbers;
    writeln!(out, "{}\n", heading(report))?;
    if numbers.operations > 0 {
        write_table(out, columns::VERBS, &numbers.verbs)?;
    }
    if let Some(refilled) = refilled(numbers) {
        writeln!(out, "{refilled}\n")?;
    }
    write_pods(out, "slowest pods", &numbers.slowest_pods)?;
    write_pods(out, "worst pods", &numbers.worst_pods)?;
    if report.findings.is_empty() {
        writeln!(out, "{BOLD}findings{BOLD:#}\nnone")?;
    }
    for finding in &report.findings {
        write_finding(out, finding)?;
    }
    report.skipped.say(out)
}

/// How many, and when.
pub(super) fn heading(report: &Report) -> String {
    let numbers = &report.numbers;
    if numbers.operations == 0 {
        let since = report.since_ms.map_or_else(String::new, |ms| format!(" since {}", time(ms)));
        return format!("no operation{since}");
    }
    format!(
        "{} of {}, {}",
        count(numbers.operations, "operation", "operations"),
        count(report.containers, "container", "containers"),
        when(numbers)
    )
}

/// From when to when, and how many of the operations have no valid time.
pub(super) fn when(numbers: &Numbers) -> String {
    let times = format!("{} to {}", time(numbers.first_ms), time(numbers.last_ms));
    let jumped = if numbers.clock_jumped {
        "; the clock was set meanwhile, times are not in order"
    } else {
        ""
    };
    match numbers.clock_not_set {
        0 => format!("{times}{jumped}"),
        all if all == numbers.operations => "while the clock was not set".into(),
        some => format!("{times}, and {some} of them while the clock was not set{jumped}"),
    }
}

/// What journals of the previous version have instead of lifts.
pub(super) fn refilled(numbers: &Numbers) -> Option<String> {
    let refilled = numbers.refilled?;
    let (count, seconds) = (times(refilled.refills as usize), refilled.gained_ms / 1000.0);
    Some(format!("refilled (earlier version): {count}, {seconds:.1} s of CPU gained"))
}

fn write_table<T, const N: usize>(
    out: &mut dyn Write,
    columns: [Column<T>; N],
    rows: &[T],
) -> io::Result<()> {
    let mut table = table(columns.map(|(head, _)| head));
    for row in rows {
        table.add_row(columns.map(|(_, cell)| plain(&cell(row))));
    }
    right(&mut table, 1..N - 1);
    writeln!(out, "{}\n", fitted(&mut table))
}

fn write_pods(out: &mut dyn Write, title: &str, pods: &[Pod]) -> io::Result<()> {
    if pods.is_empty() {
        return Ok(());
    }
    writeln!(out, "{BOLD}{title}{BOLD:#}")?;
    write_table(out, columns::PODS, pods)
}

fn write_finding(out: &mut dyn Write, finding: &Finding) -> io::Result<()> {
    let whose = plain(&whose(finding));
    writeln!(out, "{BOLD}{}{BOLD:#}", finding.title)?;
    if !whose.is_empty() {
        writeln!(out, "  {whose}")?;
    }
    writeln!(out, "  {}", plain(&finding.summary))?;
    for line in &finding.evidence {
        writeln!(out, "  - {}", plain(line))?;
    }
    for line in &finding.advice {
        writeln!(out, "  > {}", plain(line))?;
    }
    if let Some(probe) = &finding.probe {
        for line in &probe.arithmetic {
            writeln!(out, "    {line}")?;
        }
        writeln!(out)?;
        for line in probe.yaml.lines() {
            writeln!(out, "    {line}")?;
        }
    }
    writeln!(out)
}

pub(super) fn whose(finding: &Finding) -> String {
    let (pod, container) = (finding.names.pod(), &finding.names.container);
    match pod.is_empty() {
        true if container.is_empty() => String::new(),
        true => format!("container {container}"),
        false => format!("pod {pod}, container {container}"),
    }
}
