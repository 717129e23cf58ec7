//! The options of a storm.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan::Weather;

/// The same for both sides except for the label.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) label: String,
    pub(crate) socket: PathBuf,
    pub(crate) image: String,
    pub(crate) journal: PathBuf,
    pub(crate) pods: usize,
    pub(crate) containers: usize,
    pub(crate) seconds: f64,
    pub(crate) seed: u64,
    pub(crate) threads: u32,
    pub(crate) probe_period: f64,
    pub(crate) resize_period: f64,
    pub(crate) life: f64,
    pub(crate) kills: usize,
    /// Each pod has its own number of threads and probe period, for its whole life.
    pub(crate) sweep: Option<Sweep>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sweep {
    pub(crate) threads: Vec<u32>,
    pub(crate) probe_periods: Vec<f64>,
}

impl Options {
    pub(crate) fn threads_of(&self, slot: usize) -> u32 {
        let swept =
            self.sweep.as_ref().map(|sweep| sweep.threads[slot / sweep.probe_periods.len()]);
        swept.unwrap_or(self.threads)
    }

    pub(crate) fn probe_period_of(&self, slot: usize) -> f64 {
        let periods = self.sweep.as_ref().map(|sweep| &sweep.probe_periods);
        periods.map_or(self.probe_period, |periods| periods[slot % periods.len()])
    }

    pub(crate) fn weather(&self) -> Weather {
        let life = if self.sweep.is_some() { self.seconds * 2.0 } else { self.life };
        Weather {
            seed: self.seed,
            life: Duration::from_secs_f64(life),
            resize_period: Duration::from_secs_f64(self.resize_period),
        }
    }
}
