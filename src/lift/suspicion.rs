//! What an operation sees of the processes that may wait for a CPU, until one does.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use super::lifter::{self, Waits};
use super::pace::{self, Pace, Sight};
use super::plan::Plan;
use super::slots::{Slot, Use};
use crate::family::{self, FIRST_LOOK, Family};
use cgroup::process;
use cgroup::threads::Threads;
use state::state_dir::StateDir;

const LOOK_AT_THE_STARVED: Duration = Duration::from_millis(3);
/// A look that is due within this time is made at once.
const AT_ONCE: Duration = Duration::from_micros(150);
/// If this process itself has waited for a CPU for so long by now, the node is busy and the runtime
/// waits too. `cat /proc/thread-self/schedstat` on two CPUs showed 1 ms at most in 200 runs on an idle
/// machine, and a median of 3.3 ms at load 20.
const BUSY_NODE: Duration = Duration::from_millis(3);
/// A thread that has just been killed may be about to run without help.
pub(super) const DYING_LOOK: Duration = Duration::from_micros(500);
/// A look that was this many ticks late was kept from a CPU by more than our own runtime.
const LATE_TICKS: u32 = 3;

#[derive(Debug)]
pub(super) struct Suspicion {
    /// Of the runtime's process outside; after a lifter, from the next look on.
    outside: Option<Pace>,
    inside: BTreeMap<i32, Pace>,
    saw_dying: bool,
    /// The runtime has just been started.
    is_first: bool,
    /// All slots were taken when a process was seen to wait.
    waits_for_a_slot: bool,
    next: Instant,
    began: Instant,
}

/// What a look says.
pub(super) enum Look {
    /// Look again after this time.
    Again(Duration),
    /// A process waits. `process` is the one that the runtime starts and that is not its child.
    Start { process: Option<i32>, waits: Waits },
}

impl Suspicion {
    /// The runtime has just been started.
    pub(super) fn begin() -> Suspicion {
        Suspicion {
            outside: Some(Pace::begin()),
            inside: BTreeMap::new(),
            saw_dying: false,
            is_first: true,
            waits_for_a_slot: false,
            next: Instant::now() + FIRST_LOOK,
            began: Instant::now(),
        }
    }

    /// After a lifter.
    pub(super) fn again() -> Suspicion {
        Suspicion { outside: None, is_first: false, next: Instant::now(), ..Suspicion::begin() }
    }

    /// Looks, if it is time to.
    pub(super) fn look(
        &mut self,
        family: &mut Family,
        plan: &Plan,
        state: &StateDir,
        now: Instant,
    ) -> Look {
        let (outside, inside, process) = (true, true, plan.init);
        if plan.is_freezing() {
            return Look::Start { process: None, waits: Waits { outside: false, inside } };
        }
        if std::mem::take(&mut self.is_first) && process::own_wait() >= BUSY_NODE {
            return Look::Start { process, waits: Waits { outside, inside } };
        }
        if now + AT_ONCE < self.next {
            return Look::Again(self.until_next(plan, now));
        }
        if self.waits_for_a_slot && !has_a_slot(state) {
            return Look::Again(self.wait_for_a_slot());
        }
        let late = now.duration_since(self.next);
        family.look(now);
        let (waits, is_suspect) = self.see(family, plan);
        if waits != Waits::default() {
            return Look::Start { process, waits };
        }
        // A process that is itself kept from a CPU need not look twice.
        if is_suspect && late > pace::tick() * LATE_TICKS {
            return Look::Start { process, waits: Waits { outside, inside: false } };
        }
        let now = Instant::now();
        let most = if plan.is_starved { LOOK_AT_THE_STARVED } else { Duration::MAX };
        let next = family::look_again_in(self.began.elapsed()).min(most);
        self.next = now
            + match is_suspect {
                true if self.saw_dying => DYING_LOOK,
                true => second_look(),
                false => next,
            };
        Look::Again(self.until_next(plan, now))
    }

    fn until_next(&self, plan: &Plan, now: Instant) -> Duration {
        let next = self.next.saturating_duration_since(now);
        let freezes = plan.freezes.filter(|_| plan.is_throttled);
        freezes.map_or(next, |look| next.min(look))
    }

    pub(super) fn wait_for_a_slot(&mut self) -> Duration {
        self.waits_for_a_slot = true;
        let look = family::look_again_in(self.began.elapsed());
        self.next = Instant::now() + look;
        look
    }

    /// Which processes wait, and whether one may.
    fn see(&mut self, family: &Family, plan: &Plan) -> (Waits, bool) {
        let mut waits = Waits::default();
        let mut is_suspect = false;
        let mut take = |sight, waits: &mut bool| match sight {
            Sight::Runs => {}
            Sight::Suspect => is_suspect = true,
            Sight::Waits => *waits = true,
        };
        if let Some(runtime) = family.runtime() {
            let sight = match &mut self.outside {
                Some(known) => known.look(runtime),
                new => new.insert(Pace::first_seen(runtime)).first_sight(),
            };
            take(sight, &mut waits.outside);
        }
        // The init that this runtime starts is not its child.
        let init = plan.init.and_then(|pid| Threads::of(pid).ok());
        for child in family.children().chain(&init) {
            let sight = match self.inside.entry(child.pid()) {
                Entry::Occupied(mut known) => known.get_mut().look(child),
                Entry::Vacant(new) => new.insert(Pace::first_seen(child)).first_sight(),
            };
            let is_certain = plan.is_starved && sight == Sight::Suspect;
            take(if is_certain { Sight::Waits } else { sight }, &mut waits.inside);
        }
        let dying = plan.files.as_ref().filter(|_| plan.kills);
        let is_dying = dying.is_some_and(lifter::waiting_to_die);
        waits.inside |= is_dying && (self.saw_dying || plan.is_starved);
        is_suspect |= is_dying;
        self.saw_dying = is_dying;
        (waits, is_suspect)
    }
}

/// Also true if the slots cannot be read: the start of a lifter then reports the error.
fn has_a_slot(state: &StateDir) -> bool {
    let slots = state.lifts().join("slots");
    !matches!(Slot::take(&slots, Use::Lift, sys::usable_cpus()), Ok(None))
}

/// When to look again at a thread that may wait. The scheduler credits a running process with its time
/// at each tick; between two ticks it looks like one that waits.
fn second_look() -> Duration {
    pace::tick() + Duration::from_micros(200)
}
