//! The time at which a record was written.

use std::time::SystemTime;

use cgroup::process;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// The version of the records.
pub const VERSION: u32 = 1;

pub fn now() -> String {
    format(OffsetDateTime::now_utc())
}

/// Always with three digits of a second, so that times sort as text.
fn format(time: OffsetDateTime) -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    time.format(FORMAT).unwrap_or_default()
}

/// The time in a record that another program adds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stamp {
    pub boot_id: Option<String>,
    pub time: String,
    pub mono_ns: u64,
}

impl Stamp {
    /// The time of something that happened a while ago; now if it is in the future, `None` if before
    /// this boot.
    pub fn of(at: SystemTime) -> Option<Stamp> {
        let ago = at.elapsed().unwrap_or_default();
        let mono_ns = process::since_boot_ns().checked_sub(ago.as_nanos() as u64)?;
        let time = format(OffsetDateTime::now_utc() - ago);
        Some(Stamp { boot_id: process::boot_id(), time, mono_ns })
    }
}
