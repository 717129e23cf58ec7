//! The connection between an operation and its lifter: one byte there, one answer back.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::report::Summary;

/// The lifter's end.
#[derive(Debug)]
pub(super) struct Peer(pub(super) Option<UnixStream>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    /// The operation has ended and asks what was lifted for it.
    End,
    /// The operation was killed, or has exited after its `End`.
    HangUp,
}

impl Peer {
    /// Waits for at most `limit`.
    pub(super) fn hear(&mut self, limit: Duration) -> Heard {
        let Some(stream) = &mut self.0 else {
            std::thread::sleep(limit);
            return Heard::Nothing;
        };
        if !is_readable(stream.as_fd(), limit) {
            return Heard::Nothing;
        }
        let mut word = [0; 1];
        match stream.read(&mut word) {
            Ok(1) => Heard::End,
            _ => {
                self.0 = None;
                Heard::HangUp
            }
        }
    }

    /// Gives whether the answer was sent.
    pub(super) fn answer(&mut self, summary: &Summary) -> bool {
        let Some(stream) = &mut self.0 else { return false };
        // The socket's buffer takes the whole line, so this does not block.
        let mut line = serde_json::to_vec(summary).unwrap_or_default();
        line.push(b'\n');
        stream.write_all(&line).is_ok()
    }
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The lifter has died.
    Gone,
    /// The lifter takes too long.
    Late,
}

/// Tells the lifter that the operation has ended, and waits for its answer for at most `limit`.
pub(super) fn end(stream: &mut UnixStream, limit: Duration) -> Result<Summary, NoAnswer> {
    // A lifter that is about to end by itself has already written its summary.
    let _ = stream.write_all(b"e");
    last_words(stream, limit)
}

/// Reads the summary that the lifter sends at its end.
pub(super) fn last_words(stream: &mut UnixStream, limit: Duration) -> Result<Summary, NoAnswer> {
    let since = Instant::now();
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        if !is_readable(stream.as_fd(), limit.saturating_sub(since.elapsed())) {
            return Err(NoAnswer::Late);
        }
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(length) if length > 0 => line.extend_from_slice(&part[..length]),
            _ => return Err(NoAnswer::Gone),
        }
    }
    serde_json::from_slice(&line).map_err(|_| NoAnswer::Gone)
}

/// Whether the lifter has died, or has come to a limit and reports it.
pub(super) fn ends(stream: &UnixStream) -> bool {
    is_readable(stream.as_fd(), Duration::ZERO)
}

fn is_readable(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    ppoll(&mut fds, Some(TimeSpec::from(limit)), None).is_ok_and(|ready| ready > 0)
}
