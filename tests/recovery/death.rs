//! Killed at any moment: the runtime ends with the wrapper, the lock is free, and the next command
//! meets nothing that a killed bare runtime would not have left, too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// The counts belong to the result.
#![allow(clippy::print_stdout)]

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use state::Verb;
use testkit::{Runtime, Scratch, eventually, proof, runtime, text};

/// From the wrapper's death until the runtime is gone and the lock is free. It takes milliseconds,
/// plus what a busy machine adds.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// No command takes longer, whatever a killed one has left: runc gives up on a freezer after 10 s.
const COMMAND_MAX: Duration = Duration::from_secs(30);

/// In the environment of the wrapper and of the runtime; a container's own processes lack it.
const MARK: &str = "FROSTLOCK_TEST_MARK";

const ID: &str = "c";

fn kills() -> u32 {
    if proof() { 100 } else { 5 }
}

// One test per verb would repeat this: they differ only in `Scene`.
#[test]
fn runc_1_1_5_killed_at_any_moment() {
    every_verb(&runtime("runc-1.1.5"));
}

#[test]
fn runc_1_5_3_killed_at_any_moment() {
    every_verb(&runtime("runc-1.5.3"));
}

/// Several verbs at a time: most of the time is waiting.
const AT_ONCE: usize = 5;

fn every_verb(runtime: &Runtime) {
    let verbs = Verb::ALL.into_iter();
    let verbs = verbs.filter(|verb| !matches!(verb, Verb::Restore | Verb::State));
    let verbs: Vec<Verb> = verbs.collect();
    let mut failed: Vec<String> = Vec::new();
    for some in verbs.chunks(if proof() { AT_ONCE } else { 1 }) {
        std::thread::scope(|scope| {
            let each: Vec<_> =
                some.iter().map(|verb| scope.spawn(|| one_verb(runtime, *verb))).collect();
            failed.extend(each.into_iter().filter_map(|verb| verb.join().unwrap()));
        });
    }
    assert!(failed.is_empty(), "not seen with the bare runtime: {failed:#?}");
}

fn one_verb(runtime: &Runtime, verb: Verb) -> Option<String> {
    let scene = Scene::new(runtime, verb);
    let took = scene.bare_duration();
    let wrapped = scene.kill_often(Via::Frostlock, took, kills());
    println!("{} {verb}: {took:?} bare, {wrapped:?}", runtime.name);
    // What a killed runtime leaves is its own business; only what we add to it is ours.
    if wrapped.troubles.is_empty() {
        return None;
    }
    let bare = scene.kill_often(Via::Bare, took, if proof() { kills() } else { 3 * kills() });
    println!("{} {verb}, control: {bare:?}", runtime.name);
    let ours: Vec<_> = wrapped.troubles.difference(&bare.troubles).collect();
    (!ours.is_empty()).then(|| format!("{} {verb}: {ours:?}", runtime.name))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    Frostlock,
    Bare,
}

/// The result of many kills.
#[derive(Debug, Default)]
struct Tally {
    killed: u32,
    ended_before: u32,
    /// Kinds of trouble that the commands after the kill met.
    troubles: BTreeSet<String>,
}

/// A container in the state that a verb needs.
struct Scene {
    scratch: Scratch,
    runtime: Runtime,
    verb: Verb,
    bundle: PathBuf,
}

impl Scene {
    fn new(runtime: &Runtime, verb: Verb) -> Scene {
        let scratch = Scratch::new();
        let bundle = scratch.bundle("idle", ID);
        Scene { scratch, runtime: runtime.clone(), verb, bundle }
    }

    fn command(&self, via: Via) -> Command {
        match via {
            Via::Frostlock => self.scratch.wrapped(&self.runtime.path),
            Via::Bare => self.scratch.bare(&self.runtime.path),
        }
    }

    fn arguments(&self, verb: Verb) -> Vec<String> {
        let words: &[&str] = match verb {
            Verb::Create => &["create", "--bundle"],
            Verb::Run => &["run", "--detach", "--bundle"],
            Verb::Update => &["update", "--pids-limit", "77", ID],
            Verb::Exec => &["exec", ID, "true"],
            Verb::Kill => &["kill", ID, "WINCH"],
            Verb::Delete => &["delete", "--force", ID],
            Verb::Checkpoint => &["checkpoint", "--image-path", "/nowhere", ID],
            Verb::Start | Verb::Pause | Verb::Resume | Verb::State | Verb::Restore => {
                return vec![verb.to_string(), ID.to_owned()];
            }
        };
        let mut words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        if verb.makes_a_container() {
            words.extend([self.bundle.display().to_string(), ID.to_owned()]);
        }
        words
    }

    fn run(&self, via: Via, verb: Verb) -> Result<Output, String> {
        let (out, err) = (self.scratch.path("out"), self.scratch.path("err"));
        let mut child = self
            .command(via)
            .args(self.arguments(verb))
            .stdout(std::fs::File::create(&out).unwrap())
            .stderr(std::fs::File::create(&err).unwrap())
            .spawn()
            .unwrap();
        let status = ended(&mut child, COMMAND_MAX).ok_or(format!("{verb} hangs"))?;
        let read = |path: &Path| std::fs::read(path).unwrap();
        Ok(Output { status, stdout: read(&out), stderr: read(&err) })
    }

    fn must(&self, via: Via, verb: Verb) {
        let output = self.run(via, verb).unwrap();
        assert!(output.status.success(), "{verb}: {}{}", output.status, text(&output.stderr));
    }

    /// Brings the container into the state in which the verb starts.
    fn prepare(&self, via: Via) {
        if self.verb.makes_a_container() {
            return;
        }
        self.must(via, Verb::Create);
        if self.verb != Verb::Start {
            self.must(via, Verb::Start);
        }
        if self.verb == Verb::Resume {
            self.must(via, Verb::Pause);
        }
    }

    /// The shortest of three; the kills are spread over it.
    fn bare_duration(&self) -> Duration {
        let once = |_| {
            self.prepare(Via::Bare);
            let began = Instant::now();
            let output = self.run(Via::Bare, self.verb).unwrap();
            let took = began.elapsed();
            // Without criu, a checkpoint cannot succeed.
            assert_eq!(output.status.success(), self.verb != Verb::Checkpoint, "{output:?}");
            self.must(Via::Bare, Verb::Delete);
            took
        };
        (0..3).map(once).min().unwrap()
    }

    fn kill_often(&self, via: Via, took: Duration, times: u32) -> Tally {
        let mut tally = Tally::default();
        let mut random = Random::new();
        // The wrapper's own start and end are included.
        let span = took.mul_f64(1.1) + Duration::from_millis(3);
        for number in 0..times {
            self.prepare(via);
            // One in each of as many intervals, at a random point in it.
            let at = span.mul_f64((f64::from(number) + random.fraction()) / f64::from(times));
            match self.kill_after(via, at).signal() {
                Some(9) => tally.killed += 1,
                _ => tally.ended_before += 1,
            }
            self.aftermath(via, &mut tally.troubles);
        }
        assert!(tally.killed >= times / 4, "not shown, it was too fast: {} {tally:?}", self.verb);
        tally
    }

    /// Sends SIGKILL to the wrapper only, like a caller whose context ends.
    fn kill_after(&self, via: Via, moment: Duration) -> ExitStatus {
        let mark = format!("{}-{}", self.scratch.cgroup, self.verb);
        let mut child = self
            .command(via)
            .args(self.arguments(self.verb))
            .env(MARK, &mark)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(moment);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        eventually(GONE_WITHIN, "no process of the runtime", || marked(&mark).is_empty());
        if via == Via::Frostlock {
            eventually(GONE_WITHIN, "the lock is free", || self.locks_are_free());
        }
        status
    }

    fn locks_are_free(&self) -> bool {
        self.scratch.lock_files().iter().all(|path| {
            let file = std::fs::File::open(path).unwrap();
            nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).is_ok()
        })
    }

    /// The commands that a caller sends next.
    fn aftermath(&self, via: Via, troubles: &mut BTreeSet<String>) {
        let state = self.run(via, Verb::State);
        let is_paused =
            state.as_ref().is_ok_and(|state| text(&state.stdout).contains("\"paused\""));
        // A container that was never made or is deleted has no state.
        if state.as_ref().is_err() || !matches!(self.verb, Verb::Create | Verb::Run | Verb::Delete)
        {
            troubles.extend(trouble("state", &state));
        }
        if is_paused {
            troubles.extend(trouble("resume", &self.run(via, Verb::Resume)));
        }
        troubles.extend(trouble("delete", &self.run(via, Verb::Delete)));
        self.wait_for_cgroups("the kill", troubles);
        troubles.extend(trouble("create", &self.run(via, Verb::Create)));
        troubles.extend(trouble("delete", &self.run(via, Verb::Delete)));
        self.wait_for_cgroups("a whole life", troubles);
        self.clear();
        if via == Via::Frostlock {
            assert_eq!(self.left_in_state_dir(), Vec::<PathBuf>::new());
        }
    }

    fn wait_for_cgroups(&self, after: &str, troubles: &mut BTreeSet<String>) {
        let deadline = Instant::now() + GONE_WITHIN;
        let left = || {
            let dirs = testkit::cgroup_dirs(&self.scratch.cgroup);
            dirs.iter().any(|dir| dir.ends_with(ID))
        };
        while left() {
            if Instant::now() > deadline {
                troubles.insert(format!("cgroups left behind after {after}"));
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// So that the next round starts from nothing.
    fn clear(&self) {
        for dir in testkit::cgroup_dirs(&self.scratch.cgroup).iter().rev() {
            let _ = std::fs::write(dir.join("freezer.state"), "THAWED");
            for pid in testkit::pids(dir) {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            eventually(GONE_WITHIN, "the cgroup is empty", || testkit::pids(dir).is_empty());
            let _ = std::fs::remove_dir(dir);
        }
        let _ = std::fs::remove_dir_all(self.scratch.root().join(ID));
    }

    /// All files except the journal.
    fn left_in_state_dir(&self) -> Vec<PathBuf> {
        let files = |dir: &str| std::fs::read_dir(self.scratch.state().join(dir));
        let all = [".", "locks", "containers"].into_iter().flat_map(|dir| files(dir).unwrap());
        all.flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file() && !path.ends_with("journal.jsonl"))
            .collect()
    }
}

fn trouble(what: &str, outcome: &Result<Output, String>) -> Option<String> {
    match outcome {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(kind(what, &text(&output.stderr))),
        Err(hangs) => Some(hangs.clone()),
    }
}

/// What went wrong, without parts that vary.
fn kind(what: &str, stderr: &str) -> String {
    let last = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let message = last.split_once("level=error msg=").map_or(last, |(_, message)| message);
    let message: String = message.chars().filter(|c| !c.is_ascii_digit()).collect();
    format!("{what}: {message}")
}

fn ended(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// The processes that were started with this mark, except zombies.
fn marked(mark: &str) -> Vec<i32> {
    let entry = format!("{MARK}={mark}").into_bytes();
    let is_marked = |pid: &i32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|&byte| byte == 0).any(|variable| variable == entry)
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_marked).collect()
}

/// Good enough for moments in time.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Random(now.as_nanos() as u64 | 1)
    }

    fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A runtime that does nothing for a minute.
fn sleeper(scratch: &Scratch) -> PathBuf {
    testkit::program(&scratch.path("sleeper"), "#!/bin/sh\nexec sleep 60\n")
}

#[test]
fn the_wrapper_ends_by_the_signal_that_killed_the_runtime() {
    let scratch = Scratch::new();
    let sleeper = sleeper(&scratch);
    let bundle = scratch.bundle("idle", ID);
    for (number, verb) in Verb::ALL.into_iter().filter(|verb| *verb != Verb::State).enumerate() {
        let mark = format!("{}-{verb}", scratch.cgroup);
        let mut wrapper = scratch
            .wrapped(&sleeper)
            .args([verb.as_str(), ID])
            .args((verb == Verb::Exec).then_some("true"))
            .current_dir(&bundle)
            .env(MARK, &mark)
            .spawn()
            .unwrap();
        let ours = wrapper.id() as i32;
        let children = || marked(&mark).into_iter().filter(|&pid| pid != ours).collect::<Vec<_>>();
        // The pid is kept: while a process executes a program, its environment cannot be read.
        let mut runtime = None;
        eventually(GONE_WITHIN, &format!("the runtime runs: {verb}"), || {
            runtime = children().first().copied();
            runtime.is_some()
        });
        let pid = nix::unistd::Pid::from_raw(runtime.unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        let status = ended(&mut wrapper, GONE_WITHIN).expect("the wrapper ends with the runtime");
        assert_eq!(status.signal(), Some(9), "{verb}: {status}");
        let journal = scratch.journal();
        assert_eq!(journal.len(), number + 1);
        assert_eq!(journal[number]["verb"], verb.as_str());
        assert_eq!(journal[number]["exit"]["signal"], 9);
        assert_eq!(scratch.lock_files(), Vec::<PathBuf>::new(), "{verb}");
    }
}

/// A runtime that ignores everything but SIGKILL does not survive either.
#[test]
fn a_stubborn_runtime_dies_with_the_wrapper() {
    let scratch = Scratch::new();
    let script = "#!/bin/sh\ntrap '' TERM HUP INT QUIT PIPE\nwhile :; do sleep 0.05; done\n";
    let stubborn = testkit::program(&scratch.path("stubborn"), script);
    let bundle = scratch.bundle("idle", ID);
    for verb in Verb::ALL.into_iter().filter(|verb| *verb != Verb::State) {
        let mark = format!("{}-{verb}", scratch.cgroup);
        let mut wrapper = scratch
            .wrapped(&stubborn)
            .args([verb.as_str(), ID])
            .args((verb == Verb::Exec).then_some("true"))
            .current_dir(&bundle)
            .env(MARK, &mark)
            .spawn()
            .unwrap();
        eventually(GONE_WITHIN, "the runtime runs", || marked(&mark).len() > 1);
        wrapper.kill().unwrap();
        wrapper.wait().unwrap();
        eventually(GONE_WITHIN, "nothing of the runtime is left", || marked(&mark).is_empty());
    }
}
