//! The part of frostctl's `node` that reads files.

#[path = "../../../frostctl/src/node/root.rs"]
pub(crate) mod root;
