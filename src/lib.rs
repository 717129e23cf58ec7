//! An OCI runtime wrapper: serializes what changes or freezes a cgroup, hands everything to the
//! real runtime, and records how it ended. See docs/architecture.md.

pub mod bundle;
mod capture;
pub mod cgroup;
mod channels;
mod complaint;
pub mod config;
mod console;
pub mod container;
mod explain;
mod family;
pub mod freeze;
pub mod hook;
mod intent;
pub mod invocation;
pub mod journal;
mod json;
mod leftovers;
pub mod lift;
pub mod locate;
pub mod lock;
pub mod outcome;
pub mod process;
pub mod program;
pub mod remains;
pub mod retry;
pub mod runtime;
pub mod runtime_log;
mod started;
pub mod state_dir;
mod stdin;
mod supervise;
mod sys;
pub mod syslog;
pub mod text;
mod threads;
pub mod verdict;
