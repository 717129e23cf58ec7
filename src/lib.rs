//! An OCI runtime wrapper. It serializes commands that change or freeze a cgroup, hands everything to
//! the real runtime, and records how each command ended. See docs/architecture.md.

mod capture;
mod channels;
mod complaint;
mod console;
pub mod container;
mod explain;
mod family;
pub mod hook;
pub mod invocation;
pub mod lift;
pub mod outcome;
mod policy;
pub mod program;
mod record;
pub mod retry;
pub mod runtime;
pub mod runtime_log;
mod started;
mod stdin;
mod supervise;
pub mod syslog;
pub mod verdict;
