//! The journal: one JSON object a line, one write a line, in a file of bounded size. Also the long
//! journal on disk, to which records are carried.
//!
//! It never changes the result of an operation: what cannot be written is lost. Readers skip what they
//! cannot parse, such as the last line of a machine that lost power ([`reader`]).

mod carrier;
mod copy;
mod file;
pub mod history;
pub mod reader;
pub mod record;
mod stamp;

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use carrier::append_in_turn;
use file::older;
use history::History;
pub use stamp::{Stamp, VERSION, now};

/// Where the records go: a short file under /run, and the long one on disk.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    max_bytes: u64,
    history: Option<History>,
}

impl Journal {
    pub fn new(path: PathBuf, max_kib: u64, history: Option<History>) -> Journal {
        Journal { path, max_bytes: max_kib * 1024, history }
    }

    /// Adds one record. Errors are dropped: the operation has ended, and the only place to report them
    /// is somebody's log. With `starts_no_process`, no process of ours may stay behind; then the next
    /// writer carries the record on.
    pub fn append(&self, record: &impl Serialize, starts_no_process: bool) {
        let Ok(mut line) = serde_json::to_vec(record) else { return };
        line.push(b'\n');
        let written = file::append(&self.path, &line, self);
        if let (Ok(_), Some(history)) = (written, &self.history) {
            if !starts_no_process {
                carrier::see_to(&self.path, history);
            }
        }
    }
}

impl file::Rotation for Journal {
    fn is_full(&self, file: &Metadata, line: usize) -> bool {
        file.len() + line as u64 > self.max_bytes
    }

    fn set_aside(&self, path: &Path) -> io::Result<()> {
        std::fs::rename(path, older(path))
    }
}
