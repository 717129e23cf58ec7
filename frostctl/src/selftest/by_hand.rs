//! Containers of the runtime alone, as containerd would call it.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use cgroup::Reader;
use cgroup::freeze;
use cgroup::process::Process;

use super::bundle::Files;
use super::command::{self, Interrupts, Said};
use super::place::Place;
use super::program;
use super::rounds::{self, Maker, Side};
use super::verdict::Ended;
use crate::node::tree::Driver;

/// What is run, and where.
#[derive(Debug)]
pub(super) struct ByHand<'a> {
    pub(super) place: &'a Place,
    pub(super) files: &'a Files,
    pub(super) runtime: PathBuf,
    pub(super) frostlock: PathBuf,
    pub(super) driver: Driver,
    pub(super) interrupts: &'a Interrupts,
    /// How many containers were made.
    pub(super) made: usize,
}

pub(super) struct Container {
    id: String,
    side: Side,
    files: Reader,
    is_paused: bool,
}

impl Maker for ByHand<'_> {
    /// `kill` lasts until no process is left, and `delete` until no cgroup is.
    const OPERATIONS: [&'static str; 8] =
        ["create", "start", "exec", "update", "pause", "resume", "kill", "delete"];

    const MAKING: usize = 1;

    type Container = Container;

    fn begin(&mut self, side: Side, quota_us: u64) -> anyhow::Result<Container> {
        let id = self.place.container(self.made);
        self.made += 1;
        self.files.container(&self.place.cgroups_path(&id), quota_us)?;
        Ok(Container { files: self.place.files(&id)?, id, side, is_paused: false })
    }

    fn applies(&self, container: &Container, operation: &str) -> bool {
        operation != "resume" || container.is_paused
    }

    fn run(
        &self,
        container: &mut Container,
        operation: &'static str,
        limit: Duration,
    ) -> anyhow::Result<Ended> {
        let ended = self.until_over(container, operation, limit)?;
        let is_done = matches!(ended, Ended::Done(_));
        match operation {
            "pause" if is_done => container.is_paused = true,
            // On v2, a cgroup that did not freeze in time keeps freezing, and so would everything
            // that follows.
            "pause" | "resume" if !is_done => freeze::thaw(&container.files),
            _ => {}
        }
        Ok(ended)
    }

    fn is_throttled(&self, container: &Container) -> anyhow::Result<bool> {
        rounds::is_throttled(std::slice::from_ref(&container.files), 0, self.interrupts)
    }

    fn clear(&mut self, container: Container) -> anyhow::Result<()> {
        self.place.clear_cgroups()?;
        let _ = std::fs::remove_dir_all(self.files.root().join(&container.id));
        Ok(())
    }
}

impl ByHand<'_> {
    fn until_over(
        &self,
        container: &Container,
        operation: &str,
        limit: Duration,
    ) -> anyhow::Result<Ended> {
        let began = Instant::now();
        let init = self.files.init();
        let said = Said::in_directory(self.files.directory());
        let mut command = self.command(container, operation, &said);
        let ended = command::run(&mut command, &said, limit, self.interrupts)?;
        if !matches!(ended, Ended::Done(_)) {
            return Ok(ended);
        }
        loop {
            let is_over = match operation {
                // An exiting process has left its cgroup's list, but is not dead until it gets the
                // CPU for that.
                "kill" => !container.files.is_populated() && !init.is_some_and(Process::is_alive),
                "delete" => !self.place.has_cgroups(),
                _ => return Ok(ended),
            };
            match began.elapsed() {
                took if is_over => return Ok(Ended::Done(took)),
                took if took >= limit => return Ok(Ended::TooLong),
                _ => self.interrupts.pause()?,
            }
        }
    }

    /// As containerd calls it, but with exec in the foreground: a probe lasts as long as its
    /// command.
    fn command(&self, container: &Container, operation: &str, said: &Said) -> Command {
        let id = container.id.as_str();
        let mut command = match container.side {
            Side::Bare => Command::new(&self.runtime),
            Side::Frostlock => Command::new(&self.frostlock),
        };
        command
            .current_dir(self.files.directory())
            .env("FROSTLOCK_RUNTIME", &self.runtime)
            .env("FROSTLOCK_STATE_DIR", self.files.state())
            .env("FROSTLOCK_CONFIG", self.files.config());
        command.arg("--root").arg(self.files.root());
        command.arg("--log").arg(&said.log).args(["--log-format", "json"]);
        if self.driver == Driver::Systemd {
            command.arg("--systemd-cgroup");
        }
        command.arg(operation);
        match operation {
            "create" => {
                command.arg("--bundle").arg(self.files.directory());
                command.arg("--pid-file").arg(self.files.pid_file()).arg(id)
            }
            "exec" => command.args([id, program::PATH, program::TRUE]),
            "update" => command.arg("--resources").arg(self.files.resources()).arg(id),
            "kill" => command.args([id, "KILL"]),
            _ => command.arg(id),
        };
        command
    }
}
