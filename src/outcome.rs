//! How one operation ended: one value, of which journal, syslog and exit status are renderings.

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

/// What became of the lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LockUse {
    /// The verb takes none, the mode asks for none, or there is no cgroup that we know of.
    #[default]
    None,
    Held(Mode),
    Nested(Holder),
    TimedOut(Vec<Holder>),
    Unavailable(String),
}

/// What we make of the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    Failed,
    /// The runtime was killed by a signal.
    Killed,
    NotStarted,
    /// A command line that we could not read: handed to the runtime by execve, unserialized.
    Unreadable,
    /// Handed to the runtime by execve; its end is not ours to know.
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
    /// The delay after it, if another followed.
    pub delay: Option<Duration>,
}

/// How long each part took. `None` is a part that there was not.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    /// From our start to the first try for the lock.
    pub prepare: Duration,
    pub lock_wait: Duration,
    /// From the runtime's start until its container or exec process ran; foreground verbs only.
    pub started: Option<Duration>,
    /// From the runtime's start to its end.
    pub run: Duration,
}

/// The CPU limits that the operation met.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quotas {
    pub container: Option<CpuQuota>,
    pub pod: Option<CpuQuota>,
}

/// What a cgroup had been through, read before `delete` removed it.
#[derive(Debug, Clone, Copy, Default)]
pub struct LastFigures {
    pub throttled: Option<Throttled>,
    pub oom_kill: Option<u64>,
}

/// What throttling has cost an operation that nothing was done for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Throttling {
    /// How long a cgroup of the operation's was throttled while the runtime worked: at most so long, since
    /// the kernel adds up the CPUs.
    pub throttled: Duration,
    /// Of the one that was throttled in the most of its periods.
    pub nr_periods: u64,
    pub nr_throttled: u64,
    /// The CPU time of the runtime and of what it has waited for.
    pub cpu: Duration,
    /// What of the runtime's time was throttled and had no CPU: at most so much.
    pub explained: Duration,
}

/// One operation, ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub verb: Option<Verb>,
    pub id: OsString,
    pub cgroup: Option<Identity>,
    pub runtime: PathBuf,
    /// The command of our caller.
    pub requested_by: Option<String>,
    /// The signal that `kill` was asked to send.
    pub signal: Option<OsString>,
    pub lock: LockUse,
    pub stages: Stages,
    /// Every start of the runtime.
    pub attempts: Vec<Attempt>,
    /// Why there was no further one, after a failure.
    pub gave_up: Option<Reason>,
    pub exit: Option<Exit>,
    pub verdict: Verdict,
    pub quotas: Quotas,
    pub figures: Option<LastFigures>,
    /// In mode "observe".
    pub throttling: Option<Throttling>,
    pub lifts: lift::Summary,
    /// That this is no operation, but what was lifted after one had ended: of this verb.
    pub lift_of: Option<Verb>,
    /// What earlier operations that were killed had left behind, and was undone.
    pub recovered: Vec<String>,
    pub init: Option<Process>,
    pub pod: PodNames,
    /// That this was no command, but us as a hook.
    pub hook: Option<hook::Report>,
    /// What a reader should know beyond the fields: complaints about the configuration, the
    /// runtime's last words.
    pub notes: Vec<String>,
}

impl Outcome {
    /// Of this container, with nothing known but that nothing went wrong.
    pub fn of(id: OsString) -> Outcome {
        Outcome {
            verb: None,
            id,
            cgroup: None,
            runtime: PathBuf::new(),
            requested_by: None,
            signal: None,
            lock: LockUse::None,
            stages: Stages::default(),
            attempts: Vec::new(),
            gave_up: None,
            exit: None,
            verdict: Verdict::Ok,
            quotas: Quotas::default(),
            figures: None,
            throttling: None,
            lifts: lift::Summary::default(),
            lift_of: None,
            recovered: Vec::new(),
            init: None,
            pod: PodNames::default(),
            hook: None,
            notes: Vec::new(),
        }
    }

    /// The word for what was done, if there is one.
    pub fn command(&self) -> Option<&'static str> {
        match (&self.hook, self.lift_of) {
            (Some(_), _) => Some("hook"),
            (None, Some(_)) => Some("lift"),
            (None, None) => self.verb.map(Verb::as_str),
        }
    }
}
