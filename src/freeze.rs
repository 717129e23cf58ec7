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
const ASK_AGAIN: Duration = Duration::from_millis(3);
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
    hold: Hold,
    has_held: bool,
    first_seen: Option<Instant>,
    asked: u32,
    pub(crate) running: Tasks,
}

/// Whether a freeze on v1 is kept up against the runtime's own thaws: of every 12 ms runc freezes for 1
/// to 2, in which each thread must have had a CPU once, with runc's busy loop on one, and thaws for 10.
/// With 32 threads on two CPUs that took up to a second and all of its 20 tries, refilled or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// It is not ours to hold, or not to stay.
    No,
    /// Not before the runtime has written its first freeze: a pause refuses what is frozen already.
    OnceTold,
    Told,
    /// We wrote it last, at this time.
    Since(Instant),
}

/// runc's loop thaws every 12 ms and ends after 0.25 s. If nobody has thawed for so long it was another's
/// freeze that was taken for its own, and our runtime is one that waits for the end of that.
const LONGEST_HOLD: Duration = Duration::from_millis(250);

/// What a look has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Nobody freezes it just now, or it is frozen. Between two tries of an update on v1, too: a refill
    /// goes to the workload alone then.
    Quiet,
    /// It is to freeze and has not yet.
    Freezing,
}

impl FreezeWatch {
    pub(crate) fn new(files: &Reader) -> FreezeWatch {
        let (files, running) = (files.clone(), Tasks::default());
        FreezeWatch { files, hold: Hold::No, has_held: false, first_seen: None, asked: 0, running }
    }

    /// For one attempt, whose end is either a frozen cgroup or a failure after which somebody thaws it.
    /// On v2 no runtime thaws meanwhile.
    pub(crate) fn hold(&mut self, is_to_stay: bool) {
        let is_v1 = self.files.freezer_dir().is_some_and(|(version, _)| version == Version::V1);
        self.hold = if is_to_stay && is_v1 { Hold::OnceTold } else { Hold::No };
        self.has_held = false;
    }

    /// Whether it was written in this attempt.
    pub(crate) fn has_held(&self) -> bool {
        self.has_held
    }

    /// What is to be seen, or was made so just now.
    fn sight(&mut self, now: Instant) -> Sight {
        match (self.files.freezer(), self.hold) {
            (Freezer::Freezing, Hold::OnceTold) => {
                if self.files.is_told_to_freeze() {
                    self.hold = Hold::Told;
                }
                Sight::Freezing
            }
            (Freezer::Freezing, Hold::Since(since)) if now.duration_since(since) > LONGEST_HOLD => {
                self.hold = Hold::No;
                thaw(&self.files);
                Sight::Quiet
            }
            (Freezer::Freezing, _) => Sight::Freezing,
            (Freezer::Thawed, Hold::Told | Hold::Since(_)) => self.hold_on(now),
            // Whoever thaws it from here on has a reason to.
            (Freezer::Frozen, _) => {
                self.hold = Hold::No;
                Sight::Quiet
            }
            _ => Sight::Quiet,
        }
    }

    fn hold_on(&mut self, now: Instant) -> Sight {
        if !freeze_on_v1(&self.files) {
            self.hold = Hold::No;
            return Sight::Quiet;
        }
        (self.hold, self.has_held) = (Hold::Since(now), true);
        Sight::Freezing
    }

    /// Looks, and says when to look again.
    pub(crate) fn look(&mut self, now: Instant, can_help: bool) -> (Sight, Duration) {
        let often = can_help || self.hold != Hold::No;
        let look_again = if often { LOOK_EVERY } else { LOOK_SELDOM };
        if self.sight(now) == Sight::Quiet {
            return (Sight::Quiet, look_again);
        }
        let first = *self.first_seen.get_or_insert(now);
        // Right after a thaw every thread runs that would have frozen.
        let is_new = self.hold == Hold::Since(now);
        if !is_new
            && now.duration_since(first) > IS_SLOW * (self.asked + 1)
            && self.asked < MOST_ASKED
        {
            self.asked += 1;
            self.ask();
        }
        (Sight::Freezing, look_again)
    }

    /// Finds out who runs, or wants to, while it is to freeze.
    pub(crate) fn ask(&mut self) {
        let states: &[u8] = match self.files.freezer_dir() {
            // On v2 what has frozen sleeps interruptibly (`S`), so the others can be told from it.
            Some((Version::V2, _)) => b"RD",
            _ => b"R",
        };
        let before = std::mem::take(&mut self.running);
        self.running = Tasks::in_state(&self.files, states).placed_as(&before);
    }

    /// The same where there is time for it: a task that sleeps is for a moment not said to wait anywhere,
    /// while the scheduler has yet to take it off its queue (delayed dequeue, Linux 6.12).
    pub(crate) fn ask_closely(&mut self) {
        for _ in 0..MOST_ASKED {
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

    /// Where it was seen to wait is told of one that is just now not.
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

    /// Whether of each that sleeps it is known where.
    fn are_placed(&self) -> bool {
        self.0.iter().all(|task| task.state != b'D' || !task.wchan.is_empty())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Hierarchies, Identity};

    /// A freezer whose files are plain: nothing in it changes by itself.
    struct Frozen {
        dir: tempfile::TempDir,
    }

    impl Frozen {
        fn new() -> Frozen {
            Frozen { dir: tempfile::tempdir().unwrap() }
        }

        fn put(&self, state: &str, told: &str) {
            std::fs::write(self.dir.path().join("freezer.state"), state).unwrap();
            std::fs::write(self.dir.path().join("freezer.self_freezing"), told).unwrap();
        }

        fn state(&self) -> String {
            std::fs::read_to_string(self.dir.path().join("freezer.state")).unwrap()
        }

        fn watch(&self) -> FreezeWatch {
            let mount = self.dir.path().display();
            let line = format!("9 1 0:9 / {mount} rw - cgroup cgroup rw,freezer\n");
            let mounts = Hierarchies::parse(line.as_bytes());
            FreezeWatch::new(&Reader::new(&mounts, &Identity::new("/").unwrap()))
        }
    }

    fn look(watch: &mut FreezeWatch) -> Sight {
        watch.look(Instant::now(), true).0
    }

    #[test]
    fn a_freeze_that_is_to_stay_is_held_against_a_thaw() {
        let cgroup = Frozen::new();
        let mut watch = cgroup.watch();
        watch.hold(true);
        cgroup.put("THAWED\n", "0\n");
        assert_eq!((look(&mut watch), cgroup.state().as_str()), (Sight::Quiet, "THAWED\n"));
        cgroup.put("FREEZING\n", "1\n");
        assert_eq!(look(&mut watch), Sight::Freezing);
        cgroup.put("THAWED\n", "0\n");
        assert_eq!((look(&mut watch), cgroup.state().as_str()), (Sight::Freezing, "FROZEN"));
        // It is reached, and whoever thaws it now means it.
        assert_eq!(look(&mut watch), Sight::Quiet);
        cgroup.put("THAWED\n", "0\n");
        assert_eq!((look(&mut watch), cgroup.state().as_str()), (Sight::Quiet, "THAWED\n"));
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
    }

    #[test]
    fn a_freeze_that_nobody_thaws_is_not_held_for_ever() {
        let cgroup = Frozen::new();
        let mut watch = cgroup.watch();
        watch.hold(true);
        for state in ["FREEZING\n", "THAWED\n", "FREEZING\n"] {
            cgroup.put(state, "1\n");
            assert_eq!(look(&mut watch), Sight::Freezing);
        }
        assert!(watch.has_held());
        watch.look(Instant::now() + LONGEST_HOLD + LOOK_EVERY, true);
        assert_eq!(cgroup.state(), "THAWED");
        assert_eq!((look(&mut watch), cgroup.state().as_str()), (Sight::Quiet, "THAWED"));
    }

    #[test]
    fn a_freeze_of_an_ancestor_or_one_that_is_to_end_is_not_held() {
        for (is_to_stay, told) in [(true, "0\n"), (false, "1\n")] {
            let cgroup = Frozen::new();
            let mut watch = cgroup.watch();
            watch.hold(is_to_stay);
            cgroup.put("FREEZING\n", told);
            assert_eq!(look(&mut watch), Sight::Freezing);
            cgroup.put("THAWED\n", "0\n");
            assert_eq!((look(&mut watch), cgroup.state().as_str()), (Sight::Quiet, "THAWED\n"));
        }
    }
}
