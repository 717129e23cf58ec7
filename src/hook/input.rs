//! The standard input of a hook, whatever comes or does not come.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::de::IgnoredAny;

use cgroup::Unknown;

/// A state is some hundred bytes; annotations may add what kubelet accepts, 256 KiB.
const MAX_STATE: usize = 1024 * 1024;
/// A configuration is 10 to 50 KB; a caller that writes more is writing without end.
const MAX_CONFIG: usize = 64 * 1024 * 1024;

/// Runtimes write the state at once and close. A caller that does neither is not waited for longer.
const WAIT_FOR_STATE: Duration = Duration::from_secs(1);
/// What the configuration lacks, the container lacks, so there is more patience for it.
const WAIT_FOR_CONFIG: Duration = Duration::from_secs(10);

/// A write of this size does not block if poll calls the pipe writable (POSIX, PIPE_BUF).
const PIECE: usize = 4096;

/// What could be read.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) bytes: Vec<u8>,
    /// Why it may be incomplete.
    pub(super) incomplete: Option<Unknown>,
}

/// Reads a state; or a configuration, which goes to standard output as it comes.
pub(super) fn read(filters_config: bool) -> Input {
    let stdin = std::io::stdin();
    let stdout = std::io::stdout();
    let (limit, max) = match filters_config {
        true => (WAIT_FOR_CONFIG, MAX_CONFIG),
        false => (WAIT_FOR_STATE, MAX_STATE),
    };
    let to = filters_config.then(|| stdout.as_fd());
    Copy { from: stdin.as_fd(), to, deadline: Instant::now() + limit, max }.run()
}

struct Copy<'a> {
    from: BorrowedFd<'a>,
    to: Option<BorrowedFd<'a>>,
    deadline: Instant,
    max: usize,
}

impl Copy<'_> {
    fn run(&self) -> Input {
        let mut input = Input::default();
        input.incomplete = self.copy(&mut input.bytes).err();
        input
    }

    /// Copies to the end, or to the end of the one JSON value that a state is: a caller that keeps its
    /// end open has still said all that we need.
    fn copy(&self, bytes: &mut Vec<u8>) -> Result<(), Unknown> {
        let open = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
        let mut from =
            open(self.from).map_err(|error| Unknown::because("no standard input", error))?;
        let mut chunk = vec![0; 64 * 1024];
        loop {
            if self.has_said_enough(bytes) {
                return Ok(());
            }
            if !self.await_ready(self.from, PollFlags::POLLIN) {
                return Err(Unknown::new("the standard input did not end"));
            }
            match from.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    bytes.extend_from_slice(&chunk[..length]);
                    self.pass_on(&chunk[..length])?;
                }
                Err(error) if is_passing(error.kind()) => {}
                Err(error) => {
                    return Err(Unknown::because("cannot read the standard input", error));
                }
            }
            if bytes.len() > self.max {
                let max = self.max;
                return Err(Unknown::new(format!("more than {max} bytes of standard input")));
            }
        }
    }

    /// Checked only at a pause: parsing everything again for every piece would take long.
    fn has_said_enough(&self, bytes: &[u8]) -> bool {
        let pauses = || !is_ready(self.from, PollFlags::POLLIN, Duration::ZERO);
        self.to.is_none() && pauses() && is_decided(bytes)
    }

    fn pass_on(&self, bytes: &[u8]) -> Result<(), Unknown> {
        let Some(to) = self.to else { return Ok(()) };
        let failed = |error| Unknown::because("cannot write the configuration", error);
        let mut file = to.try_clone_to_owned().map(File::from).map_err(failed)?;
        for mut piece in bytes.chunks(PIECE) {
            while !piece.is_empty() {
                if !self.await_ready(to, PollFlags::POLLOUT) {
                    return Err(Unknown::new("nobody reads the configuration"));
                }
                match file.write(piece) {
                    Ok(length) => piece = &piece[length..],
                    Err(error) if is_passing(error.kind()) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        Ok(())
    }

    /// What is ready when the time is up is still read: we may have been frozen meanwhile.
    fn await_ready(&self, fd: BorrowedFd<'_>, what: PollFlags) -> bool {
        is_ready(fd, what, self.deadline.saturating_duration_since(Instant::now()))
    }
}

fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

/// An error, or a writer that is gone, is left for the read to find.
fn is_ready(fd: BorrowedFd<'_>, what: PollFlags, limit: Duration) -> bool {
    // Rounded up: otherwise the last millisecond would be spent polling.
    let timeout = PollTimeout::try_from(limit + Duration::from_micros(999));
    let mut fds = [PollFd::new(fd, what)];
    match poll(&mut fds, timeout.unwrap_or(PollTimeout::ZERO)) {
        Ok(ready) => ready > 0,
        Err(error) => error == nix::errno::Errno::EINTR && !limit.is_zero(),
    }
}

/// Whether the text has a whole JSON value, whatever follows it.
fn is_decided(text: &[u8]) -> bool {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    matches!(values.next(), Some(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    fn pipe() -> (OwnedFd, File) {
        let (from, to) = nix::unistd::pipe().unwrap();
        (from, File::from(to))
    }

    fn state_within(from: &OwnedFd, limit: Duration) -> Input {
        let deadline = Instant::now() + limit;
        Copy { from: from.as_fd(), to: None, deadline, max: MAX_STATE }.run()
    }

    #[test]
    fn a_value_is_enough_and_silence_is_not_waited_out() {
        let (from, mut to) = pipe();
        to.write_all(b"{\"id\":\"a\"}\n").unwrap();
        let since = Instant::now();
        let input = state_within(&from, Duration::from_secs(60));
        assert!(input.bytes == b"{\"id\":\"a\"}\n" && input.incomplete.is_none());
        let input = state_within(&from, Duration::from_millis(50));
        assert!(input.bytes.is_empty());
        assert_eq!(input.incomplete.unwrap().to_string(), "the standard input did not end");
        assert!(since.elapsed() < Duration::from_secs(30));
        drop(to);
        assert!(state_within(&from, Duration::from_secs(60)).incomplete.is_none());
    }

    #[test]
    fn what_is_there_when_the_time_is_up_is_read() {
        let (from, mut to) = pipe();
        to.write_all(b"{}").unwrap();
        assert_eq!(state_within(&from, Duration::ZERO).bytes, b"{}");
    }

    #[test]
    fn a_writer_without_end_is_left() {
        let zero = File::open("/dev/zero").unwrap();
        let input = state_within(&zero.into(), Duration::from_secs(60));
        assert!(input.incomplete.unwrap().to_string().contains("more than 1048576 bytes"));
    }

    #[test]
    fn a_configuration_passes_unchanged_and_a_reader_that_does_not_read_is_left() {
        let (from, mut to) = pipe();
        let mut out = tempfile::tempfile().unwrap();
        to.write_all(b"{\"a\": [1]} \xff\n").unwrap();
        drop(to);
        let deadline = Instant::now() + Duration::from_secs(60);
        let copy = Copy { from: from.as_fd(), to: Some(out.as_fd()), deadline, max: MAX_CONFIG };
        assert!(copy.run().incomplete.is_none());
        let mut written = Vec::new();
        std::io::Seek::rewind(&mut out).unwrap();
        out.read_to_end(&mut written).unwrap();
        assert_eq!(written, b"{\"a\": [1]} \xff\n");

        let zero = File::open("/dev/zero").unwrap();
        let (_unread, full) = pipe();
        let deadline = Instant::now() + Duration::from_millis(50);
        let copy = Copy { from: zero.as_fd(), to: Some(full.as_fd()), deadline, max: MAX_CONFIG };
        let why = copy.run().incomplete.unwrap();
        assert_eq!(why.to_string(), "nobody reads the configuration");
    }
}
