//! What was lifted, for the record.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whose threads they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Whose {
    /// The runtime's own, inside the container and outside.
    Runtime,
    /// An exec'd command's, and its descendants'. The only use that gives the workload something.
    Program,
    /// Threads on their way into the freezer.
    Freeze,
    /// Killed threads on their way out.
    Kill,
    /// The lifter itself, while it has lifted others.
    Watcher,
}

impl Whose {
    /// Whether the threads may try to stay lifted. These run in a program that somebody else wrote, or
    /// are about to execute one and may have done so before we look. A dying thread runs no user code
    /// any more.
    pub(crate) fn may_resist(self) -> bool {
        matches!(self, Whose::Runtime | Whose::Program | Whose::Freeze)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Whose::Runtime => "runtime",
            Whose::Program => "program",
            Whose::Freeze => "freeze",
            Whose::Kill => "kill",
            Whose::Watcher => "watcher",
        }
    }
}

/// Why they were put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// The work was done.
    Done,
    /// A thread had used as much CPU time as one thread may.
    ThreadLimit,
    /// The operation had used as much as one may, or it took too long.
    OperationLimit,
    PodLimit,
    NodeLimit,
    WatcherLimit,
    /// A thread made itself real-time again after each put-back, and its process was killed.
    Killed,
}

impl Ended {
    pub fn as_str(self) -> &'static str {
        match self {
            Ended::Done => "done",
            Ended::ThreadLimit => "thread limit",
            Ended::OperationLimit => "operation limit",
            Ended::PodLimit => "pod limit",
            Ended::NodeLimit => "node limit",
            Ended::WatcherLimit => "watcher limit",
            Ended::Killed => "killed",
        }
    }
}

/// What one use of one operation has lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub whose: Whose,
    pub threads: u32,
    /// CPU time while they were lifted, never too low: threads that ended between two looks count as
    /// having run since the last look, on all CPUs at most.
    pub cpu: Duration,
    /// From the first lift to the last put-back.
    pub took: Duration,
    pub ended: Ended,
}

/// What one operation has lifted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub lifts: Vec<Report>,
    /// Why the kernel or frostlock refused.
    pub refused: Option<String>,
}

impl Summary {
    /// The CPU time of one use.
    pub(crate) fn cpu(&self, whose: Whose) -> Duration {
        self.lifts.iter().filter(|report| report.whose == whose).map(|report| report.cpu).sum()
    }

    /// Adds what a further attempt has lifted.
    pub(crate) fn add(&mut self, other: Summary) {
        for report in other.lifts {
            match self.lifts.iter_mut().find(|known| known.whose == report.whose) {
                Some(known) => {
                    known.threads += report.threads;
                    known.cpu += report.cpu;
                    known.took += report.took;
                    known.ended = report.ended;
                }
                None => self.lifts.push(report),
            }
        }
        self.refused = self.refused.take().or(other.refused);
    }
}
