//! Notes of what must be undone if we are killed.
//!
//! An operation can leave a freeze behind: runc was killed between FROZEN and THAWED, or a pause on
//! cgroup v2 never froze. The caller can kill us with SIGKILL at any point, and the runtime dies with
//! us. So an operation that may freeze writes a note into a directory of its cgroup first, and removes
//! it afterwards. An operation that finds the note of a dead process thaws the cgroup. Without a note
//! nothing is thawed, since the freeze may be somebody's pause. For the same reason the note of a dead
//! process does not wait for a freeze to come. It is removed when its cgroup is seen thawed, and when
//! frostlock is switched off, because from then on nobody records pauses and resumes. Removing a file
//! needs no space, of which a full /run has none.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use libc::{EMFILE, ENFILE, ENOMEM};
use serde::{Deserialize, Serialize};

use crate::Verb;
use crate::state_dir::{self, StateDir, listed};
use cgroup::process::{self, Process};
use cgroup::{Freezer, Identity, Reader};
use cgroup::{freeze, json, text};

/// More than there can be operations on one cgroup at a time; the next call reads the rest.
const MOST_READ: usize = 256;

/// Operations that end at the same time remove the directory, which is empty for a moment.
const WRITE_TRIES: u32 = 16;

/// The contents of a note.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) verb: String,
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) process: Process,
    /// After a reboot a pid and its start time mean nothing, and no freeze is left.
    boot_id: Option<String>,
    /// The cgroup whose lock covers it; the processes may be in a cgroup below.
    #[serde(default)]
    pub(crate) cgroup: PathBuf,
    pub(crate) files: Reader,
    /// The freeze came from somebody who had a right to it.
    frozen_before: bool,
}

/// A note on disk.
#[derive(Debug)]
pub struct Intent {
    path: PathBuf,
    frozen_before: bool,
}

impl Intent {
    /// Notes that this operation may freeze the cgroup from here on.
    pub fn write(
        state: &StateDir,
        cgroup: &Identity,
        verb: Verb,
        id: &OsStr,
        files: &Reader,
    ) -> io::Result<Intent> {
        let process = Process::ourselves().ok_or(ErrorKind::NotFound)?;
        let note = Note {
            verb: verb.as_str().to_owned(),
            id: text::one_line(id, 256),
            process,
            boot_id: process::boot_id(),
            cgroup: cgroup.as_path().to_owned(),
            files: files.clone(),
            frozen_before: files.is_told_to_freeze(),
        };
        let directory = directory(state, cgroup);
        // With the start time, because pids are reused, and a dead process's note must not be
        // overwritten.
        let path = directory.join(process.name() + ".json");
        let bytes = serde_json::to_vec(&note)?;
        let mut written = write(state, &directory, &path, &bytes);
        for _ in 1..WRITE_TRIES {
            // Another operation has just removed the empty directory.
            if !written.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
                break;
            }
            written = write(state, &directory, &path, &bytes);
        }
        written.map(|()| Intent { path, frozen_before: note.frozen_before })
    }

    /// Whether the cgroup was thawed when the operation began.
    pub fn is_of_a_thawed_cgroup(&self) -> bool {
        !self.frozen_before
    }

    /// Nothing has to be undone any more.
    pub fn done(self) {
        self.remove();
    }

    fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some(directory) = self.path.parent() {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

impl Drop for Intent {
    /// After a panic no one is left to record that a pause succeeded: the next operation would take it
    /// for one that was cut short. A killed process drops nothing.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.remove();
        }
    }
}

fn is_frozen(freezer: Freezer) -> bool {
    matches!(freezer, Freezer::Frozen | Freezer::Freezing)
}

fn directory(state: &StateDir, cgroup: &Identity) -> PathBuf {
    state.intents().join(state_dir::file_name(cgroup.as_path().as_os_str()))
}

/// Writes the note whole or not at all.
fn write(state: &StateDir, directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    state_dir::make_private(state.path())?;
    state_dir::make_private(&state.intents())?;
    state_dir::make_private(directory)?;
    state_dir::write_whole(path, &path.with_extension("new"), bytes)
}

/// Whether there are notes of operations on this cgroup whose process is dead.
pub fn is_due(state: &StateDir, cgroup: &Identity) -> bool {
    let directory = directory(state, cgroup);
    // Most often the directory does not exist.
    let Ok(entries) = std::fs::read_dir(&directory) else { return false };
    let entries = entries.flatten().take(MOST_READ);
    let paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    let mut is_due = false;
    for path in &paths {
        is_due |= is_due_by(path);
    }
    if !is_due {
        // If it is empty, the operation was killed before it wrote its note, or right after it removed
        // it. An operation that is about to write one makes the directory again.
        let _ = std::fs::remove_dir(&directory);
    }
    is_due
}

/// A note with nothing left to undo is removed: a later freeze of that cgroup is somebody else's. If
/// the process is dead, its runtime has been killed, too.
fn is_due_by(path: &Path) -> bool {
    match judge(path) {
        Judged::Alive => false,
        Judged::Garbage => true,
        Judged::Dead(note) if note.files.freezer() != Freezer::Thawed => true,
        Judged::Dead(_) => {
            let _ = std::fs::remove_file(path);
            false
        }
    }
}

/// For the time while frostlock is switched off: a later freeze may be somebody's wish, and no older
/// note may say otherwise.
pub fn forget_the_dead(state: &StateDir) {
    for directory in listed(&state.intents()).take(MOST_READ) {
        for path in paths(&directory) {
            if matches!(judge(&path), Judged::Dead(_)) {
                let _ = std::fs::remove_file(&path);
            }
        }
        let _ = std::fs::remove_dir(&directory);
    }
}

/// Whether another operation, which did not get the lock, is pausing this cgroup.
pub fn another_pauses(state: &StateDir, cgroup: &Identity) -> bool {
    let is_alive_at_a_pause =
        |note: Note| note.verb == Verb::Pause.as_str() && note.process.is_alive();
    of_others(state, cgroup).any(is_alive_at_a_pause)
}

/// Whether another operation that may freeze this cgroup is at work, or has died over it.
pub fn another_may_freeze(state: &StateDir, cgroup: &Identity) -> bool {
    of_others(state, cgroup).next().is_some()
}

fn of_others(state: &StateDir, cgroup: &Identity) -> impl Iterator<Item = Note> {
    let notes = paths(&directory(state, cgroup)).into_iter().filter_map(|path| {
        let text = json::read_text(&path).ok()?;
        serde_json::from_str::<Note>(&text).ok()
    });
    notes.filter(|note| note.process.pid.unsigned_abs() != std::process::id())
}

/// Thaws what killed operations have left frozen, unless it was a pause that succeeded. Must be called
/// under the exclusive lock. Gives what was done, for the journal.
pub fn recover(state: &StateDir, cgroup: &Identity, is_paused: impl Fn() -> bool) -> Vec<String> {
    let directory = directory(state, cgroup);
    let mut said = Vec::new();
    for path in paths(&directory) {
        match judge(&path) {
            Judged::Alive => continue,
            Judged::Garbage => {}
            Judged::Dead(note) => said.extend(undo(&note, &is_paused)),
        }
        let _ = std::fs::remove_file(&path);
        // Not a file: somebody's joke, or a crash of the file system.
        let _ = std::fs::remove_dir_all(&path);
    }
    let _ = std::fs::remove_dir(&directory);
    said
}

fn undo(note: &Note, is_paused: impl Fn() -> bool) -> Option<String> {
    if note.frozen_before || note.boot_id != process::boot_id() {
        return None;
    }
    // A pause may have succeeded since: a pause that did not get the lock does not recover first.
    if !is_frozen(note.files.freezer()) || is_paused() {
        return None;
    }
    freeze::thaw(&note.files);
    let (verb, id) = (text::one_line(note.verb.as_ref(), 32), text::one_line(note.id.as_ref(), 80));
    Some(format!("thawed what {verb} {id} (pid {}) had left frozen", note.process.pid))
}

/// The notes of operations that are over, of all cgroups; `None` if the file is not a note.
pub(crate) fn all_left(state: &StateDir) -> Vec<(PathBuf, Option<Box<Note>>)> {
    let notes = listed(&state.intents()).flat_map(|directory| paths(&directory));
    let left = notes.filter_map(|path| match judge(&path) {
        Judged::Alive => None,
        Judged::Garbage => Some((path, None)),
        Judged::Dead(note) => Some((path, Some(note))),
    });
    left.collect()
}

enum Judged {
    Alive,
    Dead(Box<Note>),
    /// Not written by us, or cut short.
    Garbage,
}

fn judge(path: &Path) -> Judged {
    let note = match json::read_text(path) {
        Ok(text) => serde_json::from_str::<Note>(&text).ok(),
        // The file exists, but we lack descriptors or memory: another operation will judge it.
        Err(error) if matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOMEM)) => {
            return Judged::Alive;
        }
        Err(_) => None,
    };
    match note {
        Some(note) if note.process.is_alive() && note.boot_id == process::boot_id() => {
            Judged::Alive
        }
        Some(note) => Judged::Dead(Box::new(note)),
        // Its process may be about to write it.
        None if names_a_living_process(path) => Judged::Alive,
        None => Judged::Garbage,
    }
}

fn names_a_living_process(path: &Path) -> bool {
    path.file_stem().and_then(Process::named).is_some_and(Process::is_alive)
}

fn paths(directory: &Path) -> Vec<PathBuf> {
    listed(directory).take(MOST_READ).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgroup::Hierarchies;

    fn note_of(process: Process) -> Note {
        Note {
            verb: "update".to_owned(),
            id: "c".to_owned(),
            process,
            boot_id: process::boot_id(),
            cgroup: PathBuf::from("/c"),
            files: Reader::new(&Hierarchies::default(), &Identity::new("/c").unwrap()),
            frozen_before: false,
        }
    }

    #[test]
    fn a_pause_that_succeeded_after_a_dead_note_stays() {
        let dir = tempfile::tempdir().unwrap();
        let freezer_state = dir.path().join("freezer.state");
        let ours = Process::ourselves().unwrap();
        let files = serde_json::json!({ "freezer": ["V1", dir.path()] });
        let files = serde_json::from_value(files).unwrap();
        let dead = Process { start: ours.start + 1, ..ours };
        let note = Note { files, ..note_of(dead) };
        std::fs::write(&freezer_state, "FROZEN").unwrap();
        assert_eq!(undo(&note, || true), None);
        assert_eq!(std::fs::read_to_string(&freezer_state).unwrap(), "FROZEN");
        assert!(undo(&note, || false).is_some());
        assert_eq!(std::fs::read_to_string(&freezer_state).unwrap(), "THAWED");
    }

    #[test]
    fn a_note_goes_with_its_operation() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path().join("state"));
        let cgroup = Identity::new("/c").unwrap();
        let files = Reader::new(&Hierarchies::default(), &cgroup);
        let intent = Intent::write(&state, &cgroup, Verb::Pause, OsStr::new("c"), &files).unwrap();
        assert!(!is_due(&state, &cgroup), "we are alive");
        assert_eq!(recover(&state, &cgroup, || false), Vec::<String>::new());
        assert!(intent.path.exists());
        intent.done();
        assert!(!directory(&state, &cgroup).exists());
        // The state of an operation that was killed between making the directory and writing its note.
        std::fs::create_dir(directory(&state, &cgroup)).unwrap();
        assert!(!is_due(&state, &cgroup));
        assert!(!directory(&state, &cgroup).exists());
    }

    #[test]
    fn what_is_not_a_note_is_removed_unless_it_may_be_one_soon() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path().join("state"));
        let cgroup = Identity::new("/c").unwrap();
        let notes = directory(&state, &cgroup);
        std::fs::create_dir_all(notes.join("folder")).unwrap();
        std::fs::write(notes.join("garbage.json"), "{").unwrap();
        std::fs::write(notes.join("empty.json"), "").unwrap();
        let ours = Process::ourselves().unwrap();
        let ours_to_be = notes.join(format!("{}-{}.new", ours.pid, ours.start));
        std::fs::write(&ours_to_be, "{").unwrap();
        let dead = note_of(Process { start: ours.start + 1, ..ours });
        std::fs::write(notes.join("1.json"), serde_json::to_vec(&dead).unwrap()).unwrap();
        assert!(is_due(&state, &cgroup));
        recover(&state, &cgroup, || false);
        let left = paths(&notes);
        assert_eq!(left, [ours_to_be]);
    }
}
