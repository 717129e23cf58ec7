//! Killed in the middle of a lift: the surviving process of frostlock puts threads back; if none
//! survives, the next operation on the node does.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::load::Watch;
use testkit::realtime::{Stat, Thread, left_lifted, lift_by_hand, lifted_threads, numbers};
use testkit::table::Table;
use testkit::throttled::{Container, Quota, Via, ended};
use testkit::{Runtime, Scratch, eventually, proof, run, runtime, slowness, succeed, wait};

use crate::alone;

const SMALL: Quota = Quota::new(1, 100);
const LOOPS: u32 = 8;
/// From the end of the wrapper, while any process of frostlock lives. Outside the proof, the
/// machine may stand still meanwhile.
fn put_back() -> Duration {
    Duration::from_millis(if proof() { 100 } else { 1000 })
}
/// An exec whose lifter was killed takes as long as a bare one: 25 s.
const HANGS: Duration = Duration::from_secs(60);
const NOTED_MAX: Duration = Duration::from_millis(2);
/// In the environment of the wrapper and of its children; a container's own processes lack it.
const MARK: &str = "FROSTLOCK_TEST_MARK";

/// The number of kills for each use.
fn kills() -> usize {
    if proof() { 1000 } else { 8 }
}
/// Rounds for each kill: sometimes the operation is over before its moment, a kill every other
/// time. In a short run, all of the few may need more than the average.
fn most_rounds() -> usize {
    if proof() { 3 } else { 10 }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Wrapper,
    Lifter,
    Runtime,
    All,
}

const TARGETS: [Target; 4] = [Target::All, Target::Wrapper, Target::Lifter, Target::Runtime];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Exec,
    Pause,
    Kill,
    Create,
}

/// The moment of a kill.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// This long after its start.
    After(Duration),
    /// This long after it noted what it lifts: a whole lift may take a millisecond.
    Noted(Duration),
}

#[test]
fn in_an_exec() {
    kill_often(Use::Exec);
}

#[test]
fn in_a_pause() {
    kill_often(Use::Pause);
}

#[test]
fn in_a_kill() {
    kill_often(Use::Kill);
}

#[test]
fn in_a_create() {
    kill_often(Use::Create);
}

/// A busy container, and a place for another one in its pod.
struct Victim<'a> {
    busy: Container<'a>,
    new: Container<'a>,
}

impl<'a> Victim<'a> {
    fn new(scratch: &'a Scratch, runtime: &'a Runtime) -> Victim<'a> {
        let pod = format!("{}/kubepods/poddeath", scratch.cgroup);
        let busy = Container::busy_below(scratch, runtime, Via::Bare, &pod, "c", LOOPS);
        busy.limit(SMALL.here());
        Victim { busy, new: Container::new(scratch, runtime, Via::Wrapped, &pod, "new") }
    }

    fn command(&self, which: Use) -> Command {
        let mut command = self.new.via.command(self.new.scratch, self.new.runtime);
        match which {
            Use::Exec => command.args(["exec", "c", "sh", "-c", "echo PONG | grep -q PONG"]),
            Use::Pause => command.args(["pause", "c"]),
            Use::Kill => command.args(["kill", "c", "KILL"]),
            Use::Create => {
                // As busy as its neighbour lets it be.
                let bundle = self.new.bundle("idle", |config| {
                    config["linux"]["resources"]["cpu"] =
                        serde_json::json!({ "quota": 1000 * slowness(), "period": 100_000 });
                });
                command.arg("create").arg("--bundle").arg(bundle).arg("new")
            }
        };
        command.env(MARK, &self.new.scratch.cgroup).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Lifted threads of the container, and of frostlock's processes that work on it.
    fn lifted(&self) -> Vec<Thread> {
        lifted_threads().into_iter().filter(|thread| self.is_ours(thread)).collect()
    }

    fn is_ours(&self, thread: &Thread) -> bool {
        let scratch = &self.new.scratch.cgroup;
        let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", thread.pid));
        cgroup.is_ok_and(|cgroup| cgroup.contains(scratch)) || is_marked(thread.pid, scratch)
    }

    /// Our threads that are still lifted.
    fn left(&self) -> (Vec<Thread>, Duration) {
        let (left, took) = left_lifted(put_back() * slowness());
        (left.into_iter().filter(|thread| self.is_ours(thread)).collect(), took)
    }

    /// Every thread is as it was: none of them ever set anything.
    fn is_as_it_was(&self) -> bool {
        let of = |pid: i32| {
            let tids = numbers(&format!("/proc/{pid}/task")).into_iter();
            tids.filter_map(move |tid| Stat::of(pid, tid))
        };
        let mut all = self.busy.pids().into_iter().flat_map(of);
        all.all(|stat| stat.policy == 0 && stat.nice == 0 || matches!(stat.state, 'Z' | 'X'))
    }
}

fn is_marked(pid: i32, mark: &str) -> bool {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let entry = format!("{MARK}={mark}").into_bytes();
    environ.split(|&byte| byte == 0).any(|variable| variable == entry)
}

fn comm(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// The result of many kills.
#[derive(Debug, Default)]
struct Tally {
    killed: usize,
    /// Killed while some thread was lifted.
    lifted: usize,
    /// Everybody was killed, and something stayed lifted.
    left: usize,
    recovered: usize,
    slowest: Duration,
    troubles: Vec<String>,
}

fn kill_often(which: Use) {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let span = span(&runtime, which);
    let mut tallies: BTreeMap<Target, Tally> = BTreeMap::new();
    let mut random = Random::new();
    let (mut done, mut rounds) = (0, 0);
    while done < kills() && rounds < kills() * most_rounds() {
        let target = TARGETS[done % TARGETS.len()];
        // The other kind after some misses: the runtime of a `kill` is often gone before there is a
        // lifter.
        let moment = match (rounds / TARGETS.len()) % 2 {
            0 => Moment::Noted(NOTED_MAX.mul_f64(random.fraction())),
            // There is no lifter before its note.
            _ if target == Target::Lifter => Moment::Noted(span.mul_f64(random.fraction())),
            _ => Moment::After(span.mul_f64(random.fraction())),
        };
        let scratch = Scratch::new();
        let victim = Victim::new(&scratch, &runtime);
        let tally = tallies.entry(target).or_default();
        done += usize::from(one_kill(&victim, which, (target, moment), tally));
        rounds += 1;
    }
    let head = format!(
        "{:<12} {:>7} {:>12} {:>11} {:>10} {:>16}",
        "killed", "kills", "while lifted", "left lifted", "recovered", "put back in ms"
    );
    let mut table = Table::with_head("SIGKILL in the middle of an operation", head);
    table.line(format!("{which:?}, which takes {} ms; {rounds} rounds", span.as_millis()));
    for (target, tally) in &tallies {
        table.line(format!(
            "{:<12} {:>7} {:>12} {:>11} {:>10} {:>16}",
            format!("{target:?}"),
            tally.killed,
            tally.lifted,
            tally.left,
            tally.recovered,
            tally.slowest.as_millis()
        ));
        table.claim(tally.troubles.is_empty(), || format!("{target:?}: {:#?}", tally.troubles));
    }
    table.claim(done == kills(), || format!("not shown: {done} kills in {rounds} rounds"));
    let lifted: usize = tallies.values().map(|tally| tally.lifted).sum();
    table.claim(lifted > 0, || "not shown: at no kill anybody was lifted".to_owned());
    table.finish();
}

/// How long it takes without a kill and without other work.
fn span(runtime: &Runtime, which: Use) -> Duration {
    let once = |_| {
        let scratch = Scratch::new();
        let victim = Victim::new(&scratch, runtime);
        let began = Instant::now();
        let mut child = victim.command(which).spawn().unwrap();
        wait(&mut child, HANGS);
        began.elapsed()
    };
    let shortest = (0..3).map(once).min().unwrap_or_default();
    shortest.clamp(Duration::from_millis(10), Duration::from_secs(1))
}

/// Whether there was a process to kill.
fn one_kill(
    victim: &Victim<'_>,
    which: Use,
    (target, moment): (Target, Moment),
    tally: &mut Tally,
) -> bool {
    let what = format!("{which:?}, {moment:?}");
    let mut wrapper = victim.command(which).spawn().unwrap();
    wait_for(moment, &mut wrapper, victim.new.scratch);
    // Checked quickly: a look at all threads of the machine takes longer than a lift.
    let was_lifted = notes(victim.new.scratch).iter().any(|note| note.has_threads);
    let killed = kill_them(&mut wrapper, target, victim);
    if wait(&mut wrapper, HANGS).is_none() {
        tally.troubles.push(format!("{what}: the wrapper hangs"));
    }
    tally.killed += usize::from(killed);
    tally.lifted += usize::from(killed && was_lifted);
    let (left, took) = victim.left();
    // A kill does not wait for its lifter: both may be gone, as if all had been killed.
    let is_after_its_wrapper = which == Use::Kill && target == Target::Lifter;
    if left.is_empty() {
        tally.slowest = tally.slowest.max(took);
    } else if target == Target::All || is_after_its_wrapper {
        tally.left += 1;
    } else {
        tally.troubles.push(format!("{what}: left lifted: {left:?}"));
    }
    let recovered = next_operation(victim);
    tally.recovered += usize::from(recovered);
    if !left.is_empty() && !recovered {
        tally.troubles.push(format!("{what}: the record does not say what was put back"));
    }
    if !victim.lifted().is_empty() || !victim.is_as_it_was() {
        tally.troubles.push(format!("{what}: lifted after the next operation"));
    }
    // A living lifter makes sure that what it has put back stays fair: for up to 5 s, if that is
    // throttled.
    let mut notes = notes(victim.new.scratch);
    notes.retain(|note| ended(note.lifter));
    if !notes.is_empty() {
        tally.troubles.push(format!("{what}: {notes:?} is left"));
    }
    killed
}

fn wait_for(moment: Moment, wrapper: &mut Child, scratch: &Scratch) {
    match moment {
        Moment::After(time) => std::thread::sleep(time),
        Moment::Noted(time) => {
            while notes(scratch).is_empty() && wrapper.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            std::thread::sleep(time);
        }
    }
}

/// Whether there was a process to kill.
fn kill_them(wrapper: &mut Child, target: Target, victim: &Victim<'_>) -> bool {
    let pid = i32::try_from(wrapper.id()).unwrap();
    let is_over = wrapper.try_wait().unwrap().is_some();
    let children = children(pid);
    let runtimes = children.iter().copied().filter(|&child| !comm(child).starts_with("frostlock"));
    let lifters: Vec<i32> = notes(victim.new.scratch).into_iter().map(|note| note.lifter).collect();
    let wrapper = [pid].into_iter().filter(|_| !is_over);
    let targets: Vec<i32> = match target {
        Target::Wrapper => wrapper.collect(),
        Target::Lifter => lifters,
        Target::Runtime => runtimes.collect(),
        // Killed first: the process that would put back first.
        Target::All => lifters.into_iter().chain(wrapper).chain(runtimes).collect(),
    };
    let killed = targets.iter().filter(|&&pid| kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok());
    killed.count() > 0
}

fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let text = text.unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Whether its record reports something that it has put back.
fn next_operation(victim: &Victim<'_>) -> bool {
    let container = &victim.busy;
    let mut next = Via::Wrapped.command(container.scratch, container.runtime);
    let _ = run(next.args(["update", "--pids-limit", "1000", "c"]));
    recovered(container.scratch)
}

fn recovered(scratch: &Scratch) -> bool {
    let journal = scratch.journal();
    journal.last().is_some_and(|record| {
        let said = record["recovered"].as_array().map_or(&[][..], Vec::as_slice);
        said.iter().filter_map(Value::as_str).any(|said| said.contains("lift"))
    })
}

/// A file named after a lifter, `PID-START`; the directory also has accounts.
#[derive(Debug)]
struct Note {
    lifter: i32,
    /// The first line says what the lift is for.
    has_threads: bool,
}

fn notes(scratch: &Scratch) -> Vec<Note> {
    let files = std::fs::read_dir(scratch.state().join("lifts")).into_iter().flatten().flatten();
    let note = |file: std::fs::DirEntry| {
        let name = file.file_name();
        let (pid, start) = name.to_str()?.split_once('-')?;
        start.parse::<u64>().ok()?;
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        Some(Note { lifter: pid.parse().ok()?, has_threads: text.lines().count() > 1 })
    };
    files.filter_map(note).collect()
}

/// As many threads as processors, left above every fair task by a dead lifter. A fair task wakes
/// late beside them, and on time after the next operation on the node.
#[test]
fn what_the_dead_have_left_is_put_back() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, &runtime, Via::Bare, "c", 2);
    let init = container.init();
    let spinning: Vec<i32> = container.pids().into_iter().filter(|&pid| pid != init).collect();
    // How often it wakes in a second, of 100 times, and the latest wake.
    let wakes = |seconds: u64| {
        let watch = Watch::start();
        std::thread::sleep(Duration::from_secs(seconds));
        let late = watch.finish();
        (late.n() as f64 / seconds as f64, late.max())
    };
    let (_, fair) = wakes(1);
    leave_lifted(&scratch, &spinning);
    let (often_beside, beside) = wakes(3);
    let began = Instant::now();
    let mut next = Via::Wrapped.command(&scratch, &runtime);
    succeed(next.args(["update", "--pids-limit", "1000", "c"]));
    let took = began.elapsed();
    let (often_after, after) = wakes(1);
    println!(
        "two threads left lifted: a fair task wakes at most {beside:.1} ms late, {fair:.1} before, \
         {after:.1} after the next operation, which took {took:?}; {often_beside:.0} and \
         {often_after:.0} times a second"
    );
    for pid in spinning {
        let stat = Stat::of(pid, pid).unwrap();
        assert_eq!((stat.policy, stat.priority, stat.nice), (0, 0, 0), "{stat:?}");
        assert!(!ended(pid));
    }
    assert!(recovered(&scratch), "{:?}", scratch.journal());
    assert!(notes(&scratch).is_empty());
    // Beside the machine's other work any wake of the second after may be late, but not most of
    // them.
    let is_rarer = !proof() && often_after > 2.0 * often_beside;
    assert!(
        beside > 2.0 * after || is_rarer,
        "not shown: {beside:.1} ms and {often_beside:.0} times a second beside them, {after:.1} ms and \
         {often_after:.0} times after"
    );
}

/// With the note of a lifter that has ended: what the lift was for, and then each thread with
/// policy, nice, flags, slice and timer slack.
fn leave_lifted(scratch: &Scratch, pids: &[i32]) {
    let mut dead = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = i32::try_from(dead.id()).unwrap();
    let start = Stat::of(pid, pid).unwrap().start;
    let line = |&pid: &i32| format!("{pid} {} 0 0 0 0 50000\n", Stat::of(pid, pid).unwrap().start);
    let lines: String = pids.iter().map(line).collect();
    let note = format!("exec c\n{lines}");
    let dir = scratch.state().join("lifts");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(format!("{pid}-{start}")), note).unwrap();
    dead.kill().unwrap();
    dead.wait().unwrap();
    for &pid in pids {
        assert!(lift_by_hand(pid), "the kernel refuses SCHED_RR: see scripts/with-realtime");
    }
    eventually(HANGS, "they are lifted", || {
        let lifted = lifted_threads();
        pids.iter().all(|pid| lifted.iter().any(|thread| thread.tid == *pid))
    });
}

/// Good enough for moments in time.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Random(now.unwrap().as_nanos() as u64 | 1)
    }

    fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}
