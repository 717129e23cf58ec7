//! The runtime commands in which we have a part.

use std::fmt;

/// A command that is not just handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    Create,
    Run,
    Restore,
    Start,
    Update,
    Pause,
    Resume,
    Checkpoint,
    Exec,
    State,
    Kill,
    Delete,
}

impl Verb {
    pub const ALL: [Self; 12] = [
        Self::Create,
        Self::Run,
        Self::Restore,
        Self::Start,
        Self::Update,
        Self::Pause,
        Self::Resume,
        Self::Checkpoint,
        Self::Exec,
        Self::State,
        Self::Kill,
        Self::Delete,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Run => "run",
            Self::Restore => "restore",
            Self::Start => "start",
            Self::Update => "update",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Checkpoint => "checkpoint",
            Self::Exec => "exec",
            Self::State => "state",
            Self::Kill => "kill",
            Self::Delete => "delete",
        }
    }
}

impl Verb {
    /// Whether there is a container afterwards that was not there before.
    pub const fn makes_a_container(self) -> bool {
        matches!(self, Self::Create | Self::Run | Self::Restore)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
