//! What is seen of the node that is configured: its system, its files, the containerds that run.

use std::path::{Path, PathBuf};

use super::distribution::{PLAIN, Running, Seen, places};
use super::live;
use crate::doctor::root::Root;

/// dockerd starts one of its own, which no pod sees.
const DOCKERS: &str = "docker/containerd";

pub(super) fn look(root: &Root) -> Seen {
    let there = places().into_iter().filter(|path| root.is_there(path)).collect();
    Seen { os: os(root), there, running: running(root) }
}

fn os(root: &Root) -> String {
    let text = root.read("/etc/os-release").or_else(|_| root.read("/usr/lib/os-release"));
    let text = text.unwrap_or_default();
    let id = text.lines().find_map(|line| line.strip_prefix("ID="));
    id.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
}

fn running(root: &Root) -> Vec<Running> {
    let proc = root.path(Path::new("/proc"));
    let processes = std::fs::read_dir(&proc).into_iter().flatten().flatten();
    let mut found: Vec<Running> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let process = entry.path();
            let comm = std::fs::read_to_string(process.join("comm")).ok()?;
            // One in a container, as of a node within this one, reads other files by these names.
            let is_it = comm.trim_end() == "containerd" && live::is_of_this_place(&proc, &process);
            is_it.then(|| of(pid, &process)).flatten()
        })
        .collect();
    found.sort_by_key(|it| it.pid);
    found
}

fn of(pid: i32, process: &Path) -> Option<Running> {
    let line = std::fs::read(process.join("cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).into_owned();
    let config = config(&line).unwrap_or_else(|| PLAIN.into());
    let program = std::fs::read_link(process.join("exe")).ok();
    (!config.to_string_lossy().contains(DOCKERS)).then_some(Running { pid, config, program })
}

fn config(line: &str) -> Option<PathBuf> {
    let mut words = line.split('\0').skip(1);
    while let Some(word) = words.next() {
        match word.split_once('=') {
            Some(("--config" | "-config" | "-c", path)) => return Some(path.into()),
            None if ["--config", "-config", "-c"].contains(&word) => {
                return words.next().map(PathBuf::from);
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containerd_is_found_by_its_process() {
        let scratch = tempfile::tempdir().unwrap();
        for (pid, comm, line, exe) in [
            (
                "10",
                "containerd",
                "containerd\0-c\0/var/lib/rancher/k3s/c.toml\0",
                "/var/lib/rancher/k3s/bin/containerd",
            ),
            ("11", "containerd-shim", "shim\0--config\0/x\0", "/x/shim"),
            (
                "12",
                "containerd",
                "containerd\0--config\0/var/run/docker/containerd/containerd.toml\0",
                "/x",
            ),
            ("13", "containerd", "/usr/bin/containerd\0--config=/a b\0", "/usr/bin/containerd"),
            ("14", "containerd", "/usr/bin/containerd\0", "/usr/bin/containerd"),
        ] {
            let process = scratch.path().join("proc").join(pid);
            std::fs::create_dir_all(&process).unwrap();
            std::fs::write(process.join("comm"), format!("{comm}\n")).unwrap();
            std::fs::write(process.join("cmdline"), line).unwrap();
            std::os::unix::fs::symlink(exe, process.join("exe")).unwrap();
        }
        std::fs::create_dir(scratch.path().join("etc")).unwrap();
        std::fs::write(scratch.path().join("etc/os-release"), "NAME=x\nID=\"cos\"\n").unwrap();
        let seen = look(&Root::at(Some(scratch.path().to_owned())));
        let configs: Vec<_> =
            seen.running.iter().map(|it| (it.pid, it.config.to_str().unwrap())).collect();
        assert_eq!(configs, [(10, "/var/lib/rancher/k3s/c.toml"), (13, "/a b"), (14, PLAIN)]);
        assert_eq!(seen.os, "cos");
    }
}
