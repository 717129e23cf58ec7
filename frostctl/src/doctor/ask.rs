//! What to read of a node.

use std::path::PathBuf;
use std::time::Duration;

use crate::node::root::Root;

/// How to read it, from the command line.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) root: Root,
    /// kubelet's `--cgroup-root`, if its configuration cannot be found.
    pub(crate) cgroup_root: Option<PathBuf>,
    pub(crate) leftover_age: Duration,
    /// Whether to ask programs for their version, to try the freezer and a lift, and to look at the
    /// open files of every process.
    pub(crate) programs: bool,
    pub(crate) trials: bool,
    pub(crate) inotify: bool,
    /// Whether to ask containerd what it has loaded, and to read the journal's operations of the
    /// last hour.
    pub(crate) loaded: bool,
    pub(crate) refusals: bool,
}
