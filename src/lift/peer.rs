//! The line between an operation and its lifter: one word, and one answer.

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
    /// The operation has ended, and wants to know what was lifted for it.
    End,
    /// It was killed, or has ended after that.
    HangUp,
}

impl Peer {
    /// Waits for at most so long.
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

    /// Whether it was heard.
    pub(super) fn answer(&mut self, summary: &Summary) -> bool {
        let Some(stream) = &mut self.0 else { return false };
        // The buffer of a socket takes it whole.
        let mut line = serde_json::to_vec(summary).unwrap_or_default();
        line.push(b'\n');
        stream.write_all(&line).is_ok()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// It has died.
    Gone,
    /// It takes too long.
    Late,
}

/// Tells the lifter of the end, and waits for its answer if there is a limit.
pub(super) fn end(stream: &mut UnixStream, limit: Duration) -> Result<Summary, NoAnswer> {
    // If it is about to end by itself, its words are there to be read.
    let _ = stream.write_all(b"e");
    last_words(stream, limit)
}

/// What it says at its end.
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

/// Whether the lifter has died, or has come to a limit and says so.
pub(super) fn ends(stream: &UnixStream) -> bool {
    is_readable(stream.as_fd(), Duration::ZERO)
}

fn is_readable(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    ppoll(&mut fds, Some(TimeSpec::from(limit)), None).is_ok_and(|ready| ready > 0)
}
