//! What was seen, without any judgement. What could not be looked at is included as such.

use std::fmt::Display;
use std::path::PathBuf;

use serde::Serialize;

use crate::switch::Switch;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Known<T> {
    Seen(T),
    Unseen {
        /// Why.
        not_checked: String,
    },
}

impl<T> Known<T> {
    pub(crate) fn unseen(why: impl Into<String>) -> Known<T> {
        Known::Unseen { not_checked: why.into() }
    }

    /// An error becomes the reason, with its causes.
    pub(crate) fn of(result: Result<T, impl Display>) -> Known<T> {
        result.map_or_else(|why| Known::unseen(format!("{why:#}")), Known::Seen)
    }
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Facts {
    /// frostctl's version, which is that of the wrapper installed with it.
    pub(crate) version: &'static str,
    /// The binaries that engines call; if none is called, the one that would be configured.
    pub(crate) binaries: Vec<Binary>,
    pub(crate) engines: Vec<Engine>,
    pub(crate) config: Known<Configuration>,
    pub(crate) switch: Known<Switch>,
    pub(crate) runtime: Known<Runtime>,
    pub(crate) state: Known<State>,
    /// How many containers run through it.
    pub(crate) containers: Known<usize>,
    pub(crate) records: Known<Records>,
    /// Settings in an engine's environment that differ from ours: its wrapper uses other files.
    pub(crate) elsewhere: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Binary {
    pub(crate) path: PathBuf,
    pub(crate) is_there: bool,
    pub(crate) is_executable: bool,
    /// `None`: the file cannot be read.
    pub(crate) is_frostlock: Option<bool>,
    pub(crate) is_static: Option<bool>,
    /// `None` for versions that did not yet write it into their mark.
    pub(crate) version: Option<String>,
}

/// The runtimes of a file with their programs, and its default.
pub(super) type Entries = (Vec<(String, String)>, Option<String>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    pub(crate) file: PathBuf,
    /// The handlers that run frostlock.
    pub(crate) handlers: Vec<Handler>,
    /// Files that could not be read, and why.
    pub(crate) unread: Vec<String>,
    pub(crate) loaded: Loaded,
    /// The command that makes the engine read its files again.
    pub(crate) reload: Option<String>,
    /// A leftover of ours in its files that breaks them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wrong: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Handler {
    pub(crate) name: String,
    pub(crate) binary: PathBuf,
    pub(crate) is_default: bool,
}

/// What the process has loaded, whatever its files say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Loaded {
    /// It has what the files say.
    AsConfigured,
    /// It has something else; each difference is a clause.
    Otherwise(Vec<String>),
    /// Each of its commands reads the files anew.
    EachTime,
    NotRunning,
    /// Its CRI plugin is off, and handlers belong to CRI.
    NoCri,
    NotChecked(String),
}

impl Loaded {
    /// As configured, unless something is owed.
    pub(super) fn unless(owed: impl Iterator<Item = String>) -> Loaded {
        let owed: Vec<String> = owed.collect();
        if owed.is_empty() { Loaded::AsConfigured } else { Loaded::Otherwise(owed) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Configuration {
    pub(crate) file: PathBuf,
    pub(crate) mode: &'static str,
    pub(crate) mistakes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Runtime {
    /// `None`: there is no runtime to run.
    pub(crate) path: Option<PathBuf>,
    /// The version that it reports.
    pub(crate) says: Known<String>,
    /// Why another runtime is used than the configuration names.
    pub(crate) fell_back: Option<String>,
    /// Why it cannot be run.
    pub(crate) broken: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct State {
    pub(crate) directory: PathBuf,
    pub(crate) is_there: bool,
    /// Why the directory is not used.
    pub(crate) refused: Option<String>,
    /// Why nothing new can be written there.
    pub(crate) full: Option<String>,
    /// What to do about that.
    #[serde(skip)]
    pub(crate) remedy: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Records {
    pub(crate) last: Option<Last>,
    pub(crate) day: Day,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Last {
    pub(crate) verb: String,
    pub(crate) container: String,
    pub(crate) verdict: String,
    pub(crate) time: String,
    /// `None`: the record is from the future, since the clock has jumped.
    pub(crate) age_s: Option<u64>,
}

/// Totals of the last 24 h.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Day {
    pub(crate) operations: u64,
    pub(crate) failed: u64,
    pub(crate) repeated: u64,
    pub(crate) lifted: u64,
    pub(crate) lifted_ms: f64,
    /// Operations that went ahead without the lock.
    pub(crate) without_lock: u64,
    /// How far back was read, if the day's journal is larger than what is read of it.
    pub(crate) only_s: Option<u64>,
}
