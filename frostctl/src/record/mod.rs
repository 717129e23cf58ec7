//! `frostctl record`: writes what the wrapper cannot see into the same long journal. Only
//! containerd's shim or conmon knows how a container or an exec ended.

mod conmon;
mod containerd;
mod log;

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Context;
use config::Config;
use journal::history::{self, History};
use rustix::fs::{Access, access};
use rustix::io::Errno;
use state::state_dir::StateDir;

use crate::exit::Exit;
use crate::journal::Reader;
use log::Log;

#[derive(Debug, clap::Args)]
pub(crate) struct Record {
    /// containerd's socket
    #[arg(long, value_name = "SOCKET", default_value = "/run/containerd/containerd.sock")]
    containerd: PathBuf,

    /// Where CRI-O has conmon write exit codes
    #[arg(long, value_name = "DIR", default_value = "/run/crio/exits")]
    conmon_exits: PathBuf,
}

impl Record {
    /// Runs until it is killed; each event is on disk before the next.
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let (config, _) = Config::load();
        let state = StateDir::from_env();
        let history = History::of(&config, &state).context(
            "there is no long journal to write to: see history.enabled and history.directory in the \
             configuration",
        )?;
        check_writable(history.directory())?;
        let of_containerd = recorded(&history, containerd::SOURCE)?;
        let of_conmon = recorded(&history, conmon::SOURCE)?.into_keys().collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let log = Log { history, journal: state.journal() };
        runtime.block_on(async {
            tokio::join!(
                containerd::follow(&self.containerd, of_containerd, &log),
                conmon::follow(&self.conmon_exits, of_conmon, &log)
            );
        });
        Ok(Exit::Clean)
    }
}

/// Otherwise a service that can write nothing would be noticed only by its missing records. The
/// directory is created with the first record.
fn check_writable(directory: &Path) -> anyhow::Result<()> {
    let nearest = directory.ancestors().find(|it| it.exists()).unwrap_or(directory);
    let is_directory = nearest.is_dir().then_some(()).ok_or(Errno::NOTDIR);
    is_directory
        .and_then(|()| access(nearest, Access::WRITE_OK | Access::EXEC_OK))
        .with_context(|| format!("cannot write the journal in {}", directory.display()))
}

/// The containers whose exits are already in the journal: after a restart of the service, their
/// source may report them again.
fn recorded(history: &History, source: &str) -> anyhow::Result<containerd::Known> {
    let mut known = containerd::Known::new();
    let mut reader = Reader::default();
    for path in history::files(history.directory()) {
        let Ok(file) = std::fs::File::open(&path) else { continue };
        reader
            .read(&file, &mut |record| {
                let is_exit = &*record.verb == "exit" && record.exec_id.is_empty();
                if is_exit && &*record.source == source {
                    let at = humantime::parse_rfc3339_weak(&record.time);
                    known.insert(record.id.to_string(), at.unwrap_or(UNIX_EPOCH));
                }
            })
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(known)
}
