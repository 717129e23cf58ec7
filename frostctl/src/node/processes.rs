//! The running programs of the node that matter here.

use std::path::{Path, PathBuf};

use cgroup::process::{self, Process};

use super::root::Root;
use crate::environment;

#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) pid: i32,
    pub(crate) comm: String,
    pub(crate) args: Vec<String>,
    pub(crate) exe: Option<PathBuf>,
    /// Whether its paths are also ours; otherwise one of the two is in a container.
    pub(crate) is_here: bool,
}

/// microk8s runs kubelet as a part of `kubelite`, k3s and rke2 in their own process.
const KUBELETS: &[&str] = &["kubelet", "kubelite", "k3s-server", "k3s-agent", "k3s", "rke2"];
const ENGINES: &[&str] = &["containerd", "crio"];

impl Running {
    pub(crate) fn is_kubelet(&self) -> bool {
        KUBELETS.contains(&self.comm.as_str())
    }
}

pub(crate) fn read(node: &Root) -> Vec<Running> {
    named(node, &[KUBELETS, ENGINES].concat())
}

/// In order.
pub(crate) fn pids(node: &Root) -> Vec<i32> {
    let entries = std::fs::read_dir(node.path("/proc".as_ref())).into_iter().flatten().flatten();
    let mut pids: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

pub(crate) fn named(node: &Root, names: &[&str]) -> Vec<Running> {
    // A process in a container, as of a node within this one, has other files at the same paths.
    // Pid 1 is the node itself, even if doctor runs in a container.
    let place = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/mnt")).ok();
    let (here, nodes) = (place("self"), place("1"));
    let running = pids(node).into_iter().filter_map(|pid| {
        let mut it = of(node, pid, names)?;
        let its = if node.is_live() { place(&pid.to_string()) } else { here.clone() };
        it.is_here = its == here;
        (it.is_here || (its.is_some() && its == nodes)).then_some(it)
    });
    running.collect()
}

/// Whether the node's processes are visible. Process 1 always exists; in a container without the
/// node's pids it is the container's.
pub(crate) fn are_seen(node: &Root, running: &[Running]) -> bool {
    let is_of_the_node = !node.is_live()
        || is_first_pid_namespace()
        || !running.is_empty()
        || systemd(node, running) == Some(true);
    node.read("/proc/1/comm").is_ok() && is_of_the_node
}

/// The kernel gives this number to the initial pid namespace.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

pub(crate) fn is_first_pid_namespace() -> bool {
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    namespace.is_ok_and(|it| it == Path::new(FIRST_PID_NAMESPACE))
}

/// Whether doctor sees the files of the node, not those of a container.
pub(crate) fn is_on_the_node(running: &[Running]) -> bool {
    let link = |path: &str| std::fs::read_link(path).ok();
    let mounts = link("/proc/1/ns/mnt");
    let is_with_first =
        is_first_pid_namespace() && mounts.is_some() && mounts == link("/proc/self/ns/mnt");
    is_with_first || running.iter().any(|it| it.is_here)
}

/// Whether systemd runs on the node; `None` if that cannot be seen.
pub(crate) fn systemd(node: &Root, running: &[Running]) -> Option<bool> {
    // As in sd_booted(3).
    if node.is_there("/run/systemd/system") {
        return Some(true);
    }
    if !node.is_live() {
        return Some(false);
    }
    let first = node.read("/proc/1/comm").ok()?;
    // In a container, pid 1 may be the container's.
    let is_the_nodes = is_first_pid_namespace() || running.iter().any(|it| it.is_here);
    judge_first(first.trim(), is_the_nodes)
}

fn judge_first(comm: &str, is_the_nodes: bool) -> Option<bool> {
    match comm {
        "systemd" => Some(true),
        _ => is_the_nodes.then_some(false),
    }
}

fn of(node: &Root, pid: i32, names: &[&str]) -> Option<Running> {
    let comm = node.read(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
    if !names.contains(&comm.as_str()) {
        return None;
    }
    // We run its program and follow its command line.
    if node.is_live() && !process::is_trusted(pid) {
        return None;
    }
    let cmdline = node.read(format!("/proc/{pid}/cmdline")).ok()?;
    if environment::is_a_question(cmdline.split('\0')) {
        return None;
    }
    let args = cmdline.split('\0').filter(|arg| !arg.is_empty()).map(str::to_owned).collect();
    let exe = std::fs::read_link(node.path(format!("/proc/{pid}/exe").as_ref())).ok();
    Some(Running { pid, comm, args, exe, is_here: true })
}

/// The process whose pid and start begin the name of something; `between` is what stands between and after
/// them.
pub(crate) fn named_by(name: &str, between: &[char]) -> Option<Process> {
    let mut numbers = name.split(between);
    Some(Process { pid: numbers.next()?.parse().ok()?, start: numbers.next()?.parse().ok()? })
}

/// The values of `NAME VALUE` and `NAME=VALUE`, in order.
pub(crate) fn values<'a>(args: &'a [String], names: &'a [&str]) -> impl Iterator<Item = &'a str> {
    args.iter().enumerate().filter_map(|(at, arg)| match arg.split_once('=') {
        Some((name, value)) if names.contains(&name) => Some(value),
        None if names.contains(&arg.as_str()) => args.get(at + 1).map(String::as_str),
        _ => None,
    })
}

/// The last value of `--name=value` or `--name value`; a bare switch is `true`.
pub(crate) fn flag(args: &[String], name: &str) -> Option<String> {
    let mut found = None;
    for (at, arg) in args.iter().enumerate() {
        let Some(rest) = arg.strip_prefix("--").and_then(|arg| arg.strip_prefix(name)) else {
            continue;
        };
        match rest.strip_prefix('=') {
            Some(value) => found = Some(value.trim_matches('"').to_owned()),
            None if rest.is_empty() => {
                let next = args.get(at + 1).filter(|next| !next.starts_with('-'));
                found = Some(next.cloned().unwrap_or_else(|| "true".to_owned()));
            }
            None => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_1_of_a_container_says_nothing_about_the_node() {
        assert_eq!(judge_first("node-problem-de", false), None);
        assert_eq!(judge_first("init", true), Some(false));
        assert_eq!(judge_first("systemd", false), Some(true));
    }
}
