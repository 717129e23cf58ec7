//! `frostctl configure` and `unconfigure`: puts frostlock into the configuration of an engine, and
//! takes it out again.

use std::path::PathBuf;

use anyhow::bail;

use crate::exit::Exit;
use crate::output::Output;

pub(crate) mod binary;
mod check;
mod distribution;
pub(crate) mod edit;
pub(crate) mod engine;
pub(crate) mod file;
mod go_template;
mod install;
mod interrupt;
mod json_file;
mod json_text;
pub(crate) mod layout;
mod lines;
pub(crate) mod live;
mod node;
mod places;
pub(crate) mod podman;
mod purge;
pub(crate) mod record;
mod remove;
mod report;
pub(crate) mod restart;
pub(crate) mod toml_file;
pub(crate) mod uninstall;

pub(crate) use install::{Drift, drifts};

use engine::Engine;

/// Put frostlock into the configuration of containerd, docker, CRI-O or podman
///
/// It adds a runtime of its own beside those that are there: with the options of the one that it
/// stands in for, SystemdCgroup above all, and with frostlock as its program. Pods choose it by a
/// RuntimeClass, containers by --runtime; with --set-as-default it is what all new ones get.
/// Containers that run stay as they are. The rest of the file is not touched. Run again, it follows
/// what the other runtime's options have become.
#[derive(Debug, clap::Args)]
#[command(after_help = concat!(
    "Examples:\n",
    "  frostctl configure --runtime containerd --dry-run\n",
    "  frostctl configure --runtime containerd --restart\n",
    "  frostctl configure --runtime containerd --set-as-default && systemctl restart containerd\n",
    "  frostctl configure --runtime docker --wrap runc --name frostlock"
))]
pub(crate) struct Configure {
    #[command(flatten)]
    target: Target,

    /// Use it for all new containers that ask for no other runtime
    #[arg(long)]
    set_as_default: bool,

    /// The runtime entry to stand in for, whose options are copied; by default the one of the time
    /// before, else the default one
    #[arg(long, value_name = "RUNTIME")]
    wrap: Option<String>,

    /// Write into containerd's own file, also where it merges drop-ins (from 2.0 on)
    #[arg(long, conflicts_with = "drop_in")]
    no_drop_in: bool,

    /// The installed frostlock; by default the one beside frostctl, in /usr/local/bin or in PATH
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,

    /// Go ahead although frostlock would run another runtime than the entry that it stands in for
    #[arg(long)]
    force: bool,
}

/// Take frostlock out of the configuration again
///
/// The file is as it was before, byte for byte. If somebody has edited it since, only what is
/// ours is taken out and the edits are kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Unconfigure {
    #[command(flatten)]
    target: Target,

    /// Go ahead although containers of this runtime are running, and keep the result although the
    /// engine does not take it
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct Target {
    /// Whose configuration it is
    #[arg(long, value_enum)]
    runtime: Engine,

    /// The configuration file, if it is not where it usually is
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,

    /// Write into this file instead, which the configuration imports (not docker)
    #[arg(long, value_name = "PATH")]
    drop_in: Option<PathBuf>,

    /// What the runtime is called: the handler of a RuntimeClass
    #[arg(long, default_value = "frostlock")]
    name: String,

    /// Change nothing, print the difference; exits with 1 if there is one
    #[arg(long)]
    dry_run: bool,

    /// Then restart the engine (dockerd gets in a new runtime by a reload), and wait until it answers
    /// and has taken the change in; if it does not, everything is put back and it is restarted again
    #[arg(long)]
    restart: bool,

    /// What restarts it, for a shell; by default as the distribution does, with systemctl or snap
    #[arg(long, value_name = "COMMAND", requires = "restart")]
    restart_command: Option<String>,

    /// A node below this directory, for tests
    #[arg(long, hide = true, value_name = "DIR")]
    root: Option<PathBuf>,
}

impl Target {
    fn restart_plan<'a>(
        &'a self,
        files: &places::Files,
        usual: Option<&'static str>,
        effective: Option<&toml_edit::DocumentMut>,
    ) -> anyhow::Result<Option<restart::Restart<'a>>> {
        let command = self.restart_command.as_deref();
        match self.restart {
            true => restart::plan(self.runtime, &self.name, files, command, usual, effective),
            false => Ok(None),
        }
    }
}

/// The longest file name that there is, less what is put around it.
const MAX_NAME_BYTES: usize = 200;

impl Target {
    fn check_name(&self) -> anyhow::Result<()> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.is_empty() || !self.name.bytes().all(valid) {
            bail!("{:?} is no name for a runtime: letters, digits, '-', '_' and '.'", self.name);
        }
        if self.name.len() > MAX_NAME_BYTES {
            bail!(
                "a name of {} bytes is too long for a runtime: {MAX_NAME_BYTES} at most",
                self.name.len()
            );
        }
        Ok(())
    }
}

impl Configure {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let report = install::install(self)?;
        output.print(&report, |out| report.write(out))?;
        Ok(if report.dry_run && report.changes() { Exit::Found } else { Exit::Clean })
    }
}

impl Unconfigure {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let report = remove::remove(&self.target, self.force)?;
        output.print(&report, |out| report.write(out))?;
        Ok(if report.dry_run && report.changes() { Exit::Found } else { Exit::Clean })
    }
}
