//! What stands in the cgroups of the machine that this runs on.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use cgroup::read::Version;
use cgroup::{Freezer, Hierarchies, Identity, Proc, Reader};

use crate::plan::{Milli, PERIOD_US, quota_us, shares, slice_quota_us};

/// USER_HZ, which is 100 wherever this runs (proc_stat(5), asm-generic/param.h).
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug)]
pub(crate) struct Node {
    mounts: Hierarchies,
}

impl Node {
    pub(crate) fn here() -> anyhow::Result<Node> {
        let mounts = Hierarchies::read(&Proc::at("/proc")).context("/proc/self/mountinfo")?;
        Ok(Node { mounts })
    }

    fn reader(&self, cgroup: &Path) -> Option<Reader> {
        Some(Reader::new(&self.mounts, &Identity::new(cgroup)?))
    }

    pub(crate) fn quota_us(&self, cgroup: &Path) -> Option<i64> {
        self.reader(cgroup)?.cpu_quota()?.quota_us
    }

    /// What in a cgroup is not as it was asked for, its quota neither of two; nothing is asked for of
    /// shares in a slice.
    pub(crate) fn differences(
        &self,
        cgroup: &Path,
        quotas_us: [i64; 2],
        shares: Option<i64>,
    ) -> Vec<String> {
        let Some(reader) = self.reader(cgroup) else {
            return vec![format!("no cgroup {}", cgroup.display())];
        };
        let mut found = Vec::new();
        let mut check = |what: &str, stands: String, want: String| {
            if stands != want {
                found.push(format!("{}: {what} is {stands}, want {want}", cgroup.display()));
            }
        };
        let stands = reader.cpu_quota().filter(|quota| quota.period_us == PERIOD_US as u64);
        let stands = stands.and_then(|quota| quota.quota_us);
        if !quotas_us.iter().any(|&want| stands == Some(want)) {
            check("quota", format!("{:?}", reader.cpu_quota()), format!("{} us", quotas_us[0]));
        }
        check("freezer", format!("{:?}", reader.freezer()), format!("{:?}", Freezer::Thawed));
        if let Some((version, dir)) = reader.cpu_dir() {
            let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
            let burst =
                read(if version == Version::V1 { "cpu.cfs_burst_us" } else { "cpu.max.burst" });
            // Kernels before 5.14 have none.
            if let Some(burst) = burst {
                check("burst", burst.trim().to_owned(), "0".to_owned());
            }
            if let (Version::V1, Some(shares)) = (version, shares) {
                let stands = read("cpu.shares").unwrap_or_default();
                check("shares", stands.trim().to_owned(), shares.to_string());
            }
        }
        found
    }

    /// Of a container: systemd rounds its quota up to whole percents, and whether runc writes the exact
    /// one after it differs between versions.
    pub(crate) fn of_container(&self, cgroup: &Path, limit: Milli) -> Vec<String> {
        let quotas = [quota_us(limit), slice_quota_us(limit)];
        self.differences(cgroup, quotas, Some(shares(limit)))
    }

    /// Every cgroup below kubepods that is frozen, or is to be.
    pub(crate) fn frozen(&self) -> anyhow::Result<Vec<String>> {
        let frozen = |dir: &Path| {
            let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
            read("freezer.self_freezing").trim() == "1" || read("cgroup.freeze").trim() == "1"
        };
        let all = self.below_kubepods("freezer")?;
        Ok(all.iter().filter(|dir| frozen(dir)).map(|dir| dir.display().to_string()).collect())
    }

    /// Cgroups of containers, of any hierarchy.
    pub(crate) fn containers(&self) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        for controller in ["freezer", "cpu", "memory", "devices"] {
            for dir in self.below_kubepods(controller)? {
                let name = dir.file_name().unwrap_or_default().to_string_lossy();
                if name.starts_with("cri-containerd-") {
                    found.push(dir.display().to_string());
                }
            }
        }
        Ok(found)
    }

    fn below_kubepods(&self, controller: &str) -> anyhow::Result<Vec<PathBuf>> {
        let kubepods = Identity::new("/kubepods.slice").context("a name of our own")?;
        let v1 = self.mounts.v1_dir(controller, &kubepods);
        let Some(top) = v1.or_else(|| self.mounts.v2_dir(&kubepods)) else {
            bail!("no hierarchy with {controller} is mounted");
        };
        let mut dirs = Vec::new();
        collect(&top, &mut dirs);
        Ok(dirs)
    }
}

/// Of all CPUs since the boot. A tick that is busy is a sample, and what wakes with the tick is seen in
/// far more of them than it runs: what is left over is held against the time that went by.
#[derive(Debug)]
pub(crate) struct Idle {
    ticks: u64,
    cpus: usize,
    at: Instant,
}

impl Idle {
    pub(crate) fn now() -> anyhow::Result<Idle> {
        let stat = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
        Idle::of(&stat, Instant::now())
    }

    fn of(stat: &str, at: Instant) -> anyhow::Result<Idle> {
        let is_cpu = |line: &&str| line.starts_with("cpu");
        // The first line is "cpu user nice system idle iowait ...", the sum of those that follow.
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().skip(1).flat_map(str::parse).collect();
        let cpus = stat.lines().skip(1).take_while(is_cpu).count();
        let &[_, nice, _, idle, iowait, ..] = ticks.as_slice() else {
            bail!("/proc/stat: not understood: {line}");
        };
        anyhow::ensure!(cpus > 0, "/proc/stat names no CPU");
        // Work at a nice level takes only what nobody else wants.
        Ok(Idle { ticks: nice + idle + iowait, cpus, at })
    }

    pub(crate) fn percent_since(&self, before: &Idle) -> f64 {
        let all = self.at.duration_since(before.at).as_secs_f64() * self.cpus as f64;
        let idle = self.ticks.saturating_sub(before.ticks) as f64 / TICKS_PER_SECOND;
        100.0 * idle / all.max(f64::MIN_POSITIVE)
    }
}

/// They come and go meanwhile.
fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), into);
            into.push(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn busy_ticks_that_are_too_many_are_not_counted() {
        let at = Instant::now();
        let stat =
            |busy: u64, idle: u64| format!("cpu {busy} 0 0 {idle} 0 0 0 0\ncpu0 0\ncpu1 0\n");
        let before = Idle::of(&stat(0, 0), at).unwrap();
        let after = Idle::of(&stat(150, 100), at + Duration::from_secs(1)).unwrap();
        assert_eq!(after.percent_since(&before), 50.0);
        assert!(Idle::of("cpu 1 2\n", at).is_err() && Idle::of("", at).is_err());
    }
}
