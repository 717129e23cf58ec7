//! A file without its holes. A file that was extended without being written can have a terabyte of
//! zeros, which would take half an hour to read. A hole is read as one zero.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// The written ranges between two offsets, in order.
pub(crate) fn extents(file: &File, from: u64, to: u64) -> io::Result<VecDeque<Range<u64>>> {
    let mut extents = VecDeque::new();
    let mut at = from;
    while at < to {
        let Some(start) = seek(file, at, Whence::SeekData)?.filter(|start| *start < to) else {
            break;
        };
        let end = seek(file, start, Whence::SeekHole)?.unwrap_or(to).min(to);
        extents.push_back(start..end);
        at = end;
    }
    Ok(extents)
}

/// `None` if there is nothing after `from`. A file system without holes has only data.
fn seek(file: &File, from: u64, whence: Whence) -> io::Result<Option<u64>> {
    let from_there = i64::try_from(from).map_err(io::Error::other)?;
    match lseek(file, from_there, whence) {
        Ok(at) => Ok(u64::try_from(at).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL) if matches!(whence, Whence::SeekData) => Ok(Some(from)),
        Err(Errno::EINVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads the data between two offsets of a file.
#[derive(Debug)]
pub(crate) struct Data<'a> {
    file: &'a File,
    extents: VecDeque<Range<u64>>,
    at: u64,
    to: u64,
}

impl Data<'_> {
    pub(crate) fn of(file: &File, from: u64, to: u64) -> io::Result<Data<'_>> {
        Ok(Data { file, extents: extents(file, from, to)?, at: from, to })
    }

    fn hole(&mut self, buffer: &mut [u8], to: u64) -> usize {
        buffer[0] = 0;
        self.at = to;
        1
    }
}

impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.at >= self.to {
            return Ok(0);
        }
        let Some(extent) = self.extents.front().cloned() else {
            return Ok(self.hole(buffer, self.to));
        };
        if self.at < extent.start {
            return Ok(self.hole(buffer, extent.start));
        }
        let wanted = usize::try_from(extent.end - self.at)
            .map_or(buffer.len(), |left| left.min(buffer.len()));
        let got = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += got as u64;
        if self.at == extent.end {
            self.extents.pop_front();
        }
        // The file was truncated meanwhile.
        if got == 0 {
            self.at = self.to;
        }
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    const TERABYTE: u64 = 1 << 40;

    #[test]
    fn a_hole_is_one_zero_wherever_it_is() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"first\n").unwrap();
        file.seek(SeekFrom::Start(TERABYTE / 2)).unwrap();
        file.write_all(b"second\n").unwrap();
        file.set_len(TERABYTE).unwrap();
        let mut read = Vec::new();
        Data::of(&file, 0, TERABYTE).unwrap().read_to_end(&mut read).unwrap();
        // Written ranges are rounded up to blocks.
        read.dedup_by(|a, b| *a == 0 && *b == 0);
        assert_eq!(read, b"first\n\0second\n\0");
        assert!(extents(&file, 1 << 20, TERABYTE / 4).unwrap().is_empty());
    }

    #[test]
    fn only_what_lies_between_is_read() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut read = String::new();
        Data::of(&file, 3, 7).unwrap().read_to_string(&mut read).unwrap();
        assert_eq!(read, "3456");
        // Truncated since.
        let mut read = Vec::new();
        let mut data = Data::of(&file, 3, 9).unwrap();
        file.set_len(5).unwrap();
        data.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"34");
    }
}
