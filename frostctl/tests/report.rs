//! The report of a generated journal, against a computation that shares no code with it; and of 1
//! million records, its time and its memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod generator;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use generator::Generator;
use serde_json::Value;

fn journal(directory: &Path, records: usize) -> PathBuf {
    let path = directory.join("history.jsonl");
    let mut file = BufWriter::new(File::create(&path).unwrap());
    Generator::new().write(&mut file, records);
    file.flush().unwrap();
    path
}

fn frostctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_frostctl")).args(args).output().unwrap()
}

fn report(journal: &Path, more: &[&str]) -> Value {
    let args = [&["report", "--json", "--journal", journal.to_str().unwrap()], more].concat();
    let output = frostctl(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Counts are equal; sums and times but for what a float of three digits rounds.
fn assert_same(ours: &Value, theirs: &Value, at: &str) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{at}");
            for (key, value) in ours {
                assert_same(value, &theirs[key], &format!("{at}.{key}"));
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            assert_eq!(ours.len(), theirs.len(), "{at}");
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                assert_same(ours, theirs, &format!("{at}[{index}]"));
            }
        }
        (Value::Number(ours), Value::Number(theirs)) => {
            let (ours, theirs) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
            assert!((ours - theirs).abs() < 0.001, "{at}: {ours}, jq: {theirs}");
        }
        _ => assert_eq!(ours, theirs, "{at}"),
    }
}

fn independent(journal: &Path) -> Value {
    let jq = Command::new("jq")
        .args(["-s", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/numbers.jq")])
        .arg(journal)
        .output()
        .expect("jq, of `scripts/setup lab`");
    assert!(jq.status.success(), "{}", String::from_utf8_lossy(&jq.stderr));
    serde_json::from_slice(&jq.stdout).unwrap()
}

#[test]
fn the_numbers_are_those_of_an_independent_computation() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path(), 10_000);
    let (ours, theirs) = (report(&journal, &[]), independent(&journal));
    assert_eq!(ours["operations"], 10_000);
    assert!(theirs.as_array().unwrap().len() >= 6, "{theirs}");
    assert_same(&ours["verbs"], &theirs, "verbs");
    // The control: one record less, and they differ.
    let text = std::fs::read_to_string(&journal).unwrap();
    let less = directory.path().join("less.jsonl");
    std::fs::write(&less, text.split_once('\n').unwrap().1).unwrap();
    assert_ne!(independent(&less)[0]["count"], ours["verbs"][0]["count"]);
}

#[test]
fn a_pod_and_a_time_leave_out_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path(), 10_000);
    let count = |wanted: &dyn Fn(&Value) -> bool| {
        let text = std::fs::read_to_string(&journal).unwrap();
        text.lines().filter(|line| wanted(&serde_json::from_str(line).unwrap())).count()
    };
    let of_pod = count(&|record| record["pod"]["name"] == "pod-7");
    assert_eq!(report(&journal, &["--pod", "default/pod-7"])["operations"], of_pod);
    assert_eq!(report(&journal, &["--namespace", "other"])["operations"], 0);
    let since = "2026-01-01T00:30:00Z";
    let later = count(&|record| record["time"].as_str().unwrap() >= "2026-01-01T00:30:00.000Z");
    assert!(later > 0 && later < 10_000);
    assert_eq!(report(&journal, &["--since", since])["operations"], later);
    // Long after the last record.
    assert_eq!(report(&journal, &["--since", "2026-06-01T00:00:00Z"])["operations"], 0);
}

#[test]
fn the_page_needs_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("report.html");
    let journal = journal(directory.path(), 2000);
    let text =
        std::fs::read_to_string(&journal).unwrap().replace("pod-", "<script>alert(1)</script>");
    std::fs::write(&journal, text).unwrap();
    report(&journal, &["--html", page.to_str().unwrap()]);
    let html = std::fs::read_to_string(&page).unwrap();
    for foreign in ["<script", "http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!html.contains(foreign), "{foreign}");
    }
    assert!(html.contains("&lt;script&gt;") && html.contains("<svg"));
}

#[test]
fn no_journal_is_said_and_how_to_get_one() {
    let directory = tempfile::tempdir().unwrap();
    for command in ["report", "history"] {
        let output = Command::new(env!("CARGO_BIN_EXE_frostctl"))
            .arg(command)
            .env("FROSTLOCK_STATE_DIR", directory.path())
            .env("FROSTLOCK_CONFIG", "/dev/null")
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert!(error.contains("there is no journal") && error.contains("Install"), "{error}");
    }
}

/// In an optimized build, as proof: `make proof SUITES=journal-speed`.
#[test]
#[ignore = "a million records, and an optimized build"]
fn a_million_records() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path(), 1_000_000);
    let bytes = journal.metadata().unwrap().len();
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    for command in ["report", "report", "report", "history"] {
        let (began, before) = (Instant::now(), children());
        let status = Command::new(env!("CARGO_BIN_EXE_frostctl"))
            .args([command, "--journal"])
            .arg(&journal)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        wall.push(began.elapsed().as_secs_f64());
        cpu.push(children().0 - before.0);
    }
    let peak_mib = children().1 >> 10;
    println!("1,000,000 records, {} MiB; three reports and a history", bytes >> 20);
    println!("seconds: {wall:.2?}, of CPU: {cpu:.2?}; at most {peak_mib} MiB of memory");
    // Of CPU: a busy machine is no slow reader.
    assert!(cpu[..3].iter().all(|seconds| *seconds < 2.0), "{cpu:?}");
    assert!(peak_mib < 128, "{peak_mib} MiB");
}

/// CPU seconds and peak KiB of those that have ended.
fn children() -> (f64, i64) {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let cpu = usage.user_time() + usage.system_time();
    (cpu.num_microseconds() as f64 / 1e6, usage.max_rss())
}
