//! Turns the facts into ten answers and a verdict. Pure.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::facts::{
    Binary, Configuration, Day, Engine, Facts, Known, Last, Loaded, Runtime, State,
};
use crate::exit::Exit;
use crate::output::{count, time};
use crate::switch::Switch;

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

/// Its name, whether the answer depends on the environment, and who answers. The wrapper has the
/// environment of its engine.
type Question = (&'static str, bool, fn(&Facts) -> Answer);

/// Always the same, in this order.
const QUESTIONS: [Question; 10] = [
    ("installed", false, installed),
    ("configured", false, configured),
    ("loaded", false, loaded),
    ("mode", true, |it| if_seen(&it.config, mode)),
    ("switch", true, |it| if_seen(&it.switch, switch)),
    ("runtime", true, |it| if_seen(&it.runtime, runtime)),
    ("state", true, |it| if_seen(&it.state, state)),
    ("containers", false, |it| if_seen(&it.containers, containers)),
    ("last record", true, |it| if_seen(&it.records, |it| last(it.last.as_ref()))),
    ("last 24 h", true, |it| if_seen(&it.records, |it| day(&it.day))),
];

pub(crate) fn judge(facts: &Facts) -> Vec<Answer> {
    let answer = |(question, is_of_environment, ask): Question| {
        let answer = match facts.elsewhere.first() {
            Some(other) if is_of_environment => {
                not_checked(&format!("{other}, and frostctl's environment differs"))
                    .next("run frostctl status with the same environment")
            }
            _ => ask(facts),
        };
        // Nothing is broken if no engine uses frostlock.
        let judged = match answer.judged {
            Judged::Broken if !is_used(facts) => Judged::Owed,
            judged => judged,
        };
        Answer { question, judged, ..answer }
    };
    QUESTIONS.map(answer).into()
}

fn is_used(facts: &Facts) -> bool {
    facts.engines.iter().any(|it| !it.handlers.is_empty())
}

impl Answer {
    /// [`judge`] knows the question.
    fn of(judged: Judged, answer: impl Into<String>) -> Answer {
        Answer { question: "", judged, answer: answer.into(), next: None }
    }

    fn next(self, next: impl Into<String>) -> Answer {
        Answer { next: Some(next.into()), ..self }
    }
}

fn good(answer: impl Into<String>) -> Answer {
    Answer::of(Judged::Good, answer)
}

fn owed(answer: impl Into<String>) -> Answer {
    Answer::of(Judged::Owed, answer)
}

fn broken(answer: impl Into<String>) -> Answer {
    Answer::of(Judged::Broken, answer)
}

fn not_checked(why: &str) -> Answer {
    Answer::of(Judged::NotChecked, format!("not checked: {why}"))
}

fn if_seen<T>(known: &Known<T>, judge: impl FnOnce(&T) -> Answer) -> Answer {
    match known {
        Known::Seen(it) => judge(it),
        Known::Unseen { not_checked: why } => not_checked(why),
    }
}

/// The worst of several answers, with the text of all.
fn worst(all: Vec<Answer>) -> Answer {
    let judged = all.iter().map(|it| it.judged).max().unwrap_or(Judged::Moot);
    let said: Vec<&str> = all.iter().map(|it| it.answer.as_str()).collect();
    let said = said.join("; ");
    let next = all.into_iter().filter(|it| it.judged == judged).find_map(|it| it.next);
    Answer { next, ..Answer::of(judged, said) }
}

fn installed(facts: &Facts) -> Answer {
    if facts.binaries.is_empty() {
        return owed("no frostlock beside frostctl, in /usr/local/bin or in PATH")
            .next("make install, or copy the static binary to /usr/local/bin/frostlock");
    }
    worst(facts.binaries.iter().map(|it| binary(it, facts.version)).collect())
}

fn binary(it: &Binary, expected: &str) -> Answer {
    let path = it.path.display();
    let unusable = |what: &str| {
        broken(format!("{path} {what}, and what calls it starts no container"))
            .next(format!("install it at {path} again, or take it out with frostctl unconfigure"))
    };
    if !it.is_there {
        return unusable("is not there");
    }
    if !it.is_executable {
        return unusable("is not executable");
    }
    let elf = match it.is_static {
        Some(true) => "static",
        Some(false) => "not static",
        None => "no ELF file",
    };
    match (it.is_frostlock, &it.version) {
        (None, _) => not_checked(&format!("{path} cannot be read")),
        (Some(false), _) => {
            owed(format!("{path} is not frostlock")).next(format!("install frostlock at {path}"))
        }
        (Some(true), Some(version)) if version == expected => {
            good(format!("{path}, version {version}, executable, {elf}"))
        }
        (Some(true), version) => {
            let version = version.as_deref().unwrap_or("earlier");
            owed(format!("{path}, version {version}, {elf}; frostctl is {expected}"))
                .next("install both programs of one version")
        }
    }
}

fn configured(facts: &Facts) -> Answer {
    let used = facts.engines.iter().filter(|it| !it.handlers.is_empty());
    let unread = facts.engines.iter().flat_map(|it| &it.unread).map(|why| not_checked(why));
    let wrong = facts.engines.iter().filter_map(|it| {
        let next = format!("take \"default-runtime\" out of {}", it.file.display());
        Some(owed(it.wrong.clone()?).next(next))
    });
    let all: Vec<Answer> = used.map(entries).chain(unread).chain(wrong).collect();
    if all.is_empty() {
        return owed("no engine has a runtime that is frostlock")
            .next("frostctl configure --runtime containerd --dry-run");
    }
    worst(all)
}

fn entries(engine: &Engine) -> Answer {
    let names = engine.handlers.iter().map(|it| match it.is_default {
        true => format!("{} (the default)", it.name),
        false => format!("{} (not the default)", it.name),
    });
    let names: Vec<String> = names.collect();
    good(format!("{}: {} in {}", engine.name, names.join(", "), engine.file.display()))
}

fn loaded(facts: &Facts) -> Answer {
    let asked = facts
        .engines
        .iter()
        .filter(|it| !it.handlers.is_empty() || matches!(it.loaded, Loaded::Otherwise(_)));
    let all: Vec<Answer> = asked.map(engine_loaded).collect();
    if !all.is_empty() {
        return worst(all);
    }
    if facts.engines.iter().any(|it| !it.unread.is_empty()) {
        return not_checked("not all configurations could be read");
    }
    Answer::of(Judged::Moot, "nothing is configured")
}

fn engine_loaded(engine: &Engine) -> Answer {
    let name = engine.name;
    match &engine.loaded {
        Loaded::AsConfigured => good(format!("by the running {name}, as configured")),
        Loaded::EachTime => good(format!("{name} reads its files at each start")),
        Loaded::Otherwise(what) => {
            let owed = owed(format!("{name} needs a restart: {}", what.join(", ")));
            Answer { next: engine.reload.clone(), ..owed }
        }
        Loaded::NotRunning => owed(format!("{name} does not run")).next(format!("start {name}")),
        Loaded::NoCri => {
            owed(format!("the CRI plugin of {name} is disabled, so it has no handlers"))
                .next(format!("take \"cri\" out of disabled_plugins in {}", engine.file.display()))
        }
        Loaded::NotChecked(why) => not_checked(&format!("{name}: {why}")),
    }
}

fn mode(config: &Configuration) -> Answer {
    let does = match config.mode {
        "observe" => "observe: runs like the bare runtime, only records",
        "lock" => "lock: locks and records, neither lifts nor retries",
        other => other,
    };
    let mistakes = match config.mistakes.as_slice() {
        [] => return good(does),
        [one] => one.clone(),
        several => format!("{} mistakes in {}", several.len(), config.file.display()),
    };
    owed(format!("{does}; {mistakes}")).next("frostctl config check")
}

fn switch(switch: &Switch) -> Answer {
    if !switch.is_off {
        return good("on");
    }
    let reason = switch.reason.as_ref().map(|it| format!(": {it}")).unwrap_or_default();
    let since = switch.since.map(|at| time(i64::try_from(at * 1000).unwrap_or(0)));
    let since = since.map(|at| format!(" since {at}")).unwrap_or_default();
    owed(format!("off{since}{reason}; every command runs the bare runtime")).next("frostctl on")
}

fn runtime(runtime: &Runtime) -> Answer {
    if let Some(why) = &runtime.broken {
        return broken(why)
            .next("install runc or crun, or name it in the configuration: runtime = \"/path\"");
    }
    let path = runtime.path.as_deref().unwrap_or(Path::new("?")).display();
    let says = match &runtime.says {
        Known::Seen(says) => says,
        Known::Unseen { not_checked: why } => return not_checked(&format!("{path}: {why}")),
    };
    match &runtime.fell_back {
        Some(why) => owed(format!("{says}; {why}"))
            .next("mend `runtime` in the configuration: frostctl config check"),
        None => good(format!("{path}, {says}")),
    }
}

fn state(state: &State) -> Answer {
    let directory = state.directory.display();
    match (&state.refused, &state.full) {
        (Some(why), _) => broken(format!("{why}: every command runs without lock and record"))
            .next(format!("chown root {directory} && chmod 0700 {directory}")),
        (None, Some(why)) => {
            let what = format!("{directory}: {why}: new operations get no lock and no record");
            Answer { next: state.remedy.clone(), ..broken(what) }
        }
        (None, None) if state.is_there => good(format!("{directory}, usable")),
        (None, None) => good(format!("{directory} is not there yet; the first operation makes it")),
    }
}

fn containers(count: &usize) -> Answer {
    let verb = if *count == 1 { "goes" } else { "go" };
    good(format!("{count} {verb} through it"))
}

fn last(last: Option<&Last>) -> Answer {
    last.map_or_else(|| Answer::of(Judged::Moot, "none yet"), |it| good(of_last(it)))
}

fn of_last(last: &Last) -> String {
    let age = match last.age_s {
        Some(age) => format!("{} ago", spoken(age)),
        None => format!("at {}, which is in the future: the clock has jumped", last.time),
    };
    format!("{age}: {} of {}, {}", last.verb, last.container, last.verdict)
}

fn day(day: &Day) -> Answer {
    if day.operations == 0 {
        return Answer::of(Judged::Moot, "no operations");
    }
    good(of_day(day))
}

fn of_day(day: &Day) -> String {
    let only = day.only_s.map(|it| format!(" (of the last {} alone)", spoken(it)));
    let mut said = format!(
        "{}{}, {} failed, {} repeated, {} lifted for {:.1} s of CPU time",
        count(day.operations, "operation", "operations"),
        only.unwrap_or_default(),
        day.failed,
        day.repeated,
        day.lifted,
        day.lifted_ms / 1000.0
    );
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
