//! `frostctl configure` and `unconfigure`: puts frostlock into the configuration of an engine, and
//! takes it out again.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::exit::Exit;
use crate::output::Output;

mod binary;
mod check;
mod edit;
mod engine;
mod file;
mod install;
mod json_file;
mod layout;
mod live;
mod podman;
mod program;
pub(crate) mod record;
mod remove;
mod report;
mod toml_file;
pub(crate) mod uninstall;

use engine::Engine;

/// Put frostlock into the configuration of containerd, docker, CRI-O or podman
///
/// It adds a runtime of its own beside those that are there: with the options of the one that it
/// stands in for, SystemdCgroup above all, and with frostlock as its program. Pods choose it by a
/// RuntimeClass, containers by --runtime; with --set-as-default it is what all new ones get.
/// Containers that run stay as they are. The rest of the file is not touched.
#[derive(Debug, clap::Args)]
#[command(after_help = concat!(
    "Examples:\n",
    "  frostctl configure --runtime containerd --dry-run\n",
    "  frostctl configure --runtime containerd --set-as-default && systemctl restart containerd\n",
    "  frostctl configure --runtime docker --wrap runc --name frostlock"
))]
pub(crate) struct Configure {
    #[command(flatten)]
    target: Target,

    /// Use it for all new containers that ask for no other runtime
    #[arg(long)]
    set_as_default: bool,

    /// The runtime entry to stand in for, whose options are copied; by default the default one
    #[arg(long, value_name = "RUNTIME")]
    wrap: Option<String>,

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

    /// Go ahead although containers of this runtime are running
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
}

/// The files of a target.
#[derive(Debug)]
struct Files {
    /// What the engine reads.
    main: PathBuf,
    /// What our entry is in: the same, or one that it imports.
    entry: PathBuf,
}

impl Files {
    fn imports(&self) -> bool {
        self.main != self.entry
    }
}

impl Target {
    fn files(&self) -> anyhow::Result<Files> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.is_empty() || !self.name.bytes().all(valid) {
            bail!("{:?} is no name for a runtime: letters, digits, '-', '_' and '.'", self.name);
        }
        let absolute = |path: &Path| {
            std::path::absolute(path).with_context(|| format!("cannot tell where {path:?} is"))
        };
        let default = || self.runtime.default_path(&self.name);
        let main = self.config.clone().unwrap_or_else(default);
        let entry = match (&self.drop_in, self.runtime) {
            (Some(_), Engine::Docker) => {
                bail!("dockerd reads one file and no drop-ins; leave --drop-in away")
            }
            (Some(drop_in), Engine::Containerd) => drop_in.clone(),
            // Of these two, a drop-in is all that there is.
            (Some(drop_in), _) => {
                return Ok(Files { main: absolute(drop_in)?, entry: absolute(drop_in)? });
            }
            (None, _) => main.clone(),
        };
        Ok(Files { main: absolute(&main)?, entry: absolute(&entry)? })
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
