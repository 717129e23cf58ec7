use super::super::finding::Finding;
use super::super::fix::Fix;
use super::super::node::Node;
use super::frozen::spoken;
use crate::node::tree::{KubeRoot, Pod};

/// More than these are not listed: nobody reads 500.
const MOST_SHOWN: usize = 5;

pub(super) fn check(node: &Node) -> Vec<Finding> {
    node.tree.roots.iter().flat_map(|root| of_root(node, root)).collect()
}

fn is_left(node: &Node, pod: &Pod) -> bool {
    let is_known = node.kubelet.pods.as_ref().is_some_and(|pods| pods.contains(&pod.uid));
    // kubelet makes the cgroup a moment before the pod's directory.
    let is_old = pod.age.is_none_or(|age| age >= node.ask.leftover_age);
    !pod.populated && !is_known && is_old
}

fn of_root(node: &Node, root: &KubeRoot) -> Option<Finding> {
    let left: Vec<&Pod> = root.pods.values().filter(|pod| is_left(node, pod)).collect();
    let first = left.first()?;
    let dirs: usize = left.iter().map(|pod| pod.dirs.len()).sum();
    let what = match left.len() {
        1 => format!("pod {} is gone, and {dirs} cgroup directories of it are left", first.uid),
        many => format!("{many} pods are gone, and {dirs} cgroup directories of them are left"),
    };
    let whose = match left.len() {
        1 => format!("pod {}", first.uid),
        many => format!("{many} pods"),
    };
    let seen = |pod: &&Pod| {
        let age = pod.age.map(|age| format!(", unchanged for {}", spoken(age))).unwrap_or_default();
        (pod.dirs.last().cloned().unwrap_or_default(), format!("no process{age}"))
    };
    let mut finding = Finding::warning(what)
        .brief(whose, format!("gone, {dirs} cgroup directories left"))
        .seen_all(left.iter().take(MOST_SHOWN).map(seen));
    if left.len() > MOST_SHOWN {
        finding =
            finding.seen(root.path.as_path(), format!("and {} more", left.len() - MOST_SHOWN));
    }
    if node.kubelet.pods.is_none() {
        finding = finding.seen("/var/lib/kubelet/pods", "is not there: kubelet could not be asked");
    }
    let dirs = left.iter().flat_map(|pod| pod.dirs.iter().cloned()).collect();
    let pod = if left.len() == 1 {
        first.uid.clone()
    } else {
        format!("{} and {} others", first.uid, left.len() - 1)
    };
    let finding = finding.so(
        "each costs the kernel memory and slows whatever walks the tree, kubelet and cAdvisor above \
         all; a directory of the same name can be in the way of a new pod",
    );
    // A pod that kubelet is about to fill has no process yet, and the root may be another
    // kubelet's.
    if node.kubelet.pods.is_none() || !is_of_this_kubelet(node, root) {
        return Some(finding.remedy(
            "whose pods these were is not known, so --fix leaves them; if no kubelet uses them: \
             rmdir, deepest first",
        ));
    }
    Some(
        finding
            .remedy("frostctl doctor --fix removes what has no process in it; the kernel refuses the rest")
            .fix(Fix::RemoveCgroups { pod, dirs }),
    )
}

/// Its root, or a sibling from the driver that it had before. The roots of kind's nodes are deeper.
fn is_of_this_kubelet(node: &Node, root: &KubeRoot) -> bool {
    let expected = node.expected_root();
    expected.is_some_and(|it| it.as_path().parent() == root.path.as_path().parent())
}
