//! Bad days: whatever is wrong around frostlock, the container operation goes ahead as it would
//! without it, and somebody can find out what was wrong.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bundles_and_ids;
mod configuration;
mod installed;
mod journal;
mod limits;
mod no_runtime;
mod state_directory;
mod stdio;
mod surroundings;
mod syslog;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{Scratch, program, run, runtime, succeed, text};

/// Longer than any lock wait and any operation here; a command that blocks on frostlock takes
/// forever.
const LIMIT: Duration = Duration::from_secs(20);

const ID: &str = "c";

/// What the fake runtime does by default.
const SEVEN: &str = "#!/bin/sh\necho out \"$#\"\necho err >&2\nexit 7\n";

fn seven(scratch: &Scratch) -> PathBuf {
    program(&scratch.path("seven"), SEVEN)
}

/// Runs to the end, with pipes; not for containers, which would keep them open.
fn within_limit(command: &mut Command) -> Output {
    let began = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if ended.recv_timeout(LIMIT).is_err() {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    let _ = done.send(());
    watchdog.join().unwrap();
    assert!(began.elapsed() < LIMIT, "{command:?} was blocked");
    output
}

#[track_caller]
fn is_seven(output: &Output) {
    is_seven_with(output, "out ");
}

#[track_caller]
fn is_seven_with(output: &Output, out: &str) {
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(text(&output.stdout).starts_with(out), "{output:?}");
    assert_eq!(text(&output.stderr), "err\n");
}

/// The same command in a separate mount namespace, after `setup`, a shell script.
fn in_namespace(setup: &str, command: &Command) -> Command {
    let mut inner = Command::new("unshare");
    inner
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg(format!("{setup}\nexec \"$@\""))
        .arg("sh")
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inner.env(name, value),
            None => inner.env_remove(name),
        };
    }
    inner
}

/// A container's life with a real runtime, with a change to each command.
fn life(scratch: &Scratch, adapt: impl Fn(Command) -> Command) {
    let runc = runtime("runc-1.1.5").path;
    let bundle = scratch.bundle("idle", ID);
    let wrapped = |args: &[&str]| {
        let mut command = scratch.wrapped(&runc);
        command.args(args);
        succeed(&mut adapt(command))
    };
    wrapped(&["create", "--bundle", bundle.to_str().unwrap(), ID]);
    let status = |args: &[&str]| -> Value {
        serde_json::from_slice(&wrapped(args).stdout).expect("the state")
    };
    assert_eq!(status(&["state", ID])["status"], "created");
    wrapped(&["start", ID]);
    wrapped(&["exec", ID, "true"]);
    wrapped(&["update", "--pids-limit", "77", ID]);
    wrapped(&["pause", ID]);
    assert_eq!(status(&["state", ID])["status"], "paused");
    wrapped(&["resume", ID]);
    assert_eq!(status(&["state", ID])["status"], "running");
    wrapped(&["kill", ID, "KILL"]);
    wrapped(&["delete", "--force", ID]);
    assert!(!run(scratch.bare(&runc).args(["state", ID])).status.success());
}

/// A fake runtime that prints its parent's pid.
const WHOSE_CHILD: &str = "#!/bin/sh\necho $PPID\n";

#[test]
fn the_kill_switch_leaves_nothing_of_ours() {
    let scratch = Scratch::new();
    let whose = program(&scratch.path("whose"), WHOSE_CHILD);
    fs::create_dir(scratch.state()).unwrap();
    fs::set_permissions(scratch.state(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(scratch.state().join("off"), "").unwrap();
    for verb in ["create", "start", "exec", "update", "pause", "delete", "state", "list"] {
        let output = within_limit(scratch.wrapped(&whose).args([verb, ID, "true"]));
        assert_eq!(text(&output.stdout).trim(), std::process::id().to_string(), "{verb}");
    }
    let left: Vec<_> = fs::read_dir(scratch.state()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    fs::remove_file(scratch.state().join("off")).unwrap();
    let output = within_limit(scratch.wrapped(&whose).args(["delete", ID]));
    assert_ne!(text(&output.stdout).trim(), std::process::id().to_string());
    assert_eq!(scratch.journal().len(), 1);
}
