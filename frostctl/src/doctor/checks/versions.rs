//! Defects that end in a container whose state is not what its runtime says. Distributions put
//! mends into older versions without a new number; their changelog has the last word.

use super::super::finding::Finding;
use super::super::node::Node;
use super::super::programs::{Program, Version};

const NAME: &str = "versions";

struct Defect {
    program: &'static str,
    /// The first that has it.
    since: Version,
    /// The first of each line of releases that does not; none where there is none yet.
    fixed: &'static [Version],
    what: &'static str,
    source: &'static str,
}

const fn v(major: u32, minor: u32, patch: u32) -> Version {
    Version::new(major, minor, patch)
}

const DEFECTS: &[Defect] = &[
    Defect {
        program: "containerd",
        since: v(1, 4, 0),
        fixed: &[v(1, 6, 22), v(1, 7, 3), v(2, 0, 0)],
        what: "one lock around create, start and exits: exits are noticed late",
        source: "https://github.com/containerd/containerd/pull/8617",
    },
    Defect {
        program: "containerd",
        since: v(1, 6, 22),
        fixed: &[v(1, 6, 25), v(1, 7, 8), v(2, 0, 0)],
        what: "a process that ends during create can lock up its shim",
        source: "https://github.com/containerd/containerd/pull/9209",
    },
    Defect {
        program: "containerd",
        since: v(1, 6, 22),
        fixed: &[v(1, 6, 29), v(1, 7, 14), v(2, 0, 0)],
        what: "the end of the first process is reported before that of an exec, which is then lost",
        source: "https://github.com/containerd/containerd/pull/9828",
    },
    Defect {
        program: "containerd",
        since: v(1, 6, 22),
        fixed: &[v(1, 6, 36), v(1, 7, 22), v(2, 0, 0)],
        what: "the end of the first process is lost when an exec starts at that moment: the pod is Running \
               without a process, its deletion hangs in Terminating",
        source: "https://github.com/containerd/containerd/pull/10651",
    },
    Defect {
        program: "containerd",
        since: v(1, 4, 0),
        fixed: &[v(2, 3, 2)],
        what: "a create that takes longer than 2 s is torn down when its state is asked for",
        source: "https://github.com/containerd/containerd/pull/13483",
    },
    Defect {
        program: "runc",
        since: v(1, 0, 0),
        fixed: &[v(1, 0, 2)],
        what: "an update freezes the whole pod, and can leave it frozen for ever",
        source: "https://github.com/kubernetes/kubernetes/issues/104280",
    },
    Defect {
        program: "runc",
        since: v(0, 1, 0),
        fixed: &[v(1, 1, 0)],
        what: "a delete does not end a container that is frozen on v1: `container init still running`",
        source: "https://github.com/opencontainers/runc/issues/3134",
    },
    Defect {
        program: "runc",
        since: v(1, 0, 0),
        fixed: &[v(1, 1, 8)],
        what: "an update goes on although the freeze before it failed: device rules are half set, \
               `permission denied` in the container",
        source: "https://github.com/opencontainers/runc/issues/3803",
    },
];

/// What is so in every newer version as well. It is no defect to update away from, and what
/// frostlock is for.
const LASTING: &[Defect] = &[
    Defect {
        program: "runc",
        since: v(1, 1, 8),
        fixed: &[],
        what: "a freeze that fails on v1 ends a create or an update: `unable to freeze`",
        source: "https://github.com/kubernetes/kubernetes/issues/131087",
    },
    Defect {
        program: "runc",
        since: v(1, 0, 0),
        fixed: &[],
        what: "a pause that is killed, or on v2 times out, leaves the container frozen",
        source: "https://github.com/opencontainers/runc/issues/5325",
    },
];

impl Defect {
    fn is_in(&self, version: Version) -> bool {
        if version < self.since {
            return false;
        }
        let same = |it: &&Version| it.numbers[..2] == version.numbers[..2];
        match self.fixed.iter().find(same) {
            Some(fixed) => version < *fixed,
            // A line that never got it, older than the last that did.
            None => self.fixed.iter().max().is_none_or(|last| version < *last),
        }
    }
}

pub(super) fn check(node: &Node) -> Vec<Finding> {
    let programs = node.programs.iter();
    programs.flat_map(|it| known(it).into_iter().chain(lasting(node, it))).collect()
}

fn found<'a>(program: &Program, all: &'a [Defect]) -> Vec<&'a Defect> {
    let Some(version) = program.version else { return Vec::new() };
    all.iter().filter(|it| it.program == program.name && it.is_in(version)).collect()
}

fn known(program: &Program) -> Option<Finding> {
    let defects = found(program, DEFECTS);
    let version = program.version.filter(|_| !defects.is_empty())?;
    let (name, count) = (&program.name, defects.len());
    let plural = if count == 1 { "defect" } else { "defects" };
    let mut finding =
        Finding::warning(NAME, format!("{name} {version} has {count} known {plural}"))
            .seen(&program.path, &program.said);
    for defect in &defects {
        finding = finding.seen(defect.source, format!("{} ({})", defect.what, mended(defect)));
    }
    let targets = defects.iter().filter_map(|it| next(it, version)).max();
    let target = targets.map(|it| format!("update {name} to {it} or newer")).unwrap_or_default();
    Some(finding.so(consequence(name)).remedy(format!(
        "{target}; the distribution's changelog says whether it has mended them already"
    )))
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
    defect.fixed.iter().copied().filter(|it| *it > version).min()
}

fn mended(defect: &Defect) -> String {
    let versions: Vec<String> = defect.fixed.iter().map(ToString::to_string).collect();
    format!("mended in {}", versions.join(", "))
}

fn lasting(node: &Node, program: &Program) -> Option<Finding> {
    let defects = found(program, LASTING);
    let version = program.version.filter(|_| !defects.is_empty())?;
    let mut finding = Finding::note(
        NAME,
        format!("{} {version}, as every newer one, can fail to freeze", program.name),
    )
    .seen(&program.path, &program.said);
    for defect in defects {
        finding = finding.seen(defect.source, defect.what);
    }
    let remedy = match node.ours.entries.as_slice() {
        [] => {
            "frostctl configure puts frostlock in front of it, which locks, refills, retries and undoes"
        }
        _ => "nothing has to be done where frostlock is in front of it",
    };
    Some(
        finding
            .so("creates, updates and pauses of busy pods with a small CPU quota fail")
            .remedy(remedy),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(said: &str) -> usize {
        let name = said.split(' ').next().unwrap().to_owned();
        let version = Version::find(said);
        found(&Program { name, path: "/x".into(), said: said.to_owned(), version }, DEFECTS).len()
    }

    #[test]
    fn a_line_of_releases_is_mended_by_its_own_version() {
        assert_eq!(count("containerd x v1.7.22"), 1, "the one that only 2.3.2 mends");
        assert_eq!(count("containerd x v1.7.21"), 2);
        assert_eq!(count("containerd x v1.6.36"), 1);
        assert_eq!(count("containerd x v1.5.18"), 2, "a line that never got it");
        assert_eq!(count("containerd x v2.3.2"), 0);
        assert_eq!(count("containerd x v2.4.0"), 0);
        assert_eq!(count("runc version 1.1.15"), 0);
        assert_eq!(count("runc version 1.1.5"), 1);
        assert_eq!(count("runc version 1.0.0-rc93"), 1);
    }
}
