//! What a tenant may do with the CPU time of lifted probes: no more of it than `lift.program_ms`,
//! whatever the program is, and nothing stays lifted.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::realtime::{
    Meter, Stat, Thread, cpu_time, left_lifted, lift_by_hand, lifted_threads, numbers,
};
use testkit::table::Table;
use testkit::throttled::{Container, Quota, Via, configured, lifted_ms, lifts};
use testkit::{
    Scratch, cgroup_dirs, compiled, eventually, proof, runtime, slowness, succeed, wait,
};

use crate::alone;

const SMALL: Quota = Quota::new(1, 100);
const PROGRAM_MS: f64 = 50.0;
/// Two looks of a watcher on each of two processors, and the time to put back beside it.
const SLACK_MS: f64 = 20.0;
/// The runtime's own work of an exec took 24 ms at most (src/lift/lifter/runtime.rs).
const RUNTIME_MS: f64 = 60.0;
/// How long anything may stay lifted after its CPU time is used up or its program has ended.
const PUT_BACK: Duration = Duration::from_millis(100);
/// How long a program is observed; it runs longer than its lift.
const RUNS: Duration = Duration::from_millis(1500);

#[derive(Debug, Clone, Copy)]
struct Try {
    name: &'static str,
    how: &'static [&'static str],
    /// The path by which it is called.
    program: &'static str,
}

const TENANT: &str = "/tmp/tenant";

const fn attempt(name: &'static str, how: &'static [&'static str]) -> Try {
    Try { name, how, program: TENANT }
}

const TRIES: [Try; 11] = [
    attempt("spins", &["spin"]),
    attempt("spins in 17 threads", &["threads"]),
    attempt("keeps itself SCHED_RR", &["keep"]),
    attempt("forks without end", &["fork"]),
    attempt("daemonizes", &["daemonize"]),
    attempt("moves to another cgroup", &["move"]),
    Try { name: "is called runc", how: &["runc"], program: "/tmp/runc" },
    attempt("hides behind ptrace", &["trace"]),
    attempt("keeps SCHED_RR behind ptrace", &["trace-and-keep"]),
    attempt("keeps its other thread SCHED_RR", &["keep-each-other"]),
    attempt("has siblings as a runtime has", &["siblings"]),
];

/// A container with the tenant's program in it.
struct Tenant<'a> {
    container: Container<'a>,
    /// Cgroups to which it may move itself.
    others: Vec<PathBuf>,
}

impl<'a> Tenant<'a> {
    fn new(scratch: &'a Scratch, runtime: &'a testkit::Runtime) -> Tenant<'a> {
        let program = compiled(&scratch.path("tenant"), include_str!("tenant.c"));
        let container = Container::new(scratch, runtime, Via::Wrapped, &scratch.cgroup, "c");
        container.start("throttled", |config| allow(config, &program));
        eventually(Duration::from_secs(10), "the loops run", || container.pids().len() > 2);
        let others = cgroup_dirs(&scratch.cgroup).into_iter().filter(|dir| {
            dir.ends_with(&scratch.cgroup[1..]) && !dir.starts_with("/sys/fs/cgroup/cpuset")
        });
        let others: Vec<PathBuf> = others.map(|dir| dir.join("other")).collect();
        others.iter().for_each(|dir| std::fs::create_dir_all(dir).unwrap());
        container.limit(SMALL.here());
        Tenant { container, others }
    }

    fn words(&self, what: Try) -> Vec<String> {
        let own = [what.program].into_iter().chain(what.how.iter().copied()).map(str::to_owned);
        let is_move = what.how == ["move"];
        let dirs = self.others.iter().filter(|_| is_move).map(|dir| dir.display().to_string());
        own.chain(dirs).collect()
    }

    fn exec(&self, what: Try) -> Child {
        let config = format!("[lift]\nprogram_ms = {PROGRAM_MS}\n");
        let mut exec = configured(self.container.scratch, self.container.runtime, &config);
        exec.args(["exec", &self.container.id]).args(self.words(what));
        exec.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        exec.spawn().unwrap()
    }

    /// The processes of its program that were not there before.
    fn processes(&self, before: &[i32]) -> Vec<i32> {
        let all = self.container.pids().into_iter();
        let is_tenant = |pid: &i32| Stat::of(*pid, *pid).is_some_and(|it| it.comm == "tenant");
        all.filter(|pid| !before.contains(pid)).filter(is_tenant).collect()
    }
}

/// Its program under two names, cgroups that it can write to, and 64 processes.
fn allow(config: &mut Value, program: &Path) {
    config["process"]["env"] = json!(["PATH=/bin", "LOOPS=2"]);
    config["linux"]["resources"] = json!({ "pids": { "limit": 64 } });
    let mounts = config["mounts"].as_array_mut().unwrap();
    for name in [TENANT, "/tmp/runc"] {
        let options = ["bind", "ro"];
        mounts.push(
            json!({ "destination": name, "type": "bind", "source": program, "options": options }),
        );
    }
    let cgroups = "/sys/fs/cgroup";
    mounts.push(json!({ "destination": cgroups, "type": "bind", "source": cgroups, "options": ["rbind", "rw"] }));
}

/// Another program's threads that are lifted for a moment do not count.
fn lifted_of(scratch: &Scratch) -> Vec<Thread> {
    lifted_threads().into_iter().filter(|thread| is_of(scratch, thread.pid)).collect()
}

fn is_of(scratch: &Scratch, pid: i32) -> bool {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    cgroups.contains(&scratch.cgroup)
}

#[derive(Debug)]
struct Got {
    /// According to the records.
    told_ms: f64,
    as_runtime_ms: f64,
    /// According to looks from outside.
    seen_ms: f64,
    threads: u64,
    /// When a look first found nothing of it lifted, for good.
    fair_after: Duration,
    is_left: bool,
    /// How long the hypervisor withheld a CPU until then: the lifter's, while the program had the
    /// other.
    stolen_ms: f64,
}

fn stolen_ms() -> f64 {
    const TICK_MS: f64 = 10.0;
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let stolen = stat.split_ascii_whitespace().nth(8).and_then(|ticks| ticks.parse::<f64>().ok());
    stolen.unwrap() * TICK_MS
}

#[test]
fn a_program_gets_its_share_and_no_more() {
    let _alone = alone();
    let head = format!(
        "{:<32} {:>8} {:>10} {:>8} {:>8} {:>14} {:>12}",
        "a program that",
        "told ms",
        "runtime ms",
        "seen ms",
        "threads",
        "fair after ms",
        "left lifted"
    );
    let title = "exec of programs that want more than 50 ms of lifted CPU time";
    let mut table = Table::with_head(title, head);
    let runtime = runtime("runc-1.5.3");
    let mut lifted_at_all = 0;
    for what in TRIES {
        for _ in 0..if proof() { 10 } else { 1 } {
            let got = one_try(&runtime, what);
            lifted_at_all += usize::from(got.told_ms > 0.0);
            table.line(format!(
                "{:<32} {:>8.1} {:>10.1} {:>8.1} {:>8} {:>14} {:>12}",
                what.name,
                got.told_ms,
                got.as_runtime_ms,
                got.seen_ms,
                got.threads,
                got.fair_after.as_millis(),
                got.is_left
            ));
            let most = PROGRAM_MS + SLACK_MS * f64::from(slowness());
            let used = got.told_ms.max(got.seen_ms);
            let is_bounded = used <= most + got.stolen_ms
                && got.as_runtime_ms <= RUNTIME_MS * f64::from(slowness()) + got.stolen_ms;
            table.claim(is_bounded && !got.is_left, || format!("{}: {got:?}", what.name));
        }
    }
    table.claim(lifted_at_all > 0, || "not shown: no program was lifted".to_owned());
    table.finish();
}

fn one_try(runtime: &testkit::Runtime, what: Try) -> Got {
    let scratch = Scratch::new();
    let tenant = Tenant::new(&scratch, runtime);
    let created = scratch.journal().len();
    let mut exec = tenant.exec(what);
    let (began, mut last_lifted, mut meter) = (Instant::now(), Duration::ZERO, Meter::default());
    let (stolen_before, mut stolen) = (stolen_ms(), 0.0);
    while began.elapsed() < RUNS * slowness() {
        // The runtime's own work is lifted before, and does not count as the program's.
        let lifted = lifted_of(&scratch).into_iter().filter(|it| it.comm == comm_of(what));
        let lifted: Vec<Thread> = lifted.collect();
        if !lifted.is_empty() {
            last_lifted = began.elapsed();
            stolen = stolen_ms() - stolen_before;
        }
        meter.look(lifted);
        std::thread::sleep(Duration::from_millis(2));
    }
    // Alive or not: its time is used up.
    let (left, _) = left_lifted(PUT_BACK * slowness());
    let is_left = left.iter().any(|thread| is_of(&scratch, thread.pid));
    tenant.container.kill_all();
    wait(&mut exec, Duration::from_secs(10));
    // The record of a lift that outlives its operation comes when the lifter ends.
    std::thread::sleep(PUT_BACK);
    let records = scratch.journal().split_off(created);
    let cpu_ms = |whose| lifted_ms(&records, whose).iter().fold(0.0, |sum, ms| sum + ms);
    let (told_ms, as_runtime_ms) = (cpu_ms("program"), cpu_ms("runtime"));
    let programs = records.iter().flat_map(lifts).filter(|lift| lift["whose"] == "program");
    let threads = programs.filter_map(|lift| lift["threads"].as_u64()).sum();
    let seen_ms = meter.used.as_secs_f64() * 1000.0;
    let fair_after = last_lifted;
    Got { told_ms, as_runtime_ms, seen_ms, threads, fair_after, is_left, stolen_ms: stolen }
}

fn comm_of(what: Try) -> &'static str {
    match what.how {
        ["runc"] => "runc:[2:INIT]",
        _ => "tenant",
    }
}

/// Most of what it may use while it is lifted.
const SHARE: Duration = Duration::from_millis(40);

/// As by a call of a second thread that passed the kernel's check while the first was lifted, and went on
/// when that had been put back: by chance that happens in one of some twenty runs of a program that tries.
#[test]
fn who_is_raised_after_a_put_back_is_put_back_again() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let tenant = Tenant::new(&scratch, &runtime);
    let before = tenant.container.pids();
    let mut exec = tenant.exec(TRIES[0]);
    let spins = || lifted_of(&scratch).into_iter().find(|it| it.comm == "tenant");
    eventually(Duration::from_secs(10), "it runs", || !tenant.processes(&before).is_empty());
    let tid = tenant.processes(&before)[0];
    // Its quota alone would give it so much after four seconds.
    let has_had_its_share = || cpu_time(tid, tid) > Some(SHARE) && spins().is_none();
    eventually(Duration::from_secs(3), "it has been lifted and put back", has_had_its_share);
    // It runs for 1 ms in 100, and by then has been seen to do so twice.
    std::thread::sleep(6 * PUT_BACK * slowness());
    // Its operation waits for it, and its lifter with it.
    assert!(lift_by_hand(tid), "the control: somebody can raise it");
    std::thread::sleep(PUT_BACK * slowness());
    let is_fair = spins().is_none();
    tenant.container.kill_all();
    wait(&mut exec, Duration::from_secs(10));
    assert!(is_fair, "it is real-time, and nobody looks at it any more");
}

/// As a thread that was born while its parent was put back, and has the name of a real-time one: it may
/// make itself one later. `spins in 17 threads` leaves one in some fourteen runs.
#[test]
fn who_was_born_meanwhile_and_is_real_time_is_put_back() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let tenant = Tenant::new(&scratch, &runtime);
    let before = tenant.container.pids();
    let mut exec = tenant.exec(Try { how: &["leave-a-child"], ..TRIES[0] });
    let new = || tenant.processes(&before);
    eventually(Duration::from_secs(10), "it has a child", || new().len() == 2);
    let (parent, child) = (new()[0], new()[1]);
    let policy = || Stat::of(child, child).map(|it| it.policy);
    let raise = ["--rr", "--pid", "1", &child.to_string()];
    succeed(std::process::Command::new("chrt").args(raise));
    let is_raised = policy() == Some(2);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(parent), nix::sys::signal::SIGKILL).unwrap();
    wait(&mut exec, Duration::from_secs(10));
    // The lifter ends when there has been nothing to do for 100 ms.
    std::thread::sleep(5 * PUT_BACK * slowness());
    let after = policy();
    tenant.container.kill_all();
    assert!(is_raised, "the control: not shown");
    assert_eq!(after, Some(0));
}

/// It is not the runtime's work, and nobody waits for it.
#[test]
fn the_program_of_a_started_container_gets_nothing() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    for _ in 0..if proof() { 50 } else { 5 } {
        let scratch = Scratch::new();
        let program = compiled(&scratch.path("tenant"), include_str!("tenant.c"));
        let container = Container::new(&scratch, &runtime, Via::Wrapped, &scratch.cgroup, "c");
        container.start("throttled", |config| {
            allow(config, &program);
            config["process"]["args"] = json!([TENANT, "threads"]);
            config["linux"]["resources"]["cpu"] =
                json!({ "quota": 1000 * slowness(), "period": 100_000 });
        });
        let (left, _) = left_lifted(PUT_BACK * slowness());
        let left: Vec<_> = left.iter().filter(|thread| is_of(&scratch, thread.pid)).collect();
        assert!(left.is_empty(), "{left:?}");
        let records = scratch.journal();
        let programs = records.iter().flat_map(lifts).filter(|lift| lift["whose"] == "program");
        assert_eq!(programs.count(), 0, "{records:?}");
        // 17 threads on 1 ms: a spinning program has had its quota and no more.
        let policies = container.pids().into_iter().flat_map(|pid| {
            let tids = numbers(&format!("/proc/{pid}/task"));
            tids.into_iter().filter_map(move |tid| Some(Stat::of(pid, tid)?.policy))
        });
        assert!(policies.into_iter().all(|policy| policy == 0));
    }
}

/// Freezes and deaths in a container that is traced, stopped and busy at the same time.
#[test]
fn traced_threads_freeze_and_die() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let tenant = Tenant::new(&scratch, &runtime);
    let container = &tenant.container;
    let mut exec = tenant.exec(TRIES[7]);
    eventually(Duration::from_secs(20), "it is traced", || container.pids().len() > 4);
    for _ in 0..if proof() { 100 } else { 5 } {
        let pause = container.timed(&["pause", "c"], Duration::from_secs(10));
        assert_eq!((pause.failure, container.freezer()), (None, "FROZEN".to_owned()));
        assert_eq!(container.timed(&["resume", "c"], Duration::from_secs(10)).failure, None);
    }
    let all = container.pids();
    assert_eq!(container.timed(&["kill", "c", "KILL"], Duration::from_secs(10)).failure, None);
    eventually(Duration::from_secs(5), "all have died", || {
        all.iter().all(|&pid| testkit::throttled::ended(pid))
    });
    wait(&mut exec, Duration::from_secs(10));
    assert_eq!(lifted_of(&scratch), Vec::new());
}
