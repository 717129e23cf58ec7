//! doctor's access to the wrapper's lifts, all in this module. The system call is elsewhere: it
//! needs `unsafe`, which frostctl does not have.

use std::io;
use std::path::{Path, PathBuf};

use state::lifted;
use state::state_dir::StateDir;

/// Threads that a dead lifter has left above every fair one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) note: PathBuf,
    pub(crate) threads: Vec<i32>,
}

/// Lifts a process of ours and puts it back.
pub(crate) fn trial(pid: u32) -> io::Result<()> {
    lifted::trial(i32::try_from(pid).map_err(io::Error::other)?)
}

/// A note without such a thread is not reported: the next lift removes it.
pub(crate) fn left(state: &StateDir) -> Vec<Left> {
    let all = lifted::notes::left(state).into_iter();
    let all = all.map(|left| Left { threads: left.threads(), note: left.path });
    all.filter(|left| !left.threads.is_empty()).collect()
}

/// Returns how many threads were put back; each is checked again, since its id may have been
/// reused.
pub(crate) fn put_back(state: &StateDir, note: &Path) -> usize {
    let left = lifted::notes::left(state).into_iter().find(|left| left.path == note);
    left.as_ref().map_or(0, lifted::notes::put_back)
}
