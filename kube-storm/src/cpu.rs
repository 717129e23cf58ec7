//! CPU time, from the node's cgroups (v1, as scripts/node has them) and from the machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, anyhow};

const NS_PER_S: f64 = 1e9;
/// USER_HZ on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// NAME=CGROUP
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) name: String,
    path: PathBuf,
}

impl FromStr for Group {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, path) =
            text.split_once('=').ok_or_else(|| anyhow!("want NAME=CGROUP, found {text}"))?;
        Ok(Self { name: name.to_owned(), path: PathBuf::from(path) })
    }
}

/// Seconds of CPU time by name.
pub(crate) type Times = BTreeMap<String, f64>;

/// The times of the groups, of the neighbours' pod, and the machine's idle time.
pub(crate) fn now(groups: &[Group], neighbours_uid: &str) -> anyhow::Result<Times> {
    let mut times = Times::new();
    for group in groups {
        times.insert(group.name.clone(), usage(&group.path)?);
        if group.name == "pods" {
            let pod = format!("kubepods-burstable-pod{}.slice", neighbours_uid.replace('-', "_"));
            let path = group.path.join("kubepods-burstable.slice").join(pod);
            times.insert("neighbours".to_owned(), usage(&path)?);
        }
    }
    times.insert("idle".to_owned(), idle()?);
    Ok(times)
}

pub(crate) fn difference(before: &Times, after: &Times) -> Times {
    after
        .iter()
        .map(|(name, time)| (name.clone(), time - before.get(name).copied().unwrap_or_default()))
        .collect()
}

fn usage(group: &Path) -> anyhow::Result<f64> {
    let path = group.join("cpuacct.usage");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let ns: f64 = text.trim().parse().with_context(|| format!("{} says {text}", path.display()))?;
    Ok(ns / NS_PER_S)
}

fn idle() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let ticks: f64 = text
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(4))
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| anyhow!("no idle time in /proc/stat"))?;
    Ok(ticks / TICKS_PER_S)
}
