//! A thread that keeps its class over put-backs is held still for one.
//!
//! Who calls sched_setscheduler all the time passes the kernel's check as the real-time thread that it
//! still is, waits for the lock that our put-back has, and makes itself a real-time thread again after
//! that: from another CPU that goes well for it nearly every time. In a stop it has no such call under
//! way. In that of ptrace nobody but its tracer sees it (ptrace(2), PTRACE_INTERRUPT), and should we die,
//! the kernel lets it go. Who has a tracer already is stopped by a signal.

use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::class::{self, Before};
use crate::process::Stat;

/// A thread that runs stops within microseconds.
const STOPS_WITHIN: Duration = Duration::from_millis(1);

/// A thread that was told to stop.
#[derive(Debug)]
pub(super) struct Hold {
    pid: Pid,
    is_ours_to_trace: bool,
}

impl Hold {
    /// None where it is gone, or it is not for us to stop it.
    pub(super) fn of(tid: i32) -> Option<Hold> {
        let pid = Pid::from_raw(tid);
        let is_ours_to_trace = ptrace::seize(pid, ptrace::Options::empty()).is_ok();
        let told =
            if is_ours_to_trace { ptrace::interrupt(pid) } else { kill(pid, Signal::SIGSTOP) };
        told.ok().map(|()| Hold { pid, is_ours_to_trace })
    }

    /// Puts it back, once it has stopped; whether that is done.
    pub(super) fn lower(&self, before: &Before) -> bool {
        let since = Instant::now();
        while !self.has_stopped() {
            if since.elapsed() >= STOPS_WITHIN {
                return false;
            }
            std::hint::spin_loop();
        }
        class::lower(self.pid.as_raw(), before);
        true
    }

    /// Or is gone.
    fn has_stopped(&self) -> bool {
        let stat = Stat::of_thread(self.pid.as_raw());
        stat.is_none_or(|stat| matches!(stat.state, b't' | b'T' | b'Z' | b'X'))
    }
}

/// Whatever came of it: nobody else would let go of one that a signal has stopped.
impl Drop for Hold {
    fn drop(&mut self) {
        let _ = match self.is_ours_to_trace {
            true => ptrace::detach(self.pid, None),
            false => kill(self.pid, Signal::SIGCONT),
        };
    }
}

/// The same at once, by somebody who goes on to live: a tracer that ends lets go.
pub(super) fn lower(tid: i32, before: &Before) {
    std::thread::scope(|scope| {
        scope.spawn(|| Hold::of(tid).is_some_and(|hold| hold.lower(before)));
    });
}
