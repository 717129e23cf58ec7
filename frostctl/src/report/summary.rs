//! The contents of a report, for any output.

use serde::Serialize;

use super::findings::Finding;
use super::tally::Numbers;
use crate::journal::Skipped;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The beginning, if not that of the journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since_ms: Option<i64>,
    #[serde(flatten)]
    pub(crate) numbers: Numbers,
    pub(crate) containers: u64,
    pub(crate) findings: Vec<Finding>,
    pub(crate) skipped: Skipped,
}
