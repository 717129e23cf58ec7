//! root's inotify instances: how many it may have, and which processes hold them.

use std::path::Path;

use crate::node::processes;
use crate::node::root::Root;

/// The limit per user and user namespace; instances in a namespace also count for the user who made
/// it.
pub(crate) const LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";

#[derive(Debug)]
pub(crate) struct Inotify {
    pub(crate) limit: u64,
    /// The process with the most instances comes first.
    pub(crate) holders: Vec<Holder>,
}

#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) pid: i32,
    pub(crate) comm: String,
    pub(crate) instances: u64,
}

impl Inotify {
    /// Visible instances. An instance that a process inherited is counted once more.
    pub(crate) fn used(&self) -> u64 {
        self.holders.iter().map(|holder| holder.instances).sum()
    }
}

/// `None` if the kernel has no inotify, or the tree was recorded without it.
pub(crate) fn read(node: &Root) -> Option<Inotify> {
    let limit = node.read(LIMIT).ok()?.trim().parse().ok()?;
    let pids = processes::pids(node).into_iter();
    let mut holders: Vec<Holder> = pids.filter_map(|pid| holder(node, pid)).collect();
    holders.sort_by(|a, b| b.instances.cmp(&a.instances).then(a.pid.cmp(&b.pid)));
    Some(Inotify { limit, holders })
}

fn holder(node: &Root, pid: i32) -> Option<Holder> {
    let fds = node.path(format!("/proc/{pid}/fd").as_ref());
    let fds = std::fs::read_dir(fds).ok()?.flatten();
    let instances = fds.filter(|fd| is_inotify(&fd.path())).count() as u64;
    if instances == 0 || !counts_for_root(node, pid) {
        return None;
    }
    let comm = node.read(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    Some(Holder { pid, comm, instances })
}

fn is_inotify(fd: &Path) -> bool {
    std::fs::read_link(fd).is_ok_and(|file| file == Path::new("anon_inode:inotify"))
}

/// Whether it is root's, or in a container with a user namespace that root made.
fn counts_for_root(node: &Root, pid: i32) -> bool {
    let status = node.read(format!("/proc/{pid}/status")).unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let effective = uids.and_then(|uids| uids.split_ascii_whitespace().nth(1));
    let namespace =
        |who: &str| std::fs::read_link(node.path(format!("/proc/{who}/ns/user").as_ref())).ok();
    effective == Some("0") || namespace(&pid.to_string()) != namespace("self")
}
