//! An outcome as the journal shows it.

#[cfg(test)]
pub(crate) mod properties;

use std::ffi::OsStr;
use std::time::Duration;

use cgroup::bundle::PodNames;
use cgroup::{CpuQuota, process, text};
use config::Config;
use journal::history::History;
use journal::record::{Exit, Hook, Lift, Quota, Quotas, Record, Stages, Throttling, Try};
use journal::{Journal, VERSION, now};
use state::StateDir;
use state::lock::Mode;

use crate::hook::report::Report;
use crate::lift;
use crate::outcome::{self, LockUse, Outcome};
use crate::retry::Reason;

/// Longer texts are cut: a record should fit into what one write puts on disk as a whole.
const TEXT_BYTES: usize = 1024;

fn record_of(outcome: &Outcome) -> Record {
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
        time: Some(now()),
        mono_ns: Some(process::since_boot_ns()),
        verb: outcome.command().map(str::to_owned),
        id: Some(line(&outcome.id)),
        cgroup: outcome.cgroup.as_ref().map(|cgroup| line(cgroup.as_path())),
        runtime: Some(line(&outcome.runtime)),
        pid: Some(std::process::id()),
        requested_by: outcome.requested_by.clone(),
        signal: outcome.signal.as_ref().map(line),
        stages: Some(Stages {
            prepare: Some(milliseconds(outcome.stages.prepare)),
            lock: Some(milliseconds(outcome.stages.lock_wait)),
            started: outcome.stages.started.map(milliseconds),
            run: Some(milliseconds(outcome.stages.run)),
        }),
        attempts: Some(outcome.attempts.len() as u64),
        tries: tries(outcome),
        gave_up: gave_up(outcome),
        lock: Some(lock.to_owned()),
        holders,
        lock_wait_ms: Some(milliseconds(outcome.stages.lock_wait)),
        run_ms: Some(milliseconds(outcome.stages.run)),
        exit: outcome.exit.and_then(exit),
        verdict: Some(outcome.verdict.as_str().to_owned()),
        quota: Some(Quotas {
            container: outcome.quotas.container.map(quota),
            pod: outcome.quotas.pod.map(quota),
        }),
        of: outcome.lift_of.map(|verb| verb.as_str().to_owned()),
        lifts: outcome.lifts.lifts.iter().map(lift).collect(),
        lift_refused: outcome.lifts.refused.as_ref().map(line),
        recovered: outcome.recovered.iter().map(line).collect(),
        init_pid: outcome.init.map(|init| init.pid),
        oom_kill: outcome.figures.and_then(|figures| figures.oom_kill),
        nr_throttled: throttled.map(|throttled| throttled.nr_throttled),
        throttled_us: throttled.map(|throttled| throttled.throttled_us),
        throttling: outcome.throttling.map(throttling),
        pod: (outcome.pod != PodNames::default()).then(|| outcome.pod.clone()),
        hook: outcome.hook.as_ref().map(hook),
        note: (!notes.is_empty()).then(|| line(notes.join("; "))),
    }
}

fn line(text: impl AsRef<OsStr>) -> String {
    text::one_line(text.as_ref(), TEXT_BYTES)
}

fn lift(report: &lift::Report) -> Lift {
    Lift {
        whose: Some(report.whose.as_str().to_owned()),
        threads: Some(report.threads.into()),
        cpu_ms: Some(milliseconds(report.cpu)),
        ms: Some(milliseconds(report.took)),
        ended: Some(report.ended.as_str().to_owned()),
    }
}

fn throttling(seen: outcome::Throttling) -> Throttling {
    Throttling {
        throttled_ms: Some(milliseconds(seen.throttled)),
        nr_periods: Some(seen.nr_periods),
        nr_throttled: Some(seen.nr_throttled),
        cpu_ms: Some(milliseconds(seen.cpu)),
        explained_ms: Some(milliseconds(seen.explained)),
    }
}

fn hook(report: &Report) -> Hook {
    Hook {
        stage: Some(line(&report.stage)),
        found: Some(report.found.as_str().to_owned()),
        wait_ms: Some(milliseconds(report.waited)),
        frozen: report.frozen.as_ref().map(line),
    }
}

/// A single attempt that succeeded needs no details.
fn tries(outcome: &Outcome) -> Vec<Try> {
    let tries = outcome.attempts.iter();
    let tries = tries.filter(|attempt| outcome.attempts.len() > 1 || attempt.failure.is_some());
    tries
        .map(|attempt| Try {
            ms: Some(milliseconds(attempt.took)),
            failure: attempt.failure.map(|failure| failure.as_str().to_owned()),
            delay_ms: attempt.delay.map(milliseconds),
        })
        .collect()
}

/// Only if another attempt was possible.
fn gave_up(outcome: &Outcome) -> Option<String> {
    let reason = outcome.gave_up.filter(|reason| *reason != Reason::NotRetried);
    reason.map(|reason| reason.as_str().to_owned())
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

fn exit(exit: outcome::Exit) -> Option<Exit> {
    match exit {
        outcome::Exit::Code(code) => Some(Exit::Code(code)),
        outcome::Exit::Signal(signal) => Some(Exit::Signal(signal)),
        outcome::Exit::NotStarted => None,
    }
}

fn quota(quota: CpuQuota) -> Quota {
    Quota { quota_us: quota.quota_us, period_us: Some(quota.period_us) }
}

/// To a microsecond: more digits would be noise.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// Adds the record of one operation.
pub(crate) fn add(config: &Config, state: &StateDir, outcome: &Outcome) {
    let history = History::of(config, state);
    append(&Journal::new(state.journal(), config.journal.max_kib, history), outcome);
}

fn append(journal: &Journal, outcome: &Outcome) {
    journal.append(&record_of(outcome), runs_in_a_container(outcome));
}

/// The stages whose hooks are run by the container's own first process: nothing of ours may stay there.
fn runs_in_a_container(outcome: &Outcome) -> bool {
    let stage = outcome.hook.as_ref().map(|hook| hook.stage.as_str());
    matches!(stage, Some("createContainer" | "startContainer"))
}
