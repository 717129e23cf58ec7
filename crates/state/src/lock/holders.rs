//! The holders of a lock, written into the lock file itself. The message of an operation that timed out
//! names them, and a hook uses them to see whether the holder is its ancestor.
//!
//! A file has a fixed number of slots of a fixed size, so that any number of shared holders can write
//! without another lock and the file does not grow. A holder takes the first free slot, starting at the
//! one that its pid selects. If two find the same slot free at the same moment, or there are more
//! holders than slots, one name is lost: a message lacks it, or a hook of that holder waits for it in
//! vain until its time is up. A holder that was killed leaves its line; readers drop lines whose
//! process is gone.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::mode::Mode;
use crate::state_dir;
use cgroup::process::{self, Process};
use cgroup::text;

const SLOT_BYTES: usize = 256;
const SLOTS: usize = 32;
/// Leaves room in a slot for the other fields, even if every byte of the id is escaped.
const ID_BYTES: usize = 80;

/// One holder of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    #[serde(flatten)]
    pub process: Process,
    pub verb: String,
    pub id: String,
    /// Milliseconds since 1970.
    pub since: u64,
}

impl Holder {
    pub fn ourselves(verb: &str, id: &OsStr) -> Option<Holder> {
        Some(Holder {
            process: Process::ourselves()?,
            verb: verb.to_owned(),
            id: text::one_line(id, ID_BYTES),
            since: now_ms(),
        })
    }

    /// All holders that the bytes of a lock file name, including dead ones.
    pub fn all_in(bytes: &[u8]) -> Vec<Holder> {
        let slots = bytes.chunks(SLOT_BYTES).take(SLOTS);
        slots.filter_map(|slot| serde_json::from_slice(slot).ok()).collect()
    }

    /// By the wall clock; zero if that went back.
    pub fn held_for(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.since))
    }

    pub(crate) fn is_above_us(&self) -> bool {
        self.process.is_ancestor_of_ours()
    }
}

impl fmt::Display for Holder {
    /// One line, whatever the file contains: this ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} (pid {}, for {} ms)",
            text::one_line(self.verb.as_ref(), ID_BYTES),
            text::one_line(self.id.as_ref(), ID_BYTES),
            self.process.pid,
            self.held_for().as_millis()
        )
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}

/// Where in the file a holder has written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot(u64);

/// Writes who holds the lock. If the disk is full, a message lacks the name.
pub(super) fn write(lock: &File, mode: Mode, holder: &Holder) -> Slot {
    let slot = match mode {
        Mode::Shared => free_slot(lock, holder.process.pid as usize % SLOTS),
        Mode::Exclusive => {
            // No other operation is in, so whatever the file holds is from dead ones.
            let _ = lock.set_len(0);
            Slot(0)
        }
    };
    let mut line = serde_json::to_vec(holder).unwrap_or_default();
    if line.len() < SLOT_BYTES {
        line.resize(SLOT_BYTES - 1, b' ');
        line.push(b'\n');
        let _ = lock.write_all_at(&line, slot.0);
    }
    slot
}

fn free_slot(lock: &File, preferred: usize) -> Slot {
    let slot_at = |number: usize| Slot((number % SLOTS * SLOT_BYTES) as u64);
    let mut slots = (preferred..preferred + SLOTS).map(slot_at);
    slots
        .find(|&slot| read_slot(lock, slot).is_none_or(|holder| !holder.process.is_alive()))
        .unwrap_or_else(|| slot_at(preferred))
}

fn read_slot(lock: &File, slot: Slot) -> Option<Holder> {
    let mut line = [0; SLOT_BYTES];
    let length = lock.read_at(&mut line, slot.0).ok()?;
    serde_json::from_slice(&line[..length]).ok()
}

/// Blanks our line, unless another holder has written over it.
pub(super) fn erase(lock: &File, slot: Slot) {
    let pid = process::own_pid();
    if read_slot(lock, slot).is_some_and(|holder| holder.process.pid != pid) {
        return;
    }
    let mut blank = [b' '; SLOT_BYTES];
    blank[SLOT_BYTES - 1] = b'\n';
    let _ = lock.write_all_at(&blank, slot.0);
}

/// The holders that are still alive.
pub(super) fn read(path: &Path) -> Vec<Holder> {
    let Ok(file) = state_dir::open(path, &mut OpenOptions::new()) else { return Vec::new() };
    let mut bytes = vec![0; SLOTS * SLOT_BYTES];
    let length = file.read_at(&mut bytes, 0).unwrap_or(0);
    let mut holders = Holder::all_in(&bytes[..length]);
    holders.retain(|holder| holder.process.is_alive());
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(process: Process) -> Holder {
        Holder { process, verb: "exec".to_owned(), id: "a".to_owned(), since: now_ms() }
    }

    #[test]
    fn a_living_holder_keeps_its_slot_and_a_dead_one_does_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let ours = holder(Process::ourselves().unwrap());
        let first = write(file.as_file(), Mode::Shared, &ours);
        let second = write(file.as_file(), Mode::Shared, &ours);
        assert_ne!(first.0, second.0);
        assert_eq!(read(file.path()), [ours.clone(), ours.clone()]);

        erase(file.as_file(), first);
        assert_eq!(read(file.path()), std::slice::from_ref(&ours));
        let start = ours.process.start + 1;
        let dead = holder(Process { start, ..ours.process });
        assert_eq!(write(file.as_file(), Mode::Shared, &dead).0, first.0);
        assert_eq!(write(file.as_file(), Mode::Shared, &ours).0, first.0);
    }

    #[test]
    fn the_line_of_another_is_not_erased() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let parent = holder(Process::of(cgroup::process::parent()).unwrap());
        let slot = write(file.as_file(), Mode::Exclusive, &parent);
        erase(file.as_file(), slot);
        assert_eq!(read(file.path()), [parent]);
    }

    #[test]
    fn more_holders_than_slots_are_no_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let ours = holder(Process::ourselves().unwrap());
        for _ in 0..SLOTS + 8 {
            write(file.as_file(), Mode::Shared, &ours);
        }
        assert_eq!(read(file.path()).len(), SLOTS);
        assert_eq!(file.as_file().metadata().unwrap().len(), (SLOTS * SLOT_BYTES) as u64);
    }

    #[test]
    fn a_name_from_a_lock_file_stays_on_its_line() {
        let slot = br#"{"pid":1,"start":2,"verb":"exec\n","id":"c\u001b[2J","since":3}"#;
        let holders = Holder::all_in(slot);
        assert!(holders[0].to_string().starts_with("exec\\n c\\u{1b}[2J (pid 1, for "));
    }
}
