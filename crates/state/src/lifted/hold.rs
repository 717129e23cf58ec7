//! Threads that are held still for a moment, for one of two reasons.
//!
//! A program that calls sched_setscheduler all the time passes the kernel's check as the real-time
//! thread that it still is, waits for the lock that our put-back holds, and then makes itself real-time
//! again. From another CPU this succeeds nearly every time. A stopped thread has no such call under
//! way. And a runtime calls off the freeze that it waits for, which thaws what has frozen already.
//!
//! In a ptrace stop no process but the tracer notices (ptrace(2), PTRACE_INTERRUPT), and if we die, the
//! kernel lets the thread go. A program that has a tracer already is stopped by a signal.

use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::unistd::Pid;

use super::class::{self, Before};
use cgroup::process::Stat;

/// A running thread stops within microseconds.
const STOPS_WITHIN: Duration = Duration::from_millis(1);

/// A thread that was told to stop.
#[derive(Debug)]
pub struct Hold {
    tid: i32,
    is_ours_to_trace: bool,
}

impl Hold {
    /// None if the thread is gone, or we may not stop it.
    pub fn of(tid: i32) -> Option<Hold> {
        let by_signal = || {
            kill(Pid::from_raw(tid), Signal::SIGSTOP).ok()?;
            Some(Hold { tid, is_ours_to_trace: false })
        };
        Hold::by_trace(tid).or_else(by_signal)
    }

    /// The same, but only in a way that no other process notices.
    pub fn by_trace(tid: i32) -> Option<Hold> {
        let pid = Pid::from_raw(tid);
        ptrace::seize(pid, ptrace::Options::empty()).ok()?;
        let hold = Hold { tid, is_ours_to_trace: true };
        ptrace::interrupt(pid).ok().map(|()| hold)
    }

    pub fn is_of(&self, tid: i32) -> bool {
        self.tid == tid
    }

    /// Puts the thread back once it has stopped; gives whether it has.
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

    /// Also true if it is gone.
    fn has_stopped(&self) -> bool {
        let stat = Stat::of_thread(self.tid);
        stat.is_none_or(|stat| matches!(stat.state, b't' | b'T' | b'Z' | b'X'))
    }

    /// Gives whether the thread runs free or is gone. One that has not stopped yet cannot be let go, and
    /// would stop afterwards; one that was killed in its stop has yet to be reaped by us.
    pub fn let_go(&self) -> bool {
        if self.is_ours_to_trace {
            return sys::stop_tracing(self.tid);
        }
        let _ = kill(Pid::from_raw(self.tid), Signal::SIGCONT);
        true
    }
}

/// Lets go in any case: no other process would let go of a thread that a signal has stopped.
impl Drop for Hold {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// How long to wait: ptrace blocks while the thread executes a program (cred_guard_mutex).
const LOWERED_WITHIN: Duration = Duration::from_millis(20);

/// Holds a thread, puts it back and lets it go, for a caller that lives on. A thread of its own does
/// it, and whatever it still traces is let go when it ends. Waits for at most `LOWERED_WITHIN`. It does not
/// fall back to SIGSTOP: the caller may execute the runtime next, and nobody would send SIGCONT.
pub fn lower(tid: i32, before: &Before) {
    let before = *before;
    let (done, is_done) = std::sync::mpsc::channel();
    let lower = move || {
        let is_lowered = Hold::by_trace(tid).is_some_and(|hold| hold.lower(&before));
        let _ = done.send(is_lowered);
    };
    // The thread may outlive the wait, and must not take a signal that is meant for the process.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let thread = std::thread::Builder::new().spawn(lower);
    if let Ok(mask) = mask {
        let _ = mask.thread_set_mask();
    }
    if thread.is_ok() {
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

    /// The kernel refuses to let a thread go for any caller but its tracer, as it does once the thread was
    /// killed in its stop.
    #[test]
    fn a_thread_that_the_kernel_did_not_let_go_is_still_held() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let hold = Hold::by_trace(child.id() as i32).unwrap();
        until(|| hold.has_stopped());
        let is_let_go = std::thread::scope(|scope| scope.spawn(|| hold.let_go()).join().unwrap());
        assert!(!is_let_go);
        child.kill().unwrap();
        until(|| hold.let_go());
        assert!(child.wait().is_err(), "it was reaped by its tracer");
    }

    /// Also with a signal that no enumeration has.
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
