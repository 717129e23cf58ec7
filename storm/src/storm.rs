//! What all threads of a storm share.

use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::options::Options;
use crate::settings::Node;
use crate::tally::Tally;

#[derive(Debug)]
pub(crate) struct Clock {
    pub(crate) began: Instant,
    pub(crate) ends: Instant,
}

impl Clock {
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.ends
    }
}

#[derive(Debug)]
pub(crate) struct Storm {
    pub(crate) options: Options,
    pub(crate) tally: Tally,
    pub(crate) clock: Clock,
    pub(crate) node: Node,
    pub(crate) living: AtomicUsize,
    /// What could not be removed during the storm.
    pub(crate) stuck: Mutex<Vec<String>>,
}

impl Storm {
    pub(crate) fn stuck(&self) -> MutexGuard<'_, Vec<String>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
