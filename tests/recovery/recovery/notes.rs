//! Killed while the cgroup is frozen: the next command works, whichever it is, and says what it
//! undid.

use std::path::Path;
use std::time::Duration;

use testkit::fake_runtime::{Attempt, Fake};
use testkit::scene::{self, Ended, HANGS, Log, MS, Scene, Via, report, timed, tolerance};
use testkit::{cgroup_dirs, eventually, succeed};

use crate::NOTHING;
use crate::hanging::Hanging;

/// The next command, and whether the bare runtime must be seen to fail, to hang or to report a
/// paused container; a kill and a forced delete succeed by themselves.
const NEXT: &[(&[&str], bool)] = &[
    (&["exec", "c", "true"], true),
    (&["pause", "c"], true),
    (&["update", "--cpu-share", "0", "c"], true),
    (&["start", "c"], true),
    (&["state", "c"], true),
    (&["kill", "c", "KILL"], false),
    (&["delete", "--force", "c"], false),
];

#[test]
fn after_a_pause_on_v1() {
    every_command("runc-1.1.5", "pause");
}

#[test]
fn after_an_update_on_v1() {
    every_command("runc-1.5.3", "update");
}

#[test]
fn after_a_pause_with_v2() {
    scene::on_v2("notes::after_a_pause_on_v2");
}

#[test]
#[ignore = "run on cgroup v2 by the test that is named like it"]
fn after_a_pause_on_v2() {
    every_command("runc-1.5.3", "pause");
}

#[test]
fn after_an_update_with_v2() {
    scene::on_v2("notes::after_an_update_on_v2");
}

#[test]
#[ignore = "run on cgroup v2 by the test that is named like it"]
fn after_an_update_on_v2() {
    every_command("runc-1.1.15", "update");
}

#[test]
fn after_a_pause_of_crun_with_v2() {
    scene::on_v2("notes::after_a_pause_of_crun_on_v2");
}

#[test]
#[ignore = "run on cgroup v2 by the test that is named like it"]
fn after_a_pause_of_crun_on_v2() {
    every_command("crun-1.28", "pause");
}

/// Most of the time is waiting, for cgroups to disappear.
fn every_command(runtime: &str, killed: &str) {
    std::thread::scope(|scope| {
        for (words, bare_fails) in NEXT {
            scope.spawn(move || one_command(runtime, killed, words, *bare_fails));
        }
    });
}

fn one_command(runtime: &str, killed: &str, words: &[&str], bare_fails: bool) {
    let verb = words[0];
    let what = format!("{runtime}: {verb} after a killed {killed}");
    let bare = Hanging::new(runtime, verb != "start");
    bare.killed(Via::Bare, killed);
    let ended = next(&bare.scene, Via::Bare, words);
    let is_worse = !ended.succeeded()
        || ended.stdout.contains("\"paused\"")
        // crun's start had already succeeded, so nothing else shows the freeze.
        || (matches!(verb, "update" | "start") && bare.scene.freezer().is_asked_for());
    report!("{what}: bare: {}", seen(&ended, &bare.scene));
    // crun writes the same into the freezer again.
    let gets_by = !bare_fails || (verb == "pause" && runtime.starts_with("crun"));
    assert!(is_worse || gets_by, "not shown: {ended:?}");
    drop(bare);

    let wrapped = Hanging::new(runtime, verb != "start");
    let dead = wrapped.killed(Via::Wrapped, killed);
    let ended = next(&wrapped.scene, Via::Wrapped, words);
    report!("{what}: wrapped: {}", seen(&ended, &wrapped.scene));
    check(&wrapped.scene, &ended, verb, killed);
    says_what_it_undid(&wrapped.scene, verb, killed, dead);
}

fn next(scene: &Scene, via: Via, words: &[&str]) -> Ended {
    scene.give_logged(via, Log::Json, words, Duration::from_secs(2))
}

fn seen(ended: &Ended, scene: &Scene) -> String {
    let code = ended.code.map_or("hangs".to_owned(), |code| format!("exit {code}"));
    let frozen = if scene.freezer().is_asked_for() { "frozen" } else { "thawed" };
    let ms = ended.took.as_millis();
    format!("{code} in {ms} ms, {frozen} {}", ended.containerd_reads())
}

/// The command has worked, and nothing of the dead operation is left.
fn check(scene: &Scene, ended: &Ended, verb: &str, killed: &str) {
    assert!(ended.succeeded(), "{verb} after {killed}: {ended:?}");
    assert!(ended.took < 500 * MS + tolerance(), "{verb} after {killed}: {:?}", ended.took);
    assert_eq!(ended.containerd_reads(), "");
    assert_eq!(scene.intents(), NOTHING, "{verb} after {killed}");
    match verb {
        "start" => eventually(HANGS, "its program runs", || {
            scene.pids().iter().any(|&pid| scene::comm(pid) == "sleep")
        }),
        "state" => assert!(ended.stdout.contains("\"running\""), "{ended:?}"),
        "kill" => eventually(HANGS, "it is dead", || scene.pids().is_empty()),
        "delete" => assert_eq!(cgroup_dirs(&scene.cgroup()), NOTHING),
        _ => {}
    }
    if verb == "delete" {
        return assert_eq!(scene.scratch.lock_files(), NOTHING);
    }
    assert_eq!(scene.freezer().is_asked_for(), verb == "pause", "{verb} after {killed}");
    if verb == "pause" {
        assert!(scene.freezer().is_frozen());
        assert_eq!(scene.status(Via::Wrapped), "paused");
        scene.must(Via::Wrapped, &["resume", "c"]);
        assert_eq!(scene.status(Via::Wrapped), "running");
    }
}

fn says_what_it_undid(scene: &Scene, verb: &str, killed: &str, dead: u32) {
    let record = scene.record(verb);
    let recovered = record["recovered"].as_array().unwrap_or_else(|| panic!("{record}"));
    assert_eq!(recovered.len(), 1, "{record}");
    let said = recovered[0].as_str().unwrap();
    for word in [killed, scene::ID, &dead.to_string()] {
        let mut words = said.split(|c: char| !c.is_ascii_alphanumeric());
        assert!(words.any(|one| one == word), "{word:?} is not in {said:?}");
    }
}

/// The second command finds nothing more to undo, and reports nothing.
#[test]
fn it_is_undone_once() {
    let hanging = Hanging::new("runc-1.1.5", true);
    hanging.killed(Via::Wrapped, "pause");
    let scene = &hanging.scene;
    for recovers in [true, false] {
        scene.must(Via::Wrapped, &["update", "--cpu-share", "0", "c"]);
        assert_eq!(recoveries(&scene.record("update")) > 0, recovers);
    }
}

/// Two operations died one after the other before another command came.
#[test]
fn several_are_undone_at_once() {
    let hanging = Hanging::new("runc-1.1.5", true);
    hanging.killed(Via::Wrapped, "pause");
    // Kept from recovering: each note is written again, as if both had died at once.
    let first = hanging.scene.intents();
    let note = first.iter().find(|path| path.is_file()).unwrap();
    let text = std::fs::read(note).unwrap();
    hanging.killed(Via::Wrapped, "update");
    std::fs::create_dir_all(note.parent().unwrap()).unwrap();
    std::fs::write(note, text).unwrap();
    let scene = &hanging.scene;
    assert!(scene.give(Via::Wrapped, &["exec", "c", "true"]).succeeded());
    assert!(!scene.freezer().is_asked_for());
    assert_eq!(scene.intents(), NOTHING);
    // Once it is thawed, the other note has nothing to report.
    assert!((1..=2).contains(&recoveries(&scene.record("exec"))));
}

/// Whether it succeeds or fails, an operation removes its own note.
#[test]
fn an_operation_that_ends_leaves_no_note() {
    let scene = Scene::idle("runc-1.1.5");
    for words in [
        &["pause", "c"][..],
        &["resume", "c"],
        &["update", "--cpu-share", "0", "c"],
        &["exec", "c", "true"],
        &["state", "c"],
        &["kill", "c", "WINCH"],
        &["update", "--no-such-flag", "c"],
        &["pause", "nobody"],
        &["delete", "--force", "c"],
    ] {
        scene.give(Via::Wrapped, words);
        assert_eq!(scene.intents(), NOTHING, "{words:?}");
    }
}

/// Many readiness probes at once: each succeeds, and one has undone the freeze.
#[test]
fn of_many_at_once_one_undoes_it() {
    let hanging = Hanging::new("runc-1.1.5", true);
    hanging.killed(Via::Wrapped, "pause");
    let scene = &hanging.scene;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let ended = timed(&mut scene.command(Via::Wrapped, &["exec", "c", "true"]), HANGS);
                assert!(ended.succeeded(), "{ended:?}");
            });
        }
    });
    assert!(!scene.freezer().is_asked_for());
    assert_eq!(scene.intents(), NOTHING);
    let recovered: Vec<usize> = scene.scratch.journal().iter().map(recoveries).collect();
    assert_eq!(recovered.iter().sum::<usize>(), 1, "{recovered:?}");
}

fn recoveries(record: &serde_json::Value) -> usize {
    record["recovered"].as_array().map_or(0, Vec::len)
}

/// The note's container is gone: somebody has deleted it without frostlock, and creates it again.
#[test]
fn a_note_of_a_container_that_is_gone() {
    for frozen_by_hand in [false, true] {
        let hanging = Hanging::new("runc-1.1.5", true);
        let scene = &hanging.scene;
        hanging.killed(Via::Wrapped, "pause");
        assert!(scene.give(Via::Bare, &["delete", "--force", "c"]).succeeded());
        eventually(HANGS, "it is gone", || !scene.freezer().dir.exists());
        let bundle = scene.bundle();
        let create = ["create", "--bundle", bundle.to_str().unwrap(), "c"];
        scene.must(Via::Wrapped, &create);
        assert_eq!(scene.intents(), NOTHING);
        if frozen_by_hand {
            scene.freezer().freeze();
        }
        scene.must(Via::Wrapped, &["update", "--cpu-share", "0", "c"]);
        assert_eq!(scene.freezer().is_asked_for(), frozen_by_hand);
    }
}

/// These modes must change nothing.
#[test]
fn without_the_full_mode_it_is_as_without_us() {
    for mode in ["lock", "observe"] {
        let hanging = Hanging::new("runc-1.1.5", true);
        let scene = &hanging.scene;
        hanging.killed(Via::Wrapped, "pause");
        let config = scene.scratch.path("config.toml");
        std::fs::write(&config, format!("mode = \"{mode}\"\n")).unwrap();
        let mut exec = scene.command(Via::Wrapped, &["exec", "c", "true"]);
        let ended = timed(exec.env("FROSTLOCK_CONFIG", &config), HANGS);
        assert!(!ended.succeeded() && ended.stderr.contains("paused"), "{mode}: {ended:?}");
        assert!(scene.freezer().is_frozen(), "{mode}");
    }
}

/// The container is gone, and the caller, who got no answer, deletes it once more; its id is never
/// used again.
#[test]
fn after_a_delete_that_was_killed_at_its_end() {
    let hanging = Hanging::new("runc-1.1.5", true);
    let scene = &hanging.scene;
    scene.must(Via::Wrapped, &["update", "--cpu-share", "0", "c"]);
    hanging.killed_at_its_end(&["delete", "--force", "c"]);
    assert_eq!(cgroup_dirs(&scene.cgroup()), NOTHING, "not shown");
    assert!(scene.give(Via::Wrapped, &["delete", "--force", "c"]).succeeded());
    assert_eq!(scene.intents(), NOTHING);
    assert_eq!(scene.scratch.lock_files(), NOTHING);
    let records = std::fs::read_dir(scene.scratch.state().join("containers")).unwrap();
    assert_eq!(records.flatten().map(|entry| entry.path()).collect::<Vec<_>>(), NOTHING);
}

/// The promise is kept: the caller, who got no answer, finds it paused or thawed, and can continue
/// either way.
#[test]
fn after_a_pause_that_was_killed_at_its_end() {
    let hanging = Hanging::new("runc-1.1.5", true);
    let scene = &hanging.scene;
    hanging.killed_at_its_end(&["pause", "c"]);
    assert!(scene.freezer().is_frozen(), "not shown");
    scene.must(Via::Wrapped, &["pause", "c"]);
    assert_eq!(scene.status(Via::Wrapped), "paused");
    scene.must(Via::Wrapped, &["resume", "c"]);
    assert_eq!(scene.intents(), NOTHING);
}

/// A kill waits for no lock, so a delete may finish meanwhile. A cgroup that is gone needs no undo,
/// and nobody would ever remove the note.
#[test]
fn a_kill_that_is_overtaken_by_a_delete_leaves_no_note() {
    let scene = Scene::of("runc-1.1.5");
    let fake = Fake::new(&scene.scratch, "");
    succeed(&mut fake.create("c"));
    let dir = Path::new("/sys/fs/cgroup/freezer").join(&fake.cgroup("c")[1..]);
    std::fs::create_dir_all(&dir).unwrap();
    let kill = |meanwhile: String| {
        let hook = ["sh", "-c", &meanwhile].map(str::to_owned).to_vec();
        fake.script(&[("kill", &[Attempt { hook, exit: 1, ..Attempt::default() }])]);
        assert_eq!(timed(&mut fake.wrapped(&["kill", "c", "KILL"]), HANGS).code, Some(1));
    };
    kill(format!("echo FROZEN >{}/freezer.state", dir.display()));
    assert_ne!(scene.intents(), NOTHING, "control: frozen, it is to be undone by the next");
    kill(format!("rmdir {}", dir.display()));
    assert!(!dir.exists(), "not shown");
    assert_eq!(scene.intents(), NOTHING);
}

/// Our record still says paused; a later freeze is what the killed operation left.
#[test]
fn after_a_pause_that_was_resumed_without_us() {
    let hanging = Hanging::new("runc-1.1.5", true);
    let scene = &hanging.scene;
    scene.must(Via::Wrapped, &["pause", "c"]);
    scene.must(Via::Bare, &["resume", "c"]);
    hanging.killed(Via::Wrapped, "update");
    assert!(scene.give(Via::Wrapped, &["exec", "c", "true"]).succeeded());
    assert!(!scene.freezer().is_asked_for());
    assert_eq!(scene.intents(), NOTHING);
}
