//! The per-cgroup lock: flock on a pair of files, shared or exclusive, with a bounded wait.
//!
//! flock(2) alone is not fair. With four exec loops beside updates, 150 updates were not done after
//! 200 s, because some exec held the lock at every moment. So there is a second file, a turnstile.
//! Every operation passes it, one at a time and in the order of arrival, on the way to the lock. The
//! operation that waits for the lock stands in the turnstile, and later ones queue behind it.
//!
//! The lock is advisory: systemd, kubelet and a runtime started without us do not take it. It lives
//! with the open file, so a descriptor that leaked into a container would hold it for the container's
//! life. Every file here is therefore closed on exec.

mod holders;
mod mode;
mod turnstile;
mod wait;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use holders::Holder;
use holders::Slot;
pub use mode::Mode;
pub use wait::open;
use wait::{Refusal, Wait};

use crate::state_dir::{self, is_at};
use cgroup::Identity;

/// How the wait for a lock ended. The operation goes ahead in each case.
#[derive(Debug)]
pub enum Acquired {
    Held(Guard),
    /// An operation of ours that started this process holds it: a hook need not wait for its own
    /// parent.
    Nested(Holder),
    TimedOut {
        holders: Vec<Holder>,
    },
    Unavailable(io::Error),
}

/// The two files of one cgroup's lock.
#[derive(Debug, Clone)]
pub struct LockFiles {
    lock: PathBuf,
    turnstile: PathBuf,
}

impl LockFiles {
    pub fn of(identity: &Identity, directory: &Path) -> LockFiles {
        let name = state_dir::file_name(identity.as_path().as_os_str());
        LockFiles {
            lock: directory.join(format!("{name}.lock")),
            turnstile: directory.join(format!("{name}.turn")),
        }
    }

    /// The pair to which one of the files belongs.
    pub fn at(path: &Path) -> LockFiles {
        LockFiles { lock: path.with_extension("lock"), turnstile: path.with_extension("turn") }
    }

    /// Takes the lock and waits for at most `limit`. Without a `holder` no name is written; that is for
    /// a caller that gives the lock back at once.
    pub fn acquire(&self, mode: Mode, limit: Duration, holder: Option<&Holder>) -> Acquired {
        match self.pass(mode, limit) {
            Ok(lock) => {
                let slot = holder.map(|holder| holders::write(&lock, mode, holder));
                Acquired::Held(Guard { lock, slot, mode, files: self.clone() })
            }
            Err(Refusal::Nested(holder)) => Acquired::Nested(holder),
            Err(Refusal::TimedOut) => Acquired::TimedOut { holders: self.holders() },
            Err(Refusal::Failed(error)) => Acquired::Unavailable(error),
        }
    }

    /// Whether a shared lock could be taken and given back at once. This takes a third of the system
    /// calls of [`LockFiles::acquire`] and leaves no file for a container that is gone. It overtakes no
    /// one: an operation that waits stands in the turnstile, where later ones see it. If there is no
    /// file, no operation is in. Any odd case is a no, which `acquire` then explains.
    pub fn is_open_to_shared(&self) -> bool {
        self.look_in().unwrap_or_else(|error| error.kind() == io::ErrorKind::NotFound)
    }

    fn look_in(&self) -> io::Result<bool> {
        match turnstile::is_taken(&self.turnstile) {
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.map(|_taken| false),
        }
        let lock = wait::open(&self.lock, false)?;
        sys::flock(&lock, libc::LOCK_SH | libc::LOCK_NB)?;
        Ok(is_at(&lock, &self.lock))
    }

    /// Passes the turnstile on the way to the lock. The turn is given back only once the lock is ours;
    /// otherwise a stream of newcomers would overtake us for ever.
    fn pass(&self, mode: Mode, limit: Duration) -> Result<File, Refusal> {
        let mut wait = Wait::new(limit, &self.lock);
        let _turn = turnstile::enter(&mut wait, &self.turnstile)?;
        wait.lock(&self.lock, mode)
    }

    /// The operation of ours that holds the lock and that has started this process, directly or
    /// indirectly.
    pub fn holder_above_us(&self) -> Option<Holder> {
        self.holders().into_iter().find(Holder::is_above_us)
    }

    /// Whether there is a file to remove.
    pub fn are_there(&self) -> bool {
        [&self.lock, &self.turnstile].iter().any(|path| path.symlink_metadata().is_ok())
    }

    /// The holders of the lock now, as far as they have written their names.
    pub fn holders(&self) -> Vec<Holder> {
        holders::read(&self.lock)
    }
}

/// The held lock. Dropping it lets the next operation in.
#[derive(Debug)]
pub struct Guard {
    lock: File,
    slot: Option<Slot>,
    mode: Mode,
    files: LockFiles,
}

impl Guard {
    pub fn is_exclusive(&self) -> bool {
        self.mode == Mode::Exclusive
    }

    /// Removes the files of a cgroup that is gone. An operation that waits for the lock sees by the
    /// inode that its file was removed, and starts again on a new one. The turnstile stays for that
    /// operation, which then removes it. If our file has been removed already, another operation may
    /// hold the lock of the one in its place.
    pub fn retire(self) {
        if self.is_exclusive() && is_at(&self.lock, &self.files.lock) {
            let _ = std::fs::remove_file(&self.files.lock);
            let _ = turnstile::remove_if_empty(&self.files.turnstile);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A foreground operation lives on after it gave the lock back; it must not be listed as a
        // holder.
        if let Some(slot) = self.slot {
            holders::erase(&self.lock, slot);
        }
        // Not by the end of its descriptor alone: a process that we have just forked has that, too, and
        // may wait for a CPU before it closes it.
        let _ = sys::flock(&self.lock, libc::LOCK_UN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock_files(dir: &Path) -> LockFiles {
        LockFiles::of(&Identity::new("/a").unwrap(), dir)
    }

    fn held(files: &LockFiles, mode: Mode) -> Guard {
        match files.acquire(mode, Duration::ZERO, None) {
            Acquired::Held(guard) => guard,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_look_at_a_lock_that_nobody_ever_took_makes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(lock_files(dir.path()).is_open_to_shared());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_one_who_is_in_alone_keeps_a_look_out() {
        let dir = tempfile::tempdir().unwrap();
        let files = lock_files(dir.path());
        let shared = held(&files, Mode::Shared);
        assert!(files.is_open_to_shared());
        drop(shared);
        let exclusive = held(&files, Mode::Exclusive);
        assert!(!files.is_open_to_shared());
        drop(exclusive);
        assert!(files.is_open_to_shared());
        // The look has left nothing locked.
        drop(held(&files, Mode::Exclusive));
    }

    #[test]
    fn a_look_does_not_overtake_one_who_waits() {
        let dir = tempfile::tempdir().unwrap();
        let files = lock_files(dir.path());
        let shared = held(&files, Mode::Shared);
        let mut wait = Wait::new(Duration::ZERO, &files.lock);
        let turn = turnstile::enter(&mut wait, &files.turnstile).unwrap();
        assert!(!files.is_open_to_shared());
        drop(turn);
        assert!(files.is_open_to_shared());
        drop(shared);
    }

    #[test]
    fn one_who_waited_while_the_files_were_removed_is_not_overtaken() {
        let dir = tempfile::tempdir().unwrap();
        let files = lock_files(dir.path());
        let holder = held(&files, Mode::Exclusive);
        let mut wait = Wait::new(Duration::ZERO, &files.lock);
        let turn = turnstile::enter(&mut wait, &files.turnstile).unwrap();
        holder.retire();
        let newcomer = files.acquire(Mode::Exclusive, Duration::ZERO, None);
        assert!(matches!(newcomer, Acquired::TimedOut { .. }), "{newcomer:?}");
        drop(turn);
        held(&files, Mode::Exclusive).retire();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_lock_file_is_not_open() {
        let dir = tempfile::tempdir().unwrap();
        let files = lock_files(dir.path());
        std::os::unix::fs::symlink(dir.path().join("else"), &files.lock).unwrap();
        assert!(!files.is_open_to_shared());
    }
}
