//! The exec probe of a pod, as kubelet's prober does it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::bail;
use frostlock_cri::Client;

use crate::plan::PROBE_TIMEOUT;
use crate::storm::Storm;
use crate::tally::Step;

/// kubelet's default failureThreshold.
const THRESHOLD: u32 = 3;
const COMMAND: [&str; 1] = ["true"];
/// How soon the end of the pod is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// The probed container; a probe holds a read lock, so that the container is not stopped meanwhile.
pub(crate) type Probed = RwLock<Option<String>>;

#[derive(Debug)]
pub(crate) struct Probes<'a> {
    pub(crate) storm: &'a Storm,
    pub(crate) slot: usize,
    pub(crate) probed: &'a Probed,
    pub(crate) over: &'a AtomicBool,
    pub(crate) probe_period: Duration,
}

impl Probes<'_> {
    /// Runs until the pod's end.
    pub(crate) fn run(&self, client: &Client, first: Duration) {
        let mut next = Instant::now() + first;
        let mut in_a_row = 0;
        while !self.over.load(Ordering::Relaxed) {
            if Instant::now() < next {
                std::thread::sleep(LOOK.min(next.saturating_duration_since(Instant::now())));
                continue;
            }
            // Missed probes are not made up for.
            next = (next + self.probe_period).max(Instant::now());
            let probed = self.probed.read().unwrap_or_else(PoisonError::into_inner);
            let Some(container) = probed.as_deref() else { continue };
            let probe = || probe(client, container);
            let failed = self.storm.tally.time(Step::Exec, probe).is_err();
            self.storm.tally.probe(self.slot, failed);
            in_a_row = if failed { in_a_row + 1 } else { 0 };
            if in_a_row == THRESHOLD {
                self.storm.tally.unhealthy();
                in_a_row = 0;
            }
        }
    }
}

fn probe(client: &Client, container: &str) -> anyhow::Result<()> {
    let done = client.exec_sync(container, &COMMAND, PROBE_TIMEOUT)?;
    if done.exit_code != 0 {
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        bail!("the probe's exit code is {}: {said}", done.exit_code);
    }
    Ok(())
}
