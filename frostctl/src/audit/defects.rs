//! The known defects that lead into each kind of divergence.

use serde::Serialize;

use super::judge::Kind;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Defect {
    pub(crate) reference: &'static str,
    pub(crate) what: &'static str,
    /// First fixed releases, one for each line that got the fix; none is not fixed.
    pub(crate) fixed_in: &'static [&'static str],
    #[serde(skip)]
    kinds: &'static [Kind],
}

const STALE: &[Kind] = &[Kind::Phantom, Kind::Disagreement];

const DEFECTS: &[Defect] = &[
    Defect {
        reference: "containerd #10589",
        what: "the exit of a container is dropped when it races with an exec, such as a probe",
        fixed_in: &["1.6.36", "1.7.22", "2.0.0"],
        kinds: STALE,
    },
    Defect {
        reference: "containerd #9103",
        what: "the shim locks itself up when a process ends while it is being created",
        fixed_in: &["1.6.25", "1.7.8", "2.0.0"],
        kinds: STALE,
    },
    Defect {
        reference: "containerd #8557",
        what: "exits wait behind one lock that create and start hold",
        fixed_in: &["1.6.22", "1.7.3", "2.0.0"],
        kinds: STALE,
    },
    Defect {
        reference: "containerd #13483",
        what: "the shim's lock is held for as long as runc create takes; meanwhile it cannot say its state",
        fixed_in: &["2.3.2"],
        kinds: STALE,
    },
    Defect {
        reference: "containerd #12678",
        what: "CRI gives the handling of an exit 10 s; when runc delete takes longer, RUNNING stays",
        fixed_in: &[],
        kinds: STALE,
    },
    Defect {
        reference: "containerd #12600",
        what: "a restart of containerd during StopContainer leaves RUNNING, and the shim",
        fixed_in: &[],
        kinds: &[Kind::Phantom, Kind::Disagreement, Kind::Orphan],
    },
    Defect {
        reference: "containerd #8931",
        what: "a delete is given up at 10 s while the shim goes on; the next finds nothing",
        fixed_in: &[],
        kinds: &[Kind::Orphan],
    },
    Defect {
        reference: "containerd #4016",
        what: "runc says that the container does not exist, the shim that it runs: nobody can kill it",
        fixed_in: &[],
        kinds: &[Kind::Disagreement],
    },
    Defect {
        reference: "runc #5325",
        what: "on cgroup v2 a freeze that failed leaves cgroup.freeze at 1",
        fixed_in: &[],
        kinds: &[Kind::FrozenButRunning],
    },
    Defect {
        reference: "crun before 1.29.1",
        what: "an error in kill --all leaves the cgroup frozen",
        fixed_in: &[],
        kinds: &[Kind::FrozenButRunning],
    },
    Defect {
        reference: "runc up to 1.1",
        what: "delete --force returns 0 although processes and cgroups are left, as of a throttled one",
        fixed_in: &[],
        kinds: &[Kind::StoppedButPopulated, Kind::Orphan],
    },
];

/// Those of a kind that this containerd has; all, if its version is not known.
pub(crate) fn of(kind: Kind, containerd: Option<&str>) -> Vec<Defect> {
    let here = containerd.and_then(numbers);
    let is_here = |defect: &&Defect| match here {
        Some(version) if !defect.fixed_in.is_empty() => !is_fixed(version, defect.fixed_in),
        _ => true,
    };
    DEFECTS.iter().filter(|defect| defect.kinds.contains(&kind)).filter(is_here).copied().collect()
}

type Version = (u32, u32, u32);

/// In the release of the same line; lines before the first fixed one have it, those after the last do
/// not.
fn is_fixed(version: Version, fixed_in: &[&str]) -> bool {
    let fixes: Vec<Version> = fixed_in.iter().filter_map(|text| numbers(text)).collect();
    let same_line = fixes.iter().find(|fix| (fix.0, fix.1) == (version.0, version.1));
    match same_line {
        Some(fix) => version >= *fix,
        None => fixes.iter().max().is_some_and(|last| version > *last),
    }
}

/// `v1.7.24`, `1.6.20~ds1`, `2.1.9-rc.1`.
fn numbers(text: &str) -> Option<Version> {
    let text = text.trim_start_matches('v');
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let mut parts = text[..end].split('.').map(str::parse);
    let mut next = || parts.next()?.ok();
    Some((next()?, next()?, next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(version: &str) -> Vec<&'static str> {
        of(Kind::Phantom, Some(version)).iter().map(|defect| defect.reference).collect()
    }

    #[test]
    fn a_version_has_the_defects_that_were_fixed_after_it() {
        assert!(names("1.7.15").contains(&"containerd #10589"));
        assert!(!names("1.7.24~ds1").contains(&"containerd #10589"));
        assert!(names("v1.6.20").contains(&"containerd #8557"));
        assert!(!names("2.1.9").contains(&"containerd #9103"));
        // A line that never got the fix.
        assert!(names("2.1.9").contains(&"containerd #13483"));
        assert!(!names("2.3.2").contains(&"containerd #13483"));
        assert!(names("1.5.0").contains(&"containerd #9103"));
    }

    #[test]
    fn every_kind_has_a_known_cause_and_odd_versions_have_all() {
        for kind in Kind::ALL {
            assert!(!of(kind, None).is_empty(), "{kind:?}");
            assert_eq!(of(kind, Some("nightly")), of(kind, None));
        }
    }
}
