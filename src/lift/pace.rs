//! Whether a process waits for a CPU, as seen from outside.
//!
//! It may wait if it got a CPU for less than half of the time that went by and has a runnable thread. A
//! thread that has just woken is runnable, too. So it does wait only if such a thread has not run by
//! the next look.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_getres};

use cgroup::process::{self, Ran};
use cgroup::threads::Threads;

#[derive(Debug)]
pub(super) struct Pace {
    used: Duration,
    at: Instant,
    /// The threads that were runnable at the last look, and how far they had run.
    suspects: Vec<(i32, Option<Ran>)>,
    /// In how many looks in a row there were suspects.
    in_a_row: u32,
}

/// After so many looks: a process that only gets short turns has run at each look, and waits all the
/// same.
const ENOUGH: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    Runs,
    /// Look again soon.
    Suspect,
    Waits,
}

impl Pace {
    /// For a process that has just begun.
    pub(super) fn begin() -> Pace {
        Pace { used: Duration::ZERO, at: Instant::now(), suspects: Vec::new(), in_a_row: 0 }
    }

    /// For a process that was there before we looked.
    pub(super) fn first_seen(process: &Threads) -> Pace {
        let used = process::cpu_time(process.pid()).unwrap_or_default();
        Pace { used, at: Instant::now(), suspects: runnable(process), in_a_row: 0 }
    }

    /// Of a process that is seen for the first time.
    pub(super) fn first_sight(&self) -> Sight {
        if self.suspects.is_empty() { Sight::Runs } else { Sight::Suspect }
    }

    pub(super) fn look(&mut self, process: &Threads) -> Sight {
        let now = Instant::now();
        let Some(used) = process::cpu_time(process.pid()) else { return Sight::Runs };
        let (gained, passed) = (used.saturating_sub(self.used), now.duration_since(self.at));
        (self.used, self.at) = (used, now);
        let suspects = if gained * 2 < passed { runnable(process) } else { Vec::new() };
        let before = std::mem::replace(&mut self.suspects, suspects);
        self.in_a_row = if self.suspects.is_empty() { 0 } else { self.in_a_row + 1 };
        let has_not_run = self.suspects.iter().any(|one| before.contains(one));
        match self.in_a_row {
            0 => Sight::Runs,
            ENOUGH.. => Sight::Waits,
            _ if has_not_run => Sight::Waits,
            _ => Sight::Suspect,
        }
    }
}

fn runnable(process: &Threads) -> Vec<(i32, Option<Ran>)> {
    process.runnable().map(|thread| (thread.tid, Ran::of(thread.tid))).collect()
}

/// How often the scheduler counts a running thread's time (CONFIG_HZ). The coarse clock has the same
/// resolution.
pub(super) fn tick() -> Duration {
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(LONGEST_TICK, Duration::from)
}

/// The tick at 100 Hz.
const LONGEST_TICK: Duration = Duration::from_millis(10);
