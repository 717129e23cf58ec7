//! Threads on their way into the freezer, and the runtime, which must not take the freeze back.

use std::io;
use std::time::{Duration, Instant};

use super::super::push;
use super::super::slots::{Slot, Use};
use super::work::Work;
use cgroup::freeze;
use cgroup::process::Stat;
use cgroup::{Freezer, Reader};
use state::lifted::hold::Hold;

/// For how long the runtime may be held, and for more than how many threads it is.
const HOLD_LIMIT: Duration = Duration::from_millis(500);
const FEW: usize = 24;
/// How many are looked at to see whether there is one to be pushed.
const MOST_ASKED: usize = 64;
/// How often its threads are listed, to hold them all.
const HOLD_ROUNDS: u32 = 3;
const LET_GO_WITHIN: Duration = Duration::from_millis(3);
const LET_GO_EVERY: Duration = Duration::from_micros(100);

pub(super) struct Freezing {
    files: Reader,
    /// How often it is looked whether there is a freeze.
    pub(super) every: Duration,
    held: Held,
}

/// The runtime's threads, while it must not take back the freeze that it waits for.
struct Held {
    threads: Vec<Hold>,
    /// For how long it may be so, in all.
    left: Duration,
}

impl Freezing {
    pub(super) fn of(files: Reader, every: Duration) -> Freezing {
        Freezing { files, every, held: Held { threads: Vec::new(), left: HOLD_LIMIT } }
    }

    /// While the freeze is written and not yet one. The runtime only looks on meanwhile: it must not
    /// stand in the way of those threads.
    pub(super) fn push(&mut self, work: &mut Work) -> io::Result<()> {
        let began = Instant::now();
        let pushed = self.push_while_it_freezes(work, began);
        if self.is_holding() {
            self.held.left = self.held.left.saturating_sub(began.elapsed());
            self.held.let_go_at_once(work);
        }
        pushed
    }

    fn push_while_it_freezes(&mut self, work: &mut Work, began: Instant) -> io::Result<()> {
        let (files, held) = (&self.files, &mut self.held);
        let is_freezing = || files.freezer() == Freezer::Freezing;
        if !is_freezing() {
            return Ok(());
        }
        // Whoever gets none comes back at the next look.
        let slot = Slot::take(&work.slots, Use::Push, sys::online_cpus())?;
        let Some(_slot) = slot else { return Ok(()) };
        // Those that are frozen are not asked once more before all have been.
        let mut tids = Vec::new();
        let mut pushed = 1;
        while is_freezing() && files.is_told_to_freeze() {
            work.put_back_outside();
            if tids.is_empty() {
                if pushed == 0 {
                    // Who is left does not freeze for being given a CPU, but may for a thaw.
                    held.left = Duration::ZERO;
                    break;
                }
                tids = freeze::threads(files);
                tids.retain(|tid| !work.kin.has(*tid));
                pushed = 0;
            }
            work.rise()?;
            let has_due = || pushed > 0 || tids.iter().take(MOST_ASKED).any(|tid| is_due(*tid));
            if tids.len() > FEW && began.elapsed() < held.left && has_due() {
                held.hold_the_runtime(work);
            }
            pushed += push::into_the_freezer(&mut work.set, &mut tids, is_freezing)?;
            work.charge();
            let is_held_for_long = !held.threads.is_empty() && began.elapsed() >= held.left;
            if is_held_for_long || work.limit_reached(Instant::now()).is_some() {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn is_holding(&self) -> bool {
        !self.held.threads.is_empty()
    }

    /// Who has yet to stop is let go at one of the next looks.
    pub(super) fn let_the_runtime_go(&mut self, work: &mut Work) {
        self.held.let_go(work);
    }
}

impl Held {
    /// runc 1.1 to 1.5 lets a cgroup freeze for some 2 ms, thaws it again, and so on for a quarter of a
    /// second (fs/freezer.go): of many threads the first ones have left the freezer before the last ones
    /// are in it. By the files that we have of it: its number may be another's by now.
    fn hold_the_runtime(&mut self, work: &mut Work) {
        let Some(runtime) = work.census.runtime.as_mut().filter(|_| self.threads.is_empty()) else {
            return;
        };
        // One that is not held yet may start another.
        for _ in 0..HOLD_ROUNDS {
            if runtime.stat().is_none_or(|stat| stat.state == b'Z') {
                return;
            }
            runtime.list();
            let is_held = |tid: &i32| self.threads.iter().any(|hold| hold.is_of(*tid));
            let new: Vec<i32> = runtime.tids().filter(|tid| !is_held(tid)).collect();
            if new.is_empty() {
                break;
            }
            self.threads.extend(new.into_iter().filter_map(Hold::by_trace));
        }
        work.has_held |= !self.threads.is_empty();
        work.set.may_hold(self.threads.is_empty());
    }

    fn let_go(&mut self, work: &mut Work) {
        self.threads.retain(|hold| !hold.let_go());
        work.set.may_hold(self.threads.is_empty());
    }

    /// While we have a CPU: a thread that wakes up to stop needs one first.
    fn let_go_at_once(&mut self, work: &mut Work) {
        let since = Instant::now();
        self.let_go(work);
        while !self.threads.is_empty() && since.elapsed() < LET_GO_WITHIN {
            std::thread::sleep(LET_GO_EVERY);
            self.let_go(work);
        }
    }
}

fn is_due(tid: i32) -> bool {
    Stat::of_thread(tid).is_some_and(|stat| stat.is_runnable())
}
