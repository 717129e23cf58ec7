//! The cgroup of a pod with a CPU limit, made as kubelet makes it: by systemd as a slice, or as
//! directories. Both are at the root of the tree and named after the process that owns them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cgroup::process::Process;
use cgroup::{Identity, Reader};

use super::bundle::PERIOD_US;
use super::place;
use crate::node::hierarchy::Cgroups;
use crate::node::processes;
use crate::node::tree::Driver;
use crate::program;

/// No dash: to systemd `a-b.slice` is a slice within `a.slice`.
const PREFIX: &str = "frostlock_selftest_";

/// systemd answers in milliseconds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// systemd writes the quota after it has answered.
const STANDS_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(2);

const MANAGER: [&str; 3] =
    ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];

#[derive(Debug)]
pub(super) struct Pod<'a> {
    cgroups: &'a Cgroups,
    driver: Driver,
    name: String,
}

impl<'a> Pod<'a> {
    /// `uid` is the pod's: `PID_START_NUMBER`.
    pub(super) fn make(
        cgroups: &'a Cgroups,
        driver: Driver,
        uid: &str,
        quota_us: u64,
    ) -> anyhow::Result<Pod<'a>> {
        let suffix = if driver == Driver::Systemd { ".slice" } else { "" };
        let pod = Pod { cgroups, driver, name: format!("{PREFIX}{uid}{suffix}") };
        let made = match driver {
            Driver::Systemd => pod.start_slice(quota_us),
            Driver::Cgroupfs => pod.make_directories(quota_us),
        };
        let stands = made.and_then(|()| pod.stands(quota_us));
        if let Err(error) = stands {
            pod.clear()?;
            return Err(error.context(format!("no cgroup {} with a CPU limit", pod.name)));
        }
        Ok(pod)
    }

    /// As CRI expects it.
    pub(super) fn parent(&self) -> String {
        match self.driver {
            Driver::Systemd => self.name.clone(),
            Driver::Cgroupfs => format!("/{}", self.name),
        }
    }

    /// The files of the pod, or of a cgroup below it.
    pub(super) fn files(&self, below: &str) -> anyhow::Result<Reader> {
        place::reader(self.cgroups, &Path::new(&self.name).join(below))
    }

    /// The files of a container, by the name that containerd gives its cgroup.
    pub(super) fn files_of(&self, container: &str) -> anyhow::Result<Reader> {
        self.files(&match self.driver {
            Driver::Systemd => format!("cri-containerd-{container}.scope"),
            Driver::Cgroupfs => container.to_owned(),
        })
    }

    pub(super) fn unlimit(&self) {
        let dirs = place::directories(self.cgroups, |it| it == self.name);
        dirs.iter().for_each(|dir| place::unlimit(dir));
    }

    pub(super) fn clear(&self) -> anyhow::Result<()> {
        place::clear(self.cgroups, |it| it == self.name)?;
        if self.driver == Driver::Systemd {
            // A slice without a directory is still a unit. The call fails if there is no unit any
            // more.
            let mut stop = Command::new("systemctl");
            let _ = program::run(stop.args(["stop", "--", &self.name]), ANSWERS_WITHIN);
        }
        Ok(())
    }

    fn start_slice(&self, quota_us: u64) -> anyhow::Result<()> {
        let us_per_s = (quota_us * 1_000_000 / PERIOD_US).to_string();
        let mut start = Command::new("busctl");
        start.args(["--quiet", "call"]).args(MANAGER);
        start.args(["StartTransientUnit", "ssa(sv)a(sa(sv))", &self.name, "replace", "2"]);
        start.args(["CPUAccounting", "b", "true", "CPUQuotaPerSecUSec", "t", &us_per_s, "0"]);
        program::run(&mut start, ANSWERS_WITHIN).map(drop)
    }

    /// In the hierarchies with a CPU controller; the runtime makes the others.
    fn make_directories(&self, quota_us: u64) -> anyhow::Result<()> {
        let pod = Identity::new(self.cgroups.mounts.naming_root())
            .and_then(|it| it.join(&self.name))
            .context("no cgroup is mounted")?;
        let cpu = self.cgroups.with("cpu").context("no hierarchy has the CPU controller")?;
        let dir = cpu.dir(&pod).context("its cgroup cannot be seen")?;
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let (v1, v2) = (dir.join("cpu.cfs_quota_us"), dir.join("cpu.max"));
        let write = |file: &PathBuf, text: String| {
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        match v1.is_file() {
            true => {
                write(&dir.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
                write(&v1, quota_us.to_string())
            }
            false => write(&v2, format!("{quota_us} {PERIOD_US}")),
        }
    }

    fn stands(&self, quota_us: u64) -> anyhow::Result<()> {
        let files = self.files("")?;
        let began = Instant::now();
        loop {
            let quota = files.cpu_quota().and_then(|it| it.quota_us);
            if quota.and_then(|it| u64::try_from(it).ok()) == Some(quota_us) {
                return Ok(());
            }
            if began.elapsed() >= STANDS_WITHIN {
                bail!("its quota is {quota:?} and not {quota_us} us");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// The process that made the pod with this uid, or the cgroup with this name.
pub(super) fn owner(uid: &str) -> Option<Process> {
    processes::named_by(uid.strip_prefix(PREFIX).unwrap_or(uid), &['_', '.'])
}

pub(super) fn is_of(name: &str, owner: Process) -> bool {
    name.starts_with(&format!("{PREFIX}{}_{}_", owner.pid, owner.start))
}

pub(super) fn is_of_the_dead(name: &str) -> bool {
    name.starts_with(PREFIX) && owner(name).is_some_and(|it| !it.is_alive())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_told_by_the_name() {
        let own = Process::ourselves().unwrap();
        let uid = format!("{}_{}_3", own.pid, own.start);
        assert_eq!(owner(&uid), Some(own));
        for name in [format!("{PREFIX}{uid}"), format!("{PREFIX}{uid}.slice")] {
            assert!(is_of(&name, own) && !is_of_the_dead(&name), "{name}");
        }
        assert!(is_of_the_dead(&format!("{PREFIX}{}_1_0.slice", own.pid)));
        assert!(!is_of_the_dead("kubepods.slice") && !is_of_the_dead("7_1_0"));
    }
}
