//! Restarts an engine after a change, and checks that it has loaded the configuration.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::SigSet;
use toml_edit::DocumentMut;

use super::arguments::Target;
use super::edit::is_ours;
use super::engine::Engine;
use super::files::Files;
use super::layout;
use crate::held::Held;
use crate::loaded::{self, Owed, Unasked};
use crate::node::containerd::{self, SOCKET};
use crate::node::crio;
use crate::node::processes;
use crate::node::root::Root;
use crate::program;

/// systemd waits 90 s for a unit to start, unless configured otherwise.
const RESTART_LIMIT: Duration = Duration::from_secs(100);
/// containerd answers within a second of its start; with thousands of containers within ten.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The limit of one question.
const ASK_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

const WITH_SIGNALS: &str = "__with-signals";

/// frostctl runs the command through itself, to release the signals that it holds back: a daemon
/// would pass a blocked mask on to every container.
pub(crate) fn with_signals(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    args.nth(1).filter(|word| word == WITH_SIGNALS)?;
    let program = args.next()?;
    let _ = SigSet::empty().thread_set_mask();
    let error = Command::new(&program).args(args).exec();
    crate::output::note(&format!("cannot run {program:?}: {error}"));
    Some(ExitCode::from(127))
}

/// What the engine must say of the handler after its restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handler {
    There,
    Gone,
    /// After a failure: any answer is enough.
    Any,
}

/// What an engine that answers says of the handler.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Says {
    /// With a difference from its files, if there is one.
    Has(Option<Owed>),
    HasNot,
    /// The engine does not tell.
    Untold,
}

#[derive(Debug)]
pub(super) struct Restart<'a> {
    pub(super) engine: Engine,
    pub(super) name: &'a str,
    pub(super) command: String,
    /// The socket at which it answers.
    socket: PathBuf,
}

impl Restart<'_> {
    /// Restarts the engine, and waits until it answers and says of the handler what it should.
    pub(super) fn run(&self, handler: Handler, held: &Held) -> anyhow::Result<()> {
        self.restart()?;
        self.wait(handler, held)
    }

    fn restart(&self) -> anyhow::Result<()> {
        crate::output::progress(&format!("restarting {}: {}", self.engine.name(), self.command));
        let mut command = Command::new("/proc/self/exe");
        command.args([WITH_SIGNALS, "sh", "-c", &self.command]);
        program::run_as(&self.command, &mut command, RESTART_LIMIT)
            .with_context(|| format!("{} was not restarted", self.engine.name()))
    }

    fn wait(&self, handler: Handler, held: &Held) -> anyhow::Result<()> {
        crate::output::progress(&format!("waiting for {} to answer", self.engine.name()));
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let left = match self.ask() {
                Ok(says) => self.left(&says, handler).map(anyhow::Error::msg),
                Err(error) => Some(error.context(format!(
                    "{} did not answer {}",
                    self.engine.name(),
                    within()
                ))),
            };
            // A signal during the command ends frostctl, unless the engine is only being brought
            // back.
            if handler != Handler::Any || left.is_some() {
                held.obey()?;
            }
            match left {
                None => return Ok(()),
                Some(error) if Instant::now() >= deadline => return Err(error),
                Some(_) => std::thread::sleep(POLL),
            }
        }
    }

    /// Whether the engine says that it has something else loaded than its files already have.
    pub(super) fn is_owed(&self, handler: Handler) -> bool {
        self.ask().is_ok_and(|says| self.left(&says, handler).is_some())
    }

    /// What the engine has not loaded. If it does not tell, any answer is enough.
    fn left(&self, says: &Says, handler: Handler) -> Option<String> {
        let (engine, name) = (self.engine.name(), self.name);
        let is_not = |what| {
            format!("{engine} answers, but its runtime {name:?} was not {what} {}", within())
        };
        match (says, handler) {
            (Says::Has(None), Handler::There) | (Says::HasNot, Handler::Gone) => None,
            (Says::Untold, _) | (_, Handler::Any) => None,
            (Says::Has(Some(owed)), Handler::There) => {
                Some(format!("{engine} answers, but has not loaded its files {}: {owed}", within()))
            }
            (Says::HasNot, Handler::There) => Some(is_not("there")),
            (Says::Has(_), Handler::Gone) => Some(is_not("gone")),
        }
    }

    /// Restarts with the previous configuration, after the files were put back.
    pub(super) fn again(&self, error: anyhow::Error, held: &Held) -> anyhow::Error {
        let name = self.engine.name();
        if let Err(second) = self.restart() {
            let answers = if self.ask().is_ok() { "still answers" } else { "does not answer" };
            return error.context(format!(
                "{name} could not be restarted with its files as they were, and {answers} ({second:#})"
            ));
        }
        match self.wait(Handler::Any, held) {
            // A restart would end its containers, unless live-restore is set.
            Ok(()) if self.engine == Engine::Docker => error.context(
                "dockerd has read its old file again; if its default was frostlock's, that stays until \
                 `systemctl restart docker`",
            ),
            Ok(()) => error
                .context(format!("{name} was restarted with its files as they were, and answers")),
            Err(second) => error.context(format!(
                "{name} was restarted with its files as they were, and does not answer ({second:#})"
            )),
        }
    }

    /// Asks once; the caller repeats.
    fn ask(&self) -> anyhow::Result<Says> {
        let known = |is_known| if is_known { Says::Has(None) } else { Says::HasNot };
        if self.engine == Engine::Docker {
            return Ok(known(self.docker_knows()?));
        }
        let loaded = match loaded::ask(&self.socket) {
            Err(Unasked::Untold(names)) if names.is_empty() && self.engine == Engine::Crio => {
                crio_status().ok_or(Unasked::Untold(names))
            }
            asked => asked,
        };
        Ok(match loaded {
            Ok(has) if has.iter().any(|it| it.name == self.name) => Says::Has(self.differs(&has)),
            Ok(_) | Err(Unasked::NoCri) => Says::HasNot,
            Err(Unasked::Untold(names)) if names.is_empty() => Says::Untold,
            Err(Unasked::Untold(names)) => known(names.iter().any(|it| it == self.name)),
            Err(why) => bail!("{why}"),
        })
    }

    fn docker_knows(&self) -> anyhow::Result<bool> {
        let docker = program::find("docker").context("no docker in PATH")?;
        let said = program::run(
            Command::new(docker).args(["info", "--format", "{{json .Runtimes}}"]),
            ASK_LIMIT,
        )?;
        let runtimes: serde_json::Value =
            serde_json::from_str(&said).context("what `docker info` prints")?;
        Ok(runtimes.get(self.name).is_some())
    }

    /// How the handler that the answering containerd has loaded differs from its files.
    fn differs(&self, has: &[loaded::Handler]) -> Option<Owed> {
        if self.engine != Engine::Containerd {
            return None;
        }
        let node = Root::default();
        let all = containerd::read(&node, &processes::read(&node));
        // Files that we cannot read give nothing to compare.
        let own = all.iter().find(|it| {
            it.running.is_some() && it.complaints.is_empty() && it.socket == self.socket
        })?;
        let owed = loaded::owed(&own.handlers(), has, |it| is_ours(it));
        owed.into_iter().find(|it| it.is_of(self.name))
    }
}

fn within() -> String {
    format!("within {} s of its restart", ANSWER_LIMIT.as_secs())
}

/// What the running CRI-O has read, if it has this command.
pub(super) fn crio_status() -> Option<Vec<loaded::Handler>> {
    let mut status = Command::new(program::find("crio")?);
    let said = program::run(status.args(["status", "config"]), ASK_LIMIT).ok()?;
    layout::handlers(Engine::Crio, &said)
}

impl Target {
    /// `None` for an engine without a daemon, or if no restart was asked for. `usual`: the command
    /// that makes it load the change. `effective`: what its containerd reads.
    pub(super) fn restart_plan<'a>(
        &'a self,
        files: &Files,
        usual: Option<&'static str>,
        effective: Option<&DocumentMut>,
    ) -> anyhow::Result<Option<Restart<'a>>> {
        let command = match &self.restart_command {
            _ if !self.restart => None,
            Some(command) => usual.map(|_| command.clone()),
            None => files.restart(usual).context("nothing was changed")?,
        };
        let said = || effective.and_then(layout::socket).map(PathBuf::from);
        Ok(command.map(|command| Restart {
            engine: self.runtime,
            name: &self.name,
            command,
            socket: match self.runtime {
                Engine::Crio => crio::socket(),
                _ => files.known_socket().or_else(said).unwrap_or_else(|| SOCKET.into()),
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_to_take_in() {
        let (name, command, socket) = ("frostlock", String::new(), PathBuf::new());
        let restart = Restart { engine: Engine::Containerd, name, command, socket };
        let owed = Owed::OtherProgram { name: name.to_owned(), loaded: None };
        let otherwise = Says::Has(Some(owed));
        for (says, handler, expected) in [
            (Says::Has(None), Handler::There, None),
            (Says::HasNot, Handler::There, Some("was not there")),
            (otherwise.clone(), Handler::There, Some("its runtime frostlock runs its default")),
            (Says::Untold, Handler::There, None),
            (Says::HasNot, Handler::Gone, None),
            (Says::Has(None), Handler::Gone, Some("was not gone")),
            (otherwise.clone(), Handler::Gone, Some("was not gone")),
            (Says::Untold, Handler::Gone, None),
            (otherwise, Handler::Any, None),
        ] {
            let left = restart.left(&says, handler);
            let is_it = match (&left, expected) {
                (None, None) => true,
                (Some(left), Some(expected)) => left.contains(expected),
                _ => false,
            };
            assert!(is_it, "{says:?} {handler:?}: {left:?}");
        }
    }
}
