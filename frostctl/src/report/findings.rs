//! Findings from the lives of containers. docs/report.md says how each is decided.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::contention::{Contention, Contentions};
use super::failed::Failed;
use super::probe::{self, Budget};
use crate::lives::{End, Life, Names};
use crate::output::count;

/// Fewer are an accident.
const AGAIN: usize = 3;

/// Ages at the kill are constant if nearly all are this near to the median. The tolerance is a
/// tenth, but at least a second, since a probe's phase and its timeout vary by that much.
const CONSTANT_SHARE: f64 = 0.1;
const CONSTANT_S: f64 = 1.0;
const NEARLY_ALL: f64 = 0.8;

/// A container that is ready within this share of the age at the kill had a fast enough start.
const IN_TIME: f64 = 0.5;

/// The number of bars that fit into a plot.
const BARS: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    CreateFailed,
    SlowStart,
    KilledAtOneAge,
    KilledWhenReady,
    OutOfMemory,
    CrashLoop,
    CompetingProbes,
    ThrottledStart,
    LiftRefused,
    NodeRestart,
}

impl Kind {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Kind::CreateFailed => "containers that could not be created or started",
            Kind::SlowStart => "slow start, killed by its probe",
            Kind::KilledAtOneAge => "killed again and again at the same age",
            Kind::KilledWhenReady => "killed again and again after it was ready",
            Kind::OutOfMemory => "runs out of memory again and again",
            Kind::CrashLoop => "ends by itself again and again",
            Kind::CompetingProbes => "exec probes compete with resizes",
            Kind::ThrottledStart => "starts are slowed down by a small CPU limit",
            Kind::LiftRefused => "threads that wait for a CPU cannot be lifted here",
            Kind::NodeRestart => "the node restarted",
        }
    }
}

/// One life in a plot.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Bar {
    pub(crate) age_s: f64,
    pub(crate) ready_s: Option<f64>,
    pub(crate) end: &'static str,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    pub(crate) title: &'static str,
    #[serde(flatten)]
    pub(crate) names: Names,
    pub(crate) summary: String,
    pub(crate) evidence: Vec<String>,
    pub(crate) advice: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) probe: Option<Budget>,
    pub(crate) lives: Vec<Bar>,
}

/// One container of one pod, with all its restarts; without a pod, one id.
struct Group<'a> {
    names: Names,
    lives: Vec<(&'a Life, Contention)>,
}

pub(crate) fn find(
    lives: &[(usize, &Life)],
    contentions: &Contentions,
    lift_refused: &BTreeMap<String, u64>,
) -> Vec<Finding> {
    let mut groups: BTreeMap<Names, Group<'_>> = BTreeMap::new();
    for (index, life) in lives {
        let names = names_of(life);
        let group =
            groups.entry(names.clone()).or_insert_with(|| Group { names, lives: Vec::new() });
        group.lives.push((life, contentions.of(*index)));
    }
    let starts = measured_starts(lives);
    let mut findings = Vec::new();
    findings.extend(groups.values().filter_map(|group| group.restarts(&starts)));
    for workload in workloads(&groups) {
        findings.extend(workload.competing());
        findings.extend(workload.throttled());
    }
    findings.extend(refused(lift_refused));
    findings.extend(node_restarts(lives));
    findings.sort_by(|a, b| a.kind.cmp(&b.kind).then(a.names.cmp(&b.names)));
    findings
}

/// A finding for the node: its evidence tells which containers are hit.
pub(crate) fn failed(failed: &Failed, lives: &[Life]) -> Option<Finding> {
    let summary = failed.summary()?;
    let mut causes: Vec<_> = failed.causes.iter().collect();
    causes.sort_by_key(|(_, cause)| std::cmp::Reverse(cause.count));
    let more = causes.len().saturating_sub(BARS);
    let mut evidence: Vec<String> = causes
        .iter()
        .take(BARS)
        .map(|((verb, why), cause)| {
            let whose = lives.get(cause.last).map_or_else(String::new, Life::pod_or_id);
            let said = if cause.note.is_empty() { "" } else { ": " };
            let (count, note) = (times(cause.count as usize), &cause.note);
            format!("{verb}: {why}, {count}; the last was {whose}{said}{note}")
        })
        .collect();
    if more > 0 {
        evidence.push(format!("and {more} more causes"));
    }
    let advice =
        "the runtime's error is the caller's, too: see the pod's events, or containerd's log";
    Some(Finding::of_node(Kind::CreateFailed, summary, evidence, &[advice]))
}

impl Finding {
    /// About the node or its configuration; [`Group::finding`] is about a container.
    fn of_node(kind: Kind, summary: String, evidence: Vec<String>, advice: &[&str]) -> Finding {
        Finding {
            kind,
            title: kind.title(),
            names: Names::default(),
            summary,
            evidence,
            advice: advice.iter().map(|it| (*it).to_owned()).collect(),
            probe: None,
            lives: Vec::new(),
        }
    }
}

/// Merges the pods of a workload, so that each finding is reported once.
fn workloads<'a>(pods: &BTreeMap<Names, Group<'a>>) -> Vec<Group<'a>> {
    let mut workloads: BTreeMap<Container, Group<'a>> = BTreeMap::new();
    for (names, pod) in pods {
        let key = container(names);
        let several = Names { pod: format!("{}-*", key.1), uid: String::new(), ..names.clone() };
        match workloads.get_mut(&key) {
            Some(workload) => {
                workload.names = several;
                workload.lives.extend(pod.lives.iter().cloned());
            }
            None => {
                let first = Group { names: names.clone(), lives: pod.lives.clone() };
                workloads.insert(key, first);
            }
        }
    }
    workloads.into_values().collect()
}

/// A container without a pod has only its id.
fn names_of(life: &Life) -> Names {
    let mut names = life.names.clone();
    if names.pod.is_empty() {
        names.container = life.id.clone();
    }
    names
}

/// Seconds to readiness by container: the pods of one deployment start alike.
type Starts = BTreeMap<Container, Vec<f64>>;

/// Namespace, workload and name of the container.
type Container = (String, String, String);

fn container(names: &Names) -> Container {
    (names.namespace.clone(), workload(&names.pod).to_owned(), names.container.clone())
}

/// A pod's name without the part from its controller: the number of a StatefulSet, or five letters,
/// which follow the hash of a Deployment. Kubernetes leaves vowels out of both.
fn workload(pod: &str) -> &str {
    const LETTERS: &str = "bcdfghjklmnpqrstvwxz2456789";
    let is_made = |part: &str| part.chars().all(|c| LETTERS.contains(c));
    let Some((rest, last)) = pod.rsplit_once('-') else { return pod };
    if !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) {
        return rest;
    }
    if last.len() != 5 || !is_made(last) {
        return pod;
    }
    match rest.rsplit_once('-') {
        Some((deployment, hash)) if (8..=10).contains(&hash.len()) && is_made(hash) => deployment,
        _ => rest,
    }
}

fn measured_starts(lives: &[(usize, &Life)]) -> Starts {
    let mut starts = Starts::new();
    for (_, life) in lives {
        if let Some(ns) = life.ready_after_ns() {
            starts.entry(container(&names_of(life))).or_default().push(ns as f64 / 1e9);
        }
    }
    starts
}

impl Group<'_> {
    fn of_end(&self, end: End) -> Vec<&Life> {
        self.lives.iter().map(|(life, _)| *life).filter(|life| life.end() == end).collect()
    }

    /// A finding about its most common end, if that happened several times.
    fn restarts(&self, starts: &Starts) -> Option<Finding> {
        let counted =
            [End::Killed, End::OutOfMemory, End::ByItself].map(|end| (self.of_end(end), end));
        let (lives, end) = counted.into_iter().max_by_key(|(lives, _)| lives.len())?;
        if lives.len() < AGAIN {
            return None;
        }
        match end {
            End::Killed => self.killed(&lives, starts),
            End::OutOfMemory => Some(self.out_of_memory(&lives)),
            _ => Some(self.crash_loop(&lives)),
        }
    }

    fn killed(&self, lives: &[&Life], starts: &Starts) -> Option<Finding> {
        let ages: Vec<f64> = ages(lives);
        let median = median(&ages)?;
        let near = (median * CONSTANT_SHARE).max(CONSTANT_S);
        let constant: Vec<f64> =
            ages.iter().copied().filter(|age| (age - median).abs() <= near).collect();
        if constant.len() < AGAIN || (constant.len() as f64) < ages.len() as f64 * NEARLY_ALL {
            return None;
        }
        let in_time = |life: &&&Life| {
            life.ready_after_ns().is_some_and(|ns| (ns as f64 / 1e9) < median * IN_TIME)
        };
        if lives.iter().filter(in_time).count() * 2 > lives.len() {
            return Some(self.killed_when_ready(lives, median));
        }
        // If no exec's end is known, the container may have been ready all the time.
        if !lives.iter().any(|life| life.knows_execs) {
            return Some(self.killed_at_one_age(lives, &constant, median));
        }
        Some(self.slow_start(lives, &constant, median, starts))
    }

    fn slow_start(
        &self,
        lives: &[&Life],
        constant: &[f64],
        median: f64,
        starts: &Starts,
    ) -> Finding {
        let measured = starts.get(&container(&self.names)).map_or(&[][..], Vec::as_slice);
        let slowest = self.lives.iter().map(|(_, it)| it.slowest_exec_ms).fold(0.0, f64::max);
        let budget = probe::budget(measured, constant, slowest);
        let known = lives.iter().filter(|life| life.knows_execs).count();
        let late = lives.iter().filter(|life| life.ready_ns.is_some()).count();
        let readiness = match late {
            0 => "never once ready".to_owned(),
            late => format!("ready late {}", times(late)),
        };
        let spread = spread(constant, median);
        let summary = format!(
            "killed {} at {median:.1} +- {spread:.1} s and {readiness}: a probe, not a crash",
            of_all(constant.len(), lives.len())
        );
        let ready = if late == 0 { "none".to_owned() } else { late.to_string() };
        let evidence = vec![
            format!("ages at the kill: {}", list(&ages(lives))),
            format!("signals: {}", signals(lives)),
            exit_evidence(lives),
            format!(
                "of {} whose execs are known, {ready} had one that succeeded",
                count(known as u64, "life", "lives")
            ),
        ];
        let numbers = "give it a startupProbe with these numbers: until it succeeds, the liveness \
                       probe is not asked";
        let log = "log the stages of the start, so that a kill in the middle shows in the \
                   container's own log";
        let advice = if budget.is_some() { &[numbers, log][..] } else { &[log] };
        Finding { probe: budget, ..self.finding(Kind::SlowStart, summary, evidence, advice) }
    }

    /// No numbers for a probe: that the start was slow is only a guess.
    fn killed_at_one_age(&self, lives: &[&Life], constant: &[f64], median: f64) -> Finding {
        let spread = spread(constant, median);
        let summary = format!(
            "killed {} at {median:.1} +- {spread:.1} s; readiness not known",
            of_all(constant.len(), lives.len())
        );
        let evidence = vec![
            format!("ages at the kill: {}", list(&ages(lives))),
            format!("signals: {}", signals(lives)),
            exit_evidence(lives),
            "whether it was ready is not known: no exec's end was recorded. HTTP, TCP and gRPC \
             probes do not pass through the wrapper, and only `frostctl record` records how \
             containerd's execs end"
                .into(),
        ];
        let advice = [
            "see the pod's events for who kills it: a probe during a slow start, a probe that fails \
             later, a deadline or a rollout can all have one age",
            "if it is a probe during the start, give it a startupProbe",
        ];
        self.finding(Kind::KilledAtOneAge, summary, evidence, &advice)
    }

    fn killed_when_ready(&self, lives: &[&Life], median: f64) -> Finding {
        let summary = format!(
            "killed {} times at about {median:.1} s, but ready long before: not the start",
            lives.len()
        );
        let evidence = vec![
            format!("ages at the kill: {}", list(&ages(lives))),
            format!("seconds to the first exec that succeeded: {}", list(&ready(lives))),
            format!("signals: {}", signals(lives)),
        ];
        let advice = "see why its liveness probe fails later, or who else kills it";
        self.finding(Kind::KilledWhenReady, summary, evidence, &[advice])
    }

    fn out_of_memory(&self, lives: &[&Life]) -> Finding {
        let summary = format!("ended {} times with an OOM kill in its cgroup", lives.len());
        let evidence = vec![format!("ages: {}", list(&ages(lives))), exit_evidence(lives)];
        let advice = "raise its memory limit, or find what takes the memory";
        self.finding(Kind::OutOfMemory, summary, evidence, &[advice])
    }

    fn crash_loop(&self, lives: &[&Life]) -> Finding {
        let summary =
            format!("ended {} times before anybody killed it: a crash, not a probe", lives.len());
        let evidence = vec![format!("ages: {}", list(&ages(lives))), exit_evidence(lives)];
        self.finding(Kind::CrashLoop, summary, evidence, &["see the container's own log"])
    }

    fn competing(&self) -> Option<Finding> {
        let sum = |of: fn(&Contention) -> u64| self.lives.iter().map(|(_, it)| of(it)).sum::<u64>();
        let (refused, delayed, during) =
            (sum(|it| it.refused), sum(|it| it.delayed), sum(|it| it.during_updates));
        if during == 0 || (refused == 0 && during < AGAIN as u64) {
            return None;
        }
        let (execs, updates) = (sum(|it| it.execs), sum(|it| it.updates));
        let longest = self.lives.iter().map(|(_, it)| it.longest_wait_ms).fold(0.0, f64::max);
        let slowest = self.lives.iter().map(|(_, it)| it.slowest_exec_ms).fold(0.0, f64::max);
        let execs = count(execs, "exec", "execs");
        let met = match updates {
            1 => "the one update".to_owned(),
            many => format!("one of {many} updates"),
        };
        let summary = format!("{during} of {execs} met {met}");
        let evidence = vec![
            format!("execs refused as paused: {refused}, that waited for the lock: {delayed}"),
            format!("longest wait {longest:.0} ms; the slowest exec took {slowest:.0} ms"),
        ];
        let timeout = ((slowest * 2.0 / 1000.0).ceil() as u64).max(1);
        let advice = [
            "an HTTP, TCP or gRPC probe does not enter the container and meets no resize",
            &format!("with exec, timeoutSeconds {timeout} at least: twice what the slowest took"),
        ];
        Some(self.finding(Kind::CompetingProbes, summary, evidence, &advice))
    }

    fn throttled(&self) -> Option<Finding> {
        let slow: Vec<_> = self.lives.iter().filter_map(|(_, it)| it.slow_start.clone()).collect();
        let worst = slow.iter().max_by(|a, b| a.took_ms.total_cmp(&b.took_ms))?;
        let summary = format!(
            "{} of {} took {:.0} ms and more with a limit of {:.0}m CPU",
            slow.len(),
            count(self.lives.len() as u64, "start", "starts"),
            slow.iter().map(|it| it.took_ms).fold(f64::INFINITY, f64::min),
            worst.cpus * 1000.0
        );
        let slowest = format!("the slowest: {} took {:.0} ms", worst.verb, worst.took_ms);
        let evidence = vec![slowest, worst.help.clone()];
        let advice = [
            "where it is not lifted, the runtime's own work waits for the container's quota: some \
             20 ms of CPU a start",
            "for what has to start fast: a CPU limit of 50m or more, or none",
        ];
        Some(self.finding(Kind::ThrottledStart, summary, evidence, &advice))
    }

    fn finding(
        &self,
        kind: Kind,
        summary: String,
        evidence: Vec<String>,
        advice: &[&str],
    ) -> Finding {
        let is_of_lives = !matches!(kind, Kind::CompetingProbes | Kind::ThrottledStart);
        let lives = if is_of_lives { self.bars() } else { Vec::new() };
        let evidence = evidence.into_iter().filter(|line| !line.is_empty()).collect();
        let names = self.names.clone();
        Finding { names, lives, ..Finding::of_node(kind, summary, evidence, advice) }
    }

    /// Of its last lives.
    fn bars(&self) -> Vec<Bar> {
        let bar = |life: &Life| {
            let lasted = || Some(life.last_ns.saturating_sub(life.started_ns?));
            Some(Bar {
                age_s: life.age_ns().or_else(lasted)? as f64 / 1e9,
                ready_s: life.ready_after_ns().map(|ns| ns as f64 / 1e9),
                end: life.end().as_str(),
            })
        };
        let mut bars: Vec<Bar> = self.lives.iter().filter_map(|(life, _)| bar(life)).collect();
        bars.split_off(bars.len().saturating_sub(BARS))
    }
}

fn refused(by_reason: &BTreeMap<String, u64>) -> Option<Finding> {
    let operations: u64 = by_reason.values().sum();
    let summary = format!("threads waited and were not lifted: {}", times(operations as usize));
    let evidence = by_reason.iter().map(|(why, count)| format!("{why}: {count}")).collect();
    let advice = "`frostctl doctor --check lift` tries it and names the ways out";
    let finding = || Finding::of_node(Kind::LiftRefused, summary, evidence, &[advice]);
    (operations > 0).then(finding)
}

fn node_restarts(lives: &[(usize, &Life)]) -> Option<Finding> {
    let ended = lives.iter().filter(|(_, life)| life.end() == End::NodeRestart);
    let boots: BTreeSet<_> = ended.clone().map(|(_, life)| &life.boot).collect();
    let summary = format!(
        "{} ended with {} of the machine: no crash of theirs, no probe",
        count(ended.count() as u64, "container", "containers"),
        count(boots.len() as u64, "boot", "boots")
    );
    let evidence: Vec<_> = boots.iter().map(|boot| format!("boot {boot} ended")).collect();
    (!boots.is_empty()).then(|| Finding::of_node(Kind::NodeRestart, summary, evidence, &[]))
}

fn ages(lives: &[&Life]) -> Vec<f64> {
    lives.iter().filter_map(|life| life.age_ns()).map(|ns| ns as f64 / 1e9).collect()
}

fn ready(lives: &[&Life]) -> Vec<f64> {
    lives.iter().filter_map(|life| life.ready_after_ns()).map(|ns| ns as f64 / 1e9).collect()
}

fn spread(ages: &[f64], median: f64) -> f64 {
    ages.iter().map(|age| (age - median).abs()).fold(0.0, f64::max)
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    super::tally::percentile(&values, 0.5)
}

fn list(seconds: &[f64]) -> String {
    let shown: Vec<_> = seconds.iter().take(BARS).map(|value| format!("{value:.1}")).collect();
    let more = if seconds.len() > BARS { " ..." } else { "" };
    format!("{}{more} s", shown.join(", "))
}

pub(super) fn times(count: usize) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn of_all(count: usize, all: usize) -> String {
    if count == all { times(all) } else { format!("{}, {count} of them", times(all)) }
}

fn counted<T: Ord + std::fmt::Display>(values: impl Iterator<Item = T>) -> String {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    let counts = counts.into_iter().map(|(value, count)| format!("{value} ({})", times(count)));
    counts.collect::<Vec<_>>().join(", ")
}

fn signals(lives: &[&Life]) -> String {
    let signals = lives.iter().filter_map(|life| life.killed.as_ref());
    counted(signals.map(|(_, signal)| crate::timeline::signal(signal)))
}

fn exit_evidence(lives: &[&Life]) -> String {
    let exits = lives.iter().filter_map(|life| life.exited);
    let told = counted(exits.map(|(_, exit)| crate::timeline::exit(Some(exit))));
    match told.is_empty() {
        true => "exit codes: not recorded; `frostctl record` records them".into(),
        false => told,
    }
}

#[cfg(test)]
mod tests {
    use super::workload;

    #[test]
    fn pods_of_one_workload() {
        for (pod, of) in [
            ("host-7d4b9c6f5d-x2x9k", "host"),
            ("my-host-7d4b9c6f5d-x2x9k", "my-host"),
            ("agent-x2x9k", "agent"),
            ("db-0", "db"),
            ("web", "web"),
            ("web-frontend", "web-frontend"),
            ("a-house", "a-house"),
        ] {
            assert_eq!(workload(pod), of);
        }
    }
}
