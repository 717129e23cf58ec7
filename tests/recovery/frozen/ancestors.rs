//! Somebody else has frozen a cgroup further up: frostlock does not thaw it, nothing waits longer
//! than it would without frostlock, and a failure names it.

use std::time::Duration;

use testkit::eventually;
use testkit::scene::{self, Ended, Freezer, HANGS, Log, Scene, Via, report};

use super::{CONFIRM, RETRIES, ended_within, ms, names_the_task};

const COMMANDS: [&[&str]; 4] = [
    &["update", "--cpu-share", "0", "c"],
    &["state", "c"],
    &["exec", "c", "true"],
    &["pause", "c"],
];

#[test]
fn on_v1() {
    for name in ["runc-1.1.5", "runc-1.5.3"] {
        compare(name);
    }
}

#[test]
fn with_v2() {
    scene::on_v2("ancestors::on_v2");
}

#[test]
#[ignore = "run on cgroup v2 by the test that is named like it"]
fn on_v2() {
    for name in ["runc-1.1.5", "runc-1.5.3", "crun-1.28"] {
        compare(name);
    }
}

/// Each command in its own scene: a pause that succeeds also leaves the container itself frozen.
fn compare(name: &str) {
    std::thread::scope(|scope| {
        for words in COMMANDS {
            scope.spawn(move || compare_one(name, words));
        }
    });
}

fn compare_one(name: &str, words: &[&str]) {
    let bare = with_frozen_parent(name, Via::Bare, words);
    let wrapped = with_frozen_parent(name, Via::Wrapped, words);
    report!(
        "{name} {words:?}: bare {:?} in {}, wrapped {:?} in {}",
        bare.code,
        ms(bare.took),
        wrapped.code,
        ms(wrapped.took)
    );
    assert_eq!(wrapped.code, bare.code, "{name} {words:?}: {bare:?}, {wrapped:?}");
    if bare.code.is_some() {
        ended_within(&wrapped, bare.took + RETRIES);
    }
    // A pause that finds everything frozen succeeds, and an exec freezes with the others: the
    // freeze makes none of these fail, so there is nothing to explain.
    let (theirs, ours) = (bare.containerd_reads(), wrapped.containerd_reads());
    assert_eq!(ours, theirs, "{name} {words:?}");
}

fn with_frozen_parent(name: &str, via: Via, words: &[&str]) -> Ended {
    let scene = Scene::idle(name);
    let parent = Freezer::of(&scene.scratch.cgroup);
    parent.freeze();
    eventually(HANGS, "it freezes", || scene.freezer().is_frozen());
    assert!(!scene.freezer().is_asked_for(), "not shown");
    // Bare runc and crun hang in an exec: its process freezes with the others.
    let ended = scene.give_logged(via, Log::Json, words, Duration::from_millis(1500));
    assert!(parent.is_asked_for(), "{name} {via:?} {words:?} has thawed what is another's");
    if via == Via::Wrapped {
        assert_eq!(scene.intents(), [""; 0].map(Into::<std::path::PathBuf>::into), "{words:?}");
    }
    ended
}

#[test]
fn with_a_task_that_does_not_freeze() {
    scene::on_v2("ancestors::with_a_task_that_does_not_freeze_on_v2");
}

/// Both are named: even after the task is released, the container is still frozen.
#[test]
#[ignore = "run on cgroup v2 by the test that is named like it"]
fn with_a_task_that_does_not_freeze_on_v2() {
    let scene = Scene::stubborn("crun-1.28");
    let parent = Freezer::of(&scene.scratch.cgroup);
    parent.freeze();
    let bare = scene.give(Via::Bare, &["pause", "c"]);
    assert!(bare.succeeded() && !scene.freezer().is_frozen(), "not shown: {bare:?}");
    scene.freezer().thaw();
    let wrapped = scene.give_logged(Via::Wrapped, Log::Json, &["pause", "c"], HANGS);
    let message = wrapped.containerd_reads();
    report!("wrapped: exit {:?} in {}: {message}", wrapped.code, ms(wrapped.took));
    assert_eq!(wrapped.code, Some(1), "{wrapped:?}");
    ended_within(&wrapped, CONFIRM + RETRIES);
    assert!(parent.is_asked_for() && !scene.freezer().is_asked_for());
    names_the_task(&scene, &message);
    assert!(message.contains(&format!("{} is frozen", scene.scratch.cgroup)), "{message}");
}
