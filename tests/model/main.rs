//! The protocol as a model: the lock, the notes and the put-back of lifted threads, in the same
//! steps as the code, with a death at every step. Every reachable state is explored.
//!
//! Three independent models: `lock` of crates/state/src/lock, `freeze` of
//! crates/state/src/intent.rs and src/supervise with a lock that is assumed to work, `lift` of
//! src/lift. A test of each says that the invariants hold. Its control breaks one step at a time,
//! and says which invariant that must violate.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod explore;
mod freeze;
mod lift;
mod lock;
