//! Turns the facts into ten answers and a verdict. Pure.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::facts::{Binary, Day, Engine, Facts, Known, Last, Loaded};
use crate::exit::Exit;
use crate::output::time;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Judged {
    /// The question does not apply.
    Moot,
    Good,
    NotChecked,
    Owed,
    Broken,
}

/// A question with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Answer {
    pub(crate) question: &'static str,
    pub(crate) judged: Judged,
    pub(crate) answer: String,
    /// What to do about it.
    pub(crate) next: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Works,
    /// Nothing is wrong in what could be checked.
    NotKnown,
    Owed,
    Broken,
}

impl Verdict {
    pub(crate) fn of(answers: &[Answer]) -> Verdict {
        match answers.iter().map(|it| it.judged).max() {
            Some(Judged::Broken) => Verdict::Broken,
            Some(Judged::Owed) => Verdict::Owed,
            Some(Judged::NotChecked) => Verdict::NotKnown,
            _ => Verdict::Works,
        }
    }

    pub(crate) fn exit(self) -> Exit {
        match self {
            Verdict::Works => Exit::Clean,
            Verdict::NotKnown | Verdict::Owed => Exit::Found,
            Verdict::Broken => Exit::Broken,
        }
    }
}

/// Questions whose answers depend on the environment: the wrapper has that of its engine.
const DEPEND: &[&str] = &["mode", "switch", "runtime", "state", "last record", "last 24 h"];

/// Always the same questions, in this order.
pub(crate) fn judge(facts: &Facts) -> Vec<Answer> {
    let is_used = facts.engines.iter().any(|it| !it.handlers.is_empty());
    let mut answers = vec![
        installed(facts),
        configured(facts, is_used),
        loaded(facts, is_used),
        mode(facts),
        switch(facts),
        runtime(facts),
        state(facts),
        containers(facts),
        last(facts),
        day(facts),
    ];
    if let Some(other) = facts.elsewhere.first() {
        answers.iter_mut().filter(|it| DEPEND.contains(&it.question)).for_each(|it| {
            *it = not_checked(it.question, &format!("{other}, and frostctl's environment differs"))
                .next("run frostctl status with the same environment");
        });
    }
    // Nothing is broken if no engine uses frostlock.
    for answer in answers.iter_mut().filter(|it| !is_used && it.judged == Judged::Broken) {
        answer.judged = Judged::Owed;
    }
    answers
}

fn answer(question: &'static str, judged: Judged, answer: impl Into<String>) -> Answer {
    Answer { question, judged, answer: answer.into(), next: None }
}

impl Answer {
    fn next(self, next: impl Into<String>) -> Answer {
        Answer { next: Some(next.into()), ..self }
    }
}

fn not_checked(question: &'static str, why: &str) -> Answer {
    answer(question, Judged::NotChecked, format!("not checked: {why}"))
}

/// The worst of several answers, with the text of all.
fn worst(question: &'static str, all: Vec<Answer>) -> Answer {
    let judged = all.iter().map(|it| it.judged).max().unwrap_or(Judged::Moot);
    let said: Vec<&str> = all.iter().map(|it| it.answer.as_str()).collect();
    let said = said.join("; ");
    let next = all.into_iter().filter(|it| it.judged == judged).find_map(|it| it.next);
    Answer { question, judged, answer: said, next }
}

fn installed(facts: &Facts) -> Answer {
    const QUESTION: &str = "installed";
    if facts.binaries.is_empty() {
        return answer(
            QUESTION,
            Judged::Owed,
            "no frostlock beside frostctl, in /usr/local/bin or in PATH",
        )
        .next("make install, or copy the static binary to /usr/local/bin/frostlock");
    }
    let all = facts.binaries.iter().map(|it| binary(it, facts.version)).collect();
    worst(QUESTION, all)
}

fn binary(it: &Binary, expected: &str) -> Answer {
    const QUESTION: &str = "installed";
    let path = it.path.display();
    let broken = |what: &str| {
        answer(QUESTION, Judged::Broken, format!("{path} {what}"))
            .next(format!("install it at {path} again, or take it out with frostctl unconfigure"))
    };
    if !it.is_there {
        return broken("is not there, and what calls it starts no container");
    }
    if !it.is_executable {
        return broken("is not executable, and what calls it starts no container");
    }
    let elf = match it.is_static {
        Some(true) => "static",
        Some(false) => "not static",
        None => "no ELF file",
    };
    match (it.is_frostlock, &it.version) {
        (None, _) => not_checked(QUESTION, &format!("{path} cannot be read")),
        (Some(false), _) => answer(QUESTION, Judged::Owed, format!("{path} is not frostlock"))
            .next(format!("install frostlock at {path}")),
        (Some(true), Some(version)) if version == expected => {
            answer(QUESTION, Judged::Good, format!("{path}, version {version}, executable, {elf}"))
        }
        (Some(true), version) => {
            let version = version.as_deref().unwrap_or("earlier");
            let what = format!("{path}, version {version}, {elf}; frostctl is {expected}");
            answer(QUESTION, Judged::Owed, what).next("install both programs of one version")
        }
    }
}

fn configured(facts: &Facts, is_used: bool) -> Answer {
    const QUESTION: &str = "configured";
    let unread: Vec<&str> =
        facts.engines.iter().flat_map(|it| &it.unread).map(String::as_str).collect();
    let mut all: Vec<Answer> = unread.iter().map(|why| not_checked(QUESTION, why)).collect();
    all.extend(facts.engines.iter().filter_map(|it| {
        let what = it.wrong.clone()?;
        let next = format!("take \"default-runtime\" out of {}", it.file.display());
        Some(answer(QUESTION, Judged::Owed, what).next(next))
    }));
    if !is_used {
        if all.is_empty() {
            let what = "no engine has a runtime that is frostlock";
            all.push(
                answer(QUESTION, Judged::Owed, what)
                    .next("frostctl configure --runtime containerd --dry-run"),
            );
        }
        return worst(QUESTION, all);
    }
    let used = facts.engines.iter().filter(|it| !it.handlers.is_empty());
    let said = used.map(|it| answer(QUESTION, Judged::Good, entries(it)));
    worst(QUESTION, said.chain(all).collect())
}

fn entries(engine: &Engine) -> String {
    let names = engine.handlers.iter().map(|it| match it.is_default {
        true => format!("{} (the default)", it.name),
        false => format!("{} (not the default)", it.name),
    });
    let names: Vec<String> = names.collect();
    format!("{}: {} in {}", engine.name, names.join(", "), engine.file.display())
}

fn loaded(facts: &Facts, is_used: bool) -> Answer {
    const QUESTION: &str = "loaded";
    let asked = facts
        .engines
        .iter()
        .filter(|it| !it.handlers.is_empty() || matches!(it.loaded, Loaded::Otherwise(_)));
    let all: Vec<Answer> = asked.map(engine_loaded).collect();
    if all.is_empty() {
        if facts.engines.iter().any(|it| !it.unread.is_empty()) {
            return not_checked(QUESTION, "not all configurations could be read");
        }
        let what = if is_used { "no engine to ask" } else { "nothing is configured" };
        return answer(QUESTION, Judged::Moot, what);
    }
    worst(QUESTION, all)
}

fn engine_loaded(engine: &Engine) -> Answer {
    const QUESTION: &str = "loaded";
    let name = engine.name;
    match &engine.loaded {
        Loaded::AsConfigured => {
            answer(QUESTION, Judged::Good, format!("by the running {name}, as configured"))
        }
        Loaded::EachTime => {
            answer(QUESTION, Judged::Good, format!("{name} reads its files at each start"))
        }
        Loaded::Otherwise(what) => {
            let what = what.join(", ");
            let owed = answer(QUESTION, Judged::Owed, format!("{name} needs a restart: {what}"));
            Answer { next: engine.reload.clone(), ..owed }
        }
        Loaded::NotRunning => {
            let what = format!("{name} does not run");
            answer(QUESTION, Judged::Owed, what).next(format!("start {name}"))
        }
        Loaded::NoCri => {
            let what = format!("the CRI plugin of {name} is disabled, so it has no handlers");
            answer(QUESTION, Judged::Owed, what)
                .next(format!("take \"cri\" out of disabled_plugins in {}", engine.file.display()))
        }
        Loaded::NotChecked(why) => not_checked(QUESTION, &format!("{name}: {why}")),
    }
}

fn mode(facts: &Facts) -> Answer {
    const QUESTION: &str = "mode";
    let config = match &facts.config {
        Known::Seen(config) => config,
        Known::Unseen { not_checked: why } => return not_checked(QUESTION, why),
    };
    let does = match config.mode {
        "observe" => "observe: runs like the bare runtime, only records",
        "lock" => "lock: locks and records, neither lifts nor retries",
        other => other,
    };
    match config.mistakes.len() {
        0 => answer(QUESTION, Judged::Good, does),
        1 => answer(QUESTION, Judged::Owed, format!("{does}; {}", config.mistakes[0])),
        count => {
            let what = format!("{does}; {count} mistakes in {}", config.file.display());
            answer(QUESTION, Judged::Owed, what)
        }
    }
    .next_if(!config.mistakes.is_empty(), "frostctl config check")
}

impl Answer {
    fn next_if(self, is_owed: bool, next: &str) -> Answer {
        if is_owed { self.next(next) } else { self }
    }
}

fn switch(facts: &Facts) -> Answer {
    const QUESTION: &str = "switch";
    let switch = match &facts.switch {
        Known::Seen(switch) => switch,
        Known::Unseen { not_checked: why } => return not_checked(QUESTION, why),
    };
    if !switch.is_off {
        return answer(QUESTION, Judged::Good, "on");
    }
    let reason = switch.reason.as_ref().map(|it| format!(": {it}")).unwrap_or_default();
    let since = switch.since.map(|at| time(i64::try_from(at * 1000).unwrap_or(0)));
    let since = since.map(|at| format!(" since {at}")).unwrap_or_default();
    let what = format!("off{since}{reason}; every command runs the bare runtime");
    answer(QUESTION, Judged::Owed, what).next("frostctl on")
}

fn runtime(facts: &Facts) -> Answer {
    const QUESTION: &str = "runtime";
    let runtime = match &facts.runtime {
        Known::Seen(runtime) => runtime,
        Known::Unseen { not_checked: why } => return not_checked(QUESTION, why),
    };
    if let Some(why) = &runtime.broken {
        return answer(QUESTION, Judged::Broken, why)
            .next("install runc or crun, or name it in the configuration: runtime = \"/path\"");
    }
    let path = runtime.path.as_deref().unwrap_or(Path::new("?")).display();
    let says = match &runtime.says {
        Known::Seen(says) => says,
        Known::Unseen { not_checked: why } => {
            return not_checked(QUESTION, &format!("{path}: {why}"));
        }
    };
    match &runtime.fell_back {
        Some(why) => answer(QUESTION, Judged::Owed, format!("{says}; {why}"))
            .next("mend `runtime` in the configuration: frostctl config check"),
        None => answer(QUESTION, Judged::Good, format!("{path}, {says}")),
    }
}

fn state(facts: &Facts) -> Answer {
    const QUESTION: &str = "state";
    let state = match &facts.state {
        Known::Seen(state) => state,
        Known::Unseen { not_checked: why } => return not_checked(QUESTION, why),
    };
    let directory = state.directory.display();
    match (&state.refused, &state.full) {
        (Some(why), _) => {
            let what = format!("{why}: every command runs without lock and record");
            answer(QUESTION, Judged::Broken, what)
                .next(format!("chown root {directory} && chmod 0700 {directory}"))
        }
        (None, Some(why)) => {
            let what = format!("{directory}: {why}: new operations get no lock and no record");
            Answer { next: state.remedy.clone(), ..answer(QUESTION, Judged::Broken, what) }
        }
        (None, None) if state.is_there => {
            answer(QUESTION, Judged::Good, format!("{directory}, usable"))
        }
        (None, None) => {
            let what = format!("{directory} is not there yet; the first operation makes it");
            answer(QUESTION, Judged::Good, what)
        }
    }
}

fn containers(facts: &Facts) -> Answer {
    const QUESTION: &str = "containers";
    match &facts.containers {
        Known::Seen(1) => answer(QUESTION, Judged::Good, "1 goes through it"),
        Known::Seen(count) => answer(QUESTION, Judged::Good, format!("{count} go through it")),
        Known::Unseen { not_checked: why } => not_checked(QUESTION, why),
    }
}

fn last(facts: &Facts) -> Answer {
    const QUESTION: &str = "last record";
    match &facts.records {
        Known::Unseen { not_checked: why } => not_checked(QUESTION, why),
        Known::Seen(records) => match &records.last {
            None => answer(QUESTION, Judged::Moot, "none yet"),
            Some(last) => answer(QUESTION, Judged::Good, of_last(last)),
        },
    }
}

fn of_last(last: &Last) -> String {
    let age = match last.age_s {
        Some(age) => format!("{} ago", spoken(age)),
        None => format!("at {}, which is in the future: the clock has jumped", last.time),
    };
    format!("{age}: {} of {}, {}", last.verb, last.container, last.verdict)
}

fn day(facts: &Facts) -> Answer {
    const QUESTION: &str = "last 24 h";
    match &facts.records {
        Known::Unseen { not_checked: why } => not_checked(QUESTION, why),
        Known::Seen(records) if records.day.operations == 0 => {
            answer(QUESTION, Judged::Moot, "no operations")
        }
        Known::Seen(records) => answer(QUESTION, Judged::Good, of_day(&records.day)),
    }
}

fn of_day(day: &Day) -> String {
    let only = day.only_s.map(|it| format!(" (of the last {} alone)", spoken(it)));
    let mut said = match day.operations {
        1 => "1 operation".to_owned(),
        count => format!("{count} operations"),
    };
    said.push_str(&only.unwrap_or_default());
    said.push_str(&format!(", {} failed, {} repeated", day.failed, day.repeated));
    let seconds = day.lifted_ms / 1000.0;
    said.push_str(&format!(", {} lifted for {seconds:.1} s of CPU time", day.lifted));
    if day.without_lock > 0 {
        said.push_str(&format!(", {} went ahead without the lock", day.without_lock));
    }
    said
}

/// Older times are coarser.
fn spoken(seconds: u64) -> String {
    let unit = match seconds {
        0..120 => 1,
        120..7200 => 60,
        7200..172_800 => 3600,
        _ => 86_400,
    };
    humantime::format_duration(Duration::from_secs(seconds / unit * unit)).to_string()
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
