//! The promise to those who share the node: CPU time beyond the quota stays within a bound, whatever
//! is asked of a container, and however often.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::alone;
use crate::scene::{Container, Quota, Via, refills};
use crate::support::{Runtime, Scratch, proof, runtime};
use crate::table::Table;

const LOOPS: u32 = 8;
const QUOTA: Quota = Quota::new(1, 100);

/// The default of `burst_ms`.
const BURST_S: f64 = 1.0;
/// Of one CPU: the default of `budget_percent`, and as much again and half for what freezes and kills
/// may take on credit.
const SHARE: f64 = 0.05 + 0.10;
/// What one operation may gain before its account is looked at again.
const OVERSHOOT_S: f64 = 0.25;

const LIMIT: Duration = Duration::from_secs(30);

const PROBES: &[&[&str]] = &[&["exec", "c", "/bin/true"]];
const FREEZES_AND_KILLS: &[&[&str]] = &[
    &["update", "--pids-limit", "77", "c"],
    &["pause", "c"],
    &["resume", "c"],
    &["kill", "c", "WINCH"],
    &["kill", "--all", "c", "WINCH"],
];

fn length() -> Duration {
    Duration::from_secs(if proof() { 60 } else { 10 })
}

fn bound(elapsed: f64) -> f64 {
    BURST_S + SHARE * elapsed + OVERSHOOT_S
}

#[test]
fn cpu_time_beyond_the_quota_is_bounded() {
    let _alone = alone();
    let head = format!(
        "{:<20} {:<8} {:>6} {:>10} {:>6} {:>8} {:>8} {:>8} {:>10} {:>7}",
        "",
        "",
        "s",
        "operations",
        "failed",
        "used s",
        "quota s",
        "beyond s",
        "of journal",
        "bound s"
    );
    let mut table =
        Table::with_head("CPU time beyond a quota of 1/100 ms, 8 busy, in a tight loop", head);
    // `kill --all` freezes in every runc before 1.2, and there alone.
    let loops =
        [("exec", "runc-1.3.6", PROBES), ("update, pause, kill", "runc-1.1.15", FREEZES_AND_KILLS)];
    for (name, runtime_name, commands) in loops {
        let runtime = runtime(runtime_name);
        // The control ends as soon as it has shown it.
        let control = gain(&mut table, name, &runtime, Via::Unbounded, commands);
        table.claim(control.beyond > bound(control.elapsed), || {
            format!("{name}: not shown: without a budget it is within the bound: {control:?}")
        });
        let wrapped = gain(&mut table, name, &runtime, Via::Wrapped, commands);
        table.claim(wrapped.beyond <= bound(wrapped.elapsed), || {
            format!("{name}: more than {:.2} s: {wrapped:?}", bound(wrapped.elapsed))
        });
        table.claim(wrapped.told > 0.0, || format!("{name}: the journal tells of no refill"));
    }
    table.finish();
}

#[derive(Debug)]
struct Gain {
    elapsed: f64,
    /// CPU seconds beyond the quota.
    beyond: f64,
    /// The same, as the journal has it.
    told: f64,
}

fn gain(table: &mut Table, name: &str, runtime: &Runtime, via: Via, commands: &[&[&str]]) -> Gain {
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, runtime, via, "c", LOOPS);
    container.limit(QUOTA);
    let began = Instant::now();
    let before = container.usage();
    let (mut operations, mut failed) = (0, 0);
    let beyond =
        |elapsed: f64| (container.usage() - before).as_secs_f64() - QUOTA.ratio() * elapsed;
    'loops: loop {
        for words in commands {
            operations += 1;
            failed += usize::from(container.timed(words, LIMIT).failure.is_some());
            let elapsed = began.elapsed().as_secs_f64();
            let shown = via == Via::Unbounded && beyond(elapsed) > 1.5 * bound(elapsed);
            if began.elapsed() >= length() || shown {
                break 'loops;
            }
        }
    }
    let elapsed = began.elapsed().as_secs_f64();
    let beyond = beyond(elapsed);
    let told: f64 = scratch.journal().iter().map(gained).sum();
    table.line(format!(
        "{name:<20} {:<8} {elapsed:>6.1} {operations:>10} {failed:>6} {:>8.2} {:>8.2} {beyond:>8.2} {told:>10.2} {:>7.2}",
        via.name(),
        beyond + QUOTA.ratio() * elapsed,
        QUOTA.ratio() * elapsed,
        bound(elapsed)
    ));
    Gain { elapsed, beyond, told }
}

/// In seconds, of one operation. Of a container and its pod both are refilled, and both gain.
fn gained(record: &Value) -> f64 {
    let of_each = refills(record).iter().filter_map(|refill| refill["gained_ms"].as_f64());
    of_each.fold(0.0, f64::max) / 1000.0
}
