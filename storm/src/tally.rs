//! What all threads tried, how long it took and how it failed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::plan::PROBE_TIMEOUT;
use crate::words;

/// In the order of a pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    Slice,
    Sandbox,
    Create,
    Start,
    Update,
    Exec,
    Stop,
    Remove,
}

impl Step {
    pub(crate) const ALL: [Step; 8] = [
        Step::Slice,
        Step::Sandbox,
        Step::Create,
        Step::Start,
        Step::Update,
        Step::Exec,
        Step::Stop,
        Step::Remove,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Step::Slice => "slice",
            Step::Sandbox => "sandbox",
            Step::Create => "create",
            Step::Start => "start",
            Step::Update => "update",
            Step::Exec => "exec",
            Step::Stop => "stop",
            Step::Remove => "remove",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    steps: BTreeMap<Step, (Vec<f64>, BTreeMap<String, u64>)>,
    restarts: BTreeMap<String, u64>,
    unhealthy: u64,
    pods: u64,
    probes: BTreeMap<usize, Probes>,
}

/// The probes of one slot's pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Probes {
    pub(crate) attempts: u64,
    pub(crate) failed: u64,
}

/// One step, as a row of the table. The times include failures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) attempts: u64,
    pub(crate) failed: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// How often each error text occurred.
    pub(crate) failures: BTreeMap<String, u64>,
}

/// The totals, after the storm.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) pods: u64,
    pub(crate) steps: BTreeMap<Step, Series>,
    /// Containers that ended unasked, by how they ended.
    pub(crate) restarts: BTreeMap<String, u64>,
    /// How often three probes in a row failed, so that kubelet would kill the container.
    pub(crate) unhealthy: u64,
    pub(crate) probes: BTreeMap<usize, Probes>,
    /// Probes that took longer than their limit, even if the server did not say so: containerd
    /// counts from the start of the probe's process.
    pub(crate) late_probes: u64,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the work, and records it.
    pub(crate) fn time<T, E: fmt::Display>(
        &self,
        step: Step,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let began = Instant::now();
        let result = work();
        let error = result.as_ref().err().map(ToString::to_string);
        self.add(step, began.elapsed(), error.as_deref());
        result
    }

    pub(crate) fn add(&self, step: Step, took: Duration, error: Option<&str>) {
        let mut seen = self.lock();
        let (times, failures) = seen.steps.entry(step).or_default();
        times.push(took.as_secs_f64() * 1000.0);
        if let Some(error) = error {
            *failures.entry(words::anonymous(error)).or_default() += 1;
        }
    }

    pub(crate) fn restart(&self, how: &str) {
        *self.lock().restarts.entry(words::anonymous(how)).or_default() += 1;
    }

    pub(crate) fn probe(&self, slot: usize, failed: bool) {
        let mut seen = self.lock();
        let probes = seen.probes.entry(slot).or_default();
        probes.attempts += 1;
        probes.failed += u64::from(failed);
    }

    pub(crate) fn unhealthy(&self) {
        self.lock().unhealthy += 1;
    }

    pub(crate) fn pod(&self) {
        self.lock().pods += 1;
    }

    /// Attempts and failures so far.
    pub(crate) fn so_far(&self, step: Step) -> (u64, u64) {
        let seen = self.lock();
        let Some((times, failures)) = seen.steps.get(&step) else { return (0, 0) };
        (times.len() as u64, failures.values().sum())
    }

    pub(crate) fn sum(&self) -> Sum {
        let seen = self.lock();
        let steps = seen
            .steps
            .iter()
            .map(|(&step, (times, failures))| (step, Series::of(times.clone(), failures.clone())));
        Sum {
            pods: seen.pods,
            steps: steps.collect(),
            restarts: seen.restarts.clone(),
            unhealthy: seen.unhealthy,
            probes: seen.probes.clone(),
            late_probes: seen.steps.get(&Step::Exec).map_or(0, |(times, _)| {
                let limit_ms = PROBE_TIMEOUT.as_secs_f64() * 1000.0;
                times.iter().filter(|&&ms| ms > limit_ms).count() as u64
            }),
        }
    }
}

impl Sum {
    pub(crate) fn of(&self, step: Step) -> Series {
        self.steps.get(&step).cloned().unwrap_or_default()
    }

    pub(crate) fn failed(&self) -> u64 {
        self.steps.values().map(|series| series.failed).sum()
    }

    pub(crate) fn restarted(&self) -> u64 {
        self.restarts.values().sum()
    }
}

impl Series {
    fn of(mut times: Vec<f64>, failures: BTreeMap<String, u64>) -> Series {
        times.sort_by(f64::total_cmp);
        // The nearest rank: a time that was measured.
        let at = |part: f64| {
            let rank = (part * times.len() as f64).ceil() as usize;
            times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Series {
            attempts: times.len() as u64,
            failed: failures.values().sum(),
            p50_ms: at(0.5),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            failures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_text_and_times_of_all() {
        let tally = Tally::default();
        for ms in 1..=100 {
            let error = (ms > 98).then_some("unable to freeze");
            tally.add(Step::Update, Duration::from_millis(ms), error);
        }
        let update = tally.sum().of(Step::Update);
        assert_eq!((update.attempts, update.failed), (100, 2));
        assert_eq!((update.p50_ms, update.p95_ms, update.p99_ms), (50.0, 95.0, 99.0));
        assert_eq!(update.max_ms, 100.0);
        assert_eq!(update.failures, [("unable to freeze".to_owned(), 2)].into());
        assert_eq!(tally.sum().of(Step::Exec), Series::default());
    }
}
