//! Known defects of the versions in use here, and versions that are out of support.

use time::{Date, OffsetDateTime};

use super::super::finding::Finding;
use super::super::node::Node;
use super::super::programs::Program;
use crate::defects::{self, Defect};
use crate::version::Version;

/// Only notes: a distribution may have fixed a defect in its own package, and nobody looks at a
/// check that always fails.
pub(super) fn check(node: &Node) -> Vec<Finding> {
    let today = OffsetDateTime::now_utc().date();
    let mut findings: Vec<Finding> =
        node.programs.iter().flat_map(|program| of_program(node, program, today)).collect();
    if node.programs.is_empty() && !node.containerds.is_empty() {
        findings.push(
            Finding::not_checked("no program said its version")
                .seen("/versions", "is not there; on a live node: neither containerd nor a runtime \
                       was found")
                .remedy("record what `containerd --version` and `runc --version` print (docs/doctor.md)"),
        );
    }
    findings
}

/// Programs whose defects or support periods we know.
const KNOWN: &[&str] = &["containerd", "runc", "crun", "kubelet", "Kubernetes"];

fn of_program(node: &Node, program: &Program, today: Date) -> Vec<Finding> {
    let Some(version) = program.version else {
        let is_known = KNOWN.contains(&program.name.as_str());
        let unsaid = match &program.refused {
            Some(why) => Some(refused(program, why)),
            None => is_known.then(|| unsaid(program)),
        };
        return unsaid.into_iter().collect();
    };
    let all = defects::of_program(&program.name, version);
    let (ours, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.frostlock_helps);
    let (open, mended): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|it| it.fixed_in.is_empty());
    let findings = [
        (!mended.is_empty()).then(|| to_update(program, version, &mended)),
        (!open.is_empty()).then(|| to_watch(program, version, &open)),
        (!ours.is_empty()).then(|| to_wrap(node, program, version, &ours)),
        out_of_support(program, version, today),
    ];
    findings.into_iter().flatten().collect()
}

fn unsaid(program: &Program) -> Finding {
    Finding::not_checked(format!("{} did not say its version", program.name))
        .seen(&program.path, "no version in what --version prints, or no answer within 2 s")
        .remedy(format!("run it by hand: {} --version", program.path.display()))
}

fn refused(program: &Program, why: &str) -> Finding {
    Finding::not_checked(format!("{} was not asked for its version", program.name))
        .seen(&program.path, why)
        .remedy("let only root write it and the directories above it")
}

fn out_of_support(program: &Program, version: Version, today: Date) -> Option<Finding> {
    let (line, is_own) = defects::out_of_support(&program.name, version, today)?;
    let name = &program.name;
    let until = if is_own { format!("on {}", line.ends) } else { format!("before {}", line.ends) };
    Some(
        Finding::note(format!("the support of {name} {version} by its project ended {until}"))
            .seen(&program.path, &program.said)
            .seen(line.source, "the end of each line of releases")
            .so("its project mends nothing in it any more; a distribution may")
            .remedy(format!(
                "update {name}, or see how long the distribution supports its package"
            )),
    )
}

fn to_update(program: &Program, version: Version, defects: &[&Defect]) -> Finding {
    let name = &program.name;
    let number = counted(defects);
    let target = clear_of_all(defects, version)
        .map(|it| format!("update {name} to {it} or newer"))
        .unwrap_or_default();
    let finding = Finding::note(format!("{name} {version} has {number}"));
    shown(finding, program, defects).so(consequence(name)).remedy(format!(
        "{target}; the distribution's changelog says whether it has mended them already"
    ))
}

fn to_watch(program: &Program, version: Version, defects: &[&Defect]) -> Finding {
    let name = &program.name;
    let finding =
        Finding::note(format!("{name} {version}, like every newer one, can lose an exit"));
    shown(finding, program, defects)
        .so(consequence(name))
        .remedy("frostctl audit --watch says when it happens, frostctl audit --heal puts it right")
}

fn to_wrap(node: &Node, program: &Program, version: Version, defects: &[&Defect]) -> Finding {
    let title =
        format!("{} {version} has {} that frostlock works around", program.name, counted(defects));
    let remedy = match node.ours.entries.as_slice() {
        [] => {
            "frostctl configure puts frostlock in front of it, which locks, lifts, retries and undoes"
        }
        _ => "nothing has to be done where frostlock is in front of it",
    };
    shown(Finding::note(title), program, defects).so(consequence(&program.name)).remedy(remedy)
}

fn counted(defects: &[&Defect]) -> String {
    match defects.len() {
        1 => "1 known defect".to_owned(),
        count => format!("{count} known defects"),
    }
}

fn shown(finding: Finding, program: &Program, defects: &[&Defect]) -> Finding {
    let seen =
        |defect: &&Defect| (defect.reference, format!("{} ({})", defect.what, mended(defect)));
    finding.seen(&program.path, &program.said).seen_all(defects.iter().map(seen))
}

fn consequence(program: &str) -> &'static str {
    match program {
        "containerd" => {
            "containers whose state is not what kubelet believes; frostctl audit finds those"
        }
        _ => "containers that fail to start, stay frozen, or cannot be deleted",
    }
}

/// The next version with none of the defects: the release that fixes one may precede that of
/// another.
fn clear_of_all(defects: &[&Defect], version: Version) -> Option<Version> {
    let mended = defects.iter().flat_map(|it| it.fixed_in).copied().filter(|it| *it > version);
    mended.filter(|it| !defects.iter().any(|defect| defect.is_in(*it))).min()
}

fn mended(defect: &Defect) -> String {
    let versions: Vec<String> = defect.fixed_in.iter().map(ToString::to_string).collect();
    match versions.join(", ") {
        none if none.is_empty() => "not mended in any version".to_owned(),
        all => format!("mended in {all}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_to_update_to_has_none_of_the_defects() {
        for (said, expected) in
            [("1.7.24", "2.3.5"), ("2.2.7", "2.3.5"), ("2.3.2", "2.3.5"), ("1.6.20", "2.3.5")]
        {
            let version = Version::find(said).unwrap();
            let all = defects::of_program("containerd", version);
            let mended: Vec<_> = all.into_iter().filter(|it| !it.fixed_in.is_empty()).collect();
            let target = clear_of_all(&mended, version).unwrap();
            assert_eq!(target.to_string(), expected, "{said}");
        }
    }
}
