//! The command lines of configure and unconfigure.

use std::path::PathBuf;

use anyhow::bail;

use super::engine::Engine;

/// Put frostlock into the configuration of containerd, docker, CRI-O or podman
///
/// Adds a runtime entry whose program is frostlock, beside the entries that are there. It has the
/// options, SystemdCgroup above all, of the entry that it wraps. Pods choose it by a RuntimeClass,
/// containers by --runtime; with --set-as-default all new containers get it. Running containers
/// stay as they are. The rest of the file is not touched. Another run copies the options of the
/// wrapped entry again.
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
    pub(super) target: Target,

    /// Use it for all new containers that ask for no other runtime
    #[arg(long)]
    pub(super) set_as_default: bool,

    /// The runtime entry to wrap, whose options are copied; by default that of the last run, else
    /// the default runtime
    #[arg(long, value_name = "RUNTIME")]
    pub(super) wrap: Option<String>,

    /// Write into containerd's own file, also where it merges drop-ins (from 2.0 on)
    #[arg(long, conflicts_with = "drop_in")]
    pub(super) no_drop_in: bool,

    /// The installed frostlock; by default the one beside frostctl, in /usr/local/bin or in PATH
    #[arg(long, value_name = "PATH")]
    pub(super) binary: Option<PathBuf>,

    /// Go ahead although frostlock would run another runtime than the wrapped entry
    #[arg(long)]
    pub(super) force: bool,
}

/// Take frostlock out of the configuration again
///
/// Restores the file byte for byte. If somebody has edited the file since, only frostlock's entry
/// is taken out and the edits are kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Unconfigure {
    #[command(flatten)]
    pub(super) target: Target,

    /// Go ahead although containers of this runtime are running, and keep the result although the
    /// engine does not load it
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// Whose configuration it is
    #[arg(long, value_enum)]
    pub(super) runtime: Engine,

    /// The configuration file, if it is not where it usually is
    #[arg(long, value_name = "PATH")]
    pub(super) config: Option<PathBuf>,

    /// Write into this file instead, which the configuration imports (not docker)
    #[arg(long, value_name = "PATH")]
    pub(super) drop_in: Option<PathBuf>,

    /// What the runtime is called: the handler of a RuntimeClass
    #[arg(long, default_value = "frostlock")]
    pub(super) name: String,

    /// Change nothing, print the difference; exits with 1 if there is one, and with 3 if it would be
    /// refused
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Then restart the engine (dockerd loads a new runtime by a reload), and wait until it answers
    /// and has loaded the change; otherwise put everything back and restart it again
    #[arg(long)]
    pub(super) restart: bool,

    /// The shell command that restarts the engine; by default the distribution's, with systemctl or
    /// snap
    #[arg(long, value_name = "COMMAND", requires = "restart")]
    pub(super) restart_command: Option<String>,

    /// A node below this directory, for tests
    #[arg(long, hide = true, value_name = "DIR")]
    pub(super) root: Option<PathBuf>,
}

/// The maximum length of a file name, minus what frostctl adds around the name.
const MAX_NAME_BYTES: usize = 200;

impl Target {
    pub(super) fn check_name(&self) -> anyhow::Result<()> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.is_empty() || !self.name.bytes().all(valid) {
            bail!(
                "{:?} cannot be a runtime's name: it may have letters, digits, '-', '_' and '.'",
                self.name
            );
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
