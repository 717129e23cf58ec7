//! Cgroups as the kernel shows them, whoever made them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::pace::slowness;

/// Kills what runs in a cgroup and removes it. Returns the directories that could not be removed.
pub fn remove_cgroup(cgroup: &str) -> Vec<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(20) * slowness();
    let mut left = cgroup_dirs(cgroup);
    while !left.is_empty() && Instant::now() < deadline {
        for dir in &left {
            kill_all(dir);
        }
        for dir in left.iter().rev() {
            let _ = std::fs::remove_dir(dir);
        }
        left = cgroup_dirs(cgroup);
        if !left.is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    left
}

/// Kills every process of a cgroup, even if frozen or throttled.
fn kill_all(dir: &Path) {
    for (file, value) in [
        ("freezer.state", "THAWED"),
        ("cgroup.freeze", "0"),
        ("cpu.cfs_quota_us", "-1"),
        ("cpu.max", "max"),
    ] {
        if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(dir.join(file)) {
            let _ = std::io::Write::write_all(&mut file, value.as_bytes());
        }
    }
    for pid in pids(dir) {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

/// Every directory of a cgroup and below it, in all hierarchies, parents first.
pub fn cgroup_dirs(cgroup: &str) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    let mount = Path::new("/sys/fs/cgroup");
    // Under scripts/v2ns, this is the mountpoint of the only hierarchy.
    let hierarchies = std::fs::read_dir(mount).unwrap().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([mount.to_owned()]) {
        let top = hierarchy.join(cgroup.trim_start_matches('/'));
        if top.is_dir() {
            collect_dirs(&top, &mut dirs);
        }
    }
    dirs
}

fn collect_dirs(dir: &Path, into: &mut Vec<PathBuf>) {
    into.push(dir.to_owned());
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_dirs(&entry.path(), into);
        }
    }
}

pub fn pids(cgroup_dir: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(cgroup_dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}
