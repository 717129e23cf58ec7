//! The process that carries records to the disk, so that no operation has to wait for it.
//!
//! There is at most one for a state directory. An operation that finds none starts one and does not
//! wait for it. The carrier lets records gather for a second, copies what is new, and ends. A hanging
//! disk blocks only the carrier: later operations see it at work and leave it alone.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::time::TimeSpec;

use super::copy::Copy;
use super::history::History;
use cgroup::process;

/// How long records gather: at most one fork a second, and at most this much is lost when the power
/// goes.
const GATHER: Duration = Duration::from_secs(1);

/// How often the carrier also fetches what was written meanwhile before it leaves that to the next one.
const ROUNDS: u32 = 16;

/// Called after a record was written. Afterwards either a carrier has yet to look, or this call has
/// started one.
pub(crate) fn see_to(journal: &Path, history: &History) {
    let path = note_path(journal);
    let Some(note) = claim(&path) else { return };
    // The carrier would be the first process of a namespace that ends with it, and the runtime the
    // next. Or, with a hook that runc's init runs, it would be a process of ours in somebody's
    // container.
    if process::children_are_elsewhere() || !process::pids_are_of_proc() {
        return;
    }
    if let Ok(None) = sys::fork() {
        // A caller may wait for the end of a pipe, and a lock lasts as long as its descriptors. The
        // lock of `note` now belongs to the carrier.
        sys::close_all_but(&mut [note.as_raw_fd()]);
        let copy = Copy { journal, history, note: &note, note_path: &path };
        let _ = catch_unwind(AssertUnwindSafe(|| carry(&copy)));
        sys::exit_now(0)
    }
}

/// Adds a line for a caller that may wait, after all that the wrappers wrote before it: readers count
/// an exit for the container that they know. Waits for a carrier that copies, as its own write would
/// for the disk, but not for one that only lets records gather.
pub fn append_in_turn(journal: &Path, history: &History, line: &[u8]) -> io::Result<()> {
    let path = note_path(journal);
    if let Ok(note) = state::lock::open(&path, true) {
        let _ = Copy { journal, history, note: &note, note_path: &path }.all();
    }
    history.append(line).map(drop)
}

fn note_path(journal: &Path) -> PathBuf {
    journal.with_extension("carried")
}

/// `None` if there is a carrier.
fn claim(path: &Path) -> Option<File> {
    let file = state::lock::open(path, true).ok()?;
    lock(&file).ok()?;
    Some(file)
}

fn lock(file: &File) -> io::Result<()> {
    sys::flock(file, libc::LOCK_EX | libc::LOCK_NB)
}

fn carry(copy: &Copy<'_>) -> io::Result<()> {
    detach();
    gather()?;
    for _ in 0..ROUNDS {
        // An error is not tried again here. The next operation starts the next carrier, which waits
        // first, so that a full disk is asked at most once a second.
        let seen = copy.all()?;
        sys::flock(copy.note, libc::LOCK_UN)?;
        // A writer before this line found us at work; a writer after it starts another carrier.
        if copy.ends()? == seen || lock(copy.note).is_err() {
            break;
        }
    }
    Ok(())
}

/// A process that outlives its command keeps nothing of what the caller gave the command and may wait
/// for: neither the terminal and its signals nor the directory, which someone may want to unmount.
fn detach() {
    sys::occupy_closed_stdio();
    let _ = nix::unistd::setsid();
    let _ = std::env::set_current_dir("/");
    let _ = nix::sys::prctl::set_name(c"frostlock-carry");
}

/// Waits until enough may have gathered, or until we are asked to end, as when a service or the machine
/// stops: there is still time to carry what there is.
fn gather() -> io::Result<()> {
    let mut ending = SigSet::empty();
    ending.add(Signal::SIGTERM);
    ending.thread_set_mask()?;
    let ended = SignalFd::new(&ending)?;
    let until = Instant::now() + GATHER;
    loop {
        let left = TimeSpec::from(until.saturating_duration_since(Instant::now()));
        match ppoll(&mut [PollFd::new(ended.as_fd(), PollFlags::POLLIN)], Some(left), None) {
            Err(Errno::EINTR) => {}
            polled => return polled.map(drop).map_err(io::Error::from),
        }
    }
}
