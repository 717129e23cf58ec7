//! A service that takes longer to start than its probe allows, five times; beside it a crash loop,
//! a container that runs out of memory, and an equally slow one that is not killed. The report
//! names each, and with its numbers the service comes up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::recorder::{Lab, eventually};

/// Like a service that binds its devices, and then reports that it is ready. PID 1 of a container
/// gets no SIGTERM without a handler.
fn service(needs: Duration) -> String {
    format!(
        "trap 'exit 143' TERM; sleep {} & wait $!; >/dev/shm/ready; sleep 1000 & wait",
        needs.as_secs()
    )
}

struct Times {
    needs: Duration,
    killed_at: Duration,
    probed_every: Duration,
}

fn times() -> Times {
    let s = Duration::from_secs;
    match std::env::var_os("FROSTLOCK_PROOF") {
        Some(_) => Times { needs: s(20), killed_at: s(10), probed_every: s(2) },
        None => Times { needs: s(4), killed_at: s(2), probed_every: Duration::from_millis(500) },
    }
}

/// One start as kubelet sees it: probed until it is ready, killed if that takes longer than the
/// limit. Returns how long it took.
fn start(lab: &Lab, pod: &str, id: &str, times: &Times, limit: Duration) -> Option<Duration> {
    lab.run(pod, id, None, &service(times.needs));
    let began = Instant::now();
    for number in 0.. {
        let next = times.probed_every * (number + 1);
        std::thread::sleep(next.min(limit).saturating_sub(began.elapsed()));
        if began.elapsed() >= limit {
            break;
        }
        if lab.probe(id, &format!("probe-{number}")) {
            return Some(began.elapsed());
        }
    }
    lab.kill(id, "SIGTERM");
    lab.remove(id);
    None
}

fn is_left_in_peace(lab: &Lab, times: &Times) {
    assert!(start(lab, "healthy", "healthy-1", times, Duration::from_secs(600)).is_some());
    lab.kill("healthy-1", "SIGTERM");
    lab.remove("healthy-1");
}

fn crashes(lab: &Lab) {
    for number in 0..4 {
        let id = format!("crash-{number}");
        lab.run("crash", &id, None, "sleep 1; exit 3");
        lab.remove(&id);
    }
}

fn runs_out_of_memory(lab: &Lab) {
    for number in 0..3 {
        let id = format!("hungry-{number}");
        lab.run("hungry", &id, Some(16 << 20), "sleep 1; exec tail /dev/zero");
        lab.remove(&id);
    }
}

fn findings(report: &Value) -> Vec<(String, String)> {
    let findings = report["findings"].as_array().unwrap().iter();
    let named = findings.map(|it| (it["kind"].as_str().unwrap(), it["pod"].as_str().unwrap()));
    named.map(|(kind, pod)| (kind.to_owned(), pod.to_owned())).collect()
}

#[test]
fn each_is_named_rightly_and_the_numbers_hold() {
    let (lab, times) = (Lab::up(), times());
    std::thread::scope(|scope| {
        scope.spawn(|| crashes(&lab));
        scope.spawn(|| runs_out_of_memory(&lab));
        scope.spawn(|| is_left_in_peace(&lab, &times));
        for number in 0..5 {
            let id = format!("slow-{number}");
            assert_eq!(
                start(&lab, "slow", &id, &times, times.killed_at),
                None,
                "not shown: it came up"
            );
        }
    });
    eventually("the exits are recorded", || {
        ["slow-4", "crash-3", "hungry-2", "healthy-1"]
            .iter()
            .all(|id| lab.recorded_exit(id, "").is_some())
    });
    let report = lab.report();
    println!("{}", lab.frostctl(&["report"]));
    let expected = [("slow-start", "slow"), ("out-of-memory", "hungry"), ("crash-loop", "crash")];
    let expected = expected.map(|(kind, pod)| (kind.to_owned(), pod.to_owned()));
    assert_eq!(findings(&report), expected);
    let slow = &report["findings"][0];
    assert!(slow["summary"].as_str().unwrap().starts_with("killed 5 times at "), "{slow}");
    assert!(slow["summary"].as_str().unwrap().contains("never once ready"), "{slow}");

    // The start of another pod's container does not count: the two share only the name.
    assert_eq!(slow["probe"]["is_lower_bound"], true);
    let budget = Duration::from_secs(slow["probe"]["seconds"].as_u64().unwrap());
    let took =
        start(&lab, "slow", "slow-5", &times, budget).expect("it comes up in the time given");
    println!("with a startupProbe of {budget:?} it was ready after {took:?}");
    eventually("its end is recorded", || {
        lab.report()["findings"][0]["probe"]["is_lower_bound"] == false
    });
    println!("{}", lab.frostctl(&["report", "--pod", "slow"]));
    println!("{}", lab.frostctl(&["history", "slow-5"]));
    println!("{}", lab.frostctl(&["history", "default/crash"]));
    lab.kill("slow-5", "SIGTERM");
    lab.remove("slow-5");
    // For a picture of the page.
    if let Some(path) = std::env::var_os("FROSTLOCK_KEEP_JOURNAL") {
        lab.carried();
        std::fs::copy(lab.history().join("history.jsonl"), path).unwrap();
    }
}
