//! The attempts of one operation: the only loop that starts the runtime.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::hold::Hold;
use super::operation::Operation;
use super::owner::Owner;
use super::relief::{self, Relief};
use super::throttling::Watched;
use crate::channels::Channels;
use crate::container::Container;
use crate::explain::Explanation;
use crate::family::Family;
use crate::invocation::Verb;
use crate::outcome::{Attempt, Exit, LockUse};
use crate::policy::Afterwards;
use crate::retry::{self, Reason, Situation};
use crate::runtime::{Child, Runtime, Signals, Watch};
use crate::started::{Sight, StartWatch};
use crate::verdict::{self, Failure};
use cgroup::freeze::Tasks;
use cgroup::{Freezer, Identity, Reader, Throttled};
use state::intent::{self, Intent};

/// How often to look: neither v1's freezer.state nor the kernel's wait queues announce a change.
const THAW_LOOK_EVERY: Duration = Duration::from_millis(2);

/// crun writes the file of a pause and does not check it; a throttled cgroup takes some periods to
/// freeze.
const FROZEN_WAIT: Duration = Duration::from_secs(1);

/// runc tries for about 250 ms to freeze a cgroup and then thaws it.
const THAW_WAIT: Duration = Duration::from_millis(300);

/// CONFIG_CFS_BANDWIDTH's default period.
const DEFAULT_PERIOD: Duration = Duration::from_millis(100);

/// Everything that the attempts need, and the lock under which they run.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    pub(super) operation: &'a Operation<'a>,
    /// When the deadline began to run: after standard input was read, so a slow caller does not use it
    /// up.
    pub(super) since: Instant,
    pub(super) runtime: Runtime,
    pub(super) channels: &'a mut Channels,
    pub(super) hold: Hold,
    pub(super) relief: Relief<'a>,
    /// The note that stands while a freeze of ours may be left behind.
    pub(super) intent: Option<Intent>,
    /// What was undone so far.
    pub(super) recovered: Vec<String>,
    /// The attempts that have ended.
    pub(super) so_far: Vec<Attempt>,
    /// Whether the container was frozen or freezing at some time since the first attempt began.
    pub(super) saw_freeze: bool,
    /// The longest attempt so far, with our own waits: one more takes about as long.
    pub(super) longest: Duration,
    /// The counters before the first attempt.
    pub(super) throttled_before: Throttled,
    /// Only in mode "observe".
    pub(super) watched: Option<Watched>,
}

/// How the attempts ended.
#[derive(Debug)]
pub(super) struct Attempted {
    pub(super) exit: Exit,
    /// How long it took until the process of a foreground verb ran.
    pub(super) started: Option<Duration>,
    /// All attempts together, without the delays between them.
    pub(super) took: Duration,
    pub(super) gave_up: Option<Reason>,
    /// The last words of the runtime, and our own remarks.
    pub(super) notes: Vec<String>,
    pub(super) signals: Signals,
}

impl Attempts<'_> {
    /// Runs until an attempt succeeds, or the next would be unsafe, pointless or too late.
    pub(super) fn run(&mut self, container: &mut Container) -> io::Result<Attempted> {
        let signals = Signals::take().inspect_err(|_error| self.leave_no_note())?;
        let mut owner = Owner::Nobody;
        loop {
            // If the container is thawed although it is on record as paused, somebody has resumed it
            // without us.
            let paused_before = container.is_paused();
            owner = owner.before_attempt(container.is_told_to_freeze(), paused_before);
            let end = self.attempt(&signals, container);
            let end = end.inspect_err(|_error| {
                self.leave_no_note();
                signals.give_back();
            })?;
            let judged = self.judge(&end);
            self.so_far.push(Attempt { took: end.took, failure: judged.failure, delay: None });
            self.undo(container, end.exit, owner, paused_before);
            owner = owner.after_attempt(container.is_told_to_freeze());
            // If the lock is held and the freeze stands after `undo`, it is another's pause, or is
            // about to become one. A repeated attempt would take it for a freeze from before.
            let leaves_it = owner == Owner::Ourselves && self.hold.is_held();
            let may_freeze = self.operation.policy.freezes.is_some();
            let may_repeat = end.started.is_none() && !(leaves_it && may_freeze);
            let next =
                judged.failure.map(|failure| self.next(&signals, container, failure, may_repeat));
            let gave_up = match (next, self.so_far.last_mut()) {
                (Some(Ok(delay)), Some(last)) => {
                    last.delay = Some(delay);
                    continue;
                }
                (next, _) => next.and_then(Result::err),
            };
            let why = self.explain(container, judged.failure);
            let last_error = self.pass_error_on(&end, judged.last_error, why);
            return Ok(Attempted {
                exit: end.exit,
                started: end.started,
                took: self.so_far.iter().map(|attempt| attempt.took).sum(),
                gave_up,
                notes: last_error.into_iter().collect(),
                signals,
            });
        }
    }

    fn wait_until(&self, signals: &Signals, limit: Duration, is_so: impl Fn() -> bool) -> bool {
        let since = Instant::now();
        while !is_so() {
            if since.elapsed() >= limit || signals.sleep(THAW_LOOK_EVERY).is_err() {
                return false;
            }
        }
        true
    }

    /// This process is going to become the runtime, and no one will be left to record that its pause
    /// succeeded: the next operation would take it for one that was cut short.
    fn leave_no_note(&mut self) {
        if let Some(intent) = self.intent.take() {
            intent.done();
        }
    }

    /// What the end of an attempt means.
    fn judge(&mut self, end: &End) -> Judged {
        if let Some(unconfirmed) = &end.unconfirmed {
            let last_error = Some(unconfirmed.clone());
            return Judged { failure: Some(Failure::Freeze), last_error };
        }
        let last_error =
            (end.exit != Exit::Code(0)).then(|| self.channels.last_error().unwrap_or_default());
        let failure = last_error.is_some().then(|| {
            let whole = self.channels.whole_error();
            whole.map_or(Failure::Other, |text| verdict::judge(self.verb(), &text))
        });
        Judged { failure, last_error }
    }

    /// Why the cgroup did not freeze, if that is what failed.
    fn explain(&self, container: &Container, failure: Option<Failure>) -> Option<String> {
        let is_of_a_freeze = failure.is_some_and(|failure| retry::is_retried(self.verb(), failure));
        // A container that was paused on request needs no explanation.
        let is_refused_rightly = failure == Some(Failure::Paused) && container.is_paused();
        if !is_of_a_freeze || is_refused_rightly || !self.operation.policy.mends {
            return None;
        }
        let files = container.files();
        // Of a thawed cgroup, tasks in uninterruptible sleep are those that could not have been frozen.
        let stuck = files
            .filter(|files| files.freezer() == Freezer::Thawed)
            .map(|files| Tasks::in_state(files, b"D"))
            .unwrap_or_default();
        let explanation = Explanation {
            attempts: self.so_far.len(),
            over: self.since.elapsed(),
            tasks: self.relief.running().and(stuck),
            throttled: throttled(container)
                .nr_throttled
                .saturating_sub(self.throttled_before.nr_throttled),
            ancestor: files.and_then(Reader::frozen_ancestor),
            lift: self.relief.lift.refused().map(str::to_owned),
        };
        Some(explanation.to_string())
    }

    /// Passes the error on to the caller, in the runtime's words and ours; gives both.
    fn pass_error_on(
        &mut self,
        end: &End,
        last_error: Option<String>,
        why: Option<String>,
    ) -> Option<String> {
        let Some(why) = why else { return last_error };
        let globals = self.operation.globals;
        match &end.unconfirmed {
            Some(unconfirmed) => {
                let log = globals.log_file(self.operation.kind);
                let message = format!("{unconfirmed} ({why})");
                self.channels.complain(message, log, globals.log_format);
            }
            None => self.channels.explain(&why),
        }
        last_error.map(|error| format!("{error} ({why})"))
    }

    /// Decides, and waits until it is time for the next attempt; gives the delay.
    fn next(
        &mut self,
        signals: &Signals,
        container: &Container,
        failure: Failure,
        may_repeat: bool,
    ) -> Result<Duration, Reason> {
        let delay = self.decide(signals, container, failure, may_repeat)?;
        // A signal came while we waited for a freeze or a thaw.
        if signals.have_come() {
            return Err(Reason::Interrupted);
        }
        // The operation in the way may be waiting for the lock.
        self.hold.let_go();
        signals.sleep(delay).map_err(|_interrupted| Reason::Interrupted)?;
        self.hold.take_again(self.operation, container, self.left());
        Ok(delay)
    }

    fn verb(&self) -> Verb {
        self.operation.invocation.verb
    }

    /// Starts the runtime once, and does what is due while it works.
    fn attempt(&mut self, signals: &Signals, container: &mut Container) -> io::Result<End> {
        let began = Instant::now();
        self.channels.begin_attempt()?;
        self.look_for_freeze(container);
        let child = self.runtime.start(signals, self.channels.outputs())?;
        self.relief.lift.begin_attempt();
        let invocation = self.operation.invocation;
        let start = invocation.stays_in_foreground().then(|| {
            let executes = invocation.verb != Verb::Restore;
            StartWatch::new(invocation.pid_file.as_deref(), executes)
        });
        let family = Family::of(child.pid());
        let mut watch = Meanwhile { attempts: self, container, family, start, started: None };
        let mut exit = child.wait(signals, &mut watch);
        let (started, took) = (watch.started, child.elapsed());
        if let Some(watched) = &mut self.watched {
            watched.end(took);
        }
        // The runtime may have sent its terminal and ended before we looked.
        self.channels.relay();
        let unconfirmed = self.unconfirmed(signals, container, exit);
        if unconfirmed.is_some() {
            exit = Exit::Code(1);
        }
        self.see_to_what_goes_on(container, exit);
        self.relief.lift.end_attempt();
        self.longest = self.longest.max(began.elapsed());
        Ok(End { exit, took, started, unconfirmed })
    }

    /// A pause has succeeded only if the kernel says so: crun writes the file and does not check it.
    fn unconfirmed(
        &mut self,
        signals: &Signals,
        container: &Container,
        exit: Exit,
    ) -> Option<String> {
        let is_frozen = || matches!(container.freezer(), Freezer::Frozen | Freezer::Unknown);
        if !self.operation.policy.confirms_freeze
            || exit != Exit::Code(0)
            || self.relief.until(signals, FROZEN_WAIT, is_frozen)
        {
            return None;
        }
        self.relief.look_closely();
        Some(match signals.have_come() {
            true => "the runtime returned success, but a signal came before the cgroup had frozen"
                .into(),
            false => format!(
                "the runtime returned success, but the cgroup has not frozen within {} ms",
                FROZEN_WAIT.as_millis()
            ),
        })
    }

    fn see_to_what_goes_on(&mut self, container: &Container, exit: Exit) {
        if exit != Exit::Code(0) {
            return;
        }
        match self.operation.policy.lift.and_then(|lift| lift.afterwards) {
            None => {}
            Some(Afterwards::Dying) => self.relief.lift.see_to_the_dying(),
            Some(Afterwards::Program) => {
                // The program runs: an operation that wants to freeze need not wait for this one.
                self.hold.let_go();
                let was_throttled =
                    throttled(container).throttled_us > self.throttled_before.throttled_us;
                let started = relief::started_by(self.operation.invocation);
                if let Some(process) = started.filter(|_| was_throttled) {
                    self.relief.lift.see_to_the_program(process.pid);
                }
            }
        }
    }

    /// Leaves the cgroup as it was before a failed attempt. runc on cgroup v2 leaves `cgroup.freeze` at
    /// 1; then every later command hangs for 10 s and fails, and a second pause is told that the
    /// container is not running. Without the lock the freeze may be another's pause, and the modes
    /// below "full" change nothing.
    fn undo(&self, container: &Container, exit: Exit, owner: Owner, paused_before: bool) {
        let is_ours = self.hold.is_held() && self.operation.policy.notes_freeze();
        let state = container.freezer();
        if !is_ours || exit == Exit::Code(0) || owner == Owner::Somebody || state == Freezer::Thawed
        {
            return;
        }
        if !self.is_of_another_pause(container, paused_before) {
            container.thaw();
        }
    }

    /// Whether a pause that did not get the lock came in between: it is on record by now, or still at
    /// work.
    fn is_of_another_pause(&self, container: &Container, paused_before: bool) -> bool {
        let is_at_it = |cgroup: &Identity| intent::another_pauses(self.operation.state, cgroup);
        container.is_paused() && !paused_before
            || container.identity().as_ref().is_some_and(is_at_it)
    }

    fn decide(
        &mut self,
        signals: &Signals,
        container: &Container,
        failure: Failure,
        may_repeat: bool,
    ) -> Result<Duration, Reason> {
        // The checks that wait come last.
        let repeatable = may_repeat
            && self.channels.is_repeatable()
            && match failure {
                Failure::Paused => self.has_thawed(signals, container),
                Failure::FreezeInProcHooks => container.came_to_nothing(),
                _ => true,
            };
        retry::decide(
            self.operation.policy.retries_for,
            &Situation {
                verb: self.verb(),
                failure,
                attempts: self.so_far.len() as u32,
                attempt: self.longest,
                used: self.since.elapsed(),
                period: period(container),
                repeatable,
                jitter: jitter(),
            },
        )
    }

    /// How long we may wait before one more attempt.
    fn left(&self) -> Duration {
        self.operation.policy.retries_for.saturating_sub(self.since.elapsed() + self.longest)
    }

    /// Whether a freeze that nobody asked for is over: that of an update, or of a `kill --all` of runc
    /// 1.1, which freezes during the kill. A pause that was asked for stays. The runtime's word alone
    /// does not count: if nobody has seen a freeze, there is no thaw to wait for.
    fn has_thawed(&mut self, signals: &Signals, container: &Container) -> bool {
        if self.verb() != Verb::Exec || container.is_paused() || !self.was_frozen(container) {
            return false;
        }
        self.recovered.extend(self.hold.recover(self.operation, container));
        // The operation that thaws the cgroup may need the lock.
        self.hold.let_go();
        let limit = THAW_WAIT.min(self.left());
        self.wait_until(signals, limit, || container.freezer() == Freezer::Thawed)
    }

    /// Whether the cgroup is frozen now or was seen frozen. Also if another operation may be freezing
    /// it: its note says so, or it holds the lock that we could not get.
    fn was_frozen(&mut self, container: &Container) -> bool {
        self.look_for_freeze(container);
        let is_noted = |cgroup: &Identity| intent::another_may_freeze(self.operation.state, cgroup);
        let is_shut_out = match self.hold.lock() {
            LockUse::TimedOut(holders) => {
                let shared = [Verb::Exec, Verb::Start, Verb::State].map(Verb::as_str);
                holders.iter().any(|holder| !shared.contains(&holder.verb.as_str()))
            }
            _ => false,
        };
        self.saw_freeze || is_shut_out || container.identity().as_ref().is_some_and(is_noted)
    }

    fn look_for_freeze(&mut self, container: &Container) {
        self.saw_freeze |= self.verb() == Verb::Exec
            && matches!(container.freezer(), Freezer::Frozen | Freezer::Freezing);
    }
}

/// What happens while the runtime works: a terminal is handed on, and a foreground verb gives the lock
/// back as soon as its process runs.
struct Meanwhile<'a, 'b> {
    attempts: &'a mut Attempts<'b>,
    container: &'a mut Container,
    family: Family,
    start: Option<StartWatch>,
    started: Option<Duration>,
}

impl Watch for Meanwhile<'_, '_> {
    fn waits_on(&self) -> Vec<BorrowedFd<'_>> {
        let lifter = self.attempts.relief.lift.waits_on();
        self.attempts.channels.waits_on().into_iter().chain(lifter).collect()
    }

    fn look(&mut self, child: &Child) -> Option<Duration> {
        self.attempts.channels.relay();
        self.attempts.look_for_freeze(self.container);
        let (family, now) = (&mut self.family, Instant::now());
        let relief = self.attempts.relief.look(family, now);
        let start = match self.start.as_ref().map(|start| start.look(child, family, now)) {
            Some(Sight::NotYet { look_again_in }) => Some(look_again_in),
            Some(Sight::Overdue { look_again_in }) => {
                self.let_go();
                Some(look_again_in)
            }
            Some(sight @ (Sight::Started | Sight::GivenUp)) => {
                if sight == Sight::Started {
                    self.note_start(child);
                }
                self.start = None;
                self.attempts.relief.wind_up();
                self.let_go();
                Some(Duration::ZERO)
            }
            None => None,
        };
        relief.into_iter().chain(start).min()
    }
}

impl Meanwhile<'_, '_> {
    /// From here on the runtime only waits for its process, or no one should wait for it any longer.
    fn let_go(&mut self) {
        if let Some(intent) = self.attempts.intent.take() {
            intent.done();
        }
        self.attempts.hold.let_go();
    }

    fn note_start(&mut self, child: &Child) {
        self.started = Some(child.elapsed());
        self.attempts.channels.commit();
        let invocation = self.attempts.operation.invocation;
        if invocation.verb.makes_a_container() {
            // The rest is the container's own life.
            if let Some(watched) = &mut self.attempts.watched {
                watched.end_of_start(child.elapsed(), child.pid());
            }
            self.container.made(&invocation.id);
        }
    }
}

/// How one attempt ended.
struct End {
    exit: Exit,
    took: Duration,
    started: Option<Duration>,
    /// Why a pause that returned success is not one.
    unconfirmed: Option<String>,
}

struct Judged {
    failure: Option<Failure>,
    last_error: Option<String>,
}

/// How often and for how long the container and its pod have been throttled so far.
pub(super) fn throttled(container: &Container) -> Throttled {
    sum(&throttled_levels(container))
}

/// The same for each level.
pub(super) fn throttled_levels(container: &Container) -> Vec<Throttled> {
    container.levels().into_iter().filter_map(Reader::throttled).collect()
}

pub(super) fn sum(levels: &[Throttled]) -> Throttled {
    levels.iter().fold(Throttled::default(), |all, one| Throttled {
        nr_periods: all.nr_periods.max(one.nr_periods),
        nr_throttled: all.nr_throttled.max(one.nr_throttled),
        throttled_us: all.throttled_us + one.throttled_us,
    })
}

/// The longest period of the quotas that throttle the container.
fn period(container: &Container) -> Duration {
    let quotas = container.quotas();
    [quotas.container, quotas.pod]
        .into_iter()
        .flatten()
        .map(|quota| Duration::from_micros(quota.period_us))
        .max()
        .unwrap_or(DEFAULT_PERIOD)
}

/// Good enough to keep two wrappers apart; nothing else depends on it.
fn jitter() -> f64 {
    let nanoseconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    f64::from(nanoseconds.wrapping_add(std::process::id().wrapping_mul(7919)) % 1000) / 999.0
}
