//! What is counted, record by record. Nothing here ever gets smaller.

use std::collections::BTreeMap;

use frostlock::journal::reader::Record;
use serde::{Deserialize, Serialize};

/// From a start that nothing delays to one that containerd gives up on, in seconds.
pub(crate) const BOUNDS_S: [f64; 12] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

const VERBS: [&str; 13] = [
    "checkpoint",
    "create",
    "delete",
    "exec",
    "hook",
    "kill",
    "pause",
    "restore",
    "resume",
    "run",
    "start",
    "state",
    "update",
];
const VERDICTS: [&str; 6] = ["failed", "handed over", "killed", "not started", "ok", "unreadable"];
const LOCKS: [&str; 6] = ["exclusive", "nested", "none", "shared", "timed out", "unavailable"];
const FAILURES: [&str; 6] = [
    "bus disconnected",
    "failed",
    "freeze failed",
    "freeze failed in procHooks",
    "no freezer",
    "refused as paused",
];
const GIVE_UPS: [&str; 3] = ["interrupted", "not repeatable", "out of time"];
const REASONS: [&str; 4] = ["exec", "freeze", "kill", "start"];
const ENDS: [&str; 5] = ["budget spent", "done", "failed", "no effect", "out of time"];

/// A journal is a file that anybody with root can write to: what is not a word of ours is counted
/// as this, so that no file makes more series than there are words.
const OTHER: &str = "other";

/// No operation takes longer; what says so would spoil a sum for ever.
const LONGEST_MS: f64 = 24.0 * 3600.0 * 1000.0;

pub(crate) type By<T> = BTreeMap<String, T>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counters {
    /// By verb and verdict.
    pub(crate) operations: By<By<u64>>,
    pub(crate) durations: By<Histogram>,
    pub(crate) lock_waits: By<Histogram>,
    pub(crate) retries: By<u64>,
    /// By verb and failure.
    pub(crate) failures: By<By<u64>>,
    pub(crate) given_up: By<u64>,
    /// By reason and end.
    pub(crate) refills: By<By<u64>>,
    /// Whole numbers, as a fraction read back from JSON can be a last digit smaller.
    pub(crate) refill_us: By<u64>,
    pub(crate) recovered: u64,
    pub(crate) oom_kills: u64,
    /// Lines of the journal that are no records of a version that we know.
    pub(crate) skipped_lines: u64,
    /// How often the journal no longer had the place up to which it had been read.
    pub(crate) journal_gaps: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Histogram {
    /// One for each of the bounds, each value in one of them only; what is above is in `count` alone.
    pub(crate) buckets: [u64; BOUNDS_S.len()],
    pub(crate) count: u64,
    pub(crate) sum_us: u64,
}

impl Histogram {
    fn observe(&mut self, ms: f64) {
        let fits = BOUNDS_S.iter().position(|bound| ms <= bound * 1000.0);
        if let Some(bucket) = fits.and_then(|at| self.buckets.get_mut(at)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum_us += microseconds(ms);
    }
}

impl Counters {
    pub(crate) fn add(&mut self, record: &Record) {
        let verb = known(&VERBS, record.verb.as_deref());
        let verdicts = self.operations.entry(verb.clone()).or_default();
        // A series that begins with its first failure would show no increase.
        for verdict in VERDICTS {
            verdicts.entry(verdict.to_owned()).or_default();
        }
        *verdicts.entry(known(&VERDICTS, record.verdict.as_deref())).or_default() += 1;
        self.durations.entry(verb.clone()).or_default().observe(took_ms(record));
        let waited = sound_ms(record.lock_wait_ms);
        self.lock_waits.entry(known(&LOCKS, record.lock.as_deref())).or_default().observe(waited);
        *self.retries.entry(verb.clone()).or_default() += retries(record);
        for failure in record.tries.iter().filter_map(|attempt| attempt.failure.as_deref()) {
            let failures = self.failures.entry(verb.clone()).or_default();
            *failures.entry(known(&FAILURES, Some(failure))).or_default() += 1;
        }
        if let Some(why) = &record.gave_up {
            *self.given_up.entry(known(&GIVE_UPS, Some(why))).or_default() += 1;
        }
        self.add_refills(record);
        self.recovered += record.recovered.len() as u64;
        // Bounded, like the times: one line must not use up the range of a counter.
        self.oom_kills += record.oom_kill.unwrap_or(0).min(1 << 32);
    }

    /// What an alert waits for is 0 before it happens: a series that begins with its only event shows
    /// no increase.
    pub(crate) fn announce(&mut self) {
        self.lock_waits.entry("unavailable".to_owned()).or_default();
        for reason in REASONS {
            let ends = self.refills.entry(reason.to_owned()).or_default();
            for end in ["failed", "no effect"] {
                ends.entry(end.to_owned()).or_default();
            }
        }
    }

    fn add_refills(&mut self, record: &Record) {
        for refill in &record.refills {
            let reason = known(&REASONS, refill.reason.as_deref());
            let ended = known(&ENDS, refill.ended.as_deref());
            *self.refills.entry(reason.clone()).or_default().entry(ended).or_default() += 1;
            *self.refill_us.entry(reason).or_default() += microseconds(sound_ms(refill.gained_ms));
        }
    }
}

pub(crate) fn retries(record: &Record) -> u64 {
    // A deadline of 4 s has no room for as many.
    record.attempts.unwrap_or(0).saturating_sub(1).min(1000)
}

pub(crate) fn gained_us(record: &Record) -> u64 {
    record.refills.iter().map(|refill| microseconds(sound_ms(refill.gained_ms))).sum()
}

/// What the caller waited.
fn took_ms(record: &Record) -> f64 {
    let delays: f64 = record.tries.iter().map(|attempt| sound_ms(attempt.delay_ms)).sum();
    let stages = record.stages.iter().flat_map(|it| [it.prepare, it.lock, it.run]);
    sound_ms(Some(stages.map(sound_ms).sum::<f64>() + delays))
}

fn sound_ms(ms: Option<f64>) -> f64 {
    ms.filter(|ms| ms.is_finite()).map_or(0.0, |ms| ms.clamp(0.0, LONGEST_MS))
}

fn microseconds(ms: f64) -> u64 {
    (ms * 1000.0).round() as u64
}

fn known(words: &[&str], word: Option<&str>) -> String {
    word.filter(|word| words.contains(word)).unwrap_or(OTHER).to_owned()
}

/// The verb, or `other`: a file has no more kinds of operations than there are verbs.
pub(crate) fn known_verb(verb: &str) -> &str {
    if VERBS.contains(&verb) { verb } else { OTHER }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &str) -> Record {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_record_is_counted_under_its_words() {
        let mut counters = Counters::default();
        counters.add(&record(
            r#"{"v":1,"verb":"create","verdict":"ok","attempts":3,"lock":"exclusive",
            "lock_wait_ms":7,"stages":{"prepare":1,"lock":7,"run":80},
            "tries":[{"ms":1,"failure":"freeze failed","delay_ms":100}],
            "refills":[{"reason":"start","gained_ms":40,"ended":"done"}]}"#,
        ));
        assert_eq!(counters.operations["create"]["ok"], 1);
        assert_eq!(counters.operations["create"]["failed"], 0);
        assert_eq!(counters.retries["create"], 2);
        assert_eq!(counters.failures["create"]["freeze failed"], 1);
        assert_eq!(counters.refill_us["start"], 40_000);
        assert_eq!(counters.durations["create"].sum_us, 188_000);
        assert_eq!(counters.durations["create"].buckets[5], 1, "188 ms is below 250 ms");
        assert_eq!(counters.lock_waits["exclusive"].buckets[1], 1, "7 ms is below 10 ms");
    }

    #[test]
    fn what_alerts_wait_for_is_there_before_it_happens() {
        let mut counters = Counters::default();
        counters.announce();
        assert_eq!(counters.lock_waits["unavailable"].count, 0);
        for reason in REASONS {
            assert_eq!(
                (counters.refills[reason]["failed"], counters.refills[reason]["no effect"]),
                (0, 0)
            );
        }
    }

    #[test]
    fn foreign_words_and_numbers_spoil_nothing() {
        let mut counters = Counters::default();
        for n in 0..100 {
            counters.add(&record(&format!(
                r#"{{"v":1,"verb":"x{n}","verdict":"y{n}","lock":"z{n}","lock_wait_ms":-1e300,
                "attempts":18446744073709551615,"oom_kill":18446744073709551615,
                "stages":{{"run":1e300}},
                "refills":[{{"reason":"r{n}","gained_ms":-5,"ended":"e{n}"}}]}}"#
            )));
        }
        assert_eq!(counters.operations.keys().collect::<Vec<_>>(), [OTHER]);
        assert_eq!(counters.operations[OTHER][OTHER], 100);
        assert_eq!(counters.durations[OTHER].count, 100);
        assert_eq!(counters.durations[OTHER].sum_us, 100 * microseconds(LONGEST_MS));
        assert_eq!(counters.lock_waits[OTHER].sum_us, 0);
        assert_eq!(counters.refill_us[OTHER], 0);
        assert_eq!(counters.retries[OTHER], 100_000);
    }
}
