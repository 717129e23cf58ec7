//! Standard descriptors that are closed, full or without a reader.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use testkit::{Scratch, frostlock, program, run};

use crate::{ID, LIMIT, is_seven, is_seven_with, seven, within_limit};

fn shell(scratch: &Scratch, script: &str) -> Output {
    let seven = seven(scratch);
    let wrapped = scratch.wrapped(&seven);
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(frostlock());
    command.envs(wrapped.get_envs().filter_map(|(name, value)| Some((name, value?))));
    within_limit(&mut command)
}

#[test]
fn closed() {
    let scratch = Scratch::new();
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "<&- 2>&-", ">&- 2>&-"] {
        for verb in ["delete c", "create c", "exec c true", "state c", "list"] {
            let output = shell(&scratch, &format!("exec \"$0\" {verb} {closed}"));
            assert_eq!(output.status.code(), Some(7), "{verb} {closed} {output:?}");
        }
    }
    // The runtime's output went nowhere, in particular not into files of ours.
    for file in scratch.lock_files() {
        assert!(!fs::read_to_string(file).unwrap().contains("err"));
    }
    scratch.journal();
}

/// The runtime's own exit status counts, since its output was accepted.
#[test]
fn a_pipe_whose_reader_has_gone() {
    let scratch = Scratch::new();
    let seven = seven(&scratch);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = scratch
        .wrapped(&seven)
        .args(["delete", ID])
        .stdout(writer.try_clone().unwrap())
        .stderr(writer)
        .spawn()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert_eq!(scratch.journal()[0]["exit"]["code"], 7);
}

/// Bare, the daemon writes into the caller's pipe, and fails once that is closed.
#[test]
fn a_daemon_of_a_hook_does_not_fill_memory_of_ours() {
    const MUCH: u64 = 8 << 20;
    let scratch = Scratch::new();
    let (go, size) = (scratch.path("go"), scratch.path("size"));
    let script = format!(
        "#!/bin/sh\n{{ while [ ! -e {go} ]; do sleep 0.01; done; head -c {MUCH} /dev/zero >&2\n\
             stat -L -c %s /proc/self/fd/2 >{size}.new; mv {size}.new {size}; }} &\n\
             echo out\necho err >&2\nexit 7\n",
        go = go.display(),
        size = size.display(),
    );
    let hooked = program(&scratch.path("hooked"), &script);
    is_seven_with(&run(scratch.wrapped(&hooked).args(["delete", ID])), "out\n");
    fs::write(&go, "").unwrap();
    testkit::eventually(LIMIT, "the daemon has written", || size.exists());
    let size: u64 = fs::read_to_string(&size).unwrap().trim().parse().unwrap();
    assert!(size < MUCH / 8, "{size} bytes of ours");
}

/// Bare, the runtime would hang in its write. Here the operation is done and recorded, and its
/// lock is free, though the caller still waits for frostlock.
#[test]
fn a_full_pipe_that_nobody_reads() {
    let scratch = Scratch::new();
    let seven = seven(&scratch);
    let (_reader, mut writer) = std::io::pipe().unwrap();
    // The default capacity of a pipe.
    writer.write_all(&[b'x'; 65536]).unwrap();
    let mut stuck: Child = scratch
        .wrapped(&seven)
        .args(["delete", ID])
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    testkit::eventually(LIMIT, "the record", || !scratch.journal().is_empty());
    is_seven(&within_limit(scratch.wrapped(&seven).args(["delete", ID])));
    stuck.kill().unwrap();
    stuck.wait().unwrap();
}
