//! The configuration: every limit with its unit, range and default, from one table.
//!
//! A file that cannot be read, or a value out of range, never stops an operation. The default stands,
//! and one line reports it.

mod keys;
pub mod locate;
mod pages;
mod reading;
mod values;

pub use pages::Setting;
pub use reading::{Mistake, Reading, path, text};
pub use values::{Config, History, Hook, Journal, Lift, Lock, Log, Mode, Retry, Syslog};
