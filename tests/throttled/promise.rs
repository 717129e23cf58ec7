//! The promise to those who share the node: CPU time beyond the quota stays within a bound, whatever
//! is asked of a container, and however often.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::alone;
use crate::scene::{Container, Quota, Via, refills};
use crate::support::{Scratch, proof, runtime};
use crate::table::Table;

const LOOPS: u32 = 8;

/// The default of `burst_ms`.
const BURST_S: f64 = 1.0;
/// Of one CPU: the default of `budget_percent`, and as much again and half for what freezes and kills
/// may take on credit.
const SHARE: f64 = 0.05 + 0.10;
/// What one operation may gain before its account is looked at again.
const OVERSHOOT_S: f64 = 0.25;

const PROBES: &[&[&str]] = &[&["exec", "c", "/bin/true"]];
const FREEZES_AND_KILLS: &[&[&str]] = &[
    &["update", "--pids-limit", "77", "c"],
    &["pause", "c"],
    &["resume", "c"],
    &["kill", "c", "WINCH"],
    &["kill", "--all", "c", "WINCH"],
];

fn length(via: Via) -> Duration {
    Duration::from_secs(match via {
        _ if proof() => 60,
        Via::Wrapped => 10,
        // It ends as soon as it has shown what it is for.
        _ => 30,
    })
}

fn bound(elapsed: f64) -> f64 {
    BURST_S + SHARE * elapsed + OVERSHOOT_S
}

struct Loop {
    name: &'static str,
    runtime: &'static str,
    commands: &'static [&'static [&'static str]],
    /// The control has the first, which gains the most where there is no bound.
    quotas: &'static [Quota],
}

const LOOP_OF_PROBES: Loop =
    Loop { name: "exec", runtime: "runc-1.3.6", commands: PROBES, quotas: &[Quota::new(1, 100)] };

/// `kill --all` freezes in every runc before 1.2, and there alone. A freeze takes no longer with a
/// larger quota, and is given more.
const LOOP_OF_FREEZES: Loop = Loop {
    name: "update, pause, kill",
    runtime: "runc-1.1.15",
    commands: FREEZES_AND_KILLS,
    quotas: &[Quota::new(5, 100), Quota::new(1, 100)],
};

#[test]
fn cpu_time_beyond_the_quota_is_bounded() {
    let _alone = alone();
    let head = format!(
        "{:<32} {:<8} {:>5} {:>10} {:>6} {:>7} {:>8} {:>9} {:>10} {:>8}",
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
    let mut table = Table::with_head("CPU time beyond the quota, 8 busy, in a tight loop", head);
    for each in [LOOP_OF_PROBES, LOOP_OF_FREEZES] {
        let name = each.name;
        let control = gain(&mut table, &each, each.quotas[0], Via::Unbounded);
        table.claim(control.beyond > bound(control.elapsed), || {
            format!("{name}: not shown: without a budget it is within the bound: {control:?}")
        });
        for &quota in &each.quotas[..if proof() { each.quotas.len() } else { 1 }] {
            let wrapped = gain(&mut table, &each, quota, Via::Wrapped);
            // While it is paused it leaves a part of its quota unused, which the journal does not
            // make up for.
            let most = wrapped.beyond.max(wrapped.told);
            table.claim(most <= bound(wrapped.elapsed), || {
                format!("{name}: more than {:.2} s: {wrapped:?}", bound(wrapped.elapsed))
            });
            table.claim(wrapped.told > 0.0, || format!("{name}: no refill in the journal"));
        }
    }
    table.finish();
}

#[derive(Debug)]
struct Gain {
    elapsed: f64,
    /// CPU seconds beyond the quota.
    beyond: f64,
    /// The same, as the journal has it. An update lacks what runc's own writes of the quota give.
    told: f64,
}

fn gain(table: &mut Table, each: &Loop, quota: Quota, via: Via) -> Gain {
    let runtime = runtime(each.runtime);
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, &runtime, via, "c", LOOPS);
    container.limit(quota);
    let began = Instant::now();
    let before = container.usage();
    let mut operations = 0;
    let mut failed = Vec::new();
    let beyond =
        |elapsed: f64| (container.usage() - before).as_secs_f64() - quota.ratio() * elapsed;
    for words in each.commands.iter().cycle() {
        // Without a refill an exec may take 24 s; what it does after that is not measured.
        let left = length(via).saturating_sub(began.elapsed());
        if left.is_zero() {
            break;
        }
        let took = container.timed(words, left);
        operations += 1;
        if began.elapsed() < length(via) {
            failed.extend(took.failure.map(|why| format!("{}: {why}", words[0])));
        }
        let elapsed = began.elapsed().as_secs_f64();
        if via == Via::Unbounded && beyond(elapsed) > 1.2 * bound(elapsed) {
            break;
        }
    }
    let elapsed = began.elapsed().as_secs_f64();
    let beyond = beyond(elapsed);
    let told: f64 = scratch.journal().iter().map(gained).sum();
    table.line(format!(
        "{:<32} {:<8} {elapsed:>5.1} {operations:>10} {:>6} {:>7.2} {:>8.2} {beyond:>9.2} {told:>10.2} {:>8.2}  {}",
        format!("{}, {quota}", each.name),
        via.name(),
        failed.len(),
        beyond + quota.ratio() * elapsed,
        quota.ratio() * elapsed,
        bound(elapsed),
        failed.join("; ")
    ));
    Gain { elapsed, beyond, told }
}

/// In seconds, of one operation. Of a container and its pod both are refilled, and both gain.
fn gained(record: &Value) -> f64 {
    let of_each = refills(record).iter().filter_map(|refill| refill["gained_ms"].as_f64());
    of_each.fold(0.0, f64::max) / 1000.0
}
