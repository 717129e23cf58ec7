//! The hook alone, with any possible standard input.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Scratch, frostlock, run, runtime, succeed, text};

use crate::{Freezer, alone, hook_records, ours_of};

/// Nothing is removed of a running container with the same id, whatever the state says.
#[test]
fn what_lives_keeps_its_files() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let bundle = scratch.bundle("idle", "a");
    let mut create = scratch.wrapped(&runtime.path);
    succeed(create.args(["create", "--bundle"]).arg(&bundle).arg("a"));
    let before = ours_of(&scratch);
    let state = json!({ "ociVersion": "1.0.2", "id": "a", "status": "stopped", "bundle": bundle });
    let output = hook(&scratch, &["poststop"], Feed::Text(state.to_string().into_bytes()));
    assert!(output.status.success());
    assert_eq!(ours_of(&scratch), before);
    assert_eq!(before.len(), 3);
}

/// What the hook gets on its standard input.
enum Feed {
    Text(Vec<u8>),
    Closed,
    /// No input, and no end.
    Silence,
    /// All of the input, but no end.
    OpenAfter(Vec<u8>),
    Endless,
}

/// The hook alone, with only its state directory in the environment. It must end by itself.
fn hook(scratch: &Scratch, args: &[&str], feed: Feed) -> Output {
    let mut command = match feed {
        Feed::Closed => {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "exec \"$@\" <&-", "sh"]).arg(frostlock());
            shell
        }
        _ => Command::new(frostlock()),
    };
    command.arg("hook").args(args).env_clear();
    command.env("FROSTLOCK_STATE_DIR", scratch.state()).env("FROSTLOCK_CONFIG", "/dev/null");
    match feed {
        Feed::Endless => command.stdin(File::open("/dev/zero").unwrap()),
        _ => command.stdin(Stdio::piped()),
    };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take();
    if let (Some(stdin), Feed::Text(bytes) | Feed::OpenAfter(bytes)) = (&mut stdin, &feed) {
        let _ = stdin.write_all(bytes);
    }
    if !matches!(feed, Feed::Silence | Feed::OpenAfter(_)) {
        drop(stdin.take());
    }
    let since = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(since.elapsed() < Duration::from_secs(5), "{args:?}: {:?}", since.elapsed());
    drop(stdin);
    output
}

#[test]
fn whatever_comes_in_is_no_reason_to_fail() {
    let _alone = alone();
    let scratch = Scratch::new();
    let huge = [br#"{"id":"a","annotations":{"x":""#.to_vec(), vec![b'x'; 8 << 20]].concat();
    let feeds = || {
        let texts: [&[u8]; 6] = [b"", b"{", b"[]", b"null", b"\xff\xfe", br#"{"id":7,"pid":"x"}"#];
        let texts = texts.map(|text| Feed::Text(text.to_vec()));
        let odd = [Feed::Text(huge.clone()), Feed::Closed, Feed::Silence, Feed::Endless];
        texts.into_iter().chain(odd)
    };
    for stage in ["createRuntime", "prestart", "poststop", "poststart", "startContainer"] {
        for (number, feed) in feeds().enumerate() {
            let output = hook(&scratch, &[stage], feed);
            assert!(output.status.success(), "{stage} {number}: {output:?}");
            assert!(output.stderr.is_empty() && output.stdout.is_empty(), "{output:?}");
        }
    }
    for (number, feed) in feeds().enumerate() {
        let output = hook(&scratch, &["--strict", "createRuntime"], feed);
        assert_eq!(output.status.code(), Some(1), "{number}: {output:?}");
        let said = text(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("frostlock: cannot tell whether"), "{said}");
    }
    let records = hook_records(&scratch);
    assert_eq!(records.len(), 60);
}

/// A failing hook makes the create fail, so a mistake in a configuration is only reported.
#[test]
fn a_wrong_stage_and_a_question_leave_no_record() {
    let _alone = alone();
    let scratch = Scratch::new();
    let state = || Feed::Text(br#"{"ociVersion":"1.0.2","id":"a","status":"creating"}"#.to_vec());
    for (args, code) in [(&["pre-start"][..], 0), (&["--strict", "pre-start"], 1)] {
        let output = hook(&scratch, args, state());
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.starts_with("frostlock: hook: there is no stage pre-start"), "{said}");
        assert!(said.lines().count() == 1 && output.stdout.is_empty(), "{output:?}");
    }
    for (args, said) in [
        (&["--help"][..], "frostlock hook [--strict] [STAGE]"),
        (&["prestart", "-h"], "frostlock hook [--strict] [STAGE]"),
        (&["--version"], "frostlock "),
    ] {
        // It does not wait for input.
        let output = hook(&scratch, args, Feed::Silence);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert!(text(&output.stdout).starts_with(said), "{output:?}");
    }
    // Except for a full disk, which is reported; a reader that has left is no error.
    for (to, code) in [("/dev/full", 1), ("|true", 0)] {
        let line = match to.strip_prefix('|') {
            Some(reader) => format!("{{ sleep 0.2; \"$@\"; echo $? >&2; }} | {reader}"),
            None => format!("\"$@\" >{to}; echo $? >&2"),
        };
        let mut command = Command::new("sh");
        command.args(["-c", &line, "sh"]).arg(frostlock()).args(["hook", "--version"]);
        let output = command.output().unwrap();
        let said = text(&output.stderr);
        assert!(said.ends_with(&format!("{code}\n")), "{to}: {said}");
        assert_eq!(said.contains("cannot write to standard output"), code == 1, "{to}: {said}");
    }
    assert_eq!(hook_records(&scratch), Vec::<Value>::new());
    assert!(hook(&scratch, &["prestart"], state()).status.success());
    assert_eq!(hook_records(&scratch).len(), 1, "the control");
}

#[test]
fn a_state_of_any_version_leads_to_the_cgroup() {
    let _alone = alone();
    let scratch = Scratch::new();
    let freezer = Freezer::of(&format!("{}/a", scratch.cgroup));
    let bundle = scratch.bundle("idle", "a");
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    let file = if freezer.is_v1() { "tasks" } else { "cgroup.procs" };
    std::fs::write(freezer.0.join(file), sleeper.id().to_string()).unwrap();
    let pid = sleeper.id();
    let states = [
        json!({ "version": "0.1.0", "id": "a", "pid": pid, "root": "/r", "bundlePath": bundle }),
        json!({ "ociVersion": "0.5.0", "id": "a", "bundlePath": bundle }),
        json!({ "ociVersion": "1.0.0", "id": "a", "status": "creating", "pid": pid }),
        json!({ "ociVersion": "1.0.2", "id": "a", "status": "created", "bundle": bundle }),
        json!({ "ociVersion": "1.2.0", "id": "a", "status": "odd", "pid": pid, "bundle": bundle }),
    ];
    for state in states {
        let feed = Feed::OpenAfter(state.to_string().into_bytes());
        let output = hook(&scratch, &["--strict", "createRuntime"], feed);
        assert!(output.status.success(), "{state}: {}", text(&output.stderr));
        let record = hook_records(&scratch).pop().unwrap();
        assert_eq!(record["cgroup"], format!("{}/a", scratch.cgroup), "{state}");
        assert_eq!(record["hook"]["found"], "thawed");
        assert_eq!(record["id"], "a");
    }
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

/// The role is the first word, whatever our program name; another word `hook` is the runtime's.
#[test]
fn under_the_name_of_a_runtime_it_is_a_hook_all_the_same() {
    let _alone = alone();
    let scratch = Scratch::new();
    let link = scratch.path("runc");
    std::os::unix::fs::symlink(frostlock(), &link).unwrap();
    let mut command = Command::new(&link);
    command.args(["hook", "poststop"]).env_clear().stdin(Stdio::null());
    command.env("FROSTLOCK_STATE_DIR", scratch.state()).env("FROSTLOCK_CONFIG", "/dev/null");
    succeed(&mut command);
    assert_eq!(hook_records(&scratch).len(), 1);
    let runtime = runtime("runc-1.5.3");
    let output = run(scratch.wrapped(&runtime.path).args(["state", "hook"]));
    assert!(text(&output.stderr).contains("does not exist"), "{}", text(&output.stderr));
    assert_eq!(hook_records(&scratch).len(), 1);
}

#[test]
fn the_off_switch_holds_for_it_and_a_configuration_passes_through() {
    let _alone = alone();
    let scratch = Scratch::new();
    let freezer = Freezer::of(&scratch.cgroup);
    let bundle = scratch.bundle("idle", "a");
    freezer.freeze();
    std::fs::create_dir(scratch.state()).unwrap();
    std::fs::set_permissions(scratch.state(), PermissionsExt::from_mode(0o700)).unwrap();
    let state = || Feed::Text(json!({ "id": "a", "bundle": bundle }).to_string().into_bytes());
    std::fs::write(scratch.state().join("off"), "").unwrap();
    let since = Instant::now();
    assert!(hook(&scratch, &["--strict", "createRuntime"], state()).status.success());
    assert!(since.elapsed() < Duration::from_secs(1));
    assert!(hook_records(&scratch).is_empty());
    let config = std::fs::read(bundle.join("config.json")).unwrap();
    let output = hook(&scratch, &["precreate"], Feed::Text(config.clone()));
    assert_eq!(output.stdout, config);
    std::fs::remove_file(scratch.state().join("off")).unwrap();
    let output = hook(&scratch, &["--strict", "precreate"], Feed::Text(config.clone()));
    assert_eq!((output.status.code(), output.stdout), (Some(1), config));
    freezer.thaw();
}
