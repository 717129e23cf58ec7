//! Watches a freeze, waits for it, calls it off, and says which threads held it up.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::read::{Version, tree};
use crate::{Freezer, Reader};
use crate::{process, text};

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// If a freeze takes longer than this, thaws in between included, ask which threads hold it up; ask
/// again after as long again.
const IS_SLOW: Duration = Duration::from_millis(60);

/// Asking costs two reads for each thread.
const MOST_ASKED: u32 = 3;
/// For a freeze that has already taken a second.
const MOST_ASKED_CLOSELY: u32 = 20;
const ASK_AGAIN: Duration = Duration::from_millis(3);
const MOST_ASKED_OF: usize = 512;

/// Asks for a thaw and does not wait for it. A removed cgroup needs none.
pub fn thaw(files: &Reader) {
    let _ = ask_for(files, "THAWED", "0");
}

/// Asks for a freeze and does not wait for it.
pub fn freeze(files: &Reader) -> io::Result<()> {
    ask_for(files, "FROZEN", "1")
}

fn ask_for(files: &Reader, on_v1: &str, on_v2: &str) -> io::Result<()> {
    let (version, dir) = files.freezer_dir().ok_or(io::ErrorKind::NotFound)?;
    match version {
        Version::V1 => std::fs::write(dir.join("freezer.state"), on_v1),
        Version::V2 => std::fs::write(dir.join("cgroup.freeze"), on_v2),
    }
}

/// Watches one cgroup's freezer while the runtime works, for threads that keep it from being frozen.
#[derive(Debug)]
pub struct FreezeWatch {
    files: Reader,
    first_seen: Option<Instant>,
    asked: u32,
    pub running: Tasks,
}

impl FreezeWatch {
    pub fn new(files: &Reader) -> FreezeWatch {
        let (files, running) = (files.clone(), Tasks::default());
        FreezeWatch { files, first_seen: None, asked: 0, running }
    }

    /// Looks, and gives the time until the next look.
    pub fn look(&mut self, now: Instant) -> Duration {
        if self.files.freezer() == Freezer::Freezing {
            let first = *self.first_seen.get_or_insert(now);
            if now.duration_since(first) > IS_SLOW * (self.asked + 1) && self.asked < MOST_ASKED {
                self.asked += 1;
                self.ask();
            }
        }
        LOOK_EVERY
    }

    /// Finds the threads that run or want to while the cgroup freezes.
    pub fn ask(&mut self) {
        let states: &[u8] = match self.files.freezer_dir() {
            // On v2 a frozen thread sleeps interruptibly (`S`), so the others can be told from it.
            Some((Version::V2, _)) => b"RD",
            _ => b"R",
        };
        let before = std::mem::take(&mut self.running);
        self.running = Tasks::in_state(&self.files, states).placed_as(&before);
    }

    /// The same where there is time. For a moment the kernel does not say where a sleeping task waits,
    /// because the scheduler has yet to take it off its queue (delayed dequeue, Linux 6.12).
    pub fn ask_closely(&mut self) {
        for _ in 0..MOST_ASKED_CLOSELY {
            self.ask();
            if self.running.are_placed() {
                return;
            }
            std::thread::sleep(ASK_AGAIN);
        }
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
    /// Where in the kernel the task waits.
    wchan: String,
}

impl Tasks {
    /// The threads of a cgroup and those below it that are in one of these states. During a freeze, a
    /// thread that runs or waits for the CPU (`R`) is not frozen. On v1 a thread in uninterruptible
    /// sleep (`D`) cannot be told from a frozen one, so ask for those after the thaw.
    pub fn in_state(files: &Reader, states: &[u8]) -> Tasks {
        let Some((version, dir)) = files.freezer_dir() else { return Tasks::default() };
        let threads = threads_in(version, dir, MOST_ASKED_OF);
        let tasks = threads.into_iter().filter_map(Task::of);
        Tasks(tasks.filter(|task| states.contains(&task.state)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// If a task is now not seen to wait, take the place where it was last seen to wait.
    fn placed_as(mut self, before: &Tasks) -> Tasks {
        for task in self.0.iter_mut().filter(|task| task.wchan.is_empty()) {
            let same =
                |it: &&Task| (it.pid, it.state, &it.comm) == (task.pid, task.state, &task.comm);
            if let Some(known) = before.0.iter().find(same) {
                task.wchan.clone_from(&known.wchan);
            }
        }
        self
    }

    /// Whether it is known where each sleeping task waits.
    fn are_placed(&self) -> bool {
        self.0.iter().all(|task| task.state != b'D' || !task.wchan.is_empty())
    }

    /// Of a task in both, what was seen later.
    pub fn and(self, later: Tasks) -> Tasks {
        let later = later.placed_as(&self);
        let all = self.0.into_iter().chain(later.0);
        let by_pid: BTreeMap<i32, Task> = all.map(|task| (task.pid, task)).collect();
        Tasks(by_pid.into_values().collect())
    }
}

impl Task {
    fn of(pid: i32) -> Option<Task> {
        let (comm, state) = (process::comm(pid)?, process::Stat::of(pid)?.state);
        let wchan = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        let wchan = wchan.trim().trim_start_matches('0').to_owned();
        Some(Task { pid, comm, state, wchan })
    }
}

impl fmt::Display for Tasks {
    /// At most five tasks, then how many more.
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

/// Threads beyond these are left alone.
const MOST_THREADS: usize = 32_768;

/// The threads of a cgroup and of those below it.
pub fn threads(files: &Reader) -> Vec<i32> {
    let Some((version, dir)) = files.freezer_dir() else { return Vec::new() };
    threads_in(version, dir, MOST_THREADS)
}

/// v1 lists threads in `tasks`; v2's `cgroup.threads` does so also where a domain is not threaded.
fn threads_in(version: Version, dir: &Path, most: usize) -> Vec<i32> {
    let file = if version == Version::V1 { "tasks" } else { "cgroup.threads" };
    let of = |dir: PathBuf| {
        let list = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
        list.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>()
    };
    tree(dir).into_iter().flat_map(of).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container may have its cgroup delegated, and make any number below it.
    #[test]
    fn of_very_many_cgroups_some_are_asked() {
        const MANY: usize = 3000;
        let dir = tempfile::tempdir().unwrap();
        for number in 0..MANY {
            let below = dir.path().join(number.to_string());
            std::fs::create_dir(&below).unwrap();
            std::fs::write(below.join("tasks"), format!("{}\n", number + 1)).unwrap();
        }
        let asked = threads_in(Version::V1, dir.path(), MOST_THREADS).len();
        assert!((100..MANY / 2).contains(&asked), "{asked}");
    }

    #[test]
    fn where_a_task_waits_is_kept() {
        let task = |state: u8, wchan: &str| {
            let (comm, wchan) = ("cat".to_owned(), wchan.to_owned());
            Tasks(vec![Task { pid: 7, comm, state, wchan }])
        };
        let before = task(b'D', "fifo_open");
        assert!(before.are_placed() && !task(b'D', "").are_placed());
        assert_eq!(task(b'D', "").placed_as(&before), before);
        assert_eq!(task(b'D', "pipe_read").placed_as(&before), task(b'D', "pipe_read"));
        assert_eq!(task(b'R', "").placed_as(&before), task(b'R', ""));
        assert_eq!(before.clone().and(task(b'D', "")), before);
        assert_eq!(before.and(task(b'R', "")), task(b'R', ""));
    }
}
