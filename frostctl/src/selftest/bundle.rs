//! The container: this program, spinning, in a cgroup whose quota is too small for it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use cgroup::process::Process;
use serde_json::{Value, json};

use super::program::{self, Shared};

/// A limit of 10m, in µs: the kernel refuses a quota below 1 ms. For a node or a runtime that is
/// too slow to make a container with it, 50m and 200m.
pub(super) const QUOTAS_US: [u64; 3] = [1000, 5000, 20_000];
pub(super) const PERIOD_US: u64 = 100_000;

/// A bundle, and further files for the runtime and frostlock.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    shared: Vec<Shared>,
}

impl Files {
    pub(super) fn make(directory: PathBuf) -> anyhow::Result<Files> {
        let files = Files { directory, shared: program::files()? };
        for name in ["proc", "dev"] {
            std::fs::create_dir_all(files.rootfs().join(name)).with_context(|| files.cannot())?;
        }
        for Shared { to, .. } in &files.shared {
            // A runtime would create them, but not every runtime does so on a read-only root.
            let place = files.rootfs().join(to.strip_prefix("/").unwrap_or(to));
            let above = place.parent().map(Path::to_owned).unwrap_or_default();
            std::fs::create_dir_all(above)
                .and_then(|()| std::fs::write(&place, ""))
                .with_context(|| files.cannot())?;
        }
        Ok(files)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The runtime's own state; a `list` of the node's state does not show it.
    pub(super) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.directory.join("config.toml")
    }

    /// The input of `update`: the same quota again.
    pub(super) fn resources(&self) -> PathBuf {
        self.directory.join("resources.json")
    }

    /// Where `create` writes the pid of the container's first process.
    pub(super) fn pid_file(&self) -> PathBuf {
        self.directory.join("init.pid")
    }

    /// The first process of the container that was created last.
    pub(super) fn init(&self) -> Option<Process> {
        Process::of(std::fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?)
    }

    fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    pub(super) fn container(&self, cgroup: &str, quota_us: u64) -> anyhow::Result<()> {
        let cpu = json!({ "quota": quota_us, "period": PERIOD_US });
        self.write("resources.json", &json!({ "cpu": cpu }))?;
        self.write("config.json", &config(&self.rootfs(), cgroup, &cpu, &self.shared))
    }

    fn write(&self, name: &str, value: &Value) -> anyhow::Result<()> {
        std::fs::write(self.directory.join(name), value.to_string()).with_context(|| self.cannot())
    }

    fn cannot(&self) -> String {
        format!("cannot write into {}", self.directory.display())
    }
}

fn config(rootfs: &Path, cgroup: &str, cpu: &Value, shared: &[Shared]) -> Value {
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "mode=755", "size=64k"] }),
    ];
    mounts.extend(shared.iter().map(|it| {
        json!({ "destination": it.to, "type": "bind", "source": it.from,
            "options": ["bind", "ro", "nosuid", "nodev"] })
    }));
    let namespaces = ["pid", "mount", "ipc", "uts"].map(|it| json!({ "type": it }));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": [program::PATH, program::SPIN],
            "env": ["PATH=/", format!("LD_LIBRARY_PATH={}", program::library_path(shared))],
            "cwd": "/",
            "capabilities": { "bounding": [], "effective": [], "permitted": [] },
            "noNewPrivileges": true,
        },
        "root": { "path": rootfs, "readonly": true },
        "hostname": "frostlock-selftest",
        "mounts": mounts,
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces,
            "resources": { "cpu": cpu },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_has_nothing_but_the_program() {
        let shared = |from: &str, to: &str| Shared { from: from.into(), to: to.into() };
        let files = [shared("/x/frostctl", program::PATH), shared("/l/libc.so.6", "/l/libc.so.6")];
        let config = config(Path::new("/r"), "/c", &json!({ "quota": 1000 }), &files);
        let binds: Vec<_> = config["mounts"].as_array().unwrap().iter().skip(2).collect();
        assert_eq!(binds.len(), 2);
        assert!(binds.iter().all(|it| it["options"][1] == "ro"), "{binds:?}");
        assert_eq!(config["process"]["env"][1], "LD_LIBRARY_PATH=/l");
        assert_eq!(config["linux"]["resources"]["cpu"]["quota"], 1000);
        assert_eq!(config["root"]["readonly"], true);
    }
}
