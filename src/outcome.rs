//! How one operation ended: one value, from which journal, syslog and exit status are made.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::hook::report as hook;
use crate::invocation::Verb;
use crate::lift::report as lift;
use crate::retry::Reason;
use crate::verdict::Failure;
use cgroup::bundle::PodNames;
use cgroup::process::Process;
use cgroup::{CpuQuota, Identity, Throttled};
use state::lock::{Holder, Mode};

/// The end of the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// It could not be started at all.
    NotStarted,
}

/// How the lock was used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LockUse {
    /// The verb takes no lock, the mode asks for none, or the cgroup is not known.
    #[default]
    None,
    Held(Mode),
    Nested(Holder),
    TimedOut(Vec<Holder>),
    Unavailable(String),
}

/// How we classify the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verdict {
    #[default]
    Ok,
    Failed,
    /// The runtime was killed by a signal.
    Killed,
    NotStarted,
    /// We could not read the command line: handed to the runtime by execve, unserialized.
    Unreadable,
    /// Handed to the runtime by execve; we do not learn its end.
    HandedOver,
}

impl Verdict {
    pub fn of(exit: Exit) -> Verdict {
        match exit {
            Exit::Code(0) => Verdict::Ok,
            Exit::Code(_) => Verdict::Failed,
            Exit::Signal(_) => Verdict::Killed,
            Exit::NotStarted => Verdict::NotStarted,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Failed => "failed",
            Verdict::Killed => "killed",
            Verdict::NotStarted => "not started",
            Verdict::Unreadable => "unreadable",
            Verdict::HandedOver => "handed over",
        }
    }
}

/// One start of the runtime.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    pub took: Duration,
    pub failure: Option<Failure>,
    /// The delay after this attempt, if another followed.
    pub delay: Option<Duration>,
}

/// How long each part took. `None` if the part did not happen.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    /// From our start to the first attempt to take the lock.
    pub prepare: Duration,
    pub lock_wait: Duration,
    /// From the runtime's start until its container or exec process ran; foreground verbs only.
    pub started: Option<Duration>,
    /// From the runtime's start to its end.
    pub run: Duration,
}

/// The CPU limits that applied to the operation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quotas {
    pub container: Option<CpuQuota>,
    pub pod: Option<CpuQuota>,
}

/// The figures of a cgroup, read before `delete` removed it.
#[derive(Debug, Clone, Copy, Default)]
pub struct LastFigures {
    pub throttled: Option<Throttled>,
    pub oom_kill: Option<u64>,
}

/// What throttling has cost an operation in mode "observe".
#[derive(Debug, Clone, Copy, Default)]
pub struct Throttling {
    /// How long a cgroup of the operation was throttled while the runtime worked: an upper bound,
    /// because the kernel adds up the CPUs.
    pub throttled: Duration,
    /// From the cgroup that was throttled in the most periods.
    pub nr_periods: u64,
    pub nr_throttled: u64,
    /// The CPU time of the runtime and of the children it has waited for.
    pub cpu: Duration,
    /// How much of the runtime's time was throttled and without a CPU: an upper bound.
    pub explained: Duration,
}

/// One operation that has ended.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub verb: Option<Verb>,
    pub id: OsString,
    pub cgroup: Option<Identity>,
    pub runtime: PathBuf,
    /// The command of the caller.
    pub requested_by: Option<String>,
    /// The signal that `kill` was asked to send.
    pub signal: Option<OsString>,
    pub lock: LockUse,
    pub stages: Stages,
    /// Every start of the runtime.
    pub attempts: Vec<Attempt>,
    /// Why no further attempt followed a failure.
    pub gave_up: Option<Reason>,
    pub exit: Option<Exit>,
    pub verdict: Verdict,
    pub quotas: Quotas,
    pub figures: Option<LastFigures>,
    /// In mode "observe".
    pub throttling: Option<Throttling>,
    pub lifts: lift::Summary,
    /// Set for a record of what was lifted after an operation of this verb had ended.
    pub lift_of: Option<Verb>,
    /// What earlier, killed operations had left, and was undone.
    pub recovered: Vec<String>,
    pub init: Option<Process>,
    pub pod: PodNames,
    /// Set if frostlock ran as a hook and not as a command.
    pub hook: Option<hook::Report>,
    /// What a reader should know beyond the fields: mistakes in the configuration, the runtime's last
    /// words.
    pub notes: Vec<String>,
}

impl Outcome {
    /// The outcome for this container, with nothing known except that nothing went wrong.
    pub fn of(id: OsString) -> Outcome {
        Outcome { id, ..Outcome::default() }
    }

    /// The word for what was done, if known.
    pub fn command(&self) -> Option<&'static str> {
        match (&self.hook, self.lift_of) {
            (Some(_), _) => Some("hook"),
            (None, Some(_)) => Some("lift"),
            (None, None) => self.verb.map(Verb::as_str),
        }
    }
}
