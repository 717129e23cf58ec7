//! What killed operations and removed containers have left in our state directory, for those who look
//! after a node and not after one container.

use std::collections::HashSet;
use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::lock::{Acquired, Guard, Holder, LockFiles, Mode};
use crate::record::Recorded;
use crate::state_dir::{self, StateDir, listed};
use crate::{intent, lock};
use cgroup::bundle::PodNames;
use cgroup::process::Process;
use cgroup::{Freezer, Identity, text};

/// A younger file may belong to an operation that has just begun.
const IS_OLD: Duration = Duration::from_secs(60);

/// The note of an operation that did not live to remove it.
#[derive(Debug)]
pub struct Unfinished {
    pub note: PathBuf,
    /// The verb and the container; `None` if the file is not a note.
    pub operation: Option<String>,
    pub pid: i32,
    pub cgroup: Option<Identity>,
    pub freezer: Freezer,
    pub age: Option<Duration>,
}

/// All such notes.
pub fn unfinished(state: &StateDir) -> Vec<Unfinished> {
    let left = intent::all_left(state).into_iter();
    left.map(|(path, note)| {
        let note = note.as_ref();
        let operation = note.map(|note| format!("{} {}", note.verb, note.id));
        Unfinished {
            operation: operation.map(|it| text::one_line(it.as_ref(), 120)),
            pid: note.map_or(0, |note| note.process.pid),
            cgroup: note.and_then(|note| Identity::new(&note.cgroup)),
            freezer: note.map_or(Freezer::Unknown, |note| note.files.freezer()),
            age: age_of_note(&path),
            note: path,
        }
    })
    .collect()
}

/// Why nothing was undone or removed.
#[derive(Debug)]
pub enum NotDone {
    InUse(Vec<Holder>),
    NoLock(io::Error),
}

impl fmt::Display for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotDone::InUse(holders) if holders.is_empty() => f.write_str("in use, try again"),
            NotDone::InUse(holders) => {
                let holders: Vec<String> = holders.iter().map(ToString::to_string).collect();
                write!(f, "in use, try again: {}", holders.join(", "))
            }
            NotDone::NoLock(_) => f.write_str("cannot take the lock"),
        }
    }
}

impl Error for NotDone {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            NotDone::InUse(_) => None,
            NotDone::NoLock(error) => Some(error),
        }
    }
}

/// Undoes what killed operations have left frozen, under the cgroup's lock, as the next operation on it
/// would. Gives what was done.
pub fn undo(state: &StateDir, cgroup: &Identity, wait: Duration) -> Result<Vec<String>, NotDone> {
    let directory = state.locks().map_err(NotDone::NoLock)?;
    let _guard = exclusive(&LockFiles::of(cgroup, &directory), wait)?;
    Ok(intent::recover(state, cgroup, || is_paused(state, cgroup)))
}

fn exclusive(files: &LockFiles, wait: Duration) -> Result<Guard, NotDone> {
    match files.acquire(Mode::Exclusive, wait, None) {
        Acquired::Held(guard) => Ok(guard),
        Acquired::TimedOut { holders } => Err(NotDone::InUse(holders)),
        Acquired::Nested(holder) => Err(NotDone::InUse(vec![holder])),
        Acquired::Unavailable(error) => Err(NotDone::NoLock(error)),
    }
}

/// Whether a pause that was made through us stands.
pub fn is_paused(state: &StateDir, cgroup: &Identity) -> bool {
    let recorded = Recorded::all(state).into_iter();
    recorded.filter(|it| it.cgroup().as_ref() == Some(cgroup)).any(|it| it.record.paused)
}

/// A container that was made through us.
#[derive(Debug)]
pub struct Known {
    pub id: String,
    pub cgroup: Option<Identity>,
    pub pod: PodNames,
    pub init: Option<Process>,
    pub paused: bool,
}

/// Our records, including those of containers that are gone.
pub fn known(state: &StateDir) -> Vec<Known> {
    let recorded = Recorded::all(state).into_iter();
    recorded
        .map(|it| Known {
            cgroup: it.cgroup(),
            id: it.record.id,
            pod: it.record.pod,
            init: it.record.init,
            paused: it.record.paused,
        })
        .collect()
}

/// Locks that nobody holds of cgroups that are gone, and records of such containers.
pub fn stale(state: &StateDir, cgroups: &[Identity]) -> Vec<PathBuf> {
    let names: HashSet<String> =
        cgroups.iter().map(|it| state_dir::file_name(it.as_path().as_os_str())).collect();
    let is_of_none = |path: &PathBuf| {
        let is_ours = matches!(path.extension().and_then(OsStr::to_str), Some("lock" | "turn"));
        let name = path.file_stem().and_then(OsStr::to_str);
        is_ours && name.is_some_and(|name| !names.contains(name))
    };
    let files = listed(&state.lock_files());
    let locks = files.filter(is_of_none).filter(|path| is_old(path) && is_free(path));
    let records = Recorded::all(state).into_iter().filter(is_of_the_past);
    locks.chain(records.map(|it| it.path)).collect()
}

/// Holders that have had a lock for at least so long, each with the lock's file.
pub fn held(state: &StateDir, at_least: Duration) -> Vec<(PathBuf, Holder)> {
    let files = listed(&state.lock_files());
    let locks = files.filter(|path| path.extension() == Some(OsStr::new("lock")));
    let holders = locks.flat_map(|path| {
        let holders = LockFiles::at(&path).holders().into_iter();
        holders.map(move |holder| (path.clone(), holder))
    });
    holders.filter(|(_, holder)| holder.held_for() >= at_least).collect()
}

fn is_of_the_past(recorded: &Recorded) -> bool {
    !recorded.is_in_use() && !recorded.has_a_cgroup() && is_old(&recorded.path)
}

/// Removes such a file, unless it has come into use meanwhile.
pub fn remove_stale(path: &Path) -> Result<(), NotDone> {
    if path.extension() == Some(OsStr::new("json")) {
        let record = Recorded::read(path.to_owned()).filter(is_of_the_past);
        return record.map(|it| it.forget()).ok_or_else(|| NotDone::InUse(Vec::new()));
    }
    exclusive(&LockFiles::at(path), Duration::ZERO).map(Guard::retire)
}

fn is_free(path: &Path) -> bool {
    lock::open(path, false)
        .is_ok_and(|file| sys::flock(&file, libc::LOCK_SH | libc::LOCK_NB).is_ok())
}

fn is_old(path: &Path) -> bool {
    age(path).is_some_and(|age| age > IS_OLD)
}

/// By the monotonic clock, as far as the file's name tells: `PID-START.json`, in ticks since boot. The
/// process began a moment before it wrote the note, so the shorter of the two ages is nearer.
fn age_of_note(path: &Path) -> Option<Duration> {
    const TICKS_A_SECOND: u64 = 100;
    let process = path.file_stem().and_then(Process::named);
    let began = process.map(|it| Duration::from_millis(it.start * 1000 / TICKS_A_SECOND));
    let now = Duration::from_nanos(cgroup::process::since_boot_ns());
    let since_began = began.and_then(|began| now.checked_sub(began));
    since_began.into_iter().chain(age(path)).min()
}

fn age(path: &Path) -> Option<Duration> {
    let written = std::fs::symlink_metadata(path).ok()?.modified().ok()?;
    SystemTime::now().duration_since(written).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_record_is_removed_by_its_path_alone_and_one_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let record = |name: &str, creator: Option<Process>| {
            let at = cgroup::Places::of(Identity::new("/gone").unwrap());
            let mounts = cgroup::Hierarchies::default();
            let mut record = crate::record::Record::new(&at, None, &mounts, PodNames::default());
            record.creator = creator;
            let path = dir.path().join("containers").join(name);
            record.write(&path).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - 2 * IS_OLD).unwrap();
            path
        };
        let stale = record("stale.json", None);
        let used = record("used.json", Process::ourselves());
        assert!(remove_stale(&stale).is_ok() && !stale.exists());
        assert!(matches!(remove_stale(&used), Err(NotDone::InUse(_))) && used.exists());
    }

    #[test]
    fn a_clock_that_jumped_does_not_change_the_age_of_a_note() {
        let dir = tempfile::tempdir().unwrap();
        let ticks_now = cgroup::process::since_boot_ns() / 10_000_000;
        let note = dir.path().join(format!("7-{}.json", ticks_now.saturating_sub(500)));
        let file = std::fs::File::create(&note).unwrap();
        let year = Duration::from_secs(365 * 86_400);
        for written in [SystemTime::now() - year, SystemTime::now() + year] {
            file.set_modified(written).unwrap();
            let age = age_of_note(&note).unwrap();
            assert!((4..8).contains(&age.as_secs()), "{age:?}");
        }
        // Written some time after its process began: the freeze is not older.
        file.set_modified(SystemTime::now() - Duration::from_secs(1)).unwrap();
        assert!(age_of_note(&note).unwrap() < Duration::from_secs(4));
    }
}
