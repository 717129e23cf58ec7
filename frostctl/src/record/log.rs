//! The journal's lines for what ended.

use std::path::PathBuf;
use std::time::SystemTime;

use journal::history::History;
use journal::{Stamp, VERSION};
use serde::Serialize;

use crate::output;

/// One line of the journal; docs/journal.md describes the keys.
#[derive(Debug, Serialize)]
struct Line<'a> {
    v: u32,
    #[serde(flatten)]
    stamp: Stamp,
    verb: &'static str,
    #[serde(flatten)]
    happened: &'a Happened<'a>,
}

/// Something that ended, or an OOM kill.
#[derive(Debug, Serialize)]
pub(super) struct Happened<'a> {
    #[serde(skip)]
    pub(super) at: SystemTime,
    pub(super) id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exec_id: Option<&'a str>,
    /// `None` is an OOM kill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exit: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<&'a str>,
    pub(super) source: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct Code {
    pub(super) code: u32,
}

pub(super) struct Log {
    pub(super) history: History,
    /// The short journal.
    pub(super) journal: PathBuf,
}

impl Log {
    /// A line that cannot be written is reported, and lost.
    pub(super) fn add(&self, happened: &Happened<'_>) {
        let Some(stamp) = Stamp::of(happened.at) else { return };
        let verb = if happened.exit.is_some() { "exit" } else { "oom" };
        let line = Line { v: VERSION, stamp, verb, happened };
        let written =
            serde_json::to_vec(&line).map_err(std::io::Error::from).and_then(|mut line| {
                line.push(b'\n');
                journal::append_in_turn(&self.journal, &self.history, &line)
            });
        if let Err(error) = written {
            let directory = self.history.directory().display();
            let error = anyhow::Error::from(error).context(format!("cannot write to {directory}"));
            output::complain(&error);
        }
    }
}
