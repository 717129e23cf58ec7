//! What was lifted, for the record.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whose threads they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Whose {
    /// The runtime's own, inside the container and out of it.
    Runtime,
    /// An exec'd command's, and its descendants'. The one that gives the workload something.
    Program,
    /// On their way into the freezer.
    Freeze,
    /// Killed, and on their way out.
    Kill,
    /// Ours, while something else is lifted.
    Watcher,
}

impl Whose {
    /// Whether they may try to stay lifted: they run on in a program that somebody else has written,
    /// or are about to execute one, and may have done so before we look. Who dies runs nothing more.
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

/// Why they are fair again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// What it was for was done.
    Done,
    /// A thread had used as much CPU time as one may.
    ThreadLimit,
    /// The operation had, or it took too long.
    OperationLimit,
    PodLimit,
    NodeLimit,
    WatcherLimit,
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
        }
    }
}

/// One use of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub whose: Whose,
    pub threads: u32,
    /// While they were lifted. Of threads that ended between two looks the time since the last one is
    /// taken for used, on all CPUs at most: never less than it was.
    pub cpu: Duration,
    /// From the first lift to the last put-back.
    pub took: Duration,
    pub ended: Ended,
}

/// Of one operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub lifts: Vec<Report>,
    /// Why the kernel, or we, would not.
    pub refused: Option<String>,
}

impl Summary {
    /// What was used for one use.
    pub(crate) fn cpu(&self, whose: Whose) -> Duration {
        self.lifts.iter().filter(|report| report.whose == whose).map(|report| report.cpu).sum()
    }

    /// With what a further attempt has seen.
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
