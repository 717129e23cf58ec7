//! Kills programs that work on containers, with SIGKILL at random times.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::storm::Storm;

/// The part of the storm that has kills: after its first pods have started, and early enough for
/// the last victim to be back before the end.
const FROM: f64 = 0.15;
const TO: f64 = 0.95;
/// A wrapper or a runtime exists for some 50 ms at a time.
const PATIENCE: Duration = Duration::from_secs(5);
/// systemd restarts it, or we do.
const RESTART: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Victim {
    Containerd,
    Shim,
    Wrapper,
    Runtime,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kill {
    pub(crate) victim: Victim,
    pub(crate) pid: i32,
    /// Since the start of the storm.
    pub(crate) at_ms: u64,
    pub(crate) command: String,
    /// The container, if the command was a `delete`.
    #[serde(skip)]
    pub(crate) deletes: Option<String>,
}

impl Kill {
    /// containerd cleans up after a dead shim with one `delete`, and does not repeat it
    /// (runtime/v2/shim.go, cleanupAfterDeadShim): what the killed `delete` had not removed yet
    /// stays.
    pub(crate) fn explains(&self, left: &str) -> bool {
        self.deletes.as_ref().is_some_and(|id| left.contains(id.as_str()))
    }
}

impl Victim {
    pub(crate) const ALL: [Victim; 4] =
        [Victim::Containerd, Victim::Shim, Victim::Wrapper, Victim::Runtime];

    /// By the kernel's name, which has 15 bytes; `runc:[2:INIT]` is in the container.
    fn is(self, comm: &str) -> bool {
        match self {
            Victim::Containerd => comm == "containerd",
            Victim::Shim => comm == "containerd-shim",
            Victim::Wrapper => comm == "frostlock",
            Victim::Runtime => comm == "runc" || comm == "crun",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Victim::Containerd => "containerd",
            Victim::Shim => "shim",
            Victim::Wrapper => "wrapper",
            Victim::Runtime => "runtime",
        }
    }
}

/// All requested kills, spread over the storm.
pub(crate) fn run(storm: &Storm) -> anyhow::Result<Vec<Kill>> {
    let count = storm.options.kills;
    let mut dice = fastrand::Rng::with_seed(storm.options.seed ^ 0x6b69_6c6c);
    let mut victims = vec![Victim::Containerd, Victim::Shim, Victim::Runtime];
    if storm.options.label == "wrapped" {
        victims.push(Victim::Wrapper);
    }
    let length = storm.options.seconds;
    let mut killed = Vec::new();
    for at in 0..count {
        let part = FROM + (TO - FROM) * (at as f64 + dice.f64()) / count as f64;
        let when = storm.clock.began + Duration::from_secs_f64(length * part);
        std::thread::sleep(when.saturating_duration_since(Instant::now()));
        let victim = victims[at % victims.len()];
        if let Some(kill) = kill_one(storm, victim, &mut dice) {
            killed.push(kill);
        }
        if victim == Victim::Containerd {
            restart(storm)?;
        }
    }
    Ok(killed)
}

fn kill_one(storm: &Storm, victim: Victim, dice: &mut fastrand::Rng) -> Option<Kill> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let found = candidates(victim);
        if let Some(&pid) = dice.choice(&found) {
            if let Some(line) = kill(pid, victim) {
                let at_ms = storm.clock.began.elapsed().as_millis() as u64;
                let command = crate::words::anonymous(&line.join(" "));
                return Some(Kill { victim, pid, at_ms, command, deletes: deleted(&line) });
            }
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    None
}

fn candidates(victim: Victim) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| comm(pid).is_some_and(|comm| victim.is(&comm)))
        .collect()
}

/// Returns the victim's command line if the signal was sent. The pidfd is opened first and the name
/// checked afterwards; the signal fails unless it is still the same process.
fn kill(pid: i32, victim: Victim) -> Option<Vec<String>> {
    let descriptor = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    comm(pid).filter(|comm| victim.is(comm))?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    pidfd_send_signal(&descriptor, Signal::KILL).ok()?;
    let line = String::from_utf8_lossy(&line);
    Some(line.split_terminator('\0').map(str::to_owned).collect())
}

/// containerd puts the id last.
fn deleted(line: &[String]) -> Option<String> {
    let is_delete = line.iter().any(|word| word == "delete");
    line.last().filter(|_| is_delete).cloned()
}

fn comm(pid: i32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// Starts containerd, unless somebody already has.
fn restart(storm: &Storm) -> anyhow::Result<()> {
    let deadline = Instant::now() + RESTART;
    loop {
        let start = Command::new("systemctl").args(["start", "containerd"]).status();
        let started = start.context("cannot run systemctl")?.success();
        if started && answers(&storm.options.socket) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "containerd does not come back");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn answers(socket: &Path) -> bool {
    frostlock_cri::Client::connect(socket).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_delete_leaves_is_known_by_its_id() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let kill = |line| Kill {
            victim: Victim::Runtime,
            pid: 1,
            at_ms: 0,
            command: String::new(),
            deletes: deleted(&words(line)),
        };
        let left =
            "/sys/fs/cgroup/freezer/kubepods.slice/cri-containerd-0bdda48118e3.scope is left";
        assert!(kill("runc --root r delete --force 0bdda48118e3").explains(left));
        assert!(!kill("runc --root r delete --force 80436b612364").explains(left));
        assert!(!kill("runc --root r kill --all 0bdda48118e3").explains(left));
    }
}
