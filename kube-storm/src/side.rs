//! One side of the comparison: one storm after another, one for each load.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::api::Api;
use crate::cpu::{self, Group, Times};
use crate::kubelet::{self, Samples};
use crate::plan::Plan;
use crate::pod::{self, Done, Slot};
use crate::watch::Watch;

/// How long until a namespace has its service account, and the neighbours run.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long until everything is gone after the storm's end; a watch may last this much longer.
const END_LIMIT: Duration = Duration::from_secs(300);
/// How often kubelet is asked for its count of probes. kubelet forgets a pod at its end: what
/// happens in the pod's last such interval is not counted.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(250);
const NEIGHBOURS: &str = "neighbours";

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Where `kubectl proxy` listens
    #[arg(long, default_value = "http://127.0.0.1:8001")]
    api: String,
    /// The heading of this side
    #[arg(long)]
    label: String,
    #[arg(long)]
    node: String,
    /// The image of the pods; it has a shell, and the node has it already
    #[arg(long)]
    image: String,
    /// Seconds that each load lasts
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Busy threads beside the pods
    #[arg(long, value_delimiter = ',', default_value = "2,10,30")]
    loads: Vec<usize>,
    /// Pods at a time; every second one has busy loops
    #[arg(long, default_value_t = 8)]
    pods: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A cgroup whose CPU time is reported: NAME=CGROUP. That of `pods` excludes the neighbours'
    #[arg(long = "cpu")]
    groups: Vec<Group>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Side {
    pub(crate) label: String,
    pub(crate) seconds: u64,
    pub(crate) pods: usize,
    pub(crate) seed: u64,
    pub(crate) loads: Vec<Load>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) threads: usize,
    pub(crate) seconds: f64,
    pub(crate) done: Vec<Done>,
    /// By the first word of a pod's name, see crate::plan.
    pub(crate) kinds: BTreeMap<String, Kind>,
    pub(crate) cpu: Times,
    pub(crate) kubelet: Samples,
    /// kubelet's warnings: how often each text occurred.
    pub(crate) warnings: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Kind {
    pub(crate) pods: u64,
    pub(crate) flaps: u64,
    pub(crate) planned_restarts: u64,
    pub(crate) restarts: u64,
    /// prober_probe_total: "Readiness failed" and the like.
    pub(crate) probes: BTreeMap<String, u64>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<Side> {
    let api = Api::new(&options.api);
    let mut loads = Vec::new();
    for threads in &options.loads {
        eprintln!("kube-storm: {}, load {threads}, {} s", options.label, options.seconds);
        loads.push(load(&api, options, *threads).with_context(|| format!("load {threads}"))?);
    }
    Ok(Side {
        label: options.label.clone(),
        seconds: options.seconds,
        pods: options.pods,
        seed: options.seed,
        loads,
    })
}

fn load(api: &Api, options: &Options, threads: usize) -> anyhow::Result<Load> {
    let namespace = format!("load-{threads}");
    make_namespace(api, &namespace)?;
    let lasts = Duration::from_secs(options.seconds);
    let watch = Watch::start(api, &namespace, READY_LIMIT + lasts + END_LIMIT)?;
    api.create(
        &format!("/api/v1/namespaces/{namespace}/pods"),
        &pod::neighbours(threads, &options.image),
    )?;
    watch
        .until(NEIGHBOURS, Instant::now(), READY_LIMIT, |pod| pod.is_ready)?
        .ok_or_else(|| anyhow!("the neighbours do not run after {} s", READY_LIMIT.as_secs()))?;
    let uid = watch.pods().remove(NEIGHBOURS).unwrap_or_default().uid;

    let kubelet_before = kubelet::metrics(api, &options.node)?;
    let cpu_before = cpu::now(&options.groups, &uid)?;
    let began = Instant::now();
    let (done, probes) = storm(api, options, &namespace, &watch, began + lasts)?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu::difference(&cpu_before, &cpu::now(&options.groups, &uid)?);
    let kubelet = kubelet::difference(&kubelet_before, &kubelet::metrics(api, &options.node)?);
    let warnings = warnings(api, &namespace)?;
    let kinds = kinds(&watch, &probes);

    api.delete(&format!("/api/v1/namespaces/{namespace}/pods/{NEIGHBOURS}?gracePeriodSeconds=0"))?;
    Ok(Load { threads, seconds, done, kinds, cpu, kubelet, warnings })
}

fn make_namespace(api: &Api, namespace: &str) -> anyhow::Result<()> {
    api.create("/api/v1/namespaces", &json!({"metadata": {"name": namespace}}))?;
    let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
    let deadline = Instant::now() + READY_LIMIT;
    while let Err(error) = api.get(&account) {
        if Instant::now() >= deadline {
            return Err(error.context("no service account"));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Runs all slots, and counts kubelet's probes meanwhile.
fn storm(
    api: &Api,
    options: &Options,
    namespace: &str,
    watch: &Watch,
    until: Instant,
) -> anyhow::Result<(Vec<Done>, Samples)> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(api, &options.node, namespace, &is_over));
        let slots: Vec<_> = (0..options.pods)
            .map(|slot| {
                let plans = (0..).map(move |generation| Plan::new(options.seed, slot, generation));
                let image = &options.image;
                scope.spawn(move || Slot { api, watch, namespace, image, until }.run(plans))
            })
            .collect();
        let ended: Vec<_> = slots.into_iter().map(|slot| slot.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        let probes = sampler.join().map_err(|_| anyhow!("a thread panicked"))??;
        let mut done = Vec::new();
        for slot in ended {
            done.append(&mut slot.map_err(|_| anyhow!("a thread panicked"))??);
        }
        Ok((done, probes))
    })
}

/// The largest count of each series: a series disappears with its pod.
fn sample(api: &Api, node: &str, namespace: &str, is_over: &AtomicBool) -> anyhow::Result<Samples> {
    let mut largest = Samples::new();
    while !is_over.load(Ordering::Relaxed) {
        for (series, value) in kubelet::probes(api, node)? {
            let is_ours = kubelet::label(&series, "namespace") == Some(namespace);
            if is_ours && kubelet::name(&series) == "prober_probe_total" {
                let entry = largest.entry(series).or_default();
                *entry = entry.max(value);
            }
        }
        std::thread::sleep(SAMPLE_EVERY);
    }
    if largest.is_empty() {
        bail!("kubelet has counted no probe");
    }
    Ok(largest)
}

/// The first word of a pod's name.
fn kind(pod: &str) -> Option<&str> {
    pod.split_once('-').map(|(kind, _)| kind)
}

fn kinds(watch: &Watch, probes: &Samples) -> BTreeMap<String, Kind> {
    let mut kinds = BTreeMap::<String, Kind>::new();
    for (name, pod) in watch.pods() {
        let Some(kind) = kind(&name) else { continue };
        let entry = kinds.entry(kind.to_owned()).or_default();
        entry.pods += 1;
        entry.flaps += pod.flaps;
        entry.planned_restarts += pod.planned_restarts;
        entry.restarts += pod.restarts;
    }
    for (series, value) in probes {
        let label = |name| kubelet::label(series, name).unwrap_or_default();
        let Some(kind) = kind(label("pod")) else { continue };
        let entry = kinds.entry(kind.to_owned()).or_default();
        let what = format!("{} {}", label("probe_type"), label("result"));
        // A count, as a float.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let count = *value as u64;
        *entry.probes.entry(what).or_default() += count;
    }
    kinds
}

fn warnings(api: &Api, namespace: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let events =
        api.get(&format!("/api/v1/namespaces/{namespace}/events?fieldSelector=type%3DWarning"))?;
    let mut warnings = BTreeMap::new();
    for event in events["items"].as_array().into_iter().flatten() {
        let said = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let count = event["count"].as_u64().unwrap_or(1);
        *warnings
            .entry(format!("{}: {}", said("reason"), anonymous(&said("message"))))
            .or_default() += count;
    }
    Ok(warnings)
}

/// Replaces the ids that make each text different.
fn anonymous(text: &str) -> String {
    text.split_whitespace().map(without_ids).collect::<Vec<_>>().join(" ")
}

/// The shortest run of hex digits, with a decimal digit in it, that counts as an id rather than a
/// word.
const ID_CHARS: usize = 4;

fn without_ids(word: &str) -> String {
    let is_hex = |c: char| c.is_ascii_hexdigit();
    let mut said = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let length = rest.find(|c| !is_hex(c)).unwrap_or(rest.len());
        let (run, after) = rest.split_at(length);
        let is_id = run.len() >= ID_CHARS && run.contains(|c: char| c.is_ascii_digit());
        said.push_str(if is_id { "ID" } else { run });
        let next = after.find(is_hex).unwrap_or(after.len());
        said.push_str(&after[..next]);
        rest = &after[next..];
    }
    said
}

/// Sums a metric of kubelet over all labels except this one.
pub(crate) fn by_label(samples: &Samples, name: &str, label: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for (series, value) in samples.iter().filter(|(series, _)| kubelet::name(series) == name) {
        let key = kubelet::label(series, label).unwrap_or_default().to_owned();
        *sums.entry(key).or_default() += value;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_of_two_containers_is_one_text() {
        let said = "task 0123abcd4567: unable to freeze: exit status 137 deadbeef-12ab";
        assert_eq!(anonymous(said), "task ID: unable to freeze: exit status 137 deadbeef-ID");
    }

    #[test]
    fn a_pod_has_the_kind_of_its_name() {
        assert_eq!(kind("idle-0-1"), Some("idle"));
        assert_eq!(kind(NEIGHBOURS), None);
    }
}
