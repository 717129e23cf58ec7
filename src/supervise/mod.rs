//! One supervised operation, from the lock to its outcome.

mod attempt;
mod relief;

use std::io;
use std::time::{Duration, Instant};

use attempt::{Attempts, Run};
use relief::Relief;

use crate::channels::{Channels, Degree};
use crate::container::Container;
use crate::invocation::{Globals, Invocation, Verb};
use crate::lift;
use crate::outcome::{Exit, LockUse, Outcome, Stages, Verdict};
use crate::record;
use crate::runtime::{Runtime, Signals};
use cgroup::RuntimeKind;
use cgroup::bundle::PodNames;
use cgroup::leftovers::Leftovers;
use cgroup::process;
use cgroup::{Freezer, Identity};
use config::{Config, Mode as Extent};
use journal::Journal;
use journal::history::History;
use state::intent::{self, Intent};
use state::lock::{Acquired, Guard, Holder, LockFiles, Mode};
use state::state_dir::StateDir;

/// Less is what it takes to lock a file that nobody holds.
const A_WAIT: Duration = Duration::from_millis(1);

/// What an operation is made of.
#[derive(Debug)]
pub(crate) struct Operation<'a> {
    pub(crate) began: Instant,
    pub(crate) runtime: &'a Runtime,
    pub(crate) kind: RuntimeKind,
    pub(crate) globals: &'a Globals,
    pub(crate) invocation: &'a Invocation,
    pub(crate) config: &'a Config,
    pub(crate) state: &'a StateDir,
}

/// The operation has ended; what the runtime said is still to be passed on.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) signals: Signals,
}

/// What there is to say of a lock that was taken for no longer than a wait.
#[derive(Debug, Default)]
pub(crate) struct Waited {
    pub(crate) cgroup: Option<Identity>,
    pub(crate) lock: LockUse,
    pub(crate) stages: Stages,
    pub(crate) recovered: Vec<String>,
}

impl Operation<'_> {
    /// The whole of it. An error means that the runtime could not be started beside us. The channels are
    /// the caller's to keep: they hold what the runtime says, and must survive a panic in here.
    pub(crate) fn supervise(&self, channels: &mut Option<Channels>) -> io::Result<Ended> {
        // Not even tried: the end of the first child would be the end of that namespace.
        if process::children_are_elsewhere() {
            return Err(io::Error::other("it would be in another pid namespace"));
        }
        let mut container = self.container();
        // Before the lock: it reads the caller's standard input to its end.
        let (opened, runtime) = self.channels();
        let channels = channels.insert(opened);
        let since = Instant::now();
        let prepare = self.began.elapsed();
        let (mut guard, mut lock, mut lock_wait) = self.lock(&mut container);
        if self.invocation.verb.makes_a_container() {
            container.announce();
        }
        let quotas = container.quotas();
        let waiting = Instant::now();
        let mut recovered = self.put_back_lifted();
        recovered.extend(self.recover(&container, &mut guard, &mut lock));
        if !recovered.is_empty() {
            lock_wait += waiting.elapsed();
        }
        let was_paused = self.invocation.verb == Verb::Resume && container.is_paused();
        // First, so that a resume that is killed leaves nothing that says paused; nor an operation that
        // may freeze what somebody has resumed without us.
        if was_paused || self.is_paused_no_more(&container, guard.as_ref()) {
            container.set_paused(false);
        }
        let intent = self.intent(&container);
        let throttled = attempt::throttled_levels(&container);
        let throttled_before = attempt::sum(&throttled);
        let relief = Relief::plan(self, &container, &throttled);
        let figures = (self.invocation.verb == Verb::Delete).then(|| container.figures()).flatten();

        let mut run = Attempts {
            operation: self,
            since,
            runtime,
            channels,
            guard,
            lock,
            relief,
            intent,
            recovered,
            saw_freeze: false,
            longest: Duration::ZERO,
            throttled_before,
        }
        .run(&mut container)?;

        let leftovers = self.remove_leftovers(&container, &mut run);
        self.finish(&mut container, &mut run, was_paused);
        self.settle(&mut container, run.exit, run.guard.take());
        let mut notes: Vec<String> = container.unknown.clone().into_iter().collect();
        notes.extend(run.last_error.clone());
        notes.extend(leftovers);
        run.recovered.extend(run.relief.lift.take_recovered());
        let outcome = Outcome {
            verb: Some(self.invocation.verb),
            id: self.invocation.id.clone(),
            cgroup: container.identity(),
            runtime: self.runtime.path.clone(),
            requested_by: process::comm(process::parent()),
            signal: self.invocation.signal.clone(),
            lock: run.lock,
            stages: Stages { prepare, lock_wait, started: run.started, run: run.took },
            tries: run.tries,
            gave_up: run.gave_up,
            exit: Some(run.exit),
            verdict: Verdict::of(run.exit),
            quotas,
            figures,
            lifts: run.relief.lift.take_summary(),
            lift_of: None,
            recovered: run.recovered,
            init: container.init(),
            pod: container.pod(),
            hook: None,
            notes,
        };
        Ok(Ended { outcome, signals: run.signals })
    }

    /// Before `state`: what it reads of the freezer may be another's passing freeze.
    pub(crate) fn wait_for_lock(&self) -> Waited {
        let mut container = self.container();
        let prepare = self.began.elapsed();
        let mut recovered = self.put_back_lifted();
        if recovered.is_empty() && self.is_open(&container) {
            let stages = Stages { prepare, ..Stages::default() };
            let (cgroup, lock) = (container.identity(), LockUse::Held(Mode::Shared));
            return Waited { cgroup, lock, stages, recovered: Vec::new() };
        }
        let (mut guard, mut lock, lock_wait) = self.lock(&mut container);
        // Else runc would wait for ever: it waits until a cgroup that is FREEZING has frozen.
        recovered.extend(self.recover(&container, &mut guard, &mut lock));
        if guard.is_some() && container.is_gone() {
            if let Some(guard) = self.alone(&container, guard) {
                guard.retire();
            }
        }
        let stages = Stages { prepare, lock_wait, ..Stages::default() };
        Waited { cgroup: container.identity(), lock, stages, recovered }
    }

    /// Whether there is nothing to wait for and, of those who had the lock before, nothing to undo.
    fn is_open(&self, container: &Container) -> bool {
        let Some((_, identity)) = self.lock_wanted().zip(container.identity()) else {
            return false;
        };
        let Ok(directory) = self.state.locks() else { return false };
        LockFiles::of(&identity, &directory).is_open_to_shared()
            && !intent::is_due(self.state, &identity)
    }

    fn container(&self) -> Container {
        Container::find(self.kind, self.globals, self.invocation, self.state)
    }

    /// What has to stand between the runtime and its caller.
    fn channels(&self) -> (Channels, Runtime) {
        let retried = matches!(
            self.invocation.verb,
            Verb::Create | Verb::Run | Verb::Update | Verb::Pause | Verb::Exec
        );
        let degree = match self.config.mode {
            Extent::Observe => Degree::Nothing,
            Extent::Full if retried && self.config.retry_deadline_ms > 0 => Degree::All,
            Extent::Lock | Extent::Full => Degree::Output,
        };
        let (channels, args) = Channels::open(
            degree,
            self.kind,
            self.globals,
            self.invocation,
            &self.runtime.args,
            self.state,
        );
        (channels, Runtime { path: self.runtime.path.clone(), args })
    }

    fn lock(&self, container: &mut Container) -> (Option<Guard>, LockUse, Duration) {
        let wanted = self.lock_wanted().zip(container.identity());
        let Some(((mode, limit), identity)) = wanted else {
            return (None, LockUse::None, Duration::ZERO);
        };
        let since = Instant::now();
        let mut acquired = self.acquire(&identity, mode, limit);
        while matches!(acquired, Acquired::Held(_)) && self.has_moved(container, since.elapsed()) {
            let Some(identity) = container.identity() else { break };
            drop(acquired);
            acquired = self.acquire(&identity, mode, limit.saturating_sub(since.elapsed()));
            if since.elapsed() >= limit {
                break;
            }
        }
        let (guard, lock) = used(acquired, mode);
        (guard, lock, since.elapsed())
    }

    /// Whoever was ahead of us may have deleted the container, and somebody made it again, perhaps in
    /// another cgroup: whose lock is then the one to have. Without a wait there was no time for that.
    fn has_moved(&self, container: &mut Container, waited: Duration) -> bool {
        if waited < A_WAIT || self.invocation.verb.makes_a_container() {
            return false;
        }
        let now = self.container();
        if now.identity().is_none() {
            return false;
        }
        let before = std::mem::replace(container, now);
        before.identity() != container.identity()
    }

    fn acquire(&self, identity: &Identity, mode: Mode, limit: Duration) -> Acquired {
        let directory = match self.state.locks() {
            Ok(directory) => directory,
            Err(error) => return Acquired::Unavailable(error),
        };
        let verb = self.invocation.verb;
        let gives_it_back_at_once = verb == Verb::State;
        let holder = (!gives_it_back_at_once)
            .then(|| Holder::ourselves(verb.as_str(), &self.invocation.id))
            .flatten();
        LockFiles::of(identity, &directory).acquire(mode, limit, holder.as_ref())
    }

    /// Which lock a verb takes, and for how long it waits. A signal never waits: on cgroup v1 a
    /// frozen holder cannot finish before it is killed and thawed.
    fn lock_wanted(&self) -> Option<(Mode, Duration)> {
        let config = self.config;
        if config.mode == Extent::Observe {
            return None;
        }
        let (mode, milliseconds) = match self.invocation.verb {
            Verb::Kill => return None,
            Verb::Exec | Verb::Start | Verb::State => (Mode::Shared, config.shared_wait_ms),
            Verb::Resume => (Mode::Exclusive, config.resume_wait_ms),
            Verb::Create
            | Verb::Run
            | Verb::Restore
            | Verb::Update
            | Verb::Pause
            | Verb::Checkpoint
            | Verb::Delete => (Mode::Exclusive, config.exclusive_wait_ms),
        };
        Some((mode, Duration::from_millis(milliseconds)))
    }

    fn is_paused_no_more(&self, container: &Container, guard: Option<&Guard>) -> bool {
        relief::may_freeze(self.invocation)
            && guard.is_some_and(Guard::is_exclusive)
            && container.is_paused()
            && container.freezer() == Freezer::Thawed
    }

    /// Writes down that this operation may leave a freeze behind. Without the note it goes ahead all
    /// the same.
    fn intent(&self, container: &Container) -> Option<Intent> {
        if self.config.mode != Extent::Full || !relief::may_freeze(self.invocation) {
            return None;
        }
        let (cgroup, files) = (container.identity()?, container.files()?);
        let (verb, id) = (self.invocation.verb, &self.invocation.id);
        if !verb.makes_a_container() {
            container.remember();
        }
        Intent::write(self.state, &cgroup, verb, id, files).ok()
    }

    /// Whatever of ours was killed, and on whichever container: a thread that is left lifted is in
    /// everybody's way.
    fn put_back_lifted(&self) -> Vec<String> {
        match self.config.mode {
            Extent::Full => state::lifted::notes::recover(self.state),
            Extent::Observe | Extent::Lock => Vec::new(),
        }
    }

    /// A record of what was lifted after the one of the operation.
    fn record_lift(&self, cgroup: Option<Identity>, pod: PodNames, lifts: lift::Summary) {
        let outcome = Outcome {
            verb: None,
            lift_of: Some(self.invocation.verb),
            id: self.invocation.id.clone(),
            cgroup,
            runtime: self.runtime.path.clone(),
            requested_by: None,
            signal: None,
            lock: LockUse::None,
            stages: Stages::default(),
            tries: Vec::new(),
            gave_up: None,
            exit: None,
            verdict: Verdict::Ok,
            quotas: Default::default(),
            figures: None,
            lifts,
            recovered: Vec::new(),
            init: None,
            pod,
            hook: None,
            notes: Vec::new(),
        };
        let journal = Journal::new(self.state.journal(), self.config.journal_max_kib)
            .with_history(History::of(self.config, self.state));
        record::add(&journal, &outcome);
    }

    /// Undoes what operations that were killed have left, if there are any: only under the exclusive
    /// lock, which is taken for it where this operation has another, or, as `kill`, none.
    fn recover(
        &self,
        container: &Container,
        guard: &mut Option<Guard>,
        lock: &mut LockUse,
    ) -> Vec<String> {
        let Some(cgroup) = container.identity() else { return Vec::new() };
        if self.config.mode != Extent::Full || !intent::is_due(self.state, &cgroup) {
            return Vec::new();
        }
        let recover = || intent::recover(self.state, &cgroup, || container.is_paused());
        if guard.as_ref().is_some_and(Guard::is_exclusive) {
            return recover();
        }
        // Who waited in vain for his own lock does not wait again.
        let since = Instant::now();
        let limit = match (guard.take(), self.lock_wanted()) {
            (Some(_), Some((_, limit))) => limit,
            _ => Duration::ZERO,
        };
        let acquired = self.acquire(&cgroup, Mode::Exclusive, limit);
        let recovered = match &acquired {
            Acquired::Held(_) => recover(),
            _ => Vec::new(),
        };
        drop(acquired);
        if let LockUse::Held(mode) = *lock {
            let left = limit.saturating_sub(since.elapsed());
            (*guard, *lock) = used(self.acquire(&cgroup, mode, left), mode);
        }
        recovered
    }

    /// Removes what a runtime that deleted the container has left of its cgroups.
    fn remove_leftovers(&self, container: &Container, run: &mut Run<'_>) -> Option<String> {
        let is_deleted = self.invocation.verb == Verb::Delete && container.is_gone();
        if !is_deleted || self.config.mode != Extent::Full || run.guard.is_none() {
            return None;
        }
        let dirs = container.own_dirs();
        if dirs.is_empty() {
            return None;
        }
        let mut leftovers = Leftovers::find(dirs);
        let limit = Duration::from_millis(self.config.leftovers_wait_ms);
        run.relief.until(&run.signals, limit, || leftovers.remove());
        run.relief.lift.end_attempt();
        leftovers.report()
    }

    /// Nothing of ours is to be undone from here on.
    fn finish(&self, container: &mut Container, run: &mut Run<'_>, was_paused: bool) {
        match self.invocation.verb {
            Verb::Pause if run.exit == Exit::Code(0) => container.set_paused(true),
            Verb::Resume if was_paused && container.freezer() == Freezer::Frozen => {
                container.set_paused(true);
            }
            _ => {}
        }
        // Without the lock there is nothing to undo it under, nor is it undone while somebody is at a
        // pause: whoever comes next finds the note, and undoes it unless it has turned out to be another's
        // pause. To a cgroup that is gone nobody comes.
        let is_at_it = |cgroup: &Identity| intent::another_pauses(self.state, cgroup);
        let may_have_left_one = run.exit != Exit::Code(0)
            && matches!(container.freezer(), Freezer::Frozen | Freezer::Freezing)
            && (run.guard.is_none() || container.identity().as_ref().is_some_and(is_at_it));
        if let Some(intent) = run.intent.take() {
            if !(may_have_left_one && intent.is_of_a_thawed_cgroup()) {
                intent.done();
            }
        }
    }

    /// Brings our record up to date and gives the lock back; its files go with the cgroup.
    fn settle(&self, container: &mut Container, exit: Exit, guard: Option<Guard>) {
        let guard = match self.invocation.verb {
            Verb::Create | Verb::Run | Verb::Restore => {
                if !container.came_to_nothing() {
                    if exit == Exit::Code(0) {
                        container.made(&self.invocation.id);
                    }
                    return;
                }
                self.forget(container, guard)
            }
            Verb::Delete if container.is_gone() => self.forget(container, guard),
            // Whoever waited behind its delete has made the files anew.
            _ if container.is_gone() => self.alone(container, guard),
            _ => return,
        };
        if let Some(guard) = guard {
            guard.retire();
        }
    }

    /// A `delete` that found no such container has nothing to forget.
    fn forget(&self, container: &Container, guard: Option<Guard>) -> Option<Guard> {
        container.identity()?;
        let guard = self.alone(container, guard);
        container.forget();
        guard
    }

    /// The lock for ourselves alone. Those who do not have it so, as one who shared it or a foreground
    /// `run` that gave it back long before, get it only if nobody uses it.
    fn alone(&self, container: &Container, guard: Option<Guard>) -> Option<Guard> {
        // A kill has one only while it helps to die.
        let may_lock = guard.is_some() || self.lock_wanted().is_some();
        guard.filter(Guard::is_exclusive).or_else(|| {
            let identity = container.identity().filter(|_| may_lock)?;
            match self.acquire(&identity, Mode::Exclusive, Duration::ZERO) {
                Acquired::Held(guard) => Some(guard),
                _ => None,
            }
        })
    }
}

fn used(acquired: Acquired, mode: Mode) -> (Option<Guard>, LockUse) {
    match acquired {
        Acquired::Held(guard) => (Some(guard), LockUse::Held(mode)),
        Acquired::Nested(holder) => (None, LockUse::Nested(holder)),
        Acquired::TimedOut { holders } => (None, LockUse::TimedOut(holders)),
        Acquired::Unavailable(why) => (None, LockUse::Unavailable(why.to_string())),
    }
}
