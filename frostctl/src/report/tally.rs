//! The numbers of a report: how often each verb ran, how long it took, and which pods are the
//! worst.

use std::collections::BTreeMap;

use serde::Serialize;

use super::over_time::{Counts, OverTime};
use crate::journal::Record;
use crate::metrics::known_verb;

/// 2000: a clock before that was not set yet, as at a boot without a battery, before NTP.
pub(crate) const CLOCK_SET_MS: i64 = 946_684_800_000;

/// A record's two clocks differ by a constant, except for NTP's steering and the time between the
/// two readings. A larger change means that somebody has set the clock.
const JUMP_MS: i64 = 60_000;

/// As many of the slowest and of the worst pods as a person reads.
const SHOWN_PODS: usize = 10;

/// One verb. Times are in ms, as the caller waited: before the lock, for the lock, every attempt
/// and the delays between attempts. Percentiles are by nearest rank over all records.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Verb {
    pub(crate) verb: String,
    pub(crate) count: u64,
    pub(crate) ok: u64,
    pub(crate) failures: BTreeMap<String, u64>,
    pub(crate) retries: u64,
    /// Including lifts that outlived the operation.
    pub(crate) lifts: u64,
    /// The CPU time of threads while they were lifted, and the workload's own part of it.
    pub(crate) lifted_ms: f64,
    pub(crate) program_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// In us: exact, and 8 bytes per record. A `run` in the foreground may take days.
    #[serde(skip)]
    took_us: Vec<u64>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Pod {
    pub(crate) pod: String,
    pub(crate) operations: u64,
    pub(crate) failed: u64,
    pub(crate) retries: u64,
    pub(crate) lifted_ms: f64,
    pub(crate) program_ms: f64,
    pub(crate) mean_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) slowest: String,
    #[serde(skip)]
    sum_ms: f64,
}

/// What the previous version did instead of lifts.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Refilled {
    pub(crate) refills: u64,
    pub(crate) gained_ms: f64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Numbers {
    pub(crate) operations: u64,
    /// Those of them without a valid time; both times are 0 if that is all of them.
    pub(crate) clock_not_set: u64,
    /// Somebody has set the clock between two of these records, so their times do not give their
    /// order.
    pub(crate) clock_jumped: bool,
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) verbs: Vec<Verb>,
    /// Operations in which nothing could be lifted, by reason.
    pub(crate) lift_refused: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refilled: Option<Refilled>,
    pub(crate) slowest_pods: Vec<Pod>,
    pub(crate) worst_pods: Vec<Pod>,
    #[serde(skip)]
    pub(crate) over_time: OverTime,
}

/// Records are counted by index, not by name: hashing names a million times takes half a second.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    numbers: Numbers,
    verbs: Vec<Verb>,
    /// By the index of the life.
    lives: Vec<Pod>,
    clock: Clock,
}

/// How far the wall clock is ahead of the time since the boot.
#[derive(Debug, Default)]
struct Clock {
    boot: String,
    ahead_ms: i64,
}

impl Clock {
    /// Whether the clock was set since the previous record.
    fn jumps(&mut self, record: &Record<'_>, unix_ms: i64) -> bool {
        let ahead_ms = unix_ms.saturating_sub((record.mono_ns / 1_000_000) as i64);
        let jumped = *record.boot_id == *self.boot && (ahead_ms - self.ahead_ms).abs() > JUMP_MS;
        if *record.boot_id != *self.boot {
            self.boot = record.boot_id.to_string();
        }
        self.ahead_ms = ahead_ms;
        jumped
    }
}

impl Tally {
    pub(crate) fn add(&mut self, record: &Record<'_>, unix_ms: i64, life: Option<usize>) {
        if record.is_late_lift() {
            self.add_lifts(record, &record.of, life);
        } else if record.is_operation() {
            self.add_lifts(record, &record.verb, life);
            self.add_operation(record, unix_ms, life);
        }
    }

    /// A lift that outlived an operation counts for the operation's verb.
    fn add_lifts(&mut self, record: &Record<'_>, verb: &str, life: Option<usize>) {
        self.numbers.add_refusal(&record.lift_refused);
        if record.lifts.is_empty() {
            return;
        }
        let (lifted_ms, program_ms) = (record.lifted_ms(), record.program_ms());
        let verb = self.verb(verb);
        verb.lifts += record.lifts.len() as u64;
        verb.lifted_ms += lifted_ms;
        verb.program_ms += program_ms;
        if let Some(pod) = life.map(|life| self.life(life)) {
            pod.lifted_ms += lifted_ms;
            pod.program_ms += program_ms;
        }
    }

    fn add_operation(&mut self, record: &Record<'_>, unix_ms: i64, life: Option<usize>) {
        let failure = record.failure();
        if unix_ms >= CLOCK_SET_MS && self.clock.jumps(record, unix_ms) {
            self.numbers.clock_jumped = true;
        }
        self.numbers.add(record, unix_ms, failure.is_some());
        let took_ms = record.took_ms();
        self.verb(&record.verb).add(record, took_ms, failure);
        if let Some(life) = life {
            self.life(life).add(record, took_ms, failure.is_some());
        }
    }

    fn verb(&mut self, verb: &str) -> &mut Verb {
        let word = known_verb(verb);
        let at = self.verbs.iter().position(|it| it.verb == word).unwrap_or(self.verbs.len());
        if at == self.verbs.len() {
            self.verbs.push(Verb { verb: word.to_owned(), ..Verb::default() });
        }
        &mut self.verbs[at]
    }

    fn life(&mut self, life: usize) -> &mut Pod {
        if self.lives.len() <= life {
            self.lives.resize_with(life + 1, Pod::default);
        }
        &mut self.lives[life]
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
        if !record.refills.is_empty() {
            let refilled = self.refilled.get_or_insert_default();
            refilled.refills += record.refills.len() as u64;
            refilled.gained_ms += record.refilled_ms();
        }
        if unix_ms < CLOCK_SET_MS {
            self.clock_not_set += 1;
            return;
        }
        let first_ms = if self.first_ms == 0 { unix_ms } else { self.first_ms };
        self.first_ms = first_ms.min(unix_ms);
        self.last_ms = self.last_ms.max(unix_ms);
        let was_helped =
            record.attempts > 1 || !record.lifts.is_empty() || !record.refills.is_empty();
        let none = Counts::default();
        let counts = match (failed, was_helped) {
            (true, _) => Counts { failed: 1, ..none },
            (false, true) => Counts { helped: 1, ..none },
            (false, false) => Counts { clean: 1, ..none },
        };
        self.over_time.add(unix_ms, counts);
    }

    fn add_refusal(&mut self, why: &str) {
        // After a colon comes an error's text.
        let why = why.split(':').next().unwrap_or_default();
        if !why.is_empty() {
            count(&mut self.lift_refused, why);
        }
    }
}

/// Copies only a new key.
fn count(counts: &mut BTreeMap<String, u64>, key: &str) {
    match counts.get_mut(key) {
        Some(count) => *count += 1,
        None => drop(counts.insert(key.to_owned(), 1)),
    }
}

impl Verb {
    fn add(&mut self, record: &Record<'_>, took_ms: f64, failure: Option<&str>) {
        self.count += 1;
        match failure {
            None => self.ok += 1,
            Some(cause) => count(&mut self.failures, cause),
        }
        self.retries += u64::from(record.attempts.saturating_sub(1));
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
        self.lifted_ms += other.lifted_ms;
        self.program_ms += other.program_ms;
        self.sum_ms += other.sum_ms;
        if other.max_ms > self.max_ms {
            (self.max_ms, self.slowest) = (other.max_ms, other.slowest);
        }
    }
}

/// By nearest rank, of sorted values.
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
    fn a_clock_that_is_set_forth_or_back_is_told_and_a_slow_one_is_not() {
        let jumped = |records: &[(&str, u64, i64)]| {
            let mut tally = Tally::default();
            for (boot, mono_s, unix_s) in records {
                let mono_ns = mono_s * 1_000_000_000;
                let line =
                    format!(r#"{{"v":1,"boot_id":"{boot}","mono_ns":{mono_ns},"verb":"kill"}}"#);
                let record = serde_json::from_str(&line).unwrap();
                tally.add(&record, CLOCK_SET_MS + unix_s * 1000, None);
            }
            tally.finish(|_| String::new()).clock_jumped
        };
        assert!(jumped(&[("a", 1, 100), ("a", 2, 5000)]));
        assert!(jumped(&[("a", 1, 5000), ("a", 2, 100)]));
        assert!(!jumped(&[("a", 1, 100), ("a", 2, 130), ("a", 9000, 9150)]));
        assert!(!jumped(&[("a", 1, 100), ("b", 1, 90_000)]), "another boot");
        // Before the first set, the clock had no valid time.
        assert!(!jumped(&[("a", 1, -900_000_000), ("a", 2, 100)]));
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
    fn a_lift_after_its_operation_is_its_operations() {
        let mut tally = Tally::default();
        for (line, life) in [
            (
                r#"{"v":1,"verb":"exec","verdict":"ok","attempts":1,"stages":{"run":20},
              "lifts":[{"whose":"runtime","cpu_ms":4.5},{"whose":"program","cpu_ms":1}]}"#,
                0,
            ),
            (r#"{"v":1,"verb":"lift","of":"exec","lifts":[{"whose":"program","cpu_ms":49}]}"#, 0),
            (r#"{"v":1,"verb":"lift","of":"kill","lifts":[{"whose":"kill","cpu_ms":3}]}"#, 1),
            (r#"{"v":1,"verb":"start","verdict":"ok","lift_refused":"no note: ENOSPC"}"#, 0),
            (
                r#"{"v":1,"verb":"exec","verdict":"ok","refills":[{"gained_ms":70},{"gained_ms":1}]}"#,
                0,
            ),
        ] {
            tally.add(&serde_json::from_str(line).unwrap(), CLOCK_SET_MS, Some(life));
        }
        let numbers = tally.finish(|life| format!("n/p{life}"));
        let verbs: Vec<_> = numbers
            .verbs
            .iter()
            .map(|it| (&*it.verb, it.count, it.ok, it.lifts, it.lifted_ms, it.program_ms))
            .collect();
        let expected = [
            ("exec", 2, 2, 3, 54.5, 50.0),
            ("kill", 0, 0, 1, 3.0, 0.0),
            ("start", 1, 1, 0, 0.0, 0.0),
        ];
        assert_eq!(verbs, expected);
        assert_eq!(numbers.operations, 3);
        assert_eq!(numbers.lift_refused, BTreeMap::from([("no note".to_owned(), 1)]));
        let refilled = numbers.refilled.unwrap();
        assert_eq!((refilled.refills, refilled.gained_ms), (2, 71.0));
        let [pod] = &numbers.slowest_pods[..] else { panic!("{:?}", numbers.slowest_pods) };
        assert_eq!((&*pod.pod, pod.operations, pod.lifted_ms), ("n/p0", 3, 54.5));
        let counts = numbers.over_time.bins();
        assert_eq!(counts, [Counts { clean: 1, helped: 2, failed: 0 }]);
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
