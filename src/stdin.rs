//! The standard input of `update --resources -`, kept for a further attempt.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{dup2_stdin, pipe2};
use serde::Deserialize;
use serde::de::IgnoredAny;

use cgroup::RuntimeKind;
use cgroup::json;

/// Resources are some kilobytes; a caller that writes more is writing without end.
const KEPT_MAX: u64 = json::MAX_FILE;

const PIECE: usize = 16 * 1024;

/// Reads all that the runtime would read into an anonymous file, which replaces our standard input for
/// good: if we become the runtime after all, it reads the same. After an error all of it is on our
/// standard input, too, but for one attempt only.
pub(crate) fn take(kind: RuntimeKind) -> io::Result<File> {
    if sys::file_size_is_limited() {
        return Err(io::Error::other("it may not fit into a file"));
    }
    let kept = File::from(sys::memfd(c"frostlock-stdin")?);
    let stdin = io::stdin();
    let mut copy = Copy { from: stdin.as_fd(), to: &kept, length: 0, is_cut: false };
    let read = read(&mut copy, kind);
    let (length, is_cut) = (copy.length, copy.is_cut);
    (&kept).rewind()?;
    match read {
        Err(error) if length == 0 => return Err(error),
        Err(error) if is_cut => {
            let all = hand_on(&kept, stdin.as_fd()).unwrap_or_else(|second| {
                log::warn!("only the first {length} bytes of the input can be passed on: {second}");
                OwnedFd::from(kept)
            });
            dup2_stdin(all)?;
            return Err(error);
        }
        // Any other error ends the input, as it would end the runtime's reading.
        Err(_) | Ok(()) => {}
    }
    dup2_stdin(&kept)?;
    Ok(kept)
}

/// runc decodes one JSON value. It waits neither for the end of its input nor, after a wrong byte, for
/// another (update.go): a caller that keeps its end open would wait for us, and we for it. crun and
/// youki read to the end.
fn read(copy: &mut Copy<'_>, kind: RuntimeKind) -> io::Result<()> {
    if kind != RuntimeKind::Runc {
        return io::copy(copy, &mut io::sink()).map(drop);
    }
    let text = BufReader::with_capacity(PIECE, copy);
    match IgnoredAny::deserialize(&mut serde_json::Deserializer::from_reader(text)) {
        Err(error) if error.is_io() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Keeps what it reads.
struct Copy<'a> {
    from: BorrowedFd<'a>,
    to: &'a File,
    length: u64,
    /// Whether there is no room for more.
    is_cut: bool,
}

impl Copy<'_> {
    /// Makes room before reading, or the bytes would be lost.
    fn make_room(&self, length: usize) -> io::Result<()> {
        if self.length + length as u64 > KEPT_MAX {
            return Err(io::Error::other("larger than 16 MiB"));
        }
        let (offset, length) = (self.length as libc::off_t, length as libc::off_t);
        Ok(fallocate(self.to, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, length)?)
    }
}

impl Read for Copy<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.make_room(bytes.len()).inspect_err(|_error| self.is_cut = true)?;
        let length = read_waiting(self.from, bytes)?;
        self.to.write_all(&bytes[..length])?;
        self.length += length as u64;
        Ok(length)
    }
}

/// The caller's pipe may be non-blocking.
fn read_waiting(from: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match nix::unistd::read(from, bytes).map_err(io::Error::from) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(from, PollFlags::POLLIN)], PollTimeout::NONE);
            }
            read => return read,
        }
    }
}

/// Hands on what was read, and then what follows, through a pipe. A separate process fills it: a thread
/// would end when we become the runtime.
fn hand_on(kept: &File, rest: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    if sys::fork()?.is_none() {
        let kept_open = [rest.as_raw_fd(), kept.as_raw_fd(), writer.as_raw_fd()];
        sys::close_all_but(&mut { kept_open });
        // The child must not continue as its parent does.
        let _ = catch_unwind(AssertUnwindSafe(|| fill(&mut File::from(writer), kept, rest)));
        sys::exit_now(0);
    }
    Ok(reader)
}

/// Until the input ends or its reader is gone.
fn fill(pipe: &mut File, mut kept: &File, rest: BorrowedFd<'_>) -> io::Result<()> {
    io::copy(&mut kept, pipe)?;
    let mut bytes = [0; PIECE];
    loop {
        let mut wakers =
            [PollFd::new(rest, PollFlags::POLLIN), PollFd::new(pipe.as_fd(), PollFlags::empty())];
        match poll(&mut wakers, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            polled => polled?,
        };
        if wakers[1].any() == Some(true) {
            return Ok(());
        }
        let length = read_waiting(rest, &mut bytes)?;
        if length == 0 {
            return Ok(());
        }
        pipe.write_all(&bytes[..length])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept of an input whose writer keeps it open.
    fn kept(input: &[u8]) -> Vec<u8> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let mut writer = File::from(writer);
        writer.write_all(input).unwrap();
        let mut to = tempfile::tempfile().unwrap();
        let mut copy = Copy { from: reader.as_fd(), to: &to, length: 0, is_cut: false };
        read(&mut copy, RuntimeKind::Runc).unwrap();
        let mut kept = Vec::new();
        to.rewind().unwrap();
        to.read_to_end(&mut kept).unwrap();
        kept
    }

    #[test]
    fn one_value_or_no_json_is_all_that_runc_reads() {
        let deep = [b"[".repeat(500), b"]".repeat(500)].concat();
        for whole in [&b"{}"[..], b" {\"a\": [1]}\nrest", b"{}x", b"\"\\ud800\"", &deep] {
            assert_eq!(kept(whole), whole);
        }
        for broken in [&b"x"[..], b"no", b"\0", b"{\"a\" 1", b"[1}", b"\"\n", b"\xef\xbb\xbf{"] {
            assert_eq!(kept(broken), broken);
        }
    }

    #[test]
    fn what_does_not_fit_is_not_read() {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        File::from(writer).write_all(b"{}").unwrap();
        let to = tempfile::tempfile().unwrap();
        let mut copy = Copy { from: reader.as_fd(), to: &to, length: KEPT_MAX, is_cut: false };
        assert!(read(&mut copy, RuntimeKind::Runc).is_err());
        assert!(copy.is_cut);
        let mut rest = Vec::new();
        File::from(reader).read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"{}");
    }
}
