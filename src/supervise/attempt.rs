//! The attempts of one operation: the only loop that starts the runtime, and the only place that
//! sleeps.

use std::io;
use std::time::{Duration, Instant};

use super::Operation;
use crate::cgroup::Freezer;
use crate::channels::Channels;
use crate::config::Mode;
use crate::container::Container;
use crate::invocation::Verb;
use crate::lock::Guard;
use crate::outcome::{Exit, LockUse, Try};
use crate::retry::{self, Limits, Reason, Situation, Step};
use crate::runtime::{Attempt, Runtime, Signals, Stdio, Watch};
use crate::started::{Sight, StartWatch};
use crate::verdict::{self, Failure};

/// How often to look: neither v1's freezer.state nor the kernel's wait queues tell of a thaw.
const THAW_LOOK_EVERY: Duration = Duration::from_millis(2);

/// CONFIG_CFS_BANDWIDTH's default period.
const DEFAULT_PERIOD: Duration = Duration::from_millis(100);

/// Everything that the attempts need, and the lock that they run under.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    pub(super) operation: &'a Operation<'a>,
    /// When the deadline began to run: a caller that is slow to write our standard input does not
    /// use it up.
    pub(super) since: Instant,
    pub(super) runtime: Runtime,
    pub(super) channels: Channels,
    pub(super) guard: Option<Guard>,
    /// What became of it for the last attempt.
    pub(super) lock: LockUse,
}

/// How they ended.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) exit: Exit,
    /// After how long the process of a foreground verb ran.
    pub(super) started: Option<Duration>,
    /// All attempts together, without the delays.
    pub(super) took: Duration,
    pub(super) tries: Vec<Try>,
    pub(super) gave_up: Option<Reason>,
    pub(super) last_error: Option<String>,
    pub(super) channels: Channels,
    pub(super) signals: Signals,
    pub(super) guard: Option<Guard>,
    pub(super) lock: LockUse,
}

impl Attempts<'_> {
    /// Until one succeeds, or the next would be unsafe, no use, or too late.
    pub(super) fn run(mut self, container: &mut Container) -> io::Result<Run> {
        let signals = Signals::take()?;
        let mut tries: Vec<Try> = Vec::new();
        loop {
            let frozen_before = container.freezer() != Freezer::Thawed;
            let attempted = self.once(&signals, container);
            let (exit, took, started) = attempted.inspect_err(|_error| signals.give_back())?;
            let last_error =
                (exit != Exit::Code(0)).then(|| self.channels.last_error().unwrap_or_default());
            let failure = last_error.as_deref().map(|text| verdict::judge(self.verb(), text));
            tries.push(Try { took, failure, delay: None });
            let next = failure.map(|failure| {
                self.undo(container, failure, frozen_before);
                self.next(&signals, container, failure, &tries, started.is_some())
            });
            match (next, tries.last_mut()) {
                (Some(Ok(delay)), Some(last)) => last.delay = Some(delay),
                (next, _) => {
                    let gave_up = next.and_then(Result::err);
                    let took = tries.iter().map(|attempt| attempt.took).sum();
                    let Attempts { channels, guard, lock, .. } = self;
                    return Ok(Run {
                        exit,
                        started,
                        took,
                        tries,
                        gave_up,
                        last_error,
                        channels,
                        guard,
                        lock,
                        signals,
                    });
                }
            }
        }
    }

    /// Decides, and waits until it is time for the next attempt; gives the delay.
    fn next(
        &mut self,
        signals: &Signals,
        container: &Container,
        failure: Failure,
        tries: &[Try],
        started: bool,
    ) -> Result<Duration, Reason> {
        match self.next_step(signals, container, failure, tries, started) {
            Step::Again { delay } => self.wait_for_next(signals, delay, container).map(|()| delay),
            Step::Stop(reason) => Err(reason),
        }
    }

    fn verb(&self) -> Verb {
        self.operation.invocation.verb
    }

    /// One start of the runtime, and what is done while it works.
    fn once(
        &mut self,
        signals: &Signals,
        container: &mut Container,
    ) -> io::Result<(Exit, Duration, Option<Duration>)> {
        self.channels.begin_attempt()?;
        let attempt = self.runtime.start(signals, &self.channels)?;
        let invocation = self.operation.invocation;
        let start = self.stays_in_foreground().then(|| {
            let hold_max = self.operation.config.hold_max();
            StartWatch::new(invocation.pid_file.as_deref(), hold_max)
        });
        let mut watch = Meanwhile { attempts: self, container, start, started: None };
        let exit = attempt.wait(signals, &mut watch);
        let started = watch.started;
        // The runtime may have sent its terminal and ended before we looked.
        self.channels.relay();
        Ok((exit, attempt.elapsed(), started))
    }

    fn stays_in_foreground(&self) -> bool {
        let may = matches!(self.verb(), Verb::Run | Verb::Restore | Verb::Exec);
        may && !self.operation.invocation.detach
    }

    /// Leaves the cgroup as it was before a pause that failed: runc on cgroup v2 leaves
    /// `cgroup.freeze` at 1, with which every later command hangs for 10 s and fails, and a second
    /// pause is told that the container is not running. Without the lock it may be another's pause,
    /// and the modes below "full" change nothing.
    fn undo(&self, container: &Container, failure: Failure, frozen_before: bool) {
        let is_ours = self.guard.is_some() && self.operation.config.mode == Mode::Full;
        if is_ours && failure == Failure::Freeze && !frozen_before {
            container.thaw();
        }
    }

    fn next_step(
        &mut self,
        signals: &Signals,
        container: &Container,
        failure: Failure,
        tries: &[Try],
        started: bool,
    ) -> Step {
        // What has to be waited for comes last.
        let repeatable = !started
            && self.channels.is_repeatable()
            && match failure {
                Failure::Paused => self.has_thawed(signals, container),
                Failure::FreezeInProcHooks => container.came_to_nothing(),
                _ => true,
            };
        let first_attempt = tries.first().map(|first| first.took).unwrap_or_default();
        retry::decide(
            &self.limits(),
            &Situation {
                verb: self.verb(),
                failure,
                attempts: tries.len() as u32,
                first_attempt,
                used: self.since.elapsed().saturating_sub(first_attempt),
                period: period(container),
                repeatable,
                jitter: jitter(),
            },
        )
    }

    /// How long may be waited before one more attempt, if that takes as long as the first, which
    /// does not count: its time stands here for the one to come.
    fn left(&self) -> Duration {
        self.limits().deadline.saturating_sub(self.since.elapsed())
    }

    fn limits(&self) -> Limits {
        let config = self.operation.config;
        let retries = config.mode == Mode::Full;
        Limits {
            deadline: Duration::from_millis(if retries { config.retry_deadline_ms } else { 0 }),
            first_delay: Duration::from_millis(config.retry_first_delay_ms),
            max_delay: Duration::from_millis(config.retry_max_delay_ms),
        }
    }

    /// Whether a freeze that nobody asked for is over: somebody's update, or a `kill --all` of runc
    /// 1.1, which freezes for the time of the kill. A pause that was asked for stays.
    fn has_thawed(&mut self, signals: &Signals, container: &Container) -> bool {
        if self.verb() != Verb::Exec || container.is_paused() {
            return false;
        }
        // Whoever thaws it may need the lock.
        drop(self.guard.take());
        let limit = Duration::from_millis(self.operation.config.thaw_wait_ms).min(self.left());
        let since = Instant::now();
        while container.freezer() != Freezer::Thawed {
            if since.elapsed() >= limit || signals.sleep(THAW_LOOK_EVERY).is_err() {
                return false;
            }
        }
        true
    }

    /// The backoff releases the lock: whoever is in the way may be waiting for it.
    fn wait_for_next(
        &mut self,
        signals: &Signals,
        delay: Duration,
        container: &Container,
    ) -> Result<(), Reason> {
        drop(self.guard.take());
        signals.sleep(delay).map_err(|_signal| Reason::Interrupted)?;
        if let Some(((mode, limit), identity)) =
            self.operation.lock_wanted().zip(container.identity())
        {
            let limit = limit.min(self.left());
            let acquired = self.operation.acquire(&identity, mode, limit);
            (self.guard, self.lock) = super::used(acquired, mode);
        }
        Ok(())
    }
}

/// What is done while the runtime works: a terminal is handed on, and a foreground verb gives the
/// lock back as soon as its process runs.
struct Meanwhile<'a, 'b> {
    attempts: &'a mut Attempts<'b>,
    container: &'a mut Container,
    start: Option<StartWatch>,
    started: Option<Duration>,
}

impl Watch for Meanwhile<'_, '_> {
    fn waits_on(&self) -> Stdio<'_> {
        self.attempts.channels.waits_on()
    }

    fn look(&mut self, attempt: &Attempt) -> Option<Duration> {
        self.attempts.channels.relay();
        match self.start.as_ref()?.look(attempt) {
            Sight::NotYet { look_again_in } => return Some(look_again_in),
            Sight::Started => self.note_start(attempt),
            Sight::Unseen => {}
        }
        self.start = None;
        drop(self.attempts.guard.take());
        None
    }
}

impl Meanwhile<'_, '_> {
    fn note_start(&mut self, attempt: &Attempt) {
        self.started = Some(attempt.elapsed());
        self.attempts.channels.commit();
        let invocation = self.attempts.operation.invocation;
        if invocation.verb.makes_a_container() {
            self.container.made(&invocation.id);
        }
    }
}

/// The longest period of those that throttle the container.
fn period(container: &Container) -> Duration {
    let quotas = container.quotas();
    [quotas.container, quotas.pod]
        .into_iter()
        .flatten()
        .map(|quota| Duration::from_micros(quota.period_us))
        .max()
        .unwrap_or(DEFAULT_PERIOD)
}

/// Good enough to keep two wrappers apart; nothing depends on it.
fn jitter() -> f64 {
    let nanoseconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    f64::from(nanoseconds.wrapping_add(std::process::id().wrapping_mul(7919)) % 1000) / 999.0
}
