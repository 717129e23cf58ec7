//! Threads that were put back, until they are certain to stay fair: as long as their lifter lives.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::lifted::Lifted;
use super::report::Whose;
use cgroup::process::{self, Process, Stat};
use cgroup::threads::Clock;
use state::lifted::class::{self, Before};
use state::lifted::hold::Hold;
use state::lifted::notes::Note;

/// In how many looks a thread must have run as a fair one, or have slept.
const ENOUGH_LOOKS: u32 = 2;

/// A thread that is still lifted after so many rows of put-backs (`lower_firmly`) will not stay fair.
const MOST_LOST: u32 = 50;

/// A thread that was put back. A second thread of its program may still make it real-time again: by a call
/// that passed the kernel's check while the first was lifted, and completes once the second runs again.
#[derive(Debug)]
struct Former {
    process: i32,
    start: u64,
    whose: Whose,
    before: Before,
}

/// A thread that was put back, until it is certain that it stays fair. One that calls
/// sched_setscheduler all the time to keep its class may have passed the kernel's check before it was
/// put back, and be given the class afterwards (__sched_setscheduler, 6.18). Once it has run as a fair
/// thread, it has no such call under way.
#[derive(Debug)]
struct Settling {
    lifted: Lifted,
    fair_looks: u32,
    /// How many rows of put-backs it has survived.
    lost: u32,
    hold: Option<Hold>,
}

impl Settling {
    fn begin(lifted: Lifted) -> Settling {
        Settling { lifted, fair_looks: 0, lost: 0, hold: None }
    }

    fn put_back(&mut self, tid: i32, may_hold: bool) {
        let before = &self.lifted.before;
        let is_held = self.hold.is_some();
        let resists = !is_held && class::lower_firmly(tid, before) && class::is_lifted(tid);
        self.lost += u32::from(resists);
        if resists && may_hold {
            self.hold = Hold::of(tid);
        }
        self.let_go();
    }

    /// A thread that stays above the fair class keeps a CPU for ever. Only a program that is after just
    /// that gets here.
    fn is_to_be_killed(&self, tid: i32) -> bool {
        self.lost == MOST_LOST
            && self.lifted.clock.read().is_some()
            && !class::may_raise_itself(tid)
    }

    /// Lets the thread go once it has stopped.
    fn let_go(&mut self) {
        let before = &self.lifted.before;
        self.hold = self.hold.take().filter(|hold| !(hold.lower(before) && hold.let_go()));
    }
}

/// What a look has seen of threads that were real-time again.
#[derive(Debug, Default)]
pub(super) struct Again {
    pub(super) gains: Vec<(Whose, Duration)>,
    pub(super) killed: Vec<Whose>,
}

#[derive(Debug)]
pub(super) struct PutBack {
    settling: BTreeMap<i32, Settling>,
    former: BTreeMap<i32, Former>,
    /// The lifter's own start time.
    since: u64,
    /// Whether a thread that resists may be held still. Not while the runtime is held: ptrace may have
    /// to wait while another thread of the same process executes a program.
    pub(super) may_hold: bool,
}

impl PutBack {
    pub(super) fn begin() -> PutBack {
        PutBack {
            settling: BTreeMap::new(),
            former: BTreeMap::new(),
            since: Process::ourselves().map_or(u64::MAX, |lifter| lifter.start),
            may_hold: true,
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settling.is_empty()
    }

    /// Whether no thread was put back that may resist.
    pub(super) fn is_empty(&self) -> bool {
        self.former.is_empty()
    }

    /// Whether a thread was told to stop.
    pub(super) fn is_held(&self, tid: i32) -> bool {
        self.settling.get(&tid).is_some_and(|settling| settling.hold.is_some())
    }

    /// Not one that another lifter has lifted since: that one puts it back.
    pub(super) fn is_any_lifted(&self, note: &Note) -> bool {
        let settling = self.settling.iter().map(|(tid, settling)| (tid, settling.lifted.start));
        let mut all = settling.chain(self.former.iter().map(|(tid, former)| (tid, former.start)));
        all.any(|(tid, start)| class::is_lifted(*tid) && !note.is_anothers(*tid, start))
    }

    /// A thread that was just put back.
    pub(super) fn add(&mut self, tid: i32, lifted: Lifted) {
        // A thread that sleeps or is frozen has no such call of its own under way.
        if Stat::of_thread(tid).is_some_and(|stat| stat.is_runnable()) {
            self.put_back(tid, lifted);
        } else {
            self.former.insert(tid, Former::of(&lifted));
        }
    }

    /// Puts a thread back, and looks at it until it has been seen fair.
    pub(super) fn put_back(&mut self, tid: i32, lifted: Lifted) {
        self.former.insert(tid, Former::of(&lifted));
        let mut settling = Settling::begin(lifted);
        settling.put_back(tid, self.may_hold);
        self.settling.insert(tid, settling);
    }

    /// A thread is lifted once more.
    pub(super) fn is_lifted_again(&mut self, tid: i32) {
        self.settling.remove(&tid);
    }

    /// Looks again at the threads that were put back, and puts back again any that is not what it was
    /// before.
    pub(super) fn look(&mut self, note: &Note, now: Instant) -> Again {
        let (mut again, may_hold) = (Again::default(), self.may_hold);
        self.settling.retain(|tid, settling| {
            let lifted = &mut settling.lifted;
            let was_lifted = class::is_lifted(*tid);
            // A thread that has been told to stop must stop before it can be let go.
            if was_lifted && settling.hold.is_none() && is_no_longer_ours(*tid, lifted.start, note)
            {
                return false;
            }
            let used = lifted.clock.read();
            let (is_there, gained) = (used.is_some(), lifted.gain(used, now));
            if was_lifted || settling.hold.is_some() {
                again.gains.push((lifted.whose, gained));
                settling.fair_looks = 0;
                settling.put_back(*tid, may_hold);
                if settling.is_to_be_killed(*tid) {
                    sys::kill(settling.lifted.process, libc::SIGKILL);
                    again.killed.push(settling.lifted.whose);
                }
            } else if !gained.is_zero() || !Stat::of_thread(*tid).is_some_and(|s| s.is_runnable()) {
                settling.fair_looks += 1;
            }
            is_there && settling.fair_looks < ENOUGH_LOOKS
        });
        again
    }

    /// Finds threads that were put back, and are lifted all the same. `lifted` says which are so rightly.
    pub(super) fn find_again(
        &mut self,
        note: &Note,
        now: Instant,
        lifted: impl Fn(i32) -> bool,
        is_due: impl Fn(Whose) -> bool,
    ) {
        let settling = &self.settling;
        let mut again = Vec::new();
        self.former.retain(|tid, former| {
            if !is_due(former.whose) || lifted(*tid) || settling.contains_key(tid) {
                return true;
            }
            let Some(is_lifted) = class::look(*tid) else { return false };
            if !is_lifted || is_no_longer_ours(*tid, former.start, note) {
                return true;
            }
            again.extend(former.again(*tid, now).map(|lifted| (*tid, lifted)));
            false
        });
        for (tid, lifted) in again {
            self.put_back(tid, lifted);
        }
    }

    /// Puts back a thread that has a class of ours and was not lifted. The kernel copies a thread without
    /// the lock under which its class changes (dup_task_struct, kernel/fork.c, 6.18). So a child that is
    /// born during a put-back may have the policy of before and the RESET_ON_FORK of after. It is scheduled
    /// as fair (sched_fork), and may make itself real-time at any time, as that changes no policy.
    /// `is_member` says whether a process belongs to the operation.
    pub(super) fn put_back_stray(
        &mut self,
        tid: i32,
        is_member: impl Fn(i32) -> bool,
        note: &Note,
        now: Instant,
    ) {
        let is_known = self.settling.contains_key(&tid);
        if !is_known && class::is_lifted(tid) {
            if let Some(lifted) = self.stray(tid, is_member, note, now) {
                self.put_back(tid, lifted);
            }
        }
    }

    /// A thread that was real-time when the lifter began, or that another one lifts, is left alone.
    fn stray(
        &self,
        tid: i32,
        is_member: impl Fn(i32) -> bool,
        note: &Note,
        now: Instant,
    ) -> Option<Lifted> {
        let stat = Stat::of_thread(tid)?;
        let is_born_real_time = || {
            stat.start >= self.since
                && process::of_thread(tid).is_some_and(|pid| {
                    is_member(pid) || self.has_had(pid) || self.has_had(stat.parent)
                })
                && !note.is_anothers(tid, stat.start)
        };
        if !stat.is_fair() && !is_born_real_time() {
            return None;
        }
        let (start, whose) = (stat.start, Whose::Program);
        Former { process: tid, start, whose, before: Before::ordinary() }.again(tid, now)
    }

    /// Whether a thread of this process was ever put back.
    fn has_had(&self, process: i32) -> bool {
        self.former.values().any(|former| former.process == process)
    }
}

/// Whether another lifter may have lifted a thread, or it dies: then it runs nothing more, and may have
/// been lifted for that.
fn is_no_longer_ours(tid: i32, start: u64, note: &Note) -> bool {
    Stat::of_thread(tid).is_some_and(|stat| stat.is_dying()) || note.is_anothers(tid, start)
}

impl Former {
    fn of(lifted: &Lifted) -> Former {
        let Lifted { process, start, whose, before, .. } = *lifted;
        Former { process, start, whose, before }
    }

    /// None if the number is another thread's now, the thread has the right to raise itself, or it dies.
    fn again(&self, tid: i32, now: Instant) -> Option<Lifted> {
        let Former { process, start, whose, before } = *self;
        let clock = Clock::of(tid).ok()?;
        let used = clock.read()?;
        let stat = Stat::of_thread(tid).filter(|stat| stat.start == start)?;
        if stat.is_dying() || class::may_raise_itself(tid) {
            return None;
        }
        let (gained, slack) = (Duration::ZERO, class::open_slack(tid).ok());
        Some(Lifted { process, start, whose, before, used, gained, looked: now, clock, slack })
    }
}
