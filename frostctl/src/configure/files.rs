//! The files that are edited, and how the engine reads them.

use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::distribution::{self, Choice, Distribution};
use super::engine::Engine;

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
    pub(crate) engine: Engine,
    /// The file that the engine reads.
    pub(crate) main: PathBuf,
    /// The file that has our entry.
    pub(crate) entry: PathBuf,
    pub(crate) kind: Kind,
    /// The distribution, and the containerd that was found running with it.
    pub(super) choice: Option<Choice>,
    /// The program of the running containerd.
    pub(crate) containerd: Option<PathBuf>,
}

impl Files {
    pub(super) fn of(engine: Engine, path: PathBuf) -> Files {
        let (kind, choice, containerd) = (Kind::Own, None, None);
        Files { engine, main: path.clone(), entry: path, kind, choice, containerd }
    }

    /// For an engine without one, a distribution without a name.
    pub(super) fn distribution(&self) -> &'static Distribution {
        self.choice.as_ref().map_or(distribution::NONE, |it| it.distribution)
    }

    /// The socket that it was told, or the distribution's if its file names none.
    pub(super) fn known_socket(&self) -> Option<PathBuf> {
        let running = self.choice.as_ref().and_then(|it| it.running.as_ref());
        let known = Some(self.distribution().socket).filter(|it| !it.is_empty());
        running.and_then(|it| it.socket.clone()).or_else(|| known.map(PathBuf::from))
    }

    /// The command that makes the engine read the files again; an error if the containerd's unit is
    /// not known. `usual` is the command for an engine that runs only once on a node.
    pub(super) fn restart(&self, usual: Option<&'static str>) -> anyhow::Result<Option<String>> {
        let Some(choice) = &self.choice else { return Ok(usual.map(str::to_owned)) };
        let command = choice.restart().with_context(|| {
            format!(
                "no systemd unit is known whose containerd reads {:?}; name a command that restarts \
                 it with --restart-command",
                self.main
            )
        })?;
        Ok(Some(command))
    }

    /// The same, as advice for a person.
    pub(super) fn restart_advice(&self, usual: Option<&'static str>) -> Option<String> {
        self.restart(usual).unwrap_or_else(|_| {
            Some(format!("restart the containerd that reads {}", self.main.display()))
        })
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
