//! A freeze as it happens: watching it, waiting for it, taking it back, saying what kept it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cgroup::read::Version;
use crate::cgroup::{Freezer, Reader};
use crate::{process, text};

/// How often to look where a refill can help: runc's looks take 1 to 2 ms before it thaws again. Not by
/// inotify: to close a watch takes the kernel 8 to 16 ms (6.18, 250 Hz), and we end with that.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// How often where there is nothing to do but to find out who keeps it.
const LOOK_SELDOM: Duration = Duration::from_millis(5);

/// A freeze that takes longer than this, thaws in between included, is worth asking who keeps it; and
/// once more after as long again.
const IS_SLOW: Duration = Duration::from_millis(60);

/// Asking costs two reads for each thread, and takes time from the refill.
const MOST_ASKED: u32 = 3;
const MOST_THREADS: usize = 512;

/// Asks for a thaw and does not wait for it. A cgroup that is gone needs none.
pub fn thaw(files: &Reader) {
    let Some((version, dir)) = files.freezer_dir() else { return };
    let (file, thawed) = match version {
        Version::V1 => ("freezer.state", "THAWED"),
        Version::V2 => ("cgroup.freeze", "0"),
    };
    let _ = std::fs::write(dir.join(file), thawed);
}

/// Asks for a freeze and does not wait for it.
pub fn freeze(files: &Reader) -> std::io::Result<()> {
    let Some((version, dir)) = files.freezer_dir() else {
        return Err(std::io::ErrorKind::NotFound.into());
    };
    match version {
        Version::V1 => std::fs::write(dir.join("freezer.state"), "FROZEN"),
        Version::V2 => std::fs::write(dir.join("cgroup.freeze"), "1"),
    }
}

/// The same where it is v1; whether that was possible.
pub(crate) fn freeze_on_v1(files: &Reader) -> bool {
    let v1 = files.freezer_dir().filter(|(version, _)| *version == Version::V1);
    v1.is_some() && freeze(files).is_ok()
}

/// The watch over one cgroup's freezer while the runtime works.
#[derive(Debug)]
pub(crate) struct FreezeWatch {
    files: Reader,
    first_seen: Option<Instant>,
    asked: u32,
    pub(crate) running: Tasks,
}

/// What a look has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Nobody freezes it just now, or it is frozen. Between two tries of runc's on v1 too, which are 10
    /// ms apart: to refill it then made a pause of 32 busy tasks a third faster, and doubled what they
    /// gained, so that 100 pauses in a row spent the budget.
    Quiet,
    /// It is to freeze and has not yet.
    Freezing,
}

impl FreezeWatch {
    pub(crate) fn new(files: &Reader) -> FreezeWatch {
        FreezeWatch { files: files.clone(), first_seen: None, asked: 0, running: Tasks::default() }
    }

    /// Looks, and says when to look again.
    pub(crate) fn look(&mut self, now: Instant, can_help: bool) -> (Sight, Duration) {
        if self.files.freezer() != Freezer::Freezing {
            return (Sight::Quiet, if can_help { LOOK_EVERY } else { LOOK_SELDOM });
        }
        let first = *self.first_seen.get_or_insert(now);
        if now.duration_since(first) > IS_SLOW * (self.asked + 1) && self.asked < MOST_ASKED {
            self.asked += 1;
            self.ask();
        }
        (Sight::Freezing, if can_help { LOOK_EVERY } else { LOOK_SELDOM })
    }

    /// Finds out who runs, or wants to, while it is to freeze.
    pub(crate) fn ask(&mut self) {
        let states: &[u8] = match self.files.freezer_dir() {
            // On v2 what has frozen sleeps interruptibly (`S`), so the others can be told from it.
            Some((Version::V2, _)) => b"RD",
            _ => b"R",
        };
        self.running = Tasks::in_state(&self.files, states);
    }
}

/// Some threads of a cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tasks(Vec<Task>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Task {
    pid: i32,
    comm: String,
    state: u8,
    /// Where in the kernel it waits.
    wchan: String,
}

impl Tasks {
    /// Those of a cgroup and the ones below it that are in one of these states. While it freezes, what
    /// runs or waits for the CPU (`R`) is what has not frozen; what sleeps uninterruptibly (`D`) cannot
    /// be told on v1 from what has frozen, so that one is to be asked after the thaw.
    pub fn in_state(files: &Reader, states: &[u8]) -> Tasks {
        let Some((version, dir)) = files.freezer_dir() else { return Tasks::default() };
        let mut threads = Vec::new();
        collect_threads(version, dir, &mut threads);
        let tasks = threads.into_iter().filter_map(Task::of);
        Tasks(tasks.filter(|task| states.contains(&task.state)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn and(mut self, others: Tasks) -> Tasks {
        let mut by_pid: BTreeMap<i32, Task> =
            self.0.drain(..).map(|task| (task.pid, task)).collect();
        by_pid.extend(others.0.into_iter().map(|task| (task.pid, task)));
        Tasks(by_pid.into_values().collect())
    }
}

impl Task {
    fn of(pid: i32) -> Option<Task> {
        let (comm, state) = process::comm_and_state(pid)?;
        let wchan = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        let wchan = wchan.trim().trim_start_matches('0').to_owned();
        Some(Task { pid, comm, state, wchan })
    }
}

impl fmt::Display for Tasks {
    /// At most five, then how many more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        for (number, task) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            let comm = text::one_line(task.comm.as_ref(), 64);
            write!(f, "{comma}pid {} {comm} {}", task.pid, char::from(task.state))?;
            if !task.wchan.is_empty() {
                write!(f, " in {}", text::one_line(task.wchan.as_ref(), 64))?;
            }
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// v1 lists threads in `tasks`; v2's `cgroup.threads` has them also where a domain is not threaded.
fn collect_threads(version: Version, dir: &Path, into: &mut Vec<i32>) {
    let file = if version == Version::V1 { "tasks" } else { "cgroup.threads" };
    let list = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    into.extend(list.lines().filter_map(|line| line.parse::<i32>().ok()));
    into.truncate(MOST_THREADS);
    for below in children(dir) {
        if into.len() < MOST_THREADS {
            collect_threads(version, &below, into);
        }
    }
}

/// The cgroups right below one.
pub(crate) fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let dirs = entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}
