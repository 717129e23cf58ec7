//! One lifted thread: its class before, and the CPU time it has used.

use std::fs::File;
use std::time::{Duration, Instant};

use super::report::Whose;
use cgroup::threads::Clock;
use state::lifted::class::{self, Before};

#[derive(Debug)]
pub(super) struct Lifted {
    pub(super) process: i32,
    pub(super) start: u64,
    pub(super) whose: Whose,
    pub(super) before: Before,
    /// CPU time over its whole life.
    pub(super) used: Duration,
    /// CPU time since it was lifted.
    pub(super) gained: Duration,
    pub(super) looked: Instant,
    pub(super) clock: Clock,
    pub(super) slack: Option<File>,
}

/// What must be known of a thread before it is lifted.
pub(super) struct Ready {
    pub(super) before: Before,
    pub(super) used: Duration,
    pub(super) clock: Clock,
    pub(super) slack: Option<File>,
}

impl Ready {
    pub(super) fn of(tid: i32, default_slice: u64) -> Option<Ready> {
        let clock = Clock::of(tid).ok()?;
        let slack = class::open_slack(tid).ok();
        let mut before =
            Before::of(tid, default_slice).ok()?.or_else(|| class::mend_policy(tid))?;
        if let Some(slack) = &slack {
            before = before.with_slack(slack);
        }
        Some(Ready { before, used: clock.read()?, clock, slack })
    }
}

impl Lifted {
    /// What it has used since the last look. If it is gone, the most that it can have used.
    pub(super) fn gain(&mut self, used: Option<Duration>, now: Instant) -> Duration {
        let gained = match used {
            Some(used) => used.saturating_sub(self.used),
            None => now.saturating_duration_since(self.looked),
        };
        self.used += gained;
        self.gained += gained;
        self.looked = now;
        gained
    }
}
