//! Has the process started for which a foreground `run`, `restore` or `exec` stays?
//!
//! From then on the runtime only waits, and nothing it does can collide with a freeze: the lock is
//! given back. The kernel does not announce that a process has executed a program, so this looks for
//! it, for a bounded time.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use std::os::unix::fs::MetadataExt;

use crate::family::{self, FIRST_LOOK, Family};
use crate::runtime::Child;
use cgroup::process;
use cgroup::threads::Threads;

/// How long to keep the lock for a foreground process that we do not see start: longer than it takes on
/// a node at load 10, and shorter than a shim waits.
const HOLD_MAX: Duration = Duration::from_secs(2);
/// kubelet does not wait longer for anything of a container.
const LOOK_MAX: Duration = Duration::from_secs(120);

/// Watches for the start.
#[derive(Debug)]
pub(crate) struct StartWatch {
    pid_file: Option<(PathBuf, Option<Stamp>)>,
    /// Otherwise /proc would show us another process under the runtime's pid.
    sees_pids: bool,
    /// A restored process never does.
    executes: bool,
}

/// Distinguishes a pid file from the one that was there before.
type Stamp = (u64, Option<SystemTime>, u64);

/// The result of the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    NotYet {
        look_again_in: Duration,
    },
    Started,
    /// Not yet, and for longer than any operation should wait for it.
    Overdue {
        look_again_in: Duration,
    },
    /// It cannot be seen.
    GivenUp,
}

impl StartWatch {
    pub(crate) fn new(pid_file: Option<&Path>, executes: bool) -> StartWatch {
        let pid_file = pid_file.map(|path| (path.to_owned(), stamp(path)));
        StartWatch { pid_file, sees_pids: process::pids_are_of_proc(), executes }
    }

    pub(crate) fn look(&self, child: &Child, family: &mut Family, now: Instant) -> Sight {
        let elapsed = child.elapsed();
        if let Some(look_again_in) = FIRST_LOOK.checked_sub(elapsed) {
            return Sight::NotYet { look_again_in };
        }
        if self.pid_file_written() || (self.sees_pids && self.process_started(family, now)) {
            return Sight::Started;
        }
        let look_again_in = family::look_again_in(elapsed);
        let is_visible = self.sees_pids || self.pid_file.is_some();
        match elapsed >= HOLD_MAX {
            false => Sight::NotYet { look_again_in },
            true if is_visible && elapsed < LOOK_MAX => Sight::Overdue { look_again_in },
            true => Sight::GivenUp,
        }
    }

    /// Whether the process is a child of the runtime, in the container's cgroup, and no longer one of
    /// the runtime's own stages. A hook is a child, too, but stays in the runtime's cgroup.
    fn process_started(&self, family: &mut Family, now: Instant) -> bool {
        family.look(now);
        let cgroup = |pid: i32| std::fs::read(format!("/proc/{pid}/cgroup")).ok();
        let has_executed = |child: &&Threads| {
            let stat = child.stat();
            stat.is_some_and(|now| !(self.executes && now.has_not_executed()))
        };
        family.children().filter(has_executed).any(|child| {
            let name = process::comm(child.pid()).filter(|name| !is_stage(name));
            name.is_some_and(|name| process::comm(family.pid()).is_some_and(|own| own != name)) && {
                let cgroup_of_child = cgroup(child.pid());
                cgroup_of_child.is_some() && cgroup_of_child != cgroup(family.pid())
            }
        })
    }

    fn pid_file_written(&self) -> bool {
        self.pid_file.as_ref().is_some_and(|(path, before)| {
            let now = stamp(path);
            now.is_some_and(|(_, _, length)| length > 0) && now != *before
        })
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.modified().ok(), metadata.len()))
}

/// The names of a runtime's own stages on the way to the container's process. runc and youki name them
/// `runc:[2:INIT]`. Before that the kernel takes the name from how the stage was executed: `exe` for
/// /proc/self/exe, and the number of a descriptor for fexecve (runc's and crun's sealed copies of
/// themselves).
fn is_stage(name: &str) -> bool {
    (name.contains(":[") && name.ends_with(']'))
        || matches!(name, "exe" | "runc" | "crun" | "youki")
        || name.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_of_the_runtimes_are_not_the_process() {
        for stage in ["runc:[0:PARENT]", "runc:[2:INIT]", "youki:[2:INIT]", "exe", "7", "crun"] {
            assert!(is_stage(stage), "{stage}");
        }
        for process in ["sleep", "sh", "nginx: master p", "a:[b"] {
            assert!(!is_stage(process), "{process}");
        }
    }

    #[test]
    fn a_pid_file_from_before_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        std::fs::write(&path, "1").unwrap();
        let watch = StartWatch::new(Some(&path), true);
        assert!(!watch.pid_file_written());
        let next = dir.path().join("next");
        std::fs::write(&next, "2").unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert!(watch.pid_file_written());
    }

    #[test]
    fn an_empty_pid_file_is_not_written_yet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let watch = StartWatch::new(Some(&path), true);
        std::fs::write(&path, "").unwrap();
        assert!(!watch.pid_file_written());
        std::fs::write(&path, "2").unwrap();
        assert!(watch.pid_file_written());
    }
}
