//! Execs delayed or refused during an update of the same container, and starts slowed down by a
//! quota.

use std::collections::{HashMap, VecDeque};

use crate::journal::Record;

/// Shorter waits for the lock trouble nobody.
const DELAYED_MS: f64 = 20.0;

/// A create or a start that takes longer than this is slow.
const SLOW_START_MS: f64 = 500.0;

/// Half a CPU: the wrapper also considers such a quota small.
const SMALL_CPUS: f64 = 0.5;

/// Overlaps are checked only against the latest, so that a life of any length has bounded memory.
const KEPT: usize = 256;

#[derive(Debug, Clone, Copy)]
struct Interval {
    from_ns: u64,
    to_ns: u64,
}

impl Interval {
    fn of(record: &Record<'_>) -> Interval {
        Interval { from_ns: record.began_ns(), to_ns: record.mono_ns }
    }

    fn overlaps(self, other: Interval) -> bool {
        self.from_ns <= other.to_ns && other.from_ns <= self.to_ns
    }
}

/// Contention in one life.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contention {
    pub(crate) execs: u64,
    pub(crate) updates: u64,
    pub(crate) slowest_exec_ms: f64,
    pub(crate) longest_wait_ms: f64,
    pub(crate) refused: u64,
    pub(crate) delayed: u64,
    /// Refused or delayed during an update of the container.
    pub(crate) during_updates: u64,
    pub(crate) slow_start: Option<SlowStart>,
    recent_updates: VecDeque<Interval>,
    unexplained: VecDeque<Interval>,
}

#[derive(Debug, Clone)]
pub(crate) struct SlowStart {
    pub(crate) verb: String,
    pub(crate) took_ms: f64,
    pub(crate) cpus: f64,
    /// What was done for it.
    pub(crate) help: String,
}

fn help(record: &Record<'_>) -> String {
    if !record.lifts.is_empty() {
        let limit = record.lifts.iter().map(|lift| &*lift.ended).find(|it| *it != "done");
        let end = limit.map_or_else(|| "to its end".to_owned(), |limit| format!("until: {limit}"));
        return format!("lifted for {:.1} ms of CPU, {end}", record.lifted_ms());
    }
    if !record.lift_refused.is_empty() {
        return format!("not lifted: {}", &*record.lift_refused);
    }
    match record.refills.is_empty() {
        true => "not lifted: see lift.enabled and mode in the configuration".to_owned(),
        false => {
            format!("refilled (earlier version), {:.0} ms of CPU gained", record.refilled_ms())
        }
    }
}

impl Contention {
    fn add(&mut self, record: &Record<'_>) {
        match &*record.verb {
            "exec" => self.add_exec(record),
            "update" => self.add_update(Interval::of(record)),
            "create" | "start" | "run" => self.add_start(record),
            _ => {}
        }
    }

    fn add_exec(&mut self, record: &Record<'_>) {
        self.execs += 1;
        // In the foreground, an exec takes as long as its command.
        if record.stages.started.is_none() {
            self.slowest_exec_ms = self.slowest_exec_ms.max(record.took_ms());
        }
        let refused = record.was_refused();
        let delayed = record.lock_wait_ms >= DELAYED_MS || &*record.lock == "timed out";
        if !refused && !delayed {
            return;
        }
        self.refused += u64::from(refused);
        self.delayed += u64::from(!refused);
        self.longest_wait_ms = self.longest_wait_ms.max(record.lock_wait_ms);
        let interval = Interval::of(record);
        if self.recent_updates.iter().any(|update| update.overlaps(interval)) {
            self.during_updates += 1;
        } else {
            keep(&mut self.unexplained, interval);
        }
    }

    /// An update's record comes after those of execs that did not wait for its end.
    fn add_update(&mut self, update: Interval) {
        self.updates += 1;
        let before = self.unexplained.len();
        self.unexplained.retain(|exec| !exec.overlaps(update));
        self.during_updates += (before - self.unexplained.len()) as u64;
        keep(&mut self.recent_updates, update);
    }

    fn add_start(&mut self, record: &Record<'_>) {
        let took_ms = match record.stages.started {
            Some(started) => record.stages.prepare + record.stages.lock + started,
            None => record.took_ms(),
        };
        let Some(cpus) = record.cpus().filter(|cpus| *cpus < SMALL_CPUS) else { return };
        let slowest = self.slow_start.as_ref().map_or(SLOW_START_MS, |slow| slow.took_ms);
        if took_ms < slowest {
            return;
        }
        let (verb, help) = (record.verb.to_string(), help(record));
        self.slow_start = Some(SlowStart { verb, took_ms, cpus, help });
    }
}

fn keep(intervals: &mut VecDeque<Interval>, interval: Interval) {
    if intervals.len() == KEPT {
        intervals.pop_front();
    }
    intervals.push_back(interval);
}

/// By the index of the life.
#[derive(Debug, Default)]
pub(crate) struct Contentions(HashMap<usize, Contention>);

impl Contentions {
    pub(crate) fn add(&mut self, record: &Record<'_>, life: usize) {
        if matches!(&*record.verb, "exec" | "update" | "create" | "start" | "run") {
            self.0.entry(life).or_default().add(record);
        }
    }

    pub(crate) fn of(&self, life: usize) -> Contention {
        self.0.get(&life).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lives::tests::line;

    fn add(contention: &mut Contention, at_s: f64, verb: &str, more: serde_json::Value) {
        let line = line("a", at_s, verb, "c", more);
        contention.add(&serde_json::from_str(&line).unwrap());
    }

    #[test]
    fn an_overlap_is_found_whichever_record_comes_first() {
        let mut contention = Contention::default();
        let update = || json!({"stages": {"run": 500.0}});
        let refused = || {
            json!({"stages": {"run": 10.0}, "verdict": "failed",
            "note": "cannot exec in a paused container"})
        };
        let delayed = || json!({"stages": {"lock": 80.0, "run": 10.0}, "lock_wait_ms": 80.0});
        add(&mut contention, 10.2, "exec", refused());
        add(&mut contention, 10.4, "update", update());
        add(&mut contention, 10.45, "exec", delayed());
        add(&mut contention, 20.0, "exec", delayed());
        add(&mut contention, 30.0, "exec", json!({"stages": {"run": 10.0}}));
        let counts = (contention.execs, contention.refused, contention.delayed);
        assert_eq!(counts, (4, 1, 2));
        assert_eq!(contention.during_updates, 2);
    }

    #[test]
    fn what_was_done_for_a_start() {
        for (more, done) in [
            (r#""attempts":1"#, "not lifted: see lift.enabled and mode in the configuration"),
            (
                r#""lifts":[{"cpu_ms":4,"ended":"done"},{"cpu_ms":2,"ended":"done"}]"#,
                "lifted for 6.0 ms of CPU, to its end",
            ),
            (
                r#""lifts":[{"cpu_ms":4,"ended":"done"},{"cpu_ms":50,"ended":"operation limit"}]"#,
                "lifted for 54.0 ms of CPU, until: operation limit",
            ),
            (r#""lift_refused":"RT_GROUP_SCHED""#, "not lifted: RT_GROUP_SCHED"),
            (
                r#""lifts":[{"cpu_ms":4,"ended":"node limit"}],"lift_refused":"no note: ENOSPC""#,
                "lifted for 4.0 ms of CPU, until: node limit",
            ),
            (
                r#""refills":[{"reason":"start","gained_ms":30.5},{"gained_ms":1.0}]"#,
                "refilled (earlier version), 32 ms of CPU gained",
            ),
        ] {
            let line = format!(r#"{{"v":1,{more}}}"#);
            assert_eq!(help(&serde_json::from_str(&line).unwrap()), done, "{more}");
        }
    }

    #[test]
    fn only_a_long_start_with_a_small_quota_was_slowed() {
        let quota = |us: Option<i64>| json!({"container": {"quota_us": us, "period_us": 100_000}, "pod": null});
        for (ms, us, is_slow) in [
            (900.0, Some(1000), true),
            (900.0, None, false),
            (900.0, Some(200_000), false),
            (100.0, Some(1000), false),
        ] {
            let mut contention = Contention::default();
            let more = json!({"stages": {"run": ms}, "quota": quota(us)});
            add(&mut contention, 10.0, "create", more);
            assert_eq!(contention.slow_start.is_some(), is_slow, "{ms} ms, {us:?}");
        }
    }
}
