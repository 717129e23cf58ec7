//! The runtime's log after retries, read as callers read it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde::Deserialize;
use testkit::fake_runtime::{Attempt, Fake};
use testkit::{Runtime, Scratch, eventually, install, run, runtimes, succeed, text};

const FREEZE: &str = "unable to freeze";

const OTHER: &str = "unexpected state THAWED while freezing";

/// A failure that is not retried.
const FINAL: &str = "container \"c\" is not running: a \"quoted\" word\nand a second line";

#[derive(Deserialize)]
struct Entry {
    level: String,
    msg: String,
    time: String,
}

/// containerd (process/utils.go, getLastRuntimeError): the last entry of level `error` in the whole
/// file, a stream of JSON values; anything else in it makes the reading fail.
fn containerd_reads(log: &str) -> Result<Option<String>, String> {
    let mut last = None;
    for entry in serde_json::Deserializer::from_str(log).into_iter::<Entry>() {
        let entry = entry.map_err(|error| error.to_string())?;
        let format = &time::format_description::well_known::Rfc3339;
        time::OffsetDateTime::parse(&entry.time, format).map_err(|error| error.to_string())?;
        if entry.level == "error" {
            last = Some(entry.msg);
        }
    }
    Ok(last)
}

/// podman (libpod/oci_conmon_common.go): the whole file is one object.
fn podman_reads(log: &str) -> Option<String> {
    serde_json::from_str::<Entry>(log).ok().map(|entry| entry.msg)
}

/// CRI-O: the runtime's stderr.
fn crio_reads(output: &Output) -> String {
    text(&output.stderr).trim_end().to_owned()
}

fn fails(message: &str) -> Attempt {
    let stderr = format!("{message}\n");
    Attempt { stderr, log: message.to_owned(), exit: 1, ..Attempt::default() }
}

/// A fake runtime with the container `c`.
fn with_container<'a>(name: &str, scratch: &'a Scratch, update: &[Attempt]) -> Fake<'a> {
    let fake = Fake::named(name, scratch, "");
    let bundle = fake.bundle("c");
    succeed(&mut fake.bare(&["create", "--bundle", bundle.to_str().unwrap(), "c"]));
    fake.script(&[("update", update)]);
    fake
}

fn update<'a>(log: &'a str, format: &'a [&'a str]) -> Vec<&'a str> {
    ["--log", log].into_iter().chain(format.iter().copied()).chain(TAIL).collect()
}

const TAIL: [&str; 4] = ["update", "--cpu-quota", "1000", "c"];

const FORMATS: [&[&str]; 4] =
    [&["--log-format", "json"], &["--debug", "--log-format", "json"], &[], &["--debug"]];

fn attempts(fake: &Fake<'_>) -> usize {
    fake.intervals().iter().filter(|one| one.verb == "update").count()
}

#[test]
fn the_log_is_what_the_last_attempt_alone_would_have_written() {
    const OLD: &str = "{\"level\":\"debug\",\"msg\":\"old\",\"time\":\"2019-01-01T00:00:00Z\"}\n";
    let good = Attempt::default();
    // An attempt can leave an entry without failing.
    let warned = Attempt { log: "left over".to_owned(), ..good.clone() };
    let scripts = [
        vec![fails(FREEZE), fails(OTHER), good],
        vec![fails(FREEZE), warned],
        vec![fails(FREEZE), fails(FINAL)],
    ];
    for format in FORMATS {
        for script in &scripts {
            let scratch = Scratch::new();
            let fake = with_container("runc", &scratch, script);
            let (ours, alone) = (scratch.path("ours"), scratch.path("alone"));
            std::fs::write(&ours, OLD).unwrap();
            std::fs::write(&alone, OLD).unwrap();
            let output = run(&mut fake.wrapped(&update(ours.to_str().unwrap(), format)));
            assert_eq!(attempts(&fake), script.len());
            fake.script(&[("update", &script[script.len() - 1..])]);
            let bare = run(&mut fake.bare(&update(alone.to_str().unwrap(), format)));
            assert_eq!(read(&ours), read(&alone), "{format:?}");
            assert!(read(&ours).starts_with(OLD));
            assert_eq!(output, bare, "{format:?}");
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_caller_finds_the_last_attempts_error() {
    let scratch = Scratch::new();
    let fake = with_container("runc", &scratch, &[fails(FREEZE), fails(OTHER), fails(FINAL)]);
    let log = scratch.path("log.json");
    let words = update(log.to_str().unwrap(), FORMATS[0]);
    let bare = run(&mut fake.bare(&words));
    assert_eq!(crio_reads(&bare), FREEZE, "control: not shown");
    std::fs::remove_file(&log).unwrap();
    fake.script(&[("update c", &[fails(FREEZE), fails(OTHER), fails(FINAL)])]);
    std::fs::remove_file(fake.dir().join("count-update-c")).unwrap();
    let output = run(&mut fake.wrapped(&words));
    assert_eq!(containerd_reads(&read(&log)), Ok(Some(FINAL.to_owned())));
    assert_eq!(podman_reads(&read(&log)).as_deref(), Some(FINAL));
    assert_eq!(crio_reads(&output), FINAL);
}

#[test]
fn after_a_success_nobody_finds_an_error() {
    let scratch = Scratch::new();
    let script = [fails(FREEZE), fails(OTHER), Attempt::default()];
    let fake = with_container("runc", &scratch, &script);
    let log = scratch.path("log.json");
    let output = run(&mut fake.wrapped(&update(log.to_str().unwrap(), FORMATS[1])));
    assert_eq!((output.status.code(), attempts(&fake)), (Some(0), 3));
    assert_eq!(containerd_reads(&read(&log)), Ok(None));
    assert_eq!(crio_reads(&output), "");
    // Without frostlock, the same caller sees the first attempt's error, and it stays there.
    std::fs::remove_file(fake.dir().join("count-update-c")).unwrap();
    let words = update(log.to_str().unwrap(), FORMATS[1]);
    run(&mut fake.bare(&words));
    assert_eq!(containerd_reads(&read(&log)), Ok(Some(FREEZE.to_owned())), "control: not shown");
}

#[test]
fn a_log_that_is_no_plain_file_is_treated_as_bare() {
    for (case, expected) in [
        ("missing directory", 1),
        ("directory", 1),
        ("busy", 1),
        // Its reader would see every attempt.
        ("fifo", 1),
        ("/dev/null", 2),
        ("link", 2),
        ("dangling link", 2),
    ] {
        let scratch = Scratch::new();
        let fake = with_container("runc", &scratch, &[fails(FREEZE), fails(FINAL)]);
        let mut odd = Odd::new(case, &scratch);
        let path = odd.path.clone();
        let words = update(path.to_str().unwrap(), FORMATS[0]);
        let mut wrapped = run(&mut fake.wrapped(&words));
        let (said, why) = explained(&wrapped.stderr);
        wrapped.stderr = said;
        // Only failures that could be retried but were not are explained.
        assert_eq!(why, case == "fifo", "{case}");
        // A runtime that cannot open its log is not counted by the fake.
        let made = attempts(&fake).max(1);
        assert_eq!(made, expected, "{case}");
        let seen = odd.contents();
        fake.script(&[("update", &[if expected == 2 { fails(FINAL) } else { fails(FREEZE) }])]);
        let bare = run(&mut fake.bare(&words));
        assert_eq!(wrapped, bare, "{case}");
        assert_eq!(bare.status.code(), Some(1), "{case}: control: not shown");
        assert_eq!(seen, odd.contents(), "{case}");
    }
}

/// A log of another kind, and how to see what is written to it.
struct Odd {
    path: PathBuf,
    reader: Option<File>,
    target: Option<PathBuf>,
    busy: Option<std::process::Child>,
}

impl Odd {
    fn new(case: &str, scratch: &Scratch) -> Odd {
        use std::os::unix::fs::OpenOptionsExt;
        let path = scratch.path("log");
        let mut odd = Odd { path: path.clone(), reader: None, target: None, busy: None };
        match case {
            "missing directory" => odd.path = scratch.path("no/log"),
            "directory" => std::fs::create_dir(path).unwrap(),
            "/dev/null" => odd.path = "/dev/null".into(),
            "busy" => {
                // Root can write to everything except a running program.
                install("/bin/sleep", &path);
                odd.busy = Some(Command::new(&path).arg("60").spawn().unwrap());
            }
            "fifo" => {
                nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
                let mut options = File::options();
                let reader = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
                odd.reader = Some(reader.unwrap());
            }
            _ => {
                let target = scratch.path("target");
                if case == "link" {
                    std::fs::write(&target, "").unwrap();
                }
                symlink(&target, path).unwrap();
                odd.target = Some(target);
            }
        }
        odd
    }

    /// What has been written since the last look.
    fn contents(&mut self) -> String {
        let mut bytes = Vec::new();
        if let Some(reader) = &mut self.reader {
            let _ = reader.read_to_end(&mut bytes);
        }
        if let Some(target) = &self.target {
            assert!(self.path.is_symlink());
            bytes = std::fs::read(target).unwrap();
            std::fs::write(target, "").unwrap();
        }
        text(&bytes)
    }
}

impl Drop for Odd {
    fn drop(&mut self) {
        let _ = self.busy.as_mut().map(|busy| busy.kill().and_then(|()| busy.wait()));
    }
}

/// crun's other log types belong to crun; `file:` is a file.
#[test]
fn prefixes_of_crun() {
    for kind in ["journald:c", "syslog:c"] {
        let scratch = Scratch::new();
        let fake = with_container("crun", &scratch, &[fails(FREEZE), Attempt::default()]);
        let output = run(fake.wrapped(&update(kind, FORMATS[0])).current_dir(scratch.path("fake")));
        assert_eq!(
            (output.status.code(), attempts(&fake)),
            (Some(0), 2),
            "{}",
            text(&output.stderr)
        );
        // The fake knows no prefixes: it has opened a file with exactly this name.
        let opened = read(&fake.dir().join(kind));
        assert_eq!(opened.lines().count(), 1, "{opened}");
    }
    let scratch = Scratch::new();
    let fake = with_container("crun", &scratch, &[fails(FREEZE), fails(FINAL)]);
    let log = scratch.path("log");
    let words = format!("file:{}", log.display());
    run(fake.wrapped(&update(&words, FORMATS[0])).current_dir(scratch.path("fake")));
    assert_eq!(attempts(&fake), 2);
    assert_eq!(podman_reads(&read(&log)).as_deref(), Some(FINAL));
}

/// Each operation's lines stay together.
#[test]
fn many_writers_of_one_log_do_not_tear_it() {
    const WRITERS: usize = 4;
    const OPERATIONS: usize = 10;
    let scratch = Scratch::new();
    let long = format!("container not running {}", "x".repeat(20_000));
    let fake = with_container("runc", &scratch, &[fails(&long)]);
    let log = scratch.path("log.json");
    let words = update(log.to_str().unwrap(), FORMATS[1]);
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                for _ in 0..OPERATIONS {
                    run(&mut fake.wrapped(&words));
                }
            });
        }
    });
    let written = read(&log);
    let entries: Vec<Entry> = serde_json::Deserializer::from_str(&written)
        .into_iter()
        .collect::<Result<_, _>>()
        .expect("whole entries");
    assert_eq!(entries.len(), WRITERS * OPERATIONS * 3);
    for three in entries.chunks(3) {
        let levels: Vec<&str> = three.iter().map(|entry| entry.level.as_str()).collect();
        assert_eq!(levels, ["debug", "error", "debug"]);
    }
}

#[test]
fn real_runtimes_errors_are_logged_as_bare() {
    for runtime in runtimes() {
        for format in [&["--log-format", "json"][..], &[]] {
            let scratch = Scratch::new();
            let broken = scratch.bundle("idle", "broken");
            scratch.edit(&broken, |config| config["root"]["path"] = "/nowhere/at/all".into());
            let broken = broken.to_str().unwrap();
            same(&scratch, &runtime, format, &["create", "--bundle", broken, "broken"]);
            same(&scratch, &runtime, format, &["update", "--cpu-quota", "1000", "unknown"]);
            // crun refuses to run on a host with both versions.
            if !runtime.is_crun() {
                let bundle = scratch.bundle("idle", "c");
                let mut create = scratch.bare(&runtime.path);
                create.args(["run", "--detach", "--bundle"]).arg(bundle);
                succeed(create.arg("c").stdout(Stdio::null()));
                same(&scratch, &runtime, format, &["exec", "c", "/no/such/program"]);
            }
        }
    }
}

/// Fails bare, and behind the wrapper with the same text.
fn same(scratch: &Scratch, runtime: &Runtime, format: &[&str], words: &[&str]) {
    let mut seen = Vec::new();
    for mut command in [scratch.bare(&runtime.path), scratch.wrapped(&runtime.path)] {
        let log = scratch.path("log");
        let _ = std::fs::remove_file(&log);
        let output = run(command.arg("--log").arg(&log).args(format).args(words));
        assert!(!output.status.success(), "{words:?}: control: not shown");
        let stderr = without_times(&text(&output.stderr));
        seen.push((output.status, text(&output.stdout), stderr, without_times(&read(&log))));
    }
    assert_eq!(seen[0], seen[1], "{} {words:?}", runtime.name);
    let (.., stderr, log) = &seen[0];
    assert!(!stderr.is_empty() && !log.is_empty(), "{} {words:?}: not shown", runtime.name);
}

/// In a pid namespace without its own /proc, the wrapper's pid there belongs to another process.
#[test]
fn no_other_process_is_taken_for_us() {
    let scratch = Scratch::new();
    let fake = with_container("runc", &scratch, &[fails(FINAL)]);
    let theirs = scratch.path("theirs");
    let opens = "for fd in 3 4 5 6 7 8 9; do eval \"exec $fd>>$0\"; done; exec sleep 60";
    let mut stranger =
        Command::new("bash").args(["-c", opens]).arg(&theirs).stdin(Stdio::null()).spawn().unwrap();
    eventually(Duration::from_secs(5), "it sleeps", || {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", stranger.id()));
        name.is_ok_and(|name| name == "sleep\n")
    });

    let log = scratch.path("log");
    let command = fake.wrapped(&update(log.to_str().unwrap(), FORMATS[0]));
    let enters =
        format!("echo {} > /proc/sys/kernel/ns_last_pid; \"$@\"; exit $?", stranger.id() - 1);
    let mut inside = Command::new("unshare");
    inside.args(["--pid", "--fork", "sh", "-c", &enters, "sh"]);
    inside.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = run(&mut inside);
    stranger.kill().unwrap();
    stranger.wait().unwrap();

    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let journal = scratch.journal();
    assert_eq!(journal.len(), 1, "{journal:?}");
    assert_eq!(journal[0]["pid"], stranger.id(), "not shown: another pid");
    assert_eq!(journal[0]["lock"], "exclusive");
    assert_eq!(journal[0]["requested_by"], "sh");
    assert_eq!(read(&theirs), "");
    assert_eq!(containerd_reads(&read(&log)).unwrap().as_deref(), Some(FINAL));
}

/// Every time stamp of a runtime has the form 2026-11-21T00:00:00Z, some with a fraction or an
/// offset.
fn without_times(said: &str) -> String {
    let mut plain = String::new();
    let mut rest = said;
    while let Some(at) = rest.find("20") {
        let (before, from) = rest.split_at(at);
        let stamp = |c: char| c.is_ascii_digit() || matches!(c, '-' | ':' | 'T' | 'Z' | '.' | '+');
        let end = from.find(|c| !stamp(c)).unwrap_or(from.len());
        plain.push_str(before);
        plain.push_str(if end >= 20 { "TIME" } else { &from[..end] });
        rest = &from[end..];
    }
    plain + rest
}

/// The runtime's output without our addition, and whether there was one.
fn explained(stderr: &[u8]) -> (Vec<u8>, bool) {
    let said = text(stderr);
    match said.split_once(" (frostlock: ") {
        Some((before, _)) => (format!("{before}\n").into_bytes(), true),
        None => (stderr.to_vec(), false),
    }
}
