//! The cgroup of a pod, made and resized through systemd, as kubelet's cgroup driver does it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::plan::{Milli, slice_quota_us, slice_us_per_s};
use crate::settings::Node;

/// The limit of one request; libcontainer waits as long for a systemd job.
const LIMIT: Duration = Duration::from_secs(30);
/// How long until the cgroup has the values that systemd accepted.
const STANDS: Duration = Duration::from_secs(5);

const MANAGER: [&str; 3] =
    ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];

#[derive(Debug, Clone)]
pub(crate) struct Slice {
    pub(crate) name: String,
}

impl Slice {
    pub(crate) fn cgroup(&self) -> PathBuf {
        PathBuf::from("/kubepods.slice/kubepods-burstable.slice").join(&self.name)
    }

    /// Starts the slice with its limit.
    pub(crate) fn start(&self, node: &Node, limit: Milli) -> anyhow::Result<()> {
        let quota = slice_us_per_s(limit).to_string();
        call(&[
            "StartTransientUnit",
            "ssa(sv)a(sa(sv))",
            &self.name,
            "replace",
            "3",
            "CPUAccounting",
            "b",
            "true",
            "MemoryAccounting",
            "b",
            "true",
            "CPUQuotaPerSecUSec",
            "t",
            &quota,
            "0",
        ])?;
        self.stands(node, limit)
    }

    pub(crate) fn set(&self, node: &Node, limit: Milli) -> anyhow::Result<()> {
        let quota = slice_us_per_s(limit).to_string();
        let property = ["1", "CPUQuotaPerSecUSec", "t", quota.as_str()];
        call(&[&["SetUnitProperties", "sba(sv)", &self.name, "true"], &property[..]].concat())?;
        self.stands(node, limit)
    }

    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        run(Command::new("systemctl").args(["stop", "--", &self.name]))
    }

    /// systemd writes the value after it has answered.
    fn stands(&self, node: &Node, limit: Milli) -> anyhow::Result<()> {
        let deadline = Instant::now() + STANDS;
        let want = slice_quota_us(limit);
        loop {
            let stands = node.quota_us(&self.cgroup());
            if stands == Some(want) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("the quota of the pod's slice is {stands:?}, want {want}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn call(words: &[&str]) -> anyhow::Result<()> {
    run(Command::new("busctl").args(["--quiet", "call"]).args(MANAGER).args(words))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let deadline = Instant::now() + LIMIT;
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("{program}: no answer within {} s", LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
