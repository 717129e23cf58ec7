//! The journal's lines for what ended.

use std::path::PathBuf;
use std::time::SystemTime;

use journal::Stamp;
use journal::history::History;
use serde::Serialize;

use crate::output;

/// The version of the records, the same as the wrapper's.
const VERSION: u32 = 1;

/// One line of the journal; docs/journal.md describes the keys.
#[derive(Debug, Serialize)]
struct Line<'a> {
    v: u32,
    #[serde(flatten)]
    stamp: Stamp,
    verb: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exec_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    source: &'static str,
}

#[derive(Debug, Serialize)]
struct Code {
    code: u32,
}

/// Something that ended, or an OOM kill.
#[derive(Debug)]
pub(super) struct Happened<'a> {
    pub(super) source: &'static str,
    pub(super) at: SystemTime,
    pub(super) namespace: Option<&'a str>,
    pub(super) id: &'a str,
    pub(super) exec_id: Option<&'a str>,
    /// `None` is an OOM kill.
    pub(super) code: Option<u32>,
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
        let line = Line {
            v: VERSION,
            stamp,
            verb: if happened.code.is_some() { "exit" } else { "oom" },
            id: happened.id,
            exec_id: happened.exec_id,
            exit: happened.code.map(|code| Code { code }),
            namespace: happened.namespace,
            source: happened.source,
        };
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
