//! Reads a journal back, whatever state it is in.
//!
//! A line that is torn, too long or not a record is one [`Skipped`] among the records; a missing file
//! is an empty one. Nothing here blocks, and a line of any length takes bounded memory.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use cgroup::bundle::PodNames;

/// The longest record that is written is some 10 KiB.
pub const LINE_BYTES: usize = 64 * 1024;

/// One line of the journal; docs/journal.md has the keys. A key that a version does not write is
/// absent, and unknown keys are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub v: u32,
    pub boot_id: Option<String>,
    pub time: Option<String>,
    pub mono_ns: Option<u64>,
    pub verb: Option<String>,
    pub id: Option<String>,
    pub cgroup: Option<String>,
    pub runtime: Option<String>,
    pub pid: Option<u32>,
    pub requested_by: Option<String>,
    pub signal: Option<String>,
    pub stages: Option<Stages>,
    pub attempts: Option<u64>,
    #[serde(default)]
    pub tries: Vec<Try>,
    pub gave_up: Option<String>,
    pub lock: Option<String>,
    #[serde(default)]
    pub holders: Vec<String>,
    pub lock_wait_ms: Option<f64>,
    pub run_ms: Option<f64>,
    pub exit: Option<Exit>,
    pub verdict: Option<String>,
    pub quota: Option<Quotas>,
    /// In a record `lift`: the verb for which it was lifted.
    pub of: Option<String>,
    #[serde(default)]
    pub lifts: Vec<Lift>,
    pub lift_refused: Option<String>,
    /// From versions before there were lifts.
    #[serde(default)]
    pub refills: Vec<Refill>,
    #[serde(default)]
    pub recovered: Vec<String>,
    pub init_pid: Option<i32>,
    pub oom_kill: Option<u64>,
    pub nr_throttled: Option<u64>,
    pub throttled_us: Option<u64>,
    /// In mode "observe".
    pub throttling: Option<Throttling>,
    pub pod: Option<PodNames>,
    pub hook: Option<Hook>,
    pub note: Option<String>,
}

/// In ms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stages {
    pub prepare: Option<f64>,
    pub lock: Option<f64>,
    pub started: Option<f64>,
    pub run: Option<f64>,
}

/// One attempt of several, or one that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Try {
    pub ms: Option<f64>,
    pub failure: Option<String>,
    pub delay_ms: Option<f64>,
}

/// What was lifted above the fair scheduling class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lift {
    pub whose: Option<String>,
    pub threads: Option<u64>,
    pub cpu_ms: Option<f64>,
    pub ms: Option<f64>,
    pub ended: Option<String>,
}

/// What was done for one throttled cgroup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refill {
    pub cgroup: Option<String>,
    pub reason: Option<String>,
    pub ms: Option<f64>,
    pub writes: Option<u64>,
    pub gained_ms: Option<f64>,
    pub ended: Option<String>,
}

/// What throttling has cost an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Throttling {
    pub throttled_ms: Option<f64>,
    pub nr_periods: Option<u64>,
    pub nr_throttled: Option<u64>,
    pub cpu_ms: Option<f64>,
    pub explained_ms: Option<f64>,
}

/// What frostlock did as a hook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hook {
    pub stage: Option<String>,
    pub found: Option<String>,
    pub wait_ms: Option<f64>,
    pub frozen: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quotas {
    pub container: Option<Quota>,
    pub pod: Option<Quota>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// `None` means no limit.
    pub quota_us: Option<i64>,
    pub period_us: Option<u64>,
}

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
