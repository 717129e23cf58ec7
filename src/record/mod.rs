//! An outcome as the journal shows it.

#[cfg(test)]
pub(crate) mod properties;

use std::time::Duration;

use cgroup::{CpuQuota, process, text};
use journal::{Journal, VERSION, now};
use serde::Serialize;
use state::lock::Mode;

use crate::invocation::Verb;
use crate::outcome::{Exit, LockUse, Outcome, Throttling};
use crate::retry::Reason;
use crate::verdict::Failure;
use crate::{hook, lift};

/// Longer texts are cut: a record should fit into what one write puts on disk as a whole.
const TEXT_BYTES: usize = 1024;

/// An outcome as the journal shows it. The keys are documented in docs/journal.md.
#[derive(Debug, Serialize)]
struct Record<'a> {
    v: u32,
    boot_id: Option<String>,
    time: String,
    mono_ns: u64,
    verb: Option<&'a str>,
    id: String,
    cgroup: Option<String>,
    runtime: String,
    pid: u32,
    requested_by: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
    stages: StageMs,
    attempts: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tries: Vec<TryRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gave_up: Option<&'static str>,
    lock: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    holders: Vec<String>,
    lock_wait_ms: f64,
    run_ms: f64,
    exit: Option<ExitRecord>,
    verdict: &'static str,
    quota: Quota,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lifts: Vec<LiftRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lift_refused: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    recovered: Vec<String>,
    init_pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oom_kill: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nr_throttled: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    throttled_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    throttling: Option<ThrottlingRecord>,
    #[serde(skip_serializing_if = "Pod::is_empty")]
    pod: Pod<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<HookRecord>,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

#[derive(Debug, Serialize)]
struct StageMs {
    prepare: f64,
    lock: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<f64>,
    run: f64,
}

#[derive(Debug, Serialize)]
struct TryRecord {
    ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
struct LiftRecord {
    whose: &'static str,
    threads: u32,
    cpu_ms: f64,
    ms: f64,
    ended: &'static str,
}

#[derive(Debug, Serialize)]
struct ThrottlingRecord {
    throttled_ms: f64,
    nr_periods: u64,
    nr_throttled: u64,
    cpu_ms: f64,
    explained_ms: f64,
}

#[derive(Debug, Serialize)]
struct HookRecord {
    stage: String,
    found: &'static str,
    wait_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum ExitRecord {
    Code(i32),
    Signal(i32),
}

#[derive(Debug, Serialize)]
struct Quota {
    container: Option<QuotaUs>,
    pod: Option<QuotaUs>,
}

/// Microseconds in each period, as the kernel counts them; no quota is `null`.
#[derive(Debug, Serialize)]
struct QuotaUs {
    quota_us: Option<i64>,
    period_us: u64,
}

#[derive(Debug, Serialize)]
struct Pod<'a> {
    namespace: &'a Option<String>,
    name: &'a Option<String>,
    uid: &'a Option<String>,
    container: &'a Option<String>,
}

impl Pod<'_> {
    fn is_empty(&self) -> bool {
        [self.namespace, self.name, self.uid, self.container].iter().all(|name| name.is_none())
    }
}

impl<'a> Record<'a> {
    fn of(outcome: &'a Outcome) -> Record<'a> {
        let line = |text: &std::ffi::OsStr| text::one_line(text, TEXT_BYTES);
        let unavailable = match &outcome.lock {
            LockUse::Unavailable(why) => Some(why),
            _ => None,
        };
        let notes = unavailable.into_iter().chain(&outcome.notes).map(|note| note.trim());
        let notes: Vec<&str> = notes.filter(|note| !note.is_empty()).collect();
        let throttled = outcome.figures.and_then(|figures| figures.throttled);
        let (lock, holders) = lock_use(&outcome.lock);
        Record {
            v: VERSION,
            boot_id: process::boot_id(),
            time: now(),
            mono_ns: process::since_boot_ns(),
            verb: outcome.command(),
            id: line(&outcome.id),
            cgroup: outcome.cgroup.as_ref().map(|cgroup| line(cgroup.as_path().as_os_str())),
            runtime: line(outcome.runtime.as_os_str()),
            pid: std::process::id(),
            requested_by: &outcome.requested_by,
            signal: outcome.signal.as_deref().map(line),
            stages: StageMs {
                prepare: milliseconds(outcome.stages.prepare),
                lock: milliseconds(outcome.stages.lock_wait),
                started: outcome.stages.started.map(milliseconds),
                run: milliseconds(outcome.stages.run),
            },
            attempts: outcome.attempts.len(),
            tries: tries(outcome),
            gave_up: gave_up(outcome),
            lock,
            holders,
            lock_wait_ms: milliseconds(outcome.stages.lock_wait),
            run_ms: milliseconds(outcome.stages.run),
            exit: outcome.exit.and_then(exit),
            verdict: outcome.verdict.as_str(),
            quota: Quota {
                container: outcome.quotas.container.map(quota),
                pod: outcome.quotas.pod.map(quota),
            },
            of: outcome.lift_of.map(Verb::as_str),
            lifts: outcome.lifts.lifts.iter().map(lift).collect(),
            lift_refused: outcome.lifts.refused.as_ref().map(|why| line(why.as_ref())),
            recovered: outcome
                .recovered
                .iter()
                .map(|what| text::one_line(what.as_ref(), TEXT_BYTES))
                .collect(),
            init_pid: outcome.init.map(|init| init.pid),
            oom_kill: outcome.figures.and_then(|figures| figures.oom_kill),
            nr_throttled: throttled.map(|throttled| throttled.nr_throttled),
            throttled_us: throttled.map(|throttled| throttled.throttled_us),
            throttling: outcome.throttling.map(throttling),
            pod: Pod {
                namespace: &outcome.pod.namespace,
                name: &outcome.pod.name,
                uid: &outcome.pod.uid,
                container: &outcome.pod.container,
            },
            hook: outcome.hook.as_ref().map(hook),
            note: text::one_line(notes.join("; ").as_ref(), TEXT_BYTES),
        }
    }
}

fn lift(report: &lift::Report) -> LiftRecord {
    LiftRecord {
        whose: report.whose.as_str(),
        threads: report.threads,
        cpu_ms: milliseconds(report.cpu),
        ms: milliseconds(report.took),
        ended: report.ended.as_str(),
    }
}

fn throttling(seen: Throttling) -> ThrottlingRecord {
    ThrottlingRecord {
        throttled_ms: milliseconds(seen.throttled),
        nr_periods: seen.nr_periods,
        nr_throttled: seen.nr_throttled,
        cpu_ms: milliseconds(seen.cpu),
        explained_ms: milliseconds(seen.explained),
    }
}

fn hook(report: &hook::report::Report) -> HookRecord {
    let line = |text: &String| text::one_line(text.as_ref(), TEXT_BYTES);
    HookRecord {
        stage: line(&report.stage),
        found: report.found.as_str(),
        wait_ms: milliseconds(report.waited),
        frozen: report.frozen.as_ref().map(line),
    }
}

/// A single attempt that succeeded needs no details.
fn tries(outcome: &Outcome) -> Vec<TryRecord> {
    let tries = outcome.attempts.iter();
    let tries = tries.filter(|attempt| outcome.attempts.len() > 1 || attempt.failure.is_some());
    tries
        .map(|attempt| TryRecord {
            ms: milliseconds(attempt.took),
            failure: attempt.failure.map(Failure::as_str),
            delay_ms: attempt.delay.map(milliseconds),
        })
        .collect()
}

/// Only if another attempt was possible.
fn gave_up(outcome: &Outcome) -> Option<&'static str> {
    outcome.gave_up.filter(|reason| *reason != Reason::NotRetried).map(Reason::as_str)
}

fn lock_use(lock: &LockUse) -> (&'static str, Vec<String>) {
    match lock {
        LockUse::None => ("none", Vec::new()),
        LockUse::Held(Mode::Shared) => ("shared", Vec::new()),
        LockUse::Held(Mode::Exclusive) => ("exclusive", Vec::new()),
        LockUse::Nested(holder) => ("nested", vec![holder.to_string()]),
        LockUse::TimedOut(holders) => {
            ("timed out", holders.iter().map(ToString::to_string).collect())
        }
        LockUse::Unavailable(_) => ("unavailable", Vec::new()),
    }
}

fn exit(exit: Exit) -> Option<ExitRecord> {
    match exit {
        Exit::Code(code) => Some(ExitRecord::Code(code)),
        Exit::Signal(signal) => Some(ExitRecord::Signal(signal)),
        Exit::NotStarted => None,
    }
}

fn quota(quota: CpuQuota) -> QuotaUs {
    QuotaUs { quota_us: quota.quota_us, period_us: quota.period_us }
}

/// To a microsecond: more digits would be noise.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// Adds the record of one operation.
pub(crate) fn add(journal: &Journal, outcome: &Outcome) {
    journal.append(&Record::of(outcome), runs_in_a_container(outcome));
}

/// The stages whose hooks are run by the container's own first process: nothing of ours may stay there.
fn runs_in_a_container(outcome: &Outcome) -> bool {
    let stage = outcome.hook.as_ref().map(|hook| hook.stage.as_str());
    matches!(stage, Some("createContainer" | "startContainer"))
}
