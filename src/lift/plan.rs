//! What an operation wants lifted.

use std::path::PathBuf;
use std::time::Duration;

use cgroup::{Freezer, Reader};

#[derive(Debug)]
pub(crate) struct Plan {
    /// For people: verb and container.
    pub(crate) what: String,
    /// The container's cgroup files.
    pub(crate) files: Option<Reader>,
    /// The container's first process, if it waits to be started.
    pub(crate) init: Option<i32>,
    /// The pod whose account a program's time is booked to.
    pub(crate) pod: Option<PathBuf>,
    /// What an exec'd command may use; zero if it gets nothing.
    pub(crate) program: Duration,
    /// How often to look for a freeze, if the operation may freeze.
    pub(crate) freezes: Option<Duration>,
    pub(crate) kills: bool,
    /// The container or its pod has been throttled so far. A container that has not freezes in
    /// microseconds, except on a busy node, and there its runtime is seen to wait.
    pub(crate) is_throttled: bool,
    /// It has been throttled in more than a tenth of its periods: a thread in it that seems to wait
    /// does wait.
    pub(crate) is_starved: bool,
}

impl Plan {
    pub(super) fn is_freezing(&self) -> bool {
        let files = self.files.as_ref().filter(|_| self.freezes.is_some());
        files.is_some_and(|f| f.freezer() == Freezer::Freezing && f.is_told_to_freeze())
    }
}
