//! root's instances of inotify: how many there may be, and who has them.

use std::path::Path;

use crate::node::root::Root;

/// Of each user in each user namespace; those of a namespace count for whoever made it as well.
pub(crate) const LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";

#[derive(Debug)]
pub(crate) struct Inotify {
    pub(crate) limit: u64,
    /// Who has most comes first.
    pub(crate) holders: Vec<Holder>,
}

#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) pid: i32,
    pub(crate) comm: String,
    pub(crate) instances: u64,
}

impl Inotify {
    /// Those that can be seen. A process that inherited one of another's counts it once more.
    pub(crate) fn used(&self) -> u64 {
        self.holders.iter().map(|holder| holder.instances).sum()
    }
}

/// `None` where the kernel has no inotify, or the tree was recorded without it.
pub(crate) fn read(node: &Root) -> Option<Inotify> {
    let limit = node.read(LIMIT).ok()?.trim().parse().ok()?;
    let entries = std::fs::read_dir(node.path("/proc".as_ref())).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
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

/// Of root, or of a container with a user namespace, which root has made.
fn counts_for_root(node: &Root, pid: i32) -> bool {
    let status = node.read(format!("/proc/{pid}/status")).unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let effective = uids.and_then(|uids| uids.split_ascii_whitespace().nth(1));
    let namespace =
        |who: &str| std::fs::read_link(node.path(format!("/proc/{who}/ns/user").as_ref())).ok();
    effective == Some("0") || namespace(&pid.to_string()) != namespace("self")
}
