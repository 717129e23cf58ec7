//! Descriptors, file sizes and processes are limited.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{Scratch, frostlock, install, program, runtime, succeed, text};

use crate::{ID, is_seven, seven, within_limit};

/// Through prlimit(1), whose limits we inherit.
fn limited(limit: &str, command: &Command) -> Command {
    let mut limited = Command::new("prlimit");
    limited.arg(limit).arg(command.get_program()).args(command.get_args());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

fn supervised(scratch: &Scratch, runtime: &Path) -> Vec<Command> {
    let bundle = scratch.bundle("idle", ID);
    ["create", "start", "exec", "update", "pause", "kill", "delete"]
        .iter()
        .map(|verb| {
            let mut command = scratch.wrapped(runtime);
            command.arg(verb);
            if *verb == "create" {
                command.arg("--bundle").arg(&bundle);
            }
            command.args([ID, "true"]);
            command
        })
        .collect()
}

#[test]
fn descriptors() {
    let scratch = Scratch::new();
    // A shell would use descriptor 10.
    for command in supervised(&scratch, Path::new("/bin/echo")) {
        for most in 4..=12 {
            let output = within_limit(&mut limited(&format!("--nofile={most}"), &command));
            assert!(output.status.success(), "{most}: {output:?}");
            assert!(text(&output.stdout).ends_with("c true\n"), "{most}: {output:?}");
            assert_eq!(text(&output.stderr), "");
        }
    }
}

/// The runtime gets the input whether it was read before or not, even if frostlock becomes the
/// runtime.
#[test]
fn descriptors_with_an_input() {
    let scratch = Scratch::new();
    // dash would use descriptor 10.
    let reads = program(&scratch.path("reads"), "#!/bin/bash\nread line\necho \"$line\"\n");
    let input = scratch.path("input");
    fs::write(&input, "{\"cpu\":{}}\n").unwrap();
    let words = ["update", "--resources", "-", ID];
    for most in 4..=16 {
        for command in [scratch.bare(&reads), scratch.wrapped(&reads)] {
            let mut limited = limited(&format!("--nofile={most}"), &command);
            limited.args(words).stdin(fs::File::open(&input).unwrap());
            let output = within_limit(&mut limited);
            assert_eq!(text(&output.stdout), "{\"cpu\":{}}\n", "{most} {command:?} {output:?}");
        }
    }
}

/// If a note stayed, the next operation would undo a successful pause.
#[test]
fn descriptors_for_a_note() {
    let scratch = Scratch::new();
    let runc = runtime("runc-1.1.15").path;
    let bundle = scratch.bundle("idle", ID);
    succeed(scratch.wrapped(&runc).args(["run", "--detach", "--bundle"]).arg(bundle).arg(ID));
    let mut pause = scratch.wrapped(Path::new("/bin/echo"));
    pause.args(["pause", ID]);
    for most in 4..=12 {
        // With enough descriptors, it is found that nothing has frozen.
        within_limit(&mut limited(&format!("--nofile={most}"), &pause));
        assert_eq!(notes(&scratch), Vec::<PathBuf>::new(), "{most}");
    }
    succeed(scratch.wrapped(&runc).args(["delete", "--force", ID]));
}

fn notes(scratch: &Scratch) -> Vec<PathBuf> {
    let cgroups = fs::read_dir(scratch.state().join("intents")).into_iter().flatten().flatten();
    let notes = cgroups.filter_map(|cgroup| fs::read_dir(cgroup.path()).ok()).flatten();
    notes.flatten().map(|note| note.path()).collect()
}

#[test]
fn file_size() {
    let scratch = Scratch::new();
    for command in supervised(&scratch, &seven(&scratch)) {
        for most in [0, 1, 100] {
            is_seven(&within_limit(&mut limited(&format!("--fsize={most}"), &command)));
        }
    }
}

#[test]
fn file_size_with_a_container() {
    let scratch = Scratch::new();
    let runc = runtime("runc-1.1.5").path;
    let bundle = scratch.bundle("idle", ID);
    succeed(scratch.wrapped(&runc).args(["run", "--detach", "--bundle"]).arg(bundle).arg(ID));
    let mut pause = scratch.wrapped(&runc);
    pause.args(["pause", ID]);
    let output = within_limit(&mut limited("--fsize=0", &pause));
    assert!(output.status.success(), "{output:?}");
    succeed(scratch.wrapped(&runc).args(["resume", ID]));
    succeed(scratch.wrapped(&runc).args(["delete", "--force", ID]));
}

/// root is exempt from the limit, so another user runs this, who cannot have a second process.
fn without_a_second_process(scratch: &Scratch, runtime: &Path, words: &[&str]) -> Command {
    fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let wrapper = scratch.path("wrapper");
    install(frostlock(), &wrapper);
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "61234", "--regid", "61234", "--clear-groups", "--inh-caps=-all"])
        .args(["prlimit", "--nproc=1"])
        .arg(&wrapper)
        .args(words)
        .env("FROSTLOCK_RUNTIME", runtime)
        .env("FROSTLOCK_STATE_DIR", scratch.state())
        .env("FROSTLOCK_CONFIG", "/dev/null");
    command
}

#[test]
fn processes() {
    let scratch = Scratch::new();
    let seven = seven(&scratch);
    is_seven(&within_limit(&mut without_a_second_process(&scratch, &seven, &["delete", ID])));
}

/// Input that was read for a second attempt is there for the only one.
#[test]
fn processes_with_an_input() {
    let scratch = Scratch::new();
    let reads = program(&scratch.path("reads"), "#!/bin/sh\nread line\necho \"$line\"\n");
    let input = scratch.path("input");
    fs::write(&input, "{\"cpu\":{}}\n").unwrap();
    let words = ["update", "--resources", "-", ID];
    let mut update = without_a_second_process(&scratch, &reads, &words);
    let output = within_limit(update.stdin(fs::File::open(input).unwrap()));
    assert_eq!(text(&output.stdout), "{\"cpu\":{}}\n", "{output:?}");
}
