//! Many operations at once on containers that die under them, while others read the dying
//! processes.
//!
//! A real-time thread that retries in the kernel waits forever for a thread of lower priority.
//! Looking up or reaping a dead process drops its entries in /proc, and retries until nobody else
//! uses them (shrink_dcache_parent, fs/dcache.c). A machine with two processors stood still for 40
//! minutes when two watchers of priority 2 waited like this for a lifted thread of priority 1. Here
//! lifters, lifted runtimes and lifted init processes read and reap the same dying processes, and
//! `ps` reads them, too.
//!
//! scripts/watcher-above makes a binary whose lifter is one priority above what it lifts. It could
//! make the machine stand still, so it is only for the virtual machine; it was not seen to do so,
//! and is no control of these claims.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::cpu::Cpu;
use testkit::load::Watch;
use testkit::realtime::{Stat, left_lifted, numbers};
use testkit::table::{Series, Table, Took};
use testkit::throttled::{Container, Quota, Via, lifts};
use testkit::{Runtime, Scratch, lab, proof, runtime, slowness};

use crate::{alone, latest};

/// Each with its own containers, one after the other. More than may lift at once on two processors.
const WORKERS: usize = 6;
const LOOPS: u32 = 16;
/// The quota of all processes of a container until it is limited: enough to start them all.
const POD: Quota = Quota::new(20, 100);
const SMALL: Quota = Quota::new(1, 100);
/// How many read all of /proc without a pause.
const READERS: usize = 2;

/// A command that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(15);
/// How late a fair task may wake. Here 41 ms were seen, and beside two threads that were left
/// lifted 656.
const STALL_MS: f64 = 500.0;
/// How long anything may stay lifted, or wait to be reaped, after all operations have ended.
const SETTLED: Duration = Duration::from_secs(6);

fn length() -> Duration {
    Duration::from_secs(match () {
        () if proof() => 600,
        () if slowness() > 1 => 60,
        () => 15,
    })
}

#[test]
fn nobody_waits_for_ever() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let zombies_before = zombies();
    let readers = Readers::start();
    let (watch, end) = (Watch::start(), Instant::now() + length());
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let (scratch, runtime) = (&scratch, &runtime);
        let one = |number| scope.spawn(move || work(scratch, runtime, number, end));
        let each: Vec<_> = (0..WORKERS).map(one).collect();
        each.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let late = watch.finish();
    drop(readers);

    let mut table = Table::new("six at a time: create, limit, exec, kill and delete, beside ps");
    let seen = seen.into_iter().fold(Seen::default(), Seen::and);
    for (what, series) in &seen.series {
        table.row(what, "wrapped", series);
        let may_fail = MAY_FAIL.contains(what);
        table.claim(may_fail || series.failed() == 0, || format!("{what}: {}", series.failures()));
    }
    table.line(format!(
        "a fair task that wakes each 10 ms: {} times, late by p99 {:.1}, at most {:.1} ms",
        late.n(),
        late.p99(),
        late.max()
    ));
    let most = STALL_MS * f64::from(slowness());
    table.claim(latest(&late) <= most, || format!("a fair task woke {:.0} ms late", latest(&late)));
    table.claim(seen.hung.is_empty(), || format!("not within {LIMIT:?}: {:?}", seen.hung));
    claim_lifts(&mut table, &scratch.journal());
    claim_nothing_left(&mut table, &zombies_before);
    table.finish();
}

fn claim_lifts(table: &mut Table, records: &[Value]) {
    for whose in ["kill", "runtime", "watcher"] {
        let is_so = |record: &&Value| lifts(record).iter().any(|lift| lift["whose"] == whose);
        let with = records.iter().filter(is_so).count();
        table.line(format!("{with} of {} records tell of a lift: {whose}", records.len()));
        table.claim(with > 0, || format!("not shown: nobody was lifted: {whose}"));
    }
}

fn claim_nothing_left(table: &mut Table, zombies_before: &BTreeSet<(i32, u64)>) {
    let (lifted, _) = left_lifted(SETTLED * slowness());
    table.claim(lifted.is_empty(), || format!("left lifted: {lifted:?}"));
    let zombies = left_unreaped(zombies_before);
    table.claim(zombies.is_empty(), || format!("not reaped: {zombies:?}"));
}

/// Commands on a container that is being killed may fail.
const MAY_FAIL: [&str; 2] = ["exec beside a kill", "kill"];

#[derive(Debug, Default)]
struct Seen {
    series: BTreeMap<&'static str, Series>,
    /// Commands that did not end in time.
    hung: Vec<String>,
}

impl Seen {
    fn add(&mut self, what: &'static str, took: Took) {
        if took.time >= LIMIT * slowness() {
            self.hung.push(what.to_owned());
        }
        self.series.entry(what).or_default().add(took);
    }

    fn and(mut self, other: Seen) -> Seen {
        for (what, series) in other.series {
            self.series.entry(what).or_default().append(series);
        }
        self.hung.extend(other.hung);
        self
    }
}

/// Containers, one after the other, each from its creation to its end.
fn work(scratch: &Scratch, runtime: &Runtime, number: usize, end: Instant) -> Seen {
    let mut seen = Seen::default();
    let pod = format!("{}/kubepods/pod{number}", scratch.cgroup);
    // An empty one, which gives the pod its controllers on v2.
    Container::busy_below(scratch, runtime, Via::Bare, &pod, &format!("first{number}"), 0);
    let Quota { ms, period_ms } = POD.here();
    Cpu::of(&pod).limit(ms * 1000, period_ms * 1000);
    let container = Container::new(scratch, runtime, Via::Wrapped, &pod, &format!("c{number}"));
    let bundle = container.bundle("throttled", |config| {
        config["process"]["env"] = serde_json::json!(["PATH=/bin", format!("LOOPS={LOOPS}")]);
    });
    while Instant::now() < end && seen.hung.is_empty() {
        live(&container, &bundle, &mut seen);
        die(&container, &mut seen);
    }
    seen
}

fn live(container: &Container<'_>, bundle: &Path, seen: &mut Seen) {
    let id = container.id.as_str();
    seen.add(
        "create",
        container.timed(&["create", "--bundle", bundle.to_str().unwrap(), id], LIMIT),
    );
    seen.add("start", container.timed(&["start", id], LIMIT));
    let began = Instant::now();
    while container.pids().len() <= LOOPS as usize && began.elapsed() < LIMIT * slowness() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let Quota { ms, period_ms } = SMALL.here();
    let [quota, period] = [ms, period_ms].map(|ms| (ms * 1000).to_string());
    let words = ["update", "--cpu-period", &period, "--cpu-quota", &quota, id];
    seen.add("update", container.timed(&words, LIMIT));
    at_once(container, seen, &[("exec", &probe(id)), ("exec", &probe(id))]);
}

fn probe(id: &str) -> [&str; 5] {
    ["exec", id, "sh", "-c", "echo PONG | grep -q PONG"]
}

/// Killed by several at a time, each of which looks for dying processes.
fn die(container: &Container<'_>, seen: &mut Seen) {
    let id = container.id.as_str();
    let processes = container.pids();
    let kill = ["kill", id, "KILL"];
    let all: [(&'static str, &[&str]); 4] = [
        ("kill", &kill),
        ("kill", &kill),
        ("exec beside a kill", &probe(id)),
        ("delete --force", &["delete", "--force", id]),
    ];
    at_once(container, seen, &all);
    let began = Instant::now();
    while !container.gone(&processes) && began.elapsed() < LIMIT * slowness() {
        std::thread::sleep(Duration::from_millis(2));
    }
    seen.add("gone", Took { time: began.elapsed(), failure: None });
}

fn at_once(container: &Container<'_>, seen: &mut Seen, commands: &[(&'static str, &[&str])]) {
    let all: Vec<(&'static str, Took)> = std::thread::scope(|scope| {
        let mut each = Vec::new();
        for &(what, words) in commands {
            each.push(scope.spawn(move || (what, container.timed(words, LIMIT))));
        }
        each.into_iter().map(|one| one.join().unwrap()).collect()
    });
    all.into_iter().for_each(|(what, took)| seen.add(what, took));
}

/// `ps`, in loops, which end with this value.
struct Readers(Vec<Child>);

impl Readers {
    fn start() -> Readers {
        // From the containers' own image: a small machine has no other.
        let busybox = lab().join("rootfs/bin/busybox");
        let script = format!("while {} ps -T >/dev/null; do :; done", busybox.display());
        let read = |_| {
            let mut shell = Command::new("setpriv");
            shell.args(["--pdeathsig", "KILL", "sh", "-c", &script]).stdin(Stdio::null());
            shell.spawn().unwrap()
        };
        Readers((0..READERS).map(read).collect())
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for reader in &mut self.0 {
            let ended = reader.try_wait();
            let _ = reader.kill();
            let _ = reader.wait();
            if !std::thread::panicking() {
                assert!(matches!(ended, Ok(None)), "ps has failed: {ended:?}");
            }
        }
    }
}

/// Processes that have ended and are not reaped, by pid and start.
fn zombies() -> BTreeSet<(i32, u64)> {
    let all = numbers("/proc").into_iter().filter_map(|pid| Some((pid, Stat::of(pid, pid)?)));
    all.filter(|(_, stat)| stat.state == 'Z').map(|(pid, stat)| (pid, stat.start)).collect()
}

/// The zombies at every look until the limit that were none before.
fn left_unreaped(before: &BTreeSet<(i32, u64)>) -> BTreeSet<(i32, u64)> {
    let began = Instant::now();
    let mut left: BTreeSet<_> = &zombies() - before;
    while !left.is_empty() && began.elapsed() < SETTLED * slowness() {
        std::thread::sleep(Duration::from_millis(10));
        left = &left & &zombies();
    }
    left
}
