//! What is lifted right now, noted before it is lifted, for recovery after the lifter's death.
//!
//! Nothing in the kernel takes the class away again, and a busy thread that keeps it runs above its
//! quota and above the whole node. A note is a file named after its lifter, `PID-START`, with a line
//! for each thread. The lifter removes it at its end.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::class::{self, Before};
use super::hold;
use crate::state_dir::{self, StateDir, listed};
use cgroup::process::{Process, Stat};
use cgroup::{json, text};

/// The note of one lifter.
#[derive(Debug)]
pub struct Note {
    path: PathBuf,
    file: File,
    /// Lines that are not written yet.
    lines: String,
}

impl Note {
    /// `what` tells people whose threads they are.
    pub fn begin(directory: &Path, what: &str) -> io::Result<Note> {
        let lifter = Process::ourselves().ok_or(io::ErrorKind::NotFound)?;
        state_dir::make_private(directory)?;
        let path = path(directory, lifter);
        let mut file = state_dir::open(&path, OpenOptions::new().append(true).create(true))?;
        file.write_all(format!("{}\n", text::one_line(what.as_ref(), 256)).as_bytes())?;
        Ok(Note { path, file, lines: String::new() })
    }

    pub fn add(&mut self, tid: i32, start: u64, before: &Before) {
        self.lines.push_str(&format!("{tid} {start} {before}\n"));
    }

    /// Writes the lines that were added since the last call.
    pub fn write_down(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.lines);
        self.file.write_all(lines.as_bytes())
    }

    /// Whether another living lifter has noted this thread.
    pub fn is_anothers(&self, tid: i32, start: u64) -> bool {
        self.path.parent().is_some_and(|directory| is_noted(directory, &self.path, tid, start))
    }

    pub fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn path(directory: &Path, lifter: Process) -> PathBuf {
    directory.join(lifter.name())
}

/// What a dead lifter has left lifted.
#[derive(Debug)]
pub struct Left {
    pub path: PathBuf,
    /// The lifter's pid.
    pub pid: i32,
    /// What it lifted for.
    pub what: String,
    /// Thread ids, and the class to put back.
    threads: Vec<(i32, Before)>,
}

impl Left {
    /// The threads that are still above the fair class.
    pub fn threads(&self) -> Vec<i32> {
        let lifted = self.threads.iter().filter(|(tid, _)| class::is_lifted(*tid));
        lifted.map(|(tid, _)| *tid).collect()
    }
}

/// More than there are lifters at a time; the next recovery reads the rest.
const MOST_READ: usize = 64;

/// The notes of dead lifters.
pub fn left(state: &StateDir) -> Vec<Left> {
    listed(&state.lifts()).filter_map(|path| read(&path)).take(MOST_READ).collect()
}

fn read(path: &Path) -> Option<Left> {
    let lifter = lifter_of(path)?;
    if lifter.is_alive() { None } else { read_of(path, lifter) }
}

fn lifter_of(path: &Path) -> Option<Process> {
    Process::named(path.file_name()?)
}

fn is_noted(directory: &Path, but: &Path, tid: i32, start: u64) -> bool {
    let line = format!("{tid} {start} ");
    let others = listed(directory).filter(|path| path != but);
    let notes = others.filter(|path| lifter_of(path).is_some_and(Process::is_alive));
    let mut texts = notes.filter_map(|path| json::read_text(&path).ok());
    texts.any(|text| text.lines().any(|it| it.starts_with(&line)))
}

/// A note that cannot be read now, for lack of a descriptor, stays for the next recovery.
fn read_of(path: &Path, lifter: Process) -> Option<Left> {
    let text = json::read_text(path).ok()?;
    let (what, lines) = text.split_once('\n').unwrap_or_default();
    // If the lifter was killed, the last line may be cut short; its thread was not lifted yet. For a
    // thread that was lifted twice the second line counts: the thread may have changed in between.
    let threads: BTreeMap<i32, (u64, Before)> = lines.lines().filter_map(thread).collect();
    let threads = without_others(path, threads, class::is_lifted);
    Some(Left { path: path.to_owned(), pid: lifter.pid, what: what.to_owned(), threads })
}

/// What a living lifter has lifted since is that one's to put back.
fn without_others(
    path: &Path,
    threads: BTreeMap<i32, (u64, Before)>,
    is_lifted: impl Fn(i32) -> bool,
) -> Vec<(i32, Before)> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let is_anothers = |tid, start| is_lifted(tid) && is_noted(directory, path, tid, start);
    let ours = threads.into_iter().filter(|(tid, (start, _))| !is_anothers(*tid, *start));
    ours.map(|(tid, (_, before))| (tid, before)).collect()
}

/// The thread, if it is still the one that the line is about.
fn thread(line: &str) -> Option<(i32, (u64, Before))> {
    let (tid, rest) = line.split_once(' ')?;
    let (start, before) = rest.split_once(' ')?;
    let (tid, start): (i32, u64) = (tid.parse().ok()?, start.parse().ok()?);
    let is_same = Stat::of_thread(tid)?.start == start;
    is_same.then_some((tid, (start, before.parse().ok()?)))
}

/// Puts the threads back, and removes the note unless one of them has kept its class; gives how many it
/// put back.
pub fn put_back(left: &Left) -> usize {
    let lowered = left.threads.iter().filter(|(tid, before)| class::lower_firmly(*tid, before));
    let lowered = lowered.inspect(|(tid, before)| class::mend(*tid, before)).count();
    for (tid, before) in left.threads.iter().filter(|(tid, _)| class::is_lifted(*tid)) {
        hold::lower(*tid, before);
    }
    if left.threads().is_empty() {
        let _ = std::fs::remove_file(&left.path);
    }
    lowered
}

/// Puts back what any dead lifter has left; the journal gets the answer.
pub fn recover(state: &StateDir) -> Vec<String> {
    left(state).iter().filter_map(|left| say(left, put_back(left))).collect()
}

/// The same for a lifter that has hung up: it is about to end, even if /proc does not say so yet.
pub fn recover_of(directory: &Path, lifter: Process) -> Option<String> {
    let path = path(directory, lifter);
    let left = read_of(&path, lifter)?;
    say(&left, put_back(&left))
}

fn say(left: &Left, count: usize) -> Option<String> {
    let threads = if count == 1 { "thread" } else { "threads" };
    let (what, pid) = (text::one_line(left.what.as_ref(), 120), left.pid);
    (count > 0)
        .then(|| format!("put back {count} {threads} that {what} (pid {pid}) had left lifted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note_of(dir: &Path, lifter: Process, lines: &str) -> PathBuf {
        let path = path(dir, lifter);
        std::fs::write(&path, format!("exec c\n{lines}")).unwrap();
        path
    }

    #[test]
    fn the_note_of_a_living_lifter_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let note = Note::begin(dir.path(), "exec c").unwrap();
        assert!(read(&note.path).is_none());
        note.remove();
        assert!(!note.path.exists());
    }

    #[test]
    fn of_a_dead_one_only_threads_that_are_still_the_same_count() {
        let dir = tempfile::tempdir().unwrap();
        let ours = Process::ourselves().unwrap();
        let dead = Process { start: ours.start + 1, ..ours };
        let (pid, start) = (ours.pid, ours.start);
        let own = Stat::of_thread(pid).unwrap().start;
        assert_eq!(own, start);
        let lines = format!(
            "{pid} {start} 0 0 0 0 50000\n{pid} {} 0 0 0 0 50000\n{pid} {start} 0",
            start + 7
        );
        let path = note_of(dir.path(), dead, &lines);
        let left = read(&path).unwrap();
        assert_eq!((left.what.as_str(), left.threads.len()), ("exec c", 1));
        // The thread is not lifted, so there is nothing to put back.
        assert_eq!((left.threads(), put_back(&left)), (Vec::new(), 0));
        assert!(!path.exists());
    }

    #[test]
    fn what_a_living_lifter_has_lifted_since_is_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let ours = Process::ourselves().unwrap();
        let dead = Process { start: ours.start + 1, ..ours };
        let line = format!("{} {} 0 0 0 0 50000\n", ours.pid, ours.start);
        let path = note_of(dir.path(), dead, &line);
        let left = |is_lifted| {
            let threads = line.lines().filter_map(thread).collect();
            without_others(&path, threads, |_| is_lifted).len()
        };
        assert_eq!((left(true), left(false)), (1, 1));
        note_of(dir.path(), ours, &line);
        assert_eq!((left(true), left(false)), (0, 1));
    }

    #[test]
    fn what_is_no_note_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["slots", "node", "1-x", "-", "x-1"] {
            std::fs::write(dir.path().join(name), "exec c\n").unwrap();
            assert!(read(&dir.path().join(name)).is_none(), "{name}");
        }
    }
}
