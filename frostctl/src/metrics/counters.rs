//! What is counted, record by record. No counter ever decreases.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::journal::Record;

/// From an undelayed start to one that containerd gives up on, in seconds.
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
const GIVE_UPS: [&str; 4] = ["interrupted", "not repeatable", "out of attempts", "out of time"];
const WHOSE: [&str; 5] = ["freeze", "kill", "program", "runtime", "watcher"];
const ENDS: [&str; 7] = [
    "done",
    "killed",
    "node limit",
    "operation limit",
    "pod limit",
    "thread limit",
    "watcher limit",
];
/// The first words of the reason for a refused lift; after a colon comes an error's text.
const REFUSALS: [&str; 3] = ["CAP_SYS_NICE", "RT_GROUP_SCHED", "no note"];

/// Counts all words that are not ours: anybody with root can write to a journal, and no file must
/// create more series than there are words.
const OTHER: &str = "other";

/// No operation takes longer; a record that says so would spoil a sum forever.
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
    /// By the threads' owner and by how the lift ended.
    pub(crate) lifts: By<By<u64>>,
    pub(crate) lifted_threads: By<u64>,
    /// Integers, since a fraction read back from JSON can be smaller in its last digit.
    pub(crate) lifted_us: By<u64>,
    pub(crate) lift_refused: By<u64>,
    /// By verb, in mode "observe".
    pub(crate) throttled_us: By<u64>,
    pub(crate) explained_us: By<u64>,
    pub(crate) recovered: u64,
    pub(crate) oom_kills: u64,
    /// Lines of the journal that are not records of a known version.
    pub(crate) skipped_lines: u64,
    /// How often the journal no longer had the position up to which it had been read.
    pub(crate) journal_gaps: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Histogram {
    /// One per bound, and each value in only one bucket; larger values are only in `count`.
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
    pub(crate) fn add(&mut self, record: &Record<'_>) {
        self.add_lifts(record);
        if !record.is_late_lift() {
            self.add_operation(record);
        }
    }

    fn add_operation(&mut self, record: &Record<'_>) {
        let verb = known(&VERBS, &record.verb);
        let verdicts = self.operations.entry(verb.clone()).or_default();
        // A series that begins with its first failure would show no increase.
        for verdict in VERDICTS {
            verdicts.entry(verdict.to_owned()).or_default();
        }
        *verdicts.entry(known(&VERDICTS, &record.verdict)).or_default() += 1;
        self.durations.entry(verb.clone()).or_default().observe(took_ms(record));
        let waited = sound_ms(record.lock_wait_ms);
        self.lock_waits.entry(known(&LOCKS, &record.lock)).or_default().observe(waited);
        *self.retries.entry(verb.clone()).or_default() += retries(record);
        let failures = record.tries.iter().map(|attempt| &attempt.failure);
        for failure in failures.filter(|failure| !failure.is_empty()) {
            let failures = self.failures.entry(verb.clone()).or_default();
            *failures.entry(known(&FAILURES, failure)).or_default() += 1;
        }
        if !record.gave_up.is_empty() {
            *self.given_up.entry(known(&GIVE_UPS, &record.gave_up)).or_default() += 1;
        }
        if let Some(throttling) = &record.throttling {
            let us = |ms| microseconds(sound_ms(ms));
            *self.throttled_us.entry(verb.clone()).or_default() += us(throttling.throttled_ms);
            *self.explained_us.entry(verb).or_default() += us(throttling.explained_ms);
        }
        self.recovered += record.recovered.len() as u64;
        self.oom_kills += bounded(record.oom_kill.unwrap_or(0));
    }

    /// Series for alerts must be 0 before their event: one that begins with its only event shows no
    /// increase.
    pub(crate) fn announce(&mut self) {
        self.lock_waits.entry("unavailable".to_owned()).or_default();
        for whose in WHOSE {
            let ends = self.lifts.entry(whose.to_owned()).or_default();
            ends.entry("node limit".to_owned()).or_default();
        }
        for reason in REFUSALS {
            self.lift_refused.entry(reason.to_owned()).or_default();
        }
    }

    fn add_lifts(&mut self, record: &Record<'_>) {
        for lift in &record.lifts {
            let (whose, ended) = (known(&WHOSE, &lift.whose), known(&ENDS, &lift.ended));
            *self.lifts.entry(whose.clone()).or_default().entry(ended).or_default() += 1;
            *self.lifted_threads.entry(whose.clone()).or_default() += bounded(lift.threads);
            *self.lifted_us.entry(whose).or_default() += microseconds(sound_ms(lift.cpu_ms));
        }
        if !record.lift_refused.is_empty() {
            let reason = record.lift_refused.split(':').next().unwrap_or_default();
            *self.lift_refused.entry(known(&REFUSALS, reason)).or_default() += 1;
        }
    }
}

pub(crate) fn retries(record: &Record<'_>) -> u64 {
    // A deadline of 4 s has no room for that many.
    u64::from(record.attempts.saturating_sub(1).min(1000))
}

/// The CPU time that the workload itself got from lifts.
pub(crate) fn program_us(record: &Record<'_>) -> u64 {
    let program = record.lifts.iter().filter(|lift| lift.is_of_the_program());
    program.map(|lift| microseconds(sound_ms(lift.cpu_ms))).sum()
}

/// How long the caller waited.
fn took_ms(record: &Record<'_>) -> f64 {
    let delays: f64 = record.tries.iter().map(|attempt| sound_ms(attempt.delay_ms)).sum();
    let stages = [record.stages.prepare, record.stages.lock, record.stages.run];
    sound_ms(stages.map(sound_ms).iter().sum::<f64>() + delays)
}

fn sound_ms(ms: f64) -> f64 {
    if ms.is_finite() { ms.clamp(0.0, LONGEST_MS) } else { 0.0 }
}

/// One line must not use up a counter's range.
fn bounded(count: u64) -> u64 {
    count.min(1 << 32)
}

fn microseconds(ms: f64) -> u64 {
    (ms * 1000.0).round() as u64
}

fn known(words: &[&str], word: &str) -> String {
    if words.contains(&word) { word.to_owned() } else { OTHER.to_owned() }
}

/// The verb, or `other`: a file has no more kinds of operations than there are verbs.
pub(crate) fn known_verb(verb: &str) -> &str {
    if VERBS.contains(&verb) { verb } else { OTHER }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &str) -> Record<'_> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_record_is_counted_under_its_words() {
        let mut counters = Counters::default();
        counters.add(&record(
            r#"{"v":1,"verb":"create","verdict":"ok","attempts":3,"lock":"exclusive",
            "lock_wait_ms":7,"stages":{"prepare":1,"lock":7,"run":80},
            "tries":[{"ms":1,"failure":"freeze failed","delay_ms":100}],
            "lifts":[{"whose":"runtime","threads":6,"cpu_ms":5.25,"ms":21,"ended":"done"},
            {"whose":"program","threads":2,"cpu_ms":50,"ms":60,"ended":"operation limit"}]}"#,
        ));
        assert_eq!(counters.operations["create"]["ok"], 1);
        assert_eq!(counters.operations["create"]["failed"], 0);
        assert_eq!(counters.retries["create"], 2);
        assert_eq!(counters.failures["create"]["freeze failed"], 1);
        assert_eq!(counters.lifts["program"]["operation limit"], 1);
        assert_eq!((counters.lifted_threads["runtime"], counters.lifted_us["runtime"]), (6, 5250));
        assert_eq!(counters.durations["create"].sum_us, 188_000);
        assert_eq!(counters.durations["create"].buckets[5], 1, "188 ms is below 250 ms");
        assert_eq!(counters.lock_waits["exclusive"].buckets[1], 1, "7 ms is below 10 ms");
    }

    #[test]
    fn what_throttling_has_cost_is_counted_by_verb() {
        let mut counters = Counters::default();
        for throttling in [
            r#"{"throttled_ms":2000.5,"cpu_ms":35,"explained_ms":1965}"#,
            r#"{"throttled_ms":-1e300,"explained_ms":1e300}"#,
        ] {
            let line = format!(r#"{{"v":1,"verb":"exec","throttling":{throttling}}}"#);
            counters.add(&record(&line));
        }
        counters.add(&record(r#"{"v":1,"verb":"exec"}"#));
        assert_eq!(counters.throttled_us["exec"], 2_000_500);
        assert_eq!(counters.explained_us["exec"], 1_965_000 + microseconds(LONGEST_MS));
    }

    #[test]
    fn what_alerts_wait_for_is_there_before_it_happens() {
        let mut counters = Counters::default();
        counters.announce();
        assert_eq!(counters.lock_waits["unavailable"].count, 0);
        for whose in WHOSE {
            assert_eq!(counters.lifts[whose]["node limit"], 0);
        }
        for reason in REFUSALS {
            assert_eq!(counters.lift_refused[reason], 0);
        }
    }

    #[test]
    fn a_lift_that_outlived_its_operation_is_no_operation() {
        let (mut counters, mut without) = (Counters::default(), Counters::default());
        counters.add(&record(
            r#"{"v":1,"verb":"lift","of":"exec","id":"c",
            "lifts":[{"whose":"program","threads":3,"cpu_ms":12.5,"ended":"thread limit"}]}"#,
        ));
        assert_eq!(counters.lifts["program"]["thread limit"], 1);
        assert_eq!(
            (counters.lifted_threads["program"], counters.lifted_us["program"]),
            (3, 12_500)
        );
        without.lifts = counters.lifts.clone();
        without.lifted_threads = counters.lifted_threads.clone();
        without.lifted_us = counters.lifted_us.clone();
        assert_eq!(counters, without, "nothing else is counted");
    }

    #[test]
    fn a_refusal_is_counted_by_its_first_words() {
        let mut counters = Counters::default();
        for (why, counted) in [
            ("RT_GROUP_SCHED", "RT_GROUP_SCHED"),
            ("CAP_SYS_NICE", "CAP_SYS_NICE"),
            ("no note: ENOSPC: No space left on device", "no note"),
            ("the moon", OTHER),
        ] {
            let before = counters.lift_refused.get(counted).copied().unwrap_or_default();
            let line = format!(r#"{{"v":1,"verb":"exec","lift_refused":"{why}"}}"#);
            counters.add(&record(&line));
            assert_eq!(counters.lift_refused[counted], before + 1, "{why}");
        }
    }

    #[test]
    fn foreign_words_and_numbers_spoil_nothing() {
        let mut counters = Counters::default();
        for n in 0..100 {
            counters.add(&record(&format!(
                r#"{{"v":1,"verb":"x{n}","verdict":"y{n}","lock":"z{n}","lock_wait_ms":-1e300,
                "attempts":4294967295,"oom_kill":18446744073709551615,
                "stages":{{"run":1e300}},"lift_refused":"f{n}",
                "lifts":[{{"whose":"w{n}","threads":18446744073709551615,"cpu_ms":-5,"ended":"e{n}"}}]}}"#
            )));
        }
        assert_eq!(counters.operations.keys().collect::<Vec<_>>(), [OTHER]);
        assert_eq!(counters.operations[OTHER][OTHER], 100);
        assert_eq!(counters.durations[OTHER].count, 100);
        assert_eq!(counters.durations[OTHER].sum_us, 100 * microseconds(LONGEST_MS));
        assert_eq!(counters.lock_waits[OTHER].sum_us, 0);
        assert_eq!((counters.lifts[OTHER][OTHER], counters.lifted_us[OTHER]), (100, 0));
        assert_eq!(counters.lifted_threads[OTHER], 100 << 32);
        assert_eq!(counters.lift_refused[OTHER], 100);
        assert_eq!(counters.retries[OTHER], 100_000);
    }
}
