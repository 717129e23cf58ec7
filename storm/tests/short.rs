//! Two short storms in their own nodes; nothing in them depends on the machine's speed. The real
//! ones are `make proof SUITES='storm-2.3 storm-kills'`.
//!
//! Needs root and the lab (`make lab`).

// clippy.toml allows these in tests, but helpers of a test are not #[test].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Returns the report. The storm must exit with 0. Only a terminal is shown the progress.
fn storm(out: &Path, words: &[&str], is_terminal: bool) -> Value {
    let log = std::fs::File::create(out.join("log")).unwrap();
    let program = env!("CARGO_BIN_EXE_resize-storm");
    let mut command = Command::new(if is_terminal { "script" } else { program });
    if is_terminal {
        let inner = format!("{program} {} --out {}", words.join(" "), out.display());
        command.args(["-q", "-e", "-c", &inner, "/dev/null"]);
    } else {
        command.args(words).arg("--out").arg(out);
    }
    let status =
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).status().unwrap();
    let said = std::fs::read_to_string(out.join("log")).unwrap();
    assert!(status.success(), "{words:?}: {status}\n{said}");
    assert_eq!(said.contains(" pods  sandbox "), is_terminal, "{said}");
    for file in ["storm.txt", "storm.svg"] {
        assert!(out.join(file).metadata().unwrap().len() > 0, "{file}");
    }
    serde_json::from_slice(&std::fs::read(out.join("storm.json")).unwrap()).unwrap()
}

#[test]
fn bare_updates_of_busy_pods_fail() {
    let out = tempfile::tempdir().unwrap();
    // With eight threads, a bare operation can take minutes to end, up to every limit on its way.
    let words = ["--side=bare", "--pods=3", "--minutes=0.2", "--threads=3", "--resize-period=3"];
    let report = storm(out.path(), &words, true);
    let failures = &report["sides"][0]["sum"]["steps"]["update"]["failures"];
    assert!(failures.to_string().contains("unable to freeze"), "{failures}");
}

#[test]
fn after_kills_all_is_as_it_was_asked_for() {
    let out = tempfile::tempdir().unwrap();
    let words = [
        "--side=wrapped",
        "--pods=3",
        "--minutes=0.3",
        "--resize-period=2",
        "--probe-period=0.5",
        "--kills=8",
    ];
    let report = storm(out.path(), &words, false);
    let side = &report["sides"][0];
    assert_eq!(side["killed"].as_array().unwrap().len(), 8);
    assert_eq!(side["afterwards"], Value::Array(Vec::new()));
    for step in ["sandbox", "create", "start", "update", "exec", "stop", "remove"] {
        assert!(side["sum"]["steps"][step]["attempts"].as_u64() > Some(0), "{step}: {side}");
    }
}
