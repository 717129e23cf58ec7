//! One side of the comparison: a storm on this machine.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use frostlock_cri::Client;
use serde::{Deserialize, Serialize};

use crate::budget::{self, Budget};
use crate::kills::{self, Kill};
use crate::options::Options;
use crate::plan::Plan;
use crate::pod::Pod;
use crate::progress::Progress;
use crate::settings::{Idle, Node};
use crate::storm::{Clock, Storm};
use crate::tally::{Sum, Tally};

/// The time between the starts of the first pods: a machine with two CPUs cannot start more.
const STAGGER: Duration = Duration::from_millis(500);
/// Requests to the machine may still be in progress.
const CALM: Duration = Duration::from_secs(2);

/// The result of one side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Side {
    pub(crate) options: Options,
    /// The CRI server's name and version.
    pub(crate) server: String,
    pub(crate) sum: Sum,
    /// `None`: nobody has written a journal.
    pub(crate) budget: Option<Budget>,
    pub(crate) killed: Vec<Kill>,
    /// The share of the machine's CPU time that was idle: without any, probes fail for lack of it.
    pub(crate) idle_percent: f64,
    /// What was wrong after everything had settled.
    pub(crate) afterwards: Vec<String>,
    /// What a killed `delete` left, as it would without frostlock.
    #[serde(default)]
    pub(crate) cut_off: Vec<String>,
}

impl Side {
    /// Loads a file that `here` has written.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Side> {
        let text =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("not a result: {}", path.display()))
    }
}

/// Runs a storm to its end, and leaves nothing behind.
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

/// The storm itself; returns the pods that are alive at its end.
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

/// All at once, like kubelet.
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
