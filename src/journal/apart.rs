//! Work that may never end, and that nobody is to wait for.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::unistd::pipe2;

use crate::sys;

/// Does something in a process of its own, which is left to itself when `limit` is over: our own end
/// would wait for a thread in an uninterruptible sleep. Of our descriptors it keeps `keep` alone, as
/// somebody may wait for the end of a pipe. Whether it has ended in time.
///
/// Must be called while there is no other thread.
pub(super) fn apart(limit: Duration, keep: &File, work: impl FnOnce()) -> io::Result<bool> {
    let (ended, ends) = pipe2(OFlag::O_CLOEXEC)?;
    match sys::fork()? {
        None => {
            sys::close_all_but(&mut [ends.as_raw_fd(), keep.as_raw_fd()]);
            let _ = catch_unwind(AssertUnwindSafe(work));
            sys::exit_now(0)
        }
        Some(pid) => {
            drop(ends);
            let has_ended = is_readable_within(&ended, limit);
            if has_ended {
                let _ = sys::wait(pid, 0);
            }
            Ok(has_ended)
        }
    }
}

fn is_readable_within(from: &OwnedFd, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut polled, Some(TimeSpec::from(left)), None) {
            Err(Errno::EINTR) => {}
            ready => return ready.is_ok_and(|count| count > 0),
        }
    }
}
