//! The protocol as a model: the lock, the notes and the put-back of what is lifted, step by step as
//! the code does it, with a death at every step. Every state that can be reached is explored.
//!
//! Three models, each of what stands on its own: `lock` of crates/state/src/lock, `freeze` of crates/state/src/intent.rs and
//! src/supervise over a lock that is believed, `lift` of src/lift. A test of each says that the
//! invariants hold; its control breaks one step at a time, and says which invariant that must trip.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod explore;
mod freeze;
mod lift;
mod lock;
