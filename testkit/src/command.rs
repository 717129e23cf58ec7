//! Commands that run to their end.

use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::pace::slowness;

/// Runs to the end; output goes to files, since a container that inherits a pipe would keep it
/// open.
pub fn run(command: &mut Command) -> Output {
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let status = command
        .stdout(out.try_clone().unwrap())
        .stderr(err.try_clone().unwrap())
        .status()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Output { status, stdout: contents(out), stderr: contents(err) }
}

/// The same, and it must succeed.
pub fn succeed(command: &mut Command) -> Output {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

pub fn contents(mut file: std::fs::File) -> Vec<u8> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A process's exit status; a process that has not ended in time is killed, and the result is
/// `None`. Sleeps until then: a hundred waiters that look each millisecond are a load of their own.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit * slowness();
    // Its caller may have reaped it already.
    if let Some(status) = child.try_wait().unwrap() {
        return Some(status);
    }
    let pid = rustix::process::Pid::from_child(child);
    let end = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        Ok(end) => end,
        // It has ended just now.
        Err(rustix::io::Errno::SRCH) => return Some(child.wait().unwrap()),
        Err(error) => panic!("pidfd_open: {error}"),
    };
    while child.try_wait().unwrap().is_none() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        let mut ends = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut ends, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
    child.try_wait().unwrap()
}
