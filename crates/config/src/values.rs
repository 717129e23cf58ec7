//! The values that apply, in the shape of the file.

use std::ffi::OsString;

/// How much frostlock does, so that an operator can build trust step by step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Runs like a bare runtime, only records.
    Observe,
    /// Serializes and records.
    Lock,
    Full,
}

/// Which operations syslog reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syslog {
    Off,
    /// Those that a person may need to look at.
    Remarkable,
    All,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub runtime: Option<OsString>,
    pub mode: Mode,
    pub lock: Lock,
    pub retry: Retry,
    pub lift: Lift,
    pub hook: Hook,
    pub journal: Journal,
    pub history: History,
    pub log: Log,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    pub exclusive_wait_ms: u64,
    pub shared_wait_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    pub deadline_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lift {
    pub enabled: bool,
    pub program_ms: u64,
    pub pod_percent: u64,
    pub node_percent: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub wait_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    pub max_kib: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub enabled: bool,
    pub directory: Option<OsString>,
    pub max_mib: u64,
    pub max_days: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub syslog: Syslog,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            runtime: None,
            mode: Mode::Full,
            lock: Lock { exclusive_wait_ms: 1000, shared_wait_ms: 500 },
            retry: Retry { deadline_ms: 9000 },
            lift: Lift { enabled: true, program_ms: 50, pod_percent: 5, node_percent: 20 },
            hook: Hook { wait_ms: 2000 },
            journal: Journal { max_kib: 4096 },
            history: History { enabled: true, directory: None, max_mib: 64, max_days: 30 },
            log: Log { syslog: Syslog::Remarkable },
        }
    }
}

impl Mode {
    pub(crate) const ALL: [Mode; 3] = [Mode::Observe, Mode::Lock, Mode::Full];

    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Observe => "observe",
            Mode::Lock => "lock",
            Mode::Full => "full",
        }
    }
}

impl Syslog {
    pub fn as_str(self) -> &'static str {
        match self {
            Syslog::Off => "off",
            Syslog::Remarkable => "remarkable",
            Syslog::All => "all",
        }
    }
}
