//! frostlock thaws neither somebody else's freeze nor that of an operation still in progress.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cgroup::process::Process;
use serde_json::Value;
use testkit::fake_runtime::{Attempt, Fake};
use testkit::scene::{self, HANGS, Log, MS, Scene, Via, report, timed, tolerance};
use testkit::succeed;

use crate::NOTHING;
use crate::hanging::Hanging;

/// A freeze by hand stops none of these except the exec, which the bare runtime refuses too.
const COMMANDS: [&[&str]; 5] = [
    &["update", "--cpu-share", "0", "c"],
    &["exec", "c", "true"],
    &["state", "c"],
    &["kill", "c", "WINCH"],
    &["delete", "c"],
];

#[test]
fn a_freeze_by_hand_on_v1() {
    freeze_by_hand("runc-1.1.5");
    freeze_by_hand("runc-1.5.3");
}

#[test]
fn a_freeze_by_hand_with_v2() {
    scene::on_v2("others::a_freeze_by_hand_on_v2");
}

#[test]
#[ignore = "run on cgroup v2 by the test that is named like it"]
fn a_freeze_by_hand_on_v2() {
    freeze_by_hand("runc-1.5.3");
    freeze_by_hand("crun-1.28");
}

fn freeze_by_hand(runtime: &str) {
    let scene = Scene::idle(runtime);
    scene.freezer().freeze();
    for words in COMMANDS {
        let bare = scene.give_logged(Via::Bare, Log::Json, words, Duration::from_secs(2));
        assert!(scene.freezer().is_asked_for(), "not shown: {runtime} thaws in {words:?}");
        let wrapped = scene.give_logged(Via::Wrapped, Log::Json, words, Duration::from_secs(2));
        assert!(scene.freezer().is_frozen(), "{runtime} {words:?}: thawed");
        assert_eq!(wrapped.code, bare.code, "{runtime} {words:?}: {bare:?} {wrapped:?}");
        assert!(wrapped.containerd_reads().starts_with(&bare.containerd_reads()));
        assert_eq!(scene.intents(), NOTHING, "{words:?}");
    }
    let recovered = scene.scratch.journal().into_iter().filter(|record| {
        record["recovered"].as_array().is_some_and(|recovered| !recovered.is_empty())
    });
    assert_eq!(recovered.count(), 0);
}

/// Somebody froze by hand; then an operation of ours was killed that had not frozen anything.
#[test]
fn a_freeze_by_hand_before_a_killed_operation() {
    for verb in ["pause", "update"] {
        let hanging = Hanging::new("runc-1.1.5", true);
        let scene = &hanging.scene;
        scene.freezer().freeze();
        hanging.killed(Via::Wrapped, verb);
        scene.must(Via::Wrapped, &["update", "--cpu-share", "0", "c"]);
        assert!(scene.freezer().is_frozen(), "{verb}: thawed");
        assert_eq!(scene.intents(), NOTHING, "{verb}");
    }
}

#[test]
fn a_pause_that_succeeded_stays_on_v1() {
    pause_that_succeeded("runc-1.1.5");
}

#[test]
fn a_pause_that_succeeded_stays_with_v2() {
    scene::on_v2("others::a_pause_that_succeeded_stays_on_v2");
}

#[test]
#[ignore = "run on cgroup v2 by the test that is named like it"]
fn a_pause_that_succeeded_stays_on_v2() {
    pause_that_succeeded("runc-1.5.3");
}

fn pause_that_succeeded(runtime: &str) {
    for verb in ["update", "pause"] {
        let hanging = Hanging::new(runtime, true);
        let scene = &hanging.scene;
        scene.must(Via::Wrapped, &["pause", "c"]);
        hanging.killed(Via::Wrapped, verb);
        for words in COMMANDS {
            let ended = scene.give_logged(Via::Wrapped, Log::Json, words, Duration::from_secs(3));
            assert!(scene.freezer().is_frozen(), "{verb}, {words:?}: thawed: {ended:?}");
            assert_eq!(scene.intents(), NOTHING, "{verb}, {words:?}");
        }
        assert_eq!(scene.status(Via::Wrapped), "paused");
        scene.must(Via::Wrapped, &["resume", "c"]);
        assert_eq!(scene.status(Via::Wrapped), "running");
        assert!(!scene.freezer().is_asked_for());
    }
}

/// Nobody then records the pause, and the note of the killed operation is older.
#[test]
fn a_pause_while_we_are_switched_off_stays() {
    let hanging = Hanging::new("runc-1.1.5", true);
    let scene = &hanging.scene;
    hanging.killed(Via::Wrapped, "update");
    scene.must(Via::Bare, &["resume", "c"]);
    switched_off(scene, &["pause", "c"]);
    let ended = scene.give_logged(Via::Wrapped, Log::Json, &["exec", "c", "true"], 2000 * MS);
    assert!(scene.freezer().is_frozen(), "thawed: {ended:?}");
    assert_eq!(scene.intents(), NOTHING);
}

/// Nor the resume: a later leftover freeze is nobody's pause.
#[test]
fn a_pause_that_was_resumed_while_we_were_switched_off_is_over() {
    let hanging = Hanging::new("runc-1.1.5", true);
    let scene = &hanging.scene;
    scene.must(Via::Wrapped, &["pause", "c"]);
    switched_off(scene, &["resume", "c"]);
    hanging.killed(Via::Wrapped, "update");
    let ended = scene.give_logged(Via::Wrapped, Log::Json, &["exec", "c", "true"], 2000 * MS);
    assert!(ended.succeeded() && !scene.freezer().is_asked_for(), "{ended:?}");
}

fn switched_off(scene: &Scene, words: &[&str]) {
    let off = scene.scratch.state().join("off");
    std::fs::write(&off, "").unwrap();
    scene.must(Via::Wrapped, words);
    std::fs::remove_file(&off).unwrap();
}

/// Even while somebody else has the lock under which it would be undone.
#[test]
fn a_note_of_the_dead_goes_when_its_cgroup_is_seen_thawed() {
    let hanging = Hanging::new("runc-1.1.5", true);
    let scene = &hanging.scene;
    let held = hanging.done_and_held(&["exec", "--detach", "c", "true"]);
    hanging.killed(Via::Wrapped, "update");
    scene.must(Via::Bare, &["resume", "c"]);
    assert_ne!(scene.intents(), NOTHING, "not shown: no note was left");
    assert!(scene.give(Via::Wrapped, &["exec", "c", "true"]).succeeded());
    assert_eq!(scene.intents(), NOTHING);
    drop(held);
    scene.must(Via::Bare, &["pause", "c"]);
    scene.give_logged(Via::Wrapped, Log::Json, &["exec", "c", "true"], 2000 * MS);
    assert!(scene.freezer().is_frozen(), "thawed");
}

/// An operation in progress undoes its own freeze; the others continue as they would without
/// frostlock.
#[test]
fn a_note_of_one_that_lives_is_left_alone() {
    let hanging = Hanging::new("runc-1.1.5", true);
    let scene = &hanging.scene;
    let held = hanging.hold(Via::Wrapped, "pause");
    let notes = scene.intents();
    assert_ne!(notes, NOTHING, "no note was made before the freeze");
    for words in COMMANDS {
        let ended = scene.give_logged(Via::Wrapped, Log::Json, words, Duration::from_secs(5));
        report!("beside a pause: {words:?}: {:?} in {:?}", ended.code, ended.took);
        // The longest wait for a lock, plus an exec's for a thaw.
        assert!(ended.code.is_some() && ended.took < 1500 * MS + tolerance(), "{ended:?}");
        assert!(scene.freezer().is_frozen(), "{words:?}: thawed under another's hands");
        assert_eq!(scene.intents(), notes, "{words:?}");
    }
    drop(held);
    assert!(scene.give(Via::Wrapped, &["exec", "c", "true"]).succeeded());
    assert!(!scene.freezer().is_asked_for());
    assert_eq!(scene.intents(), NOTHING);
}

/// A pause goes ahead when its wait for the lock is over; then the operation with the lock fails.
#[test]
fn a_pause_beside_an_update_that_fails() {
    let hanging = Hanging::new("runc-1.1.5", true);
    let scene = &hanging.scene;
    let held = hanging.done_and_held(&["update", "--cpu-share", "0", "c"]);
    let pause =
        scene.give_logged(Via::Wrapped, Log::Json, &["pause", "c"], Duration::from_secs(10));
    assert_eq!(pause.code, Some(0), "{pause:?}");
    assert!(scene.freezer().is_frozen(), "not shown: it was not paused");
    held.fail();
    assert!(scene.freezer().is_frozen(), "the pause was undone");
    assert_eq!(scene.intents(), NOTHING);
}

/// Its leftover may be the freeze of a pause in progress, and is not undone meanwhile; when that
/// pause has given up, the next operation undoes it.
#[test]
fn an_update_that_fails_beside_a_pause_that_gives_up() {
    let hanging = Hanging::new("runc-1.1.5", true);
    let scene = &hanging.scene;
    let held = hanging.hold(Via::Wrapped, "update");
    let note = scene.intents().into_iter().find(|path| path.is_file()).unwrap();
    let ours = Process::ourselves().unwrap();
    let mut pause: Value = serde_json::from_slice(&std::fs::read(&note).unwrap()).unwrap();
    pause["verb"] = "pause".into();
    pause["pid"] = ours.pid.into();
    pause["start"] = ours.start.into();
    let of_pause = note.with_file_name("pause.json");
    std::fs::write(&of_pause, pause.to_string()).unwrap();
    held.fail();
    assert!(scene.freezer().is_asked_for(), "not shown: it was undone");
    std::fs::remove_file(&of_pause).unwrap();
    assert!(scene.give(Via::Wrapped, &["exec", "c", "true"]).succeeded());
    assert!(!scene.freezer().is_asked_for());
    assert_eq!(scene.intents(), NOTHING);
}

/// It is also not retried: an update of a frozen container succeeds, and nobody would watch the
/// freeze.
#[test]
fn an_update_is_not_tried_again_on_what_may_be_a_pause() {
    let scene = Scene::of("runc-1.1.5");
    let fake = Fake::new(&scene.scratch, "");
    succeed(&mut fake.create("c"));
    let dir = Path::new("/sys/fs/cgroup/freezer").join(&fake.cgroup("c")[1..]);
    std::fs::create_dir_all(&dir).unwrap();
    // The update's own note, with another owner.
    let Process { pid, start } = Process::ourselves().unwrap();
    let pauses = format!(
        r#"for note in {}/intents/*/*.json; do
            sed 's/"update"/"pause"/; s/"pid":[0-9]*/"pid":{pid}/; s/"start":[0-9]*/"start":{start}/' \
                $note >${{note%/*}}/pause.json
        done"#,
        scene.scratch.state().display()
    );
    let hook = ["sh", "-c", &pauses].map(str::to_owned).to_vec();
    let text = "unable to freeze".to_owned();
    let freezer = "FROZEN".to_owned();
    let fails =
        Attempt { hook, freezer, log: text.clone(), stderr: text, exit: 1, ..Attempt::default() };
    fake.script(&[("update", &[fails, Attempt::default()])]);
    let update = ["update", "--cpu-share", "0", "c"];
    let ended = timed(&mut fake.wrapped(&update), HANGS);
    let is_of_pause = |path: &PathBuf| path.ends_with("pause.json");
    let of_pause = scene.intents().into_iter().find(is_of_pause).expect("not shown");
    assert_eq!(ended.code, Some(1), "tried again: {ended:?}");
    std::fs::remove_file(of_pause).unwrap();
    assert_eq!(timed(&mut fake.wrapped(&["exec", "c", "true"]), HANGS).code, Some(0));
    let state = std::fs::read_to_string(dir.join("freezer.state")).unwrap();
    std::fs::remove_dir(&dir).unwrap();
    assert_eq!(state.trim(), "THAWED");
    assert_eq!(scene.intents(), NOTHING);
}
