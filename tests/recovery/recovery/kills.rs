//! Kills at random moments of operations on a throttled container: of the wrapper, of the runtime,
//! of both. The next command finds no wrong freeze and no note, and all limits as they were at
//! every moment.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::cpu::Cpu;
use testkit::scene::{Ended, HANGS, Log, MS, Scene, Via, comm, report};
use testkit::{cgroup_dirs, eventually, proof};

use crate::NOTHING;
use crate::sampler::Sampler;

/// In the environment of the wrapper and of the runtime; a container's own processes lack it.
const MARK: &str = "FROSTLOCK_TEST_MARK";

const LOOPS: usize = 4;

/// Both runtimes together; in about two of three rounds there is a process to kill.
fn rounds() -> usize {
    if proof() { 800 } else { 26 }
}

const VERBS: [&str; 5] = ["pause", "update", "exec", "kill", "delete"];

/// What is killed, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Any time from the start to the end.
    Random,
    /// While the runtime freezes the cgroup, which it does often and in vain if nothing is lifted.
    Freezing,
}

/// One pause in two is of the second kind: with help, a pause is over in some milliseconds, and a
/// kill seldom hits the right one.
const KINDS: [(&str, Moment); 6] = [
    ("pause", Moment::Random),
    ("pause", Moment::Freezing),
    ("update", Moment::Random),
    ("exec", Moment::Random),
    ("kill", Moment::Random),
    ("delete", Moment::Random),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Wrapper,
    Runtime,
    Both,
}

const TARGETS: [Target; 3] = [Target::Wrapper, Target::Both, Target::Runtime];

fn line(verb: &str) -> &'static [&'static str] {
    match verb {
        "pause" => &["pause", "c"],
        "update" => &["update", "--pids-limit", "77", "c"],
        "exec" => &["exec", "c", "true"],
        "kill" => &["kill", "c", "KILL"],
        "delete" => &["delete", "--force", "c"],
        _ => &["state", "c"],
    }
}

#[test]
fn of_runc_1_1_5() {
    kill_often("runc-1.1.5", rounds() / 2);
}

#[test]
fn of_runc_1_5_3() {
    kill_often("runc-1.5.3", rounds() / 2);
}

/// A throttled container under observation.
struct Throttled {
    scene: Scene,
    sampler: Sampler,
}

impl Throttled {
    fn new(runtime: &str) -> Throttled {
        let scene = Scene::of(runtime);
        let throttled = Throttled { sampler: Sampler::start(scene.cpu()), scene };
        throttled.make();
        throttled
    }

    fn make(&self) {
        self.scene.start_throttled(LOOPS);
        self.sampler.watch(true);
    }

    /// Not through the runtime, which may fail to remove it.
    fn remove(&self) {
        self.sampler.watch(false);
        let state = self.scene.scratch.state();
        let kept = state.with_extension("kept");
        // `clear` removes the journal and everything else that matters here.
        let _ = fs::rename(&state, &kept);
        assert_eq!(self.scene.scratch.clear(), NOTHING);
        let _ = fs::rename(&kept, &state);
    }

    /// How long the verb takes without a kill; the moments are spread over it.
    fn span(&self, verb: &str) -> Duration {
        let ended = self.scene.give_logged(Via::Wrapped, Log::None, line(verb), HANGS);
        ended.took.clamp(10 * MS, 400 * MS)
    }
}

fn kill_often(runtime: &str, rounds: usize) {
    control(runtime);
    let mut throttled = Throttled::new(runtime);
    let mut spans = BTreeMap::new();
    for verb in VERBS {
        spans.insert(verb, throttled.span(verb));
        throttled.remove();
        throttled.make();
    }
    let mut random = Random::new();
    let mut troubles = Vec::new();
    let (mut killed, mut paused, mut slowest) = (BTreeMap::new(), 0, Duration::ZERO);
    let mut round = 0;
    // A kill leaves something in one of some five rounds: in a few rounds there may be none.
    while round < rounds || round < 4 * rounds && !has_recovered(&throttled.scene) {
        let (verb, moment) = KINDS[round % KINDS.len()];
        let target = TARGETS[(round / KINDS.len()) % TARGETS.len()];
        let after = spans[verb].mul_f64(random.fraction());
        let what = format!("{runtime}, round {round}: {verb}, {target:?}, {moment:?}, {after:?}");
        if throttled.kill(verb, target, moment, after) {
            *killed.entry(verb).or_insert(0) += 1;
        }
        let next = match verb {
            "kill" | "delete" => "delete",
            _ => ["exec", "update", "state"][round % 3],
        };
        // runc gives up on an init that does not die after 10 s; an exec without a slot takes as
        // long as without frostlock.
        let limit = Duration::from_secs(30);
        let ended = throttled.scene.give_logged(Via::Wrapped, Log::Json, line(next), limit);
        slowest = slowest.max(ended.took);
        let is_paused = throttled.is_paused();
        paused += usize::from(is_paused);
        for trouble in throttled.troubles(verb, next, &ended, is_paused) {
            report!("{what}, then {next}: {trouble}");
            troubles.push(format!("{what}, then {next}: {trouble}"));
        }
        throttled.settle(is_paused);
        round += 1;
    }
    let rounds = round;
    let recovered = recoveries(&throttled.scene);
    let (samples, wrong) = throttled.sampler.finish().unwrap();
    report!(
        "{runtime}: {rounds} rounds over {spans:?}: killed {killed:?}; {recovered} recovered, \
         {paused} paused before the kill; the next took at most {slowest:?}; {samples} samples"
    );
    assert_eq!(wrong, [""; 0], "limits");
    assert!(troubles.is_empty(), "{} of {rounds} rounds: {troubles:#?}", troubles.len());
    let killed: usize = killed.values().sum();
    assert!(killed >= rounds / 4, "not shown: {killed} of {rounds} were killed");
    assert!(recovered > 0, "not shown: no kill has left anything");
}

/// How many operations have undone something.
fn recoveries(scene: &Scene) -> usize {
    let journal = scene.scratch.journal();
    let recovered = journal.iter().filter(|record| {
        record["recovered"].as_array().is_some_and(|recovered| !recovered.is_empty())
    });
    recovered.count()
}

fn has_recovered(scene: &Scene) -> bool {
    recoveries(scene) > 0
}

/// The bare runtime, killed in its pause: sooner or later a kill leaves the container frozen, and
/// the next command is refused or hangs.
fn control(runtime: &str) {
    let throttled = Throttled::new(runtime);
    let scene = &throttled.scene;
    let mut random = Random::new();
    for number in 1..=100 {
        let mut pause = scene.command(Via::Bare, line("pause"));
        let mut pause = pause.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep((5 * MS).mul_f64(1.0 + random.fraction() * 40.0));
        pause.kill().unwrap();
        let was_killed = pause.wait().unwrap().code().is_none();
        if !was_killed || !scene.freezer().is_asked_for() {
            scene.freezer().thaw();
            continue;
        }
        // Otherwise the exec is slow for lack of CPU time.
        eventually(HANGS, "it freezes", || {
            Cpu::of(&scene.cgroup()).limit(1000, 100_000);
            scene.freezer().is_frozen()
        });
        let limit = Duration::from_secs(2);
        let exec = scene.give_logged(Via::Bare, Log::Json, line("exec"), limit);
        report!(
            "{runtime}: bare pause, kill {number} left it frozen; the next exec: {:?} {}",
            exec.code,
            exec.containerd_reads()
        );
        assert!(!exec.succeeded(), "not shown: {exec:?}");
        return;
    }
    panic!("not shown: no kill of {runtime} in its pause left anything frozen");
}

impl Throttled {
    /// Whether there was a process to kill.
    fn kill(&self, verb: &str, target: Target, moment: Moment, after: Duration) -> bool {
        let mark = format!("{}-{verb}", self.scene.scratch.cgroup);
        let mut command = self.scene.command(Via::Wrapped, line(verb));
        command.env(MARK, &mark).stdout(Stdio::null()).stderr(Stdio::null());
        if moment == Moment::Freezing {
            let config = self.scene.scratch.path("unhelped.toml");
            fs::write(&config, "[lift]\nenabled = false\n").unwrap();
            command.env("FROSTLOCK_CONFIG", config);
        }
        let mut wrapper = command.spawn().unwrap();
        match moment {
            Moment::Random => std::thread::sleep(after),
            Moment::Freezing => while_running(&mut wrapper, || self.scene.freezer().is_asked_for()),
        }
        let mut hit = wrapper.try_wait().unwrap().is_none();
        if target != Target::Wrapper {
            hit = false;
            // The runtime may not have started yet, or another attempt is still to come.
            let pid = wrapper.id();
            while_running(&mut wrapper, || {
                hit = kill_runtime(pid);
                hit
            });
        }
        if target != Target::Runtime {
            wrapper.kill().unwrap();
        }
        let status = testkit::wait(&mut wrapper, HANGS);
        assert!(status.is_some(), "{verb}: the wrapper hangs");
        eventually(HANGS, "no process of the runtime", || marked(&mark).is_empty());
        hit
    }

    /// What is wrong when the next command has ended.
    fn troubles(&self, verb: &str, next: &str, ended: &Ended, is_paused: bool) -> Vec<String> {
        let mut troubles = Vec::new();
        let mut expect = |is_so: bool, what: &dyn std::fmt::Debug| {
            if !is_so {
                troubles.push(format!("{what:?}"));
            }
        };
        let intents = self.scene.intents();
        expect(intents.is_empty(), &intents);
        expect(!is_paused || verb == "pause", &"it counts as paused");
        if next == "delete" {
            // If the delete was killed when it had removed everything, nothing is left to find.
            expect(ended.succeeded(), &(ended, self.scene.tasks()));
            let dirs = cgroup_dirs(&self.scene.cgroup());
            expect(dirs.is_empty(), &dirs);
            for place in ["locks", "containers"] {
                let files = self.files(place);
                expect(files.is_empty(), &files);
            }
        } else {
            let is_refused = is_paused && next == "exec";
            expect(ended.succeeded() || is_refused, &(ended, self.scene.tasks()));
            let is_frozen = self.scene.freezer().is_asked_for();
            expect(is_frozen == is_paused, &format!("frozen {is_frozen}, paused {is_paused}"));
        }
        troubles
    }

    fn files(&self, place: &str) -> Vec<PathBuf> {
        let files = fs::read_dir(self.scene.scratch.state().join(place));
        files.into_iter().flatten().flatten().map(|file| file.path()).collect()
    }

    /// Whether our record says that a pause had succeeded.
    fn is_paused(&self) -> bool {
        self.files("containers").into_iter().any(|path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let record: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            record["paused"] == true
        })
    }

    /// A running, throttled container for the next round.
    fn settle(&self, is_paused: bool) {
        if is_paused {
            let resume = self.scene.give(Via::Wrapped, &["resume", "c"]);
            assert!(resume.succeeded(), "{resume:?}");
        }
        if self.scene.pids().len() != LOOPS + 1 || self.scene.freezer().is_asked_for() {
            self.remove();
            for place in ["intents", "locks", "containers"] {
                let _ = fs::remove_dir_all(self.scene.scratch.state().join(place));
            }
            self.make();
        }
    }
}

/// Until it is so, or the process has ended.
fn while_running(process: &mut Child, mut is_so: impl FnMut() -> bool) {
    while !is_so() && process.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
}

/// The wrapper's child, if it has one.
fn kill_runtime(pid: u32) -> bool {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let children: Vec<i32> =
        children.split_whitespace().filter_map(|child| child.parse().ok()).collect();
    let runtime = children.into_iter().find(|&child| comm(child) != "frostlock");
    runtime.is_some_and(|child| kill(Pid::from_raw(child), Signal::SIGKILL).is_ok())
}

/// The processes that were started with this mark, except zombies.
fn marked(mark: &str) -> Vec<i32> {
    let entry = format!("{MARK}={mark}").into_bytes();
    let is_marked = |pid: &i32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|&byte| byte == 0).any(|variable| variable == entry)
    };
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_marked).collect()
}

/// Good enough for moments in time.
struct Random(u64);

impl Random {
    fn new() -> Random {
        Random(testkit::fake_runtime::monotonic_ns() | 1)
    }

    fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}
