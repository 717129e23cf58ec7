//! The standard input of `update --resources -`, which is read before the first attempt: whatever
//! the caller sends or does not send, the runtime reads what it would have read.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::fake_runtime::{Attempt, Fake};
use testkit::{Scratch, contents, run, runtime, succeed, text, wait};

/// runc answers in some 30 ms.
const LIMIT: Duration = Duration::from_secs(5);

/// The exit and the output of a command whose caller keeps its end of the pipe open.
fn end_of(mut command: Command, input: &[u8]) -> Option<(Option<i32>, String)> {
    let said = tempfile::tempfile().unwrap();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(said.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    // std's `wait` would close it.
    let mut ours = child.stdin.take().unwrap();
    ours.write_all(input).unwrap();
    let status = wait(&mut child, LIMIT)?;
    Some((status.code(), without_time(&contents(said))))
}

fn without_time(said: &[u8]) -> String {
    let said = text(said);
    let (_, message) = said.split_once(" level=").unwrap_or(("", &said));
    message.to_owned()
}

/// runc's decoder ends at the first wrong byte, so nothing more need be sent.
#[test]
fn what_is_no_json_is_answered_at_once() {
    let scratch = Scratch::new();
    let runc = runtime("runc-1.1.15").path;
    let bundle = scratch.bundle("idle", "c");
    succeed(scratch.wrapped(&runc).args(["run", "--detach", "--bundle"]).arg(bundle).arg("c"));
    let words = ["update", "--resources", "-", "c"];
    for input in ["x\n", "{\"cpu\": nonsense", "{\"cpu\": {}]", "no", "\u{feff}{"] {
        let mut bare = scratch.bare(&runc);
        bare.args(words);
        let bare = end_of(bare, input.as_bytes()).expect("control: runc waits");
        assert_eq!(bare.0, Some(1), "control: {input:?} {bare:?}");
        let mut wrapped = scratch.wrapped(&runc);
        wrapped.args(words);
        assert_eq!(end_of(wrapped, input.as_bytes()), Some(bare), "{input:?}");
    }
    for endless in ["/dev/zero", "/dev/urandom"] {
        let mut wrapped = scratch.wrapped(&runc);
        wrapped.args(words).stdin(File::open(endless).unwrap());
        let mut child = wrapped.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let status = wait(&mut child, LIMIT).unwrap_or_else(|| panic!("{endless}: it hangs"));
        assert_eq!(status.code(), Some(1), "{endless}");
    }
    succeed(scratch.wrapped(&runc).args(["delete", "--force", "c"]));
}

fn inputs(fake: &Fake<'_>) -> Vec<PathBuf> {
    let files = std::fs::read_dir(fake.dir()).unwrap().flatten().map(|file| file.path());
    files.filter(|path| path.file_stem().is_some_and(|stem| stem == "stdin")).collect()
}

fn make(fake: &Fake<'_>) {
    let bundle = fake.bundle("c");
    succeed(&mut fake.bare(&["create", "--bundle", bundle.to_str().unwrap(), "c"]));
}

/// Larger than what is kept for a second attempt: then there is none, and the first reads all of
/// it.
#[test]
fn an_input_too_large_to_keep_arrives_whole() {
    let json = format!("{{\"x\": \"{}\"}}", "y".repeat(40 << 20));
    for (name, input) in [("runc", json.as_str()), ("crun", &json), ("runc", &" ".repeat(40 << 20))]
    {
        let scratch = Scratch::new();
        let fake = Fake::named(name, &scratch, "");
        make(&fake);
        let failure =
            Attempt { stderr: "unable to freeze\n".to_owned(), exit: 1, ..Attempt::default() };
        fake.script(&[("update", &[failure, Attempt::default()])]);
        let file = scratch.path("input");
        std::fs::write(&file, input).unwrap();
        let mut cat = Command::new("cat");
        let mut cat = cat.arg(&file).stdout(Stdio::piped()).spawn().unwrap();
        let mut update = fake.wrapped(&["update", "--resources", "-", "c"]);
        let output = run(update.stdin(cat.stdout.take().unwrap()));
        drop(update);
        assert!(cat.wait().unwrap().success(), "{name}");
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        assert_eq!(inputs(&fake).len(), 1, "{name}");
        assert!(std::fs::read(&inputs(&fake)[0]).unwrap() == input.as_bytes(), "{name}");
        let record = scratch.journal().pop().unwrap();
        assert_eq!(record["gave_up"], "not repeatable", "{record}");
    }
}

/// No process is left behind if the runtime stops reading and the caller does not close the pipe.
#[test]
fn what_is_too_large_to_keep_is_not_waited_for() {
    let scratch = Scratch::new();
    let go = scratch.path("go");
    // Bounded, so that a failed test leaves no process behind.
    let seven = format!(
        "#!/bin/sh\nfor i in $(seq 1000); do [ -e {} ] && exit 7; sleep 0.01; done\nexit 8\n",
        go.display()
    );
    let seven = testkit::program(&scratch.path("seven"), &seven);
    let mut update = scratch.wrapped(&seven);
    update.args(["update", "--resources", "-", "c"]);
    update.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = update.spawn().unwrap();
    let mut ours = child.stdin.take().unwrap();
    // A pipe takes 64 KiB more than is read from it.
    ours.write_all(&vec![b' '; 16 << 20]).unwrap();
    ours.write_all(b" ").unwrap();
    // Not before: a runtime that ends closes the reading end, and a caller that is still writing
    // then gets EPIPE, with the bare runtime as well.
    std::fs::write(go, "").unwrap();
    assert_eq!(wait(&mut child, LIMIT).and_then(|status| status.code()), Some(7));
    // A process that still had our stdout would keep this waiting.
    let mut out = File::from(std::os::fd::OwnedFd::from(child.stdout.take().unwrap()));
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut out, &mut std::io::sink());
        let _ = done.send(());
    });
    ended.recv_timeout(LIMIT).expect("a process is left that has our stdout");
    drop(ours);
}

/// The runtime reports its own error, not that of an empty input.
#[test]
fn an_input_that_cannot_be_read_is_left_to_the_runtime() {
    let scratch = Scratch::new();
    let cat = testkit::program(&scratch.path("cat"), "#!/bin/sh\nexec cat\n");
    let words = ["update", "--resources", "-", "c"];
    let directory = || File::open("/dev/shm").unwrap();
    let bare = run(scratch.bare(&cat).args(words).stdin(directory()));
    assert!(text(&bare.stderr).contains("Is a directory"), "control: {bare:?}");
    let wrapped = run(scratch.wrapped(&cat).args(words).stdin(directory()));
    assert_eq!((wrapped.status, wrapped.stderr), (bare.status, bare.stderr));
}
