//! Everything that is known at one time.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::counters::Counters;
use super::frozen::Frozen;
use super::pods::Pods;

#[derive(Debug, Serialize)]
pub(crate) struct Snapshot {
    pub(super) journal: PathBuf,
    pub(super) journal_files: usize,
    pub(super) counters: Counters,
    pub(super) pods: Pods,
    pub(super) frozen: Option<Frozen>,
    pub(super) divergences: Option<BTreeMap<&'static str, usize>>,
    pub(super) off: bool,
}
