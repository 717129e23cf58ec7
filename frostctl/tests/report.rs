//! The report of a generated journal, compared with a computation that shares no code with it; and
//! the time and memory for 1 million records.

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

/// The differences: counts that are not equal, and sums and times that differ by more than rounding
/// to three digits.
fn differences(ours: &Value, theirs: &Value, at: &str) -> Vec<String> {
    let differ = || vec![format!("{at}: {ours}, jq: {theirs}")];
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            if !ours.keys().eq(theirs.keys()) {
                return differ();
            }
            let pairs = ours.iter().map(|(key, value)| (key, value, &theirs[key]));
            pairs.flat_map(|(key, a, b)| differences(a, b, &format!("{at}.{key}"))).collect()
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            let pairs = ours.iter().zip(theirs);
            pairs.flat_map(|(a, b)| differences(a, b, &named(a, at))).collect()
        }
        (Value::Number(ours), Value::Number(theirs)) => {
            let (ours, theirs) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
            if (ours - theirs).abs() < 0.001 { Vec::new() } else { differ() }
        }
        _ if ours == theirs => Vec::new(),
        _ => differ(),
    }
}

fn named(verb: &Value, at: &str) -> String {
    format!("{at} {}", verb["verb"].as_str().unwrap_or_default())
}

fn assert_same(ours: &Value, theirs: &Value) {
    let differences = differences(ours, theirs, "verbs");
    assert!(differences.is_empty(), "{differences:#?}");
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
    let counts = theirs.as_array().unwrap().iter().map(|verb| verb["count"].as_u64().unwrap());
    let operations: u64 = counts.sum();
    assert_eq!(ours["operations"], operations);
    assert!(operations < 10_000, "a lift after its operation is none");
    assert!(theirs.as_array().unwrap().len() >= 6, "{theirs}");
    assert_same(&ours["verbs"], &theirs);
    // The control: with one record less, they differ.
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
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.filter(|record| record["verb"] != "lift" && wanted(record)).count()
    };
    let of_pod = count(&|record| record["pod"]["name"] == "pod-7");
    assert_eq!(report(&journal, &["--pod", "default/pod-7"])["operations"], of_pod);
    let since = "2026-01-01T00:30:00Z";
    let later = count(&|record| record["time"].as_str().unwrap() >= "2026-01-01T00:30:00.000Z");
    assert!(later > 0 && later < 10_000);
    assert_eq!(report(&journal, &["--since", since])["operations"], later);
    // Long after the last record.
    assert_eq!(report(&journal, &["--since", "2026-06-01T00:00:00Z"])["operations"], 0);
}

/// The output for a journal that cannot be used: one line, with the right exit status.
fn refused(args: &[&str]) -> String {
    let output = frostctl(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{args:?}: {error}");
    assert!(output.stdout.is_empty() && error.lines().count() == 1, "{args:?}: {error}");
    error
}

#[test]
fn what_is_no_journal_is_an_error_and_no_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("j");
    let whose = path.to_str().unwrap();
    let mut binary: Vec<u8> =
        (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    binary.push(b'\n');
    for (content, said) in [
        (&b""[..], "j: the journal is empty"),
        (
            b"{\"level\":\"info\"}\n{\"level\":\"info\"}\n",
            "2 lines were not used: 0 torn, 2 foreign",
        ),
        (b"text\n", "1 line was not used: 1 torn"),
        (b"{\"v\":9,\"mono_ns\":1}\n", "a later version"),
        (&binary, "no record of frostlock's"),
    ] {
        std::fs::write(&path, content).unwrap();
        for command in ["report", "history"] {
            let error = refused(&[command, "--journal", whose]);
            assert!(error.contains(said), "{error}");
        }
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    for command in ["report", "history"] {
        assert!(refused(&[command, "--journal", whose]).contains("there is no journal: expected"));
        // In place of the node's own.
        let state = directory.path().join("state");
        std::fs::create_dir_all(state.join("journal.jsonl")).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_frostctl"))
            .arg(command)
            .env("FROSTLOCK_STATE_DIR", &state)
            .env("FROSTLOCK_CONFIG", "/dev/null")
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && error.contains("not a regular file"), "{error}");
    }
}

#[test]
fn a_pod_that_is_not_there_is_no_pod_without_operations() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path(), 1000);
    let page = directory.path().join("page.html");
    let of = |more: &[&str]| {
        let page = ["--html", page.to_str().unwrap()];
        refused(&[&["report", "--journal", journal.to_str().unwrap()], more, &page].concat())
    };
    for (more, said) in [
        (&["--pod", "nosuch"][..], "has no pod nosuch;"),
        (&["--namespace", "other"], "has no pod of namespace other;"),
        (&["--pod", "pod-7", "--namespace", "other"], "has no pod pod-7 of namespace other;"),
    ] {
        assert!(of(more).contains(said), "{}", of(more));
    }
    assert!(!page.exists(), "nothing half done");
    // An existing pod, with nothing since then.
    let since = ["--pod", "pod-7", "--since", "2026-06-01T00:00:00Z"];
    assert_eq!(report(&journal, &since)["operations"], 0);
}

/// A hole is not read: that would take half an hour.
#[test]
fn a_terabyte_that_nobody_wrote_takes_a_moment() {
    const TERABYTE: u64 = 1 << 40;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    let line = |id: &str| {
        format!(
            "{}\n",
            serde_json::json!({"v": 1, "boot_id": "b", "time": "2026-01-01T00:00:01.000Z",
            "mono_ns": 1, "verb": "create", "id": id, "attempts": 1, "verdict": "ok"})
        )
    };
    std::fs::write(&path, line("first")).unwrap();
    let mut file = File::options().append(true).open(&path).unwrap();
    file.set_len(TERABYTE).unwrap();
    file.write_all(format!("\n{}", line("last")).as_bytes()).unwrap();
    assert!(path.metadata().unwrap().len() > TERABYTE, "the control");
    for command in ["report", "history", "metrics"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_frostctl"))
            .args([command, "--json", "--journal", path.to_str().unwrap()])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let until = Instant::now() + std::time::Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{command} reads what is not there");
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let output = child.wait_with_output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        match command {
            "report" => assert_eq!(answer["operations"], 2, "{answer}"),
            "history" => assert_eq!(answer["lives"].as_array().unwrap().len(), 2, "{answer}"),
            _ => assert_eq!(answer["counters"]["skipped_lines"], 1, "{answer}"),
        }
    }
}

/// The journal is as long as this machine needs for that.
#[test]
fn a_report_that_takes_long_shows_a_terminal_how_far_it_is_and_a_pipe_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = journal(directory.path(), 1000);
    let thousand = std::fs::read(&path).unwrap();
    let mut times = 400;
    loop {
        std::fs::write(&path, thousand.repeat(times)).unwrap();
        let began = std::time::Instant::now();
        let output = frostctl(&["report", "--journal", path.to_str().unwrap()]);
        let took = began.elapsed();
        assert!(output.status.success() && output.stderr.is_empty(), "a pipe: {output:?}");
        if took > std::time::Duration::from_secs(3) {
            break;
        }
        assert!(times < 10_000, "{took:?}");
        times *= 2;
    }
    let inner = format!("{} report --journal {}", env!("CARGO_BIN_EXE_frostctl"), path.display());
    let output = Command::new("script").args(["-q", "-e", "-c", &inner, "/dev/null"]).output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    let shown: Vec<&str> = said.split("\r\u{1b}[K").collect();
    let is_how_far =
        |it: &str| it.starts_with("read ") && it.contains(" MiB, ") && it.ends_with('%');
    assert!(shown[1..shown.len() - 1].iter().all(|it| is_how_far(it)), "{shown:?}");
    assert!(shown.len() > 4 && shown[shown.len() - 1].contains("operations of"), "{shown:?}");
}

/// An id of 300 bytes, and an id whose prefix another one has, too.
#[test]
fn history_has_a_start_and_takes_any_beginning_that_is_unique() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    let long = "x".repeat(300);
    let ids = ["abcdef0123456789", "abcdef0123456788", "b1", &long];
    let lines = ids.iter().enumerate().map(|(n, id)| {
        let record = serde_json::json!({"v": 1, "boot_id": "b", "verb": "create", "id": id,
            "time": format!("2026-01-01T00:00:0{n}.000Z"), "mono_ns": n + 1, "verdict": "ok"});
        format!("{record}\n")
    });
    std::fs::write(&path, lines.collect::<String>()).unwrap();
    let journal = ["history", "--journal", path.to_str().unwrap()];
    let of = |what: &str| frostctl(&[&journal[..], &[what]].concat());
    let all = String::from_utf8(frostctl(&journal).stdout).unwrap();
    let rows: Vec<&str> = all.lines().collect();
    assert!(rows[0].starts_with("CONTAINER         START                 POD"), "{all}");
    assert!(rows[1].starts_with("abcdef0123456789  2026-01-01T00:00:00Z"), "{all}");
    for (what, id) in
        [("b", "b1"), ("x", &long), (&long[..299], &long), ("abcdef0123456789", ids[0])]
    {
        let output = of(what);
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(id), "{what}: {output:?}");
    }
    let error = refused(&[&journal[..], &["abcdef"]].concat());
    assert!(error.contains("2 ids begin with \"abcdef\""), "{error}");
    let error = refused(&[&journal[..], &["nosuch"]].concat());
    assert!(error.contains("the journal has nothing of nosuch"), "{error}");
}

/// A full device, a reader that has gone, and one that goes while nothing happens.
#[test]
fn an_output_that_nobody_takes() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path(), 1000);
    let shell = |script: &str| {
        Command::new("bash")
            .args(["-c", script, "bash", env!("CARGO_BIN_EXE_frostctl")])
            .arg(&journal)
            .output()
            .unwrap()
    };
    for command in ["report", "history"] {
        let full = shell(&format!("\"$1\" {command} --journal \"$2\" >/dev/full"));
        let error = String::from_utf8_lossy(&full.stderr).into_owned();
        assert_eq!(full.status.code(), Some(3), "{error}");
        assert!(error.contains("cannot write to standard output: No space left"), "{error}");
        let gone =
            shell(&format!("\"$1\" {command} --journal \"$2\" | true; exit ${{PIPESTATUS[0]}}"));
        assert!(gone.status.success() && gone.stderr.is_empty(), "{gone:?}");
    }
    let followed =
        shell("timeout 20 \"$1\" history --follow --journal \"$2\" | true; exit ${PIPESTATUS[0]}");
    assert_eq!(followed.status.code(), Some(0), "it follows for nobody: {followed:?}");
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

/// The line for a journal of the previous version.
#[test]
fn refills_of_the_version_before_are_one_line() {
    const LINE: &str = "refilled (earlier version): 2 times, 0.1 s of CPU gained";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    let record = serde_json::json!({"v": 1, "boot_id": "b", "time": "2026-01-01T00:00:01.000Z",
        "mono_ns": 1, "verb": "exec", "id": "c", "attempts": 1, "verdict": "ok", "refills": [
            {"cgroup": "/c", "reason": "exec", "ms": 12.5, "writes": 11, "gained_ms": 80.0, "ended": "done"},
            {"cgroup": "/", "reason": "exec", "ms": 1.5, "writes": 1, "gained_ms": 1.0, "ended": "done"}]});
    std::fs::write(&path, format!("{record}\n")).unwrap();
    let page = directory.path().join("report.html");
    let args = ["report", "--journal", path.to_str().unwrap(), "--html", page.to_str().unwrap()];
    let output = frostctl(&args);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().any(|line| line == LINE), "{text}");
    assert!(std::fs::read_to_string(&page).unwrap().contains(LINE));
    // The control: with lifts there is no such line.
    let with_lifts = journal(directory.path(), 1000);
    let output = frostctl(&["report", "--journal", with_lifts.to_str().unwrap()]);
    assert!(!String::from_utf8(output.stdout).unwrap().contains("refilled"));
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

/// As proof: `make proof SUITES=storm-report`.
#[test]
#[ignore = "the journal of a storm, which takes minutes"]
fn a_storm() {
    let journal = std::env::var_os("FROSTLOCK_STORM_JOURNAL")
        .map(PathBuf::from)
        .expect("FROSTLOCK_STORM_JOURNAL: a journal that scripts/resize-storm has left");
    let (ours, theirs) = (report(&journal, &[]), independent(&journal));
    for verb in ours["verbs"].as_array().unwrap() {
        println!("{verb}");
    }
    assert_same(&ours["verbs"], &theirs);
    assert_eq!(
        ours["skipped"],
        serde_json::json!({"torn": 0, "foreign": 0, "future_version": 0, "out_of_order": 0})
    );
    // Numbers that are zero in the journal compare nothing.
    let sum = |of: fn(&Value) -> f64| -> f64 { theirs.as_array().unwrap().iter().map(of).sum() };
    let failed = sum(|verb| verb["count"].as_f64().unwrap() - verb["ok"].as_f64().unwrap());
    let (retries, lifts) =
        (sum(|it| it["retries"].as_f64().unwrap()), sum(|it| it["lifts"].as_f64().unwrap()));
    println!(
        "{} operations, {failed} failed, {retries} retries, {lifts} lifts: no number differs",
        ours["operations"]
    );
    // Lifts leave few retries to do; one is made below.
    assert!(failed > 0.0 && lifts > 0.0, "not shown");
    for (number, alter) in ALTERATIONS {
        one_record_altered(&journal, &ours["verbs"], number, alter);
    }
}

type Alter = fn(&mut Value);

/// A change of one record, and the number that must then differ.
const ALTERATIONS: [(&str, Alter); 7] = [
    ("count", |record| record["verb"] = "update".into()),
    ("failures", |record| record["verdict"] = "failed".into()),
    ("retries", |record| record["attempts"] = 2.into()),
    ("lifts", |record| lift(record, "runtime", 0.0)),
    ("lifted_ms", |record| lift(record, "runtime", 0.5)),
    ("program_ms", |record| lift(record, "program", 0.5)),
    ("p99_ms", |record| record["stages"]["run"] = 1e6.into()),
];

fn lift(record: &mut Value, whose: &str, cpu_ms: f64) {
    let mut lifts = record["lifts"].as_array().cloned().unwrap_or_default();
    lifts.push(serde_json::json!({"whose": whose, "cpu_ms": cpu_ms}));
    record["lifts"] = lifts.into();
}

/// The control: the first exec that succeeded at once is altered, and jq's numbers change. The
/// report of the altered journal agrees with them again.
fn one_record_altered(journal: &Path, ours: &Value, number: &str, alter: Alter) {
    let is_plain = |record: &Value| {
        record["verb"] == "exec" && record["verdict"] == "ok" && record["attempts"] == 1
    };
    let text = std::fs::read_to_string(journal).unwrap();
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    alter(lines.iter_mut().find(|line| is_plain(line)).expect("an exec"));
    let directory = tempfile::tempdir().unwrap();
    let altered = directory.path().join("altered.jsonl");
    std::fs::write(&altered, lines.iter().map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
    let theirs = independent(&altered);
    let differences = differences(ours, &theirs, "");
    let first = differences.iter().find(|it| it.contains(number));
    println!(
        "control, one exec altered:{}",
        first.expect("not shown: the comparison sees nothing")
    );
    assert_same(&report(&altered, &[])["verbs"], &theirs);
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
    // CPU time, since a busy machine does not mean a slow reader.
    assert!(cpu[..3].iter().all(|seconds| *seconds < 3.0), "{cpu:?}");
    assert!(peak_mib < 128, "{peak_mib} MiB");
}

/// CPU seconds and peak KiB of the children that have ended.
fn children() -> (f64, i64) {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let cpu = usage.user_time() + usage.system_time();
    (cpu.num_microseconds() as f64 / 1e6, usage.max_rss())
}
