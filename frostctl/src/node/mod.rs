//! What any command sees of a node: its files, live or recorded, its cgroups and processes, the
//! configurations of containerd and CRI-O, the running dockerd, free space for frostlock's state, lifted threads. Judges
//! nothing, and knows no command.

pub(crate) mod containerd;
pub(crate) mod crio;
pub(crate) mod docker;
pub(crate) mod hierarchy;
pub(crate) mod lift;
pub(crate) mod processes;
pub(crate) mod room;
pub(crate) mod root;
pub(crate) mod tree;
