//! CPU time for the runtime's own work in a throttled cgroup.
//!
//! What runc does inside a container is charged to the container's CPU quota, and with a quota of
//! 1 ms in 100 ms the freeze, the start, the probe or the death of a process waits for seconds. The
//! kernel gives a cgroup its whole quota anew, and lets its throttled threads run, whenever one of
//! its CPU bandwidth files is written, also with the value that it has (`tg_set_cfs_bandwidth`,
//! kernel/sched). So that is done, again and again, while the runtime works. No setting changes, there
//! is nothing to put back, and two of us need not know of each other.
//!
//! docs/unable-to-freeze.md has the measurements.

mod bandwidth;
pub(crate) mod budget;
mod effect;
pub mod trial;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use bandwidth::{Bandwidth, Others, Refilled};
use budget::{Budget, Grant, Rates, Reading};
use effect::{Effect, Sample};

use crate::cgroup::{CpuQuota, Identity, Reader};
use crate::state_dir::{self, StateDir};
use crate::{freeze, process};

/// Of a quota of 1 ms the first CPU that asks takes all, as CPUs ask for 5 ms at a time
/// (sched_cfs_bandwidth_slice_us); the others stay throttled until the next write. A create in a pod
/// with two busy neighbours on two CPUs (6.18), 35 ms with no quota: 120 ms with a write every
/// millisecond, 56 with one every 100 us and not better with more; the neighbours gain 190 and 100 ms
/// of CPU time with it. So more often is cheaper for all.
const SHORTEST_INTERVAL: Duration = Duration::from_micros(100);

/// How often in the time that a quota lasts on one CPU.
const WRITES_A_QUOTA: u32 = 10;

/// The kernel visits every CPU on each write: what it takes here is measured, and no more than one
/// percent of our time goes into writes. On a node with very many CPUs that is less often. In CPU time:
/// on a busy machine, and beside the threads that the write itself lets run, a write may be preempted
/// for milliseconds, and a hundred times that would be the whole of an operation's time.
const LEAST_PAUSE: u32 = 100;

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
    pub cgroup: Identity,
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
    /// Those with a small quota, outermost first, as a container in a throttled pod gets nothing; until
    /// there is something to refill.
    levels: Vec<Level>,
    /// The container that is being made.
    awaited: Option<Level>,
    open: Option<Open>,
    budget: Budget,
    /// Since when, while there are any.
    since: Option<Instant>,
    next_draw: Instant,
    /// That the account has allowed it, and how often in a row it could not be asked.
    granted: bool,
    missed: u32,
    used: Duration,
    /// When the next refill was to be, and how much of the time went by after such moments.
    due: Option<Instant>,
    late: Duration,
    ended: Option<Ended>,
    why: Option<String>,
    state: StateDir,
}

/// What others have a CPU for before it is our turn (CONFIG_HZ=250); less is our own work and the
/// timer's.
const LATE: Duration = Duration::from_millis(4);

/// How many times the limit may go by if most of it is others'.
const MOST_LATE: u32 = 4;

/// What is opened for the first refill and not before.
#[derive(Debug)]
struct Open {
    targets: Vec<Target>,
    others: Others,
}

#[derive(Debug)]
struct Target {
    cgroup: Identity,
    files: Reader,
    bandwidth: Bandwidth,
    quota: CpuQuota,
    next: Instant,
    /// When its quota is to be read again.
    next_check: Instant,
    writes: u32,
    pace: Pace,
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
        let small: Vec<Level> = levels.iter().filter(small).cloned().collect();
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
        let mut refill = Refill {
            reason,
            settings,
            levels: small,
            awaited,
            open: None,
            budget: Budget::new(account, settings.rates, reason.may_owe()),
            since: None,
            next_draw: Instant::now(),
            granted: false,
            missed: 0,
            used: Duration::ZERO,
            due: None,
            late: Duration::ZERO,
            ended: None,
            why: None,
            state: state.clone(),
        };
        // Now rather than at the first refill: runc looks for a freeze for 2 ms at a time, and the
        // account takes a tenth of that.
        refill.ask();
        Plan::Refill(Box::new(refill))
    }

    /// The least quota, in µs, that the operation has to do with.
    pub(crate) fn smallest_quota_us(&self) -> Option<i64> {
        let levels = self.levels.iter().chain(&self.awaited);
        levels.filter_map(|level| level.files.cpu_quota()?.quota_us).min()
    }

    /// Writes what is due. Gives the time until the next is, or `None` when there is to be none.
    pub(crate) fn refill(&mut self, now: Instant) -> Option<Duration> {
        if self.ended.is_some() {
            return None;
        }
        if let Err(error) = self.open_files() {
            self.why = Some(explain(&error, &self.state));
            return self.end(now, Ended::Failed);
        }
        if self.targets().is_empty() {
            return Some(CHECK_EVERY);
        }
        if self.is_time_up(now) {
            return self.end(now, Ended::Limit);
        }
        // On credit there is nothing before it is written down.
        let is_first = !self.granted;
        if is_first {
            if let Some(ended) = self.draw_if_due(now) {
                return self.end(now, ended);
            }
        }
        let (granted, settings) = (self.granted, self.settings);
        let Some(open) = &mut self.open else { return Some(CHECK_EVERY) };
        for target in open.targets.iter_mut().filter(|_| granted) {
            target.refill(now, &mut open.others, &settings);
        }
        let due = open.targets.iter().filter(|_| granted).map(|target| target.next).min();
        if !is_first {
            if let Some(ended) = self.draw_if_due(now) {
                return self.end(now, ended);
            }
        }
        let next = due.unwrap_or(self.next_draw).min(self.next_draw);
        self.due = Some(next.max(now));
        Some(next.saturating_duration_since(now))
    }

    /// While others have the CPUs nothing is given: on a machine with a load of 28 a start had 18 writes
    /// in 500 ms, and took 7 s from there.
    fn is_time_up(&mut self, now: Instant) -> bool {
        let began = *self.since.get_or_insert(now);
        let all = self.used + now.duration_since(began);
        let due = self.due.take();
        let late = due.map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        if late >= LATE {
            self.late += late;
        }
        let longest = self.settings.longest;
        all.saturating_sub(self.late) >= longest || all >= longest * MOST_LATE
    }

    /// It was needed so far, and can go on.
    pub(crate) fn is_at_work(&self) -> bool {
        self.since.is_some() && self.ended.is_none()
    }

    /// Before another attempt: there may be something in the account again.
    pub(crate) fn ask_again(&mut self) {
        if self.ended == Some(Ended::Budget) {
            self.ended = None;
            self.ask();
        }
    }

    fn ask(&mut self) {
        match self.budget.ask(process::since_boot_ns()) {
            Grant::Granted => self.granted = true,
            Grant::Spent => self.ended = Some(Ended::Budget),
            Grant::OnCredit | Grant::Unavailable => {}
        }
    }

    /// What it was for was not reached in time.
    pub(crate) fn give_up(&mut self, now: Instant) {
        if self.ended.is_none() && self.open.is_some() {
            self.end(now, Ended::Limit);
        }
    }

    /// There is nothing to refill for just now.
    pub(crate) fn rest(&mut self, now: Instant) {
        let Some(since) = self.since.take() else { return };
        self.due = None;
        self.next_draw = now;
        self.used += now.duration_since(since);
        let readings = self.readings();
        self.budget.close(process::since_boot_ns(), &readings);
    }

    /// What there is to report, and, if it has turned out that there is no use in it here, to say.
    pub(crate) fn finish(mut self, now: Instant) -> (Vec<Report>, Option<String>) {
        self.rest(now);
        let gained = Duration::from_micros(self.budget.charged_us);
        let report = |cgroup: Identity, writes: u32| Report {
            cgroup,
            reason: self.reason,
            took: self.used,
            writes,
            gained,
            ended: self.ended.unwrap_or(Ended::Done),
        };
        let mut reports: Vec<Report> = self
            .targets()
            .iter()
            .filter(|target| target.writes > 0)
            .map(|target| report(target.cgroup.clone(), target.writes))
            .collect();
        // What was wanted and was not to be had.
        if let (true, Some(_), Some(level)) =
            (reports.is_empty(), self.ended, self.levels.first().or(self.awaited.as_ref()))
        {
            reports.push(report(level.cgroup.clone(), 0));
        }
        (reports, self.why.clone().or_else(|| self.remember()))
    }

    fn targets(&self) -> &[Target] {
        self.open.as_ref().map_or(&[], |open| &open.targets)
    }

    /// At the first refill; and of a container that is being made as soon as it is there.
    fn open_files(&mut self) -> io::Result<()> {
        if self.open.is_none() {
            let others = Others::new()?;
            let mut targets = Vec::new();
            for level in &self.levels {
                targets.extend(Target::open(level, &self.settings, &others)?);
            }
            self.open = Some(Open { targets, others });
        }
        let (Some(open), Some(level)) = (&mut self.open, &self.awaited) else { return Ok(()) };
        if level.files.cpu_quota().is_some_and(|quota| self.settings.is_small(quota)) {
            open.targets.extend(Target::open(level, &self.settings, &open.others)?);
            self.levels.extend(self.awaited.take());
        }
        Ok(())
    }

    /// Why there is to be an end, if there is.
    fn draw_if_due(&mut self, now: Instant) -> Option<Ended> {
        if now < self.next_draw {
            return None;
        }
        self.next_draw = now + budget::TICK;
        let targets = self.open.iter_mut().flat_map(|open| &mut open.targets);
        let none = targets.fold(false, |none, target| none | target.has_no_effect(now));
        let readings = self.readings();
        let grant = self.budget.draw(process::since_boot_ns(), &readings);
        self.missed = if grant == Grant::Unavailable { self.missed + 1 } else { 0 };
        match grant {
            Grant::Granted if none => Some(Ended::NoEffect),
            Grant::Granted | Grant::OnCredit => {
                self.granted = true;
                None
            }
            Grant::Unavailable if self.missed < budget::MOST_MISSED => None,
            Grant::Spent => Some(Ended::Budget),
            Grant::Unavailable => Some(Ended::Failed),
        }
    }

    /// Not of a cgroup that is gone.
    fn readings(&self) -> Vec<Reading> {
        let there = self.targets().iter().filter(|target| target.bandwidth.quota().is_some());
        there
            .map(|target| Reading {
                cgroup: target.place(),
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
        let target = self.targets().first().filter(|_| self.ended == Some(Ended::NoEffect))?;
        let why = format!("this kernel does not refill {} when it is written to", target.cgroup);
        effect::remember_none(&self.state, &why);
        Some(why)
    }
}

/// Cgroups inside a container, whose own quotas hold back what is to die there.
pub(crate) fn below(levels: &[Level]) -> Vec<Level> {
    let mut found = Vec::new();
    // Below the root there are strangers.
    if let Some(container) = levels.last().filter(|level| !level.cgroup.is_root()) {
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
    /// `None` where there is no file to write, or no such cgroup any more.
    fn open(level: &Level, settings: &Settings, others: &Others) -> io::Result<Option<Target>> {
        let opened = Bandwidth::open(&level.files, settings.may_use_cpu_max, others);
        let bandwidth = match opened {
            Ok(Some(bandwidth)) => bandwidth,
            Ok(None) => return Ok(None),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
                return Ok(None);
            }
            Err(error) => {
                let why = format!("cannot refill {}: {error}", level.cgroup);
                return Err(io::Error::new(error.kind(), why));
            }
        };
        let Some(quota) = bandwidth.quota() else { return Ok(None) };
        Ok(Some(Target {
            cgroup: level.cgroup.clone(),
            files: level.files.clone(),
            bandwidth,
            quota,
            next: Instant::now(),
            next_check: Instant::now(),
            writes: 0,
            pace: Pace::default(),
            effect: Effect::default(),
        }))
    }

    /// What tells it from others in the account. Not the name: of a container whose limits are in
    /// another cgroup than its processes there are two of that.
    fn place(&self) -> String {
        self.files.cpu_dir().map(|(_, dir)| dir.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn refill(&mut self, now: Instant, others: &mut Others, settings: &Settings) {
        if now < self.next {
            return;
        }
        if now >= self.next_check && !self.is_still_small(now, settings) {
            self.next = now + budget::TICK;
            return;
        }
        // Not from the time that was due: what was missed is not made up for.
        self.next = match self.bandwidth.refill(now, others) {
            Refilled::Done { cost } => {
                self.writes += 1;
                now + self.pace.next(self.quota, cost)
            }
            Refilled::Yielded => {
                self.next_check = now;
                now + bandwidth::YIELD
            }
            Refilled::Failed => now + budget::TICK,
        };
    }

    /// A resize may have lifted it.
    fn is_still_small(&mut self, now: Instant, settings: &Settings) -> bool {
        self.next_check = now + CHECK_EVERY;
        let quota = self.bandwidth.quota().filter(|quota| settings.is_small(*quota));
        self.quota = quota.unwrap_or(self.quota);
        quota.is_some()
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

/// How often to read a quota that nobody was seen to write.
const CHECK_EVERY: Duration = Duration::from_millis(1);

/// One write that was interrupted in the middle says nothing of what a write costs: of two in a row
/// the cheaper one is believed.
#[derive(Debug, Default)]
struct Pace {
    last_cost: Duration,
}

impl Pace {
    /// The time to the next write.
    fn next(&mut self, quota: CpuQuota, cost: Duration) -> Duration {
        let believed = cost.min(self.last_cost);
        self.last_cost = cost;
        let quota_us = quota.quota_us.and_then(|us| u64::try_from(us).ok()).unwrap_or(0);
        let lasts = Duration::from_micros(quota_us) / WRITES_A_QUOTA;
        lasts.max(believed * LEAST_PAUSE).max(SHORTEST_INTERVAL)
    }
}

/// Without root the files are somebody else's; that is said once, and not tried with every command.
fn explain(error: &io::Error, state: &StateDir) -> String {
    let why = error.to_string();
    let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
    if is_denied && !nix::unistd::geteuid().is_root() {
        effect::remember_none(state, &why);
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: CpuQuota = CpuQuota { quota_us: Some(1000), period_us: 100_000 };

    #[test]
    fn a_single_write_that_was_interrupted_does_not_stop_the_refill() {
        let mut pace = Pace::default();
        let us = Duration::from_micros;
        let costs = [5000, 1, 1, 4000, 1, 1];
        assert!(costs.into_iter().all(|cost| pace.next(QUOTA, us(cost)) == us(100)));
    }

    #[test]
    fn where_every_write_is_dear_there_are_fewer() {
        let mut pace = Pace::default();
        let us = Duration::from_micros;
        let all = [200, 210, 190].map(|cost| pace.next(QUOTA, us(cost)));
        assert_eq!(all, [100, 20_000, 19_000].map(us));
    }
}
