//! cgroup v1: runc only says `unable to freeze`; the wrapper adds which task, in every place where
//! somebody looks.

use testkit::eventually;
use testkit::scene::{Ended, HANGS, Log, Scene, Via, report, timed};

use super::{OURS, RETRIES, ended_within, ms, names_the_task};

const TEXT: &str = "unable to freeze";

const RUNTIMES: [&str; 2] = ["runc-1.1.5", "runc-1.5.3"];

#[test]
fn a_task_that_never_freezes() {
    for name in RUNTIMES {
        let scene = Scene::stubborn(name);
        let bare = scene.give(Via::Bare, &["pause", "c"]);
        let text = bare.containerd_reads();
        report!("{name}: bare: exit {:?} in {}: {text}", bare.code, ms(bare.took));
        assert!(bare.code == Some(1) && text.contains(TEXT), "not shown: {bare:?}");
        assert!(!text.contains("pid"), "not shown: {text}");
        for log in [Log::Json, Log::Text, Log::None] {
            let wrapped = scene.give_logged(Via::Wrapped, log, &["pause", "c"], HANGS);
            report!("{name}, {log:?}: wrapped: exit {:?} in {}", wrapped.code, ms(wrapped.took));
            assert_eq!(wrapped.code, Some(1), "{wrapped:?}");
            ended_within(&wrapped, bare.took + RETRIES);
            assert_eq!(scene.freezer().read("freezer.state"), "THAWED", "{log:?}");
            let message = match log {
                Log::Json => wrapped.containerd_reads(),
                Log::Text => text_message(&wrapped.log),
                Log::None => wrapped.stderr.clone(),
            };
            report!("{name}, {log:?}: {}", message.trim_end());
            names_the_task(&scene, &message);
            names_the_task(&scene, &wrapped.stderr);
            // The runtime's own text comes first, unchanged, and only once.
            match log {
                Log::None => assert!(message.contains(&text), "{message:?}"),
                Log::Json | Log::Text => {
                    assert!(message.starts_with(&format!("{text}{OURS}")), "{message:?}");
                }
            }
            assert_eq!(message.matches(OURS).count(), 1, "{message:?}");
        }
        assert_eq!(scene.record("pause")["verdict"], "failed");
        assert_eq!(scene.status(Via::Wrapped), "running");
    }
}

/// The text in `msg="..."` of the last error of a log in logrus' text format.
fn text_message(log: &str) -> String {
    let last = log.lines().rfind(|line| line.contains("level=error")).unwrap();
    let (_, quoted) = last.split_once(" msg=").unwrap();
    // For these messages, Go quotes like JSON.
    serde_json::from_str(quoted).unwrap_or_else(|error| panic!("{error}: {quoted}"))
}

/// The explanation comes last, and changes nothing of what was there.
#[test]
fn the_log_is_added_to() {
    let scene = Scene::stubborn("runc-1.1.5");
    let old = "{\"level\":\"error\",\"msg\":\"old\",\"time\":\"2019-01-01T00:00:00Z\"}\n";
    let file = scene.scratch.path("own-log");
    std::fs::write(&file, old).unwrap();
    let path = file.to_str().unwrap();
    let words = ["--log", path, "--log-format", "json", "pause", "c"];
    let ended = timed(&mut scene.command(Via::Wrapped, &words), HANGS);
    assert_eq!(ended.code, Some(1));
    let log = std::fs::read_to_string(&file).unwrap();
    assert!(log.starts_with(old), "{log:?}");
    let read = Ended { log, ..ended };
    names_the_task(&scene, &read.containerd_reads());
}

/// Some are named, and the rest counted: the message goes into an event of a few hundred bytes.
#[test]
fn of_many_tasks_a_few_are_named() {
    const TASKS: usize = 40;
    let script = "i=0; while [ $i -lt 40 ]; do cat /tmp/stuck >/dev/null & i=$((i + 1)); done; \
                  exec sleep 3600";
    let scene = Scene::stubborn_with("runc-1.1.5", script);
    eventually(HANGS, "all are held up", || scene.held_up().len() == TASKS);
    let wrapped = scene.give(Via::Wrapped, &["pause", "c"]);
    let message = wrapped.containerd_reads();
    report!("{TASKS} tasks: {message}");
    let (_, ours) = message.split_once(OURS).unwrap_or_else(|| panic!("not explained: {message}"));
    let named = ours.matches("pid ").count();
    assert!((1..=8).contains(&named), "{named}: {message}");
    assert!(ours.contains(&format!("and {} more", TASKS - named)), "{message}");
    assert!(message.len() < 1024, "{} bytes: {message}", message.len());
}

/// A process can choose its own name.
#[test]
fn a_hostile_name_spoils_no_log() {
    let script = r#"(printf 'a"\n}\033[2J\\' >/proc/self/comm; : </tmp/stuck) & exec sleep 3600"#;
    let scene = Scene::stubborn_with("runc-1.1.5", script);
    let pid = scene.a_held_up();
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert!(name.contains(['"', '\n', '\u{1b}']), "not shown: {name:?}");
    for log in [Log::Json, Log::Text, Log::None] {
        let wrapped = scene.give_logged(Via::Wrapped, log, &["pause", "c"], HANGS);
        let message = match log {
            Log::Json => wrapped.containerd_reads(),
            Log::Text => text_message(&wrapped.log),
            Log::None => wrapped.stderr.clone(),
        };
        report!("{log:?}: {message:?}");
        assert!(message.contains(&format!("pid {pid} ")), "{message:?}");
        let said = [wrapped.log, wrapped.stderr].concat();
        assert!(!said.contains('\u{1b}'), "{said:?}");
        if log == Log::Text {
            assert_eq!(said.lines().filter(|line| line.contains(&pid.to_string())).count(), 2);
        }
    }
}

/// Its tasks lack the CPU time to freeze, and the explanation says so.
#[test]
fn a_throttled_container_that_is_not_helped() {
    let scene = Scene::throttled("runc-1.1.5", 32);
    // With a tenth of a second, patience alone sometimes succeeds.
    std::fs::write(scene.cpu().join("cpu.cfs_period_us"), "1000000").unwrap();
    let bare = scene.give(Via::Bare, &["pause", "c"]);
    assert!(bare.containerd_reads().contains(TEXT), "not shown: {bare:?}");
    let config = scene.scratch.path("config.toml");
    std::fs::write(&config, "[lift]\nenabled = false\n").unwrap();
    let log = scene.scratch.path("log");
    let words = ["--log", log.to_str().unwrap(), "--log-format", "json", "pause", "c"];
    let mut command = scene.command(Via::Wrapped, &words);
    let ended = timed(command.env("FROSTLOCK_CONFIG", &config), HANGS);
    let ended = Ended { log: std::fs::read_to_string(&log).unwrap(), ..ended };
    let message = ended.containerd_reads();
    report!("not lifted: exit {:?} in {}: {message}", ended.code, ms(ended.took));
    assert!(message.starts_with(&format!("{TEXT}{OURS}")), "{message}");
    assert!(message.contains("; throttled in "), "{message}");
    assert!(message.contains(" sh R"), "{message}");
    assert_eq!(scene.freezer().read("freezer.state"), "THAWED");
}
