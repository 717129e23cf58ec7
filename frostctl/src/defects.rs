//! Known defects of containerd, runc and crun that end in containers which cannot be frozen, started
//! or deleted, or whose state is not what somebody says. `doctor` names those of the versions that
//! are here, `audit` those that lead into what it has found.
//!
//! Distributions put mends into older versions without a new number; their changelog has the last
//! word.

use serde::Serialize;

use crate::audit::Kind;
use crate::version::Version;

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Defect {
    pub(crate) reference: &'static str,
    pub(crate) what: &'static str,
    /// The first of each line of releases that does not have it; none where it is open.
    pub(crate) fixed_in: &'static [Version],
    #[serde(skip)]
    pub(crate) program: &'static str,
    /// The first of each line that has it.
    #[serde(skip)]
    since: &'static [Version],
    /// The divergences that it leads into.
    #[serde(skip)]
    kinds: &'static [Kind],
    /// Nothing to update away from where frostlock is in front.
    #[serde(skip)]
    pub(crate) frostlock_helps: bool,
}

const STALE: &[Kind] = &[Kind::Phantom, Kind::Disagreement];

const fn v(major: u32, minor: u32, patch: u32) -> Version {
    Version::new(major, minor, patch)
}

const CONTAINERD: Defect = Defect {
    reference: "",
    what: "",
    fixed_in: &[],
    program: "containerd",
    since: &[v(1, 4, 0)],
    kinds: STALE,
    frostlock_helps: false,
};

const RUNC: Defect = Defect {
    program: "runc",
    since: &[v(1, 0, 0)],
    kinds: &[],
    frostlock_helps: false,
    ..CONTAINERD
};

/// What pull request 8617 came with, which put subscriptions in the place of one lock.
const SINCE_8617: &[Version] = &[v(1, 6, 22), v(1, 7, 3)];

const DEFECTS: &[Defect] = &[
    Defect {
        reference: "https://github.com/containerd/containerd/issues/6402",
        what: "a shim that is killed takes the exit of its container with it",
        fixed_in: &[v(1, 6, 1)],
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/pull/8617",
        what: "exits wait behind one lock that create and start hold, and are noticed late",
        fixed_in: &[v(1, 6, 22), v(1, 7, 3), v(2, 0, 0)],
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/pull/9209",
        what: "a process that ends while it is being created can lock up its shim",
        fixed_in: &[v(1, 6, 25), v(1, 7, 8), v(2, 0, 0)],
        since: SINCE_8617,
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/pull/9828",
        what: "the end of the first process is reported before that of an exec, which is then lost",
        fixed_in: &[v(1, 6, 29), v(1, 7, 14), v(2, 0, 0)],
        since: SINCE_8617,
        kinds: &[],
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/pull/9999",
        what: "the end of an exec is lost where many run at once: its caller hangs",
        fixed_in: &[v(1, 6, 31), v(1, 7, 15)],
        since: &[v(1, 6, 29), v(1, 7, 14)],
        kinds: &[],
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/pull/10651",
        what: "the end of the first process is lost when an exec, such as a probe, starts at that moment: the \
               pod is Running without a process, its deletion hangs in Terminating",
        fixed_in: &[v(1, 6, 36), v(1, 7, 22), v(2, 0, 0)],
        since: SINCE_8617,
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/pull/13052",
        what: "a shim that is told to end while a container is deleted can panic: `send on closed channel`",
        fixed_in: &[v(2, 3, 0)],
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/pull/13483",
        what: "the shim cannot say its state while runc create takes; after 2 s the container is torn down",
        fixed_in: &[v(2, 3, 2)],
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/issues/12678",
        what: "CRI gives the handling of an exit 10 s; when runc delete takes longer, RUNNING stays",
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/issues/12600",
        what: "a restart of containerd while it stops a container leaves RUNNING, and the shim",
        kinds: &[Kind::Phantom, Kind::Disagreement, Kind::Orphan],
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/issues/8931",
        what: "a delete is given up at 10 s while the shim goes on; the next finds nothing",
        kinds: &[Kind::Orphan],
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/pull/13544",
        what: "a shim whose listeners are slow gives up on an exit after 1 s: it is noticed late or never",
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/issues/4016",
        what: "runc says that the container does not exist, the shim that it runs: nobody can kill it",
        kinds: &[Kind::Disagreement],
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/kubernetes/kubernetes/issues/104280",
        what: "an update freezes the whole pod, and can leave it frozen for ever",
        fixed_in: &[v(1, 0, 2)],
        kinds: &[Kind::FrozenButRunning],
        ..RUNC
    },
    Defect {
        reference: "https://github.com/opencontainers/runc/issues/3134",
        what: "a delete does not end a container that is frozen on v1: `container init still running`",
        fixed_in: &[v(1, 1, 0)],
        since: &[v(0, 1, 0)],
        ..RUNC
    },
    Defect {
        reference: "https://github.com/opencontainers/runc/issues/3803",
        what: "an update goes on although the freeze before it failed: device rules are half set, \
               `permission denied` in the container",
        fixed_in: &[v(1, 1, 8)],
        ..RUNC
    },
    Defect {
        reference: "https://github.com/kubernetes/kubernetes/issues/131087",
        what: "a freeze that fails on v1 ends a create or an update: `unable to freeze`",
        since: &[v(1, 1, 8)],
        frostlock_helps: true,
        ..RUNC
    },
    Defect {
        reference: "https://github.com/opencontainers/runc/issues/5325",
        what: "a pause that is killed, or on v2 times out, leaves the container frozen",
        kinds: &[Kind::FrozenButRunning],
        frostlock_helps: true,
        ..RUNC
    },
    Defect {
        reference: "https://github.com/opencontainers/runc/blob/v1.1.15/delete.go",
        what: "delete --force returns 0 although processes and cgroups are left, as of a throttled one",
        fixed_in: &[v(1, 2, 0)],
        kinds: &[Kind::StoppedButPopulated, Kind::Orphan],
        frostlock_helps: true,
        ..RUNC
    },
    Defect {
        reference: "https://github.com/containers/crun/releases/tag/1.29.1",
        what: "an error in kill --all leaves the cgroup frozen",
        fixed_in: &[v(1, 29, 1)],
        program: "crun",
        since: &[v(0, 1, 0)],
        kinds: &[Kind::FrozenButRunning],
        frostlock_helps: true,
    },
];

impl Defect {
    fn is_in(&self, version: Version) -> bool {
        is_at_least(version, self.since) == Some(true)
            && !is_at_least(version, self.fixed_in).unwrap_or(false)
    }
}

/// At or after the first of its own line of releases; a line that is not there counts by the last
/// one that is. None if there is none at all.
fn is_at_least(version: Version, firsts: &[Version]) -> Option<bool> {
    let own = firsts.iter().find(|first| first.is_of_the_line_of(version));
    own.or(firsts.iter().max()).map(|first| version >= *first)
}

/// Of the program of this name in this version.
pub(crate) fn of_program(program: &str, version: Version) -> Vec<&'static Defect> {
    let all = DEFECTS.iter().filter(|defect| defect.program == program);
    all.filter(|defect| defect.is_in(version)).collect()
}

/// Those that lead into a divergence, of this containerd and of any runtime; all, if containerd's
/// version is not known.
pub(crate) fn of_kind(kind: Kind, containerd: Option<&str>) -> Vec<&'static Defect> {
    let here = containerd.and_then(Version::find);
    let is_here = |defect: &&Defect| match here {
        Some(version) if defect.program == "containerd" => defect.is_in(version),
        _ => true,
    };
    DEFECTS.iter().filter(|defect| defect.kinds.contains(&kind)).filter(is_here).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(said: &str, number: &str) -> bool {
        let program = said.split(' ').next().unwrap();
        let all = of_program(program, Version::find(said).unwrap());
        all.iter().any(|defect| defect.reference.ends_with(number))
    }

    #[test]
    fn a_line_of_releases_is_mended_by_its_own_version() {
        let cases = [
            ("containerd v1.7.21", "/10651", true),
            ("containerd 1.7.24~ds1", "/10651", false),
            ("containerd v1.6.35", "/10651", true),
            ("containerd v1.6.36", "/10651", false),
            ("containerd v1.7.2", "/10651", false),
            ("containerd v1.5.18", "/10651", false),
            ("containerd v1.7.2", "/8617", true),
            ("containerd v1.5.18", "/8617", true),
            ("containerd v1.7.13", "/9999", false),
            ("containerd v1.7.14", "/9999", true),
            ("containerd v1.6.30", "/9999", true),
            ("containerd v2.0.0", "/9999", false),
            ("containerd v2.1.9", "/9209", false),
            ("containerd v2.1.9", "/13483", true),
            ("containerd v2.3.2", "/13483", false),
            ("containerd v2.4.0", "/12678", true),
            ("containerd v1.6.0", "/6402", true),
            ("containerd v1.7.0", "/6402", false),
            ("runc 1.1.5", "/131087", false),
            ("runc 1.1.15", "/131087", true),
            ("runc 1.1.5", "/3803", true),
            ("runc 1.0.0-rc93", "/3134", true),
            ("runc 1.0.0-rc93", "/104280", false),
            ("runc 1.3.6", "/delete.go", false),
            ("crun 1.21", "/1.29.1", true),
            ("crun 1.29.1", "/1.29.1", false),
        ];
        for (said, number, is_in) in cases {
            assert_eq!(has(said, number), is_in, "{said} {number}");
        }
    }

    #[test]
    fn every_kind_has_a_known_cause_and_odd_versions_have_all() {
        for kind in Kind::ALL {
            assert!(!of_kind(kind, None).is_empty(), "{kind:?}");
            assert_eq!(of_kind(kind, Some("nightly")), of_kind(kind, None));
        }
    }

    #[test]
    fn a_divergence_names_no_defect_that_is_mended_here() {
        let names = |version| {
            let all = of_kind(Kind::Phantom, Some(version));
            all.iter().map(|defect| defect.reference).collect::<Vec<_>>().join(" ")
        };
        assert!(names("v1.6.20").contains("/8617") && names("1.7.15").contains("/10651"));
        assert!(!names("1.7.24~ds1").contains("/10651"));
    }
}
