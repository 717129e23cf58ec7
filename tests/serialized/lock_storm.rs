//! Many operations at once through the wrapper, on a runtime that records when it worked: which
//! operations overlapped, and how long each had to wait.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;
use testkit::fake_runtime::{Fake, Interval, monotonic_ns, takes_ms};
use testkit::{Scratch, eventually, proof, succeed};

const IDS: [&str; 4] = ["a", "b", "c", "d"];
const WORKERS: usize = 8;

/// The longest configurable waits: in a storm no wait must run out of time.
const PATIENT: &str = "[lock]\nexclusive_wait_ms = 4000\nshared_wait_ms = 1500\n\
     [journal]\nmax_kib = 65536\n";

/// One storm at a time: these measure.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn a_storm_is_serialized_as_far_as_it_must_be() {
    let _alone = alone();
    let scratch = Scratch::new();
    let fake = storm_of(&scratch, PATIENT, if proof() { 10_000 } else { 1_500 });
    let journal = fake.scratch.journal();
    let timed_out = journal.iter().filter(|record| record["lock"] == "timed out").count();
    assert_eq!(timed_out, 0, "of {} operations", journal.len());
    let seen = Overlaps::among(&locked(&fake.intervals()));
    println!(
        "storm: {} operations, longest wait {:.0} ms, {seen:?}",
        journal.len(),
        longest(&journal)
    );
    assert_eq!((seen.two_exclusive, seen.shared_and_exclusive), (0, 0), "{seen:?}");
    assert!(seen.two_shared > 0, "shared ones kept each other out: {seen:?}");
    assert!(seen.different_cgroups > 0, "strangers kept each other out: {seen:?}");
}

#[test]
fn control_without_locks_the_same_storm_overlaps() {
    let _alone = alone();
    let scratch = Scratch::new();
    let fake = storm_of(&scratch, "mode = \"observe\"\n[journal]\nmax_kib = 65536", 500);
    let seen = Overlaps::among(&locked(&fake.intervals()));
    println!("storm without locks: {seen:?}");
    let shown = seen.two_exclusive > 0 && seen.shared_and_exclusive > 0;
    assert!(shown, "not shown: this storm does not overlap even without locks: {seen:?}");
}

/// Runs a storm on containers that all exist from beginning to end.
fn storm_of<'a>(scratch: &'a Scratch, config: &str, operations: usize) -> Fake<'a> {
    const VERBS: &[&str] =
        &["exec", "exec", "exec", "start", "state", "update", "pause", "resume", "create", "kill"];
    let fake = Fake::new(scratch, config);
    fake.script(&[("*", &[takes_ms(2)])]);
    for id in IDS {
        succeed(&mut fake.create(id));
    }
    fake.forget_intervals();
    let left = AtomicUsize::new(operations);
    std::thread::scope(|scope| {
        for seed in 0..WORKERS {
            let (fake, left) = (&fake, &left);
            scope.spawn(move || {
                let mut dice = Dice::new(seed);
                while take_one(left) {
                    let (verb, id) = (dice.of(VERBS), dice.of(&IDS));
                    let ended = quiet(&mut command(fake, verb, id)).status().unwrap();
                    // The container already exists, and such a create must be told so.
                    let expected = i32::from(verb == "create");
                    assert_eq!(ended.code(), Some(expected), "{verb} {id}");
                }
            });
        }
    });
    fake
}

fn take_one(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

fn command(fake: &Fake<'_>, verb: &str, id: &str) -> Command {
    match verb {
        "create" => fake.create(id),
        "exec" => fake.wrapped(&["exec", id, "true"]),
        "update" => fake.wrapped(&["update", "--cpu-quota", "1000", id]),
        "kill" => fake.wrapped(&["kill", id, "TERM"]),
        _ => fake.wrapped(&[verb, id]),
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// The same sequence for a seed in every run, so that a failure can be reproduced: only the machine
/// varies.
struct Dice(u64);

impl Dice {
    fn new(seed: usize) -> Dice {
        Dice((seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// The operations that hold a lock while the runtime works: `state` has already released it, `kill`
/// takes none, and an operation that knows no cgroup can take none.
fn locked(intervals: &[Interval]) -> Vec<Interval> {
    let holds = |interval: &&Interval| {
        !matches!(interval.verb.as_str(), "state" | "kill") && interval.cgroup != "-"
    };
    intervals.iter().filter(holds).cloned().collect()
}

fn is_shared(interval: &Interval) -> bool {
    matches!(interval.verb.as_str(), "exec" | "start")
}

/// Which operations worked at the same time.
#[derive(Debug, Default)]
struct Overlaps {
    two_exclusive: usize,
    shared_and_exclusive: usize,
    two_shared: usize,
    different_cgroups: usize,
    examples: Vec<String>,
}

impl Overlaps {
    fn among(intervals: &[Interval]) -> Overlaps {
        let mut sorted: Vec<&Interval> = intervals.iter().collect();
        sorted.sort_by_key(|interval| interval.start);
        let mut seen = Overlaps::default();
        for (at, first) in sorted.iter().enumerate() {
            let end = first.end.expect("an end");
            for second in sorted[at + 1..].iter().take_while(|second| second.start < end) {
                seen.count(first, second);
            }
        }
        seen
    }

    fn count(&mut self, first: &Interval, second: &Interval) {
        if first.cgroup != second.cgroup {
            self.different_cgroups += 1;
            return;
        }
        match (is_shared(first), is_shared(second)) {
            (true, true) => self.two_shared += 1,
            (false, false) => self.two_exclusive += 1,
            _ => self.shared_and_exclusive += 1,
        }
        if !(is_shared(first) && is_shared(second)) && self.examples.len() < 3 {
            self.examples.push(format!("{first:?} with {second:?}"));
        }
    }
}

fn wait_ms(record: &Value) -> f64 {
    record["lock_wait_ms"].as_f64().unwrap()
}

fn longest(records: &[Value]) -> f64 {
    records.iter().map(wait_ms).fold(0.0, f64::max)
}

fn of_verb(journal: &[Value], verb: &str) -> Vec<Value> {
    journal.iter().filter(|record| record["verb"] == verb).cloned().collect()
}

/// The longest time for which the lock was held. Not the script's time: a loaded machine adds to
/// that.
fn longest_hold(records: &[Value]) -> f64 {
    records.iter().map(|record| record["run_ms"].as_f64().unwrap()).fold(0.0, f64::max)
}

const EXEC_HOLD_MS: u64 = 40;
const UPDATE_HOLD_MS: u64 = 20;

/// Eight exec loops beside `updaters` update loops on one container, until the updates are done.
fn execs_beside_updates(updaters: usize, rounds: usize, exec_hold_ms: u64) -> Vec<Value> {
    let scratch = Scratch::new();
    let fake = Fake::new(&scratch, PATIENT);
    succeed(&mut fake.create("a"));
    let (exec, update) = (takes_ms(exec_hold_ms), takes_ms(UPDATE_HOLD_MS));
    fake.script(&[("exec", &[exec]), ("update", &[update])]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(quiet(&mut command(&fake, "exec", "a")).status().unwrap().success());
                }
            });
        }
        let loops: Vec<_> = (0..updaters)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        succeed(&mut command(&fake, "update", "a"));
                    }
                })
            })
            .collect();
        let ended: Vec<_> = loops.into_iter().map(|updater| updater.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    let journal = scratch.journal();
    assert!(journal.iter().all(|record| record["lock"] != "timed out"));
    journal
}

#[test]
fn exec_loops_do_not_starve_an_update() {
    let _alone = alone();
    let rounds = if proof() { 200 } else { 30 };
    let journal = execs_beside_updates(1, rounds, EXEC_HOLD_MS);
    let (execs, updates) = (of_verb(&journal, "exec"), of_verb(&journal, "update"));
    let (wait, hold) = (longest(&updates), longest_hold(&execs));
    println!(
        "1 updater beside {} execs: longest wait {wait:.1} ms, hold {hold:.1} ms",
        execs.len()
    );
    // One hold at the lock; the second is for the turnstile, where newcomers may be ahead.
    assert!(wait <= 2.0 * hold, "{wait:.1} ms with holds of {hold:.1} ms");
}

#[test]
fn updaters_wait_for_each_other_only() {
    let _alone = alone();
    const UPDATERS: usize = 4;
    let rounds = if proof() { 100 } else { 15 };
    // Probes as short as in the bound, which has 50 ms for all that come in between.
    const SHORT_EXEC_MS: u64 = 5;
    let journal = execs_beside_updates(UPDATERS, rounds, SHORT_EXEC_MS);
    let (execs, updates) = (of_verb(&journal, "exec"), of_verb(&journal, "update"));
    // Outside the proof, the machine may stand still in between.
    let between = if proof() { 50.0 } else { 500.0 };
    let (wait, bound) = (longest(&updates), UPDATERS as f64 * longest_hold(&updates) + between);
    println!(
        "{UPDATERS} updaters beside {} execs: longest wait {wait:.1} ms of {bound:.1} ms, holds \
         {:.1} and {:.1} ms",
        execs.len(),
        longest_hold(&updates),
        longest_hold(&execs)
    );
    assert!(wait <= bound, "{wait:.1} ms, more than {bound:.1} ms");
    let ahead = most_ahead(&updates);
    println!("at most {ahead} updates had their turn while another one waited");
}

/// The largest number of updates that got the lock while one waited.
fn most_ahead(updates: &[Value]) -> usize {
    let ms = |record: &Value, key: &str| record[key].as_f64().unwrap();
    // Approximately when it got the lock: a record is written after the runtime's end.
    let had_lock = |record: &Value| ms(record, "mono_ns") / 1e6 - ms(record, "run_ms");
    let ahead = |one: &Value| {
        let until = had_lock(one);
        let waited = until - wait_ms(one)..until;
        updates.iter().filter(|other| waited.contains(&had_lock(other))).count()
    };
    updates.iter().map(ahead).max().unwrap_or(0)
}

#[test]
fn control_flock_alone_starves_the_update() {
    let _alone = alone();
    const PATIENCE: Duration = Duration::from_secs(3);
    let file = tempfile::NamedTempFile::new().unwrap();
    let done = AtomicBool::new(false);
    let wait = std::thread::scope(|scope| {
        for number in 0..WORKERS as u64 {
            let (path, done) = (file.path(), &done);
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(number * EXEC_HOLD_MS / 8));
                while !done.load(Ordering::Relaxed) {
                    let _held = flock(path, FlockArg::LockShared);
                    std::thread::sleep(Duration::from_millis(EXEC_HOLD_MS));
                }
            });
        }
        let updater = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(2 * EXEC_HOLD_MS));
            let since = Instant::now();
            let _held = flock(file.path(), FlockArg::LockExclusive);
            since.elapsed()
        });
        let since = Instant::now();
        while !updater.is_finished() && since.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        done.store(true, Ordering::Relaxed);
        updater.join().unwrap()
    });
    println!("flock alone: waited {wait:?} with holds of {EXEC_HOLD_MS} ms");
    let shown = wait > Duration::from_millis(10 * EXEC_HOLD_MS);
    assert!(shown, "not shown: without a turnstile the update waited {wait:?} only");
}

fn flock(path: &Path, how: FlockArg) -> Flock<std::fs::File> {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    Flock::lock(file, how).unwrap()
}

/// Killed holders, and containers that are deleted and recreated meanwhile. The wrapper is killed,
/// by its pid; the runtime ends with it.
#[test]
fn killed_holders_and_recreated_containers() {
    let _alone = alone();
    let scratch = Scratch::new();
    let fake = Fake::new(&scratch, PATIENT);
    fake.script(&[("*", &[takes_ms(4)])]);
    for id in IDS {
        succeed(&mut fake.create(id));
    }
    let kills = rough_storm(&fake, if proof() { 6_000 } else { 1_000 });

    // The runtimes of killed wrappers are gone, too.
    eventually(Duration::from_secs(2), "every runtime has ended", || {
        fake.intervals().iter().all(|interval| interval.end.is_some() || !is_there(interval.pid))
    });
    let intervals = ends_of_killed(locked(&fake.intervals()), &kills);
    let elsewhere = intervals.iter().find(|it| it.cgroup != fake.cgroup(&it.id));
    assert!(elsewhere.is_none(), "{elsewhere:?} is not where its bundle has it");
    let (serialized, without): (Vec<_>, Vec<_>) = intervals.into_iter().partition(|it| it.locked);
    let seen = Overlaps::among(&serialized);
    println!(
        "rough storm: {} with a lock, {} found no container to lock, {} killed, {seen:?}",
        serialized.len(),
        without.len(),
        kills.len()
    );
    // It was created between the wrapper's look and the runtime's, which is the caller's own race.
    assert!(without.len() * 200 <= serialized.len(), "{without:?}");
    assert!(kills.len() > 20, "not shown: only {} were killed", kills.len());
    assert_eq!((seen.two_exclusive, seen.shared_and_exclusive), (0, 0), "{seen:?}");
    assert!(fake.scratch.journal().iter().all(|record| record["lock"] != "timed out"));

    the_last_word_works(&fake);
}

/// All of it runs beside deletes; returns when each wrapper was killed.
fn rough_storm(fake: &Fake<'_>, operations: usize) -> HashMap<i32, u64> {
    const VERBS: &[&str] =
        &["exec", "exec", "exec", "update", "update", "pause", "delete", "create", "create"];
    let left = AtomicUsize::new(operations);
    let kills = Mutex::new(HashMap::new());
    std::thread::scope(|scope| {
        for seed in 0..WORKERS {
            let (left, kills) = (&left, &kills);
            scope.spawn(move || {
                let mut dice = Dice::new(100 + seed);
                while take_one(left) {
                    let mut child =
                        quiet(&mut command(fake, dice.of(VERBS), dice.of(&IDS))).spawn().unwrap();
                    if dice.below(5) == 0 {
                        std::thread::sleep(Duration::from_micros(dice.below(25_000)));
                        // Noted before the kill, so that no successor can have begun before it.
                        kills.lock().unwrap().insert(child.id() as i32, monotonic_ns());
                        child.kill().unwrap();
                    }
                    ends_within(&mut child, Duration::from_secs(10));
                }
            });
        }
    });
    kills.into_inner().unwrap()
}

fn ends_within(child: &mut Child, limit: Duration) {
    let deadline = Instant::now() + limit;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("hangs");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_there(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// What a killed wrapper's lock covered ends with the kill. The kernel closes the wrapper's files,
/// which lets the next one in, a moment before it signals the runtime. What the runtime still does
/// in that moment cannot be serialized. An operation that ended by itself before the kill keeps its
/// end.
fn ends_of_killed(mut intervals: Vec<Interval>, kills: &HashMap<i32, u64>) -> Vec<Interval> {
    for interval in &mut intervals {
        if let Some(&killed) = kills.get(&interval.parent) {
            interval.end = Some(interval.end.map_or(killed, |end| end.min(killed)));
        }
    }
    // A runtime that was killed before it could learn its parent's pid has no end.
    intervals.retain(|interval| interval.end.is_some_and(|end| end > interval.start));
    intervals
}

fn the_last_word_works(fake: &Fake<'_>) {
    for id in IDS {
        // Whatever was left of it.
        let _ = quiet(&mut command(fake, "delete", id)).status();
        succeed(&mut fake.create(id));
        succeed(&mut command(fake, "update", id));
        let last = fake.scratch.journal().pop().unwrap();
        assert_eq!((&last["verb"], &last["lock"]), (&"update".into(), &"exclusive".into()));
        succeed(&mut command(fake, "delete", id));
    }
    assert_eq!(fake.scratch.lock_files(), Vec::<std::path::PathBuf>::new());
    let records = std::fs::read_dir(fake.scratch.state().join("containers")).unwrap();
    let records: Vec<_> = records.flatten().map(|entry| entry.file_name()).collect();
    assert!(records.is_empty(), "{records:?}");
}
