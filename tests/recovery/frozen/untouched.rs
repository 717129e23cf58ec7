//! The failures of kill, delete and state keep the runtime's exact text, since callers match on it.

use testkit::scene::{Ended, HANGS, Log, Scene, Via};

/// In all of these, `c` is a container in which a task does not freeze, or one that has ended.
const FAILURES: &[(&[&str], &str)] = &[
    (&["state", "nobody"], "does not exist"),
    (&["kill", "nobody", "KILL"], "does not exist"),
    (&["delete", "nobody"], "does not exist"),
    (&["pause", "nobody"], "does not exist"),
    (&["update", "--pids-limit", "77", "nobody"], "does not exist"),
    (&["kill", "c", "NOSUCH"], "unknown signal"),
    (&["delete", "c"], "is not stopped"),
    (&["resume", "c"], "not paused"),
    (&["start", "c"], "start"),
];

const OF_ONE_THAT_HAS_ENDED: &[(&[&str], &str)] = &[
    (&["kill", "c", "TERM"], "not running"),
    (&["pause", "c"], "not running"),
    (&["exec", "c", "true"], "stopped container"),
];

#[test]
fn a_container_with_a_task_that_does_not_freeze() {
    for name in ["runc-1.1.5", "runc-1.5.3"] {
        compare(name, &Scene::stubborn(name), FAILURES);
    }
}

#[test]
fn a_container_that_has_ended() {
    for name in ["runc-1.1.5", "runc-1.5.3"] {
        let scene = Scene::idle(name);
        scene.must(Via::Bare, &["kill", "c", "KILL"]);
        testkit::eventually(HANGS, "its end", || scene.status(Via::Bare) == "stopped");
        compare(name, &scene, OF_ONE_THAT_HAS_ENDED);
    }
}

fn compare(name: &str, scene: &Scene, failures: &[(&[&str], &str)]) {
    for (words, text) in failures {
        for log in [Log::Json, Log::Text, Log::None] {
            let bare = scene.give_logged(Via::Bare, log, words, HANGS);
            let said = [bare.log.as_str(), &bare.stderr].concat();
            assert!(bare.code != Some(0) && said.contains(text), "not shown: {words:?} {bare:?}");
            let wrapped = scene.give_logged(Via::Wrapped, log, words, HANGS);
            assert_eq!(without_times(&wrapped), without_times(&bare), "{name} {words:?} {log:?}");
        }
    }
}

/// Everything that a caller sees, except the times.
fn without_times(ended: &Ended) -> (Option<i32>, String, String, String) {
    let messages = |text: &str| -> String {
        let lines =
            text.lines().map(|line| match serde_json::from_str::<serde_json::Value>(line) {
                Ok(entry) => format!("{} {}\n", entry["level"], entry["msg"]),
                Err(_) if line.starts_with("time=") => {
                    format!("{}\n", line.split_once(' ').unwrap_or_default().1)
                }
                Err(_) => format!("{line}\n"),
            });
        lines.collect()
    };
    (ended.code, ended.stdout.clone(), messages(&ended.stderr), messages(&ended.log))
}
