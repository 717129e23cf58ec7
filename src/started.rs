//! When has the process started that a foreground `run`, `restore` or `exec` stays for?
//!
//! From then on the runtime only waits, and nothing of its work can collide with a freeze: the lock
//! is given back. The kernel tells nobody that a process has executed something, so this looks, for
//! a bounded time.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use std::os::unix::fs::MetadataExt;

use crate::process;
use crate::runtime::Attempt;

/// How often to look at first, and at the most seldom; in between as often as not to be later by more
/// than a part of the time that it has taken already: where many start at once, each takes long, and
/// their looks would be a third of the work.
const LOOK_FIRST: Duration = Duration::from_millis(2);
const LOOK_SELDOM: Duration = Duration::from_millis(20);
const PART: u32 = 5;
/// kubelet waits no longer for anything of a container.
const LOOK_MAX: Duration = Duration::from_secs(120);

/// What is to be seen of a start.
#[derive(Debug)]
pub(crate) struct StartWatch {
    pid_file: Option<(PathBuf, Option<Stamp>)>,
    hold_max: Duration,
    /// Else /proc would show us a stranger under the runtime's pid.
    sees_pids: bool,
}

/// Tells a pid file from the one that was there before.
type Stamp = (u64, Option<SystemTime>, u64);

/// What the last look showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    NotYet {
        look_again_in: Duration,
    },
    Started,
    /// Not yet, and for longer than anybody is to wait for it.
    Overdue {
        look_again_in: Duration,
    },
    /// It is not to be seen.
    GivenUp,
}

impl StartWatch {
    pub(crate) fn new(pid_file: Option<&Path>, hold_max: Duration) -> StartWatch {
        let pid_file = pid_file.map(|path| (path.to_owned(), stamp(path)));
        StartWatch { pid_file, hold_max, sees_pids: process::pids_are_of_proc() }
    }

    pub(crate) fn look(&self, attempt: &Attempt) -> Sight {
        if self.pid_file_written() || (self.sees_pids && process_started(attempt.pid())) {
            return Sight::Started;
        }
        let elapsed = attempt.elapsed();
        let look_again_in = (elapsed / PART).clamp(LOOK_FIRST, LOOK_SELDOM);
        let is_visible = self.sees_pids || self.pid_file.is_some();
        match elapsed >= self.hold_max {
            false => Sight::NotYet { look_again_in },
            true if is_visible && elapsed < LOOK_MAX => Sight::Overdue { look_again_in },
            true => Sight::GivenUp,
        }
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

/// The process is a child of the runtime's, in the container's cgroup, and no longer a stage of the
/// runtime's own. A hook is a child, too, but stays in the runtime's cgroup.
fn process_started(runtime: i32) -> bool {
    let cgroup = |pid: i32| std::fs::read(format!("/proc/{pid}/cgroup")).ok();
    process::children(runtime).into_iter().any(|child| {
        let Some(name) = process::comm(child).filter(|name| !is_stage(name)) else { return false };
        process::comm(runtime).is_some_and(|own| own != name) && {
            let cgroup_of_child = cgroup(child);
            cgroup_of_child.is_some() && cgroup_of_child != cgroup(runtime)
        }
    })
}

/// The names of a runtime's own stages on the way to the container's process: runc and youki name
/// them `runc:[2:INIT]`; before that the kernel takes the name from how it was executed, which is
/// `exe` for /proc/self/exe and the number of a descriptor for fexecve (runc's and crun's sealed
/// copies of themselves).
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
        let watch = StartWatch::new(Some(&path), Duration::ZERO);
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
        let watch = StartWatch::new(Some(&path), Duration::ZERO);
        std::fs::write(&path, "").unwrap();
        assert!(!watch.pid_file_written());
        std::fs::write(&path, "2").unwrap();
        assert!(watch.pid_file_written());
    }
}
