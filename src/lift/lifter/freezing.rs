//! Pushes threads into the freezer, and holds the runtime so that it does not call the freeze off.

use std::io;
use std::time::{Duration, Instant};

use super::super::push;
use super::super::slots::{Slot, Use};
use super::work::Work;
use cgroup::freeze;
use cgroup::process::Stat;
use cgroup::{Freezer, Reader};
use state::lifted::hold::Hold;

/// The runtime may be held for so long, and only if more than `FEW` threads must freeze.
const HOLD_LIMIT: Duration = Duration::from_millis(500);
const FEW: usize = 24;
/// How many threads are looked at to find one to push.
const MOST_ASKED: usize = 64;
/// How often the runtime's threads are listed, to hold them all.
const HOLD_ROUNDS: u32 = 3;
const LET_GO_WITHIN: Duration = Duration::from_millis(3);
const LET_GO_EVERY: Duration = Duration::from_micros(100);

pub(super) struct Freezing {
    files: Reader,
    /// How often to look for a freeze.
    pub(super) every: Duration,
    held: Held,
}

/// The runtime's held threads. Held, the runtime cannot call off the freeze that it waits for.
struct Held {
    threads: Vec<Hold>,
    /// For how much longer it may be held, in all.
    left: Duration,
}

impl Freezing {
    pub(super) fn of(files: Reader, every: Duration) -> Freezing {
        Freezing { files, every, held: Held { threads: Vec::new(), left: HOLD_LIMIT } }
    }

    /// Pushes while the freeze has been written and is not complete. The runtime only polls meanwhile;
    /// it must not stand in the way of those threads.
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
        // Without a slot, try again at the next look.
        let slot = Slot::take(&work.slots, Use::Push, sys::usable_cpus())?;
        let Some(_slot) = slot else { return Ok(()) };
        // No frozen thread is asked again before all have been asked.
        let mut tids = Vec::new();
        let mut pushed = 1;
        while is_freezing() && files.is_told_to_freeze() {
            work.put_back_outside();
            if tids.is_empty() {
                if pushed == 0 {
                    // More CPU does not freeze the threads that are left, but a thaw may.
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

    /// A thread that has not stopped yet is let go at one of the next looks.
    pub(super) fn let_the_runtime_go(&mut self, work: &mut Work) {
        self.held.let_go(work);
    }
}

impl Held {
    /// runc 1.1 to 1.5 lets a cgroup freeze for some 2 ms, thaws it again, and so on for a quarter of a
    /// second (fs/freezer.go). If there are many threads, the first ones have left the freezer before
    /// the last ones are in it. The runtime is checked through its open files: its pid may belong to
    /// another process by now.
    fn hold_the_runtime(&mut self, work: &mut Work) {
        let Some(runtime) = work.census.runtime.as_mut().filter(|_| self.threads.is_empty()) else {
            return;
        };
        // A thread that is not held yet may start another.
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

    /// Let go while we have a CPU: a thread that wakes up to stop needs one first.
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
