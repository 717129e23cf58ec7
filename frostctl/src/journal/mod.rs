//! The journal as `history` and `report` see it: which files there are, and one record after another
//! in bounded memory.

mod reader;
mod record;
mod source;

pub(crate) use reader::{Reader, Skipped};
pub(crate) use record::{Exit, Record, unix_ms};
pub(crate) use source::{Journal, Source};
