//! What is done for the runtime while it works. Threads of the container that must run are lifted, and
//! if a freeze is slow, the threads that hold it up are found.

use std::time::{Duration, Instant};

use super::operation::Operation;
use crate::container::Container;
use crate::family::Family;
use crate::invocation::{Invocation, Verb};
use crate::lift::{self, Lift, Plan, Summary};
use crate::outcome::Outcome;
use crate::policy::Freezes;
use crate::runtime::Signals;
use cgroup::Throttled;
use cgroup::freeze::{FreezeWatch, Tasks};
use cgroup::process::Process;

/// How often to look while nothing wakes us.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The relief of one operation.
#[derive(Debug)]
pub(super) struct Relief<'a> {
    pub(super) lift: Lift<'a>,
    freeze: Option<FreezeWatch>,
}

impl<'a> Relief<'a> {
    pub(super) fn plan(
        operation: &'a Operation<'a>,
        container: &Container,
        throttled: &[Throttled],
    ) -> Relief<'a> {
        let invocation = operation.invocation;
        let policy = operation.policy;
        let watches = policy.mends && policy.freezes == Some(Freezes::AnExistingOne);
        let freeze = container.files().filter(|_| watches).map(FreezeWatch::new);
        let plan = policy.lift.map(|lift| Plan {
            what: format!("{} {}", invocation.verb.as_str(), invocation.id.to_string_lossy()),
            files: container.files().cloned(),
            init: container.init().filter(|_| invocation.verb == Verb::Start).map(|init| init.pid),
            pod: container
                .identity()
                .map(|cgroup| cgroup.pod().unwrap_or(cgroup).as_path().to_owned()),
            program: lift.program,
            freezes: policy.freezes.map(|freezes| match freezes {
                Freezes::ANewOne => lift::FREEZE_LOOK_OF_A_NEW_ONE,
                Freezes::AnExistingOne => lift::FREEZE_LOOK,
            }),
            kills: lift.kills,
            is_throttled: throttled.iter().any(|level| level.nr_throttled > 0),
            is_starved: throttled.iter().any(|level| level.nr_throttled * 10 > level.nr_periods),
        });
        let (cgroup, pod) = (container.identity(), container.pod());
        let afterwards = move |summary: Summary| {
            // Beside the record of the operation.
            operation.record(&Outcome {
                lift_of: Some(invocation.verb),
                cgroup: cgroup.clone(),
                runtime: operation.runtime.path.clone(),
                lifts: summary,
                pod: pod.clone(),
                ..Outcome::of(invocation.id.clone())
            });
        };
        let lift = Lift::new(plan, operation.config, operation.state, Box::new(afterwards));
        Relief { lift, freeze }
    }

    /// Does what is due now, and gives the time until the next look at the latest.
    pub(super) fn look(&mut self, family: &mut Family, now: Instant) -> Option<Duration> {
        let watched = self.freeze.as_mut().map(|watch| watch.look(now));
        self.lift.look(family, now).into_iter().chain(watched).min()
    }

    /// Waits until `is_so` holds, for at most `limit`, or until a signal that would have ended the
    /// runtime. Gives whether it holds.
    pub(super) fn until(
        &mut self,
        signals: &Signals,
        limit: Duration,
        mut is_so: impl FnMut() -> bool,
    ) -> bool {
        let since = Instant::now();
        loop {
            if is_so() {
                return true;
            }
            self.lift.look_without_runtime();
            if since.elapsed() >= limit || signals.sleep(LOOK_EVERY).is_err() {
                return is_so();
            }
        }
    }

    /// Finds the threads that hold up the freeze, for a runtime that did not stay to see it.
    pub(super) fn look_closely(&mut self) {
        if let Some(watch) = &mut self.freeze {
            watch.ask_closely();
        }
    }

    /// The process runs, or was never seen to: the runtime makes no freeze any more.
    pub(super) fn wind_up(&mut self) {
        self.freeze = None;
        self.lift.wind_up();
    }

    /// The threads that were seen not to freeze.
    pub(super) fn running(&self) -> Tasks {
        self.freeze.as_ref().map(|watch| watch.running.clone()).unwrap_or_default()
    }
}

/// The process that a detached exec has started, which may have to wait for a CPU.
pub(super) fn started_by(invocation: &Invocation) -> Option<Process> {
    let text = cgroup::json::read_text(invocation.pid_file.as_deref()?).ok()?;
    Process::of(text.trim().parse().ok()?)
}
