//! What is found on the node to configure: its system, its files, the containerds that run.

use std::path::Path;

use cgroup::Membership;

use super::distribution::{Running, Seen, places};
use crate::node::root::Root;
use crate::node::{containerd, processes};

/// dockerd starts its own containerd, which no pod uses.
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

/// A containerd in a container, as of a node within this one, has other files at these paths.
fn running(root: &Root) -> Vec<Running> {
    let all = processes::read(root).into_iter().filter(|it| it.comm == "containerd" && it.is_here);
    let all = all.map(|it| Running {
        config: containerd::config_of(&it.args),
        socket: containerd::address_of(&it.args),
        unit: unit(root, it.pid),
        program: it.exe,
    });
    all.filter(|it| !it.config.to_string_lossy().contains(DOCKERS)).collect()
}

/// The systemd unit of which the process is the service, by its cgroup (cgroups(7)):
/// `/system.slice/x.service`, or a delegated cgroup below it.
fn unit(root: &Root, pid: i32) -> Option<String> {
    let text = root.read(format!("/proc/{pid}/cgroup")).ok()?;
    let member = Membership::parse(text.as_bytes());
    let paths = ["name=systemd", ""].into_iter().filter_map(|it| member.path(it));
    let mut names = paths.flat_map(Path::ancestors).filter_map(|it| it.file_name()?.to_str());
    names.find(|it| it.ends_with(".service")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::containerd::PLAIN;

    #[test]
    fn a_containerd_is_found_by_its_process() {
        let scratch = tempfile::tempdir().unwrap();
        for (pid, comm, line, exe) in [
            (
                "10",
                "containerd",
                "containerd\0-c\0/var/lib/rancher/k3s/c.toml\0-a\0/run/k3s/c.sock\0",
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
            ("15", "containerd", "/usr/bin/containerd\0--version\0", "/usr/bin/containerd"),
        ] {
            let process = scratch.path().join("proc").join(pid);
            std::fs::create_dir_all(&process).unwrap();
            std::fs::write(process.join("comm"), format!("{comm}\n")).unwrap();
            std::fs::write(process.join("cmdline"), line).unwrap();
            std::os::unix::fs::symlink(exe, process.join("exe")).unwrap();
            let cgroup = format!("3:cpu:/\n1:name=systemd:/system.slice/c-{pid}.service\n0::/\n");
            std::fs::write(process.join("cgroup"), cgroup).unwrap();
        }
        std::fs::create_dir(scratch.path().join("etc")).unwrap();
        std::fs::write(scratch.path().join("etc/os-release"), "NAME=x\nID=\"cos\"\n").unwrap();
        let seen = look(&Root::at(Some(scratch.path().to_owned())));
        let configs: Vec<_> = seen.running.iter().map(|it| it.config.to_str().unwrap()).collect();
        assert_eq!(configs, ["/var/lib/rancher/k3s/c.toml", "/a b", PLAIN]);
        assert_eq!(seen.running[0].socket.as_deref(), Some(Path::new("/run/k3s/c.sock")));
        assert_eq!(seen.os, "cos");
        assert_eq!(seen.running[0].unit.as_deref(), Some("c-10.service"));
    }
}
