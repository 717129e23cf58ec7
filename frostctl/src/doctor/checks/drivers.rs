use super::super::finding::Finding;
use super::super::node::Node;
use crate::node::containerd::{Containerd, Entry};
use crate::node::tree::{Driver, KubeRoot};

pub(super) fn check(node: &Node) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let (Some(file), Some(why)) = (&node.kubelet.config, &node.kubelet.complaint) {
        findings.push(
            Finding::warning("kubelet's configuration cannot be read")
                .seen(file, why)
                .so("which cgroup driver kubelet uses is not known; kubelet itself may not start")
                .remedy("mend the file; kubelet's own log says more: journalctl -u kubelet"),
        );
    }
    if let Some(file) = &node.kubelet.unseen {
        findings.push(
            Finding::note("kubelet's configuration is not visible from here")
                .seen(file, "is not there; kubelet was started with it")
                .so("which cgroup driver kubelet uses is known only if a flag says it")
                .remedy("run doctor on the node, or share that file with doctor's container"),
        );
    }
    for containerd in &node.containerds {
        findings.extend(unreadable(containerd));
        findings.extend(against_kubelet(node, containerd));
    }
    findings.extend(without_systemd(node));
    findings.extend(both_trees(node));
    findings
}

fn unreadable(containerd: &Containerd) -> Vec<Finding> {
    let complaints = containerd.complaints.iter();
    complaints
        .map(|(file, why)| {
            Finding::warning("containerd's configuration cannot be read")
                .seen(file, why)
                .so("which cgroup driver its runtimes use is not known; containerd does not start with it")
                .remedy("mend the file; to see what containerd reads from it: containerd config dump")
        })
        .collect()
}

fn against_kubelet(node: &Node, containerd: &Containerd) -> Vec<Finding> {
    let kubelet = &node.kubelet;
    if !kubelet.is_expected() || kubelet.complaint.is_some() || kubelet.uses_crio() {
        return Vec::new();
    }
    let entries = || containerd.entries.iter();
    let Some(said) = &node.kubelet.driver else {
        if node.kubelet.unseen.is_some() {
            return Vec::new();
        }
        // Since 1.31 kubelet asks the runtime; containerd answers from 2.0 on.
        let systemd = entries().find(|it| it.is_default && it.driver() == Driver::Systemd);
        return systemd.map(|it| unsaid(node, it)).into_iter().collect();
    };
    let others = entries().filter(|it| it.driver() != said.value);
    others
        .map(|it| {
            let what = format!(
                "kubelet uses the {} driver and containerd's runtime {} the {} driver",
                said.value,
                it.name,
                it.driver()
            );
            let finding = if it.is_default { Finding::error(what) } else { Finding::warning(what) };
            finding
                .seen(&said.by, format!("cgroupDriver: {}", said.value))
                .seen(&it.file, systemd_cgroup(it))
                .so("pods fail to start (`expected cgroupsPath to be of format \"slice:prefix:name\"`), or \
                     their containers are in cgroups that their pod's limits do not reach")
                .remedy(format!(
                    "set SystemdCgroup = {} in the options of that runtime and restart containerd, or \
                     change kubelet's cgroupDriver; drain the node first: running pods keep the old one",
                    said.value == Driver::Systemd
                ))
        })
        .collect()
}

fn unsaid(node: &Node, entry: &Entry) -> Finding {
    let file = node.kubelet.config.clone().unwrap_or_default();
    Finding::warning(
        "kubelet has not been told its cgroup driver, and containerd uses systemd",
    )
    .seen(file, "no cgroupDriver")
    .seen(&entry.file, systemd_cgroup(entry))
    .so("kubelet takes cgroupfs, except from 1.31 on with containerd 2.0 or newer, which it asks")
    .remedy("set cgroupDriver: systemd in kubelet's configuration and restart it")
}

fn systemd_cgroup(entry: &Entry) -> String {
    match entry.systemd {
        Some(value) => format!("runtimes.{}.options.SystemdCgroup = {value}", entry.name),
        None => format!("runtimes.{}.options.SystemdCgroup is not set, which is false", entry.name),
    }
}

fn without_systemd(node: &Node) -> Option<Finding> {
    let said = node.kubelet.driver.as_ref()?;
    if said.value != Driver::Systemd || node.has_systemd == Some(true) {
        return None;
    }
    if node.has_systemd.is_none() {
        return Some(
            Finding::note("whether systemd runs on this node cannot be seen from here")
                .seen("/run/systemd/system", "is not there, and pid 1 is not the node's")
                .so("kubelet's driver, systemd, was not checked against it")
                .remedy("run doctor on the node, or share /run/systemd or the pids (hostPID) with doctor's container"),
        );
    }
    Some(
        Finding::error("kubelet uses the systemd driver, and systemd does not run here")
            .seen(&said.by, "cgroupDriver: systemd")
            .seen("/run/systemd/system", "is not there")
            .so("no pod starts: runc cannot ask systemd for a scope")
            .remedy(
                "set cgroupDriver: cgroupfs, and SystemdCgroup = false for containerd's runtimes",
            ),
    )
}

/// Both trees below one parent: the nested kubelet of kind has its own tree.
fn both_trees(node: &Node) -> Option<Finding> {
    let of = |driver| node.tree.roots.iter().filter(move |root| root.driver == driver);
    let beside = |one: &KubeRoot, other: &KubeRoot| {
        one.path.as_path().parent() == other.path.as_path().parent()
    };
    let mut pairs = of(Driver::Systemd)
        .flat_map(|one| of(Driver::Cgroupfs).map(move |other| (one, other)))
        .filter(|(one, other)| beside(one, other));
    let (systemd, cgroupfs) = pairs.next()?;
    let lives = |root: &KubeRoot| {
        let pods = root.pods.values().filter(|pod| pod.populated).count();
        format!("{pods} pods with processes, of {}", root.pods.len())
    };
    Some(
        Finding::warning("there are pods' cgroups of both drivers")
            .seen(systemd.path.as_path(), lives(systemd))
            .seen(cgroupfs.path.as_path(), lives(cgroupfs))
            .so("the driver was changed on a node that was not drained: limits and figures of the \
                 older pods are in a tree that kubelet does not read")
            .remedy("drain the node, restart containerd and kubelet; doctor --fix removes what is empty then"),
    )
}
