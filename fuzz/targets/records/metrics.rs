//! Of frostctl's metrics what counts records; the rest asks containerd.

#[path = "../../../frostctl/src/metrics/counters.rs"]
mod counters;
#[path = "../../../frostctl/src/metrics/pods.rs"]
mod pods;

pub(crate) use counters::{Counters, known_verb};
pub(crate) use pods::Pods;
