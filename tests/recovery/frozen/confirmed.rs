//! crun writes `cgroup.freeze` and returns 0 at once, even if nothing freezes.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::scene::{self, Log, MS, Scene, Via, report, tolerance};
use testkit::{eventually, wait};

use super::{CONFIRM, OURS, RETRIES, ended_within, ms, names_the_task};

const RUNTIMES: [&str; 2] = ["crun-1.21", "crun-1.28"];

const LOGS: &[Log] = &[Log::Json, Log::Text, Log::None];

/// The bare runtime, with a task that never freezes.
#[track_caller]
fn control(scene: &Scene) {
    let bare = scene.give(Via::Bare, &["pause", "c"]);
    let (said, is_frozen) = (bare.code, scene.freezer().is_frozen());
    report!(
        "bare pause of a task in D state: exit {said:?}, {}, frozen {is_frozen}",
        ms(bare.took)
    );
    assert_eq!((said, is_frozen), (Some(0), false), "not shown: {bare:?}");
    scene.a_held_up();
    scene.freezer().thaw();
}

#[test]
fn a_task_that_never_freezes() {
    scene::on_v2("confirmed::a_task_that_never_freezes_on_v2");
}

#[test]
#[ignore = "run on cgroup v2 by the test that is named like it"]
fn a_task_that_never_freezes_on_v2() {
    for name in RUNTIMES {
        let scene = Scene::stubborn(name);
        control(&scene);
        // Each takes two seconds.
        let logs = if name == RUNTIMES[0] { LOGS } else { &LOGS[..1] };
        for &log in logs {
            let wrapped = scene.give_logged(Via::Wrapped, log, &["pause", "c"], scene::HANGS);
            report!("{name}: wrapped: exit {:?} in {}", wrapped.code, ms(wrapped.took));
            assert_eq!(wrapped.code, Some(1), "{wrapped:?}");
            ended_within(&wrapped, CONFIRM + RETRIES);
            assert!(!scene.freezer().is_asked_for(), "left frozen: {log:?}");
            let message = match log {
                Log::Json => wrapped.containerd_reads(),
                Log::Text => wrapped.log.clone(),
                Log::None => wrapped.stderr.clone(),
            };
            report!("{name}: {}", message.trim_end());
            names_the_task(&scene, &message);
            assert!(wrapped.stderr.contains(OURS), "{log:?}: {:?}", wrapped.stderr);
        }
        assert_eq!(scene.record("pause")["exit"]["code"], 1);
        assert_eq!(scene.status(Via::Wrapped), "running");
        assert!(scene.give(Via::Wrapped, &["exec", "c", "true"]).succeeded());
        assert_eq!(scene.intents(), [""; 0].map(Into::<std::path::PathBuf>::into));
    }
}

#[test]
fn told_to_end_while_it_waits() {
    scene::on_v2("confirmed::told_to_end_while_it_waits_on_v2");
}

/// The bare runtime does not wait.
#[test]
#[ignore = "run on cgroup v2 by the test that is named like it"]
fn told_to_end_while_it_waits_on_v2() {
    const WHILE: Duration = Duration::from_millis(300);
    let scene = Scene::stubborn(RUNTIMES[1]);
    control(&scene);
    let mut command = scene.command(Via::Wrapped, &["pause", "c"]);
    let mut wrapper = command.stderr(Stdio::null()).spawn().unwrap();
    eventually(scene::HANGS, "it is asked for", || scene.freezer().is_asked_for());
    let began = Instant::now();
    std::thread::sleep(WHILE);
    kill(Pid::from_raw(wrapper.id() as i32), Signal::SIGTERM).unwrap();
    let status = wait(&mut wrapper, scene::HANGS).expect("the end");
    let took = began.elapsed();
    assert_eq!(status.code(), Some(1));
    // The whole wait would be a second.
    assert!(took < CONFIRM, "{}", ms(took));
    let record = scene.record("pause");
    assert_eq!((&record["attempts"], &record["gave_up"]), (&1.into(), &"interrupted".into()));
    assert!(!scene.freezer().is_asked_for(), "left frozen");
    assert_eq!(scene.intents(), [""; 0].map(Into::<std::path::PathBuf>::into));
}

#[test]
fn a_task_that_freezes_after_a_while() {
    scene::on_v2("confirmed::a_task_that_freezes_after_a_while_on_v2");
}

#[test]
#[ignore = "run on cgroup v2 by the test that is named like it"]
fn a_task_that_freezes_after_a_while_on_v2() {
    const WHILE: Duration = Duration::from_millis(300);
    for name in RUNTIMES {
        let mut scene = Scene::stubborn(name);
        control(&scene);
        let mut stuck = scene.stuck.take().unwrap();
        let release = std::thread::spawn(move || {
            std::thread::sleep(WHILE);
            stuck.release();
            stuck
        });
        let wrapped = scene.give(Via::Wrapped, &["pause", "c"]);
        let is_frozen = scene.freezer().is_frozen();
        scene.stuck = Some(release.join().unwrap());
        report!(
            "{name}: wrapped, task freezes after {}: exit {:?} in {}, frozen {is_frozen}",
            ms(WHILE),
            wrapped.code,
            ms(wrapped.took)
        );
        assert_eq!((wrapped.code, is_frozen), (Some(0), true), "{wrapped:?}");
        assert!(wrapped.took >= WHILE - 50 * MS && wrapped.took < CONFIRM + tolerance());
        assert_eq!(wrapped.containerd_reads(), "");
        assert_eq!(scene.status(Via::Wrapped), "paused");
        scene.must(Via::Wrapped, &["resume", "c"]);
        assert!(!scene.freezer().is_asked_for());
    }
}

#[test]
fn an_ordinary_container() {
    scene::on_v2("confirmed::an_ordinary_container_on_v2");
}

/// No control: it mostly freezes before anybody looks.
#[test]
#[ignore = "run on cgroup v2 by the test that is named like it"]
fn an_ordinary_container_on_v2() {
    for name in RUNTIMES {
        let scene = Scene::idle(name);
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let wrapped = scene.give(Via::Wrapped, &["pause", "c"]);
            assert_eq!((wrapped.code, scene.freezer().is_frozen()), (Some(0), true));
            slowest = slowest.max(wrapped.took);
            scene.must(Via::Wrapped, &["resume", "c"]);
        }
        report!("{name}: 20 ordinary pauses, frozen each time, at most {}", ms(slowest));
    }
}
