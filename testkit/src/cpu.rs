//! CPU quotas, set and read as by a person at a shell.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// One cgroup's CPU files, in either version.
#[derive(Debug, Clone)]
pub struct Cpu {
    pub dir: PathBuf,
    usage: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

impl Version {
    /// The version of the host, or of the mount namespace.
    pub fn here() -> Version {
        let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        if is_v2 { Version::V2 } else { Version::V1 }
    }

    /// The directory of a hierarchy's cgroup; v2 has only one hierarchy.
    pub fn dir(self, hierarchy: &str, cgroup: &str) -> PathBuf {
        let top = Path::new("/sys/fs/cgroup");
        let top = if self == Version::V2 { top.to_owned() } else { top.join(hierarchy) };
        top.join(cgroup.trim_start_matches('/'))
    }

    /// Every file that determines the CPU time: those with limits, then the one without.
    pub fn bandwidth_files(self) -> &'static [&'static str] {
        match self {
            Version::V1 => &["cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us"],
            Version::V2 => &["cpu.max", "cpu.max.burst"],
        }
    }

    /// The file with the quota, and the line to write for one.
    fn quota_line(self, quota_us: Option<u32>, period_us: u32) -> (&'static str, String) {
        let quota = quota_us.map(|us| us.to_string());
        match self {
            Version::V1 => ("cpu.cfs_quota_us", quota.unwrap_or_else(|| "-1".to_owned())),
            Version::V2 => {
                ("cpu.max", format!("{} {period_us}", quota.as_deref().unwrap_or("max")))
            }
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Version::V1 => "v1",
            Version::V2 => "v2",
        })
    }
}

impl Cpu {
    pub fn of(cgroup: &str) -> Cpu {
        let version = Version::here();
        let usage = match version {
            Version::V1 => version.dir("cpuacct", cgroup).join("cpuacct.usage"),
            Version::V2 => version.dir("cpu", cgroup).join("cpu.stat"),
        };
        Cpu { dir: version.dir("cpu", cgroup), usage, version }
    }

    pub fn unlimit(&self) {
        let (file, line) = self.version.quota_line(None, 100_000);
        std::fs::write(self.dir.join(file), line).unwrap();
    }

    pub fn limit(&self, quota_us: u32, period_us: u32) {
        if self.version == Version::V1 {
            std::fs::write(self.dir.join("cpu.cfs_period_us"), period_us.to_string()).unwrap();
        }
        let (file, line) = self.version.quota_line(Some(quota_us), period_us);
        std::fs::write(self.dir.join(file), line).unwrap();
    }

    /// Quota, period and burst in us; a missing one is the largest number.
    pub fn settings(&self) -> Vec<u32> {
        let files = self.version.bandwidth_files().iter();
        let text: Vec<String> = files.map(|file| read(&self.dir.join(file))).collect();
        let numbers = text.iter().flat_map(|line| line.split_whitespace());
        numbers.map(|number| number.parse().unwrap_or(u32::MAX)).collect()
    }

    pub fn usage(&self) -> Duration {
        let text = read(&self.usage);
        match self.version {
            Version::V1 => Duration::from_nanos(text.parse().unwrap()),
            Version::V2 => Duration::from_micros(keyed(&text, "usage_usec")),
        }
    }

    pub fn nr_throttled(&self) -> u64 {
        keyed(&read(&self.dir.join("cpu.stat")), "nr_throttled")
    }
}

fn keyed(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {key} in {text:?}")).parse().unwrap()
}

fn read(path: &Path) -> String {
    let text = std::fs::read_to_string(path);
    text.unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}
