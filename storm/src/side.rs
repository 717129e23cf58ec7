//! One side of the comparison: a storm on the machine that this runs on.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use frostlock_cri::Client;
use serde::{Deserialize, Serialize};

use crate::budget::{self, Budget};
use crate::kills::{self, Kill};
use crate::plan::{Plan, Weather};
use crate::pod::Pod;
use crate::progress::Progress;
use crate::settings::{Idle, Node};
use crate::tally::{Sum, Tally};

/// Between the starts of the first pods: a machine with two CPUs starts no more.
const STAGGER: Duration = Duration::from_millis(500);
/// What is asked of the machine may still be under way.
const CALM: Duration = Duration::from_secs(2);

/// What a storm is told. The same for both sides but for the label.
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
    /// Every pod with its own number of threads and probe period, for its whole time.
    pub(crate) sweep: Option<Sweep>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sweep {
    pub(crate) threads: Vec<u32>,
    pub(crate) probe_periods: Vec<f64>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Side {
    pub(crate) options: Options,
    /// What the CRI server says of itself.
    pub(crate) server: String,
    pub(crate) sum: Sum,
    /// `None`: nobody has written a journal.
    pub(crate) budget: Option<Budget>,
    pub(crate) killed: Vec<Kill>,
    /// How much of the machine's CPU time was left over: with none, probes fail for want of it.
    pub(crate) idle_percent: f64,
    /// What was wrong when all was quiet again.
    pub(crate) afterwards: Vec<String>,
    /// What was left by a `delete` that was killed, as it is without us.
    #[serde(default)]
    pub(crate) cut_off: Vec<String>,
}

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

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Storm {
    pub(crate) options: Options,
    pub(crate) tally: Tally,
    pub(crate) clock: Clock,
    pub(crate) node: Node,
    pub(crate) living: AtomicUsize,
    /// What could not be removed on the way.
    pub(crate) stuck: Mutex<Vec<String>>,
}

impl Storm {
    fn stuck(&self) -> MutexGuard<'_, Vec<String>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

/// Runs it to its end, and leaves nothing behind.
pub(crate) fn run(options: Options) -> anyhow::Result<Side> {
    let client = Client::connect(&options.socket)?;
    let version = client.version()?;
    let began = Instant::now();
    let storm = Storm {
        clock: Clock { began, ends: began + Duration::from_secs_f64(options.seconds) },
        tally: Tally::default(),
        node: Node::here()?,
        living: AtomicUsize::new(0),
        stuck: Mutex::default(),
        options,
    };
    let before = Idle::now()?;
    let (pods, killed) = blow(&storm)?;
    let idle_percent = Idle::now()?.percent_since(&before);
    let mut afterwards = std::mem::take(&mut *storm.stuck());
    let pods = settle(pods, &mut afterwards);
    std::thread::sleep(CALM);
    afterwards.extend(storm.node.frozen()?.into_iter().map(|dir| format!("{dir} is frozen")));
    remove(pods, &mut afterwards);
    let (cut_off, left) = left_behind(&storm, &client)?
        .into_iter()
        .partition(|left| killed.iter().any(|kill| kill.explains(left)));
    afterwards.extend::<Vec<_>>(left);
    let Storm { options, tally, .. } = storm;
    Ok(Side {
        server: format!("{} {}", version.runtime_name, version.runtime_version),
        sum: tally.sum(),
        budget: budget::read(&options).context("the journal")?,
        killed,
        idle_percent,
        afterwards,
        cut_off,
        options,
    })
}

/// The storm itself; who lives at its end is returned.
fn blow(storm: &Storm) -> anyhow::Result<(Vec<Pod<'_>>, Vec<Kill>)> {
    std::thread::scope(|scope| {
        let slots: Vec<_> = (0..storm.options.pods)
            .map(|slot| scope.spawn(move || one_slot(storm, slot)))
            .collect();
        let killer = scope.spawn(|| kills::run(storm));
        Progress::new(storm).show_until_over();
        let mut pods = Vec::new();
        for slot in slots {
            pods.extend(joined(slot.join())??);
        }
        Ok((pods, joined(killer.join())??))
    })
}

fn joined<T>(result: std::thread::Result<T>) -> anyhow::Result<T> {
    result.map_err(|_panic| anyhow::anyhow!("a thread of the storm has panicked"))
}

/// One pod after the other.
fn one_slot(storm: &Storm, slot: usize) -> anyhow::Result<Option<Pod<'_>>> {
    std::thread::sleep(STAGGER.mul_f64(slot as f64));
    let probe_period = Duration::from_secs_f64(storm.options.probe_period_of(slot));
    for generation in 0.. {
        if storm.clock.is_over() {
            break;
        }
        let plan = Plan::of(storm.options.weather(), slot, generation);
        let mut pod = Pod::new(storm, slot, plan)?;
        storm.living.fetch_add(1, Ordering::Relaxed);
        pod.live(probe_period)?;
        if storm.clock.is_over() {
            return Ok(Some(pod));
        }
        storm.stuck().extend(pod.remove());
        storm.living.fetch_sub(1, Ordering::Relaxed);
    }
    Ok(None)
}

/// All at once, as a kubelet does it.
fn settle<'a>(mut pods: Vec<Pod<'a>>, afterwards: &mut Vec<String>) -> Vec<Pod<'a>> {
    std::thread::scope(|scope| {
        let all: Vec<_> = pods.iter_mut().map(|pod| scope.spawn(|| pod.settle())).collect();
        for pod in all {
            match pod.join() {
                Ok(differences) => afterwards.extend(differences),
                Err(_panic) => afterwards.push("a thread has panicked".to_owned()),
            }
        }
    });
    pods
}

fn remove(mut pods: Vec<Pod<'_>>, afterwards: &mut Vec<String>) {
    std::thread::scope(|scope| {
        let all: Vec<_> = pods.iter_mut().map(|pod| scope.spawn(|| pod.remove())).collect();
        for pod in all {
            match pod.join() {
                Ok(why) => afterwards.extend(why),
                Err(_panic) => afterwards.push("a thread has panicked".to_owned()),
            }
        }
    });
}

fn left_behind(storm: &Storm, client: &Client) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    let mine = |metadata: Option<frostlock_cri::v1::PodSandboxMetadata>| {
        metadata.is_some_and(|metadata| metadata.namespace == "storm")
    };
    for sandbox in client.list_pod_sandboxes()? {
        if mine(sandbox.metadata) {
            left.push(format!("sandbox {} is left", sandbox.id));
        }
    }
    left.extend(storm.node.containers()?.into_iter().map(|dir| format!("{dir} is left")));
    Ok(left)
}
