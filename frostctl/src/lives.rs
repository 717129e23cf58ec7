//! Turns records into lives: from a container's create to its removal. A reused id is another life,
//! as is everything after a boot: no duration spans two boots.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

use crate::journal::{Exit, Record};
use crate::output::plain;

/// The signals that ask a container to end: INT, QUIT, KILL, TERM, and 37, systemd's. HUP is a
/// reload.
const ENDING: [&str; 10] = ["2", "3", "9", "15", "37", "INT", "QUIT", "KILL", "TERM", "RTMIN+3"];

/// containerd sees an exit, and reads the clock, a moment after the kernel.
const EXIT_SLACK_NS: u64 = 50_000_000;

/// A removal this soon after SIGKILL is a cleanup: containerd kills what it removes, alive or not.
const CLEANUP_NS: u64 = 1_000_000_000;

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub(crate) struct Names {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) container: String,
}

impl Names {
    /// `namespace/pod`, or empty.
    pub(crate) fn pod(&self) -> String {
        if self.pod.is_empty() { String::new() } else { format!("{}/{}", self.namespace, self.pod) }
    }
}

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The journal has no end of it.
    Open,
    /// It never ran.
    NotCreated,
    /// After a kill through frostlock.
    Killed,
    OutOfMemory,
    ByItself,
    NodeRestart,
    /// The container is gone, and no record says why.
    Unknown,
}

impl End {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            End::Open => "",
            End::NotCreated => "not created",
            End::Killed => "killed",
            End::OutOfMemory => "out of memory",
            End::ByItself => "by itself",
            End::NodeRestart => "node restart",
            End::Unknown => "not known",
        }
    }
}

/// One container's life. Times are `mono_ns` of its boot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    pub(crate) id: String,
    pub(crate) names: Names,
    pub(crate) boot: String,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    /// Unix time of the first and the last record.
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) created: bool,
    pub(crate) create_failed: bool,
    pub(crate) started_ns: Option<u64>,
    /// The first exec whose command ended with 0.
    pub(crate) ready_ns: Option<u64>,
    /// Whether the end of any exec's command is known.
    pub(crate) knows_execs: bool,
    pub(crate) execs: u64,
    pub(crate) killed: Option<(u64, String)>,
    pub(crate) exited: Option<(u64, Exit)>,
    pub(crate) ooms: u64,
    pub(crate) removed_ns: Option<u64>,
    pub(crate) rebooted: bool,
    pub(crate) records: u64,
}

impl Life {
    /// Its pod's name, or its id if it is in no pod.
    pub(crate) fn pod_or_id(&self) -> String {
        match self.names.pod() {
            pod if pod.is_empty() => self.id.clone(),
            pod => pod,
        }
    }

    fn begin(record: &Record<'_>, unix_ms: i64) -> Life {
        Life {
            id: record.id.to_string(),
            boot: record.boot_id.to_string(),
            first_ns: record.began_ns(),
            first_ms: unix_ms,
            ..Life::default()
        }
    }

    fn add(&mut self, record: &Record<'_>, unix_ms: i64) {
        // Not an event of the container: the lift's operation already has its record.
        if record.is_late_lift() {
            return;
        }
        self.records += 1;
        self.last_ns = self.last_ns.max(record.mono_ns);
        self.last_ms = self.last_ms.max(unix_ms);
        self.name(record);
        match &*record.verb {
            "create" | "run" | "restore" => self.add_create(record),
            "start" if record.is_ok() => self.started_ns = Some(record.mono_ns),
            "exec" => self.add_exec(record),
            "kill" if record.is_ok() && self.killed.is_none() && is_ending(&record.signal) => {
                self.killed = Some((record.began_ns(), record.signal.to_string()));
            }
            "delete" => {
                self.ooms = self.ooms.max(record.oom_kill.unwrap_or(0));
                self.removed_ns = record.is_ok().then_some(record.mono_ns).or(self.removed_ns);
            }
            "oom" => self.ooms = self.ooms.saturating_add(1),
            "exit" => self.add_exit(record),
            _ => {}
        }
    }

    fn name(&mut self, record: &Record<'_>) {
        let pod = &record.pod;
        if self.names.pod.is_empty() && !pod.name.is_empty() {
            self.names = Names {
                namespace: pod.namespace.to_string(),
                pod: pod.name.to_string(),
                uid: pod.uid.to_string(),
                container: pod.container.to_string(),
            };
        }
    }

    fn add_create(&mut self, record: &Record<'_>) {
        self.created |= record.is_ok();
        self.create_failed |= !record.is_ok();
        if &*record.verb == "create" {
            return;
        }
        // In the foreground, the record is written at the container's end.
        self.started_ns = match record.stages.started {
            Some(ms) => {
                Some(record.mono_ns.saturating_sub(((record.stages.run - ms) * 1e6) as u64))
            }
            None if record.is_ok() => Some(record.mono_ns),
            None => None,
        };
        if let (Some(_), Some(exit)) = (record.stages.started, record.exit) {
            self.exited = Some((record.mono_ns, exit));
        }
    }

    /// A detached exec's 0 means that its command was started. In the foreground, it is the
    /// command's.
    fn add_exec(&mut self, record: &Record<'_>) {
        self.execs += 1;
        if record.stages.started.is_some() {
            self.end_exec(record);
        }
    }

    fn add_exit(&mut self, record: &Record<'_>) {
        let Some(exit) = record.exit else { return };
        if record.exec_id.is_empty() {
            self.exited = Some((record.mono_ns, exit));
        } else {
            self.end_exec(record);
        }
    }

    fn end_exec(&mut self, record: &Record<'_>) {
        self.knows_execs = true;
        if record.exit == Some(Exit::Code(0)) {
            let earlier = self.ready_ns.unwrap_or(u64::MAX);
            self.ready_ns = Some(record.mono_ns.min(earlier));
        }
    }

    fn is_over(&self) -> bool {
        self.removed_ns.is_some() || self.rebooted || (self.create_failed && !self.created)
    }

    pub(crate) fn end(&self) -> End {
        let killed = self.killed.as_ref().map(|(at, _)| *at);
        match (self.exited, killed) {
            (Some((exited, _)), Some(killed)) if exited.saturating_add(EXIT_SLACK_NS) >= killed => {
                End::Killed
            }
            (Some(_), _) if self.ooms > 0 => End::OutOfMemory,
            (Some(_), _) => End::ByItself,
            (None, _) if self.rebooted => End::NodeRestart,
            (None, _) if self.create_failed && !self.created => End::NotCreated,
            (None, Some(at)) => self.end_by_kill(at),
            (None, None) if self.removed_ns.is_none() => End::Open,
            (None, None) if self.ooms > 0 => End::OutOfMemory,
            (None, None) if self.started_ns.is_none() => End::Unknown,
            (None, None) => End::ByItself,
        }
    }

    /// The end if there is no record of the exit.
    fn end_by_kill(&self, killed_ns: u64) -> End {
        let is_kill = self.killed.as_ref().is_some_and(|(_, signal)| is_sigkill(signal));
        let removed = self.removed_ns.is_some_and(|at| at.saturating_sub(killed_ns) < CLEANUP_NS);
        match is_kill && removed {
            true if self.ooms > 0 => End::OutOfMemory,
            true => End::Unknown,
            false => End::Killed,
        }
    }

    /// From its start to its end, if both are known.
    pub(crate) fn age_ns(&self) -> Option<u64> {
        let end = match (self.end(), &self.killed, self.exited) {
            (End::Killed, Some((at, _)), _) => *at,
            (_, _, Some((at, _))) => at,
            (_, Some((at, _)), _) => *at,
            _ => self.removed_ns?,
        };
        Some(end.saturating_sub(self.started_ns?))
    }

    pub(crate) fn ready_after_ns(&self) -> Option<u64> {
        Some(self.ready_ns?.saturating_sub(self.started_ns?))
    }

    fn is_named(&self, what: &str) -> bool {
        self.id == what
            || (!self.names.pod.is_empty() && (self.names.pod == what || self.names.pod() == what))
    }
}

pub(crate) fn is_sigkill(signal: &str) -> bool {
    matches!(signal.trim_start_matches("SIG"), "9" | "KILL")
}

fn is_ending(signal: &str) -> bool {
    // Without a signal argument the runtimes send SIGTERM.
    signal.is_empty() || ENDING.contains(&signal.to_ascii_uppercase().trim_start_matches("SIG"))
}

/// Whose lives to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A complete id, or a pod.
    Named(String),
    /// No id or pod in the journal matches, but a later one may.
    Begins(String),
}

impl Wanted {
    pub(crate) fn is(&self, life: &Life) -> bool {
        match self {
            Wanted::Named(name) => life.is_named(name),
            Wanted::Begins(text) => life.is_named(text) || life.id.starts_with(text),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Wanted::Named(text) | Wanted::Begins(text) => text,
        }
    }
}

/// All lives, in the order of their beginnings.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    pub(crate) all: Vec<Life>,
    newest: HashMap<String, usize>,
    boot: String,
}

impl Lives {
    /// The life to which a record belongs; `None` if the record names no container.
    pub(crate) fn add(&mut self, record: &Record<'_>, unix_ms: i64) -> Option<usize> {
        if *record.boot_id != *self.boot {
            self.boot = record.boot_id.to_string();
            self.restart();
        }
        if record.id.is_empty() || &*record.verb == "hook" {
            return None;
        }
        let index = self.find(record, unix_ms)?;
        if let Some(life) = self.all.get_mut(index) {
            life.add(record, unix_ms);
        }
        Some(index)
    }

    fn find(&mut self, record: &Record<'_>, unix_ms: i64) -> Option<usize> {
        let creates = matches!(&*record.verb, "create" | "run" | "restore");
        let known = self.newest.get(&*record.id).copied();
        if let Some(index) = known {
            let life = self.all.get(index)?;
            // A late record, for an earlier container with this id.
            if matches!(&*record.verb, "exit" | "oom") && record.mono_ns < life.first_ns {
                return None;
            }
            // An exit may be recorded after the removal, as may a second delete of a persistent
            // caller.
            if !creates || !(life.created || life.is_over()) {
                return Some(index);
            }
        }
        if record.is_late_lift() {
            return None;
        }
        self.all.push(Life::begin(record, unix_ms));
        self.newest.insert(record.id.to_string(), self.all.len() - 1);
        Some(self.all.len() - 1)
    }

    /// What a person means: an id or a pod with this name, else the only id with this prefix. No
    /// match is no error: with --follow, the container may be yet to come.
    pub(crate) fn find_named(&self, what: &str) -> anyhow::Result<Wanted> {
        if self.all.iter().any(|life| life.is_named(what)) {
            return Ok(Wanted::Named(what.to_owned()));
        }
        let begins: BTreeSet<&str> = self
            .all
            .iter()
            .map(|life| life.id.as_str())
            .filter(|id| id.starts_with(what))
            .collect();
        let mut ids = begins.iter().map(|id| plain(id));
        match (ids.next(), ids.next()) {
            (None, _) => Ok(Wanted::Begins(what.to_owned())),
            (Some(_), None) => Ok(Wanted::Named(begins.into_iter().collect())),
            (Some(one), Some(other)) => anyhow::bail!(
                "{} ids begin with {:?}, as {one} and {other}: give more of the id",
                begins.len(),
                plain(what)
            ),
        }
    }

    fn restart(&mut self) {
        for (_, index) in self.newest.drain() {
            if let Some(life) = self.all.get_mut(index) {
                life.rebooted |= !life.is_over();
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::journal::unix_ms;

    #[test]
    fn a_lift_begins_no_life_and_lengthens_none() {
        let lift = |at_s| line("b", at_s, "lift", "c", json!({"of": "kill"}));
        assert_eq!(lives(&[lift(5.0)]).len(), 0);
        let told = lives(&[
            line("b", 10.0, "create", "c", json!({})),
            line("b", 11.0, "delete", "c", json!({})),
            lift(12.0),
        ]);
        assert_eq!((told.len(), told[0].records, told[0].last_ns), (1, 2, 11_000_000_000));
    }

    #[test]
    fn a_name_is_a_whole_id_or_a_pod_before_it_is_a_beginning() {
        let pod = json!({"pod": {"namespace": "n", "name": "ab"}});
        let mut all = Lives::default();
        for (id, more) in
            [("abc1", json!({})), ("abc2", json!({})), ("abc", json!({})), ("x1", pod)]
        {
            let line = line("b", 1.0, "create", id, more);
            all.add(&serde_json::from_str(&line).unwrap(), 0);
        }
        let named = |name: &str| Wanted::Named(name.to_owned());
        for (what, found) in [
            ("abc", named("abc")),
            ("abc1", named("abc1")),
            ("ab", named("ab")),
            ("n/ab", named("n/ab")),
            ("x", named("x1")),
            ("y", Wanted::Begins("y".into())),
        ] {
            assert_eq!(all.find_named(what).unwrap(), found);
        }
        for (what, said) in [
            ("a", "3 ids begin with \"a\", as abc and abc1: give more of the id"),
            ("", "4 ids begin with \"\", as abc and abc1: give more of the id"),
        ] {
            assert_eq!(all.find_named(what).unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn no_number_is_too_great() {
        let told = lives(&[
            line("b", 1.0, "create", "c", json!({})),
            line("b", 2.0, "kill", "c", json!({"signal": "KILL"})),
            line("b", 3.0, "delete", "c", json!({"oom_kill": u64::MAX})),
            line("b", 3.1, "oom", "c", json!({})),
            line("b", 3.2, "exit", "c", json!({"mono_ns": u64::MAX})),
        ]);
        assert_eq!((told[0].ooms, told[0].end()), (u64::MAX, End::Killed));
    }

    #[test]
    fn an_exit_told_late_is_not_that_of_the_next_with_the_id() {
        let exit = line("b", 20.0, "exit", "c", json!({"exit": {"code": 3}}));
        let first =
            [line("b", 10.0, "create", "c", json!({})), line("b", 21.0, "delete", "c", json!({}))];
        let told = lives(&[&first[..], std::slice::from_ref(&exit)].concat());
        assert_eq!(told[0].exited, Some((20_000_000_000, Exit::Code(3))));
        let again = line("b", 90.0, "create", "c", json!({}));
        let told = lives(&[&first[..], &[again, exit]].concat());
        assert_eq!((told.len(), told[1].exited), (2, None));
    }

    /// A record at a second of a boot, with the fields of `more`.
    pub(crate) fn line(boot: &str, at_s: f64, verb: &str, id: &str, more: Value) -> String {
        let ms = (at_s * 1000.0) as u64;
        let time = format!(
            "2026-01-01T{:02}:{:02}:{:02}.{:03}Z",
            ms / 3_600_000,
            ms / 60_000 % 60,
            ms / 1000 % 60,
            ms % 1000
        );
        let mut record = json!({
            "v": 1, "boot_id": boot, "time": time, "mono_ns": (at_s * 1e9) as u64, "verb": verb,
            "id": id, "verdict": "ok", "exit": {"code": 0}, "attempts": 1,
        });
        for (key, value) in more.as_object().unwrap() {
            record[key] = value.clone();
        }
        record.to_string()
    }

    pub(crate) fn lives(lines: &[String]) -> Vec<Life> {
        let mut lives = Lives::default();
        for line in lines {
            let record: Record<'_> = serde_json::from_str(line).unwrap();
            lives.add(&record, unix_ms(&record.time).unwrap());
        }
        lives.all
    }

    fn life(boot: &str, from_s: f64, end: &[(f64, &str, Value)]) -> Vec<String> {
        let mut lines = vec![
            line(boot, from_s, "create", "c", json!({})),
            line(boot, from_s + 0.1, "start", "c", json!({})),
        ];
        lines.extend(
            end.iter().map(|(at, verb, more)| line(boot, from_s + at, verb, "c", more.clone())),
        );
        lines
    }

    #[test]
    fn an_id_used_again_is_another_life() {
        let term = json!({"signal": "15"});
        let mut lines = life("a", 10.0, &[(2.0, "kill", term.clone()), (3.0, "delete", json!({}))]);
        lines.extend(life("a", 20.0, &[(2.1, "kill", term), (3.0, "delete", json!({}))]));
        let lives = lives(&lines);
        assert_eq!(lives.iter().map(Life::end).collect::<Vec<_>>(), [End::Killed, End::Killed]);
        assert_eq!(lives[1].age_ns(), Some(2_000_000_000));
    }

    #[test]
    fn how_it_ended() {
        let exit = |code: i32| json!({"exit": {"code": code}, "source": "containerd"});
        let kill = || json!({"signal": "KILL"});
        let delete = |ooms: u64| json!({"oom_kill": ooms});
        for (end, story) in [
            (End::Open, vec![]),
            (End::ByItself, vec![(5.0, "delete", delete(0))]),
            (End::OutOfMemory, vec![(5.0, "delete", delete(1))]),
            (
                End::ByItself,
                vec![(4.0, "exit", exit(1)), (5.0, "kill", kill()), (5.1, "delete", delete(0))],
            ),
            (End::OutOfMemory, vec![(3.9, "oom", json!({})), (4.0, "exit", exit(137))]),
            (
                End::Killed,
                vec![(4.0, "kill", kill()), (4.1, "exit", exit(137)), (5.0, "delete", delete(0))],
            ),
            // SIGKILL with an immediate removal may be only a cleanup.
            (End::Unknown, vec![(4.0, "kill", kill()), (4.1, "delete", delete(0))]),
            (End::OutOfMemory, vec![(4.0, "kill", kill()), (4.1, "delete", delete(2))]),
        ] {
            let lives = lives(&life("a", 10.0, &story));
            assert_eq!(lives[0].end(), end, "{story:?}");
        }
    }

    #[test]
    fn a_boot_ends_all_lives_and_no_duration_spans_it() {
        let mut lines = life("a", 1000.0, &[]);
        lines.push(line("b", 5.0, "kill", "c", json!({"signal": "9"})));
        let lives = lives(&lines);
        assert_eq!(lives.len(), 2);
        assert_eq!((lives[0].end(), lives[0].age_ns()), (End::NodeRestart, None));
        assert_eq!((lives[1].started_ns, lives[1].age_ns()), (None, None));
    }

    #[test]
    fn only_a_command_that_has_ended_well_is_ready() {
        let detached = json!({"stages": {"run": 20.0}});
        let foreground =
            |code: i32| json!({"stages": {"run": 20.0, "started": 5.0}, "exit": {"code": code}});
        let told = |code: i32| json!({"exec_id": "e", "exit": {"code": code}});
        let ready = |story: &[(f64, &str, Value)]| {
            let life = lives(&life("a", 10.0, story)).remove(0);
            (life.knows_execs, life.ready_after_ns().map(|ns| ns / 1_000_000))
        };
        assert_eq!(ready(&[(1.0, "exec", detached)]), (false, None));
        assert_eq!(
            ready(&[(1.1, "exec", foreground(1)), (2.1, "exec", foreground(0))]),
            (true, Some(2000))
        );
        assert_eq!(ready(&[(1.1, "exit", told(1))]), (true, None));
        assert_eq!(ready(&[(1.1, "exit", told(0)), (2.1, "exit", told(0))]), (true, Some(1000)));
    }
}
