//! Where nobody waits for a CPU nobody is lifted; and no setting of anybody's cgroup is ever written.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use testkit::cpu::{Cpu, Version};
use testkit::realtime::{lift_by_hand, lifted_threads};
use testkit::table::Table;
use testkit::throttled::{Container, Quota, Via, configured, lifts, timed};
use testkit::{Scratch, proof, runtime, succeed};

use crate::pods::CpuTime;
use crate::{alone, both_ends};

const LIMIT: Duration = Duration::from_secs(15);
const ROUNDS: usize = 4;

const EVERY_VERB: &[&[&str]] = &[
    &["exec", "c", "/bin/true"],
    &["pause", "c"],
    &["resume", "c"],
    &["kill", "c", "WINCH"],
    &["update", "--pids-limit", "77", "c"],
    &["state", "c"],
];

/// runc itself writes quota and period in an update of a container that has them.
const FREEZES: &[&[&str]] = &[&["pause", "c"], &["resume", "c"]];

/// Writes seen to each of the files.
struct Writes(Inotify);

impl Writes {
    fn new(container: &Container<'_>) -> Writes {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        let weight = if Version::here() == Version::V1 { "cpu.shares" } else { "cpu.weight" };
        for file in Version::here().bandwidth_files().iter().chain([&weight]) {
            inotify.add_watch(&container.file("cpu", file), AddWatchFlags::IN_MODIFY).unwrap();
        }
        Writes(inotify)
    }

    /// Since the last call, and at least so many: equal ones that follow each other are one event.
    fn seen(&self) -> usize {
        let mut writes = 0;
        loop {
            match self.0.read_events() {
                Ok(events) => writes += events.len(),
                Err(Errno::EAGAIN) => return writes,
                Err(error) => panic!("inotify: {error}"),
            }
        }
    }
}

#[test]
fn no_setting_of_a_cgroup_is_written() {
    let _alone = alone();
    let head = format!("{:<34} {:<8} {:>10} {:>7}", "", "", "operations", "writes");
    let mut table = Table::with_head("writes to quota, period, burst and weight", head);
    for runtime in both_ends() {
        let name = &runtime.name;
        let scenes = [(None, EVERY_VERB), (Some(Quota::new(1, 100).here()), FREEZES)];
        for (quota, commands) in scenes {
            let what = quota.map_or("no quota".to_owned(), |quota| quota.to_string());
            let scene = format!("{name} 2 busy, {what}");
            for via in Via::compared() {
                let scratch = Scratch::new();
                let container = Container::busy(&scratch, &runtime, via, "c", 2);
                if let Some(quota) = quota {
                    container.limit(quota);
                }
                let writes = Writes::new(&container);
                let (mut failed, mut seen) = (Vec::new(), 0);
                for words in commands.repeat(ROUNDS) {
                    failed.extend(container.timed(words, LIMIT).failure);
                    seen += writes.seen();
                }
                let operations = ROUNDS * commands.len();
                table.line(format!("{scene:<34} {:<8} {operations:>10} {seen:>7}", via.name()));
                let name = via.name();
                table.claim(seen == 0 || via == Via::Before, || format!("{scene}, {name}: {seen}"));
                let may_fail = via != Via::Wrapped;
                table.claim(failed.is_empty() || may_fail, || {
                    format!("{scene}, {name}: {failed:?}")
                });
            }
        }
    }
    // What sees none is to see one.
    let (scratch, runtime) = (Scratch::new(), runtime("runc-1.5.3"));
    let container = Container::busy(&scratch, &runtime, Via::Bare, "c", 0);
    let writes = Writes::new(&container);
    container.weigh_nothing();
    table.claim(writes.seen() > 0, || "control: not shown: a write is not seen".to_owned());
    table.finish();
}

#[test]
fn an_idle_node_never_lifts() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let container = Container::idle(&scratch, &runtime, Via::Wrapped, "c");
    let created = scratch.journal().len();
    let before = CpuTime::now();
    for words in EVERY_VERB.repeat(if proof() { 100 } else { ROUNDS * 2 }) {
        assert_eq!(container.timed(words, LIMIT).failure, None, "{words:?}");
    }
    let busy = CpuTime::now().since(before).share();
    let records = scratch.journal().split_off(created);
    let lifted = records.iter().filter(|record| !lifts(record).is_empty());
    let (lifted, all) = (lifted.count(), records.len());
    println!("{lifted} of {all} operations on an idle container lifted somebody; busy {busy:.2}");
    // Where other work runs beside, an operation waits for it, the more often the less the CPUs are idle.
    // On a throttled container nearly each one waits.
    let most = if proof() { 0.0 } else { all as f64 * busy.max(1.0 / 3.0) };
    assert!(lifted as f64 <= most, "{lifted} of {all}, CPUs busy for {busy:.2} of the time");
}

/// Waits until the scheduler has kept it from a CPU for 5 ms, in the cgroup `$0`, and goes on outside of
/// it, in `$1`. What it has waited stays a process's own over execve(2).
const KEPT_FROM_A_CPU: &str = r#"
echo 0 >"$0/cgroup.procs"
until read -r _ ns _ </proc/self/schedstat && [ "$ns" -ge 5000000 ]; do :; done
echo 0 >"$1/cgroup.procs"
shift
exec "$@"
"#;

/// A cgroup in which a shell must wait for its CPU time.
pub(crate) fn small_room(scratch: &Scratch) -> String {
    let room = format!("{}/room", scratch.cgroup);
    std::fs::create_dir_all(Version::here().dir("cpu", &room)).unwrap();
    Cpu::of(&room).limit(1_000, 100_000);
    room
}

/// The command, executed by a shell that has waited for a CPU in `room` and left it.
pub(crate) fn kept_from_a_cpu(room: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", KEPT_FROM_A_CPU]).arg(Version::here().dir("cpu", room));
    shell.arg(Version::here().dir("cpu", "/"));
    shell.arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

/// Of an operation that was kept from a CPU before it began: its runtime will be kept from one, too, and
/// is not to be seen waiting first.
#[test]
fn who_was_kept_from_a_cpu_lifts_at_once() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let container = Container::idle(&scratch, &runtime, Via::Wrapped, "c");
    let room = small_room(&scratch);
    let exec = || {
        let mut exec = container.command("exec");
        exec.args(["c", "/bin/true"]);
        exec
    };
    let kept = || kept_from_a_cpu(&room, &exec());
    let lifted = |command: &dyn Fn() -> Command| {
        let before = scratch.journal().len();
        for _ in 0..ROUNDS {
            assert_eq!(timed(&mut command(), LIMIT).failure, None);
        }
        let records = scratch.journal().split_off(before);
        // Not the record of a lift that outlived its operation.
        let execs = records.iter().filter(|record| record["verb"] == "exec");
        execs.filter(|record| !lifts(record).is_empty()).count()
    };
    let of_others = lifted(&exec);
    let of_kept = lifted(&kept);
    println!(
        "lifted: {of_kept} of {ROUNDS} that were kept from a CPU, {of_others} of {ROUNDS} others"
    );
    // Beside other work an exec may have to wait.
    assert!(of_others < ROUNDS, "the control: not shown");
    // A lifter that answers late has a record of its own.
    assert!(2 * of_kept > ROUNDS);
}

/// Nor is anybody started who would: a lifter has a place in the state directory before it has work.
#[test]
fn switched_off_nobody_is_started_to_lift() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    for (config, is_started) in [("", true), ("[lift]\nenabled = false\n", false)] {
        let scratch = Scratch::new();
        let container = Container::busy(&scratch, &runtime, Via::Wrapped, "c", 2);
        container.limit(Quota::new(1, 100).here());
        container.until_throttled();
        let places = scratch.state().join("lifts");
        let _ = std::fs::remove_dir_all(&places);
        let mut exec = configured(&scratch, &runtime, config);
        // By its pid file the program of a detached exec is found.
        exec.args(["exec", "--detach", "--pid-file"]).arg(scratch.path("pid"));
        succeed(exec.args(["c", "/bin/true"]));
        assert_eq!(places.exists(), is_started, "{config:?}");
    }
}

/// A thread that is lifted is found, and one that was put back is not.
#[test]
fn a_lifted_thread_is_seen() {
    let _alone = alone();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (say, hear) = std::sync::mpsc::channel();
        let over = &is_over;
        scope.spawn(move || {
            say.send(nix::unistd::gettid().as_raw()).unwrap();
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let tid = hear.recv().unwrap();
        let is_seen = || lifted_threads().iter().any(|thread| thread.tid == tid);
        assert!(!is_seen());
        assert!(
            lift_by_hand(tid),
            "the kernel refuses SCHED_RR: run it under scripts/with-realtime"
        );
        let seen = is_seen();
        is_over.store(true, Ordering::Relaxed);
        assert!(seen);
    });
}
