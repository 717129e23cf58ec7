//! CPU time for the runtime's own work in a throttled cgroup.
//!
//! What runc does inside a container is charged to the container's CPU quota, and with a quota of
//! 1 ms in 100 ms the freeze, the start, the probe or the death of a process waits for seconds. The
//! kernel gives a cgroup its whole quota anew, and lets its throttled threads run, whenever one of
//! its CPU bandwidth files is written, also with the value that it has (`tg_set_cfs_bandwidth`,
//! kernel/sched). So that is done, about every millisecond, while the runtime works. No setting
//! changes, there is nothing to put back, and two of us need not know of each other.
//!
//! docs/unable-to-freeze.md has the measurements.

mod bandwidth;
pub(crate) mod budget;
mod effect;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use bandwidth::{Bandwidth, Refilled};
use budget::{Budget, Grant, Rates, Reading};
use effect::{Effect, Sample};

use crate::cgroup::{CpuQuota, Identity, Reader};
use crate::state_dir::{self, StateDir};
use crate::{freeze, process};

/// The kernel visits every CPU on each write: 1 kHz at most.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// How much all refills of a cgroup give, in CPUs, where its quota is large enough for that. With one
/// CPU's worth an exec among eight busy threads takes about 1.5 times as long as with no quota, and
/// gains as much, since it takes longer.
const GIVEN_CPUS: f64 = 2.0;

/// Why there is something to refill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A container is made or started.
    Start,
    /// A process is started in one.
    Exec,
    /// A cgroup is to freeze.
    Freeze,
    /// Processes are to die.
    Kill,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Start => "start",
            Reason::Exec => "exec",
            Reason::Freeze => "freeze",
            Reason::Kill => "kill",
        }
    }

    /// What fails, rather than only takes long, without a refill.
    fn may_owe(self) -> bool {
        matches!(self, Reason::Freeze | Reason::Kill)
    }
}

/// Why there were no more refills before the work was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was done.
    Done,
    /// The pod's budget was spent.
    Budget,
    /// An operation's own time was up.
    Limit,
    /// The writes had no effect: this kernel does not refill.
    NoEffect,
    /// The files could not be written, or their use not be accounted for.
    Failed,
}

impl Ended {
    pub fn as_str(self) -> &'static str {
        match self {
            Ended::Done => "done",
            Ended::Budget => "budget spent",
            Ended::Limit => "out of time",
            Ended::NoEffect => "no effect",
            Ended::Failed => "failed",
        }
    }
}

/// What was done for one cgroup.
#[derive(Debug, Clone)]
pub struct Report {
    pub cgroup: String,
    pub reason: Reason,
    pub took: Duration,
    pub writes: u32,
    /// CPU time beyond the quota, of the pod as a whole.
    pub gained: Duration,
    pub ended: Ended,
}

/// The bounds, from the configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) below_cpus: f64,
    pub(crate) longest: Duration,
    pub(crate) rates: Rates,
    pub(crate) may_use_cpu_max: bool,
}

impl Settings {
    pub(crate) fn is_small(&self, quota: CpuQuota) -> bool {
        quota.cpus() < self.below_cpus
    }
}

/// A cgroup that may have to be refilled.
#[derive(Debug, Clone)]
pub(crate) struct Level {
    pub(crate) cgroup: Identity,
    pub(crate) files: Reader,
}

/// The refills of one operation.
#[derive(Debug)]
pub(crate) struct Refill {
    reason: Reason,
    settings: Settings,
    /// Outermost first: a container in a throttled pod gets nothing.
    targets: Vec<Target>,
    /// The container that is being made.
    awaited: Option<Level>,
    budget: Budget,
    /// Since when, while there are any.
    since: Option<Instant>,
    next_draw: Instant,
    /// That the account has allowed it, and since when it was not to be asked.
    granted: bool,
    missed: u32,
    used: Duration,
    ended: Option<Ended>,
    state: StateDir,
}

/// With 64 operations on a pod at once the account is in use for milliseconds on end.
const MOST_MISSED: u32 = 5;

#[derive(Debug)]
struct Target {
    cgroup: String,
    files: Reader,
    bandwidth: Bandwidth,
    quota: CpuQuota,
    next: Instant,
    writes: u32,
    effect: Effect,
}

/// Whether there is something to refill.
#[derive(Debug)]
pub(crate) enum Plan {
    /// No small quota.
    Nothing,
    Refill(Box<Refill>),
    /// There is a small quota, and it cannot be refilled.
    Unable(String),
}

impl Refill {
    /// Costs one read for each level where there is nothing to do. `awaited` is a container with a
    /// small quota that the operation is going to make.
    pub(crate) fn plan(
        reason: Reason,
        levels: &[Level],
        awaited: Option<Level>,
        settings: Settings,
        state: &StateDir,
    ) -> Plan {
        let small =
            |level: &&Level| level.files.cpu_quota().is_some_and(|quota| settings.is_small(quota));
        let small: Vec<&Level> = levels.iter().filter(small).collect();
        let Some(outermost) = levels.first().or(awaited.as_ref()) else { return Plan::Nothing };
        if (small.is_empty() && awaited.is_none()) || effect::is_known_to_have_none(state) {
            return Plan::Nothing;
        }
        let account = match state.budgets() {
            Ok(directory) => {
                let name = state_dir::file_name(outermost.cgroup.as_path().as_os_str());
                directory.join(name)
            }
            Err(error) => return Plan::Unable(format!("not refilled: {error}")),
        };
        let mut targets = Vec::new();
        for level in small {
            match Target::open(level, &settings) {
                Ok(Some(target)) => targets.push(target),
                Ok(None) => {}
                Err(error) => return unable(level, &error, state),
            }
        }
        if targets.is_empty() && awaited.is_none() {
            return Plan::Nothing;
        }
        let now = Instant::now();
        let mut refill = Refill {
            reason,
            settings,
            targets,
            awaited,
            budget: Budget::new(account, settings.rates, reason.may_owe()),
            since: None,
            next_draw: now,
            granted: false,
            missed: 0,
            used: Duration::ZERO,
            ended: None,
            state: state.clone(),
        };
        // Now rather than at the first refill: runc looks for a freeze for 2 ms at a time, and the
        // account takes a tenth of that.
        refill.ended = refill.draw(now);
        Plan::Refill(Box::new(refill))
    }

    /// Writes what is due. Gives the time until the next is, or `None` when there is to be none.
    pub(crate) fn refill(&mut self, now: Instant) -> Option<Duration> {
        if self.ended.is_some() {
            return None;
        }
        self.take_in_awaited(now);
        let began = *self.since.get_or_insert(now);
        if self.used + now.duration_since(began) >= self.settings.longest {
            return self.end(now, Ended::Limit);
        }
        for target in self.targets.iter_mut().filter(|_| self.granted) {
            target.refill(now, &self.settings);
        }
        if now >= self.next_draw {
            if let Some(ended) = self.draw(now) {
                return self.end(now, ended);
            }
        }
        let due = self.targets.iter().map(|target| target.next).min();
        let next = due.unwrap_or(now + SHORTEST_INTERVAL).min(self.next_draw);
        Some(next.saturating_duration_since(now))
    }

    /// Before another attempt: there may be something in the account again.
    pub(crate) fn ask_again(&mut self, now: Instant) {
        if self.ended == Some(Ended::Budget) {
            self.ended = self.draw(now);
        }
    }

    /// There is nothing to refill for just now.
    pub(crate) fn rest(&mut self, now: Instant) {
        let Some(since) = self.since.take() else { return };
        self.next_draw = now;
        self.used += now.duration_since(since);
        let readings = self.readings();
        self.budget.close(process::since_boot_ns(), &readings);
    }

    /// What there is to report, and, if it has turned out that there is no use in it here, to say.
    pub(crate) fn finish(mut self, now: Instant) -> (Vec<Report>, Option<String>) {
        self.rest(now);
        let gained = Duration::from_micros(self.budget.charged_us);
        let written =
            self.targets.iter().filter(|target| target.writes > 0 || self.ended.is_some());
        let reports = written.map(|target| Report {
            cgroup: target.cgroup.clone(),
            reason: self.reason,
            took: self.used,
            writes: target.writes,
            gained,
            ended: self.ended.unwrap_or(Ended::Done),
        });
        (reports.collect(), self.remember())
    }

    /// Whether the cgroup that is being made is there.
    fn take_in_awaited(&mut self, now: Instant) {
        let Some(level) = &self.awaited else { return };
        let is_small = |quota| self.settings.is_small(quota);
        if !level.files.cpu_quota().is_some_and(is_small) {
            return;
        }
        if let Ok(Some(target)) = Target::open(level, &self.settings) {
            self.targets.push(target);
            self.next_draw = now;
        }
        self.awaited = None;
    }

    /// Why there is to be an end, if there is.
    fn draw(&mut self, now: Instant) -> Option<Ended> {
        self.next_draw = now + budget::TICK;
        if self.targets.is_empty() {
            return None;
        }
        let mut none = false;
        for target in &mut self.targets {
            none |= target.has_no_effect(now);
        }
        let readings = self.readings();
        let grant = self.budget.draw(process::since_boot_ns(), &readings);
        self.missed = if grant == Grant::Unavailable { self.missed + 1 } else { 0 };
        match grant {
            Grant::Granted if none => Some(Ended::NoEffect),
            Grant::Granted => {
                self.granted = true;
                None
            }
            Grant::Unavailable if self.missed < MOST_MISSED => None,
            Grant::Spent => Some(Ended::Budget),
            Grant::Unavailable => Some(Ended::Failed),
        }
    }

    fn readings(&self) -> Vec<Reading> {
        let targets = self.targets.iter();
        targets
            .map(|target| Reading {
                cgroup: target.cgroup.clone(),
                usage_us: target.files.cpu_usage_us(),
                quota: target.quota,
            })
            .collect()
    }

    fn end(&mut self, now: Instant, ended: Ended) -> Option<Duration> {
        self.ended = Some(ended);
        self.rest(now);
        None
    }

    /// Why it ended before its time, if it did.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Writes down that there is no use in refills, if that has turned out, and says so.
    fn remember(&self) -> Option<String> {
        let target = self.targets.first().filter(|_| self.ended == Some(Ended::NoEffect))?;
        let why = format!("this kernel does not refill {} when it is written to", target.cgroup);
        effect::remember_none(&self.state, &why);
        Some(why)
    }
}

/// Cgroups inside a container, whose own quotas hold back what is to die there.
pub(crate) fn below(levels: &[Level]) -> Vec<Level> {
    let mut found = Vec::new();
    if let Some(container) = levels.last() {
        collect_below(container, &mut found);
    }
    found
}

/// Each has its own counters to read.
const MOST_BELOW: usize = 32;

fn collect_below(level: &Level, into: &mut Vec<Level>) {
    let Some((_, dir)) = level.files.cpu_dir() else { return };
    for child in freeze::children(dir) {
        let Some(name) = child.file_name().map(Path::new) else { continue };
        let Some(cgroup) = level.cgroup.join(name) else { continue };
        if into.len() >= MOST_BELOW {
            return;
        }
        let below = Level { cgroup, files: level.files.below(name) };
        into.push(below.clone());
        collect_below(&below, into);
    }
}

impl Target {
    fn open(level: &Level, settings: &Settings) -> io::Result<Option<Target>> {
        let Some(bandwidth) = Bandwidth::open(&level.files, settings.may_use_cpu_max)? else {
            return Ok(None);
        };
        let Some(quota) = bandwidth.quota() else { return Ok(None) };
        Ok(Some(Target {
            cgroup: level.cgroup.to_string(),
            files: level.files.clone(),
            bandwidth,
            quota,
            next: Instant::now(),
            writes: 0,
            effect: Effect::default(),
        }))
    }

    fn refill(&mut self, now: Instant, settings: &Settings) {
        if now < self.next {
            return;
        }
        // Not from the time that was due: what was missed is not made up for.
        match self.bandwidth.refill(now, |quota| settings.is_small(quota)) {
            Refilled::Done => {
                self.writes += 1;
                self.next = now + interval(self.quota);
            }
            Refilled::Yielded => self.next = now + bandwidth::YIELD,
            Refilled::NotNeeded | Refilled::Failed => self.next = now + budget::TICK,
        }
    }

    fn has_no_effect(&mut self, now: Instant) -> bool {
        if let Some(quota) = self.bandwidth.quota() {
            self.quota = quota;
        }
        let (Some(usage_us), Some(throttled)) = (self.files.cpu_usage_us(), self.files.throttled())
        else {
            return false;
        };
        let sample = Sample { at: now, usage_us, nr_throttled: throttled.nr_throttled };
        self.effect.is_none(sample, self.writes, self.quota)
    }
}

fn interval(quota: CpuQuota) -> Duration {
    let quota_us = quota.quota_us.unwrap_or(0).max(0) as f64;
    Duration::from_micros((quota_us / GIVEN_CPUS) as u64).max(SHORTEST_INTERVAL)
}

/// Without root the files are somebody else's; that is said once, and not tried with every command.
fn unable(level: &Level, error: &io::Error, state: &StateDir) -> Plan {
    let why = format!("cannot refill {}: {error}", level.cgroup);
    match error.raw_os_error() {
        // The cgroup has gone while we looked.
        Some(libc::ENOENT | libc::ENODEV) => Plan::Nothing,
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            effect::remember_none(state, &why);
            Plan::Unable(why)
        }
        _ => Plan::Unable(why),
    }
}
