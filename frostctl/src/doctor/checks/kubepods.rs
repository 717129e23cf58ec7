//! Follows kubelet's `Validate` (pkg/kubelet/cm/cgroup_v1_manager_linux.go and
//! cgroup_v2_manager_linux.go): which hierarchies must have a cgroup for it to exist.

use std::collections::BTreeSet;

use cgroup::Identity;
use cgroup::read::Version;

use super::super::finding::Finding;
use super::super::fix::Fix;
use super::super::kubelet;
use super::super::node::Node;
use crate::node::hierarchy::{Hierarchy, words};
use crate::node::tree::{Driver, KubeRoot};

/// On v1 kubelet looks for the cgroup in these hierarchies, if they are mounted.
const ON_V1: &[&str] = &["cpu", "cpuacct", "cpuset", "memory", "pids", "hugetlb", "name=systemd"];

pub(super) fn check(node: &Node) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(per_qos(node));
    let expected = node.expected_root();
    if let Some(root) = &expected {
        if node.tree.roots.iter().all(|it| it.path != *root) {
            findings.push(missing(node, root));
        }
    }
    for root in &node.tree.roots {
        // Only the tree that kubelet must use is fixed, not one that another driver left.
        let is_expected =
            expected.as_ref().is_none_or(|it| *it == root.path) && !node.kubelet.has_no_root();
        if is_expected {
            for cgroup in levels(root) {
                findings.extend(partly(node, root, &cgroup));
                findings.extend(not_enabled(node, root, &cgroup));
            }
        }
        findings.push(listed(root));
    }
    findings
}

/// The root and its existing levels; kubelet makes a level in all hierarchies or in none.
fn levels(root: &KubeRoot) -> Vec<Identity> {
    std::iter::once(root.path.clone()).chain(qos_levels(root)).collect()
}

fn qos_levels(root: &KubeRoot) -> impl Iterator<Item = Identity> {
    let levels = ["burstable", "besteffort"].into_iter().filter_map(|it| root.level(it));
    levels.filter(|it| root.present.contains_key(it))
}

/// systemd makes only the root itself: the levels are kubelet's.
fn mend(root: &Identity, driver: Driver, cgroup: &Identity) -> Fix {
    let unit = root.as_path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    match driver {
        Driver::Systemd if cgroup == root => Fix::StartSlice { unit, cgroup: root.clone() },
        _ => Fix::MakeCgroup(cgroup.clone()),
    }
}

fn missing(node: &Node, root: &Identity) -> Finding {
    let driver = node.driver();
    let dirs = node.cgroups.used().filter_map(|it| it.dir(root));
    let mut finding = Finding::error(format!("kubelet's root {root} is not there"))
        .seen_all(dirs.map(|dir| (dir, "no such directory")));
    if let Some(file) = &node.kubelet.config {
        finding = finding.seen(file, format!("cgroup driver {driver}"));
    }
    let finding = finding.so(
        "kubelet makes it when it starts; where it cannot, or the node came up after an unclean \
         shutdown, it ends with `Failed to start ContainerManager: root container [kubepods] \
         doesn't exist`, and no pod starts",
    );
    // Once made, the wrong tree would count as proof of the wrong driver.
    if node.is_driver_a_guess() {
        return finding.remedy(
            "which cgroup driver kubelet uses, and so which root it wants, is not known: set \
             cgroupDriver in kubelet's configuration, then frostctl doctor --fix",
        );
    }
    finding
        .remedy(
            "frostctl doctor --fix, then systemctl restart kubelet. Do not set cgroupsPerQOS to false: \
             that gives up the isolation of pods",
        )
        .fix(mend(root, driver, root))
}

/// The cgroup is in some hierarchies, but not in others that kubelet looks at.
fn partly(node: &Node, root: &KubeRoot, cgroup: &Identity) -> Option<Finding> {
    let none = BTreeSet::new();
    let present = root.present.get(cgroup).unwrap_or(&none);
    let lacking = node.cgroups.all.iter().enumerate().filter(|(number, hierarchy)| {
        let wanted = ON_V1.iter().any(|it| hierarchy.has(it));
        hierarchy.version == Version::V1 && wanted && !present.contains(number)
    });
    let lacking: Vec<&Hierarchy> = lacking.map(|(_, hierarchy)| hierarchy).collect();
    if lacking.is_empty() {
        return None;
    }
    let names: Vec<String> = lacking.iter().map(|it| it.name()).collect();
    let what = format!("{cgroup} is not in the hierarchy of {}", names.join(", "));
    let dirs = lacking.iter().filter_map(|it| it.dir(cgroup));
    Some(
        Finding::error(what)
            .seen_all(dirs.map(|dir| (dir, "no such directory")))
            .so("to kubelet a cgroup that one hierarchy lacks does not exist: `root container [kubepods] \
                 doesn't exist`, `cgroup [...] has some missing paths`")
            .remedy("frostctl doctor --fix, then systemctl restart kubelet")
            .fix(mend(&root.path, root.driver, cgroup)),
    )
}

/// On v2 a controller is in a cgroup only if every cgroup above enables it.
fn not_enabled(node: &Node, root: &KubeRoot, cgroup: &Identity) -> Option<Finding> {
    let unified = node.cgroups.used().find(|it| it.version == Version::V2)?;
    let dir = unified.dir(cgroup)?;
    let read = |name: &str, dir: &std::path::Path| words(&node.ask.root.path(dir).join(name));
    let has = read("cgroup.controllers", &dir);
    // What the root lacks is reported for the root.
    let roots = unified.dir(&root.path).map(|it| read("cgroup.controllers", &it));
    let is_root = *cgroup == root.path;
    let is_its_own =
        |it: &String| is_root || roots.as_ref().is_some_and(|roots| roots.contains(it));
    let lacking =
        kubelet::wanted_v2(unified).into_iter().filter(|it| !has.contains(it) && is_its_own(it));
    let lacking: Vec<String> = lacking.collect();
    let first = lacking.first()?;
    let above = dir.ancestors().skip(1).take_while(|it| it.starts_with(&unified.mountpoint));
    let above: Vec<_> = above.collect();
    let stops =
        above.into_iter().rev().find(|it| !read("cgroup.subtree_control", it).contains(first));
    let stops = stops.unwrap_or(&unified.mountpoint).join("cgroup.subtree_control");
    let enabled = node.ask.root.read(&stops).unwrap_or_default();
    let what = format!("{cgroup} has no {} controller", lacking.join(", "));
    Some(
        Finding::error(what)
            .seen(dir.join("cgroup.controllers"), has.join(" "))
            .seen(&stops, format!("{}: does not pass on {first}", enabled.trim()))
            .so("kubelet does not start: `cgroup [kubepods] has some missing controllers`; limits of pods \
                 do not hold")
            .remedy(format!(
                "frostctl doctor --fix, or: echo +{first} > {}; then systemctl restart kubelet",
                stops.display()
            ))
            .fix(mend(&root.path, root.driver, cgroup)),
    )
}

/// Somebody's choice, which is not undone: with it, kubelet wants no root and would not use one.
fn per_qos(node: &Node) -> Option<Finding> {
    let said = node.kubelet.per_qos.as_ref().filter(|it| !it.value)?;
    Some(
        Finding::note("kubelet was told to have no cgroups of QoS classes and pods")
            .seen(&said.by, "cgroupsPerQOS: false")
            .so("kubelet needs no kubepods and makes none; pods are not isolated from each other, \
                 and figures of their use are not reliable")
            .remedy(
                "nothing has to be done. To have them: cgroupsPerQOS: true; where kubelet then says \
                 `root container [kubepods] doesn't exist`, frostctl doctor --fix",
            ),
    )
}

const MOST_LISTED: usize = 10;

/// The directories that exist; nothing is wrong with them.
fn listed(root: &KubeRoot) -> Finding {
    let there: Vec<String> = qos_levels(root)
        .map(|it| it.as_path().file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    let of = |qos| root.pods.values().filter(move |pod| root.qos(pod) == qos);
    let counts = format!(
        "{} guaranteed, {} burstable, {} besteffort",
        of("guaranteed").count(),
        of("burstable").count(),
        of("besteffort").count()
    );
    let plural = if root.pods.len() == 1 { "pod" } else { "pods" };
    let what = format!(
        "{} ({} driver) has {} {plural}: {counts}",
        root.path,
        root.driver,
        root.pods.len()
    );
    let mut finding = Finding::note(what).seen(
        root.path.as_path(),
        match there.as_slice() {
            [] => "no level of QoS classes".to_owned(),
            there => format!("levels {}", there.join(", ")),
        },
    );
    finding = finding.seen_all(of("guaranteed").take(MOST_LISTED).map(|pod| {
        let state = if pod.populated { "" } else { ", no process" };
        (pod.path.as_path(), format!("guaranteed pod {}{state}", pod.uid))
    }));
    if of("guaranteed").count() > MOST_LISTED {
        finding = finding.seen(root.path.as_path(), "and more of them");
    }
    finding
        .so("there is no directory `guaranteed`, and there is none on any node: guaranteed pods are right \
             below the root")
        .remedy("nothing has to be done; ask `frostctl paths POD` for a path rather than building it")
}
