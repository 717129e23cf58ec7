//! Whose turn it is to write to the disk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use crate::sys;

const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A lock that lasts until every process that has it is done. Its file has a byte while somebody's
/// turn takes longer than anybody waits: one command is held up by a disk that hangs, and not each
/// one after it.
pub(super) struct Turn(File);

impl Turn {
    /// `None` if another's takes too long, or if there is no such file to be had.
    pub(super) fn take(path: &Path, limit: Duration) -> Option<Turn> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .ok()?;
        let since = Instant::now();
        let whose = taken_at(&file);
        let turn = Turn(file);
        while sys::flock(&turn.0, libc::LOCK_EX | libc::LOCK_NB).is_err() {
            if is_marked(&turn.0) {
                return None;
            }
            if since.elapsed() >= limit {
                // The caller of the one that writes may have been killed before it could say so.
                if taken_at(&turn.0) == whose {
                    turn.takes_long();
                }
                return None;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        // Left by one that was killed at last.
        turn.is_over();
        let _ = turn.0.set_modified(SystemTime::now());
        Some(turn)
    }

    pub(super) fn file(&self) -> &File {
        &self.0
    }

    /// Said by the one that has written, if late.
    pub(super) fn is_over(&self) {
        if is_marked(&self.0) {
            let _ = self.0.set_len(0);
        }
    }

    pub(super) fn takes_long(&self) {
        let _ = self.0.set_len(1);
    }
}

/// Tells one turn from the next.
fn taken_at(file: &File) -> Option<SystemTime> {
    file.metadata().and_then(|metadata| metadata.modified()).ok()
}

fn is_marked(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.len() > 0)
}
