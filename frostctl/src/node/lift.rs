//! What doctor asks of the wrapper's lifts. Here alone, and nothing here lifts by itself: frostctl has
//! no `unsafe`, which the system call needs.

use std::io;
use std::path::{Path, PathBuf};

use state::lifted;
use state::state_dir::StateDir;

/// Threads that a lifter which is gone has left above every fair one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) note: PathBuf,
    pub(crate) threads: Vec<i32>,
}

/// Lifts a process of ours and puts it back.
pub(crate) fn trial(pid: u32) -> io::Result<()> {
    lifted::trial(i32::try_from(pid).map_err(io::Error::other)?)
}

/// A note without such a thread is none of a finding: whoever lifts next removes it.
pub(crate) fn left(state: &StateDir) -> Vec<Left> {
    let all = lifted::notes::left(state).into_iter();
    let all = all.map(|left| Left { threads: left.threads(), note: left.path });
    all.filter(|left| !left.threads.is_empty()).collect()
}

/// As many threads as were put back; they are looked at again, as their ids may be others' by now.
pub(crate) fn put_back(state: &StateDir, note: &Path) -> usize {
    let left = lifted::notes::left(state).into_iter().find(|left| left.path == note);
    left.as_ref().map_or(0, lifted::notes::put_back)
}
