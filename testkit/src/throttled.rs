//! Throttled containers, and timed commands on them.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cgroup::{cgroup_dirs, pids, remove_cgroup};
use crate::command::{contents, run, succeed, text, wait};
use crate::cpu::{Cpu, Version};
use crate::pace::{eventually, slowness};
use crate::programs::before;
use crate::runtime::Runtime;
use crate::scratch::Scratch;
use crate::table::Took;

/// Who runs the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Bare,
    /// Wrapped by the binary that FROSTLOCK_BEFORE names.
    Before,
    Wrapped,
}

impl Via {
    /// The variants that a scene compares: the control first.
    pub fn compared() -> Vec<Via> {
        let before = before().map(|_| Via::Before);
        [Some(Via::Bare), before, Some(Via::Wrapped)].into_iter().flatten().collect()
    }

    pub fn name(self) -> &'static str {
        match self {
            Via::Bare => "bare",
            Via::Before => "before",
            Via::Wrapped => "wrapped",
        }
    }

    pub fn command(self, scratch: &Scratch, runtime: &Runtime) -> Command {
        match self {
            Via::Bare => scratch.bare(&runtime.path),
            Via::Before => {
                let binary = before().expect("FROSTLOCK_BEFORE names a binary");
                scratch.wrapped_by(&binary, &runtime.path)
            }
            Via::Wrapped => scratch.wrapped(&runtime.path),
        }
    }
}

/// Wrapped, with a configuration.
pub fn configured(scratch: &Scratch, runtime: &Runtime, config: &str) -> Command {
    let file = scratch.path("config.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = scratch.wrapped(&runtime.path);
    command.env("FROSTLOCK_CONFIG", file);
    command
}

/// CPU time per period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub ms: u32,
    pub period_ms: u32,
}

impl Quota {
    pub const fn new(ms: u32, period_ms: u32) -> Quota {
        Quota { ms, period_ms }
    }

    /// The equivalent for a slow machine.
    pub fn here(self) -> Quota {
        self.times(slowness())
    }

    /// For work that costs the container's threads little: a freeze, or their end.
    pub fn tight_here(self) -> Quota {
        self.times((slowness() / 4).max(1))
    }

    /// Still less than half a CPU.
    fn times(self, factor: u32) -> Quota {
        let most = (self.period_ms / 2 - 1).max(self.ms);
        Quota { ms: (self.ms * factor).min(most), ..self }
    }

    pub fn ratio(self) -> f64 {
        f64::from(self.ms) / f64::from(self.period_ms)
    }
}

impl std::fmt::Display for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} ms", self.ms, self.period_ms)
    }
}

/// Busy loops on a quota: the scenes of pause, kill and delete.
pub const SCENES: [(u32, Quota); 4] = [
    (1, Quota::new(1, 100)),
    (8, Quota::new(1, 100)),
    (32, Quota::new(1, 100)),
    (4, Quota::new(1, 1000)),
];

/// How long a container may take to reach a scene's state, however busy the machine is.
const READY: Duration = Duration::from_secs(30);

/// A container in a cgroup; it is removed with its scratch.
#[derive(Debug)]
pub struct Container<'a> {
    pub scratch: &'a Scratch,
    pub runtime: &'a Runtime,
    pub via: Via,
    pub id: String,
    pub cgroup: String,
}

impl<'a> Container<'a> {
    /// Started, with this many busy loops and no quota.
    pub fn busy(
        scratch: &'a Scratch,
        runtime: &'a Runtime,
        via: Via,
        id: &str,
        loops: u32,
    ) -> Container<'a> {
        Container::busy_below(scratch, runtime, via, &scratch.cgroup, id, loops)
    }

    pub fn busy_below(
        scratch: &'a Scratch,
        runtime: &'a Runtime,
        via: Via,
        parent: &str,
        id: &str,
        loops: u32,
    ) -> Container<'a> {
        let container = Container::new(scratch, runtime, via, parent, id);
        container.start("throttled", |config| {
            config["process"]["env"] = json!(["PATH=/bin", format!("LOOPS={loops}")]);
        });
        // Without a loop its shell ends at once, since only an empty pod is wanted.
        eventually(READY, "all loops run", || {
            loops == 0 || container.pids().len() > loops as usize
        });
        container
    }

    /// Started, without busy loops and without a quota.
    pub fn idle(scratch: &'a Scratch, runtime: &'a Runtime, via: Via, id: &str) -> Container<'a> {
        let container = Container::new(scratch, runtime, via, &scratch.cgroup, id);
        container.start("idle", |_| ());
        container
    }

    /// Not created yet.
    pub fn new(
        scratch: &'a Scratch,
        runtime: &'a Runtime,
        via: Via,
        parent: &str,
        id: &str,
    ) -> Container<'a> {
        let cgroup = format!("{parent}/{id}");
        Container { scratch, runtime, via, id: id.to_owned(), cgroup }
    }

    /// Its bundle, from a scene of test-bundles/ with changes.
    pub fn bundle(&self, scene: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.scratch.bundle(scene, &self.id);
        self.scratch.edit(&bundle, |config| {
            config["linux"]["cgroupsPath"] = json!(self.cgroup);
            config["linux"]["resources"] = json!({});
            change(config);
        });
        bundle
    }

    pub fn start(&self, scene: &str, change: impl FnOnce(&mut Value)) {
        let bundle = self.bundle(scene, change);
        succeed(self.command("create").arg("--bundle").arg(&bundle).arg(&self.id));
        succeed(self.command("start").arg(&self.id));
    }

    /// Set now, as by a resize: with a quota from the beginning, the start alone would take
    /// seconds.
    pub fn limit(&self, quota: Quota) {
        let mut update = self.scratch.bare(&self.runtime.path);
        update.args(["update", "--cpu-period", &(quota.period_ms * 1000).to_string()]);
        update.args(["--cpu-quota", &(quota.ms * 1000).to_string(), &self.id]);
        succeed(&mut update);
        assert_eq!(self.settings().get(..2), Some(&[quota.ms * 1000, quota.period_ms * 1000][..]));
        self.until_throttled();
    }

    /// The smallest weight of a container.
    pub fn weigh_nothing(&self) {
        let (file, least) = match Version::here() {
            Version::V1 => ("cpu.shares", "2"),
            Version::V2 => ("cpu.weight", "1"),
        };
        std::fs::write(self.file("cpu", file), least).unwrap();
    }

    /// Waits until its loops are busy but get no CPU time.
    pub fn until_throttled(&self) {
        eventually(READY, "the quota is used up", || {
            let before = self.usage();
            std::thread::sleep(Duration::from_millis(4));
            self.usage() == before
        });
    }

    pub fn command(&self, verb: &str) -> Command {
        let mut command = self.via.command(self.scratch, self.runtime);
        command.arg(verb);
        command
    }

    /// A command on it, which is killed if it takes longer.
    pub fn timed(&self, words: &[&str], limit: Duration) -> Took {
        let mut command = self.command(words[0]);
        timed(command.args(&words[1..]), limit)
    }

    pub fn file(&self, hierarchy: &str, file: &str) -> PathBuf {
        Version::here().dir(hierarchy, &self.cgroup).join(file)
    }

    fn read(&self, hierarchy: &str, file: &str) -> String {
        let path = self.file(hierarchy, file);
        let text = std::fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }

    /// In v1's words.
    pub fn freezer(&self) -> String {
        match Version::here() {
            Version::V1 => self.read("freezer", "freezer.state"),
            Version::V2 if self.read("freezer", "cgroup.events").contains("frozen 1") => {
                "FROZEN".to_owned()
            }
            Version::V2 if self.read("freezer", "cgroup.freeze") == "1" => "FREEZING".to_owned(),
            Version::V2 => "THAWED".to_owned(),
        }
    }

    /// By hand: the runtime may not know what an earlier failure has left.
    pub fn thaw(&self) {
        let (file, thawed) = match Version::here() {
            Version::V1 => ("freezer.state", "THAWED"),
            Version::V2 => ("cgroup.freeze", "0"),
        };
        std::fs::write(self.file("freezer", file), thawed).unwrap();
    }

    /// Quota, period and burst in us.
    pub fn settings(&self) -> Vec<u32> {
        Cpu::of(&self.cgroup).settings()
    }

    pub fn usage(&self) -> Duration {
        Cpu::of(&self.cgroup).usage()
    }

    /// As numbered in the root pid namespace.
    pub fn pids(&self) -> Vec<i32> {
        pids(&self.file("freezer", ""))
    }

    pub fn init(&self) -> i32 {
        let mut state = self.scratch.bare(&self.runtime.path);
        let state = succeed(state.arg("state").arg(&self.id));
        let state: Value = serde_json::from_slice(&state.stdout).unwrap();
        i32::try_from(state["pid"].as_i64().unwrap()).unwrap()
    }

    /// Not through the runtime, which leaves processes and cgroups behind.
    pub fn remove(&self) {
        assert_eq!(remove_cgroup(&self.cgroup), Vec::<PathBuf>::new());
        let _ = run(self.scratch.bare(&self.runtime.path).args(["delete", "--force", &self.id]));
    }

    /// By hand, wherever in our cgroups its processes have moved.
    pub fn kill_all(&self) {
        let dirs = cgroup_dirs(&self.scratch.cgroup);
        for pid in dirs.iter().flat_map(|dir| pids(dir)) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// Whether there is no cgroup in any hierarchy, and none of these processes. A zombie has
    /// ended.
    pub fn gone(&self, processes: &[i32]) -> bool {
        cgroup_dirs(&self.cgroup).is_empty() && processes.iter().all(|&pid| ended(pid))
    }
}

pub fn ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    matches!(state, None | Some('Z' | 'X'))
}

/// From spawn to exit; a command that takes longer than `limit` is killed, and counts as failed.
pub fn timed(command: &mut Command, limit: Duration) -> Took {
    let err = tempfile::tempfile().unwrap();
    command.stdout(std::process::Stdio::null()).stderr(err.try_clone().unwrap());
    let began = Instant::now();
    let mut child = command.spawn().unwrap();
    let status = wait(&mut child, limit);
    let time = began.elapsed();
    let failure = match status {
        Some(status) if status.success() => None,
        Some(status) => Some(reason(err).unwrap_or_else(|| status.to_string())),
        None => Some(format!("not within {:.1} s", (limit * slowness()).as_secs_f64())),
    };
    Took { time, failure }
}

/// The runtime's last line, without its time stamp.
fn reason(err: std::fs::File) -> Option<String> {
    let text = text(&contents(err));
    let line = text.lines().rfind(|line| !line.is_empty())?;
    let message = line.split_once("msg=").map_or(line, |(_, message)| message);
    Some(message.trim_matches('"').chars().take(160).collect())
}

/// The lifts in the record of an operation.
pub fn lifts(record: &Value) -> &[Value] {
    record["lifts"].as_array().map_or(&[], Vec::as_slice)
}

/// How many records of a verb have a lift of these threads, and how many records there are.
pub fn lifted(records: &[Value], verb: &str, whose: &str) -> (usize, usize) {
    let of_verb = records.iter().filter(|record| record["verb"] == verb);
    let has = |record: &&Value| lifts(record).iter().any(|lift| lift["whose"] == whose);
    (of_verb.clone().filter(has).count(), of_verb.count())
}

/// CPU time in ms that the records report for these threads, per operation.
pub fn lifted_ms(records: &[Value], whose: &str) -> Vec<f64> {
    let of = |record: &Value| {
        let lifts = lifts(record).iter().filter(|lift| lift["whose"] == whose);
        lifts.filter_map(|lift| lift["cpu_ms"].as_f64()).sum()
    };
    records.iter().map(of).filter(|ms| *ms > 0.0).collect()
}
