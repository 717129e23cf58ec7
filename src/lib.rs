//! frostlock: see `docs/architecture.md`.

pub mod invocation;
