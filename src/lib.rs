//! frostlock: see `docs/architecture.md`.
