//! Stories as records, and the resulting report.

use serde_json::{Value, json};

use super::findings::Kind;
use super::{Analysis, Filter, Report};
use crate::journal::{Record, Skipped};
use crate::lives::tests::line;

fn report(lines: &[String]) -> Report {
    let mut analysis = Analysis::new(Filter::default());
    for line in lines {
        analysis.add(&serde_json::from_str::<Record<'_>>(line).unwrap());
    }
    analysis.finish(Skipped::default())
}

fn pod(name: &str) -> Value {
    json!({"namespace": "n", "name": name, "uid": name, "container": "main"})
}

/// One container of a pod whose life begins at a given second; `end` is relative to that.
fn life(pod_name: &str, from: f64, number: usize, end: &[(f64, &str, Value)]) -> Vec<String> {
    let id = format!("{pod_name}-{number}");
    let mut lines = vec![
        line("b", from, "create", &id, json!({"pod": pod(pod_name)})),
        line("b", from, "start", &id, json!({})),
    ];
    lines
        .extend(end.iter().map(|(age, verb, more)| line("b", from + age, verb, &id, more.clone())));
    lines
}

fn exit(code: i32) -> Value {
    json!({"exit": {"code": code}, "source": "containerd"})
}

fn probe(code: i32) -> Value {
    json!({"exec_id": "p", "exit": {"code": code}, "source": "containerd"})
}

fn term() -> Value {
    json!({"signal": "SIGTERM"})
}

/// Killed at these ages, never ready.
fn killed(ages: &[f64], story: impl Fn(f64) -> Vec<(f64, &'static str, Value)>) -> Vec<String> {
    let lives = ages.iter().enumerate();
    lives
        .flat_map(|(n, age)| {
            let mut events = story(*age);
            events.push((*age, "kill", term()));
            events.push((age + 0.1, "exit", exit(143)));
            events.push((age + 0.2, "delete", json!({"oom_kill": 0})));
            life("slow", 1000.0 * (n + 1) as f64, n, &events)
        })
        .collect()
}

fn kinds(report: &Report) -> Vec<Kind> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn killed_at_a_constant_age_and_never_ready_is_a_slow_start() {
    let report = report(&killed(&[300.0, 301.5, 299.0, 300.2, 302.0, 300.0, 300.0], |_| {
        vec![(60.0, "exit", probe(1)), (250.0, "exit", probe(1))]
    }));
    assert_eq!(kinds(&report), [Kind::SlowStart]);
    let finding = &report.findings[0];
    assert!(finding.summary.starts_with("killed 7 times at 300.0 +- 2.0 s and never once ready"));
    let probe = finding.probe.as_ref().unwrap();
    assert!(probe.is_lower_bound && probe.seconds >= 906, "{probe:?}");
}

#[test]
fn one_start_that_finished_refines_the_bound() {
    let mut lines = killed(&[10.0, 10.5, 9.8], |_| vec![(5.0, "exit", probe(1))]);
    lines.extend(life("slow", 9000.0, 9, &[(21.0, "exit", probe(0))]));
    let report = report(&lines);
    let probe = report.findings[0].probe.as_ref().unwrap();
    assert!(!probe.is_lower_bound);
    // 21 x 1.5 = 31.5
    assert_eq!(probe.seconds, 35);
}

#[test]
fn without_the_ends_of_execs_readiness_is_not_known() {
    let ages = [21_600.0, 21_601.0, 21_599.0, 21_600.0];
    let report = report(&killed(&ages, |_| vec![(1.0, "exec", json!({}))]));
    assert_eq!(kinds(&report), [Kind::KilledAtOneAge]);
    let finding = &report.findings[0];
    assert!(finding.summary.contains("readiness not known"), "{finding:?}");
    assert!(finding.probe.is_none() && !format!("{finding:?}").contains("has finished"));
}

#[test]
fn ready_long_before_the_kill_is_no_slow_start() {
    let report = report(&killed(&[100.0, 101.0, 100.0], |_| vec![(3.0, "exit", probe(0))]));
    assert_eq!(kinds(&report), [Kind::KilledWhenReady]);
    assert!(report.findings[0].probe.is_none());
}

#[test]
fn kills_at_any_age_are_somebodys_wish() {
    assert_eq!(kinds(&report(&killed(&[10.0, 700.0, 90.0, 3.0], |_| vec![]))), []);
    assert_eq!(kinds(&report(&killed(&[10.0, 10.0], |_| vec![]))), []);
}

#[test]
fn a_crash_loop_even_at_a_constant_age_and_cleaned_up_with_sigkill() {
    let kill = json!({"signal": "9"});
    let lines = (0..5).flat_map(|n| {
        let events =
            [(7.0, "exit", exit(1)), (7.2, "kill", kill.clone()), (7.3, "delete", json!({}))];
        life("crash", 100.0 * (n + 1) as f64, n, &events)
    });
    let report = report(&lines.collect::<Vec<_>>());
    assert_eq!(kinds(&report), [Kind::CrashLoop]);
    assert!(report.findings[0].evidence.iter().any(|it| it.contains("exit code 1 (5 times)")));
}

#[test]
fn an_oom_kill_with_and_without_records_of_exits() {
    let with = [
        (7.0, "oom", json!({})),
        (7.0, "exit", exit(137)),
        (7.3, "delete", json!({"oom_kill": 1})),
    ];
    let without = [(7.3, "delete", json!({"oom_kill": 1}))];
    for events in [&with[..], &without[..]] {
        let lines = (0..3).flat_map(|n| life("oom", 100.0 * (n + 1) as f64, n, events));
        assert_eq!(kinds(&report(&lines.collect::<Vec<_>>())), [Kind::OutOfMemory]);
    }
}

#[test]
fn a_node_restart_is_nobodys_crash() {
    let mut lines = Vec::new();
    for (n, boot) in ["b0", "b1", "b2", "b3"].iter().enumerate() {
        let id = format!("c{n}");
        lines.push(line(boot, 10.0, "create", &id, json!({"pod": pod("p")})));
        lines.push(line(boot, 10.1, "start", &id, json!({})));
    }
    let report = report(&lines);
    assert_eq!(kinds(&report), [Kind::NodeRestart]);
    assert!(report.findings[0].summary.starts_with("3 containers ended with 3 boots"));
}

#[test]
fn creates_that_failed_are_a_finding_however_many_went_well() {
    let refused = json!({"verdict": "failed", "exit": {"code": 1}, "note": "no such file",
        "pod": pod("bad")});
    let creates = (0..11).map(|n| match n {
        0..5 => line("b", 10.0 + f64::from(n), "create", &format!("c{n}"), refused.clone()),
        _ => line("b", 10.0 + f64::from(n), "create", &format!("c{n}"), json!({"pod": pod("p")})),
    });
    let mut lines: Vec<String> = creates.collect();
    let none = report(&lines[5..]);
    assert_eq!(kinds(&none), [], "the control");
    let found = report(&lines);
    assert_eq!(kinds(&found), [Kind::CreateFailed]);
    let finding = &found.findings[0];
    assert_eq!(finding.summary, "5 of 11 creates failed");
    assert_eq!(finding.evidence, ["create: failed, 5 times; the last was n/bad: no such file"]);
    // By the last attempt's failure; also a start, and a run whose program failed.
    let tries = json!({"verdict": "failed", "tries": [{"failure": "freeze failed in procHooks"}]});
    lines.push(line("b", 30.0, "create", "d", tries));
    lines.push(line("b", 31.0, "start", "c10", json!({"verdict": "killed"})));
    lines.push(line("b", 32.0, "run", "r", json!({"verdict": "failed", "exit": {"code": 1}})));
    let found = report(&lines);
    let finding = &found.findings[0];
    assert_eq!(finding.summary, "6 of 12 creates failed, 1 of 1 start failed");
    assert_eq!(
        finding.evidence[1..],
        [
            "create: freeze failed in procHooks, once; the last was d",
            "start: killed, once; the last was n/p"
        ]
    );
}

#[test]
fn one_is_one_and_two_are_two() {
    let said = |report: &Report| {
        let mut out = Vec::new();
        super::text::write(&mut out, report).unwrap();
        String::from_utf8(out).unwrap()
    };
    let one = said(&report(&[line("b", 10.0, "create", "c", json!({}))]));
    assert!(one.starts_with("1 operation of 1 container, 2026-01-01T00:00:10Z to "), "{one}");
    let two = said(&report(&life("p", 10.0, 0, &[])));
    assert!(two.starts_with("2 operations of 1 container, "), "{two}");
}

#[test]
fn nothing_since_then_is_no_time() {
    let mut analysis =
        Analysis::new(Filter { since_ms: Some(1_800_000_000_000), ..Filter::default() });
    let line = line("b", 10.0, "create", "c", json!({}));
    analysis.add(&serde_json::from_str::<Record<'_>>(&line).unwrap());
    let report = analysis.finish(Skipped::default());
    let mut out = Vec::new();
    super::text::write(&mut out, &report).unwrap();
    let (text, page) = (String::from_utf8(out).unwrap(), super::html::page(&report));
    assert!(text.starts_with("no operation since 2027-01-15T08:00:00Z\n"), "{text}");
    assert!(!text.contains("1970") && !page.contains("1970"), "{text}\n{page}");
}

#[test]
fn a_healthy_slow_starter_is_not_named() {
    let events = [(5.0, "exit", probe(1)), (25.0, "exit", probe(0)), (3000.0, "exit", probe(0))];
    assert_eq!(kinds(&report(&life("healthy", 100.0, 0, &events))), []);
}

#[test]
fn probes_that_met_resizes() {
    let update = json!({"stages": {"run": 200.0}});
    let refused = json!({"stages": {"run": 5.0}, "verdict": "failed", "tries":
        [{"ms": 5.0, "failure": "refused as paused"}]});
    let events = [(5.0, "exec", refused), (5.1, "update", update), (6.0, "exec", json!({}))];
    let report = report(&life("probed", 100.0, 0, &events));
    assert_eq!(kinds(&report), [Kind::CompetingProbes]);
    assert_eq!(report.findings[0].summary, "1 of 2 execs met the one update");
}

#[test]
fn a_slow_start_says_what_was_done_for_it() {
    let quota = json!({"container": {"quota_us": 1000, "period_us": 100_000}, "pod": null});
    let start = |more: Value| {
        let mut start = json!({"stages": {"run": 900.0}, "quota": quota, "pod": pod("p")});
        start.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        report(&[line("b", 10.0, "create", "c", start)])
    };
    for (more, said) in [
        (json!({}), "not lifted: see lift.enabled and mode in the configuration"),
        (
            json!({"lifts": [{"whose": "runtime", "cpu_ms": 50.0, "ended": "operation limit"}]}),
            "lifted for 50.0 ms of CPU, until: operation limit",
        ),
        (json!({"lift_refused": "RT_GROUP_SCHED"}), "not lifted: RT_GROUP_SCHED"),
        (
            json!({"refills": [{"reason": "start", "gained_ms": 70.0, "ended": "done"}]}),
            "refilled (earlier version), 70 ms of CPU gained",
        ),
    ] {
        let found = start(more);
        let slow = &found.findings[0];
        assert_eq!((slow.kind, &*slow.evidence[1]), (Kind::ThrottledStart, said));
    }
}

#[test]
fn what_the_kernel_refuses_is_the_nodes() {
    let refused = json!({"lift_refused": "RT_GROUP_SCHED"});
    let lines = life("p", 100.0, 0, &[(1.0, "exec", refused.clone()), (2.0, "kill", refused)]);
    let report = report(&lines);
    assert_eq!(kinds(&report), [Kind::LiftRefused]);
    assert_eq!(report.findings[0].evidence, ["RT_GROUP_SCHED: 2"]);
}

#[test]
fn a_lift_that_outlived_its_operation_changes_no_life() {
    let lift = |of: &str| {
        json!({"of": of, "verdict": null, "exit": null,
        "lifts": [{"whose": "program", "threads": 2, "cpu_ms": 8.0, "ended": "done"}]})
    };
    let events = [
        (1.0, "exec", json!({})),
        (1.5, "lift", lift("exec")),
        (5.0, "kill", term()),
        (5.1, "delete", json!({})),
        (5.2, "lift", lift("kill")),
    ];
    let without: Vec<_> = events.iter().filter(|(_, verb, _)| *verb != "lift").cloned().collect();
    let (with, without) =
        (report(&life("p", 100.0, 0, &events)), report(&life("p", 100.0, 0, &without)));
    let counts = |report: &Report| {
        let failed: u64 = report.numbers.verbs.iter().map(|it| it.failed() + it.retries).sum();
        (report.numbers.operations, report.containers, failed, report.findings.len())
    };
    assert_eq!(counts(&with), counts(&without));
    assert_eq!(counts(&with), (5, 1, 0, 0));
    assert_eq!(with.numbers.verbs.iter().map(|verb| verb.lifted_ms).sum::<f64>(), 16.0);
}

#[test]
fn the_filter_holds_for_records_that_do_not_name_the_pod() {
    let mut lines = killed(&[10.0, 10.5, 9.8], |_| vec![]);
    lines.extend(life("other", 5000.0, 0, &[(1.0, "kill", term())]));
    let mut analysis = Analysis::new(Filter { pod: Some("n/other".into()), ..Filter::default() });
    for line in &lines {
        analysis.add(&serde_json::from_str::<Record<'_>>(line).unwrap());
    }
    let report = analysis.finish(Skipped::default());
    assert_eq!((report.numbers.operations, report.containers, report.findings.len()), (3, 1, 0));
}
