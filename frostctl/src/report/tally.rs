//! The numbers of a report: what each verb did, how long it took, and which pods had the most of it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::over_time::{Counts, OverTime};
use crate::journal::Record;
use crate::metrics::known_verb;

/// 2000: a clock that says less was not set yet, as at a boot without a battery before NTP.
const CLOCK_SET_MS: i64 = 946_684_800_000;

/// Of the slowest and of the worst pods as many as a person reads.
const SHOWN_PODS: usize = 10;

/// One verb. Times are in ms, what the caller waited: the way to the lock, the wait for it, every
/// attempt and the delays between them. Percentiles are by nearest rank over all records.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Verb {
    pub(crate) verb: String,
    pub(crate) count: u64,
    pub(crate) ok: u64,
    pub(crate) failures: BTreeMap<String, u64>,
    pub(crate) retries: u64,
    pub(crate) refills: u64,
    pub(crate) gained_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// In us: exact, and 8 bytes a record. A `run` in the foreground may take days.
    #[serde(skip)]
    took_us: Vec<u64>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Pod {
    pub(crate) pod: String,
    pub(crate) operations: u64,
    pub(crate) failed: u64,
    pub(crate) retries: u64,
    pub(crate) gained_ms: f64,
    pub(crate) mean_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) slowest: String,
    #[serde(skip)]
    sum_ms: f64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Numbers {
    pub(crate) operations: u64,
    /// Of these, those whose time says nothing; 0 in both times if it is all of them.
    pub(crate) clock_not_set: u64,
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) verbs: Vec<Verb>,
    pub(crate) slowest_pods: Vec<Pod>,
    pub(crate) worst_pods: Vec<Pod>,
    #[serde(skip)]
    pub(crate) over_time: OverTime,
}

/// A record is counted by position, not by name: hashing names a million times takes half a second.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    numbers: Numbers,
    verbs: Vec<Verb>,
    /// By the index of the life.
    lives: Vec<Pod>,
}

impl Tally {
    pub(crate) fn add(&mut self, record: &Record<'_>, unix_ms: i64, life: Option<usize>) {
        if !record.is_operation() {
            return;
        }
        let failure = failure(record);
        self.numbers.add(record, unix_ms, failure.is_some());
        let took_ms = record.took_ms();
        let word = known_verb(&record.verb);
        match self.verbs.iter_mut().find(|verb| verb.verb == word) {
            Some(verb) => verb.add(record, took_ms, failure),
            None => {
                let mut verb = Verb { verb: word.to_owned(), ..Verb::default() };
                verb.add(record, took_ms, failure);
                self.verbs.push(verb);
            }
        }
        if let Some(life) = life {
            if self.lives.len() <= life {
                self.lives.resize_with(life + 1, Pod::default);
            }
            if let Some(pod) = self.lives.get_mut(life) {
                pod.add(record, took_ms, failure.is_some());
            }
        }
    }

    /// `pod_of` names the pod of a life.
    pub(crate) fn finish(self, pod_of: impl Fn(usize) -> String) -> Numbers {
        let mut verbs: Vec<Verb> = self.verbs.into_iter().map(Verb::finish).collect();
        verbs.sort_by(|a, b| a.verb.cmp(&b.verb));
        let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
        for (life, part) in self.lives.into_iter().enumerate().filter(|(_, it)| it.operations > 0) {
            let name = pod_of(life);
            pods.entry(name.clone()).or_insert(Pod { pod: name, ..Pod::default() }).merge(part);
        }
        let mut pods: Vec<Pod> = pods.into_values().collect();
        for pod in &mut pods {
            pod.mean_ms = pod.sum_ms / pod.operations.max(1) as f64;
        }
        pods.sort_by(|a, b| b.max_ms.total_cmp(&a.max_ms).then(a.pod.cmp(&b.pod)));
        let slowest_pods = pods.iter().take(SHOWN_PODS).cloned().collect();
        pods.retain(|pod| pod.failed > 0);
        pods.sort_by(|a, b| b.failed.cmp(&a.failed).then(a.pod.cmp(&b.pod)));
        pods.truncate(SHOWN_PODS);
        Numbers { verbs, slowest_pods, worst_pods: pods, ..self.numbers }
    }
}

impl Numbers {
    fn add(&mut self, record: &Record<'_>, unix_ms: i64, failed: bool) {
        self.operations += 1;
        if unix_ms < CLOCK_SET_MS {
            self.clock_not_set += 1;
            return;
        }
        let first_ms = if self.first_ms == 0 { unix_ms } else { self.first_ms };
        self.first_ms = first_ms.min(unix_ms);
        self.last_ms = self.last_ms.max(unix_ms);
        let was_helped = record.attempts > 1 || !record.refills.is_empty();
        let none = Counts::default();
        let counts = match (failed, was_helped) {
            (true, _) => Counts { failed: 1, ..none },
            (false, true) => Counts { helped: 1, ..none },
            (false, false) => Counts { clean: 1, ..none },
        };
        self.over_time.add(unix_ms, counts);
    }
}

impl Verb {
    fn add(&mut self, record: &Record<'_>, took_ms: f64, failure: Option<&str>) {
        self.count += 1;
        match failure {
            None => self.ok += 1,
            Some(cause) => match self.failures.get_mut(cause) {
                Some(count) => *count += 1,
                None => drop(self.failures.insert(cause.to_owned(), 1)),
            },
        }
        self.retries += u64::from(record.attempts.saturating_sub(1));
        self.refills += record.refills.len() as u64;
        self.gained_ms += gained(record);
        self.took_us.push((took_ms * 1000.0).round() as u64);
    }

    fn finish(mut self) -> Verb {
        self.took_us.sort_unstable();
        let ms = |share: f64| percentile(&self.took_us, share).unwrap_or(0) as f64 / 1000.0;
        (self.p50_ms, self.p95_ms, self.p99_ms, self.max_ms) =
            (ms(0.5), ms(0.95), ms(0.99), ms(1.0));
        self.took_us = Vec::new();
        self
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

impl Pod {
    fn add(&mut self, record: &Record<'_>, took_ms: f64, failed: bool) {
        self.operations += 1;
        self.failed += u64::from(failed);
        self.retries += u64::from(record.attempts.saturating_sub(1));
        self.gained_ms += gained(record);
        self.sum_ms += took_ms;
        if took_ms > self.max_ms {
            self.max_ms = took_ms;
            self.slowest.clear();
            self.slowest.push_str(&record.verb);
        }
    }

    fn merge(&mut self, other: Pod) {
        self.operations += other.operations;
        self.failed += other.failed;
        self.retries += other.retries;
        self.gained_ms += other.gained_ms;
        self.sum_ms += other.sum_ms;
        if other.max_ms > self.max_ms {
            (self.max_ms, self.slowest) = (other.max_ms, other.slowest);
        }
    }
}

fn gained(record: &Record<'_>) -> f64 {
    record.refills.iter().map(|refill| refill.gained_ms).sum()
}

/// Why it failed: what the last attempt failed of, else the verdict.
fn failure<'a>(record: &'a Record<'_>) -> Option<&'a str> {
    if matches!(&*record.verdict, "ok" | "handed over") {
        return None;
    }
    let last = record.tries.last().map(|attempt| &*attempt.failure);
    Some(last.filter(|failure| !failure.is_empty()).unwrap_or(&record.verdict))
}

/// By nearest rank, of values in order.
pub(crate) fn percentile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_in_the_foreground_takes_hours() {
        let mut verb = Verb::default();
        verb.add(&Record::default(), 7_200_000.0, None);
        assert!((verb.finish().max_ms - 7_200_000.0).abs() < 1e-6);
    }

    #[test]
    fn a_clock_that_was_not_set_is_not_on_the_axis() {
        let mut numbers = Numbers::default();
        for ms in [5000, CLOCK_SET_MS + 7, 0, CLOCK_SET_MS + 5] {
            numbers.add(&Record::default(), ms, false);
        }
        let times = (numbers.first_ms - CLOCK_SET_MS, numbers.last_ms - CLOCK_SET_MS);
        assert_eq!((numbers.operations, numbers.clock_not_set, times), (4, 2, (5, 7)));
        assert_eq!(numbers.over_time.bins().len(), 1);
    }

    #[test]
    fn foreign_verbs_are_one() {
        let mut tally = Tally::default();
        for verb in ["create", "x1", "x2"] {
            let line = format!(r#"{{"v":1,"verb":"{verb}"}}"#);
            tally.add(&serde_json::from_str(&line).unwrap(), 0, None);
        }
        let verbs = tally.finish(|_| String::new()).verbs;
        let verbs: Vec<_> = verbs.iter().map(|verb| (&*verb.verb, verb.count)).collect();
        assert_eq!(verbs, [("create", 1), ("other", 2)]);
    }

    #[test]
    fn nearest_rank() {
        let hundred: Vec<u32> = (1..=100).collect();
        for (share, value) in [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100)] {
            assert_eq!(percentile(&hundred, share), Some(value));
        }
        assert_eq!(percentile(&[7], 0.99), Some(7));
        assert_eq!(percentile::<u32>(&[], 0.5), None);
    }
}
