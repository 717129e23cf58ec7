//! The report for a terminal.

use std::io::{self, Write};

use anstyle::Style;

use super::findings::{Finding, times};
use super::summary::Report;
use super::tally::{Numbers, Pod, Verb};
use crate::output::{count, fitted, plain, table, time};

const BOLD: Style = Style::new().bold();

pub(super) fn write(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let numbers = &report.numbers;
    writeln!(out, "{}\n", heading(report))?;
    if numbers.operations > 0 {
        write_verbs(out, &numbers.verbs)?;
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

fn write_verbs(out: &mut dyn Write, verbs: &[Verb]) -> io::Result<()> {
    let mut table = table([
        "VERB",
        "COUNT",
        "FAILED",
        "RETRIES",
        "LIFTS",
        "LIFTED/ms",
        "PROGRAM/ms",
        "P50/ms",
        "P95/ms",
        "P99/ms",
        "MAX/ms",
        "FAILURES",
    ]);
    for verb in verbs {
        let ms = |ms: f64| format!("{ms:.1}");
        table.add_row([
            plain(&verb.verb),
            verb.count.to_string(),
            verb.failed().to_string(),
            verb.retries.to_string(),
            verb.lifts.to_string(),
            ms(verb.lifted_ms),
            ms(verb.program_ms),
            ms(verb.p50_ms),
            ms(verb.p95_ms),
            ms(verb.p99_ms),
            ms(verb.max_ms),
            plain(&causes(verb)),
        ]);
    }
    right(&mut table, 1..11);
    writeln!(out, "{}\n", fitted(&mut table))
}

pub(super) fn right(table: &mut comfy_table::Table, columns: std::ops::Range<usize>) {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
}

pub(super) fn causes(verb: &Verb) -> String {
    let causes = verb.failures.iter().map(|(cause, count)| format!("{cause} {count}"));
    causes.collect::<Vec<_>>().join(", ")
}

fn write_pods(out: &mut dyn Write, title: &str, pods: &[Pod]) -> io::Result<()> {
    if pods.is_empty() {
        return Ok(());
    }
    writeln!(out, "{BOLD}{title}{BOLD:#}")?;
    let mut table = table([
        "POD",
        "OPERATIONS",
        "FAILED",
        "RETRIES",
        "LIFTED/ms",
        "PROGRAM/ms",
        "MEAN/ms",
        "MAX/ms",
        "SLOWEST",
    ]);
    for pod in pods {
        let ms = |ms: f64| format!("{ms:.1}");
        table.add_row([
            plain(&pod.pod),
            pod.operations.to_string(),
            pod.failed.to_string(),
            pod.retries.to_string(),
            ms(pod.lifted_ms),
            ms(pod.program_ms),
            ms(pod.mean_ms),
            ms(pod.max_ms),
            plain(&pod.slowest),
        ]);
    }
    right(&mut table, 1..8);
    writeln!(out, "{}\n", fitted(&mut table))
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
