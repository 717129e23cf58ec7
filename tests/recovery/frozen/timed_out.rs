//! runc on cgroup v2 waits 10 s for a freeze, gives up, and leaves `cgroup.freeze` at 1.

use std::time::Duration;

use cgroup::Identity;
use state::lock::{Acquired, LockFiles, Mode};
use testkit::scene::{self, HANGS, Log, Scene, Via, report};

use super::{ms, names_the_task};

const TEXT: &str = "timeout of 10s reached waiting for the cgroup to freeze";

#[test]
fn a_pause_that_timed_out_leaves_nothing_frozen() {
    scene::on_v2("timed_out::a_pause_that_timed_out_leaves_nothing_frozen_on_v2");
}

/// In parallel, since each takes 10 s.
#[test]
#[ignore = "run on cgroup v2 by the test that is named like it"]
fn a_pause_that_timed_out_leaves_nothing_frozen_on_v2() {
    std::thread::scope(|scope| {
        scope.spawn(bare);
        scope.spawn(wrapped);
        scope.spawn(without_the_lock);
    });
}

fn bare() {
    let mut scene = Scene::stubborn("runc-1.5.3");
    let pause = scene.give(Via::Bare, &["pause", "c"]);
    assert!(pause.containerd_reads().contains(TEXT), "not shown: {pause:?}");
    assert!(scene.freezer().is_asked_for(), "not shown: it is thawed");
    let limit = Duration::from_secs(3);
    let held = scene.give_logged(Via::Bare, Log::Json, &["exec", "c", "true"], limit);
    assert!(!held.succeeded(), "not shown: {held:?}");
    scene.stuck.take();
    let later = scene.give_logged(Via::Bare, Log::Json, &["exec", "c", "true"], HANGS);
    assert!(!later.succeeded(), "not shown: {later:?}");
    report!(
        "bare pause: {}, left at 1; exec: {:?} after {}; once the task can freeze: {:?}, {}",
        ms(pause.took),
        held.code,
        ms(held.took),
        later.code,
        later.containerd_reads()
    );
}

fn wrapped() {
    let scene = Scene::stubborn("runc-1.5.3");
    let pause = scene.give(Via::Wrapped, &["pause", "c"]);
    let message = pause.containerd_reads();
    report!("wrapped pause: exit {:?} in {}: {message}", pause.code, ms(pause.took));
    assert_eq!(pause.code, Some(1), "{pause:?}");
    assert!(!scene.freezer().is_asked_for(), "left frozen");
    let exec = scene.give_logged(Via::Wrapped, Log::Json, &["exec", "c", "true"], HANGS);
    assert!(exec.succeeded(), "{exec:?}");
    report!("wrapped exec after it: {}", ms(exec.took));
    assert!(message.contains(TEXT), "{message:?}");
    names_the_task(&scene, &message);
}

/// A long exec has the lock. What the pause leaves may be somebody else's, so the next operation
/// with the lock undoes it.
fn without_the_lock() {
    let mut scene = Scene::stubborn("runc-1.5.3");
    assert!(scene.give(Via::Wrapped, &["exec", "c", "true"]).succeeded());
    let lock = LockFiles::of(
        &Identity::new(scene.cgroup()).unwrap(),
        &scene.scratch.state().join("locks"),
    );
    let Acquired::Held(held) = lock.acquire(Mode::Shared, Duration::ZERO, None) else {
        panic!("nobody else has the lock")
    };
    let pause = scene.give(Via::Wrapped, &["pause", "c"]);
    assert!(pause.containerd_reads().contains(TEXT), "{pause:?}");
    assert!(scene.freezer().is_asked_for(), "not shown: it is thawed");
    drop(held);
    scene.stuck.take();
    let exec = scene.give_logged(Via::Wrapped, Log::Json, &["exec", "c", "true"], HANGS);
    assert!(exec.succeeded(), "{exec:?}");
    report!("wrapped pause without the lock, left at 1; exec after it: {}", ms(exec.took));
}
