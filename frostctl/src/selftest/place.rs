//! A selftest's place: a directory in /run, and cgroups at the root of the tree, all named after
//! the process that owns them. By these names, leftovers of a killed selftest are found.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cgroup::freeze;
use cgroup::process::Process;
use cgroup::read::children;
use cgroup::{Identity, Reader};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::hierarchy::Cgroups;
use crate::node::processes;
use crate::node::tree::Driver;
use crate::program;

const PREFIX: &str = "frostlock-selftest-";

/// Where systemd puts a scope without a named slice.
const SLICE: &str = "system.slice";

/// On a node, the state of the runtime and of frostlock is there, too.
const RUN: &str = "/run";

/// A killed thread in a cgroup without a quota ends at once, even on a busy machine.
const CLEAR_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// systemd stops a scope without processes in milliseconds.
const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// Everything is removed on drop; [`Place::clear`] reports whether that worked.
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

    /// The name of a container; there is one at a time.
    pub(super) fn container(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// As the runtime expects it: a path, or a scope's slice, prefix and name.
    pub(super) fn cgroups_path(&self, container: &str) -> String {
        match (self.driver, container.strip_prefix(PREFIX)) {
            (Driver::Systemd, Some(name)) => {
                format!("{SLICE}:{}:{name}", PREFIX.trim_end_matches('-'))
            }
            _ => format!("/{container}"),
        }
    }

    pub(super) fn files(&self, container: &str) -> anyhow::Result<Reader> {
        reader(
            &self.cgroups,
            &match self.driver {
                Driver::Cgroupfs => container.into(),
                Driver::Systemd => Path::new(SLICE).join(format!("{container}.scope")),
            },
        )
    }

    pub(super) fn has_cgroups(&self) -> bool {
        !directories(&self.cgroups, |it| it.starts_with(&self.name)).is_empty()
    }

    /// Removes everything of ours without the runtime, including containers: the runtime's
    /// leftovers, too.
    pub(super) fn clear(&self) -> anyhow::Result<()> {
        self.clear_cgroups()?;
        match std::fs::remove_dir_all(self.directory()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.directory().display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes only the cgroups, between two containers.
    pub(super) fn clear_cgroups(&self) -> anyhow::Result<()> {
        clear(&self.cgroups, |it| it.starts_with(&self.name))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

/// Removes what killed selftests have left, and says what it was.
pub(super) fn clear_leftovers(cgroups: &Cgroups) -> anyhow::Result<Vec<String>> {
    let mut said = clear_and_name(cgroups, is_of_the_dead)?;
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

/// Of `PREFIX PID-START`, for a container with `-NUMBER`, with systemd also `.scope`.
fn owner(name: &str) -> Option<Process> {
    processes::named_by(name.strip_prefix(PREFIX)?, &['-'])
}

/// The files of a cgroup at the root of the tree.
pub(super) fn reader(cgroups: &Cgroups, below: &Path) -> anyhow::Result<Reader> {
    let root = Identity::new(cgroups.mounts.naming_root());
    let cgroup = root.and_then(|it| it.join(below)).context("no cgroup is mounted")?;
    Ok(Reader::new(&cgroups.readable, &cgroup))
}

/// In all hierarchies, children first.
pub(super) fn directories(cgroups: &Cgroups, is_meant: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Some(root) = Identity::new(cgroups.mounts.naming_root()) else { return Vec::new() };
    let roots = cgroups.all.iter().filter_map(|it| it.dir(&root));
    let mut found = Vec::new();
    for root in roots.flat_map(|it| [it.join(SLICE), it]) {
        for dir in children(&root) {
            if dir.file_name().and_then(OsStr::to_str).is_some_and(&is_meant) {
                collect(&dir, &mut found);
            }
        }
    }
    found
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for dir in children(dir) {
        collect(&dir, into);
    }
    into.push(dir.to_owned());
}

/// Clears the cgroups with these names, and names their directories.
pub(super) fn clear_and_name(
    cgroups: &Cgroups,
    is_meant: impl Fn(&str) -> bool,
) -> anyhow::Result<Vec<String>> {
    let dirs = directories(cgroups, &is_meant);
    clear(cgroups, is_meant)?;
    Ok(dirs.iter().map(|it| it.display().to_string()).collect())
}

/// Ends all processes in the cgroups with these names, and removes the cgroups.
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
            // Removes what it can; the next pass sees what is left.
            for dir in &dirs {
                let _ = std::fs::remove_dir(dir);
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Called when the processes are gone: systemd would give them 90 s. But before the directory is
/// gone: systemd would consider the unit running forever.
fn stop_units(dirs: &[PathBuf]) {
    let names = dirs.iter().filter_map(|dir| dir.file_name()?.to_str());
    let is_unit = |it: &&str| it.ends_with(".scope") || it.ends_with(".slice");
    let units: BTreeSet<&str> = names.filter(is_unit).collect();
    for unit in units {
        // This fails if systemd was quicker.
        let _ = program::run(Command::new("systemctl").args(["stop", "--", unit]), STOPS_WITHIN);
    }
}

fn pids(dir: &Path) -> Vec<i32> {
    let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // Processes outside this pid namespace appear as 0.
    procs.lines().filter_map(|it| it.parse().ok()).filter(|pid| *pid > 0).collect()
}

/// Ends the processes of a cgroup, even if frozen or out of quota.
fn end_all(cgroups: &Cgroups, dir: &Path) {
    let holding = cgroups.all.iter().find(|it| dir.starts_with(&it.mountpoint));
    let below = holding.and_then(|it| Some(it.root.join(dir.strip_prefix(&it.mountpoint).ok()?)));
    let Some(cgroup) = below.and_then(Identity::new) else { return };
    freeze::thaw(&Reader::new(&cgroups.readable, &cgroup));
    unlimit(dir);
    for pid in pids(dir) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Removes the CPU limit, so that everything in the cgroup can end at once.
pub(super) fn unlimit(dir: &Path) {
    for (file, none) in [("cpu.cfs_quota_us", "-1"), ("cpu.max", "max")] {
        let file = dir.join(file);
        if file.is_file() {
            let _ = std::fs::write(file, none);
        }
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
        // The same pid, from another time.
        assert!(is_of_the_dead(&format!("{PREFIX}{}-1", own.pid)));
        for others in ["frostlock-selftest-", "frostlock-selftest-x-1", "kubepods", "frostlock"] {
            assert_eq!(owner(others), None);
            assert!(!is_of_the_dead(others), "{others}");
        }
    }
}
