//! What is true of a container: its first process, its cgroup, its freezer.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use cgroup::process::{self, Process};
use cgroup::{Freezer, Hierarchies, Identity, Membership, Proc, Reader};
use state::state_dir::StateDir;

use super::claim::{Container, Fate, Init, Seen, Status, Truth};
use super::supervisor;

/// More are counted, not listed; a fork bomb must not hold us up.
const MOST_MEMBERS: usize = 4096;

/// Fills in the truth of every container.
pub(crate) fn establish(seen: &mut Seen, mounts: &Hierarchies, ours: &StateDir) {
    let mut users: BTreeMap<Identity, usize> = BTreeMap::new();
    for cgroup in seen.containers.iter().filter_map(|container| container.cgroup.clone()) {
        *users.entry(cgroup).or_default() += 1;
    }
    for container in &mut seen.containers {
        let shared = container.cgroup.as_ref().is_some_and(|cgroup| users.get(cgroup) != Some(&1));
        container.truth = of(container, shared, mounts, ours);
    }
}

fn of(container: &Container, shared: bool, mounts: &Hierarchies, ours: &StateDir) -> Truth {
    let fate = container.init.map_or(Fate::Unknown, |init| match fate(init) {
        Fate::Alive if init.start.is_none() && is_elsewhere(init, container, mounts) => {
            Fate::Reused
        }
        fate => fate,
    });
    let supervisor = supervisor::of_container(container);
    let mut truth = Truth { fate, supervisor, ..Truth::default() };
    let Some(cgroup) = container.cgroup.as_ref().filter(|cgroup| !cgroup.is_root()) else {
        return truth;
    };
    let reader = Reader::new(mounts, cgroup);
    truth.freezer = reader.freezer();
    if matches!(truth.freezer, Freezer::Frozen | Freezer::Freezing) {
        truth.frozen_itself = reader.is_told_to_freeze();
        let own = reader.freezer_dir().map(|(_, dir)| dir.to_owned());
        let own = own.filter(|_| truth.frozen_itself);
        truth.frozen_at = own.or_else(|| reader.frozen_ancestor());
        truth.paused_on_record =
            state::record::is_paused_on_record(ours, OsStr::new(&container.id));
    }
    truth.shared = shared;
    // Of one that runs nobody asks, and a look comes every 300 ms.
    let has_ended = container.claims.iter().any(|claim| claim.status == Status::Stopped);
    if has_ended || truth.fate.is_dead() {
        (truth.inhabitants, truth.units) = inhabitants(mounts, cgroup);
    }
    if !shared {
        truth.members = members(mounts, cgroup);
    }
    truth
}

/// A pid and its start time are a process; a pid alone may be another's by now.
pub(crate) fn fate(init: Init) -> Fate {
    let Some(now) = Process::of(init.pid) else { return Fate::Gone };
    if init.start.is_some_and(|start| start != now.start) {
        return Fate::Reused;
    }
    match now.state() {
        None => Fate::Gone,
        // The first thread may have ended before the others, as Go's and Java's sometimes do.
        Some('Z' | 'X') if !has_living_thread(init.pid) => {
            Fate::Zombie { parent: process::parent_of(init.pid) }
        }
        Some(_) => Fate::Alive,
    }
}

fn has_living_thread(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let states = threads.filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    });
    states.into_iter().any(|state| !matches!(state, 'Z' | 'X'))
}

/// Whether that process is in a cgroup that is not the container's.
fn is_elsewhere(init: Init, container: &Container, mounts: &Hierarchies) -> bool {
    let Some(cgroup) = &container.cgroup else { return false };
    let there = Membership::of(&Proc::default(), &init.pid.to_string());
    let there = there.ok().and_then(|membership| membership.identity(mounts));
    there.is_some_and(|there| !there.as_path().starts_with(cgroup.as_path()))
}

/// The living processes of a cgroup and of those below it. Zombies stay in theirs until somebody
/// takes note of them.
pub(crate) fn members(mounts: &Hierarchies, cgroup: &Identity) -> Vec<Process> {
    let Some(dir) = naming_dir(mounts, cgroup) else { return Vec::new() };
    let mut members = Vec::new();
    collect(&dir, &mut members);
    members.sort_by_key(|process| process.pid);
    members
}

/// What lives in a cgroup or below it, in all hierarchies: on v1 systemd keeps a unit's processes in
/// one of its own, where the runtime's freezer does not show them. With the units that they are in,
/// which are what is named so, as systemd names no cgroup otherwise.
fn inhabitants(mounts: &Hierarchies, cgroup: &Identity) -> (Vec<Process>, Vec<String>) {
    let (mut all, mut units) = (Vec::new(), Vec::new());
    for dir in mounts.dirs(cgroup) {
        populated(&dir, &mut all, &mut units);
    }
    all.sort_by_key(|process| process.pid);
    all.dedup();
    units.sort();
    units.dedup();
    (all, units)
}

fn populated(dir: &Path, all: &mut Vec<Process>, units: &mut Vec<String>) {
    let before = all.len();
    collect_own(dir, all);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if all.len() < MOST_MEMBERS && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            populated(&entry.path(), all, units);
        }
    }
    let name = dir.file_name().and_then(OsStr::to_str).unwrap_or_default();
    if all.len() > before && is_unit(name) {
        units.push(name.to_owned());
    }
}

fn is_unit(name: &str) -> bool {
    [".service", ".scope"].iter().any(|suffix| name.ends_with(suffix))
}

/// The directory in the hierarchy that names containers.
pub(crate) fn naming_dir(mounts: &Hierarchies, cgroup: &Identity) -> Option<PathBuf> {
    let reader = Reader::new(mounts, cgroup);
    let dir = reader.freezer_dir().or(reader.cpu_dir()).map(|(_, dir)| dir.to_owned());
    dir.filter(|dir| dir.is_dir())
}

fn collect(dir: &Path, into: &mut Vec<Process>) {
    collect_own(dir, into);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if into.len() < MOST_MEMBERS && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), into);
        }
    }
}

fn collect_own(dir: &Path, into: &mut Vec<Process>) {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let pids = procs.lines().filter_map(|line| line.parse().ok());
    // Those of another pid namespace are 0.
    let alive = pids.filter(|pid| *pid > 0).filter_map(Process::of);
    let room = MOST_MEMBERS.saturating_sub(into.len());
    into.extend(alive.filter(|process| fate(known(*process)) == Fate::Alive).take(room));
}

fn known(process: Process) -> Init {
    Init { pid: process.pid, start: Some(process.start) }
}

/// For a person: `sleep (4711)`.
pub(crate) fn named(pid: i32) -> String {
    let name = process::comm(pid).unwrap_or_else(|| "?".to_owned());
    let name = cgroup::text::one_line(OsStr::new(&name), 32);
    format!("{name} ({pid})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_with_another_start_time_is_another_process() {
        let pid = std::process::id() as i32;
        let start = Process::of(pid).unwrap().start;
        assert_eq!(fate(Init { pid, start: Some(start) }), Fate::Alive);
        assert_eq!(fate(Init { pid, start: Some(start + 1) }), Fate::Reused);
        assert_eq!(fate(Init { pid: i32::MAX, start: None }), Fate::Gone);
    }

    #[test]
    fn a_zombie_is_dead_and_names_its_parent() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        let dead = || fate(Init { pid, start: None });
        for _ in 0..200 {
            if dead().is_dead() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(dead(), Fate::Zombie { parent: Some(std::process::id() as i32) });
        child.wait().unwrap();
        assert_eq!(dead(), Fate::Gone);
    }
}
