//! The files that are edited, and how the engine reads them.

use std::path::PathBuf;

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::distribution::Distribution;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The engine reads the file that has our entry.
    #[default]
    Own,
    /// The engine's file imports ours.
    Import { is_merged: bool },
    /// The engine's file is generated from ours, a Go template.
    GoTemplate,
    /// The distribution merges our file into the engine's.
    Part,
}

#[derive(Debug)]
pub(crate) struct Files {
    /// The file that the engine reads.
    pub(crate) main: PathBuf,
    /// The file that has our entry.
    pub(crate) entry: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) distribution: Option<&'static Distribution>,
    /// The program of the running containerd.
    pub(crate) containerd: Option<PathBuf>,
    /// Where this containerd was told to listen.
    pub(crate) socket: Option<PathBuf>,
    /// The command that restarts the containerd that reads these files.
    pub(super) restart: Option<String>,
}

impl Files {
    pub(super) fn of(path: PathBuf) -> Files {
        Files {
            entry: path.clone(),
            main: path,
            kind: Kind::Own,
            distribution: None,
            containerd: None,
            socket: None,
            restart: None,
        }
    }

    /// The command that makes the engine read the files again; an error if the containerd's unit is
    /// not known. `usual` is the command for an engine that runs only once on a node.
    pub(crate) fn restart(&self, usual: Option<&'static str>) -> anyhow::Result<Option<String>> {
        match (self.distribution, &self.restart) {
            (None, _) => Ok(usual.map(str::to_owned)),
            (Some(_), Some(command)) => Ok(Some(command.clone())),
            (Some(_), None) => bail!(
                "no systemd unit is known whose containerd reads {:?}; name a command that restarts \
                 it with --restart-command",
                self.main
            ),
        }
    }

    /// The same, as advice for a person.
    pub(crate) fn restart_advice(&self, usual: Option<&'static str>) -> Option<String> {
        self.restart(usual).unwrap_or_else(|_| {
            Some(format!("restart the containerd that reads {}", self.main.display()))
        })
    }

    pub(super) fn through(self, kind: Kind, entry: PathBuf) -> Files {
        Files { kind, entry, ..self }
    }

    pub(crate) fn is_import(&self) -> bool {
        matches!(self.kind, Kind::Import { .. })
    }

    pub(crate) fn is_merged(&self) -> bool {
        match self.kind {
            Kind::Own => false,
            Kind::Import { is_merged } => is_merged,
            Kind::GoTemplate | Kind::Part => true,
        }
    }
}
