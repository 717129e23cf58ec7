//! What a killed operation leaves behind, above all a freeze, is undone by the next operation; what
//! somebody else has frozen stays frozen. First with the bare runtime, which must do visibly worse.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broken_notes;
mod hanging;
mod kills;
mod leftovers;
mod notes;
mod others;
mod sampler;

use std::path::PathBuf;

const NOTHING: [PathBuf; 0] = [];
