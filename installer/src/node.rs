//! The node, from a privileged container with `hostPID`, through the namespaces of the node's first
//! process.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The pod is in the node's pid namespace already.
const NAMESPACES: [(&str, CloneFlags); 5] = [
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    // The last one, because /proc changes with it.
    ("mnt", CloneFlags::CLONE_NEWNS),
];

const POLL: Duration = Duration::from_millis(100);

/// Enters the node's namespaces: from here on all paths are the node's.
pub(crate) fn enter() -> anyhow::Result<()> {
    let open = |(name, flag): (&str, CloneFlags)| {
        let path = format!("/proc/1/ns/{name}");
        let file = File::open(&path)
            .with_context(|| format!("{path}: the container wants privileged and hostPID"))?;
        Ok((file, path, flag))
    };
    let namespaces: Vec<_> = NAMESPACES.into_iter().map(open).collect::<anyhow::Result<_>>()?;
    for (file, path, flag) in namespaces {
        setns(file, flag).with_context(|| format!("cannot enter {path}"))?;
    }
    std::env::set_current_dir("/").context("/")
}

/// Does not return, unless it fails.
pub(crate) fn become_command(command: &[OsString]) -> anyhow::Result<()> {
    enter()?;
    let Some((program, args)) = command.split_first() else { bail!("no command") };
    Err(Command::new(program).args(args).exec())
        .with_context(|| Path::new(program).display().to_string())
}

#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    /// What the command wrote to standard error.
    pub(crate) error: String,
}

/// Runs a command; its output goes to the log of the container. At the limit it gets SIGTERM, on which
/// `configure` undoes its changes, and then as much time again.
pub(crate) fn run(command: &mut Command, limit: Duration) -> anyhow::Result<Said> {
    let name = Path::new(command.get_program()).display().to_string();
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| name.clone())?;
    let stderr = child.stderr.take();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stderr.map(|mut it| it.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let ended = wait(&mut child, limit).with_context(|| name.clone())?;
    let ended = match ended {
        Some(status) => Ok(status),
        None => Err(stop(&mut child, limit).with_context(|| name.clone())?),
    };
    let error = reader.join().unwrap_or_default();
    for line in error.lines() {
        crate::say(line);
    }
    match ended {
        Ok(status) => Ok(Said { status, error }),
        Err(()) => bail!("{name} had not ended after {}", humantime::format_duration(limit)),
    }
}

fn wait(child: &mut Child, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait()? {
            None if Instant::now() < deadline => std::thread::sleep(POLL),
            ended => return Ok(ended),
        }
    }
}

fn stop(child: &mut Child, limit: Duration) -> anyhow::Result<()> {
    kill(Pid::from_raw(child.id().try_into()?), Signal::SIGTERM)?;
    if wait(child, limit)?.is_none() {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}
