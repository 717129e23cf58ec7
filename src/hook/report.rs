//! What the journal says of a hook.

use std::time::Duration;

/// What a hook has found of the container's cgroup and those above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// None was frozen.
    Thawed,
    /// One was, and is not any more.
    ThawedMeanwhile,
    StillFrozen,
    /// The cgroup is not known, or there is no freezer.
    Unknown,
    /// The stage is not one to look at, or an operation of ours does.
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

/// What the journal says of a hook beyond what it says of every operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub stage: String,
    pub found: Found,
    pub waited: Duration,
    /// What was frozen: the directory whose own wish it was, where that can be told.
    pub frozen: Option<String>,
}
