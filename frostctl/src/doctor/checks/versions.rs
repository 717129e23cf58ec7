//! Which known defects the versions have that are in use here.

use super::super::finding::Finding;
use super::super::node::Node;
use super::super::programs::Program;
use crate::defects::{self, Defect};
use crate::version::Version;

const NAME: &str = "versions";

pub(super) fn check(node: &Node) -> Vec<Finding> {
    node.programs.iter().flat_map(|program| of_program(node, program)).collect()
}

fn of_program(node: &Node, program: &Program) -> Vec<Finding> {
    let Some(version) = program.version else { return Vec::new() };
    let all = defects::of_program(&program.name, version);
    let (ours, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.frostlock_helps);
    let (open, mended): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|it| it.fixed_in.is_empty());
    let findings = [
        (!mended.is_empty()).then(|| to_update(program, version, &mended)),
        (!open.is_empty()).then(|| to_watch(program, version, &open)),
        (!ours.is_empty()).then(|| to_wrap(node, program, version, &ours)),
    ];
    findings.into_iter().flatten().collect()
}

fn to_update(program: &Program, version: Version, defects: &[&Defect]) -> Finding {
    let name = &program.name;
    let number = counted(defects);
    let target = defects.iter().filter_map(|it| next(it, version)).max();
    let target = target.map(|it| format!("update {name} to {it} or newer")).unwrap_or_default();
    let finding = Finding::warning(NAME, format!("{name} {version} has {number}"));
    shown(finding, program, defects).so(consequence(name)).remedy(format!(
        "{target}; the distribution's changelog says whether it has mended them already"
    ))
}

fn to_watch(program: &Program, version: Version, defects: &[&Defect]) -> Finding {
    let name = &program.name;
    let finding =
        Finding::note(NAME, format!("{name} {version}, as every newer one, can lose an exit"));
    shown(finding, program, defects)
        .so(consequence(name))
        .remedy("frostctl audit --watch says when it happens, frostctl audit --heal puts it right")
}

fn to_wrap(node: &Node, program: &Program, version: Version, defects: &[&Defect]) -> Finding {
    let title =
        format!("{} {version} has {} that frostlock makes good", program.name, counted(defects));
    let remedy = match node.ours.entries.as_slice() {
        [] => {
            "frostctl configure puts frostlock in front of it, which locks, lifts, retries and undoes"
        }
        _ => "nothing has to be done where frostlock is in front of it",
    };
    shown(Finding::note(NAME, title), program, defects)
        .so(consequence(&program.name))
        .remedy(remedy)
}

fn counted(defects: &[&Defect]) -> String {
    match defects.len() {
        1 => "1 known defect".to_owned(),
        count => format!("{count} known defects"),
    }
}

fn shown(finding: Finding, program: &Program, defects: &[&Defect]) -> Finding {
    let finding = finding.seen(&program.path, &program.said);
    defects.iter().fold(finding, |finding, defect| {
        finding.seen(defect.reference, format!("{} ({})", defect.what, mended(defect)))
    })
}

fn consequence(program: &str) -> &'static str {
    match program {
        "containerd" => {
            "containers whose state is not what kubelet believes; frostctl audit finds those"
        }
        _ => "containers that fail to start, stay frozen, or cannot be deleted",
    }
}

/// In the same line of releases, or else the nearest above.
fn next(defect: &Defect, version: Version) -> Option<Version> {
    defect.fixed_in.iter().copied().filter(|it| *it > version).min()
}

fn mended(defect: &Defect) -> String {
    let versions: Vec<String> = defect.fixed_in.iter().map(ToString::to_string).collect();
    match versions.join(", ") {
        none if none.is_empty() => "not mended in any version".to_owned(),
        all => format!("mended in {all}"),
    }
}
