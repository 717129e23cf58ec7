//! Reads a journal back, whatever state it is in.
//!
//! A line that is torn, too long or not a record is one [`Skipped`] among the records; a missing file
//! is an empty one. Nothing here blocks, and a line of any length takes bounded memory.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::record::Record;

/// The longest record that is written is some 10 KiB.
pub const LINE_BYTES: usize = 64 * 1024;

/// Part of a journal that is not a record.
#[derive(Debug)]
pub enum Skipped {
    /// A line of more than 64 KiB.
    TooLong,
    NotARecord(serde_json::Error),
    /// The file cannot be read, or not any further; the last item.
    Unreadable(io::Error),
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skipped::TooLong => write!(f, "a line of more than {LINE_BYTES} bytes"),
            Skipped::NotARecord(error) => write!(f, "a line that is not a record: {error}"),
            Skipped::Unreadable(error) => write!(f, "cannot read: {error}"),
        }
    }
}

impl std::error::Error for Skipped {}

/// The records of the journal at `path` and of the older file beside it, oldest first.
pub fn history(path: &Path) -> impl Iterator<Item = Result<Record, Skipped>> + use<> {
    let mut newer = open(path);
    let older = open(&super::file::older(path));
    if is_same(&older, &newer) {
        // The file was moved aside between the two opens.
        newer = open(path);
    }
    [older, newer].into_iter().flat_map(|file| {
        let (error, file) = match file {
            Ok(file) => (None, file),
            Err(error) => (Some(Err(Skipped::Unreadable(error))), None),
        };
        error.into_iter().chain(file.into_iter().flat_map(|file| Records::of(BufReader::new(file))))
    })
}

/// A missing file is `None`. If a FIFO is in its place, the open must not block.
pub fn open(path: &Path) -> io::Result<Option<File>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path);
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other("not a regular file")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_same(one: &io::Result<Option<File>>, other: &io::Result<Option<File>>) -> bool {
    let inode = |file: &io::Result<Option<File>>| {
        let metadata = file.as_ref().ok()?.as_ref()?.metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    inode(one).is_some_and(|one| inode(other) == Some(one))
}

/// The records of one file, in order.
#[derive(Debug)]
pub struct Records<R> {
    input: R,
    ended: bool,
}

impl<R: BufRead> Records<R> {
    pub fn of(input: R) -> Records<R> {
        Records { input, ended: false }
    }

    /// Reads one line into `line`, without its newline. False at the end of the file.
    fn line(&mut self, line: &mut Vec<u8>) -> Result<bool, Skipped> {
        let (mut length, mut any) = (0usize, false);
        loop {
            let buffer = match self.input.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                buffer => buffer.map_err(Skipped::Unreadable)?,
            };
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            let used = end.map_or(buffer.len(), |end| end + 1);
            any |= used > 0;
            length = length.saturating_add(part.len());
            if length <= LINE_BYTES {
                line.extend_from_slice(part);
            }
            self.input.consume(used);
            if end.is_some() || used == 0 {
                return if length > LINE_BYTES { Err(Skipped::TooLong) } else { Ok(any) };
            }
        }
    }
}

impl<R: BufRead> Iterator for Records<R> {
    type Item = Result<Record, Skipped>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let mut line = Vec::new();
            match self.line(&mut line) {
                // The writer ends a torn line with an empty one.
                Ok(true) if line.trim_ascii().is_empty() => {}
                Ok(true) => return Some(parse(&line)),
                Ok(false) => self.ended = true,
                Err(skipped) => {
                    self.ended = matches!(skipped, Skipped::Unreadable(_));
                    return Some(Err(skipped));
                }
            }
        }
        None
    }
}

fn parse(line: &[u8]) -> Result<Record, Skipped> {
    serde_json::from_slice(line).map_err(Skipped::NotARecord)
}
