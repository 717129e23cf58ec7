//! The versions of a container's containerd and runtime.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::claim::{Container, Seen, Source, Status, Supervisor};
use super::command;
use super::judge::Divergence;
use crate::defects::{Shim, Symptom};
use crate::version::Version;

/// How long to wait for a program's version.
const SAYS_WITHIN: Duration = Duration::from_secs(2);

/// Each program is asked once.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    containerds: BTreeMap<PathBuf, String>,
    runtimes: BTreeMap<PathBuf, Option<(String, Version)>>,
}

impl Versions {
    pub(crate) fn of_containerds(&mut self, seen: &Seen) {
        self.containerds.clone_from(&seen.versions);
    }

    /// What known defects are compared with.
    pub(crate) fn symptom(&mut self, divergence: &Divergence) -> Symptom {
        let container = divergence.container();
        let containerd = container.filter(|it| it.owner.namespace().is_some());
        let containerd = containerd.and_then(|it| self.containerds.get(it.socket.as_ref()?));
        let binary = container.and_then(|it| Some(it.state.as_ref()?.binary.clone()));
        Symptom {
            kind: divergence.kind,
            containerd: containerd.and_then(|said| Version::find(said)),
            runtime: binary.and_then(|it| self.of_runtime(&it)),
            shim: shim(divergence.supervisor()),
            only_cri_says_so: container.is_some_and(only_cri_says_so),
            has_state: container.is_some_and(|it| it.state.is_some()),
        }
    }

    /// If the binary is frostlock, it gives the version of the runtime behind it.
    fn of_runtime(&mut self, binary: &Path) -> Option<(String, Version)> {
        let asked = self.runtimes.entry(binary.to_owned()).or_insert_with(|| {
            let said = command::run(binary, &["--version"], SAYS_WITHIN, None).ok()?;
            named(&String::from_utf8_lossy(&said))
        });
        asked.clone()
    }
}

fn named(said: &str) -> Option<(String, Version)> {
    let first = said.lines().next()?;
    Some((first.split_whitespace().next()?.to_owned(), Version::find(first)?))
}

fn shim(supervisor: Option<&Supervisor>) -> Shim {
    match supervisor {
        None => Shim::Gone,
        Some(it) if it.stopped => Shim::Stopped,
        Some(_) => Shim::Alive,
    }
}

/// Only for containerd; for CRI-O there is no other source to say so.
fn only_cri_says_so(container: &Container) -> bool {
    let runs = |source| container.status(source).is_some_and(Status::needs_process);
    container.owner.namespace().is_some() && runs(Source::Cri) && !runs(Source::Containerd)
}
