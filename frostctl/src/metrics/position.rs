//! How far the journal has been read: the only place that reads it for the metrics.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::journal::{Data, Record, extents, lines, older, parse};

/// These bytes include the first record's boot and time.
const HEAD_BYTES: usize = 160;

/// The last line's beginning is searched for in steps of this size.
const STEP_BYTES: u64 = 64 * 1024;

/// A position in one file. An inode number can be reused; the file's first bytes are unique, since
/// they have the boot and time of the first record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    inode: u64,
    head: String,
    offset: u64,
}

/// What one reading has found besides records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) files: usize,
    pub(crate) skipped: u64,
    /// None of the known positions exists any more.
    pub(crate) gap: bool,
}

/// Passes each record after `positions` once, oldest first. Both files are read from their last
/// positions: a wrapper that still has the full file open may write to it.
pub(crate) fn advance(
    journal: &Path,
    positions: &mut Vec<Position>,
    mut each: impl FnMut(&Record<'_>),
) -> anyhow::Result<Reading> {
    let mut reading = Reading::default();
    let mut found = Vec::new();
    let mut matched = false;
    for (path, file) in open_both(journal)? {
        let inode = file.metadata()?.ino();
        let known = positions.iter().find(|it| it.inode == inode && it.is_in(&file));
        matched |= known.is_some();
        let from = known.map_or(0, |it| it.offset);
        let to = read(&file, from, &mut reading, &mut each)
            .with_context(|| format!("cannot read {}", path.display()))?;
        found.push(Position { inode, head: head(&file, to), offset: to });
        reading.files += 1;
    }
    reading.gap = !positions.is_empty() && !matched;
    *positions = found;
    Ok(reading)
}

impl Position {
    fn is_in(&self, file: &File) -> bool {
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        length >= self.offset && head(file, self.offset) == self.head
    }
}

/// The older file, if there is one, and the one that grows.
fn open_both(journal: &Path) -> anyhow::Result<Vec<(PathBuf, File)>> {
    // The growing one first: if it is moved aside now, both names are the same file, and new
    // records are read the next time.
    let growing = open(journal.to_owned())?;
    let inode = |(_, file): &(PathBuf, File)| file.metadata().map(|it| (it.dev(), it.ino())).ok();
    let older = open(older(journal))?.filter(|it| growing.as_ref().map(inode) != Some(inode(it)));
    Ok(older.into_iter().chain(growing).collect())
}

/// `None` if there is no file.
fn open(path: PathBuf) -> anyhow::Result<Option<(PathBuf, File)>> {
    let opened = journal::reader::open(&path);
    let opened = opened.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(opened.map(|file| (path, file)))
}

fn head(file: &File, up_to: u64) -> String {
    let mut bytes = [0; HEAD_BYTES];
    let wanted = usize::try_from(up_to).unwrap_or(HEAD_BYTES).min(HEAD_BYTES);
    let got = file.read_at(&mut bytes[..wanted], 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..got]).into_owned()
}

/// Reads whole lines, and returns where the last one ends. A partial line is still being written,
/// or the next writer ends it.
fn read(
    file: &File,
    from: u64,
    reading: &mut Reading,
    each: &mut impl FnMut(&Record<'_>),
) -> anyhow::Result<u64> {
    let to = last_end(file, from)?;
    lines(Data::of(file, from, to)?, |line| match parse(line) {
        Ok(Some(record)) => each(&record),
        Ok(None) => {}
        Err(_) => reading.skipped += 1,
    })?;
    Ok(to)
}

/// The offset after the last newline; `from` if there is none after it.
fn last_end(file: &File, from: u64) -> anyhow::Result<u64> {
    let mut block = Vec::new();
    for extent in extents(file, from, file.metadata()?.len())?.into_iter().rev() {
        let mut to = extent.end;
        while to > extent.start {
            let start = to.saturating_sub(STEP_BYTES).max(extent.start);
            block.resize(usize::try_from(to - start)?, 0);
            file.read_exact_at(&mut block, start)?;
            if let Some(at) = memchr::memrchr(b'\n', &block) {
                return Ok(start + at as u64 + 1);
            }
            to = start;
        }
    }
    Ok(from)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    struct Lab {
        directory: tempfile::TempDir,
        positions: Vec<Position>,
        written: u64,
    }

    impl Lab {
        fn new() -> Lab {
            Lab { directory: tempfile::tempdir().unwrap(), positions: Vec::new(), written: 0 }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("journal.jsonl")
        }

        fn append(&self, path: &Path, text: &str) {
            let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn line(&mut self) -> String {
            self.written += 1;
            format!("{{\"v\":1,\"boot_id\":\"b\",\"mono_ns\":{}}}\n", self.written)
        }

        fn write(&mut self) {
            let line = self.line();
            self.append(&self.path(), &line);
        }

        fn rotate(&self) {
            std::fs::rename(self.path(), self.path().with_extension("jsonl.1")).unwrap();
        }

        fn read(&mut self) -> (Vec<u64>, Reading) {
            let mut seen = Vec::new();
            let journal = self.path();
            let reading =
                advance(&journal, &mut self.positions, |it| seen.push(it.mono_ns)).unwrap();
            (seen, reading)
        }
    }

    #[test]
    fn every_record_once_over_a_rotation() {
        let mut lab = Lab::new();
        assert_eq!(lab.read(), (vec![], Reading::default()));
        lab.write();
        lab.write();
        assert_eq!(lab.read().0, [1, 2]);
        assert_eq!(lab.read().0, Vec::<u64>::new());
        lab.write();
        lab.rotate();
        lab.write();
        assert_eq!(lab.read(), (vec![3, 4], Reading { files: 2, skipped: 0, gap: false }));
        // By a writer that had the older file open.
        let line = lab.line();
        lab.append(&lab.path().with_extension("jsonl.1"), &line);
        assert_eq!(lab.read().0, [5]);
    }

    #[test]
    fn two_rotations_between_two_readings_are_a_gap() {
        let mut lab = Lab::new();
        lab.write();
        lab.read();
        for _ in 0..2 {
            lab.rotate();
            lab.write();
        }
        assert_eq!(lab.read(), (vec![2, 3], Reading { files: 2, skipped: 0, gap: true }));
        assert!(!lab.read().1.gap, "it is said once");
    }

    #[test]
    fn another_file_with_the_same_inode_is_another_file() {
        let mut lab = Lab::new();
        lab.write();
        lab.read();
        let line = lab.line();
        std::fs::write(lab.path(), line.repeat(2)).unwrap();
        assert_eq!(lab.read().0, [2, 2], "emptied in place, as when it cannot be moved");
    }

    #[test]
    fn half_a_line_waits_for_its_end_and_rubbish_is_counted() {
        let mut lab = Lab::new();
        let line = lab.line();
        let (half, rest) = line.split_at(20);
        lab.append(&lab.path(), half);
        assert_eq!(lab.read().0, Vec::<u64>::new());
        lab.append(&lab.path(), rest);
        lab.append(&lab.path(), "no record\n\n{\"v\":2}\n");
        lab.append(&lab.path(), &format!("{}\n", "x".repeat(200_000)));
        let (seen, reading) = lab.read();
        assert_eq!((seen, reading.skipped), (vec![1], 3));
    }

    #[test]
    fn what_is_no_file_is_an_error() {
        let lab = Lab::new();
        std::fs::create_dir(lab.path()).unwrap();
        let error = advance(&lab.path(), &mut Vec::new(), |_| {}).unwrap_err();
        assert!(format!("{error:#}").contains("not a regular file"), "{error:#}");
    }
}
