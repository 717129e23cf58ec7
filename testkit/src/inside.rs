//! Tests of the calling suite, run again in another environment.

use std::process::Command;

use crate::command::text;
use crate::pace::proof;
use crate::programs::repository;

/// Runs an ignored test of the calling suite where only cgroup v2 is mounted, as crun needs it.
pub fn on_v2(test: &str) {
    run_inside(&mut v2(), test);
}

/// The same, in the environment that a command provides.
pub fn run_inside(where_to: &mut Command, test: &str) {
    let text = passes_inside(where_to, test);
    if proof() {
        print!("{text}");
    }
}

/// Runs a command where only cgroup v2 is mounted.
pub(crate) fn v2() -> Command {
    assert!(nix::unistd::geteuid().is_root(), "the kernel suites need root");
    Command::new(repository().join("scripts/v2ns"))
}

/// What the test prints.
pub(crate) fn passes_inside(where_to: &mut Command, test: &str) -> String {
    let inner = where_to
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = text(&[inner.stdout, inner.stderr].concat());
    assert!(inner.status.success() && text.contains("1 passed"), "{text}");
    text
}
