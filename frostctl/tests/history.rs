//! The recorder through its own restarts and containerd's; the timeline of a real container, while
//! it runs and at the end; and the numbers of a real journal.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use serde_json::Value;
use testkit::recorder::{Lab, eventually};

/// Ends with 7 when asked to, so that the test decides when.
const SEVEN: &str = "trap 'exit 7' TERM; >/dev/shm/ready; sleep 1000 & wait";

fn events(story: &Value) -> Vec<String> {
    let events = story["events"].as_array().unwrap().iter();
    events.map(|event| event["what"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn exits_are_recorded_through_restarts() {
    let mut lab = Lab::up();
    lab.run("pod", "before", None, SEVEN);
    lab.run("pod", "after", None, SEVEN);
    eventually("the recorder has waited for containerd, and it is ready", || {
        lab.probe("before", "p1")
    });
    eventually("the exec's end is recorded", || lab.recorded_exit("before", "p1") == Some(0));
    lab.kill("before", "SIGTERM");
    eventually("the exit is recorded", || lab.recorded_exit("before", "") == Some(7));

    lab.restart_containerd();
    lab.kill("after", "SIGTERM");
    eventually("an exit after the restart is recorded", || {
        lab.recorded_exit("after", "") == Some(7)
    });

    // conmon renames a file with the code to the container's name.
    std::fs::write(lab.exits().join(".x"), "3").unwrap();
    std::fs::rename(lab.exits().join(".x"), lab.exits().join("crio-1")).unwrap();
    eventually("conmon's exit is recorded", || lab.recorded_exit("crio-1", "") == Some(3));
    lab.stop_recorder();
    std::fs::write(lab.exits().join("crio-2"), "4\n").unwrap();
    lab.record();
    eventually("what it has missed is recorded", || lab.recorded_exit("crio-2", "") == Some(4));
    let of_conmon = |record: &&Value| record["source"] == "conmon" && record["id"] == "crio-1";
    assert_eq!(lab.records().iter().filter(of_conmon).count(), 1, "and nothing twice");
    lab.remove("before");
    lab.remove("after");
}

#[test]
fn a_life_is_told_as_it_goes_on_and_at_its_end() {
    let lab = Lab::up();
    lab.run("pod", "other", None, SEVEN);
    let mut follower = lab
        .command(&["history", "--follow", "--json", "told"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(follower.stdout.take().unwrap());
    std::thread::spawn(move || {
        stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    // --follow shows nothing at first: it prints later events when they come.
    lab.run("pod", "told", None, SEVEN);
    eventually("it is ready", || lab.probe("told", "p1"));
    for number in 0..3 {
        assert!(lab.probe("told", &format!("more-{number}")));
    }
    eventually("the exec's end is recorded", || lab.recorded_exit("told", "more-2") == Some(0));
    lab.kill("told", "SIGTERM");
    eventually("the exit is recorded", || lab.recorded_exit("told", "") == Some(7));
    lab.remove("told");

    let answer: Value =
        serde_json::from_str(&lab.frostctl(&["history", "--json", "told"])).unwrap();
    let [story] = &answer["lives"].as_array().unwrap()[..] else { panic!("{answer}") };
    let told = events(story);
    let order = ["created", "started", "first exec succeeded", "signalled", "exited", "removed"];
    let places: Vec<_> =
        order.iter().map(|what| told.iter().position(|it| it == what).expect(what)).collect();
    assert!(places.is_sorted(), "{told:?}");
    assert_eq!(story["end"], "killed");
    assert!(story["ready_after_s"].as_f64().unwrap() > 0.0);
    assert_eq!(story["pod"], "pod");
    // The overview has a line for each container, and the pod's history has both.
    let all: Value = serde_json::from_str(&lab.frostctl(&["history", "--json"])).unwrap();
    assert_eq!(all["lives"].as_array().unwrap().len(), 2);

    let mut followed = Vec::new();
    eventually("all was followed", || {
        followed.extend(lines.try_iter().map(|line| {
            let event: Value = serde_json::from_str(&line).unwrap();
            event["what"].as_str().unwrap().to_owned()
        }));
        told.iter().all(|what| followed.contains(what))
    });
    follower.kill().unwrap();
    follower.wait().unwrap();
    lab.kill("other", "SIGTERM");
    lab.remove("other");
    a_real_journal_in_numbers(&lab);
}

/// The same numbers as an independent computation's.
fn a_real_journal_in_numbers(lab: &Lab) {
    lab.carried();
    let jq = Command::new("jq")
        .args(["-s", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/numbers.jq")])
        .arg(lab.history().join("history.jsonl"))
        .output()
        .unwrap();
    let theirs: Value = serde_json::from_slice(&jq.stdout).unwrap();
    let report = lab.report();
    let ours = report["verbs"].as_array().unwrap();
    assert_eq!(ours.len(), theirs.as_array().unwrap().len());
    for (ours, theirs) in ours.iter().zip(theirs.as_array().unwrap()) {
        for key in ["verb", "count", "ok", "failures", "retries", "lifts"] {
            assert_eq!(ours[key], theirs[key], "{key}");
        }
        for key in ["p50_ms", "p95_ms", "p99_ms", "max_ms"] {
            let (ours, theirs) = (ours[key].as_f64().unwrap(), theirs[key].as_f64().unwrap());
            assert!((ours - theirs).abs() < 0.001, "{key}: {ours} and {theirs}");
        }
    }
}
