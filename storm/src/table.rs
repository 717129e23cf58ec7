//! The one table, as text.

use std::fmt::Write;

use crate::allowed::Allowed;
use crate::kills::Victim;
use crate::report::{MOST_SHOWN, Report};
use crate::side::Side;
use crate::tally::{Series, Step};

/// The width of a row's name.
const WHAT: usize = 26;
const SIDE: usize = 8;

pub(crate) fn text(report: &Report) -> String {
    let mut text = String::new();
    for side in &report.sides {
        line(&mut text, &heading(side));
    }
    line(&mut text, "");
    line(
        &mut text,
        &format!(
            "{:WHAT$}{:SIDE$}{:>8}{:>8}{:>10}{:>10}{:>10}{:>10}",
            "", "", "n", "failed", "p50 ms", "p95 ms", "p99 ms", "max ms"
        ),
    );
    for step in Step::ALL {
        each(&mut text, report, step.name(), |side| series(&side.sum.of(step)));
    }
    line(&mut text, "");
    counts(&mut text, report);
    kills(&mut text, report);
    texts(&mut text, report);
    for side in &report.sides {
        sweep(&mut text, side);
    }
    let _ = writeln!(text, "\n{}", report.verdict);
    text
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", line.trim_end());
}

fn heading(side: &Side) -> String {
    let options = &side.options;
    let kills = if options.kills > 0 {
        format!(", {} of {} kills", side.killed.len(), options.kills)
    } else {
        String::new()
    };
    let shape = match &options.sweep {
        Some(_) => "1 to 8 busy threads, a probe every 0.5 to 10 s".to_owned(),
        None => {
            format!("{} busy threads, a probe every {} s", options.threads, options.probe_period)
        }
    };
    format!(
        "{:SIDE$} {}, seed {}: {} pods at a time of {} containers with {shape}, a resize every {} s, {:.0} s{kills}",
        options.label,
        side.server,
        options.seed,
        options.pods,
        options.containers,
        options.resize_period,
        options.seconds,
    )
}

fn each(text: &mut String, report: &Report, what: &str, cells: impl Fn(&Side) -> String) {
    for (at, side) in report.sides.iter().enumerate() {
        let what = if at == 0 { what } else { "" };
        line(text, &format!("{what:WHAT$}{:SIDE$}{}", side.options.label, cells(side)));
    }
}

fn series(series: &Series) -> String {
    if series.attempts == 0 {
        return format!("{:>8}{:>8}", 0, 0);
    }
    let Series { attempts, failed, p50_ms, p95_ms, p99_ms, max_ms, .. } = series;
    format!("{attempts:>8}{failed:>8}{p50_ms:>10.1}{p95_ms:>10.1}{p99_ms:>10.1}{max_ms:>10.1}")
}

/// Rows with a number and no time.
fn counts(text: &mut String, report: &Report) {
    each(text, report, "pods", |side| format!("{:>8}", side.sum.pods));
    each(text, report, "CPU time left over, %", |side| format!("{:>8.1}", side.idle_percent));
    each(text, report, "restarts", |side| format!("{:>8}", side.sum.restarted()));
    each(text, report, "probes that took over 1 s", |side| format!("{:>8}", side.sum.late_probes));
    each(text, report, "3 probes failed in a row", |side| format!("{:>8}", side.sum.unhealthy));
    for verb in ["create", "start", "update", "exec", "kill", "delete"] {
        for side in &report.sides {
            let Some(budget) = &side.budget else { continue };
            let what = format!("budget spent: {verb}");
            let spent = budget.spent(verb);
            line(text, &format!("{what:WHAT$}{:SIDE$}{spent:>8}", side.options.label));
        }
    }
}

/// The victims of kills, and how often each was killed.
fn kills(text: &mut String, report: &Report) {
    for victim in Victim::ALL {
        for side in report.sides.iter().filter(|side| side.options.kills > 0) {
            let count = side.killed.iter().filter(|kill| kill.victim == victim).count();
            let what = format!("killed: {}", victim.name());
            line(text, &format!("{what:WHAT$}{:SIDE$}{count:>8}", side.options.label));
        }
    }
}

/// Every failure, by its text.
fn texts(text: &mut String, report: &Report) {
    let allowed = Allowed::list().unwrap_or_default();
    line(text, "\nfailures");
    for step in Step::ALL {
        for side in &report.sides {
            for (failure, count) in &side.sum.of(step).failures {
                line(
                    text,
                    &format!("  {step:8}{:SIDE$}{count:>6} x {failure}", side.options.label),
                );
                let reason = allowed.reason(failure).filter(|_| side.options.label == "wrapped");
                if let Some(reason) = reason {
                    line(text, &format!("  {:22}   allowed: {reason}", ""));
                }
            }
        }
    }
    for side in &report.sides {
        let label = &side.options.label;
        for (how, count) in &side.sum.restarts {
            line(text, &format!("  restart {label:SIDE$}{count:>6} x {how}"));
        }
        for (what, count) in side.budget.iter().flat_map(|budget| &budget.retried) {
            line(text, &format!("  again   {label:SIDE$}{count:>6} x {what}"));
        }
        for wrong in side.afterwards.iter().take(MOST_SHOWN) {
            line(text, &format!("  after   {label:SIDE$}       {wrong}"));
        }
        if let Some(more @ 1..) = side.afterwards.len().checked_sub(MOST_SHOWN) {
            line(text, &format!("  after   {label:SIDE$}       and {more} more"));
        }
        for left in &side.cut_off {
            line(text, &format!("  after   {label:SIDE$}       {left}, by a killed delete"));
        }
    }
}

/// Threads by probe period: how many probes found the budget spent, and failed.
fn sweep(text: &mut String, side: &Side) {
    let (Some(sweep), Some(budget)) = (&side.options.sweep, &side.budget) else { return };
    line(
        text,
        "\nexecs: all / met a spent budget / failed; CPU time gained by the pod, and per exec",
    );
    let mut head = format!("{:>8}", "threads");
    for period in &sweep.probe_periods {
        let _ = write!(head, "{:>26}", format!("every {period} s"));
    }
    line(text, &head);
    let mut cells = budget.pods.iter().enumerate();
    for threads in &sweep.threads {
        let mut row = format!("{threads:>8}");
        for (slot, pod) in cells.by_ref().take(sweep.probe_periods.len()) {
            let failed = side.sum.probes.get(&slot).map_or(0, |probes| probes.failed);
            let percent = pod.gained_ms / (side.options.seconds * 10.0);
            let each = pod.exec_gained_ms / pod.execs.max(1) as f64;
            let counts = format!("{}/{}/{failed}", pod.execs, pod.execs_spent);
            let _ = write!(row, "{:>26}", format!("{counts} {percent:.1} % {each:.0} ms"));
        }
        line(text, &row);
    }
}
