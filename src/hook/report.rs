//! What the journal says of a hook.

use std::time::Duration;

/// What a hook has found about the container's cgroup and those above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No cgroup was frozen.
    Thawed,
    /// One was frozen, and is not any more.
    ThawedMeanwhile,
    StillFrozen,
    /// The cgroup is not known, or there is no freezer.
    Unknown,
    /// The hook does not look at this stage, or an operation of ours does.
    NotAsked,
}

impl Found {
    pub fn as_str(self) -> &'static str {
        match self {
            Found::Thawed => "thawed",
            Found::ThawedMeanwhile => "thawed meanwhile",
            Found::StillFrozen => "still frozen",
            Found::Unknown => "unknown",
            Found::NotAsked => "not asked",
        }
    }
}

/// What the journal says of a hook in addition to what it says of every operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub stage: String,
    pub found: Found,
    pub waited: Duration,
    /// What was frozen: the directory that itself was told to freeze, where that can be determined.
    pub frozen: Option<String>,
}
