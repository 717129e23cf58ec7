//! What is seen of a node, whichever command asks: its files, live or recorded, its cgroups and
//! processes, the configurations of containerd and CRI-O, the room on its disks, the threads that are lifted on it.
//! Judges nothing, and knows no command.

pub(crate) mod containerd;
pub(crate) mod crio;
pub(crate) mod hierarchy;
pub(crate) mod lift;
pub(crate) mod processes;
pub(crate) mod room;
pub(crate) mod root;
pub(crate) mod tree;
