//! Threads that are held still for a moment.
//!
//! A program that calls sched_setscheduler all the time passes the kernel's check as the real-time thread
//! that it still is, waits for the lock that our put-back has, and makes itself a real-time thread again
//! after that: from another CPU that goes well for it nearly every time. In a stop it has no such call
//! under way. A runtime takes back the freeze that it waits for, and what has frozen with it.
//!
//! In a stop of ptrace nobody but its tracer sees a thread (ptrace(2), PTRACE_INTERRUPT), and should we
//! die, the kernel lets it go. A program that has a tracer already is stopped by a signal.

use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::class::{self, Before};
use cgroup::process::Stat;

/// A thread that runs stops within microseconds.
const STOPS_WITHIN: Duration = Duration::from_millis(1);

/// A thread that was told to stop.
#[derive(Debug)]
pub struct Hold {
    tid: i32,
    is_ours_to_trace: bool,
}

impl Hold {
    /// None where it is gone, or it is not for us to stop it.
    pub fn of(tid: i32) -> Option<Hold> {
        let by_signal = || {
            kill(Pid::from_raw(tid), Signal::SIGSTOP).ok()?;
            Some(Hold { tid, is_ours_to_trace: false })
        };
        Hold::by_trace(tid).or_else(by_signal)
    }

    /// The same, and nobody is to see it.
    pub fn by_trace(tid: i32) -> Option<Hold> {
        let pid = Pid::from_raw(tid);
        ptrace::seize(pid, ptrace::Options::empty()).ok()?;
        let hold = Hold { tid, is_ours_to_trace: true };
        ptrace::interrupt(pid).ok().map(|()| hold)
    }

    pub fn is_of(&self, tid: i32) -> bool {
        self.tid == tid
    }

    /// Puts it back, once it has stopped; whether that is done.
    pub fn lower(&self, before: &Before) -> bool {
        let since = Instant::now();
        while !self.has_stopped() {
            if since.elapsed() >= STOPS_WITHIN {
                return false;
            }
            std::hint::spin_loop();
        }
        class::lower(self.tid, before);
        true
    }

    /// Or is gone.
    fn has_stopped(&self) -> bool {
        let stat = Stat::of_thread(self.tid);
        stat.is_none_or(|stat| matches!(stat.state, b't' | b'T' | b'Z' | b'X'))
    }

    /// Whether it is free to go on. One that has yet to stop cannot be let go, and would stop then.
    pub fn let_go(&self) -> bool {
        if self.is_ours_to_trace {
            return sys::stop_tracing(self.tid);
        }
        let _ = kill(Pid::from_raw(self.tid), Signal::SIGCONT);
        true
    }
}

/// Whatever came of it: nobody else would let go of one that a signal has stopped.
impl Drop for Hold {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// What a thread may keep us from by what it executes: a tracer waits for that (cred_guard_mutex).
const LOWERED_WITHIN: Duration = Duration::from_millis(20);

/// The same at once, by somebody who goes on to live: a tracer that ends lets go. It is not waited for
/// any longer than it takes.
pub fn lower(tid: i32, before: &Before) {
    let before = *before;
    let (done, is_done) = std::sync::mpsc::channel();
    let lower = move || {
        let is_lowered = Hold::of(tid).is_some_and(|hold| hold.lower(&before));
        let _ = done.send(is_lowered);
    };
    if std::thread::Builder::new().spawn(lower).is_ok() {
        let _ = is_done.recv_timeout(LOWERED_WITHIN);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    fn until(is_so: impl Fn() -> bool) {
        let since = Instant::now();
        while !is_so() {
            assert!(since.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A signal of the kind that no enumeration has, too.
    #[test]
    fn a_signal_that_comes_to_a_held_thread_is_not_lost() {
        for signal in [libc::SIGTERM, libc::SIGRTMIN() + 3] {
            let mut child = Command::new("sleep").arg("60").spawn().unwrap();
            let pid = child.id() as i32;
            until(|| cgroup::process::comm(pid).as_deref() == Some("sleep"));
            let hold = Hold::by_trace(pid).unwrap();
            until(|| hold.has_stopped());
            sys::kill(pid, signal);
            assert!(hold.let_go());
            assert_eq!(child.wait().unwrap().signal(), Some(signal));
            // The stop may be that of the signal.
            let mut child = Command::new("sleep").arg("60").spawn().unwrap();
            let pid = child.id() as i32;
            until(|| cgroup::process::comm(pid).as_deref() == Some("sleep"));
            ptrace::seize(Pid::from_raw(pid), ptrace::Options::empty()).unwrap();
            let hold = Hold { tid: pid, is_ours_to_trace: true };
            sys::kill(pid, signal);
            until(|| hold.let_go());
            assert_eq!(child.wait().unwrap().signal(), Some(signal));
        }
    }
}
