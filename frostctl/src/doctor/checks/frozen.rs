use std::path::Path;
use std::time::Duration;

use cgroup::bundle::PodNames;
use cgroup::{Freezer, Identity};

use super::super::finding::Finding;
use super::super::fix::Fix;
use super::super::node::Node;
use super::super::operations::Last;
use crate::node::tree::Frozen;

pub(super) fn check(node: &Node) -> Vec<Finding> {
    let mut findings: Vec<Finding> = node.tree.frozen.iter().map(|it| one(node, it)).collect();
    // Notes for cgroups that are no longer frozen.
    for left in &node.ours.unfinished {
        let is_frozen = node.tree.frozen.iter().any(|it| is_of(left.cgroup.as_ref(), &it.path));
        if !is_frozen {
            let what = left.operation.as_deref().unwrap_or("which one is not known");
            let fix = match &left.cgroup {
                Some(cgroup) => Fix::Undo(cgroup.clone()),
                None => Fix::RemoveNote(left.note.clone()),
            };
            findings.push(
                Finding::warning(format!("an operation of frostlock's was killed: {what}"))
                    .seen(&left.note, format!("pid {} is gone; its cgroup is not frozen", left.pid))
                    .so("none: there is nothing to undo; the next operation on the container removes it")
                    .remedy("frostctl doctor --fix")
                    .fix(fix),
            );
        }
    }
    findings
}

/// Notes and records have the cgroup of the lock; crun puts the processes into a child of it.
/// Deeper cgroups belong to containers within the container.
fn is_of(named: Option<&Identity>, frozen: &Identity) -> bool {
    let (Some(named), frozen) = (named, frozen.as_path()) else { return false };
    let named = named.as_path();
    named == frozen || Some(named) == frozen.parent()
}

fn one(node: &Node, frozen: &Frozen) -> Finding {
    let left = node.ours.unfinished.iter().find(|it| is_of(it.cgroup.as_ref(), &frozen.path));
    let known = node.ours.known.iter().find(|it| is_of(it.cgroup.as_ref(), &frozen.path));
    let is_paused = known.is_some_and(|it| it.paused);
    let state = match frozen.state {
        Freezer::Freezing => "stuck FREEZING",
        _ => "frozen",
    };
    let last = last_operation(node, frozen.path.as_path());
    let now = cgroup::process::since_boot_ns();
    let (age, by) = told(left.and_then(|it| it.age), last, is_paused, now);
    let pod = known.map(|it| &it.pod);
    let what = format!("{} is {state}, {age}{by}", name(&frozen.path, pod));
    let file = frozen.dir.join(match frozen.version {
        cgroup::read::Version::V1 => "freezer.state",
        cgroup::read::Version::V2 => "cgroup.freeze",
    });
    let seen = crate::node::root::read(&file).unwrap_or_default();
    let path = frozen.path.to_string();
    let is_pod = Identity::pod(&frozen.path).is_some() || frozen.path.pod_uid().is_some();
    let finding = match (left, is_paused) {
        (Some(left), false) => Finding::error(what)
            .seen(&left.note, format!("{} by pid {}, which is gone", left.operation.as_deref().unwrap_or("?"), left.pid))
            .remedy("frostctl doctor --fix thaws it: a killed operation of frostlock's froze it")
            .fix(Fix::Undo(left.cgroup.clone().unwrap_or_else(|| frozen.path.clone()))),
        (_, true) => Finding::note(format!("{what}: it was paused through frostlock"))
            .remedy("nothing has to be done; whoever paused it resumes it"),
        (None, false) if frozen.state == Freezer::Freezing => Finding::error(what).remedy(format!(
            "see what the tasks wait for (cat /proc/PID/stack); one in state D has to come out of it \
             first. Then: frostctl doctor --fix --thaw {path}"
        )),
        (None, false) if is_pod => Finding::warning(what).remedy(format!(
            "kubelet pauses no container. If nobody else wants it frozen: frostctl doctor --fix \
             --thaw {path}"
        )),
        (None, false) => Finding::note(format!("{what}; most likely somebody paused it")).remedy(format!(
            "resume it with what paused it (docker unpause, ctr task resume, runc resume); if nobody did: \
             frostctl doctor --fix --thaw {path}"
        )),
    };
    let finding =
        finding.brief(whose(&frozen.path, pod), format!("{state} {age}")).seen(file, seen.trim());
    let tasks = match frozen.tasks.as_str() {
        "" => format!("{} processes", frozen.count),
        tasks => tasks.to_owned(),
    };
    finding
        .seen(frozen.dir.join("cgroup.procs"), tasks)
        .so("its processes do not run: probes time out, and a kill waits until it is thawed")
}

/// `NAMESPACE/POD`.
fn pod_name(pod: Option<&PodNames>) -> Option<String> {
    let pod = pod?;
    Some(format!("{}/{}", pod.namespace.as_deref()?, pod.name.as_deref()?))
}

fn uid(pod: &Identity) -> Option<String> {
    Some(pod.pod_uid()?.replace('_', "-"))
}

fn name(path: &Identity, pod: Option<&PodNames>) -> String {
    let container = pod.and_then(|pod| pod.container.as_deref()).unwrap_or_default();
    match (pod_name(pod), path.pod().as_ref().and_then(uid)) {
        (Some(pod), _) => format!("{path} (pod {pod} {container})"),
        (None, Some(uid)) => format!("{path} (pod {uid})"),
        (None, None) => path.to_string(),
    }
}

/// For a line that has no room for a path.
fn whose(path: &Identity, pod: Option<&PodNames>) -> String {
    match (pod_name(pod), uid(path.pod().as_ref().unwrap_or(path))) {
        (Some(pod), _) => pod,
        (None, Some(uid)) => format!("pod {uid}"),
        (None, None) => {
            path.as_path().file_name().unwrap_or_default().to_string_lossy().into_owned()
        }
    }
}

/// The last that says something of its freezer, or of the one right above.
fn last_operation<'a>(node: &'a Node, path: &Path) -> Option<&'a Last> {
    let of = |path: &Path| node.ours.operations.freezes.get(path);
    of(path).or_else(|| path.parent().and_then(of))
}

/// How long the cgroup has been frozen, whatever was tried since. The kernel keeps no such time on
/// v1, and none of a single freeze on v2. So the age is that of the freezer's note or of our pause.
/// Otherwise the last operation that a frozen cgroup would have refused gives an upper bound.
///
/// The age, and, if it is only a bound, how it is known.
fn told(
    of_note: Option<Duration>,
    last: Option<&Last>,
    is_paused: bool,
    now: u64,
) -> (String, String) {
    let since = |last: &Last| spoken(Duration::from_nanos(now.saturating_sub(last.at)));
    let alone = |age: String| (age, String::new());
    match (of_note, last) {
        (Some(age), _) => alone(format!("for {}", spoken(age))),
        (None, Some(last)) if is_paused && last.verb == "pause" => {
            alone(format!("for {}", since(last)))
        }
        (None, Some(last)) => (
            format!("for at most {}", since(last)),
            format!(" (it was not before the last {})", last.verb),
        ),
        (None, None) => alone("for how long is not known".to_owned()),
    }
}

pub(super) fn spoken(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_is_that_of_the_freeze() {
        const SECOND: u64 = 1_000_000_000;
        let last = |verb: &str| Last { at: 100 * SECOND, verb: verb.to_owned() };
        let (pause, exec) = (last("pause"), last("exec"));
        let note = Some(Duration::from_secs(7));
        for (of_note, last, is_paused, expected) in [
            (note, Some(&exec), false, "for 7 s"),
            (None, Some(&pause), true, "for 40 s"),
            // The record says that somebody else has resumed it since, or that it was paused by
            // somebody else.
            (None, Some(&pause), false, "for at most 40 s (it was not before the last pause)"),
            (None, Some(&exec), false, "for at most 40 s (it was not before the last exec)"),
            (None, None, true, "for how long is not known"),
        ] {
            let (age, by) = told(of_note, last, is_paused, 140 * SECOND);
            assert_eq!(age + &by, expected);
        }
    }

    #[test]
    fn a_note_is_of_its_cgroup_and_of_the_one_right_below() {
        let cgroup = |path: &str| Identity::new(path).unwrap();
        let named = cgroup("/pod/scope");
        let is_of = |frozen: &str| is_of(Some(&named), &cgroup(frozen));
        assert!(is_of("/pod/scope") && is_of("/pod/scope/container"));
        assert!(!is_of("/pod") && !is_of("/pod/scope/docker/nested") && !is_of("/pod/other"));
    }
}
