//! A node has 128 inotify instances for root, and kubelet, containerd and the like use them up.
//! frostlock needs none: every command works without an instance.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify};
use testkit::fake_runtime::{Fake, program};
use testkit::{Scratch, run_inside, succeed};

/// In a user namespace, so that nobody else's instances are affected.
const NONE_LEFT: &str = "echo 0 >/proc/sys/user/max_inotify_instances && exec \"$@\"";

#[test]
fn every_command_works_without_an_instance() {
    // Built here, since cargo must not run in the namespace.
    program();
    let in_one = ["--user", "--map-root-user", "sh", "-c", NONE_LEFT, "sh"];
    run_inside(Command::new("unshare").args(in_one), "inner_without_an_instance");
}

#[test]
#[ignore = "run by every_command_works_without_an_instance in its user namespace"]
fn inner_without_an_instance() {
    let refused = Inotify::init(InitFlags::empty()).map(drop);
    assert_eq!(refused, Err(Errno::EMFILE), "control: there is one");
    let scratch = Scratch::new();
    // With the long journal, whose records a separate process carries to the disk.
    let history = scratch.path("history");
    let fake = Fake::new(
        &scratch,
        &format!("[history]\nenabled = true\ndirectory = \"{}\"\n", history.display()),
    );
    succeed(&mut fake.create("c"));
    let verbs: [&[&str]; 9] = [
        &["start", "c"],
        &["state", "c"],
        &["exec", "c", "true"],
        &["update", "--cpu-quota", "1000", "c"],
        &["pause", "c"],
        &["resume", "c"],
        &["kill", "c", "KILL"],
        &["delete", "c"],
        &["list"],
    ];
    for words in verbs {
        succeed(&mut fake.wrapped(words));
    }
    let journal = scratch.journal();
    // `state` and `list` leave no record.
    assert_eq!(journal.len(), 1 + verbs.len() - 2, "{journal:?}");
    assert!(journal.iter().all(|record| record["verdict"] == "ok"), "{journal:?}");
    testkit::eventually(std::time::Duration::from_secs(5), "the records are on the disk", || {
        let long = std::fs::read_to_string(history.join("history.jsonl")).unwrap_or_default();
        long.lines().count() == journal.len()
    });
}
