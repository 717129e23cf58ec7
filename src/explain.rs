//! Why a freeze failed, in one line, for people who read the runtime's error.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use cgroup::freeze::Tasks;
use cgroup::text;

/// What we can say beyond the runtime's own text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Explanation {
    pub(crate) attempts: usize,
    pub(crate) over: Duration,
    /// The threads that had not frozen.
    pub(crate) tasks: Tasks,
    /// How many periods of the CPU controller ended with the container or its pod throttled.
    pub(crate) throttled: u64,
    /// An ancestor cgroup that somebody has frozen.
    pub(crate) ancestor: Option<PathBuf>,
    /// Why the threads were not lifted.
    pub(crate) lift: Option<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.attempts == 1 { "" } else { "s" };
        let over = self.over.as_secs_f64();
        write!(f, "frostlock: {} attempt{plural} in {over:.2} s", self.attempts)?;
        if !self.tasks.is_empty() {
            write!(f, "; not frozen: {}", self.tasks)?;
        }
        if self.throttled > 0 {
            write!(f, "; throttled in {} periods", self.throttled)?;
        }
        if let Some(refused) = &self.lift {
            write!(f, "; lift refused: {refused}")?;
        }
        if let Some(ancestor) = &self.ancestor {
            write!(f, "; {} is frozen", text::one_line(ancestor.as_os_str(), 256))?;
        }
        Ok(())
    }
}
