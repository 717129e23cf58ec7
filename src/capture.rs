//! The runtime's stdout and stderr, held back until it has ended and then passed on byte for byte.
//!
//! They go into anonymous files and not pipes: nothing has to be read meanwhile, and a process that the
//! runtime left behind with its stderr neither blocks us nor dies of a closed pipe. What such a process
//! writes after the runtime's end is refused, and the memory of what it wrote before is freed: it may
//! be a daemon that a hook has started. A terminal is not captured, because runc's logger changes its
//! format when stderr is not one.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::runtime::Outputs;
use crate::runtime_log;

/// How long a caller that does not read the runtime's output may block us.
const REPLAY_MAX: Duration = Duration::from_secs(1);

/// The runtime's output; by default stdio is left alone.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    stdout: Option<File>,
    stderr: Option<File>,
    /// Both go into one pipe of the caller, in which their order matters.
    joined: bool,
}

impl Capture {
    /// Leaves stdio alone if there is no file to capture into, or a limit on file sizes.
    pub(crate) fn begin() -> Capture {
        if sys::file_size_is_limited() {
            return Capture::default();
        }
        Capture::try_begin().unwrap_or_default()
    }

    fn try_begin() -> io::Result<Capture> {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let joined = runtime_log::is_same(&stdout, &stderr);
        let out = (!stdout.is_terminal()).then(|| sys::memfd(c"frostlock-stdout")).transpose()?;
        let err = (!joined && !stderr.is_terminal())
            .then(|| sys::memfd(c"frostlock-stderr"))
            .transpose()?;
        Ok(Capture { stdout: out.map(File::from), stderr: err.map(File::from), joined })
    }

    pub(crate) fn outputs(&self) -> Outputs<'_> {
        let stderr = if self.joined { &self.stdout } else { &self.stderr };
        Outputs {
            stdout: self.stdout.as_ref().map(AsFd::as_fd),
            stderr: stderr.as_ref().map(AsFd::as_fd),
        }
    }

    /// Drops what an earlier attempt wrote.
    pub(crate) fn begin_attempt(&mut self) -> io::Result<()> {
        for file in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            file.set_len(0)?;
            file.rewind()?;
        }
        Ok(())
    }

    /// Passes everything on, once. If the caller has gone away, that is no error of the operation.
    pub(crate) fn replay(&mut self) {
        let (out, err) = (self.stdout.take(), self.stderr.take());
        // Before the replay, because a caller that does not read may block us until it kills us.
        out.iter().chain(&err).for_each(close_to_writers);
        let (stdout, stderr) = (io::stdout(), io::stderr());
        for (said, to) in [(out, stdout.as_fd()), (err, stderr.as_fd())] {
            if let Some(mut said) = said {
                let _ = pass_on(&mut said, to);
                let _ = said.set_len(0);
            }
        }
    }

    /// Adds `why` to the last error that the runtime has printed. Gives whether we hold one.
    pub(crate) fn explain(&mut self, why: &str) -> bool {
        let Some(file) = self.stderr.as_mut().or(self.stdout.as_mut()) else { return false };
        runtime_log::explain_in(file, why).unwrap_or(false)
    }

    /// The last line on stderr, where a runtime says why it failed.
    pub(crate) fn last_words(&self) -> Option<String> {
        const TAIL_BYTES: u64 = 2048;
        let file = self.stderr.as_ref().or(self.stdout.as_ref())?;
        let start = file.metadata().ok()?.len().saturating_sub(TAIL_BYTES);
        let tail = read_text_at(file, start, TAIL_BYTES)?;
        tail.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
    }

    /// All of the output, if it is short enough for an error.
    pub(crate) fn all_words(&self) -> Option<String> {
        const MOST: u64 = 64 * 1024;
        let file = self.stderr.as_ref().or(self.stdout.as_ref())?;
        let is_short = file.metadata().ok()?.len() <= MOST;
        is_short.then(|| read_text_at(file, 0, MOST))?
    }
}

/// Refuses further growth; the file can still be truncated.
fn close_to_writers(said: &File) {
    let _ = fcntl(said, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW));
}

fn read_text_at(file: &File, start: u64, most: u64) -> Option<String> {
    let mut bytes = vec![0; most as usize];
    let length = file.read_at(&mut bytes, start).ok()?;
    Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

fn pass_on(from: &mut File, to: BorrowedFd<'_>) -> io::Result<()> {
    let deadline = Instant::now() + REPLAY_MAX;
    let mut to = File::from(to.try_clone_to_owned()?);
    from.rewind()?;
    // A runtime prints a line or two; zeroing 16 KiB took a twentieth of `update`'s computing time.
    let mut buffer = [0; 4 * 1024];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        write_all_until(&mut to, &buffer[..length], deadline)?;
    }
}

/// The caller's pipe may be non-blocking.
fn write_all_until(to: &mut File, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait_for_room(to, deadline)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_for_room(to: &File, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], timeout)?;
    Ok(())
}
