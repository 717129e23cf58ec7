//! A kernel that refuses SCHED_RR in a container's cgroup (RT_GROUP_SCHED): no lift is attempted in
//! it, the record says so, and everything is as without frostlock.
//!
//! A separate program: the setting that makes the kernel refuse is the machine's. On a kernel
//! without RT_GROUP_SCHED, which refuses nobody, the wrapper runs without CAP_SYS_NICE.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::cpu::Cpu;
use testkit::realtime::lifted_threads;
use testkit::{Runtime, Scratch, eventually, pids, proof, run, runtime, succeed, wait};

const SETTING: &str = "/proc/sys/kernel/sched_rt_runtime_us";
/// The kernel's own default, with which it checks each cgroup's own value.
const DEFAULT: &str = "950000";

/// While it exists, the kernel refuses; one at a time.
struct Refusing {
    found: String,
    _one: MutexGuard<'static, ()>,
}

impl Refusing {
    fn new() -> Refusing {
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let found = std::fs::read_to_string(SETTING).unwrap();
        let refusing = Refusing { found, _one: one };
        // EBUSY as long as another's thread is SCHED_RR in a cgroup that would not allow it.
        eventually(Duration::from_secs(10), "the kernel's default is set", || {
            std::fs::write(SETTING, DEFAULT).is_ok()
        });
        refusing
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        std::fs::write(SETTING, &self.found).unwrap();
    }
}

/// Whether this kernel refuses SCHED_RR in a new cgroup.
fn refuses(scratch: &Scratch) -> bool {
    let dir = Cpu::of(&format!("{}/probe", scratch.cgroup)).dir;
    std::fs::create_dir_all(&dir).unwrap();
    let script = format!("echo $$ >{}/cgroup.procs && exec chrt --rr 1 true", dir.display());
    let refused = !run(Command::new("sh").args(["-c", &script])).status.success();
    eventually(Duration::from_secs(5), "it has ended", || std::fs::remove_dir(&dir).is_ok());
    refused
}

/// A container with this many busy loops, and a quota once they run.
fn busy(scratch: &Scratch, runtime: &Runtime, loops: usize) {
    let bundle = scratch.bundle("throttled", "c");
    scratch.edit(&bundle, |config| {
        config["linux"]["resources"] = json!({});
        config["process"]["env"] = json!(["PATH=/bin", format!("LOOPS={loops}")]);
    });
    let mut start = scratch.bare(&runtime.path);
    succeed(start.args(["run", "--detach", "--bundle"]).arg(&bundle).arg("c"));
    let cpu = Cpu::of(&format!("{}/c", scratch.cgroup));
    eventually(Duration::from_secs(10), "the loops run", || pids(&cpu.dir).len() > loops);
    cpu.limit(5000, 100_000);
    eventually(Duration::from_secs(10), "it is throttled", || cpu.nr_throttled() > 1);
}

const COMMANDS: [&[&str]; 6] = [
    &["exec", "c", "true"],
    &["update", "--pids-limit", "77", "c"],
    &["state", "c"],
    &["kill", "c", "WINCH"],
    &["kill", "c", "KILL"],
    &["delete", "--force", "c"],
];

fn command(scratch: &Scratch, runtime: &Runtime, is_wrapped: bool) -> Command {
    let command =
        if is_wrapped { scratch.wrapped(&runtime.path) } else { scratch.bare(&runtime.path) };
    if refuses(scratch) { command } else { without_capability(&command) }
}

fn without_capability(command: &Command) -> Command {
    let mut inner = Command::new("setpriv");
    inner.args(["--bounding-set", "-sys_nice", "--inh-caps", "-sys_nice"]);
    inner.arg(command.get_program()).args(command.get_args());
    inner.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    inner.stdin(std::process::Stdio::null());
    inner
}

#[test]
fn operations_work_as_the_bare_ones_do() {
    let _refusing = Refusing::new();
    let runtime = runtime("runc-1.5.3");
    let mut ends = Vec::new();
    for is_wrapped in [false, true] {
        let scratch = Scratch::new();
        busy(&scratch, &runtime, 4);
        let mut lifted = 0;
        let codes = COMMANDS.map(|words| {
            let mut command = command(&scratch, &runtime, is_wrapped);
            let mut child =
                command.args(words).stdout(std::process::Stdio::null()).spawn().unwrap();
            // Whose threads does not matter: the kernel allows none.
            while child.try_wait().unwrap().is_none() {
                lifted += lifted_of(&scratch);
                std::thread::sleep(Duration::from_millis(1));
            }
            (words, wait(&mut child, Duration::from_secs(30)).and_then(|end| end.code()))
        });
        assert_eq!(lifted, 0, "threads of the container were lifted");
        if is_wrapped {
            says_that_it_is_refused(&scratch.journal(), refuses(&scratch));
        }
        println!("wrapped {is_wrapped}: {codes:?}");
        ends.push(codes);
    }
    assert_eq!(ends[0], ends[1], "bare and wrapped");
    assert!(ends[1].iter().all(|(_, code)| *code == Some(0)), "{:?}", ends[1]);
}

fn lifted_of(scratch: &Scratch) -> usize {
    let is_of = |pid: i32| {
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
        cgroup.is_ok_and(|cgroup| cgroup.contains(&scratch.cgroup))
    };
    lifted_threads().iter().filter(|thread| is_of(thread.pid)).count()
}

/// CPU time needed to find out that nothing can be done.
const WATCHER_MS: f64 = 20.0;

/// For operations that needed a lift, such as an exec into a throttled container.
fn says_that_it_is_refused(records: &[Value], by_the_kernel: bool) {
    let exec =
        records.iter().find(|record| record["verb"] == "exec").expect("a record of the exec");
    assert!(exec["lift_refused"].is_string(), "{exec}");
    assert_eq!(exec["lift_refused"] == "RT_GROUP_SCHED", by_the_kernel, "{exec}");
    for record in records {
        assert_eq!(record["verdict"], "ok", "{record}");
        let lifts = record["lifts"].as_array().map_or(&[][..], Vec::as_slice);
        // The runtime's own process is in our cgroup, which may have real-time runtime.
        let outside = |lift: &&Value| lift["whose"] == "runtime" || lift["whose"] == "watcher";
        assert!(lifts.iter().all(|lift| outside(&lift)), "{record}");
        let watcher = lifts.iter().filter(|lift| lift["whose"] == "watcher");
        let cost = watcher.filter_map(|lift| lift["cpu_ms"].as_f64()).fold(0.0, f64::max);
        assert!(cost <= WATCHER_MS, "{record}");
    }
}

/// A create beside a busy neighbour in a small pod, which often needs more than one attempt.
#[test]
fn a_create_is_not_worse_than_a_bare_one() {
    let _refusing = Refusing::new();
    let runtime = runtime("runc-1.5.3");
    let rounds = if proof() { 20 } else { 3 };
    let [bare, wrapped] = [false, true].map(|is_wrapped| {
        let failed = (0..rounds).filter(|_| !create(&runtime, is_wrapped)).count();
        println!("wrapped {is_wrapped}: {failed} of {rounds} creates failed");
        failed
    });
    assert!(wrapped <= bare, "{wrapped} failed, {bare} bare ones");
}

fn create(runtime: &Runtime, is_wrapped: bool) -> bool {
    let scratch = Scratch::new();
    let bundle = scratch.bundle("idle", "c");
    let pod = format!("{}/kubepods/podrefused", scratch.cgroup);
    scratch.edit(&bundle, |config| {
        config["linux"]["cgroupsPath"] = json!(format!("{pod}/c"));
        config["linux"]["resources"] = json!({ "cpu": { "quota": 5000, "period": 100_000 } });
    });
    let pod = Cpu::of(&pod);
    std::fs::create_dir_all(&pod.dir).unwrap();
    pod.limit(5000, 100_000);
    let mut create = command(&scratch, runtime, is_wrapped);
    let mut child = create.args(["create", "--bundle"]).arg(&bundle).arg("c").spawn().unwrap();
    wait(&mut child, Duration::from_secs(60)).is_some_and(|end| end.success())
}

/// The runtime is held only for threads that can be lifted: before, it stood still for a lifter's 5
/// s.
#[test]
fn a_pause_of_many_threads_does_not_stand_still() {
    const LIMIT: Duration = Duration::from_secs(4);
    let _refusing = Refusing::new();
    let runtime = runtime("runc-1.5.3");
    for is_wrapped in [false, true] {
        let scratch = Scratch::new();
        busy(&scratch, &runtime, 32);
        let mut pause = command(&scratch, &runtime, is_wrapped);
        let since = Instant::now();
        let mut child = pause.args(["pause", "c"]).spawn().unwrap();
        let end = wait(&mut child, Duration::from_secs(30)).expect("it ends");
        println!("wrapped {is_wrapped}: a pause of 33 threads, {end} after {:?}", since.elapsed());
        assert!(since.elapsed() < LIMIT, "{:?}", since.elapsed());
    }
}

/// In turn, so that a machine that gets slower affects both.
#[test]
fn nothing_takes_longer_where_nobody_waits() {
    let _refusing = Refusing::new();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let bundle = scratch.bundle("idle", "c");
    succeed(
        scratch.bare(&runtime.path).args(["run", "--detach", "--bundle"]).arg(&bundle).arg("c"),
    );
    let rounds = if proof() { 200 } else { 20 };
    let commands = [false, true].map(|is_wrapped| command(&scratch, &runtime, is_wrapped));
    let [mut bare_command, mut wrapped_command] = commands;
    bare_command.args(["exec", "c", "true"]);
    wrapped_command.args(["exec", "c", "true"]);
    let [mut bare, mut wrapped] = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (command, times) in
            [(&mut bare_command, &mut bare), (&mut wrapped_command, &mut wrapped)]
        {
            let began = Instant::now();
            succeed(command);
            times.push(began.elapsed());
        }
    }
    let [bare, wrapped] = [bare, wrapped].map(median);
    println!("exec, median of {rounds}: bare {bare:?}, wrapped {wrapped:?}");
    assert!(wrapped < bare + OWN * if proof() { 1 } else { 4 }, "{wrapped:?}, bare {bare:?}");
}

/// The wrapper's own part of an exec.
const OWN: Duration = Duration::from_millis(4);

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
