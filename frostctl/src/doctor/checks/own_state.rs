use std::path::PathBuf;

use cgroup::Identity;
use cgroup::process::Process;

use super::super::finding::Finding;
use super::super::fix::Fix;
use super::super::node::Node;
use super::super::trial;
use super::frozen::spoken;
use crate::node::processes;

const MOST_SHOWN: usize = 5;

pub(super) fn check(node: &Node) -> Vec<Finding> {
    stale(node).into_iter().chain(held(node)).chain(scratch(node)).collect()
}

/// Nothing is forced: the holder is in the middle of an operation.
fn held(node: &Node) -> Vec<Finding> {
    let held = node.ours.held.iter();
    held.map(|(file, holder)| {
        let (pid, age) = (holder.process.pid, spoken(holder.held_for()));
        let what = format!(
            "the lock of container {} has been held for {age} by {}, pid {pid}",
            holder.id, holder.verb
        );
        Finding::warning(what)
            .seen(file, holder.to_string())
            .so(
                "every other operation on the container waits for the lock as long as it may, then \
                 goes ahead without it",
            )
            .remedy(format!(
                "see what it waits for: cat /proc/{pid}/stack, and that of its children; the lock \
                 ends with the process"
            ))
    })
    .collect()
}

fn stale(node: &Node) -> Option<Finding> {
    let stale = &node.ours.stale;
    if stale.is_empty() {
        return None;
    }
    let what = format!(
        "{} files in frostlock's state are of cgroups and containers that are gone",
        stale.len()
    );
    Some(
        Finding::note(what)
            .seen_all(stale.iter().take(MOST_SHOWN).map(|path| (path, "nobody holds it")))
            .so("none for containers; the directory grows")
            .remedy("frostctl doctor --fix removes them")
            .fix(Fix::RemoveState(stale.clone())),
    )
}

/// Leftovers of a doctor killed in its trial. From another pid namespace, a living doctor looks
/// dead.
fn scratch(node: &Node) -> Vec<Finding> {
    if !processes::is_first_pid_namespace() {
        return Vec::new();
    }
    let root = node.cgroups.mounts.naming_root();
    let made_here = node.tree.all.iter().filter(|it| it.as_path().parent() == Some(root));
    let left = made_here.filter(|it| {
        let name = it.as_path().file_name().and_then(|it| it.to_str());
        let owner = name.and_then(|it| Process::named(it.strip_prefix(trial::PREFIX)?.as_ref()));
        owner.is_some_and(|it| !it.is_alive())
    });
    left.filter_map(|it| {
        // A doctor that ended while we looked has removed its directory first.
        let dirs = node.cgroups.all.iter().filter_map(|h| h.dir(it));
        let dirs: Vec<_> = dirs.filter(|dir| node.ask.root.path(dir).is_dir()).collect();
        (!dirs.is_empty()).then(|| left_behind(it, dirs))
    })
    .collect()
}

fn left_behind(cgroup: &Identity, dirs: Vec<PathBuf>) -> Finding {
    Finding::warning(format!("a killed doctor left {cgroup}"))
        .seen(cgroup.as_path(), "its owner is gone")
        .so("none; its process ended with its owner, or is frozen")
        .remedy("frostctl doctor --fix removes it")
        .fix(Fix::RemoveTrial { cgroup: cgroup.clone(), dirs })
}
