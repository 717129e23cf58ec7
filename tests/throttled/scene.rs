//! Throttled containers, and commands on them that are timed.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::cpu::{Cpu, Version};
use crate::support::{
    Runtime, Scratch, cgroup_dirs, eventually, pids, slowness, succeed, text, wait as wait_for,
};
use crate::table::Took;

/// Who runs the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Bare,
    Wrapped,
    /// Wrapped, with a budget that the measurement itself does not use up.
    Widened,
    /// Wrapped, with a budget that is none.
    Unbounded,
}

impl Via {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Via::Bare => "bare",
            Via::Wrapped => "wrapped",
            Via::Widened => "widened",
            Via::Unbounded => "no bound",
        }
    }

    pub(crate) fn command(self, scratch: &Scratch, runtime: &Runtime) -> Command {
        // An emulated exec takes longer, and more CPU time, than the defaults allow.
        let longest_ms = (500 * slowness()).min(5000);
        let hold_max_ms = (2000 * slowness()).min(10_000);
        let (budget_percent, burst_ms) = match self {
            Via::Bare => return scratch.bare(&runtime.path),
            Via::Wrapped => return scratch.wrapped(&runtime.path),
            Via::Widened => (1000, 60_000),
            Via::Unbounded => (10_000, 600_000),
        };
        let refill = format!(
            "[lock]\nhold_max_ms = {hold_max_ms}\n[refill]\nmax_ms = {longest_ms}\nbudget_percent = {budget_percent}\nburst_ms = {burst_ms}\n"
        );
        let config = scratch.path(&format!("{self:?}.toml"));
        std::fs::write(&config, refill).unwrap();
        let mut command = scratch.wrapped(&runtime.path);
        command.env("FROSTLOCK_CONFIG", config);
        command
    }
}

/// CPU time a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) ms: u32,
    pub(crate) period_ms: u32,
}

impl Quota {
    pub(crate) const fn new(ms: u32, period_ms: u32) -> Quota {
        Quota { ms, period_ms }
    }

    /// As much for a slow machine.
    pub(crate) fn here(self) -> Quota {
        self.times(slowness())
    }

    /// For what takes the container's threads little work, a freeze or their end.
    pub(crate) fn tight_here(self) -> Quota {
        self.times((slowness() / 4).max(1))
    }

    /// Still less than the half of a CPU that `refill_below` leaves alone.
    fn times(self, factor: u32) -> Quota {
        let most = (self.period_ms / 2 - 1).max(self.ms);
        Quota { ms: (self.ms * factor).min(most), ..self }
    }

    pub(crate) fn ratio(self) -> f64 {
        f64::from(self.ms) / f64::from(self.period_ms)
    }
}

impl std::fmt::Display for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} ms", self.ms, self.period_ms)
    }
}

/// Busy loops on a quota: the scenes of pause, kill and delete.
pub(crate) const SCENES: [(u32, Quota); 4] = [
    (1, Quota::new(1, 100)),
    (8, Quota::new(1, 100)),
    (32, Quota::new(1, 100)),
    (4, Quota::new(1, 1000)),
];

/// A container in a cgroup; it goes with its scratch.
pub(crate) struct Container<'a> {
    pub(crate) scratch: &'a Scratch,
    pub(crate) runtime: &'a Runtime,
    pub(crate) via: Via,
    pub(crate) id: String,
    pub(crate) cgroup: String,
}

impl<'a> Container<'a> {
    /// Started, with this many busy loops and no quota.
    pub(crate) fn busy(
        scratch: &'a Scratch,
        runtime: &'a Runtime,
        via: Via,
        id: &str,
        loops: u32,
    ) -> Container<'a> {
        Container::busy_below(scratch, runtime, via, &scratch.cgroup, id, loops)
    }

    pub(crate) fn busy_below(
        scratch: &'a Scratch,
        runtime: &'a Runtime,
        via: Via,
        parent: &str,
        id: &str,
        loops: u32,
    ) -> Container<'a> {
        let cgroup = format!("{parent}/{id}");
        let container = Container { scratch, runtime, via, id: id.to_owned(), cgroup };
        let bundle = scratch.bundle("throttled", id);
        scratch.edit(&bundle, |config| {
            config["linux"]["cgroupsPath"] = json!(container.cgroup);
            config["linux"]["resources"] = json!({});
            config["process"]["env"] = json!(["PATH=/bin", format!("LOOPS={loops}")]);
        });
        succeed(container.command("create").arg("--bundle").arg(&bundle).arg(id));
        succeed(container.command("start").arg(id));
        // Without a loop its shell ends at once, and an empty pod is what is wanted.
        eventually(Duration::from_secs(10), "all loops run", || {
            loops == 0 || container.pids().len() > loops as usize
        });
        container
    }

    /// Now, as a resize does it: a quota from the start would make the start alone take seconds.
    pub(crate) fn limit(&self, quota: Quota) {
        let mut update = self.scratch.bare(&self.runtime.path);
        update.args(["update", "--cpu-period", &(quota.period_ms * 1000).to_string()]);
        update.args(["--cpu-quota", &(quota.ms * 1000).to_string(), &self.id]);
        succeed(&mut update);
        assert_eq!(self.settings().get(..2), Some(&[quota.ms * 1000, quota.period_ms * 1000][..]));
        self.until_throttled();
    }

    /// Its loops are busy and yet get no CPU time.
    pub(crate) fn until_throttled(&self) {
        eventually(Duration::from_secs(10), "the quota is used up", || {
            let before = self.usage();
            std::thread::sleep(Duration::from_millis(4));
            self.usage() == before
        });
    }

    pub(crate) fn command(&self, verb: &str) -> Command {
        let mut command = self.via.command(self.scratch, self.runtime);
        command.arg(verb);
        command
    }

    /// A command on it, which is killed when it takes longer.
    pub(crate) fn timed(&self, words: &[&str], limit: Duration) -> Took {
        let mut command = self.command(words[0]);
        timed(command.args(&words[1..]), limit)
    }

    pub(crate) fn file(&self, hierarchy: &str, file: &str) -> PathBuf {
        Version::here().dir(hierarchy, &self.cgroup).join(file)
    }

    fn read(&self, hierarchy: &str, file: &str) -> String {
        let path = self.file(hierarchy, file);
        let text = std::fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }

    /// In v1's words.
    pub(crate) fn freezer(&self) -> String {
        match Version::here() {
            Version::V1 => self.read("freezer", "freezer.state"),
            Version::V2 if self.read("freezer", "cgroup.events").contains("frozen 1") => {
                "FROZEN".to_owned()
            }
            Version::V2 if self.read("freezer", "cgroup.freeze") == "1" => "FREEZING".to_owned(),
            Version::V2 => "THAWED".to_owned(),
        }
    }

    /// By hand: what an earlier failure has left, the runtime may not know of.
    pub(crate) fn thaw(&self) {
        let (file, thawed) = match Version::here() {
            Version::V1 => ("freezer.state", "THAWED"),
            Version::V2 => ("cgroup.freeze", "0"),
        };
        std::fs::write(self.file("freezer", file), thawed).unwrap();
    }

    /// Quota, period and burst in us.
    pub(crate) fn settings(&self) -> Vec<u32> {
        Cpu::of(&self.cgroup).settings()
    }

    /// CPU time used so far.
    pub(crate) fn usage(&self) -> Duration {
        Cpu::of(&self.cgroup).usage()
    }

    /// As the kernel's root namespace numbers them.
    pub(crate) fn pids(&self) -> Vec<i32> {
        pids(&self.file("freezer", ""))
    }

    pub(crate) fn init(&self) -> i32 {
        let mut state = self.scratch.bare(&self.runtime.path);
        let state = succeed(state.arg("state").arg(&self.id));
        let state: Value = serde_json::from_slice(&state.stdout).unwrap();
        i32::try_from(state["pid"].as_i64().unwrap()).unwrap()
    }

    /// No cgroup in any hierarchy, and none of these processes. A process that is still to be
    /// collected has ended.
    pub(crate) fn gone(&self, processes: &[i32]) -> bool {
        cgroup_dirs(&self.cgroup).is_empty() && processes.iter().all(|&pid| ended(pid))
    }
}

pub(crate) fn ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    matches!(state, None | Some('Z' | 'X'))
}

/// From spawn to exit; what takes longer than `limit` is killed, and counts as failed.
pub(crate) fn timed(command: &mut Command, limit: Duration) -> Took {
    let err = tempfile::tempfile().unwrap();
    command.stdout(std::process::Stdio::null()).stderr(err.try_clone().unwrap());
    let began = Instant::now();
    let mut child = command.spawn().unwrap();
    let status = wait_for(&mut child, limit);
    let time = began.elapsed();
    let failure = match status {
        Some(status) if status.success() => None,
        Some(status) => Some(reason(err).unwrap_or_else(|| status.to_string())),
        None => Some(format!("not within {:.1} s", (limit * slowness()).as_secs_f64())),
    };
    Took { time, failure }
}

/// The runtime's last line, without its time stamp.
fn reason(mut err: std::fs::File) -> Option<String> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    err.rewind().and_then(|()| err.read_to_end(&mut bytes)).unwrap();
    let text = text(&bytes);
    let line = text.lines().rfind(|line| !line.is_empty())?;
    let message = line.split_once("msg=").map_or(line, |(_, message)| message);
    Some(message.trim_matches('"').chars().take(160).collect())
}

/// The refills that the record of an operation tells of.
pub(crate) fn refills(record: &Value) -> &[Value] {
    record["refills"].as_array().map_or(&[], Vec::as_slice)
}

/// How many records of a verb have a refill for this reason, of how many.
pub(crate) fn refilled(records: &[Value], verb: &str, reason: &str) -> (usize, usize) {
    let of_verb = records.iter().filter(|record| record["verb"] == verb);
    let has = |record: &&Value| refills(record).iter().any(|refill| refill["reason"] == reason);
    (of_verb.clone().filter(has).count(), of_verb.count())
}
