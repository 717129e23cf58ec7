//! One container, the two ways to give it a command, and what can be seen of it afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::command::{contents, succeed, text, wait};
use crate::cpu::Version;
pub use crate::freezer::Freezer;
use crate::inside::{passes_inside, v2};
use crate::pace::{eventually, slowness};
use crate::runtime::runtime;
use crate::scratch::Scratch;
use crate::stuck::{Stuck, WCHAN};

pub const ID: &str = "c";

pub const MS: Duration = Duration::from_millis(1);

/// What a machine with other work may add.
pub fn tolerance() -> Duration {
    800 * MS * slowness()
}

/// Longer than any wait of ours; a command that takes longer hangs.
pub const HANGS: Duration = Duration::from_secs(5);

/// The limits of a throttled container; with a burst, so that it can be told from none.
pub fn limits() -> &'static [(&'static str, &'static str)] {
    match Version::here() {
        Version::V1 => &[
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "1000"),
            ("cpu.cfs_burst_us", "300"),
        ],
        Version::V2 => &[("cpu.max", "1000 100000"), ("cpu.max.burst", "300")],
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Bare,
    Wrapped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    Json,
    Text,
    None,
}

/// The result of a command.
#[derive(Debug)]
pub struct Ended {
    /// `None`: it hung and was killed.
    pub code: Option<i32>,
    pub took: Duration,
    pub stdout: String,
    pub stderr: String,
    pub log: String,
}

/// An entry of the runtime's log in JSON.
#[derive(Debug, Deserialize)]
pub struct Entry {
    pub level: String,
    pub msg: String,
    pub time: String,
}

impl Ended {
    /// As containerd reads it (process/utils.go, getLastRuntimeError): the last entry of level
    /// `error`; anything that is not an entry, or has no RFC 3339 time, spoils the log.
    pub fn containerd_reads(&self) -> String {
        let mut last = None;
        for entry in serde_json::Deserializer::from_str(&self.log).into_iter::<Entry>() {
            let entry = entry.unwrap_or_else(|error| panic!("{error}: {:?}", self.log));
            let format = &time::format_description::well_known::Rfc3339;
            time::OffsetDateTime::parse(&entry.time, format).unwrap();
            if entry.level == "error" {
                last = Some(entry.msg);
            }
        }
        last.unwrap_or_default()
    }

    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }
}

/// A container, or the place for one.
#[derive(Debug)]
pub struct Scene {
    /// Dropped first: processes that it holds up could not be killed.
    pub stuck: Option<Stuck>,
    pub scratch: Scratch,
    pub runtime: PathBuf,
}

impl Scene {
    /// Without a container yet.
    pub fn of(runtime_name: &str) -> Scene {
        Scene { stuck: None, scratch: Scratch::new(), runtime: runtime(runtime_name).path }
    }

    /// With a sleeping container.
    pub fn idle(runtime_name: &str) -> Scene {
        let scene = Scene::of(runtime_name);
        scene.scratch.bundle("idle", ID);
        scene.start();
        scene
    }

    /// With a container whose program was not started.
    pub fn created(runtime_name: &str) -> Scene {
        let scene = Scene::of(runtime_name);
        let bundle = scene.scratch.bundle("idle", ID);
        scene.must(Via::Bare, &["create", "--bundle", bundle.to_str().unwrap(), ID]);
        scene
    }

    /// With a container in which a `cat` does not freeze until `stuck` is released.
    pub fn stubborn(runtime_name: &str) -> Scene {
        Scene::stubborn_with(runtime_name, "cat /tmp/stuck >/dev/null & exec sleep 3600")
    }

    /// The same with another script, whose `sleep` comes last; opening /tmp/stuck never returns.
    pub fn stubborn_with(runtime_name: &str, script: &str) -> Scene {
        let mut scene = Scene::of(runtime_name);
        let stuck = Stuck::hold(&scene.scratch.path("stuck"));
        let bundle = scene.scratch.bundle("idle", ID);
        scene.scratch.edit(&bundle, |config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
            config["mounts"].as_array_mut().unwrap().push(json!({
                "destination": "/tmp/stuck",
                "type": "bind",
                "source": stuck.fifo,
                "options": ["bind", "rw"],
            }));
        });
        scene.stuck = Some(stuck);
        scene.start();
        scene.a_held_up();
        scene
    }

    /// With a container that has busy loops and hardly any CPU time.
    pub fn throttled(runtime_name: &str, loops: usize) -> Scene {
        let scene = Scene::of(runtime_name);
        scene.start_throttled(loops);
        scene
    }

    /// The limits are set by hand once its loops run: under them, its start takes seconds.
    pub fn start_throttled(&self, loops: usize) {
        let bundle = self.scratch.bundle("throttled", ID);
        self.scratch.edit(&bundle, |config| {
            config["linux"]["resources"] = json!({});
            config["process"]["env"] = json!(["PATH=/bin:/usr/bin", format!("LOOPS={loops}")]);
        });
        self.must(Via::Bare, &["run", "--detach", "--bundle", bundle.to_str().unwrap(), ID]);
        eventually(HANGS, "the loops", || self.pids().len() == loops + 1);
        let cpu = self.cpu();
        for (file, value) in limits() {
            fs::write(cpu.join(file), value).unwrap();
        }
        eventually(HANGS, "it is throttled", || {
            let stat = fs::read_to_string(cpu.join("cpu.stat")).unwrap();
            let times = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap();
            times.parse::<u64>().unwrap() > 1
        });
    }

    pub fn cpu(&self) -> PathBuf {
        Version::here().dir("cpu", &self.cgroup())
    }

    pub fn bundle(&self) -> PathBuf {
        self.scratch.path(&format!("bundle-{ID}"))
    }

    /// Bare, so that the wrapper knows only what it finds out itself.
    fn start(&self) {
        self.must(Via::Bare, &["run", "--detach", "--bundle", self.bundle().to_str().unwrap(), ID]);
        // Otherwise a task may not have executed its program yet.
        eventually(HANGS, "the container's program", || {
            self.pids().iter().any(|&pid| comm(pid) == "sleep")
        });
    }

    pub fn command(&self, via: Via, words: &[&str]) -> Command {
        let mut command = match via {
            Via::Bare => self.scratch.bare(&self.runtime),
            Via::Wrapped => self.scratch.wrapped(&self.runtime),
        };
        command.args(words);
        command
    }

    pub fn must(&self, via: Via, words: &[&str]) {
        succeed(&mut self.command(via, words));
    }

    pub fn give(&self, via: Via, words: &[&str]) -> Ended {
        self.give_logged(via, Log::Json, words, Duration::from_secs(30))
    }

    pub fn give_logged(&self, via: Via, log: Log, words: &[&str], limit: Duration) -> Ended {
        let file = self.scratch.path("log");
        let _ = fs::remove_file(&file);
        let mut line = match log {
            Log::None => Vec::new(),
            Log::Text => vec!["--log", file.to_str().unwrap()],
            Log::Json => vec!["--log", file.to_str().unwrap(), "--log-format", "json"],
        };
        line.extend(words);
        let ended = timed(&mut self.command(via, &line), limit);
        Ended { log: fs::read_to_string(&file).unwrap_or_default(), ..ended }
    }

    pub fn status(&self, via: Via) -> String {
        let output = succeed(&mut self.command(via, &["state", ID]));
        let state: Value = serde_json::from_slice(&output.stdout).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    pub fn cgroup(&self) -> String {
        format!("{}/{ID}", self.scratch.cgroup)
    }

    pub fn freezer(&self) -> Freezer {
        Freezer::of(&self.cgroup())
    }

    pub fn pids(&self) -> Vec<i32> {
        crate::cgroup::pids(&self.freezer().dir)
    }

    /// What helps to explain a hang.
    pub fn tasks(&self) -> Vec<String> {
        let read = |pid: i32, file: &str| {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            text.trim_end().to_owned()
        };
        let of = |pid| format!("{} in {}", read(pid, "stat"), read(pid, "wchan"));
        let state = self.freezer().read("freezer.state");
        self.pids().into_iter().map(of).chain([state]).collect()
    }

    /// The tasks that do not freeze.
    pub fn held_up(&self) -> Vec<i32> {
        let waits = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|at| at == WCHAN)
        };
        self.pids().into_iter().filter(waits).collect()
    }

    /// One of them. A waiting task is not seen to wait at every single look.
    pub fn a_held_up(&self) -> i32 {
        let mut held_up = None;
        eventually(HANGS, "a task is held up", || {
            held_up = self.held_up().first().copied();
            held_up.is_some()
        });
        held_up.unwrap()
    }

    /// The last record of a verb.
    pub fn record(&self, verb: &str) -> Value {
        let mut journal = self.scratch.journal().into_iter();
        journal.rfind(|record| record["verb"] == verb).unwrap_or_else(|| panic!("no {verb}"))
    }

    /// The contents of the directory of intents, including directories.
    pub fn intents(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                into.push(entry.path());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    walk(&entry.path(), into);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.scratch.state().join("intents"), &mut found);
        found
    }
}

pub fn timed(command: &mut Command, limit: Duration) -> Ended {
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let began = Instant::now();
    let mut child: Child = command
        .stdout(out.try_clone().unwrap())
        .stderr(err.try_clone().unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let status = wait(&mut child, limit);
    let took = began.elapsed();
    Ended {
        code: status.and_then(|status| status.code()),
        took,
        stdout: text(&contents(out)),
        stderr: text(&contents(err)),
        log: String::new(),
    }
}

pub fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Prints what was measured, and on which cgroup version.
#[macro_export]
macro_rules! report {
    ($($what:tt)*) => {
        $crate::scene::print(format_args!($($what)*))
    };
}
pub use crate::report;

pub fn print(what: std::fmt::Arguments<'_>) {
    println!("{}: {what}", Version::here());
}

/// Runs an ignored test of the calling suite where only cgroup v2 is mounted, and repeats its
/// measurements.
pub fn on_v2(test: &str) {
    let text = passes_inside(&mut v2(), test);
    for line in text.lines().filter(|line| line.starts_with("v2: ")) {
        println!("{line}");
    }
}
