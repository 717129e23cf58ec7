//! Whose turn it is to write to the disk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sys;

const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A lock that lasts until every process that has it is done. Its file has a byte while somebody's
/// turn takes longer than anybody waits: one command is held up by a disk that hangs, and not each
/// one after it.
pub(super) struct Turn(File);

impl Turn {
    /// `None` if another's takes too long, or if there is no such file to be had.
    pub(super) fn take(path: &Path, until: Instant) -> Option<Turn> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .ok()?;
        while sys::flock(&file, libc::LOCK_EX | libc::LOCK_NB).is_err() {
            if Instant::now() >= until || is_marked(&file) {
                return None;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        // Left by one that was killed at last.
        if is_marked(&file) {
            let _ = file.set_len(0);
        }
        Some(Turn(file))
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

fn is_marked(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.len() > 0)
}
