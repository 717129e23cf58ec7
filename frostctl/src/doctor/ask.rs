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
    /// What takes long is read only for a check that needs it.
    pub(crate) checks: Vec<&'static str>,
}

impl Ask {
    pub(crate) fn wants(&self, check: &str) -> bool {
        self.checks.contains(&check)
    }
}
