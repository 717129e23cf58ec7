//! What is configured: whose file it is, where it is, and how its entries are named.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long an engine may take to say what it makes of its files: each takes less than a second on an
/// idle machine.
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

    /// What makes it read its configuration again, whatever was taken out of it.
    pub(crate) fn restart(self) -> Option<&'static str> {
        match self {
            Engine::Containerd => Some("systemctl restart containerd"),
            Engine::Docker => Some("systemctl restart docker"),
            Engine::Crio => Some("systemctl restart crio"),
            Engine::Podman => None,
        }
    }

    /// What makes it read its configuration again, at the least cost.
    pub(crate) fn reload(self) -> Option<&'static str> {
        match self {
            Engine::Docker => Some("systemctl reload docker"),
            _ => self.restart(),
        }
    }

    /// What makes it forget a runtime that its configuration no longer has. A reload of dockerd
    /// (26.1) changes nothing if the file has no runtimes any more, and fails over a default that it
    /// has not.
    pub(crate) fn forget(self) -> Option<&'static str> {
        match self {
            Engine::Docker => Some(
                "systemctl restart docker; a reload leaves a runtime that was the default or the last one",
            ),
            _ => self.restart(),
        }
    }
}
