//! The caller's directory, environment, namespaces and argv.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use testkit::{Scratch, frostlock, install, program, text};

use crate::{ID, WHOSE_CHILD, in_namespace, is_seven, seven, within_limit};

#[test]
fn the_working_directory_is_deleted() {
    let scratch = Scratch::new();
    let seven = seven(&scratch);
    let gone = scratch.path("gone");
    let script = format!("mkdir {0}; cd {0}; rmdir {0}; exec \"$0\" \"$@\"", gone.display());
    for verb in ["create", "delete", "list"] {
        let wrapped = scratch.wrapped(&seven);
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(frostlock()).args([verb, ID]);
        command.envs(wrapped.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = within_limit(&mut command);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        // The shell prints something, too.
        assert!(text(&output.stderr).ends_with("err\n"), "{output:?}");
    }
}

/// The state directory is then /run/frostlock, in the namespace's own /run. runc is found in
/// the usual directories.
#[test]
fn the_environment_is_empty() {
    let mut command = Command::new("env");
    command.arg("-i").arg(frostlock()).arg("--version");
    let output = within_limit(&mut in_namespace("mount -t tmpfs none /run", &command));
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("version"), "{output:?}");
    let mut delete = Command::new("env");
    delete.arg("-i").arg(frostlock()).args(["delete", "frostlock-test-nobody"]);
    let output = within_limit(&mut in_namespace("mount -t tmpfs none /run", &delete));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("does not exist"), "{output:?}");
}

#[test]
fn proc_is_absent_or_hidden() {
    let scratch = Scratch::new();
    let seven = seven(&scratch);
    fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let wrapper = scratch.path("wrapper");
    install(frostlock(), &wrapper);
    for setup in [
        "mount -t tmpfs none /proc",
        "mount -t proc -o hidepid=2 proc /proc; set -- setpriv --reuid 61234 --regid 61234 --clear-groups \"$@\"",
    ] {
        for verb in ["create", "exec", "update", "delete", "state", "list"] {
            let mut command = Command::new(&wrapper);
            command
                .args([verb, ID, "true"])
                .env("FROSTLOCK_RUNTIME", &seven)
                .env("FROSTLOCK_STATE_DIR", scratch.path("nobody"))
                .env("FROSTLOCK_CONFIG", "/dev/null");
            is_seven(&within_limit(&mut in_namespace(setup, &command)));
        }
    }
}

/// The environment of rootless podman: root of a user namespace, to which /run belongs to
/// somebody else.
#[test]
fn root_of_a_user_namespace_only() {
    let scratch = Scratch::new();
    let seven = seven(&scratch);
    fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let wrapper = scratch.path("wrapper");
    install(frostlock(), &wrapper);
    let xdg = scratch.path("xdg");
    fs::create_dir(&xdg).unwrap();
    std::os::unix::fs::chown(&xdg, Some(61234), Some(61234)).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "61234", "--regid", "61234", "--clear-groups"])
        .args(["unshare", "--user", "--map-root-user"])
        .arg(&wrapper)
        .args(["delete", ID])
        .env("FROSTLOCK_RUNTIME", &seven)
        .env("FROSTLOCK_CONFIG", "/dev/null")
        .env("XDG_RUNTIME_DIR", &xdg);
    is_seven(&within_limit(&mut command));
    let journal = fs::read_to_string(xdg.join("frostlock/journal.jsonl")).unwrap();
    assert_eq!(journal.lines().count(), 1);
}

/// Like `nsenter --pid --no-fork`. A bare runtime that starts nothing is not affected: crun
/// still finds its containers.
#[test]
fn children_are_in_a_pid_namespace_of_their_own() {
    let scratch = Scratch::new();
    let whose = program(&scratch.path("whose"), WHOSE_CHILD);
    let ours = std::process::id().to_string();
    let verbs = ["create", "exec", "update", "pause", "kill", "delete", "state"];
    for (setup, is_bare) in [("", true), ("", false), ("mount -t tmpfs none /proc", false)] {
        for verb in verbs {
            let mut command = if is_bare { scratch.bare(&whose) } else { scratch.wrapped(&whose) };
            command.args([verb, ID]).args((verb == "exec").then_some("true"));
            let mut inner = Command::new("unshare");
            inner.arg("--pid").arg(command.get_program()).args(command.get_args());
            inner.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let output = within_limit(&mut in_namespace(setup, &inner));
            assert!(output.status.success(), "{setup} {verb} {output:?}");
            let parent = text(&output.stdout);
            assert!(!setup.is_empty() || parent.trim() == ours, "{verb} {is_bare}: {parent}");
        }
    }
    let journal = scratch.journal();
    assert_eq!(journal.len(), 12);
    assert!(journal[..6].iter().all(|record| record["verdict"] == "handed over"));
}

/// vm.memfd_noexec belongs to a pid namespace. From 6.6 on, the kernel chooses the flag itself.
#[test]
fn anonymous_files_must_not_be_executable() {
    let scratch = Scratch::new();
    let fails = "#!/bin/sh\nread line\necho \"$line\"\necho unable to freeze >&2\nexit 1\n";
    let fails = program(&scratch.path("fails"), fails);
    let mut update = scratch.wrapped(&fails);
    update.args(["update", "--resources", "-", ID]);
    let mut inner = Command::new("unshare");
    inner
        .args(["--pid", "--fork", "--mount-proc", "sh", "-ec"])
        .arg("echo 2 >/proc/sys/vm/memfd_noexec; echo '{}' | \"$@\"")
        .arg("sh")
        .arg(update.get_program())
        .args(update.get_args());
    inner.envs(update.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = within_limit(&mut inner);
    assert_eq!(text(&output.stdout), "{}\n", "{output:?}");
    let journal = scratch.journal();
    assert!(journal[0]["attempts"].as_u64() > Some(1), "{journal:?}");
}

#[test]
fn argv0_is_empty() {
    let scratch = Scratch::new();
    let seven = seven(&scratch);
    is_seven(&within_limit(scratch.wrapped(&seven).arg0("").args(["delete", ID])));
}
