use std::path::Path;

use super::super::finding::Finding;
use super::super::node::Node;
use crate::node::hierarchy::Layout;

const MOUNTINFO: &str = "/proc/self/mountinfo";

pub(super) fn check(node: &Node) -> Vec<Finding> {
    let cgroups = &node.cgroups;
    if cgroups.layout == Layout::None {
        return vec![
            Finding::error("no cgroup file system is mounted")
                .seen(MOUNTINFO, "no line of type cgroup or cgroup2")
                .so("no container can be made; kubelet does not start")
                .remedy(
                    "boot with systemd, which mounts it, or: mount -t cgroup2 none /sys/fs/cgroup; in a \
                     container, share the node's /sys/fs/cgroup",
                ),
        ];
    }
    let mut findings = Vec::new();
    for hierarchy in cgroups.used() {
        let place = &hierarchy.mountpoint;
        if hierarchy.read_only {
            findings.push(
                Finding::error(format!("{} is mounted read-only", hierarchy.name()))
                    .seen(MOUNTINFO, format!("{} ro", place.display()))
                    .so("no cgroup can be made, frozen or limited there")
                    .remedy(format!("mount -o remount,rw {}", place.display())),
            );
        }
        if !place.starts_with("/sys/fs/cgroup") {
            findings.push(
                Finding::warning(format!("{} is mounted at an unusual place", hierarchy.name()))
                    .seen(MOUNTINFO, place.display().to_string())
                    .so("frostlock finds it there; agents and runtimes that know only /sys/fs/cgroup do \
                         not")
                    .remedy(format!("mount it below /sys/fs/cgroup as well: mount --bind {} /sys/fs/cgroup/...", place.display())),
            );
        }
        if hierarchy.root != Path::new("/") {
            findings.push(
                Finding::note(format!("{} shows only a part of its tree", hierarchy.name()))
                    .seen(
                        MOUNTINFO,
                        format!("{} shows {}", place.display(), hierarchy.root.display()),
                    )
                    .so("the cgroups above or beside that part were not checked")
                    .remedy("run frostctl on the host rather than in a container to see all"),
            );
        }
    }
    if cgroups.layout == Layout::Hybrid {
        let v2 = cgroups.mounts.v2.as_ref().map(|it| it.mountpoint.clone()).unwrap_or_default();
        findings.push(
            Finding::note("v1 and v2 are both mounted (hybrid); kubelet and the runtimes use v1")
                .seen(v2, "cgroup2, beside v1")
                .so("on v1 runc freezes a container in every update, in 0.25 s or not at all")
                .remedy(
                    "nothing has to be done; v2 is what Kubernetes recommends (boot with \
                     systemd.unified_cgroup_hierarchy=1)",
                ),
        );
    }
    if node.tree.cut {
        findings.push(
            Finding::warning("there are more cgroups than doctor looks at")
                .so("those beyond the first 100,000 were not checked")
                .remedy("find out who makes them: find /sys/fs/cgroup -maxdepth 3 -type d"),
        );
    }
    findings
}
