//! The fixes of `--fix`. Each looks again just before it acts, and does nothing that could take a
//! process or a setting from anybody.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use cgroup::freeze;
use cgroup::read::Version;
use cgroup::{Freezer, Identity, Reader};
use serde::{Serialize, Serializer};
use state::lock::{Acquired, Guard, LockFiles, Mode};
use state::remains;

use super::node::Node;
use super::trial;
use crate::node::hierarchy::{Hierarchy, words};
use crate::node::{lift, root};
use crate::program;

/// How long a fix waits for the lock of a cgroup that is in use.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// systemd answers in milliseconds, or not at all.
const SYSTEMD_WITHIN: Duration = Duration::from_secs(10);

const THAWS_WITHIN: Duration = Duration::from_secs(1);

/// A trial's process ends by itself once its doctor is gone.
const TRIAL_ENDS_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub(crate) enum Fix {
    /// Makes the cgroup in all hierarchies, with its controllers.
    MakeCgroup(Identity),
    StartSlice {
        unit: String,
        cgroup: Identity,
    },
    Mount {
        controller: String,
        mountpoint: PathBuf,
    },
    /// Undoes a freeze that a killed operation of frostlock left.
    Undo(Identity),
    /// Thaws a cgroup because the user asked for it.
    Thaw(Identity),
    RemoveCgroups {
        pod: String,
        dirs: Vec<PathBuf>,
    },
    /// Removes the cgroup of a trial whose doctor was killed.
    RemoveTrial {
        cgroup: Identity,
        dirs: Vec<PathBuf>,
    },
    RemoveState(Vec<PathBuf>),
    RemoveNote(PathBuf),
    /// Puts back the threads in the note of a dead lifter.
    PutBack(PathBuf),
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fix::MakeCgroup(cgroup) => write!(f, "make {cgroup} and enable its controllers"),
            Fix::StartSlice { unit, .. } => {
                write!(f, "systemctl start {unit}, with its accounting on")
            }
            Fix::Mount { controller, mountpoint } => {
                write!(f, "mount -t cgroup -o {controller} cgroup {}", mountpoint.display())
            }
            Fix::Undo(cgroup) => write!(f, "thaw {cgroup}, under its lock, and remove the note"),
            Fix::Thaw(cgroup) => write!(f, "thaw {cgroup}"),
            Fix::RemoveCgroups { pod, dirs } => {
                write!(f, "remove {} empty cgroup directories of pod {pod}", dirs.len())
            }
            Fix::RemoveTrial { cgroup, .. } => write!(f, "thaw {cgroup} and remove it"),
            Fix::RemoveState(files) => write!(f, "remove {} stale files", files.len()),
            Fix::RemoveNote(path) => write!(f, "remove {}", path.display()),
            Fix::PutBack(note) => write!(f, "put back the threads of {}", note.display()),
        }
    }
}

impl Serialize for Fix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Fix {
    /// Applies the fix, and says what was done.
    pub(crate) fn run(&self, node: &Node) -> anyhow::Result<String> {
        match self {
            Fix::MakeCgroup(cgroup) => make(node, cgroup),
            Fix::StartSlice { unit, cgroup } => start_slice(node, unit, cgroup),
            Fix::Mount { controller, mountpoint } => mount(controller, mountpoint),
            Fix::Undo(cgroup) => {
                let said = remains::undo(&node.ours.state, cgroup, LOCK_WAIT);
                let said = said.with_context(|| cgroup.to_string())?;
                Ok(if said.is_empty() {
                    format!("removed the notes of {cgroup}; nothing was frozen")
                } else {
                    said.join("; ")
                })
            }
            Fix::Thaw(cgroup) => thaw(node, cgroup),
            Fix::RemoveCgroups { pod, dirs } => remove_cgroups(pod, dirs),
            Fix::RemoveTrial { cgroup, dirs } => remove_trial(node, cgroup, dirs),
            Fix::RemoveState(files) => remove_state(files),
            Fix::RemoveNote(path) => {
                std::fs::remove_file(path).with_context(|| path.display().to_string())?;
                Ok(format!("removed {}", path.display()))
            }
            Fix::PutBack(note) => {
                let threads = lift::put_back(&node.ours.state, note);
                Ok(format!("put back {threads} threads of {}", note.display()))
            }
        }
    }
}

fn make(node: &Node, cgroup: &Identity) -> anyhow::Result<String> {
    let mut made = Vec::new();
    for hierarchy in node.cgroups.used() {
        let Some(dir) = hierarchy.dir(cgroup) else { continue };
        if !dir.is_dir() {
            made.push(dir.display().to_string());
        }
        match hierarchy.version {
            Version::V1 => make_below(hierarchy, &dir)?,
            Version::V2 => made.extend(make_enabled(hierarchy, cgroup, &dir)?),
        }
    }
    Ok(if made.is_empty() {
        format!("{cgroup} was in order already")
    } else {
        format!("made {}", made.join(", "))
    })
}

/// Also makes missing parents. A new v1 cpuset has neither CPUs nor memory nodes, and no task can
/// join it before it has both; like runc, this copies the parent's.
fn make_below(hierarchy: &Hierarchy, dir: &Path) -> anyhow::Result<()> {
    let Some(parent) = dir.parent().filter(|_| dir != hierarchy.mountpoint) else { return Ok(()) };
    make_below(hierarchy, parent)?;
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| dir.display().to_string());
        }
        _ => {}
    }
    if hierarchy.version == Version::V1 && hierarchy.has("cpuset") {
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let (ours, theirs) = (dir.join(name), parent.join(name));
            if root::read(&ours).is_ok_and(|text| text.trim().is_empty()) {
                let value = root::read(&theirs).with_context(|| theirs.display().to_string())?;
                std::fs::write(&ours, value.trim()).with_context(|| ours.display().to_string())?;
            }
        }
    }
    Ok(())
}

/// Enables every controller that the root has and kubelet wants, all the way down to the cgroup.
/// For kubelet's root, also for its children: the root has no processes of its own that would
/// prevent it.
fn make_enabled(
    hierarchy: &Hierarchy,
    cgroup: &Identity,
    dir: &Path,
) -> anyhow::Result<Vec<String>> {
    let passes_on = |it: &&Path| *it != dir || cgroup.is_kubepods_root();
    let way: Vec<&Path> =
        dir.ancestors().take_while(|it| it.starts_with(&hierarchy.mountpoint)).collect();
    let mut enabled = Vec::new();
    for at in way.into_iter().rev() {
        make_below(hierarchy, at)?;
        if !passes_on(&at) {
            continue;
        }
        let file = at.join("cgroup.subtree_control");
        let already = words(&file);
        for controller in super::kubelet::wanted_v2(hierarchy) {
            if !already.contains(&controller) {
                // One at a time: the kernel accepts a line as a whole or not at all.
                std::fs::write(&file, format!("+{controller}"))
                    .with_context(|| format!("+{controller} to {}", file.display()))?;
                enabled.push(format!("+{controller} in {}", file.display()));
            }
        }
    }
    Ok(enabled)
}

/// A slice needs no unit file. Accounting makes systemd create it in its hierarchies. In those that
/// systemd does not use (cpuset, freezer), kubelet and runc create it themselves, and so does this
/// fix.
fn start_slice(node: &Node, unit: &str, cgroup: &Identity) -> anyhow::Result<String> {
    systemctl(&["start", unit])?;
    let on = ["CPUAccounting=yes", "MemoryAccounting=yes", "TasksAccounting=yes"];
    systemctl(&[&["set-property", "--runtime", unit][..], &on[..]].concat())?;
    let made = make(node, cgroup)?;
    Ok(format!("started {unit}; {made}"))
}

fn systemctl(args: &[&str]) -> anyhow::Result<()> {
    program::run(Command::new("systemctl").args(args), SYSTEMD_WITHIN).map(drop)
}

fn mount(controller: &str, mountpoint: &Path) -> anyhow::Result<String> {
    let place = mountpoint.display();
    std::fs::create_dir_all(mountpoint).with_context(|| place.to_string())?;
    let flags = nix::mount::MsFlags::MS_NOSUID
        | nix::mount::MsFlags::MS_NODEV
        | nix::mount::MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("cgroup"), mountpoint, Some("cgroup"), flags, Some(controller))
        .with_context(|| format!("mount of {controller} at {place}"))?;
    Ok(format!("mounted {controller} at {place}"))
}

fn thaw(node: &Node, cgroup: &Identity) -> anyhow::Result<String> {
    let files = Reader::new(&node.cgroups.readable, cgroup);
    if files.freezer() == Freezer::Unknown {
        bail!("{cgroup} has no freezer; is it the path of a cgroup?");
    }
    let _guard = in_turn(node, cgroup)?;
    let since = Instant::now();
    freeze::thaw(&files);
    while files.freezer() != Freezer::Thawed {
        if since.elapsed() > THAWS_WITHIN {
            let above = files.frozen_ancestor();
            let above = above.map(|it| format!("; {} is frozen above it", it.display()));
            bail!("{cgroup} is still {:?}{}", files.freezer(), above.unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(format!("thawed {cgroup}"))
}

/// Waits for our own operations, which may have frozen the cgroup for a moment. If the state
/// directory has no locks, no such operation holds one.
fn in_turn(node: &Node, cgroup: &Identity) -> anyhow::Result<Option<Guard>> {
    let Ok(directory) = node.ours.state.locks() else { return Ok(None) };
    match LockFiles::of(cgroup, &directory).acquire(Mode::Exclusive, LOCK_WAIT, None) {
        Acquired::Held(guard) => Ok(Some(guard)),
        Acquired::Unavailable(_) => Ok(None),
        Acquired::Nested(holder) => bail!("{cgroup} is in use, try again: {holder}"),
        Acquired::TimedOut { holders } => {
            let holders: Vec<String> = holders.iter().map(ToString::to_string).collect();
            bail!("{cgroup} is in use, try again: {}", holders.join(", "))
        }
    }
}

/// The cgroup's name and its process show that it is ours, so it is thawed without asking.
fn remove_trial(node: &Node, cgroup: &Identity, dirs: &[PathBuf]) -> anyhow::Result<String> {
    let mut pids = dirs.iter().flat_map(|dir| words(&dir.join("cgroup.procs")));
    if let Some(pid) = pids.find(|pid| !trial::is_of_a_trial(pid)) {
        bail!("{cgroup} has pid {pid} in it, which is none of doctor's");
    }
    freeze::thaw(&Reader::new(&node.cgroups.readable, cgroup));
    let since = Instant::now();
    loop {
        match remove_empty(dirs) {
            Ok(_) => return Ok(format!("removed {cgroup}")),
            Err((_, why)) if since.elapsed() > TRIAL_ENDS_WITHIN => bail!(why),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn remove_cgroups(pod: &str, dirs: &[PathBuf]) -> anyhow::Result<String> {
    let said = |removed| format!("removed {removed} cgroup directories of pod {pod}");
    remove_empty(dirs).map(said).map_err(|(removed, why)| anyhow!("{}; {why}", said(removed)))
}

/// The kernel itself refuses to remove a cgroup that has a process; the others are still removed.
/// Returns how many were removed, and why the rest stays.
fn remove_empty(dirs: &[PathBuf]) -> Result<usize, (usize, String)> {
    let mut removed = 0;
    let mut kept = Vec::new();
    for dir in dirs {
        match std::fs::remove_dir(dir) {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => kept.push(format!("{}: {error}", dir.display())),
        }
    }
    match kept.as_slice() {
        [] => Ok(removed),
        [one] => Err((removed, one.clone())),
        [first, more @ ..] => Err((removed, format!("{first}, and {} more are left", more.len()))),
    }
}

fn remove_state(files: &[PathBuf]) -> anyhow::Result<String> {
    let mut removed = 0;
    let mut kept = Vec::new();
    for file in files {
        // The other file of a pair may have gone with the first.
        match remains::remove_stale(file) {
            Ok(()) => removed += 1,
            Err(why) => kept.push(format!("{}: {:#}", file.display(), anyhow::Error::new(why))),
        }
    }
    if kept.is_empty() {
        Ok(format!("removed {removed} stale files"))
    } else {
        bail!(kept.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_removed_does_not_keep_the_rest() {
        let scratch = tempfile::tempdir().unwrap();
        let [busy, empty] = ["busy", "empty"].map(|it| scratch.path().join(it));
        std::fs::create_dir_all(busy.join("below")).unwrap();
        std::fs::create_dir(&empty).unwrap();
        let error = remove_cgroups("x", &[busy.clone(), empty.clone()]).unwrap_err().to_string();
        assert!(error.starts_with("removed 1 ") && error.contains("busy"), "{error}");
        assert!(!empty.exists() && busy.exists());
    }
}
