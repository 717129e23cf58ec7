//! One supervised operation, from the lock to its outcome.

mod attempt;
mod hold;
mod operation;
mod owner;
mod relief;
mod throttling;

use std::io;
use std::time::{Duration, Instant};

use attempt::{Attempted, Attempts};
use hold::Hold;
pub(crate) use operation::Operation;
use relief::Relief;
use throttling::Watched;

use crate::channels::Channels;
use crate::container::Container;
use crate::invocation::Verb;
use crate::outcome::{Exit, LockUse, Outcome, Stages, Verdict};
use crate::runtime::Signals;
use cgroup::leftovers::Leftovers;
use cgroup::{Freezer, Identity, process, text};
use state::intent::{self, Intent};
use state::lock::Mode;

/// How the operation ended. What the runtime said has yet to be passed on.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) signals: Signals,
}

/// What became of a lock that was taken only to wait for it.
#[derive(Debug, Default)]
pub(crate) struct Waited {
    pub(crate) cgroup: Option<Identity>,
    pub(crate) lock: LockUse,
    pub(crate) stages: Stages,
    pub(crate) recovered: Vec<String>,
}

/// What is prepared before the first attempt.
#[derive(Debug)]
struct Ready {
    hold: Hold,
    /// Whether this resume thaws a pause that was made through us.
    was_paused: bool,
    intent: Option<Intent>,
}

impl Operation<'_> {
    /// Runs the whole operation. An error means that the runtime could not be started as our child. The
    /// caller owns the channels: they hold what the runtime says and must survive a panic in here.
    pub(crate) fn supervise(&self, channels: &mut Option<Channels>) -> io::Result<Ended> {
        // Not even tried: when the first child in that namespace ends, the namespace ends.
        if process::children_are_elsewhere() {
            return Err(io::Error::other("it would be in another pid namespace"));
        }
        let mut container = self.container();
        // Before the lock, because this reads the caller's standard input to its end.
        let (opened, runtime) = self.channels();
        let channels = channels.insert(opened);
        let since = Instant::now();
        let mut outcome = Outcome::of(self.invocation.id.clone());
        outcome.stages.prepare = self.began.elapsed();
        let Ready { hold, was_paused, intent } = self.make_ready(&mut container, &mut outcome);
        // Where nothing may be lifted, the counters are not read.
        let throttled = match self.policy.mends {
            true => attempt::throttled_levels(&container),
            false => Vec::new(),
        };
        let watched = self.policy.observes.then(|| Watched::begin(&container)).flatten();
        let relief = Relief::plan(self, &container, &throttled);
        let mut attempts = Attempts {
            operation: self,
            since,
            runtime,
            channels,
            hold,
            relief,
            intent,
            recovered: std::mem::take(&mut outcome.recovered),
            so_far: Vec::new(),
            saw_freeze: false,
            longest: Duration::ZERO,
            throttled_before: attempt::sum(&throttled),
            watched,
        };
        let mut attempted = attempts.run(&mut container)?;
        let leftovers = self.remove_leftovers(&container, &mut attempts, &attempted.signals);
        attempted.notes.extend(leftovers);
        self.finish(&mut container, &mut attempts, attempted.exit, was_paused);
        self.settle(&mut container, attempted.exit, &mut attempts.hold);
        Ok(self.ended(&container, attempts, attempted, outcome))
    }

    /// Takes the lock, undoes what others have left, and notes what this operation may leave behind.
    fn make_ready(&self, container: &mut Container, outcome: &mut Outcome) -> Ready {
        let (mut hold, lock_wait) = Hold::take(self, container);
        outcome.stages.lock_wait = lock_wait;
        if self.invocation.verb.makes_a_container() {
            container.announce();
        }
        outcome.quotas = container.quotas();
        let since = Instant::now();
        outcome.recovered = self.put_back_lifted();
        outcome.recovered.extend(hold.recover(self, container));
        if !outcome.recovered.is_empty() {
            outcome.stages.lock_wait += since.elapsed();
        }
        let was_paused = self.invocation.verb == Verb::Resume && container.is_paused();
        // Done first: a resume that is killed must leave no record that says paused, nor may an
        // operation that could freeze a container that somebody has resumed without us.
        if was_paused || self.is_paused_no_more(container, &hold) {
            container.set_paused(false);
        }
        let intent = self.intent(container);
        // `delete` removes them, so they are read now.
        if self.invocation.verb == Verb::Delete {
            outcome.figures = container.figures();
        }
        Ready { hold, was_paused, intent }
    }

    fn ended(
        &self,
        container: &Container,
        mut attempts: Attempts<'_>,
        attempted: Attempted,
        outcome: Outcome,
    ) -> Ended {
        attempts.recovered.extend(attempts.relief.lift.take_recovered());
        let outcome = Outcome {
            verb: Some(self.invocation.verb),
            cgroup: container.identity(),
            runtime: self.runtime.path.clone(),
            requested_by: process::comm(process::parent()),
            signal: self.invocation.signal.clone(),
            lock: attempts.hold.into_lock(),
            stages: Stages { started: attempted.started, run: attempted.took, ..outcome.stages },
            attempts: attempts.so_far,
            gave_up: attempted.gave_up,
            exit: Some(attempted.exit),
            verdict: Verdict::of(attempted.exit),
            throttling: attempts.watched.and_then(Watched::seen),
            lifts: attempts.relief.lift.take_summary(),
            recovered: attempts.recovered,
            init: container.init(),
            pod: container.pod(),
            notes: container
                .unknown
                .iter()
                .map(|why| text::chain(why))
                .chain(attempted.notes)
                .collect(),
            ..outcome
        };
        Ended { outcome, signals: attempted.signals }
    }

    /// For a command that is handed over once no operation is in its way.
    pub(crate) fn wait_for_lock(&self) -> Waited {
        let mut container = self.container();
        let prepare = self.began.elapsed();
        let mut recovered = self.put_back_lifted();
        if recovered.is_empty() && hold::is_open(self, &container) {
            let stages = Stages { prepare, ..Stages::default() };
            let (cgroup, lock) = (container.identity(), LockUse::Held(Mode::Shared));
            return Waited { cgroup, lock, stages, recovered };
        }
        let (mut hold, lock_wait) = Hold::take(self, &mut container);
        // runc waits for ever for a cgroup that is FREEZING, so a dead operation's freeze is undone
        // first.
        recovered.extend(hold.recover(self, &container));
        if hold.is_held() && container.is_gone() {
            hold.retire(self, &container);
        }
        let stages = Stages { prepare, lock_wait, ..Stages::default() };
        Waited { cgroup: container.identity(), lock: hold.into_lock(), stages, recovered }
    }

    fn is_paused_no_more(&self, container: &Container, hold: &Hold) -> bool {
        self.policy.freezes.is_some()
            && hold.is_exclusive()
            && container.is_paused()
            && container.freezer() == Freezer::Thawed
    }

    /// Notes that this operation may leave a freeze behind. If the note cannot be written, the
    /// operation goes ahead all the same.
    fn intent(&self, container: &Container) -> Option<Intent> {
        if !self.policy.notes_freeze() {
            return None;
        }
        let (cgroup, files) = (container.identity()?, container.files()?);
        let (verb, id) = (self.invocation.verb, &self.invocation.id);
        if !verb.makes_a_container() {
            container.remember();
        }
        Intent::write(self.state, &cgroup, verb, id, files).ok()
    }

    /// Undoes the lifts of any dead lifter, on whichever container: a thread left lifted is in
    /// everybody's way.
    fn put_back_lifted(&self) -> Vec<String> {
        match self.policy.mends {
            true => state::lifted::notes::recover(self.state),
            false => Vec::new(),
        }
    }

    /// Removes the cgroups that the runtime has left of a container that it deleted.
    fn remove_leftovers(
        &self,
        container: &Container,
        attempts: &mut Attempts<'_>,
        signals: &Signals,
    ) -> Option<String> {
        let limit = self.policy.removes_leftovers_for;
        if limit.is_zero() || !container.is_gone() || !attempts.hold.is_held() {
            return None;
        }
        let dirs = container.own_dirs();
        if dirs.is_empty() {
            return None;
        }
        let mut leftovers = Leftovers::find(dirs);
        attempts.relief.until(signals, limit, || leftovers.remove());
        attempts.relief.lift.end_attempt();
        leftovers.report()
    }

    /// Records how the pause or resume ended, and removes the note if this operation has left nothing
    /// to undo.
    fn finish(
        &self,
        container: &mut Container,
        attempts: &mut Attempts<'_>,
        exit: Exit,
        was_paused: bool,
    ) {
        match self.invocation.verb {
            Verb::Pause if exit == Exit::Code(0) => container.set_paused(true),
            Verb::Resume if was_paused && container.freezer() == Freezer::Frozen => {
                container.set_paused(true);
            }
            _ => {}
        }
        // Without the lock we may not undo the freeze, nor while another operation is pausing. Then the
        // note stays: the next operation finds it, and undoes the freeze unless it has become another's
        // pause. If the cgroup is gone, there is no next operation.
        let is_at_it = |cgroup: &Identity| intent::another_pauses(self.state, cgroup);
        let may_have_left_one = exit != Exit::Code(0)
            && matches!(container.freezer(), Freezer::Frozen | Freezer::Freezing)
            && (!attempts.hold.is_held() || container.identity().as_ref().is_some_and(is_at_it));
        if let Some(intent) = attempts.intent.take() {
            if !(may_have_left_one && intent.is_of_a_thawed_cgroup()) {
                intent.done();
            }
        }
    }

    /// Brings our record up to date and gives the lock back; the lock's files go with the cgroup.
    fn settle(&self, container: &mut Container, exit: Exit, hold: &mut Hold) {
        let verb = self.invocation.verb;
        if verb.makes_a_container() && !container.came_to_nothing() {
            if exit == Exit::Code(0) {
                container.made(&self.invocation.id);
            }
        } else if !container.is_gone() {
            // Nothing has changed that another operation must know.
        } else if !verb.makes_a_container() && verb != Verb::Delete {
            // An operation that waited behind the delete has made the files anew.
            hold.retire(self, container);
        } else if container.identity().is_some() {
            // A `delete` that found no such container has nothing to forget.
            hold.forget(self, container);
        }
        hold.let_go();
    }
}
