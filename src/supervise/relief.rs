//! What is done for the runtime while it works in a throttled cgroup: when to refill, and what to
//! remember of a freeze that is slow.

use std::time::{Duration, Instant};

use super::Operation;
use crate::cgroup::Reader;
use crate::config::{Config, Mode};
use crate::container::Container;
use crate::freeze::{FreezeWatch, Sight, Tasks};
use crate::invocation::{Invocation, Verb};
use crate::process;
use crate::refill::budget::Rates;
use crate::refill::{self, Plan, Reason, Refill, Report, Settings};
use crate::runtime::Signals;

/// A runtime needs some milliseconds for itself before it has work to do in the cgroup (runc 1.1.5 to
/// 1.3.6); what is refilled before that goes to the workload alone. `start` only opens a FIFO.
const HEAD_START: Duration = Duration::from_millis(4);
const SHORT_HEAD_START: Duration = Duration::from_millis(2);

/// Where the quota of a period is more than a runtime needs, an idle container is not throttled by it,
/// and a busy one gets help a little later.
const ENOUGH_US: i64 = 20_000;
const LONG_HEAD_START: Duration = Duration::from_millis(30);

/// A process that was just executed has yet to be loaded, and a probe has to do its work; among eight
/// busy threads 20 ms are not always enough.
pub(super) const LOADING: Duration = Duration::from_millis(100);

/// How often to look where nothing wakes us.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// One operation's.
#[derive(Debug)]
pub(super) struct Relief {
    refill: Option<Box<Refill>>,
    cue: Cue,
    freeze: Option<FreezeWatch>,
    /// When the process that a foreground command stays for has started: there is little left to do.
    ends_at: Option<Instant>,
    reports: Vec<Report>,
    pub(super) notes: Vec<String>,
}

/// What the refill waits for.
#[derive(Debug, Clone, Copy)]
enum Cue {
    /// The runtime has got so far that it has work to do in the cgroup.
    After(Duration),
    /// There is somebody in the cgroup who is to die.
    Populated,
    /// The cgroup is to freeze.
    Freeze,
}

impl Relief {
    pub(super) fn plan(operation: &Operation<'_>, container: &Container) -> Relief {
        let mut relief = Relief {
            refill: None,
            cue: Cue::Freeze,
            freeze: None,
            ends_at: None,
            reports: Vec::new(),
            notes: Vec::new(),
        };
        let (config, invocation) = (operation.config, operation.invocation);
        if config.mode != Mode::Full {
            return relief;
        }
        if may_freeze(invocation) && !invocation.verb.makes_a_container() {
            relief.freeze = container.files().map(FreezeWatch::new);
        }
        let Some(reason) = reason(config, invocation) else { return relief };
        if invocation.verb == Verb::Delete && !container.files().is_some_and(Reader::is_populated) {
            return relief;
        }
        relief.cue = cue(invocation.verb);
        let settings = settings(config);
        let mut levels = container.levels();
        if matches!(reason, Reason::Kill | Reason::Freeze) {
            levels.extend(refill::below(&levels));
        }
        let awaited = if invocation.verb.makes_a_container() {
            let own = levels.pop();
            let small = container.planned_quota().is_some_and(|quota| settings.is_small(quota));
            own.filter(|_| small)
        } else {
            None
        };
        match Refill::plan(reason, &levels, awaited, settings, operation.state) {
            Plan::Nothing => {}
            Plan::Refill(refill) => {
                let quota_us = refill.smallest_quota_us();
                if quota_us.is_some_and(|us| us > ENOUGH_US) && reason == Reason::Exec {
                    relief.cue = Cue::After(LONG_HEAD_START);
                }
                relief.refill = Some(refill);
            }
            Plan::Unable(why) => relief.notes.push(why),
        }
        relief
    }

    /// Does what is to be done now, and says when to look again at the latest.
    pub(super) fn look(&mut self, container: &Container, elapsed: Duration) -> Option<Duration> {
        let now = Instant::now();
        let can_help = self.can_refill();
        let watched = self.freeze.as_mut().map(|watch| watch.look(now, can_help));
        let look_again = watched.map(|(_, look_again)| look_again);
        let is_freezing = watched.is_some_and(|(sight, _)| sight == Sight::Freezing);
        if self.ends_at.is_some_and(|end| now >= end) {
            // Its files are not kept open for the life of a process in the foreground.
            self.stop();
        }
        let Some(refill) = &mut self.refill else { return look_again };
        let is_time = match self.cue {
            Cue::After(head_start) => elapsed >= head_start,
            Cue::Populated => container.files().is_some_and(Reader::is_populated),
            Cue::Freeze => false,
        };
        let next = if is_time || is_freezing {
            refill.refill(now)
        } else {
            refill.rest(now);
            Some(LOOK_EVERY)
        };
        let end = self.ends_at.map(|end| end.saturating_duration_since(now));
        look_again.into_iter().chain(next).chain(end).min()
    }

    /// The process runs, or was not seen to: the runtime's work is done.
    pub(super) fn wind_up(&mut self) {
        self.freeze = None;
        self.ends_at = Some(Instant::now() + LOADING);
    }

    /// A freeze is held if this operation is to leave one, and may undo it.
    pub(super) fn begin_attempt(&mut self, may_hold: bool) {
        if let Some(watch) = &mut self.freeze {
            watch.hold(may_hold);
        }
        if let Some(refill) = &mut self.refill {
            refill.ask_again();
        }
    }

    pub(super) fn has_held(&self) -> bool {
        self.freeze.as_ref().is_some_and(FreezeWatch::has_held)
    }

    /// Between two attempts nothing is refilled.
    pub(super) fn rest(&mut self) {
        if let Some(refill) = &mut self.refill {
            refill.rest(Instant::now());
        }
    }

    /// Refills until something is so, at most for `limit`, or until a signal that would have ended the
    /// runtime. Whether it is so.
    pub(super) fn until(
        &mut self,
        signals: &Signals,
        limit: Duration,
        mut is_so: impl FnMut() -> bool,
    ) -> bool {
        let since = Instant::now();
        loop {
            if is_so() {
                self.rest();
                return true;
            }
            let refilled = self.refill.as_mut().and_then(|refill| refill.refill(Instant::now()));
            let pause = refilled.map_or(LOOK_EVERY, |next| next.min(LOOK_EVERY));
            if since.elapsed() >= limit || signals.sleep(pause).is_err() {
                let is_so = is_so();
                if !is_so {
                    self.give_up();
                }
                self.rest();
                return is_so;
            }
        }
    }

    /// Goes on after the runtime's end, for what it has set going: until that has ended, and no longer
    /// than there is something to refill with.
    pub(super) fn linger(
        &mut self,
        signals: &Signals,
        limit: Duration,
        has_ended: impl Fn() -> bool,
    ) {
        let since = Instant::now();
        while !has_ended() && since.elapsed() < limit {
            let refilled = self.refill.as_mut().and_then(|refill| refill.refill(Instant::now()));
            let Some(next) = refilled else { return };
            if signals.sleep(next.min(LOOK_EVERY)).is_err() {
                break;
            }
        }
        self.rest();
    }

    /// What it was for was not reached in time.
    pub(super) fn give_up(&mut self) {
        if let Some(refill) = &mut self.refill {
            refill.give_up(Instant::now());
        }
    }

    /// Who keeps the freeze from being one, where the runtime did not stay to see it.
    pub(super) fn look_closely(&mut self) {
        if let Some(watch) = &mut self.freeze {
            watch.ask_closely();
        }
    }

    pub(super) fn is_at_work(&self) -> bool {
        self.refill.as_ref().is_some_and(|refill| refill.is_at_work())
    }

    /// Whether another attempt would find it any easier.
    pub(super) fn can_refill(&self) -> bool {
        self.refill.as_ref().is_some_and(|refill| refill.ended().is_none())
    }

    /// There is no more work for the runtime to do in the cgroup.
    pub(super) fn stop(&mut self) {
        let Some(refill) = self.refill.take() else { return };
        let (reports, note) = refill.finish(Instant::now());
        self.reports.extend(reports);
        self.notes.extend(note);
    }

    pub(super) fn reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// The threads that were seen not to freeze.
    pub(super) fn running(&self) -> Tasks {
        self.freeze.as_ref().map(|watch| watch.running.clone()).unwrap_or_default()
    }

    /// Why a cgroup was not refilled to the end, if it was not.
    pub(super) fn shortage(&self) -> Option<String> {
        let ended = self.refill.as_ref().and_then(|refill| refill.ended());
        ended.map(|ended| ended.as_str().to_owned()).or_else(|| self.notes.first().cloned())
    }
}

/// Which operations freeze, on which cgroup version and with which driver, differs from runtime to
/// runtime (docs/unable-to-freeze.md); these may.
pub(super) fn may_freeze(invocation: &Invocation) -> bool {
    match invocation.verb {
        Verb::Create | Verb::Run | Verb::Restore => true,
        Verb::Update | Verb::Pause | Verb::Checkpoint | Verb::Delete => true,
        // runc 1.1 freezes for any signal to all, later ones for SIGKILL of a shared pid namespace.
        Verb::Kill => invocation.all || is_sigkill(invocation),
        Verb::Start | Verb::Exec | Verb::State | Verb::Resume => false,
    }
}

pub(super) fn is_sigkill(invocation: &Invocation) -> bool {
    let signal = invocation.signal.as_ref().and_then(|signal| signal.to_str());
    signal.is_some_and(|signal| {
        let name = signal.to_ascii_uppercase();
        signal == "9" || name.trim_start_matches("SIG") == "KILL"
    })
}

fn reason(config: &Config, invocation: &Invocation) -> Option<Reason> {
    let (reason, wanted) = match invocation.verb {
        Verb::Create | Verb::Run | Verb::Restore | Verb::Start => {
            (Reason::Start, config.refill_start)
        }
        Verb::Exec => (Reason::Exec, config.refill_exec),
        Verb::Update | Verb::Pause | Verb::Checkpoint => (Reason::Freeze, config.refill_freeze),
        Verb::Kill if is_sigkill(invocation) => (Reason::Kill, config.refill_kill),
        Verb::Kill if invocation.all => (Reason::Freeze, config.refill_freeze),
        Verb::Delete => (Reason::Kill, config.refill_kill),
        Verb::Kill | Verb::Resume | Verb::State => return None,
    };
    wanted.then_some(reason)
}

fn cue(verb: Verb) -> Cue {
    match verb {
        Verb::Create | Verb::Run | Verb::Restore | Verb::Exec => Cue::After(HEAD_START),
        Verb::Start => Cue::After(SHORT_HEAD_START),
        Verb::Delete => Cue::Populated,
        _ => Cue::Freeze,
    }
}

/// The accounts of pods that have gained nothing for long.
pub(super) fn sweep_accounts(operation: &Operation<'_>) {
    let rates = settings(operation.config).rates;
    refill::budget::sweep(&operation.state.accounts(), process::since_boot_ns(), &rates);
}

fn settings(config: &Config) -> Settings {
    Settings {
        below_cpus: config.refill_below_percent as f64 / 100.0,
        longest: Duration::from_millis(config.refill_max_ms),
        rates: Rates {
            percent: config.refill_budget_percent,
            burst_us: config.refill_burst_ms * 1000,
            debt_us: config.refill_debt_ms * 1000,
        },
        may_use_cpu_max: config.refill_cpu_max,
    }
}
