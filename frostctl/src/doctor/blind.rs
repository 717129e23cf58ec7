//! What a check could not see, and why. Reported under each check's own name, since silence would
//! be read as "nothing is wrong".

use std::path::Path;

use super::finding::Finding;
use super::node::Node;

/// Something that a check needs to see and that may be missing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// /proc/self/mountinfo: without it there is nothing to check.
    Mounts,
    /// The node itself, not a recorded tree.
    Live,
    /// Files and trials that need root.
    Root,
    /// Other processes in /proc.
    Processes,
    Kubelet,
    Containerd,
}

/// The missing needs, as findings.
pub(crate) fn spots(node: &Node, needs: &[Need]) -> Vec<Finding> {
    needs.iter().filter_map(|need| need.lacking(node)).collect()
}

/// Whether nothing can be checked at all.
pub(crate) fn is_blind(node: &Node, needs: &[Need]) -> bool {
    needs.contains(&Need::Mounts) && node.cgroups.complaint.is_some()
}

impl Need {
    fn lacking(self, node: &Node) -> Option<Finding> {
        let is_live = node.ask.root.is_live();
        let said = |what: &str, seen: (&Path, &str), remedy: &str| {
            Some(Finding::not_checked(what).seen(seen.0, seen.1).remedy(remedy))
        };
        // Only root sees which mount namespace another user's process is in.
        let is_blind = is_live && !node.is_root;
        let none =
            |seen| if is_blind { "no such file; only root can see a running one" } else { seen };
        match self {
            Need::Mounts => said(
                "the mounts of this node cannot be read",
                (Path::new("/proc/self/mountinfo"), node.cgroups.complaint.as_deref()?),
                "mount proc at /proc, or run frostctl in the node's mount namespace",
            ),
            Need::Live if !is_live => said(
                "this needs a live node, and this is a recorded one",
                (Path::new("/"), "a recorded tree has no threads, no freezer and no open files"),
                "run doctor without --root, on the node",
            ),
            Need::Root if is_live && !node.is_root => said(
                "only root can see all of this",
                (Path::new("/proc/self/status"), "the effective user is not root"),
                "run doctor as root",
            ),
            Need::Processes if is_live && !node.sees_processes => said(
                "the processes of this node are not visible",
                (Path::new("/proc"), "process 1 is missing, or is a container's"),
                "run doctor as root, with proc mounted at /proc (hidepid hides others' processes); in a pod with hostPID: true",
            ),
            Need::Kubelet if !node.kubelet.is_expected() && node.ask.cgroup_root.is_none() => said(
                "no kubelet was found",
                (
                    Path::new("/var/lib/kubelet/config.yaml"),
                    none("no such file, and no kubelet runs"),
                ),
                "none, where Kubernetes does not use this node; where its cgroups are elsewhere: --cgroup-root PATH",
            ),
            Need::Containerd if node.containerds.is_empty() => said(
                "no containerd was found",
                (
                    Path::new("/etc/containerd/config.toml"),
                    none("no such file, and no containerd runs"),
                ),
                "none, where containers come from another engine, which doctor does not read",
            ),
            Need::Live | Need::Root | Need::Processes | Need::Kubelet | Need::Containerd => None,
        }
    }
}
