//! What doctor asks of the wrapper's lifts. Here alone, and nothing here lifts by itself: frostctl has
//! no `unsafe`, which the system call needs.

use std::io;
use std::path::{Path, PathBuf};

use frostlock::state_dir::StateDir;

/// Threads that a lifter which is gone has left above every fair one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) note: PathBuf,
    pub(crate) threads: Vec<i32>,
}

/// Lifts a process of ours and puts it back.
// TO WIRE: frostlock::lift::trial(pid).
pub(crate) fn trial(_pid: u32) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this frostlock has no lift"))
}

/// A note without such a thread is none of a finding: whoever lifts next removes it.
// TO WIRE: frostlock::lift::notes::left(state), with the note's path and the ids of its threads.
pub(crate) fn left(_state: &StateDir) -> Vec<Left> {
    let all: Vec<Left> = Vec::new();
    all.into_iter().filter(|left| !left.threads.is_empty()).collect()
}

/// As many threads as were put back; they are looked at again, as their ids may be others' by now.
// TO WIRE: the one of frostlock::lift::notes::left(state) whose note this is, to put_back().
pub(crate) fn put_back(_state: &StateDir, _note: &Path) -> usize {
    0
}
