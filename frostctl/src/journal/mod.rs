//! The journal for `history`, `report` and `metrics`: its files, and one record after another in
//! bounded memory.

mod data;
mod reader;
mod record;
mod source;

pub(crate) use data::{Data, extents};
pub(crate) use reader::{Reader, Skipped, lines, parse};
pub(crate) use record::{Exit, Lift, Record, unix_ms};
pub(crate) use source::{Journal, Source, older};
