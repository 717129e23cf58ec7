//! Whether a process waits for a CPU, as seen from outside.
//!
//! It does if it has had less than half of the time that went by, and a thread of it is runnable. That
//! it was so once may be chance, as a thread that has just woken is runnable, too: it is to be so at
//! two looks in a row.

use std::time::{Duration, Instant};

use crate::process::{self, Stat};

#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    used: Duration,
    at: Instant,
    is_suspect: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    Runs,
    /// To be looked at again soon.
    Suspect,
    Waits,
}

impl Pace {
    /// From the beginning of a process that has just begun.
    pub(super) fn begin() -> Pace {
        Pace { used: Duration::ZERO, at: Instant::now(), is_suspect: false }
    }

    /// Of one that was there before we looked.
    pub(super) fn first_seen(pid: i32, is_runnable: impl FnOnce() -> bool) -> Pace {
        let used = process::cpu_time(pid).unwrap_or_default();
        Pace { used, at: Instant::now(), is_suspect: is_runnable() }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.is_suspect
    }

    /// `is_runnable` says whether a thread of it is.
    pub(super) fn look(&mut self, pid: i32, is_runnable: impl FnOnce() -> bool) -> Sight {
        let now = Instant::now();
        let Some(used) = process::cpu_time(pid) else { return Sight::Runs };
        let (gained, passed) = (used.saturating_sub(self.used), now.duration_since(self.at));
        (self.used, self.at) = (used, now);
        let waits = gained * 2 < passed && is_runnable();
        let sight = match (waits, self.is_suspect) {
            (false, _) => Sight::Runs,
            (true, false) => Sight::Suspect,
            (true, true) => Sight::Waits,
        };
        self.is_suspect = waits;
        sight
    }
}

/// Of a Go program the first thread may sleep while another runs; more of them it does not have.
const MOST_THREADS: usize = 64;

pub(super) fn has_runnable_thread(pid: i32) -> bool {
    let threads = process::threads(pid).into_iter().take(MOST_THREADS);
    threads.filter_map(Stat::of_thread).any(|stat| stat.is_runnable())
}
