//! Where a selftest takes place: a directory in /run and cgroups at the root of the tree, all named by
//! the process that owns them. What one that was killed has left is found by that name.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cgroup::freeze;
use cgroup::process::Process;
use cgroup::{Identity, Reader};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::hierarchy::Cgroups;
use crate::node::processes;
use crate::node::tree::Driver;
use crate::program;

const PREFIX: &str = "frostlock-selftest-";

/// Where systemd puts what names no slice.
const SLICE: &str = "system.slice";

/// Where state of the runtime and of the wrapper is on a node, too.
const RUN: &str = "/run";

/// A killed thread of a cgroup that has lost its quota ends at once, beside a busy machine's others.
const CLEAR_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// systemd does it in milliseconds once a scope has no process.
const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// All of it goes when this is dropped; [`Place::clear`] says whether it went.
#[derive(Debug)]
pub(super) struct Place {
    name: String,
    cgroups: Cgroups,
    driver: Driver,
}

impl Place {
    pub(super) fn make(cgroups: Cgroups, driver: Driver) -> anyhow::Result<Place> {
        let own = Process::ourselves().context("cannot read /proc/self/stat: is /proc mounted?")?;
        let place = Place { name: format!("{PREFIX}{}-{}", own.pid, own.start), cgroups, driver };
        std::fs::DirBuilder::new().mode(0o700).create(place.directory()).with_context(|| {
            format!("cannot make the directory {}", place.directory().display())
        })?;
        Ok(place)
    }

    pub(super) fn directory(&self) -> PathBuf {
        Path::new(RUN).join(&self.name)
    }

    /// A container, of which there is one at a time.
    pub(super) fn container(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// As the runtime is told it: a path, or slice, prefix and name of a scope.
    pub(super) fn cgroups_path(&self, container: &str) -> String {
        match (self.driver, container.strip_prefix(PREFIX)) {
            (Driver::Systemd, Some(name)) => {
                format!("{SLICE}:{}:{name}", PREFIX.trim_end_matches('-'))
            }
            _ => format!("/{container}"),
        }
    }

    pub(super) fn files(&self, container: &str) -> anyhow::Result<Reader> {
        let below = match self.driver {
            Driver::Cgroupfs => container.into(),
            Driver::Systemd => Path::new(SLICE).join(format!("{container}.scope")),
        };
        let root = Identity::new(self.cgroups.mounts.naming_root());
        let cgroup = root.and_then(|it| it.join(below)).context("no cgroup is mounted")?;
        Ok(Reader::new(&self.cgroups.readable, &cgroup))
    }

    pub(super) fn has_cgroups(&self) -> bool {
        !directories(&self.cgroups, |it| it.starts_with(&self.name)).is_empty()
    }

    /// Everything of ours, containers included, without the runtime: what it has left is to go as well.
    pub(super) fn clear(&self) -> anyhow::Result<()> {
        clear(&self.cgroups, |it| it.starts_with(&self.name))?;
        match std::fs::remove_dir_all(self.directory()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.directory().display()))
            }
            _ => Ok(()),
        }
    }

    /// The cgroups alone, between two containers.
    pub(super) fn clear_cgroups(&self) -> anyhow::Result<()> {
        clear(&self.cgroups, |it| it.starts_with(&self.name))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

/// What selftests that were killed have left; says what it was. From another pid namespace a living one
/// looks dead, so nothing is looked for there.
pub(super) fn clear_leftovers(cgroups: &Cgroups) -> anyhow::Result<Vec<String>> {
    if !processes::is_first_pid_namespace() {
        return Ok(Vec::new());
    }
    let mut said = Vec::new();
    let groups = directories(cgroups, is_of_the_dead);
    if !groups.is_empty() {
        clear(cgroups, is_of_the_dead)?;
        said.extend(groups.iter().map(|it| it.display().to_string()));
    }
    for entry in std::fs::read_dir(RUN).into_iter().flatten().flatten() {
        if is_of_the_dead(&entry.file_name().to_string_lossy()) {
            std::fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            said.push(entry.path().display().to_string());
        }
    }
    Ok(said)
}

fn is_of_the_dead(name: &str) -> bool {
    owner(name).is_some_and(|owner| !owner.is_alive())
}

/// `PREFIX PID-START`, and of a container `-NUMBER`, with systemd `.scope`.
fn owner(name: &str) -> Option<Process> {
    let mut numbers = name.strip_prefix(PREFIX)?.split('-');
    let (pid, start) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some(Process { pid, start })
}

/// In all hierarchies, those below others first.
pub(super) fn directories(cgroups: &Cgroups, is_meant: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Some(root) = Identity::new(cgroups.mounts.naming_root()) else { return Vec::new() };
    let roots = cgroups.all.iter().filter_map(|it| it.dir(&root));
    let mut found = Vec::new();
    for root in roots.flat_map(|it| [it.join(SLICE), it]) {
        for (name, dir) in below(&root) {
            if name.to_str().is_some_and(&is_meant) {
                collect(&dir, &mut found);
            }
        }
    }
    found
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for (_, dir) in below(dir) {
        collect(&dir, into);
    }
    into.push(dir.to_owned());
}

fn below(dir: &Path) -> impl Iterator<Item = (OsString, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|it| (it.file_name(), it.path()))
}

/// Ends all that is in the cgroups of these names, and removes them.
pub(super) fn clear(cgroups: &Cgroups, is_meant: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + CLEAR_WITHIN;
    loop {
        let dirs = directories(cgroups, &is_meant);
        let Some(last) = dirs.last() else { return Ok(()) };
        if Instant::now() >= deadline {
            bail!("{} is still there after {} s", last.display(), CLEAR_WITHIN.as_secs());
        }
        for dir in &dirs {
            end_all(cgroups, dir);
        }
        if dirs.iter().all(|dir| pids(dir).is_empty()) {
            stop_units(&dirs);
            // Each one that can go goes; the next turn sees what is left.
            for dir in &dirs {
                let _ = std::fs::remove_dir(dir);
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Not before its processes are gone, to which systemd would give 90 s; and before its directory is, as
/// systemd would take the unit for one that runs ever after.
fn stop_units(dirs: &[PathBuf]) {
    let names = dirs.iter().filter_map(|dir| dir.file_name()?.to_str());
    let is_unit = |it: &&str| it.ends_with(".scope") || it.ends_with(".slice");
    let units: BTreeSet<&str> = names.filter(is_unit).collect();
    for unit in units {
        // It fails where systemd was quicker.
        let _ = program::run(Command::new("systemctl").args(["stop", "--", unit]), STOPS_WITHIN);
    }
}

fn pids(dir: &Path) -> Vec<i32> {
    let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 is of a process that this pid namespace does not have.
    procs.lines().filter_map(|it| it.parse().ok()).filter(|pid| *pid > 0).collect()
}

/// Ends the processes of a cgroup, be they frozen or out of quota.
fn end_all(cgroups: &Cgroups, dir: &Path) {
    let holding = cgroups.all.iter().find(|it| dir.starts_with(&it.mountpoint));
    let below = holding.and_then(|it| Some(it.root.join(dir.strip_prefix(&it.mountpoint).ok()?)));
    let Some(cgroup) = below.and_then(Identity::new) else { return };
    freeze::thaw(&Reader::new(&cgroups.readable, &cgroup));
    for (file, none) in [("cpu.cfs_quota_us", "-1"), ("cpu.max", "max")] {
        let file = dir.join(file);
        if file.is_file() {
            let _ = std::fs::write(file, none);
        }
    }
    for pid in pids(dir) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_told_by_the_name() {
        let own = Process::ourselves().unwrap();
        let name = format!("{PREFIX}{}-{}", own.pid, own.start);
        assert_eq!(owner(&name), Some(own));
        assert_eq!(owner(&format!("{name}-3")), Some(own));
        assert_eq!(owner(&format!("{name}-3.scope")), Some(own));
        assert!(!is_of_the_dead(&name));
        // The same pid, of another time.
        assert!(is_of_the_dead(&format!("{PREFIX}{}-1", own.pid)));
        for others in ["frostlock-selftest-", "frostlock-selftest-x-1", "kubepods", "frostlock"] {
            assert_eq!(owner(others), None);
            assert!(!is_of_the_dead(others), "{others}");
        }
    }
}
