//! What the node's own frostctl does on the node. An engine is restarted only if something changes, and
//! never again by itself after a restart that failed.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::{node, say};

const PROGRAMS: [&str; 2] = ["frostlock", "frostctl"];

/// configure has 160 s for a restart, and as long for the restart that undoes it.
const CONFIGURE_LIMIT: Duration = Duration::from_secs(400);
const STATUS_LIMIT: Duration = Duration::from_secs(60);
const UNINSTALL_LIMIT: Duration = Duration::from_secs(60);
/// After that, kubelet starts the container again.
const IDLE_LIMIT: Duration = Duration::from_secs(600);
const IDLE_POLL: Duration = Duration::from_secs(10);

/// In /run: a reboot changes the node, so it is worth another try.
const FAILED: &str = "/run/frostlock-restart-failed";
/// What frostctl says of a restart that was undone (frostctl/src/configure/restart.rs).
const TAKEN_BACK: &str = "was restarted with its files as they were";
/// The exporter reads here what the watch writes.
const METRICS: &str = "/run/frostlock-metrics";

/// The options of `configure` that `unconfigure` has, too: which entry it is. All others are about what
/// the entry becomes, and `--force` even means something else there.
const WHICH: [&str; 3] = ["--name", "--config", "--drop-in"];
/// What restarts the engine.
const HOW: &str = "--restart-command";

#[derive(Debug, clap::Args)]
pub(crate) struct Engine {
    /// Where the programs are on the node
    #[arg(long, default_value = "/usr/local/bin")]
    dir: PathBuf,

    /// containerd, crio
    #[arg(long, default_value = "containerd")]
    runtime: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Install {
    #[command(flatten)]
    engine: Engine,

    /// More arguments of `frostctl configure`; `unconfigure` gets those that it has, too
    #[arg(last = true)]
    configure: Vec<String>,
}

impl Engine {
    fn frostctl(&self) -> Command {
        Command::new(self.dir.join("frostctl"))
    }

    fn is_installed(&self) -> bool {
        self.dir.join("frostctl").exists()
    }

    /// Runs a `configure` or `unconfigure`, but not again after it failed: kubelet would try again for
    /// ever, and each try restarts the engine twice.
    fn change(&self, verb: &str, args: &[String], failed: &Path) -> anyhow::Result<()> {
        let what = format!("{} {verb} {} {}", version(), self.runtime, args.join(" "));
        let before = fs::read_to_string(failed).unwrap_or_default();
        if before.lines().next() == Some(what.trim_end()) {
            bail!(
                "{} is not restarted again: it did not come back with frostlock the last time, and \
                 runs with its files as they were. Fix the cause, then remove {} on the node. It \
                 said: {}",
                self.runtime,
                failed.display(),
                last_line(&before)
            );
        }
        let mut command = self.frostctl();
        command.args([verb, "--runtime", &self.runtime, "--restart"]).args(args);
        let said = node::run(&mut command, CONFIGURE_LIMIT)?;
        if said.status.success() {
            let _ = fs::remove_file(failed);
            return Ok(());
        }
        let why = last_line(&said.error);
        if said.error.contains(TAKEN_BACK) {
            fs::write(failed, format!("{}\n{why}\n", what.trim_end()))
                .with_context(|| failed.display().to_string())?;
        }
        bail!("frostctl {verb}: {}: {why}", said.status)
    }
}

impl Install {
    pub(crate) fn install(&self) -> anyhow::Result<()> {
        let image = crate::image();
        let programs: Vec<_> = PROGRAMS
            .iter()
            .map(|name| {
                let path = image.join(name);
                fs::read(&path).with_context(|| path.display().to_string()).map(|it| (*name, it))
            })
            .collect::<anyhow::Result<_>>()?;
        node::enter()?;
        let engine = &self.engine;
        for (name, bytes) in &programs {
            put(&engine.dir, name, bytes)?;
        }
        engine.change("configure", &self.configure, Path::new(FAILED))?;
        let status = node::run(engine.frostctl().arg("status"), STATUS_LIMIT)?.status;
        ensure!(status.success(), "frostctl status says above what is wrong ({status})");
        fs::create_dir_all(METRICS).context(METRICS)
    }

    /// unconfigure refuses with 3 while containers run through frostlock, also with --dry-run.
    pub(crate) fn await_idle(&self) -> anyhow::Result<()> {
        node::enter()?;
        let deadline = Instant::now() + IDLE_LIMIT;
        while self.engine.is_installed() {
            let said = self.would_unconfigure()?;
            match said.status.code() {
                Some(0 | 1) => break,
                _ if Instant::now() < deadline => std::thread::sleep(IDLE_POLL),
                _ => bail!("{}", last_line(&said.error)),
            }
        }
        Ok(())
    }

    fn would_unconfigure(&self) -> anyhow::Result<node::Said> {
        let mut command = self.engine.frostctl();
        command.args(["unconfigure", "--runtime", &self.engine.runtime, "--dry-run"]);
        // The difference would be in the log again with each look.
        command.args(only(&self.configure, &WHICH)).stdout(Stdio::null());
        node::run(&mut command, CONFIGURE_LIMIT)
    }

    fn unconfigure(&self, failed: &Path) -> anyhow::Result<()> {
        let kept = only(&self.configure, &[&WHICH[..], &[HOW]].concat());
        self.engine.change("unconfigure", &kept, failed)
    }

    /// The programs go last, so that the step can be repeated.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        node::enter()?;
        let engine = &self.engine;
        if engine.is_installed() {
            self.unconfigure(Path::new(FAILED))?;
            let mut uninstall = engine.frostctl();
            let status =
                node::run(uninstall.args(["uninstall", "--purge"]), UNINSTALL_LIMIT)?.status;
            ensure!(
                status.success(),
                "frostctl uninstall is not done ({status}): it says above why"
            );
        }
        for name in PROGRAMS {
            gone(fs::remove_file(temporary(&engine.dir, name)))?;
        }
        gone(fs::remove_file(engine.dir.join("frostctl")))?;
        gone(fs::remove_dir_all(METRICS))
    }
}

/// The options with these names: `NAME VALUE` and `NAME=VALUE`.
fn only(args: &[String], names: &[&str]) -> Vec<String> {
    let mut args = args.iter();
    let mut kept = Vec::new();
    while let Some(arg) = args.next() {
        match arg.split_once('=') {
            Some((name, _)) if names.contains(&name) => kept.push(arg.clone()),
            None if names.contains(&arg.as_str()) => {
                kept.extend([arg].into_iter().chain(args.next()).cloned())
            }
            _ => {}
        }
    }
    kept
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

fn temporary(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}.new"))
}

/// A program in use cannot be written to, but another file can take its name.
fn put(dir: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let path = dir.join(name);
    if fs::read(&path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let new = temporary(dir, name);
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&new)?;
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(0o755))?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    say(&format!("{} is new", path.display()));
    Ok(())
}

fn gone(result: std::io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_configure_was_told_about_the_entry_holds_for_its_removal() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let script = format!("#!/bin/sh\necho \"$*\" >>{}\n", path("said").display());
        fs::write(path("frostctl"), script).unwrap();
        fs::set_permissions(path("frostctl"), Permissions::from_mode(0o755)).unwrap();
        let words = [
            "--wrap",
            "crun",
            "--name",
            "x",
            "--config=/etc/c.toml",
            "--force",
            "--set-as-default",
            "--restart-command",
            "service containerd restart",
            "--drop-in",
        ];
        let configure: Vec<String> = words.map(str::to_owned).into();
        let engine = Engine { dir: dir.path().into(), runtime: "containerd".to_owned() };
        let install = Install { engine, configure };
        assert!(install.would_unconfigure().unwrap().status.success());
        install.unconfigure(&path("failed")).unwrap();
        install.engine.change("configure", &install.configure, &path("failed")).unwrap();
        let said = fs::read_to_string(path("said")).unwrap();
        let how = "--restart-command service containerd restart";
        let expected = [
            "unconfigure --runtime containerd --dry-run --name x --config=/etc/c.toml --drop-in"
                .to_owned(),
            format!(
                "unconfigure --runtime containerd --restart --name x --config=/etc/c.toml {how} --drop-in"
            ),
            format!("configure --runtime containerd --restart {}", words.join(" ")),
        ];
        assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    }
}
