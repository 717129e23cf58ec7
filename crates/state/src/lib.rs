//! What must survive between two operations: the state directory, the locks and notes in it, our
//! records of containers, the accounts of what was lifted. Starts no runtime and decides nothing about
//! one.

pub mod account;
pub mod intent;
pub mod lifted;
pub mod lock;
pub mod record;
pub mod remains;
pub mod state_dir;
mod verb;

pub use state_dir::StateDir;
pub use verb::Verb;
