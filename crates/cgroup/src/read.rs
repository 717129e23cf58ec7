//! CPU limits, throttling, OOM kills and freezer state of a cgroup.
//!
//! A file that does not exist, or vanishes while it is read (ENODEV), gives `None` and no error:
//! cgroups come and go. Each controller is looked for in its v1 hierarchy, then in v2: on a hybrid host
//! they are spread over both. On a unified host all are v2's, as for the runtimes: a v1 hierarchy that
//! somebody has mounted there as well, as Slurm does with the freezer, contains no containers.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Hierarchies, Identity, Places};

/// A CPU bandwidth limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuQuota {
    /// `None` means no limit.
    pub quota_us: Option<i64>,
    pub period_us: u64,
}

impl CpuQuota {
    /// From v1's `cpu.cfs_quota_us`, where -1 means no limit, and `cpu.cfs_period_us`.
    pub(crate) fn from_v1(quota: &str, period: &str) -> Option<CpuQuota> {
        let quota: i64 = quota.trim().parse().ok()?;
        let period_us = period.trim().parse().ok()?;
        Some(CpuQuota { quota_us: (quota >= 0).then_some(quota), period_us })
    }

    /// From v2's `cpu.max`.
    pub(crate) fn from_v2(max: &str) -> Option<CpuQuota> {
        let (quota, period) = max.trim().split_once(' ')?;
        let quota_us = if quota == "max" { None } else { Some(quota.parse().ok()?) };
        Some(CpuQuota { quota_us, period_us: period.parse().ok()? })
    }

    /// How many CPUs it is; no limit is infinitely many.
    pub fn cpus(self) -> f64 {
        self.quota_us.map_or(f64::INFINITY, |quota| quota as f64 / self.period_us.max(1) as f64)
    }
}

/// How often a cgroup had to wait for its next period, and for how long, summed over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttled {
    /// Periods in which it had something to run.
    pub nr_periods: u64,
    pub nr_throttled: u64,
    pub throttled_us: u64,
}

impl Throttled {
    pub fn since(self, before: Throttled) -> Throttled {
        Throttled {
            nr_periods: self.nr_periods.saturating_sub(before.nr_periods),
            nr_throttled: self.nr_throttled.saturating_sub(before.nr_throttled),
            throttled_us: self.throttled_us.saturating_sub(before.throttled_us),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freezer {
    Thawed,
    /// A freeze is asked for, and some task has not stopped yet.
    Freezing,
    Frozen,
    /// No freezer, no such cgroup, or an unknown state.
    #[default]
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    V1,
    V2,
}

/// One cgroup's files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reader {
    cpu: Option<(Version, PathBuf)>,
    #[serde(default)]
    memory: Option<(Version, PathBuf)>,
    freezer: Option<(Version, PathBuf)>,
}

impl Reader {
    pub fn new(mounts: &Hierarchies, id: &Identity) -> Reader {
        Reader::at(mounts, &Places::of(id.clone()))
    }

    /// Of a cgroup whose path is not the same in all hierarchies.
    pub fn at(mounts: &Hierarchies, places: &Places) -> Reader {
        let place = |controller| {
            // If v1 has the controller, the v2 directory has no files of it.
            if !mounts.unified() && mounts.v1(controller).is_some() {
                let dir = mounts.v1_dir(controller, places.of_any([controller])?)?;
                return Some((Version::V1, dir));
            }
            Some((Version::V2, mounts.v2_dir(places.of_any([""])?)?))
        };
        Reader { cpu: place("cpu"), memory: place("memory"), freezer: place("freezer") }
    }

    /// Where the CPU bandwidth files are.
    pub fn cpu_dir(&self) -> Option<(Version, &Path)> {
        self.cpu.as_ref().map(|(version, dir)| (*version, dir.as_path()))
    }

    pub fn freezer_dir(&self) -> Option<(Version, &Path)> {
        self.freezer.as_ref().map(|(version, dir)| (*version, dir.as_path()))
    }

    pub fn cpu_quota(&self) -> Option<CpuQuota> {
        let (version, dir) = self.cpu_dir()?;
        match version {
            Version::V1 => {
                CpuQuota::from_v1(&text(dir, "cpu.cfs_quota_us")?, &text(dir, "cpu.cfs_period_us")?)
            }
            Version::V2 => CpuQuota::from_v2(&text(dir, "cpu.max")?),
        }
    }

    /// The CPU files of this cgroup and those above it, the innermost first: those with a quota, and
    /// those that are not made yet. A cgroup without a quota is throttled only together with one above
    /// it. On v2 reading `cpu.stat` takes longer the more cgroups are below (cgroup_rstat_flush), so
    /// that of all pods of a node together is not read without need.
    pub fn limits(&self) -> Vec<Reader> {
        let Some((version, dir)) = self.cpu_dir() else { return Vec::new() };
        let (mut limits, mut is_there) = (Vec::new(), false);
        for dir in dir.ancestors() {
            let has_quota = has_quota(version, dir);
            // We are above the root of the hierarchy.
            if is_there && has_quota.is_none() {
                break;
            }
            is_there |= has_quota.is_some();
            if has_quota != Some(false) {
                let cpu = Some((version, dir.to_owned()));
                limits.push(Reader { cpu, ..Reader::default() });
            }
        }
        if is_there { limits } else { Vec::new() }
    }

    pub fn throttled(&self) -> Option<Throttled> {
        let (version, dir) = self.cpu_dir()?;
        let stat = text(dir, "cpu.stat")?;
        let nr_periods = value(&stat, "nr_periods")?;
        let nr_throttled = value(&stat, "nr_throttled")?;
        let throttled_us = match version {
            Version::V1 => value(&stat, "throttled_time")? / 1000,
            Version::V2 => value(&stat, "throttled_usec")?,
        };
        Some(Throttled { nr_periods, nr_throttled, throttled_us })
    }

    /// Kills by the OOM killer in this cgroup; needs kernel 4.13.
    pub fn oom_kill(&self) -> Option<u64> {
        let (version, dir) = self.memory.as_ref()?;
        let file = if *version == Version::V1 { "memory.oom_control" } else { "memory.events" };
        value(&text(dir, file)?, "oom_kill")
    }

    /// The same files of a cgroup below this one.
    pub fn below(&self, name: &Path) -> Reader {
        let below = |place: &Option<(Version, PathBuf)>| {
            place.as_ref().map(|(version, dir)| (*version, dir.join(name)))
        };
        Reader { cpu: below(&self.cpu), memory: below(&self.memory), freezer: below(&self.freezer) }
    }

    /// Whether a process is in it or below, as far as that can be read.
    pub fn is_populated(&self) -> bool {
        self.cpu_dir().or(self.freezer_dir()).is_some_and(|(version, dir)| {
            let told = (version == Version::V2).then(|| populated_v2(dir)).flatten();
            told.unwrap_or_else(|| tree(dir).iter().any(|dir| has_processes(dir)))
        })
    }

    /// The nearest cgroup above this one that was told to freeze, whether frozen yet or not.
    pub fn frozen_ancestor(&self) -> Option<PathBuf> {
        let (version, dir) = self.freezer_dir()?;
        dir.ancestors().skip(1).find(|dir| is_told_to_freeze(version, dir)).map(Path::to_owned)
    }

    /// Whether this cgroup itself was told to freeze, and not only one above it.
    pub fn is_told_to_freeze(&self) -> bool {
        self.freezer_dir().is_some_and(|(version, dir)| is_told_to_freeze(version, dir))
    }

    pub fn freezer(&self) -> Freezer {
        let Some((version, dir)) = self.freezer_dir() else { return Freezer::Unknown };
        match version {
            Version::V1 => match text(dir, "freezer.state").as_deref().map(str::trim) {
                Some("THAWED") => Freezer::Thawed,
                Some("FREEZING") => Freezer::Freezing,
                Some("FROZEN") => Freezer::Frozen,
                _ => Freezer::Unknown,
            },
            Version::V2 => frozen_v2(dir).unwrap_or(Freezer::Unknown),
        }
    }
}

fn has_quota(version: Version, dir: &Path) -> Option<bool> {
    match version {
        Version::V1 => text(dir, "cpu.cfs_quota_us")?.trim().parse().ok().map(|us: i64| us >= 0),
        Version::V2 => Some(!text(dir, "cpu.max")?.starts_with("max")),
    }
}

fn is_told_to_freeze(version: Version, dir: &Path) -> bool {
    let file = match version {
        Version::V1 => "freezer.self_freezing",
        Version::V2 => "cgroup.freeze",
    };
    text(dir, file).is_some_and(|wish| wish.trim() == "1")
}

/// A walk looks at no more cgroups than these, the upper ones first. A container with a delegated
/// cgroup can make very many, and must not keep us busy with them; a node that runs as a container has
/// some hundreds.
pub const MOST_CGROUPS: usize = 1024;

/// A cgroup and those below it.
pub fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    let mut next = 0;
    while next < found.len() && found.len() < MOST_CGROUPS {
        let left = MOST_CGROUPS - found.len();
        let below: Vec<PathBuf> = children(&found[next]).take(left).collect();
        found.extend(below);
        next += 1;
    }
    found
}

/// The cgroups directly below one.
pub fn children(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    // A directory has two links, and one for each cgroup below (kernfs_refresh_inode,
    // fs/kernfs/inode.c).
    let has_none = std::fs::metadata(dir).is_ok_and(|metadata| metadata.nlink() == 2);
    let entries = (!has_none).then(|| std::fs::read_dir(dir)).into_iter().flatten();
    let entries = entries.flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path())
}

fn has_processes(dir: &Path) -> bool {
    text(dir, "cgroup.procs").is_some_and(|procs| !procs.is_empty())
}

/// Whether a process is in it or below, as the kernel counts it; the root has no such file.
fn populated_v2(dir: &Path) -> Option<bool> {
    Some(value(&text(dir, "cgroup.events")?, "populated")? != 0)
}

/// `frozen` also tells of a frozen ancestor; `cgroup.freeze` is what this cgroup itself was told.
fn frozen_v2(dir: &Path) -> Option<Freezer> {
    let frozen = value(&text(dir, "cgroup.events")?, "frozen")?;
    let wish = text(dir, "cgroup.freeze")?;
    Some(match (frozen, wish.trim()) {
        (1, _) => Freezer::Frozen,
        (_, "1") => Freezer::Freezing,
        _ => Freezer::Thawed,
    })
}

fn text(dir: &Path, name: &str) -> Option<String> {
    let mut text = String::new();
    File::open(dir.join(name)).ok()?.take(64 * 1024).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The number in the line `key number`.
fn value(stat: &str, key: &str) -> Option<u64> {
    let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(k, _)| *k == key).and_then(|(_, v)| v.trim().parse().ok())
}
