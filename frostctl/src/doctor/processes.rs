//! The programs of the node that matter here, found running.

use std::path::PathBuf;

use super::root::Root;

#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) pid: i32,
    pub(crate) comm: String,
    pub(crate) args: Vec<String>,
    pub(crate) exe: Option<PathBuf>,
}

/// microk8s runs kubelet as a part of `kubelite`, k3s and rke2 in their own process.
const NAMES: &[&str] =
    &["kubelet", "kubelite", "k3s-server", "k3s-agent", "k3s", "rke2", "containerd"];

pub(crate) fn read(node: &Root) -> Vec<Running> {
    let entries = std::fs::read_dir(node.path("/proc".as_ref())).into_iter().flatten().flatten();
    let mut pids: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    // One in a container, as of a node within this one, reads other files under the same names.
    let place = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/mnt")).ok();
    let here = place("self");
    let is_here = |it: &Running| !node.is_live() || place(&it.pid.to_string()) == here;
    pids.into_iter().filter_map(|pid| of(node, pid)).filter(is_here).collect()
}

fn of(node: &Root, pid: i32) -> Option<Running> {
    let comm = node.read(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
    if !NAMES.contains(&comm.as_str()) {
        return None;
    }
    let cmdline = node.read(format!("/proc/{pid}/cmdline")).ok()?;
    let args = cmdline.split('\0').filter(|arg| !arg.is_empty()).map(str::to_owned).collect();
    let exe = std::fs::read_link(node.path(format!("/proc/{pid}/exe").as_ref())).ok();
    Some(Running { pid, comm, args, exe })
}

/// The value of `--name=value` or `--name value`, the last one; a bare switch is `true`.
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
