//! A scripted runtime in place of the real one, and its records.

pub mod script;
pub mod terminal;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
pub use script::{Attempt, Script};
use serde_json::json;

use crate::command::succeed;
use crate::programs::{profile, repository};
use crate::scratch::Scratch;

/// The program. `cargo test` builds it with everything else, but `cargo test --test NAME` does not.
/// So cargo is called if the program is older than its sources. Not always: with only this
/// package's features, it would compile dependencies for half a minute in the middle of a suite.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let profile = profile();
        let program = profile.join("examples/fake-runtime");
        let cargo = std::env::var_os("CARGO").filter(|_| !is_up_to_date(&program));
        if let Some(cargo) = cargo {
            let mut build = Command::new(cargo);
            build.args(["build", "--quiet", "--example", "fake-runtime", "--manifest-path"]);
            build.arg(repository().join("Cargo.toml"));
            build.arg("--target-dir").arg(profile.parent().unwrap());
            if profile.ends_with("release") {
                build.arg("--release");
            }
            succeed(&mut build);
        }
        assert!(program.is_file(), "{} is not there", program.display());
        program
    })
}

fn is_up_to_date(program: &Path) -> bool {
    let written = |path: &Path| std::fs::metadata(path).and_then(|it| it.modified()).ok();
    let Some(built) = written(program) else { return false };
    let here = repository().join("testkit/src/fake_runtime");
    let shared = ["script.rs", "terminal.rs"].map(|name| here.join(name));
    let own = ["tests/fake_runtime/program.rs", "Cargo.lock"].map(|name| repository().join(name));
    let mut sources = shared.into_iter().chain(own);
    sources.all(|path| written(&path).is_some_and(|source| source <= built))
}

/// One fake runtime with its script and records.
#[derive(Debug)]
pub struct Fake<'a> {
    pub scratch: &'a Scratch,
    pub path: PathBuf,
    config: PathBuf,
}

impl<'a> Fake<'a> {
    pub fn new(scratch: &'a Scratch, config: &str) -> Fake<'a> {
        Fake::named("runc", scratch, config)
    }

    /// From the name, the wrapper knows which command line it has.
    pub fn named(name: &str, scratch: &'a Scratch, config: &str) -> Fake<'a> {
        let dir = scratch.path("fake");
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join(name);
        std::os::unix::fs::symlink(program(), &path).unwrap();
        let fake = Fake { scratch, path, config: scratch.path("config.toml") };
        fake.configure(config);
        fake
    }

    /// Without syslog: tests must not fill the machine's log.
    pub fn configure(&self, config: &str) {
        std::fs::write(&self.config, format!("{config}\n[log]\nsyslog = false\n")).unwrap();
    }

    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap()
    }

    pub fn script(&self, script: &[(&str, &[Attempt])]) {
        let script: Script =
            script.iter().map(|(key, attempts)| ((*key).to_owned(), attempts.to_vec())).collect();
        let next = self.dir().join("script.next");
        std::fs::write(&next, serde_json::to_vec(&script).unwrap()).unwrap();
        std::fs::rename(next, self.dir().join("script")).unwrap();
    }

    /// The wrapper in front of it; `args` follow the root.
    pub fn wrapped(&self, args: &[&str]) -> Command {
        let mut command = self.scratch.wrapped(&self.path);
        command.args(args).env("FROSTLOCK_CONFIG", &self.config).env("FAKE_DIR", self.dir());
        command
    }

    pub fn bare(&self, args: &[&str]) -> Command {
        let mut command = self.scratch.bare(&self.path);
        command.args(args).env("FAKE_DIR", self.dir());
        command
    }

    /// A bundle that says only where the container goes.
    pub fn bundle(&self, id: &str) -> PathBuf {
        let bundle = self.scratch.path(&format!("fake-bundle-{id}"));
        std::fs::create_dir_all(&bundle).unwrap();
        let config = json!({ "linux": { "cgroupsPath": self.cgroup(id) } });
        // Atomically: in a storm others read it meanwhile, and an empty one names no cgroup.
        let next = bundle.join(format!("{:?}", std::thread::current().id()));
        std::fs::write(&next, config.to_string()).unwrap();
        std::fs::rename(next, bundle.join("config.json")).unwrap();
        bundle
    }

    pub fn cgroup(&self, id: &str) -> String {
        format!("{}/{id}", self.scratch.cgroup)
    }

    pub fn create(&self, id: &str) -> Command {
        let bundle = self.bundle(id);
        self.wrapped(&["create", "--bundle", bundle.to_str().unwrap(), id])
    }

    /// Every operation that has begun, with its end if there was one.
    pub fn intervals(&self) -> Vec<Interval> {
        let text = std::fs::read_to_string(self.dir().join("intervals")).unwrap_or_default();
        let mut intervals: Vec<Interval> = Vec::new();
        let mut by_pid = std::collections::HashMap::new();
        for line in text.lines().map(Interval::parse) {
            let key = (line.pid, line.start);
            match by_pid.get(&key) {
                Some(&at) => intervals[at] = line,
                None => {
                    by_pid.insert(key, intervals.len());
                    intervals.push(line);
                }
            }
        }
        intervals
    }

    pub fn forget_intervals(&self) {
        let _ = std::fs::remove_file(self.dir().join("intervals"));
    }
}

/// One operation of the fake runtime, in nanoseconds of CLOCK_MONOTONIC.
#[derive(Debug, Clone)]
pub struct Interval {
    pub start: u64,
    /// `None`: it was killed, or it still runs.
    pub end: Option<u64>,
    pub verb: String,
    pub id: String,
    pub cgroup: String,
    pub pid: i32,
    /// The wrapper's pid, if there was one.
    pub parent: i32,
    /// Whether the wrapper had a lock when this began.
    pub locked: bool,
}

impl Interval {
    fn parse(line: &str) -> Interval {
        let words: Vec<&str> = line.split(' ').collect();
        let [start, end, verb, id, cgroup, pid, parent, locked] = words[..] else {
            panic!("not an interval: {line:?}");
        };
        Interval {
            start: start.parse().unwrap(),
            end: end.parse().ok(),
            verb: verb.to_owned(),
            id: id.to_owned(),
            cgroup: cgroup.to_owned(),
            pid: pid.parse().unwrap(),
            parent: parent.parse().unwrap(),
            locked: locked == "1",
        }
    }
}

pub fn monotonic_ns() -> u64 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_nanos() as u64
}

/// An attempt that takes this long, and up to half as much more.
pub fn takes_ms(ms: u64) -> Attempt {
    Attempt { delay_us: ms * 1000, jitter_us: ms * 500, ..Attempt::default() }
}
