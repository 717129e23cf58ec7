//! What mode "full" would have saved, from the records of mode "observe".
//!
//! The upper bound is the time in which a cgroup of the operation was throttled and the runtime got
//! no CPU. The lower bound subtracts what the record cannot tell apart: a throttle that began
//! before the operation and was counted whole, the runtime's own sleep, and the time until
//! frostlock sees a wait.

use std::io::{self, Write};

use serde::Serialize;

use super::tally::{CLOCK_SET_MS, percentile};
use crate::journal::{Record, Skipped};
use crate::metrics::known_verb;
use crate::output::{count, fitted, plain, right, seconds, table, time};

/// kubelet's `timeoutSeconds` if a probe has none.
const PROBE_MS: f64 = 1000.0;

/// An exec in the foreground that takes longer is a person's shell.
const LONGEST_PROBE_MS: f64 = 60_000.0;

/// CONFIG_CFS_BANDWIDTH's default period.
const DEFAULT_PERIOD_MS: f64 = 100.0;

/// How long frostlock may need to see that a thread waits: a look every 20 ms, and a second one
/// after a tick.
const SEEN_MS: f64 = 25.0;

const METHOD: &str = "at most, what is saved is the throttled time (cpu.stat) of the operation's \
    cgroups in which the runtime had no CPU. At least, it is that time less one period, less what \
    an unthrottled operation of the verb sleeps, and less 25 ms until frostlock sees that a thread \
    waits";
const TOO_MUCH: &str = "a command in the foreground that sleeps by itself in a throttled container; lifts \
    that the kernel refuses (see frostctl doctor) or a limit ends";
const NOT_COUNTED: &str = "a small weight and a busy node; what the command of a detached exec does after \
    the runtime's end; operations whose wrapper was killed by SIGKILL, which leave no record; what a \
    failed freeze costs";

/// Lower and upper bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Range<T> {
    least: T,
    most: T,
}

#[derive(Debug, Serialize)]
pub(super) struct Estimate {
    operations: u64,
    /// Both are 0 if the clock was not set.
    first_ms: i64,
    last_ms: i64,
    verbs: Vec<Verb>,
    /// Execs in the foreground of more than a minute.
    left_out: u64,
    method: &'static str,
    too_much: &'static str,
    not_counted: &'static str,
    skipped: Skipped,
}

/// Times in ms that the caller waited; percentiles by nearest rank.
#[derive(Debug, Serialize)]
struct Verb {
    verb: String,
    count: u64,
    /// Operations of which throttling explains a part.
    throttled: u64,
    p50_ms: f64,
    p99_ms: f64,
    /// The part of the operation at p99 that throttling explains.
    p99_throttled_ms: f64,
    /// The median sleep of an unthrottled operation; `None` if there was none.
    sleeps_ms: Option<f64>,
    /// Only for execs: those that took more than a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    over_a_second: Option<u64>,
    /// The same in mode "full".
    full: Full,
    saved_ms: Range<f64>,
}

#[derive(Debug, Serialize)]
struct Full {
    p50_ms: Range<f64>,
    p99_ms: Range<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    over_a_second: Option<Range<u64>>,
}

/// One operation, in ms.
#[derive(Debug, Clone, Copy)]
struct Operation {
    took: f64,
    throttled: f64,
    /// The time in which the runtime was not on a CPU.
    off_cpu: f64,
    explained: f64,
    period: f64,
}

/// Takes records one by one; its memory grows by 40 bytes per record.
#[derive(Debug, Default)]
pub(super) struct Observed {
    verbs: Vec<(String, Vec<Operation>)>,
    first_ms: i64,
    last_ms: i64,
    left_out: u64,
}

impl Observed {
    pub(super) fn add(&mut self, record: &Record<'_>, unix_ms: i64) {
        let Some(operation) = Operation::of(record) else { return };
        if &*record.verb == "exec"
            && record.stages.started.is_some()
            && operation.took > LONGEST_PROBE_MS
        {
            self.left_out += 1;
            return;
        }
        if unix_ms >= CLOCK_SET_MS {
            let first_ms = if self.first_ms == 0 { unix_ms } else { self.first_ms };
            (self.first_ms, self.last_ms) = (first_ms.min(unix_ms), self.last_ms.max(unix_ms));
        }
        let word = known_verb(&record.verb);
        let at = self.verbs.iter().position(|(verb, _)| verb == word).unwrap_or(self.verbs.len());
        if at == self.verbs.len() {
            self.verbs.push((word.to_owned(), Vec::new()));
        }
        self.verbs[at].1.push(operation);
    }

    /// `None` if mode "observe" has recorded nothing.
    pub(super) fn finish(mut self, skipped: Skipped) -> Option<Estimate> {
        if self.verbs.is_empty() && self.left_out == 0 {
            return None;
        }
        self.verbs.sort_by(|(a, _), (b, _)| a.cmp(b));
        let verbs = self.verbs.into_iter().map(|(verb, operations)| Verb::of(verb, operations));
        let verbs: Vec<Verb> = verbs.collect();
        Some(Estimate {
            operations: verbs.iter().map(|verb| verb.count).sum(),
            first_ms: self.first_ms,
            last_ms: self.last_ms,
            verbs,
            left_out: self.left_out,
            method: METHOD,
            too_much: TOO_MUCH,
            not_counted: NOT_COUNTED,
            skipped,
        })
    }
}

impl Operation {
    fn of(record: &Record<'_>) -> Option<Operation> {
        let throttling = record.throttling.filter(|_| record.is_operation())?;
        // For a container in the foreground, the time after its start is the container's own life.
        let its_life = match &*record.verb {
            "run" | "restore" => record.stages.started.map(|started| record.stages.run - started),
            _ => None,
        };
        let sound = |ms: f64| ms.max(0.0);
        let its_life = sound(its_life.unwrap_or(0.0));
        let worked = sound(record.stages.run - its_life);
        Some(Operation {
            took: sound(record.took_ms() - its_life),
            throttled: sound(throttling.throttled_ms),
            off_cpu: sound(worked - sound(throttling.cpu_ms)),
            explained: sound(throttling.explained_ms).min(worked),
            period: sound(record.period_ms().unwrap_or(DEFAULT_PERIOD_MS)),
        })
    }

    /// What a lift would have saved.
    fn saved(&self, sleeps: f64) -> Range<f64> {
        let held = self.throttled - self.period;
        let waited = self.off_cpu - sleeps - SEEN_MS;
        Range { least: held.min(waited).clamp(0.0, self.explained), most: self.explained }
    }
}

impl Verb {
    fn of(verb: String, mut operations: Vec<Operation>) -> Verb {
        let unthrottled = operations.iter().filter(|it| it.throttled == 0.0);
        let sleeps = percentile(&sorted(unthrottled.map(|it| it.off_cpu)), 0.5);
        operations.sort_by(|a, b| a.took.total_cmp(&b.took));
        let saved: Vec<Range<f64>> =
            operations.iter().map(|it| it.saved(sleeps.unwrap_or(0.0))).collect();
        let pairs = || operations.iter().zip(&saved);
        let fast = sorted(pairs().map(|(it, saved)| it.took - saved.most));
        let slow = sorted(pairs().map(|(it, saved)| it.took - saved.least));
        let took = sorted(operations.iter().map(|it| it.took));
        let range = |share| Range {
            least: percentile(&fast, share).unwrap_or(0.0),
            most: percentile(&slow, share).unwrap_or(0.0),
        };
        let over = |took: &[f64]| took.iter().filter(|ms| **ms > PROBE_MS).count() as u64;
        let is_exec = verb == "exec";
        Verb {
            count: operations.len() as u64,
            throttled: operations.iter().filter(|it| it.explained > 0.0).count() as u64,
            p50_ms: percentile(&took, 0.5).unwrap_or(0.0),
            p99_ms: percentile(&took, 0.99).unwrap_or(0.0),
            p99_throttled_ms: percentile(&operations, 0.99).map_or(0.0, |it| it.explained),
            sleeps_ms: sleeps,
            over_a_second: is_exec.then(|| over(&took)),
            full: Full {
                p50_ms: range(0.5),
                p99_ms: range(0.99),
                over_a_second: is_exec.then(|| Range { least: over(&fast), most: over(&slow) }),
            },
            saved_ms: Range {
                least: saved.iter().map(|it| it.least).sum(),
                most: saved.iter().map(|it| it.most).sum(),
            },
            verb,
        }
    }

    /// For a person, about a verb that was throttled.
    fn say(&self, out: &mut dyn Write) -> io::Result<()> {
        let s = |ms: f64| seconds(ms / 1000.0);
        let many = if self.count == 1 { "" } else { "s" };
        let over = |text: String| text + " ran out of their second";
        let now = self.over_a_second.map(|it| over(format!("; {it}"))).unwrap_or_default();
        let full =
            self.full.over_a_second.map(|it| over(format!("; {}", between(it, |n| n.to_string()))));
        writeln!(
            out,
            "{} {}{many} took p99 {}, of which {} were throttled{now}",
            self.count,
            plain(&self.verb),
            s(self.p99_ms),
            s(self.p99_throttled_ms)
        )?;
        let (p99, saved) = (between(self.full.p99_ms, s), between(self.saved_ms, s));
        writeln!(
            out,
            "  in mode \"full\": p99 {p99}{}; saved in all: {saved}",
            full.unwrap_or_default()
        )
    }
}

impl Estimate {
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let when = match self.first_ms {
            0 => "while the clock was not set".to_owned(),
            first => format!("{} to {}", time(first), time(self.last_ms)),
        };
        let operations = count(self.operations, "operation", "operations");
        writeln!(
            out,
            "what mode \"full\" would have saved: {operations} of mode \"observe\", {when}\n"
        )?;
        let throttled: Vec<&Verb> = self.verbs.iter().filter(|verb| verb.throttled > 0).collect();
        throttled.iter().try_for_each(|verb| verb.say(out))?;
        if throttled.is_empty() {
            writeln!(out, "nothing: no operation was throttled")?;
        }
        writeln!(out, "\n{}\n", self.table())?;
        writeln!(out, "method: {METHOD}")?;
        writeln!(out, "counted, but perhaps not saved: {TOO_MUCH}")?;
        writeln!(out, "saved, but not counted: {NOT_COUNTED}")?;
        if self.left_out > 0 {
            let execs = count(self.left_out, "exec", "execs");
            writeln!(out, "left out: {execs} in the foreground of more than a minute")?;
        }
        self.skipped.say(out)
    }

    fn table(&self) -> String {
        let mut table = table([
            "VERB",
            "COUNT",
            "THROTTLED",
            "P50/ms",
            "P99/ms",
            "FULL P50/ms",
            "FULL P99/ms",
            "SAVED/s",
        ]);
        let ms = |ms: f64| format!("{ms:.1}");
        for verb in &self.verbs {
            table.add_row([
                plain(&verb.verb),
                verb.count.to_string(),
                verb.throttled.to_string(),
                ms(verb.p50_ms),
                ms(verb.p99_ms),
                between(verb.full.p50_ms, ms),
                between(verb.full.p99_ms, ms),
                between(verb.saved_ms, |saved| format!("{:.1}", saved / 1000.0)),
            ]);
        }
        right(&mut table, 1..8);
        fitted(&mut table)
    }
}

fn between<T: Copy>(range: Range<T>, show: impl Fn(T) -> String) -> String {
    let (least, most) = (show(range.least), show(range.most));
    if least == most { least } else { format!("{least} to {most}") }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(run: f64, throttled: f64, cpu: f64) -> String {
        let explained = throttled.min(run - cpu).max(0.0);
        format!(
            r#"{{"v":1,"verb":"exec","verdict":"ok","stages":{{"prepare":1.0,"run":{run}}},
            "quota":{{"container":{{"quota_us":1000,"period_us":100000}},"pod":null}},
            "throttling":{{"throttled_ms":{throttled},"cpu_ms":{cpu},"explained_ms":{explained}}}}}"#
        )
    }

    fn estimate(lines: &[String]) -> Option<Estimate> {
        let mut observed = Observed::default();
        for line in lines {
            observed.add(&serde_json::from_str(line).unwrap(), CLOCK_SET_MS + 5000);
        }
        observed.finish(Skipped::default())
    }

    fn text(estimate: &Estimate) -> String {
        let mut out = Vec::new();
        estimate.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn without_a_throttle_nothing_is_saved() {
        let calm = estimate(&vec![exec(50.0, 0.0, 30.0); 20]).unwrap();
        let [verb] = &calm.verbs[..] else { panic!("{calm:?}") };
        assert_eq!((verb.count, verb.throttled, verb.sleeps_ms), (20, 0, Some(20.0)));
        assert_eq!(verb.saved_ms, Range { least: 0.0, most: 0.0 });
        assert_eq!(verb.full.p99_ms, Range { least: 51.0, most: 51.0 });
        assert!(text(&calm).contains("nothing: no operation was throttled"), "{}", text(&calm));
    }

    #[test]
    fn what_a_starved_operation_waited_is_saved_but_for_the_error() {
        let mut lines = vec![exec(50.0, 0.0, 30.0); 97];
        lines.extend(vec![exec(3000.0, 2900.0, 40.0); 3]);
        let found = estimate(&lines).unwrap();
        let verb = &found.verbs[0];
        assert_eq!((verb.p99_ms, verb.p99_throttled_ms), (3001.0, 2900.0));
        assert_eq!((verb.over_a_second, verb.throttled), (Some(3), 3));
        // Minus one period; the sleep and the first look are in the part that no throttle explains.
        assert_eq!(verb.saved_ms, Range { least: 3.0 * 2800.0, most: 3.0 * 2900.0 });
        assert_eq!(verb.full.p99_ms, Range { least: 101.0, most: 201.0 });
        assert_eq!(verb.full.over_a_second, Some(Range { least: 0, most: 0 }));
        let said = text(&found);
        let expected = "100 execs took p99 3.00 s, of which 2.90 s were throttled; 3 ran out of their \
                        second\n  in mode \"full\": p99 101 ms to 201 ms; 0 ran out of their second; \
                        saved in all: 8.40 s to 8.70 s\n";
        assert!(said.contains(expected), "{said}");
        assert!(
            said.contains("\nmethod: ") && said.contains("not counted: a small weight"),
            "{said}"
        );
    }

    /// Both CPUs are counted: otherwise the throttle would explain everything.
    #[test]
    fn what_an_operation_always_sleeps_is_not_saved() {
        let operation = |line: &str| Operation::of(&serde_json::from_str(line).unwrap()).unwrap();
        let starved = operation(&exec(2000.0, 2000.0, 40.0));
        assert_eq!(starved.saved(20.0), Range { least: 1900.0, most: 1960.0 });
        let hardly = operation(&exec(57.0, 57.0, 34.0));
        assert_eq!(hardly.saved(20.0), Range { least: 0.0, most: 23.0 });
    }

    #[test]
    fn a_containers_own_life_and_a_persons_shell_do_not_count() {
        let hour = 3_600_000.0;
        let run = exec(hour, 100.0, 20.0)
            .replace("exec", "run")
            .replace("\"run\":", "\"started\":300.0,\"run\":");
        let shell = exec(hour, hour, 20.0).replace("\"run\":", "\"started\":300.0,\"run\":");
        let found = estimate(&[run, shell]).unwrap();
        let [verb] = &found.verbs[..] else { panic!("{found:?}") };
        assert_eq!((&*verb.verb, verb.p99_ms, verb.saved_ms.most), ("run", 301.0, 100.0));
        assert_eq!(found.left_out, 1);
        assert!(text(&found).contains("left out: 1 exec in the foreground"), "{}", text(&found));
    }

    #[test]
    fn other_modes_say_nothing_and_strange_numbers_break_nothing() {
        let full = r#"{"v":1,"verb":"exec","verdict":"ok","stages":{"run":50.0}}"#.to_owned();
        assert!(estimate(&[full]).is_none());
        let strange = r#"{"v":1,"verb":"x","stages":{"run":-1e300},"quota":{"container":
            {"quota_us":-5,"period_us":18446744073709551615}},
            "throttling":{"throttled_ms":1e300,"cpu_ms":-1e300,"explained_ms":1e300}}"#;
        let found = estimate(&[strange.to_owned(), exec(50.0, 1e300, 0.0)]).unwrap();
        for verb in &found.verbs {
            assert!(verb.saved_ms.most <= 50.0 && verb.full.p50_ms.least >= 0.0, "{verb:?}");
        }
    }
}
