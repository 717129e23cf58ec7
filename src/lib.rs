//! frostlock: see `docs/architecture.md`.

pub mod bundle;
pub mod cgroup;
mod json;
