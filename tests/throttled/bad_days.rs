//! Environments in which little is known of the starved threads, or they cannot be helped, or not
//! by one operation alone: the operation ends as it would without frostlock, or better.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::throttled::{Container, Quota, Via, lifts, timed};
use testkit::{
    Runtime, Scratch, eventually, pids, program, proof, run, runtime, succeed, text, wait,
};

use crate::alone;

const LIMIT: Duration = Duration::from_secs(15);
const SMALL: Quota = Quota::new(1, 100);

/// The same command with changed mounts.
fn with_mounts(change: &str, command: &Command) -> Command {
    let mut inner = Command::new("unshare");
    inner.args(["--mount", "sh", "-c", &format!("{change} && exec \"$@\""), "sh"]);
    inner.arg(command.get_program()).args(command.get_args());
    inner.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    inner.stdin(std::process::Stdio::null());
    inner
}

fn of_verb(scratch: &Scratch, verb: &str) -> Vec<Value> {
    scratch.journal().into_iter().filter(|record| record["verb"] == verb).collect()
}

fn last(scratch: &Scratch, verb: &str) -> Value {
    of_verb(scratch, verb).pop().unwrap_or_else(|| panic!("no record of {verb}"))
}

#[test]
fn the_cpu_controller_is_not_mounted() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let mut seen = Vec::new();
    for via in [Via::Bare, Via::Wrapped] {
        let scratch = Scratch::new();
        let bundle = scratch.bundle("idle", "c");
        scratch.edit(&bundle, |config| config["linux"]["resources"] = serde_json::json!({}));
        let bundle = bundle.to_str().unwrap();
        let commands: [&[&str]; 7] = [
            &["create", "--bundle", bundle, "c"],
            &["start", "c"],
            &["exec", "c", "/bin/true"],
            &["pause", "c"],
            &["resume", "c"],
            &["kill", "c", "KILL"],
            &["delete", "--force", "c"],
        ];
        let mut ends = Vec::new();
        for words in commands {
            let mut command = via.command(&scratch, &runtime);
            command.args(words);
            let output = run(&mut with_mounts("umount /sys/fs/cgroup/cpu", &command));
            ends.push((words[0].to_owned(), output.status.code(), text(&output.stderr)));
        }
        seen.push(ends);
    }
    assert_eq!(seen[0], seen[1], "bare and wrapped");
    assert!(seen[1].iter().all(|(_, code, _)| *code == Some(0)), "{:?}", seen[1]);
}

/// A hierarchy is where mountinfo says, which can be another place for each controller.
#[test]
fn the_cpu_controller_is_mounted_elsewhere() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let mut failed = Vec::new();
    for via in [Via::Bare, Via::Wrapped] {
        let scratch = Scratch::new();
        // Below /sys/fs/cgroup: runc looks for v1 hierarchies nowhere else.
        let change = "umount /sys/fs/cgroup/cpu /sys/fs/cgroup/blkio \
                      && mount -t cgroup -o cpu cpu /sys/fs/cgroup/blkio";
        let bundle = scratch.bundle("throttled", "c");
        scratch.edit(&bundle, |config| {
            config["linux"]["resources"] = serde_json::json!({});
            config["process"]["env"] = serde_json::json!(["PATH=/bin", "LOOPS=8"]);
        });
        let give = |words: &[&str]| {
            let mut command = via.command(&scratch, &runtime);
            timed(&mut with_mounts(change, command.args(words)), LIMIT).failure
        };
        assert_eq!(give(&["create", "--bundle", bundle.to_str().unwrap(), "c"]), None);
        assert_eq!(give(&["start", "c"]), None);
        let dir = Path::new("/sys/fs/cgroup/cpu").join(&scratch.cgroup[1..]).join("c");
        eventually(LIMIT, "all loops run", || pids(&dir).len() > 8);
        std::fs::write(dir.join("cpu.cfs_quota_us"), "1000").unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let pause = |_| {
            let failure = give(&["pause", "c"]);
            let _ = give(&["resume", "c"]);
            failure
        };
        failed.push((0..3).filter_map(pause).collect::<Vec<_>>());
        let pauses = of_verb(&scratch, "pause");
        let is_lifted = pauses.iter().any(|pause| !lifts(pause).is_empty());
        assert!(is_lifted || via == Via::Bare, "{pauses:?}");
    }
    assert!(!failed[0].is_empty(), "control: not shown: no bare pause failed");
    assert!(failed[1].is_empty(), "{:?}", failed[1]);
}

/// A quota inside the container, as a container with a delegated cgroup may set one.
#[test]
fn a_cgroup_below_the_container_has_a_quota_of_its_own() {
    const ROUNDS: usize = 3;
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let [bare, wrapped] = [Via::Bare, Via::Wrapped].map(|via| {
        let rounds = (0..ROUNDS).map(|_| paused_and_killed(&runtime, via));
        let (pauses, mut kills): (Vec<_>, Vec<_>) = rounds.unzip();
        kills.sort_unstable();
        println!("{}: kills until all have died: {kills:?}", via.name());
        (pauses.into_iter().flatten().collect::<Vec<_>>(), kills[ROUNDS / 2])
    });
    assert!(!bare.0.is_empty(), "control: not shown: no bare pause failed");
    assert_eq!(wrapped.0, [""; 0]);
    assert!(wrapped.1 * 2 < bare.1, "medians: bare {:?}, wrapped {:?}", bare.1, wrapped.1);
}

/// Why the pause failed, and how long the kill took.
fn paused_and_killed(runtime: &Runtime, via: Via) -> (Option<String>, Duration) {
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, runtime, via, "c", 8);
    let inner = container.file("cpu", "inner");
    std::fs::create_dir(&inner).unwrap();
    let init = container.init();
    let all = container.pids();
    for pid in all.iter().filter(|pid| **pid != init) {
        std::fs::write(inner.join("cgroup.procs"), pid.to_string()).unwrap();
    }
    std::fs::write(inner.join("cpu.cfs_quota_us"), "1000").unwrap();
    container.until_throttled();
    let pause = container.timed(&["pause", "c"], LIMIT);
    let _ = container.timed(&["resume", "c"], LIMIT);
    container.thaw();
    container.until_throttled();
    let quota = std::fs::read_to_string(inner.join("cpu.cfs_quota_us")).unwrap();
    assert_eq!(quota.trim(), "1000");
    let began = Instant::now();
    let killed = container.timed(&["kill", "c", "KILL"], LIMIT);
    assert_eq!(killed.failure, None);
    eventually(LIMIT, "all of it has died", || {
        all.iter().all(|&pid| testkit::throttled::ended(pid))
    });
    (pause.failure, began.elapsed())
}

/// Rootless: the permission to lift is missing.
#[test]
fn without_permission_nobody_is_lifted() {
    let _alone = alone();
    let real = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, &real, Via::Bare, "c", 2);
    container.limit(SMALL);
    // A slow runtime: nothing rootless could freeze this container.
    let slow = program(&scratch.path("runc"), "#!/bin/sh\nsleep 0.1\n");
    let open = |path: &Path| {
        succeed(Command::new("chmod").args(["-R", "a+rwX"]).arg(path));
    };
    open(&scratch.path(""));
    let state = scratch.path("nobodys");
    std::fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
    for _ in 0..3 {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(testkit::frostlock()).arg("--root").arg(scratch.root());
        command.env("FROSTLOCK_RUNTIME", &slow).env("FROSTLOCK_STATE_DIR", &state);
        command.env("FROSTLOCK_CONFIG", "/dev/null").args(["exec", "c", "/bin/true"]);
        succeed(&mut command);
    }
    let journal = std::fs::read_to_string(state.join("journal.jsonl")).unwrap();
    let records: Vec<Value> =
        journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 3, "{journal}");
    assert!(records.iter().all(|record| record["verdict"] == "ok"), "{journal}");
    assert!(records.iter().all(|record| lifts(record).is_empty()), "{journal}");
}

/// As kubelet's cgroupfs driver names it.
fn pod_of(scratch: &Scratch) -> String {
    format!("{}/kubepods/pod8f0c2b1e-5d1a-4f7b-9c3e-2a6d", scratch.cgroup)
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.spawn().unwrap()
}

/// For several containers of one throttled pod, at the same moment. If two lifters push threads
/// into the freezer on two CPUs, each keeps one, and the threads have none. With both at it, a
/// pause took 12 ms, and one in 40 failed; one after the other, it takes 1.4 ms.
fn watcher_ms() -> f64 {
    if proof() { 5.0 } else { 10.0 }
}

#[test]
fn two_containers_are_paused_at_once() {
    const ROUNDS: usize = 20;
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    for via in [Via::Bare, Via::Wrapped] {
        let scratch = Scratch::new();
        let cgroup = pod_of(&scratch);
        let [a, b] =
            ["a", "b"].map(|id| Container::busy_below(&scratch, &runtime, via, &cgroup, id, 4));
        let pod = Path::new("/sys/fs/cgroup/cpu").join(&cgroup[1..]);
        let quota = || std::fs::read_to_string(pod.join("cpu.cfs_quota_us")).unwrap();
        std::fs::write(pod.join("cpu.cfs_quota_us"), "1000").unwrap();
        let mut failed = 0;
        for _ in 0..ROUNDS {
            a.until_throttled();
            let running = [&a, &b].map(|it| spawn(it.command("pause").arg(&it.id)));
            for mut child in running {
                failed += usize::from(!wait(&mut child, LIMIT).is_some_and(|end| end.success()));
            }
            for it in [&a, &b] {
                let _ = it.timed(&["resume", &it.id], LIMIT);
            }
        }
        assert_eq!(quota().trim(), "1000");
        println!("{failed} of {} pauses failed, {}", 2 * ROUNDS, via.name());
        match via {
            Via::Bare => assert!(failed > 0, "control: not shown: none failed"),
            _ => {
                let is_pause = |it: &Value| it["verb"] == "pause";
                let pauses: Vec<_> = scratch.journal().into_iter().filter(is_pause).collect();
                assert_eq!(failed, 0, "{pauses:#?}");
                let watchers = pauses.iter().flat_map(lifts).filter(|it| it["whose"] == "watcher");
                let cpu_ms: f64 = watchers.filter_map(|it| it["cpu_ms"].as_f64()).sum();
                let each = cpu_ms / pauses.len() as f64;
                println!("{each:.1} ms of CPU time a pause for who lifts");
                assert!(each < watcher_ms(), "{each:.1} ms, want {}", watcher_ms());
            }
        }
    }
}

/// More than any node does to one pod: all of them use the pod's account.
#[test]
fn sixty_four_at_once() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let cgroup = pod_of(&scratch);
    let containers = ["a", "b", "c", "d"]
        .map(|id| Container::busy_below(&scratch, &runtime, Via::Wrapped, &cgroup, id, 1));
    let pod = Path::new("/sys/fs/cgroup/cpu").join(&cgroup[1..]);
    // There are not enough slots: the rest have only the quota, and 64 that shared 5 ms with busy
    // threads took more than a minute.
    std::fs::write(pod.join("cpu.cfs_quota_us"), "20000").unwrap();
    containers[0].until_throttled();
    let created = scratch.journal().len();
    let running: Vec<Child> = (0..64)
        .map(|n| {
            let container = &containers[n % containers.len()];
            match n / containers.len() % 4 {
                0 => {
                    spawn(container.command("update").args(["--pids-limit", "200", &container.id]))
                }
                _ => spawn(container.command("exec").args([&container.id, "/bin/true"])),
            }
        })
        .collect();
    let ends: Vec<_> =
        running.into_iter().map(|mut child| wait(&mut child, Duration::from_secs(60))).collect();
    // A lift that outlives its operation has its own record.
    let mut journal = scratch.journal().split_off(created);
    journal.retain(|record| record["verb"] != "lift");
    let notes: Vec<&Value> = journal.iter().map(|record| &record["note"]).collect();
    let failed = ends.iter().filter(|end| !end.is_some_and(|end| end.success()));
    assert_eq!(failed.count(), 0, "{ends:?} {journal:#?}");
    assert_eq!(journal.len(), 64);
    assert!(journal.iter().all(|record| record["verdict"] == "ok"), "{notes:?}");
    let quota = std::fs::read_to_string(pod.join("cpu.cfs_quota_us")).unwrap();
    assert_eq!(quota.trim(), "20000");
    let left = std::fs::read_dir(scratch.state().join("intents")).into_iter().flatten();
    assert_eq!(left.count(), 0, "notes of what may freeze are left");
}

/// Everything that the wrapper looks at may be gone the next moment.
#[test]
fn the_cgroup_vanishes_meanwhile() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let mut cut_short = 0;
    for round in 0..24_u64 {
        let scratch = Scratch::new();
        let container = Container::busy(&scratch, &runtime, Via::Wrapped, "c", 2);
        container.limit(SMALL);
        let words: &[&str] =
            [&["pause", "c"][..], &["exec", "c", "/bin/true"], &["kill", "c", "KILL"]]
                [round as usize % 3];
        let mut command = container.command(words[0]);
        let err = tempfile::tempfile().unwrap();
        command.args(&words[1..]).stderr(err.try_clone().unwrap());
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(round * 2));
        let left = testkit::remove_cgroup(&container.cgroup);
        assert!(left.is_empty(), "{left:?}");
        let end = wait(&mut child, LIMIT).unwrap_or_else(|| panic!("{words:?} hangs"));
        let err = text(&testkit::contents(err));
        assert!(end.code().is_some_and(|code| code != 101), "{words:?}: {end:?} {err}");
        assert!(!err.contains("panicked"), "{err}");
        let record = last(&scratch, words[0]);
        let verdict = if end.success() { "ok" } else { "failed" };
        assert_eq!(record["verdict"], verdict, "{record}");
        cut_short += usize::from(!end.success());
        assert!(pids(&container.file("freezer", "")).is_empty());
    }
    assert!(cut_short > 0, "not shown: every operation was over before");
}
