//! No runtime, or another program in its place.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testkit::{Scratch, frostlock, program, text};

use crate::{ID, SEVEN, is_seven, within_limit};

fn bad_runtimes(scratch: &Scratch) -> Vec<(PathBuf, &'static str)> {
    let file = |name: &str, contents: &str, mode: u32| {
        let path = scratch.path(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let fifo = scratch.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    vec![
        (scratch.path("missing"), "is not there"),
        (file("plain", SEVEN, 0o644), "is not executable"),
        (PathBuf::from("/dev/shm"), "is not a regular file"),
        (fifo, "is not a regular file"),
        (frostlock(), "is frostlock itself"),
        (file("text", "neither ELF nor script\n", 0o755), "Exec format error"),
        (file("empty", "", 0o755), "Exec format error"),
        (file("orphan", "#!/nowhere/sh\n", 0o755), "No such file or directory"),
    ]
}

/// For a runtime that blocks, is supervised or is handed over: the message is the same.
#[test]
fn the_caller_reads_why_in_its_own_log() {
    let scratch = Scratch::new();
    for (path, why) in bad_runtimes(&scratch) {
        for verb in [&["list"] as &[_], &["state", ID], &["delete", ID], &["create", ID]] {
            says_why(&scratch, &path, why, verb);
        }
    }
}

fn says_why(scratch: &Scratch, path: &Path, why: &str, verb: &[&str]) {
    let log = scratch.path("log");
    for format in [None, Some("json"), Some("text")] {
        let _ = fs::remove_file(&log);
        let mut command = scratch.wrapped(path);
        if let Some(format) = format {
            command.arg("--log").arg(&log).args(["--log-format", format]);
        }
        let output = within_limit(command.args(verb));
        assert_eq!(output.status.code(), Some(1), "{path:?} {verb:?} {output:?}");
        let said = text(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("frostlock: ") && said.contains(why), "{path:?}: {said}");
        let logged = fs::read_to_string(&log).unwrap_or_default();
        assert_eq!(logged.lines().count(), usize::from(format.is_some()), "{logged}");
        match format {
            Some("json") => {
                let entry: Value = serde_json::from_str(&logged).unwrap();
                assert_eq!(entry["level"], "error");
                assert_eq!(entry["msg"], said.trim_end());
            }
            Some(_) => assert!(logged.contains("level=error msg="), "{logged}"),
            None => {}
        }
    }
}

/// A wrong runtime in the configuration affects every operation of the node.
#[test]
fn one_that_is_only_configured_is_replaced_by_another_of_its_kind() {
    let scratch = Scratch::new();
    let runc = in_path(&scratch, "runc", SEVEN);
    for (path, why) in bad_runtimes(&scratch).into_iter().filter(|(_, why)| why.starts_with("is "))
    {
        let named = scratch.path("runc-1.3");
        if path.exists() {
            symlink(&path, &named).unwrap();
        }
        for verb in ["create", "delete", "state", "list"] {
            let output = within_limit(configured(&scratch, &named).args([verb, ID]));
            is_seven(&output);
        }
        let notes: Vec<String> =
            scratch.journal().iter().map(|it| it["note"].as_str().unwrap().into()).collect();
        assert_eq!(notes.len(), 2, "{notes:?}");
        let fell_back = format!("fell back to {}", runc.display());
        for note in notes {
            assert_eq!(note.matches(&fell_back).count(), 1, "{note}");
            assert!(note.contains(why), "{note}");
        }
        fs::remove_dir_all(scratch.state()).unwrap();
        let _ = fs::remove_file(&named);
    }
}

/// A sandboxing runtime is not replaced by one without a sandbox, nor one kind by another: when
/// the right one is back, it does not know the container, and deletes it.
#[test]
fn one_of_another_name_is_not_replaced() {
    let scratch = Scratch::new();
    in_path(&scratch, "runc", SEVEN);
    for name in ["runsc", "kata-runtime", "krun", "rnuc"] {
        let output = within_limit(configured(&scratch, &scratch.path(name)).args(["create", ID]));
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        assert!(text(&output.stderr).contains("is not there"), "{output:?}");
    }
    let crun = scratch.path("missing/crun-1.21");
    in_path(&scratch, "crun", "#!/bin/sh\nexit 8\n");
    let output = within_limit(configured(&scratch, &crun).args(["state", "another"]));
    assert_eq!(output.status.code(), Some(8), "{output:?}");
}

/// With `list`, since runc and crun both have it.
#[test]
fn one_that_a_caller_has_named_is_not_replaced() {
    let scratch = Scratch::new();
    in_path(&scratch, "runc", SEVEN);
    let link = scratch.path("frostlock-none");
    symlink(frostlock(), &link).unwrap();
    let mut command = Command::new(&link);
    command.env("PATH", scratch.path("bin")).env("FROSTLOCK_STATE_DIR", scratch.state());
    let output = within_limit(command.arg("list"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("no other none in PATH"), "{output:?}");
}

fn in_path(scratch: &Scratch, name: &str, text: &str) -> PathBuf {
    fs::create_dir_all(scratch.path("bin")).unwrap();
    program(&scratch.path("bin").join(name), text)
}

fn configured(scratch: &Scratch, runtime: &Path) -> Command {
    let config = scratch.path("config.toml");
    fs::write(&config, format!("runtime = {:?}\n", runtime.display().to_string())).unwrap();
    let mut command = scratch.wrapped(runtime);
    command.env_remove("FROSTLOCK_RUNTIME").env("FROSTLOCK_CONFIG", &config);
    command.env("PATH", format!("{}:/usr/bin:/bin", scratch.path("bin").display()));
    command
}

#[test]
fn nor_a_log_or_a_stderr_to_say_so() {
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo.log");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for log in [fifo, scratch.path("no/such/log"), PathBuf::from("/dev/shm")] {
        for close in ["2>&-", "", "2>/dev/full"] {
            let mut command = Command::new("sh");
            command
                .args(["-c", &format!("exec \"$0\" \"$@\" {close}")])
                .arg(frostlock())
                .arg("--log")
                .arg(&log)
                .arg("list")
                .env("FROSTLOCK_RUNTIME", "/nowhere/runc");
            assert_eq!(within_limit(&mut command).status.code(), Some(1));
        }
    }
}
