//! The process that carries records on to the disk, so that no operation waits for one.
//!
//! At most one for a state directory: the operation that finds none starts it and does not wait for
//! it. It lets records gather for a second, copies what is new, and ends. A disk that hangs holds
//! nobody but the carrier: the operations after it find it at work and leave it alone.

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

/// How long records gather: one fork a second at most, and as much is behind when the power goes.
const GATHER: Duration = Duration::from_secs(1);

/// How often what was written meanwhile is fetched, too, before that is left to the next carrier.
const ROUNDS: u32 = 16;

/// Called after a record was written, so that either a carrier is still to look, or this one starts it.
pub(crate) fn see_to(journal: &Path, history: &History) {
    let path = note_path(journal);
    let Some(note) = claim(&path) else { return };
    // It would be the first process of a namespace that ends with it, and the runtime the next; or, as
    // with a hook that runc's init runs, a process of ours in somebody's container.
    if process::children_are_elsewhere() || !process::pids_are_of_proc() {
        return;
    }
    if let Ok(None) = sys::fork() {
        // Somebody may wait for the end of a pipe, and a lock lasts as long as its descriptors. The
        // lock of `note` is now the carrier's.
        sys::close_all_but(&mut [note.as_raw_fd()]);
        let copy = Copy { journal, history, note: &note, note_path: &path };
        let _ = catch_unwind(AssertUnwindSafe(|| carry(&copy)));
        sys::exit_now(0)
    }
}

/// Adds a line of somebody else's, who may wait, after what the wrappers have written before it: readers
/// take an exit for that of a container which they know. Waits for a carrier that copies, as its write
/// would for the disk, and for none that lets records gather.
pub fn append_in_turn(journal: &Path, history: &History, line: &[u8]) -> io::Result<()> {
    let path = note_path(journal);
    if let Ok(note) = state::lock::open(&path, true) {
        let _ = Copy { journal, history, note: &note, note_path: &path }.all();
    }
    history.append(line)
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
        // An error is not tried again here: the next operation starts the next carrier, which waits
        // first, so that a full disk is asked once a second at most.
        let seen = copy.all()?;
        sys::flock(copy.note, libc::LOCK_UN)?;
        // Who has written before this line found us at work; who writes after it starts another.
        if copy.ends()? == seen || lock(copy.note).is_err() {
            break;
        }
    }
    Ok(())
}

/// Of what the caller gave its command, a process that outlives it keeps nothing that anybody waits
/// for: neither the terminal and its signals nor the directory, which may be to be unmounted.
fn detach() {
    sys::occupy_closed_stdio();
    let _ = nix::unistd::setsid();
    let _ = std::env::set_current_dir("/");
    let _ = nix::sys::prctl::set_name(c"frostlock-carry");
}

/// Until there may be enough, or somebody ends us, as the end of a service or of the machine does:
/// then there is still time to carry what there is.
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
