//! One container's records as events, for a person to read in order.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::journal::{Exit, Lift, Record};
use crate::lives::{Life, Names};
use crate::output::count;

/// A line of the timeline.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Event {
    pub(crate) time: String,
    pub(crate) mono_ns: u64,
    /// Since the life's first record.
    pub(crate) age_s: f64,
    /// Since the previous event.
    pub(crate) after_s: f64,
    pub(crate) what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) took_ms: Option<f64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) detail: String,
}

impl Event {
    pub(crate) fn took(&self) -> String {
        self.took_ms.map_or_else(String::new, |ms| format!("{ms:.1} ms"))
    }
}

/// A life with its events.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Story {
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) names: Names,
    pub(crate) boot_id: String,
    pub(crate) end: &'static str,
    pub(crate) ready_after_s: Option<f64>,
    /// Whether any record tells how its execs ended.
    pub(crate) readiness_known: bool,
    pub(crate) events: Vec<Event>,
    /// Execs that are not shown individually.
    #[serde(skip)]
    execs: u64,
    /// What is told once, and was.
    #[serde(skip)]
    told: BTreeSet<&'static str>,
    #[serde(skip)]
    first_ns: u64,
}

impl Story {
    pub(crate) fn begin(life: &Life) -> Story {
        Story {
            id: life.id.clone(),
            boot_id: life.boot.clone(),
            first_ns: life.first_ns,
            ..Story::default()
        }
    }

    /// Adds a record's event; execs like earlier ones are only counted.
    pub(crate) fn add(&mut self, record: &Record<'_>) -> Option<&Event> {
        let Some((what, detail)) = self.describe(record) else {
            // An exec has a record of its start, and possibly one of its end.
            self.execs += u64::from(&*record.verb == "exec");
            return None;
        };
        let before = self.events.last().map_or(self.first_ns, |event| event.mono_ns);
        let seconds = |from: u64| record.mono_ns.saturating_sub(from) as f64 / 1e9;
        let told = matches!(&*record.verb, "exit" | "oom" | "lift");
        let folded = self.folded();
        self.events.push(Event {
            time: record.time.to_string(),
            mono_ns: record.mono_ns,
            age_s: seconds(self.first_ns),
            after_s: seconds(before),
            what,
            took_ms: (!told).then(|| record.took_ms()),
            detail: join([detail, folded, extra(record)]),
        });
        self.events.last()
    }

    pub(crate) fn finish(&mut self, life: &Life) {
        self.in_order();
        self.names = life.names.clone();
        self.end = life.end().as_str();
        self.ready_after_s = life.ready_after_ns().map(|ns| ns as f64 / 1e9);
        self.readiness_known = life.knows_execs;
        let more = self.folded();
        if let Some(last) = self.events.last_mut().filter(|_| !more.is_empty()) {
            last.detail = join([std::mem::take(&mut last.detail), more.replace("after", "then")]);
        }
    }

    /// An exit may be recorded long after the removal.
    fn in_order(&mut self) {
        self.events.sort_by_key(|event| event.mono_ns);
        let mut before = self.first_ns;
        for event in &mut self.events {
            event.after_s = event.mono_ns.saturating_sub(before) as f64 / 1e9;
            before = event.mono_ns;
        }
    }

    fn folded(&mut self) -> String {
        match std::mem::take(&mut self.execs) {
            0 => String::new(),
            1 => "after 1 more exec".into(),
            count => format!("after {count} more execs"),
        }
    }

    /// `None` for an exec like earlier ones.
    fn describe(&mut self, record: &Record<'_>) -> Option<(String, String)> {
        let done = |word: &str| if record.is_ok() { word.to_owned() } else { failed(record) };
        let plain = |what: String| Some((what, String::new()));
        match &*record.verb {
            "create" => plain(done("created")),
            "run" => plain(done("ran")),
            "restore" => plain(done("restored")),
            "start" => plain(done("started")),
            "update" => Some((done("resized"), limit(record))),
            "pause" => plain(done("frozen")),
            "resume" => plain(done("thawed")),
            // containerd deletes once more after the shim is gone.
            "delete" if record.is_ok() && !self.told.insert("removed") => {
                plain("removed again".into())
            }
            "delete" => Some((done("removed"), figures(record))),
            "kill" => Some((done("signalled"), signal(&record.signal))),
            "oom" => plain("out of memory".into()),
            "exit" if record.exec_id.is_empty() => Some(("exited".into(), exit(record.exit))),
            "exit" | "exec" => self.describe_exec(record),
            // A probe's lifts come by the thousand, like its execs.
            "lift" if &*record.of == "exec" => None,
            "lift" => plain(format!("lift after the {} ended", &*record.of)),
            other => plain(done(other)),
        }
    }

    fn describe_exec(&mut self, record: &Record<'_>) -> Option<(String, String)> {
        let is_end = &*record.verb == "exit";
        let is_told = is_end || record.stages.started.is_some();
        if record.was_refused() {
            let ended = if record.is_ok() { "then let in" } else { "" };
            return Some(("exec refused".into(), ended.into()));
        }
        if !record.is_ok() && !is_told {
            return Some((failed(record), String::new()));
        }
        let (what, detail) = match record.exit {
            Some(Exit::Code(0)) if is_told => ("first exec succeeded", String::new()),
            code if is_told => ("first exec failed", exit(code)),
            _ => ("first exec started", String::new()),
        };
        self.told.insert(what).then(|| (what.into(), detail))
    }
}

fn failed(record: &Record<'_>) -> String {
    let verdict = match &*record.verdict {
        "killed" => "interrupted",
        "not started" => "not started",
        "handed over" => "handed over",
        _ => "failed",
    };
    format!("{} {verdict}", &*record.verb)
}

fn limit(record: &Record<'_>) -> String {
    record.cpus().map_or_else(String::new, |cpus| format!("limit before: {:.0}m", cpus * 1000.0))
}

fn figures(record: &Record<'_>) -> String {
    match record.oom_kill {
        Some(kills) if kills > 0 => format!("{} in it", count(kills, "OOM kill", "OOM kills")),
        _ => String::new(),
    }
}

pub(crate) fn signal(asked: &str) -> String {
    let name = match asked.trim_start_matches("SIG") {
        "" | "15" => "TERM",
        "9" => "KILL",
        "1" => "HUP",
        "2" => "INT",
        "3" => "QUIT",
        "28" => "WINCH",
        other => other,
    };
    if name.bytes().all(|byte| byte.is_ascii_digit()) { name.into() } else { format!("SIG{name}") }
}

pub(crate) fn exit(exit: Option<Exit>) -> String {
    match exit {
        Some(Exit::Code(code)) => format!("exit code {code}"),
        Some(Exit::Signal(number)) => format!("by signal {number}"),
        None => String::new(),
    }
}

/// What can happen to any operation.
fn extra(record: &Record<'_>) -> String {
    let retries = match record.attempts {
        0 | 1 => String::new(),
        attempts => format!("{attempts} attempts"),
    };
    let lock = match (&*record.lock, record.lock_wait_ms) {
        ("timed out", ms) => format!("gave up on the lock after {ms:.0} ms"),
        (_, ms) if ms >= 20.0 => format!("waited {ms:.0} ms for the lock"),
        _ => String::new(),
    };
    let note = if record.is_ok() { "" } else { &*record.note };
    join([retries, lock, lifted(record), throttled(record), note.chars().take(160).collect()])
}

fn lifted(record: &Record<'_>) -> String {
    let one = |lift: &Lift<'_>| {
        let limit = match &*lift.ended {
            "done" | "" => String::new(),
            limit => format!(", until the {limit}"),
        };
        format!("{} {:.1} ms{limit}", &*lift.whose, lift.cpu_ms)
    };
    let lifts: Vec<String> = record.lifts.iter().map(one).collect();
    let lifted =
        if lifts.is_empty() { String::new() } else { format!("lifted: {}", lifts.join(", ")) };
    let refused = match &*record.lift_refused {
        "" => String::new(),
        why => format!("lift refused: {}", why.chars().take(160).collect::<String>()),
    };
    let refilled = match record.refills.is_empty() {
        true => String::new(),
        false => {
            format!("refilled (earlier version), {:.0} ms of CPU gained", record.refilled_ms())
        }
    };
    join([lifted, refused, refilled])
}

/// In mode "observe". Less than a period's usual throttling makes no visible difference.
fn throttled(record: &Record<'_>) -> String {
    match record.throttling {
        Some(throttling) if throttling.explained_ms >= 20.0 => {
            format!("throttled for {:.0} ms of it", throttling.explained_ms)
        }
        _ => String::new(),
    }
}

fn join<const N: usize>(parts: [String; N]) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::lives::Lives;
    use crate::lives::tests::line;

    /// The story of one container as `what: detail`.
    fn told(records: &[(f64, &str, Value)]) -> Vec<String> {
        let (mut lives, mut story) = (Lives::default(), None);
        for (at_s, verb, more) in records {
            let line = line("b", *at_s, verb, "c", more.clone());
            let record = serde_json::from_str(&line).unwrap();
            let index = lives.add(&record, 0).unwrap();
            story.get_or_insert_with(|| Story::begin(&lives.all[index])).add(&record);
        }
        let mut story: Story = story.unwrap();
        story.finish(&lives.all[0]);
        story.events.iter().map(|event| format!("{}: {}", event.what, event.detail)).collect()
    }

    #[test]
    fn lifts_are_told_with_their_operations_and_those_after_kills_by_themselves() {
        let lift = |whose: &str, cpu_ms: f64, ended: &str| json!({"whose": whose, "threads": 2, "cpu_ms": cpu_ms, "ended": ended});
        let more = json!({"of": "exec", "lifts": [lift("program", 9.0, "done")]});
        let told = told(&[
            (1.0, "create", json!({"lifts": [lift("runtime", 5.5, "done")]})),
            (2.0, "start", json!({"lift_refused": "no note: ENOSPC"})),
            (
                3.0,
                "exec",
                json!({"lifts": [lift("runtime", 2.0, "done"), lift("program", 50.0, "operation limit")]}),
            ),
            (3.1, "lift", more.clone()),
            (4.0, "exec", json!({})),
            (4.1, "lift", more),
            (5.0, "kill", json!({"signal": "KILL", "refills": [{"gained_ms": 40.0}]})),
            (5.2, "lift", json!({"of": "kill", "lifts": [lift("kill", 50.0, "thread limit")]})),
        ]);
        assert_eq!(
            told,
            [
                "created: lifted: runtime 5.5 ms",
                "started: lift refused: no note: ENOSPC",
                "first exec started: lifted: runtime 2.0 ms, program 50.0 ms, until the operation limit",
                "signalled: SIGKILL; after 1 more exec; refilled (earlier version), 40 ms of CPU gained",
                "lift after the kill ended: lifted: kill 50.0 ms, until the thread limit",
            ]
        );
    }
}
