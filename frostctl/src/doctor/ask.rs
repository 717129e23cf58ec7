//! What is to be read of a node.

use std::path::PathBuf;
use std::time::Duration;

use crate::node::root::Root;

/// What the command line says of how to read it.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) root: Root,
    /// kubelet's `--cgroup-root`, where its configuration is not to be had.
    pub(crate) cgroup_root: Option<PathBuf>,
    pub(crate) leftover_age: Duration,
    /// Whether to ask programs their version, to try the freezer and a lift, and to look at what
    /// every process has open.
    pub(crate) programs: bool,
    pub(crate) trials: bool,
    pub(crate) inotify: bool,
    /// Whether to ask containerd what it has loaded, and to look at what the operations of the last
    /// hour say.
    pub(crate) loaded: bool,
    pub(crate) refusals: bool,
}
