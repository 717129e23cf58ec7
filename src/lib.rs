//! frostlock: see `docs/architecture.md`.

pub mod bundle;
pub mod cgroup;
pub mod config;
pub mod journal;
mod json;
pub mod locate;
pub mod lock;
pub mod outcome;
pub mod process;
pub mod state_dir;
mod sys;
pub mod syslog;
mod text;
