//! The restart of an engine that was configured, and whether it has taken the configuration in.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use frostlock_cri::Client;
use nix::sys::signal::SigSet;
use toml_edit::{DocumentMut, Item};

use super::arguments::Target;
use super::edit::is_ours;
use super::engine::Engine;
use super::files::Files;
use super::interrupt::Held;
use super::layout::{Layout, get};
use super::toml_file;
use crate::loaded::{self, Owed, Unasked};
use crate::node::containerd::{self, SOCKET};
use crate::node::crio;
use crate::node::processes;
use crate::node::root::Root;
use crate::program;

/// systemd waits 90 s for a unit to start, unless it is told otherwise.
const RESTART_LIMIT: Duration = Duration::from_secs(100);
/// containerd answers within a second of its start; with thousands of containers within ten.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Of one question.
const ASK_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

const WITH_SIGNALS: &str = "__with-signals";

/// Us as the program that the command is run by: whoever it starts is not to have our signals held back,
/// as a daemon would hand that on to every container.
pub(crate) fn with_signals(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    args.nth(1).filter(|word| word == WITH_SIGNALS)?;
    let program = args.next()?;
    let _ = SigSet::empty().thread_set_mask();
    let error = Command::new(&program).args(args).exec();
    crate::output::note(&format!("cannot run {program:?}: {error}"));
    Some(ExitCode::from(127))
}

/// What the engine is to know when it is up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handler {
    There,
    Gone,
    /// After a failure: that it answers is enough.
    Any,
}

#[derive(Debug)]
pub(super) struct Restart<'a> {
    pub(super) engine: Engine,
    pub(super) name: &'a str,
    pub(super) command: String,
    /// Where it answers.
    socket: PathBuf,
}

/// None for an engine that has no daemon. `usual`: what makes it take the change in.
pub(super) fn plan<'a>(
    engine: Engine,
    name: &'a str,
    files: &Files,
    command: Option<&str>,
    usual: Option<&'static str>,
    effective: Option<&DocumentMut>,
) -> anyhow::Result<Option<Restart<'a>>> {
    let command = match command {
        Some(command) => Some(command.to_owned()).filter(|_| usual.is_some()),
        None => files.restart(usual).context("nothing was changed")?,
    };
    let Some(command) = command else { return Ok(None) };
    let said = effective
        .filter(|_| engine == Engine::Containerd)
        .and_then(|it| get(it.as_item(), &["grpc", "address"])?.as_str());
    let socket = match engine {
        Engine::Crio => crio::socket(),
        _ => files.known_socket().or(said.map(PathBuf::from)).unwrap_or_else(|| SOCKET.into()),
    };
    Ok(Some(Restart { engine, name, command, socket }))
}

impl Restart<'_> {
    /// Restarts it, and waits until it answers and says of the handler what it should.
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
            let answer = self.ask();
            if answer.is_ok() && handler == Handler::Any {
                return Ok(());
            }
            // Who was told to end while the command ran ends, however well that went.
            held.obey()?;
            let differs = match (&answer, handler) {
                (Ok(None | Some(true)), Handler::There) => self.differs(),
                _ => Vec::new(),
            };
            match (&answer, handler) {
                (Ok(None | Some(true)), Handler::There) if differs.is_empty() => return Ok(()),
                (Ok(None | Some(false)), Handler::Gone) => return Ok(()),
                _ => {}
            }
            if Instant::now() >= deadline {
                let within = format!("within {} s of its restart", ANSWER_LIMIT.as_secs());
                return match answer {
                    Ok(_) if !differs.is_empty() => bail!(
                        "{} answers, and has not taken its files in {within}: {}",
                        self.engine.name(),
                        differs[0]
                    ),
                    Ok(_) => bail!(
                        "{} answers, but its runtime {:?} was not {} {within}",
                        self.engine.name(),
                        self.name,
                        if handler == Handler::There { "there" } else { "gone" }
                    ),
                    Err(error) => {
                        Err(error
                            .context(format!("{} did not answer {within}", self.engine.name())))
                    }
                };
            }
            std::thread::sleep(POLL);
        }
    }

    /// Whether it says that it has something else loaded than what stands in its files already.
    pub(super) fn is_owed(&self, handler: Handler) -> bool {
        match (self.ask(), handler) {
            (Ok(Some(false)), Handler::There) | (Ok(Some(true)), Handler::Gone) => true,
            (Ok(_), Handler::There) => !self.differs().is_empty(),
            _ => false,
        }
    }

    /// After the files were put back: with the configuration of before.
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
                "dockerd has read its file again, as it was; a default that it had from us it keeps until \
                 `systemctl restart docker`",
            ),
            Ok(()) => error
                .context(format!("{name} was restarted with its files as they were, and answers")),
            Err(second) => error.context(format!(
                "{name} was restarted with its files as they were, and does not answer ({second:#})"
            )),
        }
    }

    /// What the containerd that answers has of the handler otherwise than its files say.
    fn differs(&self) -> Vec<Owed> {
        if self.engine != Engine::Containerd {
            return Vec::new();
        }
        let node = Root::default();
        let all = containerd::read(&node, &processes::read(&node));
        // Of files that we cannot read there is nothing to compare.
        let own = all.iter().find(|it| {
            it.running.is_some() && it.complaints.is_empty() && it.socket == self.socket
        });
        let Some((own, Ok(has))) = own.map(|it| (it, loaded::ask(&self.socket))) else {
            return Vec::new();
        };
        let mut owed = loaded::owed(&own.handlers(), &has, |it| is_ours(it));
        owed.retain(|it| it.is_of(self.name));
        owed
    }

    /// Whether it knows the handler; none if it does not tell.
    fn ask(&self) -> anyhow::Result<Option<bool>> {
        match self.engine {
            Engine::Docker => {
                let docker = program::find("docker").context("no docker in PATH")?;
                let said = program::run(
                    Command::new(docker).args(["info", "--format", "{{json .Runtimes}}"]),
                    ASK_LIMIT,
                )?;
                let runtimes: serde_json::Value =
                    serde_json::from_str(&said).context("what `docker info` prints")?;
                Ok(Some(runtimes.get(self.name).is_some()))
            }
            Engine::Crio => match self.cri()? {
                Some(known) => Ok(Some(known)),
                None => Ok(crio_status(self.name)),
            },
            _ => self.cri(),
        }
    }

    fn cri(&self) -> anyhow::Result<Option<bool>> {
        let status = Client::lazy(&self.socket)?.at_most(ASK_LIMIT).status(true)?;
        let handlers = &status.runtime_handlers;
        let config = status
            .info
            .get("config")
            .and_then(|it| serde_json::from_str::<serde_json::Value>(it).ok());
        let runtimes = config.as_ref().and_then(|it| it.get("containerd")?.get("runtimes"));
        Ok(match runtimes {
            Some(runtimes) => Some(runtimes.get(self.name).is_some()),
            None if handlers.is_empty() => None,
            None => Some(handlers.iter().any(|it| it.name == self.name)),
        })
    }
}

/// Of those that have this command: what the CRI-O that runs has read.
fn crio_status(name: &str) -> Option<bool> {
    let crio = program::find("crio")?;
    let said = program::run(Command::new(crio).args(["status", "config"]), ASK_LIMIT).ok()?;
    let document = toml_file::parse(&said).ok()?;
    let layout = Layout::of(Engine::Crio, &document).ok()?;
    Some(layout.entry(&document, name).is_some_and(Item::is_table_like))
}

impl Files {
    /// The one that it was told, or is known to have where its file does not say.
    fn known_socket(&self) -> Option<PathBuf> {
        let known = self.distribution.map(|it| it.socket).filter(|it| !it.is_empty());
        self.socket.clone().or_else(|| known.map(PathBuf::from))
    }
}

impl Target {
    pub(super) fn restart_plan<'a>(
        &'a self,
        files: &Files,
        usual: Option<&'static str>,
        effective: Option<&DocumentMut>,
    ) -> anyhow::Result<Option<Restart<'a>>> {
        let command = self.restart_command.as_deref();
        match self.restart {
            true => plan(self.runtime, &self.name, files, command, usual, effective),
            false => Ok(None),
        }
    }
}
