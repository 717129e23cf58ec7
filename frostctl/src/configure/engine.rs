//! The engines: their files, the paths of these, and the names of their entries.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long an engine may take to check its files: each takes less than a second on an idle
/// machine.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    /// containerd, and so Kubernetes on it: /etc/containerd/config.toml
    Containerd,
    /// dockerd: /etc/docker/daemon.json
    Docker,
    /// CRI-O: a drop-in of its own, /etc/crio/crio.conf.d/99-frostlock.conf
    Crio,
    /// podman: a drop-in of its own, /etc/containers/containers.conf.d/99-frostlock.conf
    Podman,
}

impl Engine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Engine::Containerd => "containerd",
            Engine::Docker => "docker",
            Engine::Crio => "crio",
            Engine::Podman => "podman",
        }
    }

    pub(crate) fn default_path(self, name: &str) -> PathBuf {
        match self {
            Engine::Containerd => "/etc/containerd/config.toml".into(),
            Engine::Docker => "/etc/docker/daemon.json".into(),
            Engine::Crio => Path::new("/etc/crio/crio.conf.d").join(format!("99-{name}.conf")),
            Engine::Podman => {
                Path::new("/etc/containers/containers.conf.d").join(format!("99-{name}.conf"))
            }
        }
    }

    /// The command that makes it read its configuration again, whatever was removed from it.
    pub(crate) fn restart(self) -> Option<&'static str> {
        match self {
            Engine::Containerd => Some("systemctl restart containerd"),
            Engine::Docker => Some("systemctl restart docker"),
            Engine::Crio => Some("systemctl restart crio"),
            Engine::Podman => None,
        }
    }

    /// The command that makes it read its configuration again, at the least cost.
    pub(crate) fn reload(self) -> Option<&'static str> {
        match self {
            Engine::Docker => Some("systemctl reload docker"),
            _ => self.restart(),
        }
    }

    /// The command that makes it forget a runtime that was removed from its configuration. A reload
    /// of dockerd (26.1) changes nothing if the file has no runtimes left, and fails if the default
    /// is a runtime that dockerd does not have.
    pub(crate) fn forget(self) -> Option<&'static str> {
        match self {
            Engine::Docker => Some(
                "systemctl restart docker; a reload leaves a runtime that was the default or the last one",
            ),
            _ => self.restart(),
        }
    }
}
