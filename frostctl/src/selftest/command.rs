//! One command of the runtime, bare or through frostlock, for a bounded time or until a signal.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::verdict::Ended;
use crate::output::plain;

/// Differences that count are a hundred times as long.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Not even SIGKILL ends a process that waits for a disk or a network file system.
const DIES_WITHIN: Duration = Duration::from_secs(1);

const END: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Only one line of a runtime's output is shown; its log has a stack trace at most.
const MOST_SAID: u64 = 64 << 10;

/// Holds back signals that would end frostctl, so that nothing is left half done.
#[derive(Debug)]
pub(super) struct Interrupts(SignalFd);

impl Interrupts {
    /// Programs that we start inherit the mask; SIGKILL ends them.
    pub(super) fn hold() -> anyhow::Result<Interrupts> {
        let set = SigSet::from_iter(END);
        set.thread_block()?;
        Ok(Interrupts(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Waits a moment; fails if a signal has come to end the selftest.
    pub(super) fn pause(&self) -> anyhow::Result<()> {
        let mut waited = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let wait = PollTimeout::try_from(LOOK_EVERY).unwrap_or(PollTimeout::ZERO);
        // EINTR comes from an unrelated signal, such as SIGWINCH.
        if poll(&mut waited, wait).unwrap_or_default() == 0 {
            return Ok(());
        }
        let signal = self.0.read_signal()?.and_then(|it| i32::try_from(it.ssi_signo).ok());
        match signal.and_then(|it| Signal::try_from(it).ok()) {
            Some(signal) => Err(anyhow!("interrupted by {signal}")),
            None => Ok(()),
        }
    }
}

/// A child whose process group is killed on drop: a killed runtime leaves its stages behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let group = i32::try_from(self.0.id()).map(Pid::from_raw);
            let _ = group.map(|it| killpg(it, Signal::SIGKILL));
            let since = Instant::now();
            while matches!(self.0.try_wait(), Ok(None)) && since.elapsed() < DIES_WITHIN {
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}

/// Where a command's output goes.
#[derive(Debug)]
pub(super) struct Said {
    /// The runtime's `--log`, as JSON lines.
    pub(super) log: PathBuf,
    /// Both streams. A file, since the container inherits it and would hold a pipe open.
    pub(super) streams: PathBuf,
}

impl Said {
    pub(super) fn in_directory(directory: &Path) -> Said {
        Said { log: directory.join("log.json"), streams: directory.join("said") }
    }

    /// Why the runtime failed: the text that an engine would show.
    fn why(&self) -> String {
        let read = |path: &Path| {
            let mut text = Vec::new();
            let file = File::open(path).map(|file| std::io::Read::take(file, MOST_SAID));
            let _ = file.and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut text));
            String::from_utf8_lossy(&text).into_owned()
        };
        let said = logged(&read(&self.log)).or_else(|| last_line(&read(&self.streams)));
        plain(&said.unwrap_or_else(|| "it says nothing".to_owned()))
    }
}

/// The last error of the log, which containerd reports, too.
fn logged(log: &str) -> Option<String> {
    let lines = log.lines().filter_map(|it| serde_json::from_str::<serde_json::Value>(it).ok());
    let mut errors = lines.filter(|it| it["level"] == "error");
    Some(errors.next_back()?["msg"].as_str()?.to_owned())
}

fn last_line(text: &str) -> Option<String> {
    text.lines().map(str::trim).rfind(|it| !it.is_empty()).map(str::to_owned)
}

/// An `Err` is not the command's failure: it could not be started, or the selftest must end.
pub(super) fn run(
    command: &mut Command,
    said: &Said,
    limit: Duration,
    interrupts: &Interrupts,
) -> anyhow::Result<Ended> {
    let streams = File::create(&said.streams)
        .and_then(|out| Ok((out.try_clone()?, out)))
        .with_context(|| format!("cannot write {}", said.streams.display()))?;
    File::create(&said.log).with_context(|| format!("cannot write {}", said.log.display()))?;
    let program = command.get_program().to_owned();
    command.stdin(Stdio::null()).stdout(streams.0).stderr(streams.1).process_group(0);
    let began = Instant::now();
    let child =
        command.spawn().with_context(|| format!("cannot run {}", program.to_string_lossy()))?;
    let mut running = Running(child);
    loop {
        if let Some(status) = running.0.try_wait()? {
            return Ok(match status.success() {
                true => Ended::Done(began.elapsed()),
                false => Ended::Failed(said.why()),
            });
        }
        if began.elapsed() >= limit {
            return Ok(Ended::TooLong);
        }
        interrupts.pause()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_last_error_is_what_is_shown() {
        let log = r#"{"level":"error","msg":"first"}
{"level":"error","msg":"unable to freeze"}
{"level":"warning","msg":"later"}
torn"#;
        assert_eq!(logged(log).as_deref(), Some("unable to freeze"));
        assert_eq!(logged("plain text\n"), None);
        assert_eq!(last_line("one\ntwo \n\n").as_deref(), Some("two"));
        assert_eq!(last_line("\n"), None);
    }

    #[test]
    fn a_command_ends_well_badly_or_not_in_time() {
        let scratch = tempfile::tempdir().unwrap();
        let said = Said::in_directory(scratch.path());
        let interrupts = Interrupts::hold().unwrap();
        let sh = |script: &str, ms: u64| {
            let mut command = Command::new("sh");
            let limit = Duration::from_millis(ms);
            run(command.args(["-c", script]), &said, limit, &interrupts).unwrap()
        };
        assert!(matches!(sh("true", 10_000), Ended::Done(_)));
        assert_eq!(sh("echo no >&2; exit 4", 10_000), Ended::Failed("no".to_owned()));
        assert_eq!(sh("sleep 60", 20), Ended::TooLong);
    }

    #[test]
    fn a_signal_ends_the_wait_for_a_command() {
        let scratch = tempfile::tempdir().unwrap();
        let interrupts = Interrupts::hold().unwrap();
        // Sent to this thread only, which blocks it.
        nix::sys::signal::raise(Signal::SIGTERM).unwrap();
        let mut command = Command::new("sleep");
        let said = Said::in_directory(scratch.path());
        let ended = run(command.arg("60"), &said, Duration::from_secs(30), &interrupts);
        assert_eq!(ended.unwrap_err().to_string(), "interrupted by SIGTERM");
    }
}
