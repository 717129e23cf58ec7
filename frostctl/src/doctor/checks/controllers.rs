use cgroup::read::Version;

use super::super::finding::Finding;
use super::super::fix::Fix;
use super::super::node::Node;
use crate::node::hierarchy::Layout;

const LIST: &str = "/proc/cgroups";

/// kubelet refuses to start without the first four (pkg/kubelet/cm, `validateSystemRequirements`),
/// runc without devices. A pause needs the freezer, as does every update by runc on v1.
const NEEDED: &[(&str, &str)] = &[
    ("cpu", "kubelet does not start: `required cgroup controllers`; no CPU limit holds"),
    ("cpuacct", "kubelet does not start; the CPU use of pods is not known"),
    ("cpuset", "kubelet does not start; pods cannot be bound to CPUs"),
    ("memory", "kubelet does not start; no memory limit holds"),
    ("pids", "the number of processes in a pod has no limit"),
    ("devices", "runc makes no container: `cgroup: mountpoint for devices not found`"),
    (
        "freezer",
        "no pause and no checkpoint; runc's update goes on without its freeze and can leave a device rule half set",
    ),
];

/// v2 has no files for these; it has their function built in.
const V1_ONLY: &[&str] = &["cpuacct", "devices", "freezer"];

pub(super) fn check(node: &Node) -> Vec<Finding> {
    match node.cgroups.layout {
        Layout::None => Vec::new(),
        Layout::V2 => NEEDED.iter().filter_map(|(it, so)| on_v2(node, it, so)).collect(),
        Layout::V1 | Layout::Hybrid => {
            NEEDED.iter().filter_map(|(it, so)| on_v1(node, it, so)).collect()
        }
    }
}

fn on_v2(node: &Node, controller: &str, so: &str) -> Option<Finding> {
    let unified = node.cgroups.used().find(|it| it.version == Version::V2)?;
    if V1_ONLY.contains(&controller) || unified.has(controller) {
        return None;
    }
    let file = unified.mountpoint.join("cgroup.controllers");
    let finding = Finding::error(format!("v2 has no {controller} controller"))
        .seen(file, unified.controllers.join(" "))
        .so(so);
    if let Some((seen, remedy)) = why_not(node, controller) {
        return Some(finding.seen(LIST, seen).remedy(remedy));
    }
    Some(finding.remedy(format!(
        "a v1 hierarchy holds it, or held it at boot: boot with cgroup_no_v1={controller} or \
         systemd.unified_cgroup_hierarchy=1"
    )))
}

fn on_v1(node: &Node, controller: &str, so: &str) -> Option<Finding> {
    if node.cgroups.with(controller).is_some() {
        return None;
    }
    let finding = Finding::error(format!("the {controller} controller is not mounted"))
        .seen("/proc/self/mountinfo", format!("no line of type cgroup with {controller}"))
        .so(so);
    if let Some((seen, remedy)) = why_not(node, controller) {
        return Some(finding.seen(LIST, seen).remedy(remedy));
    }
    let v2 = node.cgroups.all.iter().find(|it| it.version == Version::V2 && it.has(controller));
    if let Some(v2) = v2 {
        let seen = finding.seen(v2.mountpoint.join("cgroup.controllers"), controller);
        return Some(seen.remedy(
            "the v2 tree has it, and a controller cannot be in both: boot with \
             systemd.unified_cgroup_hierarchy=1, or =0 for v1 alone",
        ));
    }
    let place = format!("/sys/fs/cgroup/{controller}");
    let finding = finding.remedy(format!(
        "frostctl doctor --fix, or: mkdir -p {place} && mount -t cgroup -o {controller} cgroup {place}; \
         then find out why it was not mounted at boot, and restart kubelet"
    ));
    let (controller, mountpoint) = (controller.to_owned(), place.into());
    Some(finding.fix(Fix::Mount { controller, mountpoint }))
}

/// Why the kernel's own list says that it cannot be mounted, and what to do then.
fn why_not(node: &Node, controller: &str) -> Option<(String, String)> {
    match node.cgroups.is_enabled(controller) {
        Some(false) => Some((
            format!("{controller}: enabled 0"),
            format!(
                "it is switched off at boot: take cgroup_disable={controller} from the kernel's command \
                 line, or add cgroup_enable={controller}; Raspberry Pi OS needs cgroup_enable=memory"
            ),
        )),
        // Kernels since 6.12 may omit controllers that are not built for v1 from the list.
        None if !node.cgroups.kernel.is_empty() && node.cgroups.layout != Layout::V2 => Some((
            format!("no line {controller}"),
            format!("this kernel is built without {controller} for v1: use v2, or another kernel"),
        )),
        _ => None,
    }
}
