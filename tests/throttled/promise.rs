//! The promise to the node's other users: what a workload gains by its probes stays within a bound,
//! whatever the probe's program is, and however often it runs.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use testkit::table::Table;
use testkit::throttled::Via;
use testkit::throttled::{Container, Quota, configured, lifts, timed};
use testkit::{Scratch, proof, runtime};

use crate::alone;

const LOOPS: u32 = 8;
const QUOTA: Quota = Quota::new(1, 100);

/// The default of `lift.pod_percent`, in parts of one CPU.
const SHARE: f64 = 0.05;
/// What an account may hold after a long time without use.
const BURST_S: f64 = 1.0;
/// What an exec takes beyond its program's lift: the runtime's own work in the container.
const RUNTIME_S: f64 = 0.03;

/// How long each of the programs spins.
const SPINS: Duration = Duration::from_millis(300);

fn length() -> Duration {
    Duration::from_secs(if proof() { 60 } else { 6 })
}

#[derive(Debug)]
struct Gain {
    elapsed: f64,
    operations: usize,
    /// CPU seconds of the container beyond its quota.
    beyond: f64,
    /// Lifted CPU seconds of programs, according to the journal.
    told: f64,
}

impl Gain {
    fn bound(&self) -> f64 {
        BURST_S + SHARE * self.elapsed + RUNTIME_S * self.operations as f64
    }
}

#[test]
fn what_a_greedy_probe_gains_is_bounded() {
    let _alone = alone();
    let head = format!(
        "{:<36} {:>5} {:>10} {:>9} {:>8} {:>8}",
        "", "s", "operations", "beyond s", "told s", "bound s"
    );
    let mut table =
        Table::with_head("CPU time beyond the quota by probes that spin, in a tight loop", head);
    let unbounded = "[lift]\nprogram_ms = 1000\npod_percent = 100\nnode_percent = 100\n";
    let control = gain(&mut table, "no account (control)", unbounded);
    table.claim(control.told > SHARE * control.elapsed + BURST_S, || {
        format!("not shown: without an account it gains no more: {control:?}")
    });
    let off = gain(&mut table, "program_ms = 0", "[lift]\nprogram_ms = 0\n");
    table.claim(off.told == 0.0, || format!("switched off, and yet lifted: {off:?}"));
    let long = gain(&mut table, "program_ms = 1000", "[lift]\nprogram_ms = 1000\n");
    let bounded = gain(&mut table, "the defaults", "");
    table.claim(bounded.told > 0.0, || "no program was lifted".to_owned());
    for gain in [&off, &long, &bounded] {
        let most = gain.beyond.max(gain.told);
        table.claim(most <= gain.bound(), || format!("more than {:.2} s: {gain:?}", gain.bound()));
    }
    table.finish();
}

fn gain(table: &mut Table, name: &str, config: &str) -> Gain {
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, &runtime, Via::Wrapped, "c", LOOPS);
    container.limit(QUOTA);
    let (began, before, mut operations) = (Instant::now(), container.usage(), 0);
    while began.elapsed() < length() {
        greedy(&container, config);
        operations += 1;
    }
    let elapsed = began.elapsed().as_secs_f64();
    let beyond = (container.usage() - before).as_secs_f64() - QUOTA.ratio() * elapsed;
    let told = scratch.journal().iter().map(told).fold(0.0, |sum, s| sum + s);
    let gain = Gain { elapsed, operations, beyond, told };
    table.line(format!(
        "{name:<36} {elapsed:>5.1} {operations:>10} {beyond:>9.2} {told:>8.2} {:>8.2}",
        gain.bound()
    ));
    gain
}

/// A program that takes all CPU time that it gets, for its whole life.
fn greedy(container: &Container<'_>, config: &str) {
    let pid_file = container.scratch.path("greedy.pid");
    let mut exec = configured(container.scratch, container.runtime, config);
    exec.args(["exec", "--detach", "--pid-file"]).arg(&pid_file);
    exec.args(["c", "sh", "-c", "while :; do :; done"]);
    let took = timed(&mut exec, Duration::from_secs(10));
    assert_eq!(took.failure, None);
    std::thread::sleep(SPINS);
    let pid = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// In seconds, including a second record for a lift that outlived its operation.
fn told(record: &Value) -> f64 {
    let programs = lifts(record).iter().filter(|lift| lift["whose"] == "program");
    programs.filter_map(|lift| lift["cpu_ms"].as_f64()).fold(0.0, |sum, ms| sum + ms / 1000.0)
}
