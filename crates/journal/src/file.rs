//! Appends to a file of lines that many processes write and any of them may set aside.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use state::state_dir::{self, is_at};

/// When a file is full, and where it goes then.
pub(crate) trait Rotation {
    fn is_full(&self, file: &Metadata, line: usize) -> bool;
    /// Called by one process at a time.
    fn set_aside(&self, path: &Path) -> io::Result<()>;
}

/// How often a file may be set aside and removed while one line is added.
const APPEND_TRIES: u32 = 4;

/// Adds one line or several, each with its newline. Gives the file that has them now. Waits for no
/// other writer. It waits for a disk only as any write to the page cache does: there is no fsync.
pub(crate) fn append(path: &Path, line: &[u8], rotation: &impl Rotation) -> io::Result<Metadata> {
    if let Some(directory) = path.parent() {
        state_dir::make_private(directory)?;
    }
    for _ in 0..APPEND_TRIES {
        let mut file = open(path)?;
        let metadata = file.metadata()?;
        if metadata.len() > 0 && rotation.is_full(&metadata, line.len()) {
            file = rotate(file, path, rotation)?;
        }
        let line = if ends_torn(&file) { [b"\n", line].concat() } else { line.to_vec() };
        // One write: with O_APPEND, lines of several writers do not mix.
        if file.write(&line)? != line.len() {
            // The disk is full; the next writer sees that the line is torn.
            return Err(io::ErrorKind::WriteZero.into());
        }
        // The file was rotated twice since it was opened: nobody reads it any more.
        let metadata = file.metadata()?;
        if metadata.nlink() > 0 {
            return Ok(metadata);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Moves the full file aside, once: of several writers that find it full, one has the lock and the
/// others find a new file in its place. A writer that had opened the old one still writes into it,
/// where it is now, so nothing is lost. If it cannot be moved, it is emptied: what happens now is worth
/// more than what happened then, and the file stays bounded.
fn rotate(full: File, path: &Path, rotation: &impl Rotation) -> io::Result<File> {
    if sys::flock(&full, libc::LOCK_EX | libc::LOCK_NB).is_ok() && is_at(&full, path) {
        rotation.set_aside(path).or_else(|_| full.set_len(0))?;
    }
    open(path)
}

fn open(path: &Path) -> io::Result<File> {
    state_dir::open(path, OpenOptions::new().append(true).create(true))
}

/// Whether a full disk or a kill has left half a line, with which ours would merge. tmpfs also shows
/// half a line while somebody writes one that spans two pages; then the file grows.
fn ends_torn(file: &File) -> bool {
    let torn = torn_at(file);
    torn.is_some() && {
        std::thread::sleep(Duration::from_millis(1));
        torn_at(file) == torn
    }
}

/// The length of a file that ends within a line.
fn torn_at(file: &File) -> Option<u64> {
    let length = file.metadata().ok()?.len();
    let mut last = [0u8; 1];
    file.read_exact_at(&mut last, length.checked_sub(1)?).ok()?;
    (last[0] != b'\n').then_some(length)
}

/// Where a full journal stays until the next one is full.
pub(crate) fn older(path: &Path) -> PathBuf {
    let mut older = path.as_os_str().to_owned();
    older.push(".1");
    older.into()
}
