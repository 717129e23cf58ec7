//! One bounded wait for one or more flocks.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::holders::{self, Holder};
use super::mode::Mode;
use crate::state_dir::{self, is_at};

/// Why there is no lock.
#[derive(Debug)]
pub(super) enum Refusal {
    Nested(Holder),
    TimedOut,
    Failed(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Failed(error)
    }
}

/// A deadline for all flocks on the way. Nothing is set up for it until an operation is in the way,
/// which is rare.
pub(super) struct Wait<'a> {
    deadline: Instant,
    limit: Duration,
    interrupt: Option<sys::Interrupt>,
    /// The file in which holders have written who they are.
    lock: &'a Path,
}

impl<'a> Wait<'a> {
    pub(super) fn new(limit: Duration, lock: &'a Path) -> Wait<'a> {
        Wait { deadline: Instant::now() + limit, limit, interrupt: None, lock }
    }

    /// Locks the file at `path`, which it creates if needed, and makes sure that the locked file is
    /// still the one at that path: a `delete` may have removed it while we waited.
    pub(super) fn lock(&mut self, path: &Path, mode: Mode) -> Result<File, Refusal> {
        loop {
            let file = open(path, true)?;
            self.flock(&file, mode)?;
            if is_at(&file, path) {
                return Ok(file);
            }
        }
    }

    fn flock(&mut self, file: &File, mode: Mode) -> Result<(), Refusal> {
        let operation = match mode {
            Mode::Shared => libc::LOCK_SH,
            Mode::Exclusive => libc::LOCK_EX,
        };
        self.until(|blocking| {
            sys::flock(file, if blocking { operation } else { operation | libc::LOCK_NB })
        })
    }

    /// Takes a lock through a function that is told whether it may block.
    pub(super) fn until(&mut self, take: impl Fn(bool) -> io::Result<()>) -> Result<(), Refusal> {
        match take(false) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => return Ok(other?),
        }
        // Also if only the turnstile is taken: the operation in it may be waiting for the one that
        // started us, which waits for us.
        if let Some(holder) = holders::read(self.lock).into_iter().find(Holder::is_above_us) {
            return Err(Refusal::Nested(holder));
        }
        self.until_deadline(take)
    }

    fn until_deadline(&mut self, take: impl Fn(bool) -> io::Result<()>) -> Result<(), Refusal> {
        if self.limit.is_zero() {
            return Err(Refusal::TimedOut);
        }
        if self.interrupt.is_none() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            self.interrupt = Some(sys::Interrupt::after(left)?);
        }
        loop {
            match take(true) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    if Instant::now() >= self.deadline {
                        return Err(Refusal::TimedOut);
                    }
                }
                other => return Ok(other?),
            }
        }
    }
}

/// Opens a lock file.
pub fn open(path: &Path, create: bool) -> io::Result<File> {
    state_dir::open(path, OpenOptions::new().write(true).create(create))
}
