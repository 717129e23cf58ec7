//! What the kernel says of a container: its cgroup, that cgroup's state, the processes in it. Also the
//! files in which runtimes and callers say where it is. Knows nothing of what frostlock keeps or does.
//!
//! The identity of a cgroup is its path in the tree. It is the same whichever driver made it, and
//! through whichever hierarchy, mount or state file we find it. It is predicted before `create`
//! ([`predict`]) and read from the runtime's own records afterwards ([`state_file`]).

pub mod bundle;
pub mod freeze;
mod identity;
pub mod json;
mod kind;
pub mod leftovers;
pub mod membership;
pub mod mounts;
pub mod places;
pub mod predict;
pub mod process;
pub mod read;
pub mod state_file;
pub mod text;
pub mod threads;
mod unknown;

pub use identity::Identity;
pub use kind::RuntimeKind;
pub use membership::Membership;
pub use mounts::{Hierarchies, Proc, V1, V2};
pub use places::Places;
pub use read::{CpuQuota, Freezer, Reader, Throttled};
pub use unknown::Unknown;
