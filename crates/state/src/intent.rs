//! Notes of what has to be undone if we are killed.
//!
//! What an operation can leave behind is a freeze: runc killed between FROZEN and THAWED, a pause on
//! cgroup v2 that never froze. The caller kills us with SIGKILL at any point, and the runtime dies
//! with us. So before an operation that may freeze there is a note in a directory of its cgroup's,
//! and after it there is none. Whoever comes next and finds the note of a dead process thaws.
//! Without such a note nothing is thawed: it may be somebody's pause. For the same reason a note of the
//! dead does not wait for a freeze to come: it goes when its cgroup is seen thawed, and when we are
//! switched off, as nobody writes down then what is paused and resumed. To remove a file takes no room,
//! which a full /run has not.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use libc::{EMFILE, ENFILE, ENOMEM};
use serde::{Deserialize, Serialize};

use crate::Verb;
use crate::state_dir::{self, StateDir};
use cgroup::process::{self, Process};
use cgroup::{Freezer, Identity, Reader};
use cgroup::{freeze, json, text};

/// More than there can be operations on one cgroup at a time; the rest waits for the next one.
const MOST_READ: usize = 256;

/// Others who end at the same time remove the directory, which is empty for a moment.
const WRITE_TRIES: u32 = 16;

/// What stands in a note.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    verb: String,
    id: String,
    #[serde(flatten)]
    process: Process,
    /// A pid and its start time mean nothing after the next boot, and neither does a freeze.
    boot_id: Option<String>,
    /// Whose lock it is under; its processes may be in one below it.
    #[serde(default)]
    cgroup: PathBuf,
    files: Reader,
    /// By somebody who had every right to.
    frozen_before: bool,
}

/// A note that stands.
#[derive(Debug)]
pub struct Intent {
    path: PathBuf,
    frozen_before: bool,
}

impl Intent {
    /// Writes down that this cgroup may be frozen by us from here on.
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
        // With the time of start: a pid comes again, and a note of the dead must not be written over.
        let path = directory.join(format!("{}-{}.json", process.pid, process.start));
        let bytes = serde_json::to_vec(&note)?;
        let mut written = write(state, &directory, &path, &bytes);
        for _ in 1..WRITE_TRIES {
            match &written {
                // Somebody has just removed the empty directory.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    written = write(state, &directory, &path, &bytes);
                }
                _ => break,
            }
        }
        written.map(|()| Intent { path, frozen_before: note.frozen_before })
    }

    /// Whether it was thawed when the operation began.
    pub fn is_of_a_thawed_cgroup(&self) -> bool {
        !self.frozen_before
    }

    /// There is nothing to undo any more.
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
    /// After a panic there is nobody left to say that a pause had succeeded: whoever came next would take
    /// it for one that was cut short. A process that is killed drops nothing.
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

/// Whole or not at all.
fn write(state: &StateDir, directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    state_dir::make_private(state.path())?;
    state_dir::make_private(&state.intents())?;
    state_dir::make_private(directory)?;
    state_dir::write_whole(path, &path.with_extension("new"), bytes)
}

/// Whether there are notes of operations on this cgroup whose process is gone.
pub fn is_due(state: &StateDir, cgroup: &Identity) -> bool {
    let directory = directory(state, cgroup);
    // Most often it is not there.
    let Ok(entries) = std::fs::read_dir(&directory) else { return false };
    let paths = first_of(entries);
    if paths.is_empty() {
        // Of one that was killed before it wrote its note, or right after it had removed it. Whoever is
        // about to write one makes the directory again.
        let _ = std::fs::remove_dir(&directory);
    }
    let mut is_due = false;
    for path in &paths {
        is_due |= is_due_by(path);
    }
    if !is_due {
        let _ = std::fs::remove_dir(&directory);
    }
    is_due
}

/// One that has nothing to undo any more is removed: whatever freezes that cgroup from here on is
/// another's. Of a process that is seen dead the runtime has been killed, too.
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

/// While we are switched off: what is frozen afterwards may be so by somebody's wish, and no note from
/// before says otherwise.
pub fn forget_the_dead(state: &StateDir) {
    let directories = std::fs::read_dir(state.intents()).into_iter().flatten().flatten();
    for directory in directories.map(|entry| entry.path()).take(MOST_READ) {
        for path in paths(&directory) {
            if matches!(judge(&path), Judged::Dead(_)) {
                let _ = std::fs::remove_file(&path);
            }
        }
        let _ = std::fs::remove_dir(&directory);
    }
}

/// Whether somebody else is at a pause of this cgroup, who did not get the lock.
pub fn another_pauses(state: &StateDir, cgroup: &Identity) -> bool {
    let is_alive_at_a_pause =
        |note: Note| note.verb == Verb::Pause.as_str() && note.process.is_alive();
    of_others(state, cgroup).any(is_alive_at_a_pause)
}

/// Whether somebody else is at an operation that may freeze this cgroup, or has died over it.
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

/// Thaws what operations that were killed have left frozen, unless it was a pause that had succeeded.
/// To be called under the exclusive lock. Says what was done, for the journal.
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
        // Somebody's joke, or a crash of the file system's.
        let _ = std::fs::remove_dir_all(&path);
    }
    let _ = std::fs::remove_dir(&directory);
    said
}

fn undo(note: &Note, is_paused: impl Fn() -> bool) -> Option<String> {
    if note.frozen_before || note.boot_id != process::boot_id() {
        return None;
    }
    // A pause may have succeeded after it: one that did not get the lock recovers nothing first.
    if !is_frozen(note.files.freezer()) || is_paused() {
        return None;
    }
    freeze::thaw(&note.files);
    let (verb, id) = (text::one_line(note.verb.as_ref(), 32), text::one_line(note.id.as_ref(), 80));
    Some(format!("thawed what {verb} {id} (pid {}) had left frozen", note.process.pid))
}

/// A note of an operation that is over, and what it was about.
#[derive(Debug)]
pub struct Left {
    pub path: PathBuf,
    /// `None` of what is no note.
    pub note: Option<(String, i32, PathBuf, Reader)>,
}

/// All of them, of all cgroups.
pub(crate) fn all_left(state: &StateDir) -> Vec<Left> {
    let directories = std::fs::read_dir(state.intents()).into_iter().flatten().flatten();
    let notes = directories.flat_map(|directory| paths(&directory.path()));
    let left = notes.filter_map(|path| match judge(&path) {
        Judged::Alive => None,
        Judged::Garbage => Some(Left { path, note: None }),
        Judged::Dead(note) => {
            let what = format!("{} {}", note.verb, note.id);
            let what = text::one_line(what.as_ref(), 120);
            Some(Left { path, note: Some((what, note.process.pid, note.cgroup, note.files)) })
        }
    });
    left.collect()
}

enum Judged {
    Alive,
    Dead(Box<Note>),
    /// Nothing that we have written, or half of it.
    Garbage,
}

fn judge(path: &Path) -> Judged {
    let note = match json::read_text(path) {
        Ok(text) => serde_json::from_str::<Note>(&text).ok(),
        // It is there, and we are short of descriptors or memory: for another to judge.
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
        // It may be about to be written.
        None if names_a_living_process(path) => Judged::Alive,
        None => Judged::Garbage,
    }
}

fn names_a_living_process(path: &Path) -> bool {
    let stem = path.file_stem().and_then(OsStr::to_str);
    let (pid, start) = match stem.and_then(|stem| stem.split_once('-')) {
        Some((pid, start)) => (pid.parse().ok(), start.parse().ok()),
        None => (None, None),
    };
    pid.zip(start).is_some_and(|(pid, start)| Process { pid, start }.is_alive())
}

fn paths(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).map(first_of).unwrap_or_default()
}

fn first_of(entries: std::fs::ReadDir) -> Vec<PathBuf> {
    entries.flatten().take(MOST_READ).map(|entry| entry.path()).collect()
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
        // As one leaves it that is killed between making it and its note.
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
