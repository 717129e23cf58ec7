//! Known defects of containerd, runc and crun that lead to containers that cannot be frozen,
//! started or deleted, or whose state is reported wrongly. `doctor` names the defects of the
//! installed versions, `audit` those that may have caused a divergence.
//!
//! Distributions backport fixes to older versions without a new version number; their changelog has
//! the last word.

use serde::Serialize;
use time::{Date, Month};

use crate::audit::Kind;
use crate::version::Version;

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Defect {
    pub(crate) reference: &'static str,
    pub(crate) what: &'static str,
    /// The first release of each line without the defect; empty while it is not fixed.
    pub(crate) fixed_in: &'static [Version],
    #[serde(skip)]
    pub(crate) program: &'static str,
    /// The first release of each line with the defect.
    #[serde(skip)]
    since: &'static [Version],
    /// The divergences that it may cause, and what else is seen with them.
    #[serde(skip)]
    kinds: &'static [Kind],
    #[serde(skip)]
    sign: Sign,
    /// With frostlock in front, there is no reason to update because of it.
    #[serde(skip)]
    pub(crate) frostlock_helps: bool,
}

/// What is known of a divergence besides its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Symptom {
    pub(crate) kind: Kind,
    /// Of the containerd that has the container; `None` for another engine, or if not known.
    pub(crate) containerd: Option<Version>,
    pub(crate) runtime: Option<(String, Version)>,
    pub(crate) shim: Shim,
    pub(crate) only_cri_says_so: bool,
    /// Whether the runtime still has a state of the container.
    pub(crate) has_state: bool,
}

/// The shim or conmon that must notice an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shim {
    Alive,
    /// Stopped by a signal: that is the cause, not a defect.
    Stopped,
    Gone,
}

/// What a divergence must show besides its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Any,
    ShimAlive,
    ShimGone,
    OnlyCri,
    /// A delete has succeeded.
    NoState,
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
    sign: Sign::ShimAlive,
    frostlock_helps: false,
};

const RUNC: Defect =
    Defect { program: "runc", since: &[v(1, 0, 0)], kinds: &[], sign: Sign::Any, ..CONTAINERD };

/// The releases with pull request 8617, which replaced one lock by subscriptions.
const SINCE_8617: &[Version] = &[v(1, 6, 22), v(1, 7, 3)];

const DEFECTS: &[Defect] = &[
    Defect {
        reference: "https://github.com/containerd/containerd/issues/6402",
        what: "a shim that is killed takes the exit of its container with it",
        fixed_in: &[v(1, 6, 1)],
        sign: Sign::ShimGone,
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
        sign: Sign::ShimGone,
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/pull/13483",
        what: "the shim holds a lock over runc create and cannot say its state meanwhile; after 2 s the \
               container is torn down",
        fixed_in: &[v(2, 3, 2)],
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/security/advisories/GHSA-7jxh-36q5-gcqv",
        what: "CVE-2026-53495: an exec probe that leaves a process behind leaks goroutines of containerd's, \
               until it is out of memory",
        fixed_in: &[v(1, 7, 35), v(2, 0, 12), v(2, 2, 8), v(2, 3, 5)],
        kinds: &[],
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/issues/12678",
        what: "CRI gives the handling of an exit 10 s; when runc delete takes longer, the container \
               stays RUNNING",
        sign: Sign::OnlyCri,
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/issues/12600",
        what: "a restart of containerd while it stops a container leaves the container RUNNING, and \
               its shim",
        kinds: &[Kind::Phantom, Kind::Disagreement, Kind::Orphan],
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/issues/8931",
        what: "containerd gives up a delete at 10 s while the shim goes on with it; the next delete \
               finds nothing",
        kinds: &[Kind::Orphan],
        sign: Sign::Any,
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/pull/13544",
        what: "a shim whose listeners are slow gives up on an exit after 1 s: the exit is noticed \
               late or never",
        ..CONTAINERD
    },
    Defect {
        reference: "https://github.com/containerd/containerd/issues/4016",
        what: "runc says that the container does not exist, the shim says that it runs: nobody can \
               kill it",
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
        what: "delete --force returns 0 although processes and cgroups are left, as of a throttled \
               container",
        fixed_in: &[v(1, 2, 0)],
        kinds: &[Kind::StoppedButPopulated, Kind::Orphan],
        sign: Sign::NoState,
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
        ..RUNC
    },
];

/// A line of releases, and the last day on which its project fixes it.
#[derive(Debug)]
pub(crate) struct Line {
    program: &'static str,
    first: Version,
    pub(crate) ends: Date,
    pub(crate) source: &'static str,
}

const CONTAINERD_RELEASES: &str = "https://containerd.io/releases/";
const RUNC_RELEASES: &str = "https://github.com/opencontainers/runc/blob/main/RELEASES.md";
const KUBERNETES_RELEASES: &str = "https://kubernetes.io/releases/";

/// By line, oldest first. A line older than its program's first one here is out of support, too; a
/// newer line that is missing here is not judged.
const LINES: &[Line] = &[
    line("containerd", v(1, 6, 0), (2025, Month::August, 23), CONTAINERD_RELEASES),
    line("containerd", v(1, 7, 0), (2026, Month::September, 30), CONTAINERD_RELEASES),
    line("containerd", v(2, 0, 0), (2025, Month::November, 7), CONTAINERD_RELEASES),
    line("containerd", v(2, 1, 0), (2026, Month::July, 31), CONTAINERD_RELEASES),
    line("containerd", v(2, 2, 0), (2026, Month::November, 6), CONTAINERD_RELEASES),
    line("containerd", v(2, 3, 0), (2028, Month::April, 30), CONTAINERD_RELEASES),
    line("runc", v(1, 3, 0), (2026, Month::October, 31), RUNC_RELEASES),
    line("Kubernetes", v(1, 33, 0), (2026, Month::June, 28), KUBERNETES_RELEASES),
];

#[allow(clippy::panic, reason = "at compile time")]
const fn line(
    program: &'static str,
    first: Version,
    (year, month, day): (i32, Month, u8),
    source: &'static str,
) -> Line {
    let Ok(ends) = Date::from_calendar_date(year, month, day) else { panic!("no such day") };
    Line { program, first, ends, source }
}

/// The line that had ended before this day, and whether it is the version's own or a newer one.
pub(crate) fn out_of_support(
    program: &str,
    version: Version,
    today: Date,
) -> Option<(&'static Line, bool)> {
    let mut lines = LINES.iter().filter(|line| line.program == program);
    let own = lines.clone().find(|line| line.first.is_of_the_line_of(version));
    if let Some(own) = own {
        return (own.ends < today).then_some((own, true));
    }
    lines
        .next()
        .filter(|oldest| version < oldest.first && oldest.ends < today)
        .map(|it| (it, false))
}

impl Defect {
    pub(crate) fn is_in(&self, version: Version) -> bool {
        is_at_least(version, self.since) == Some(true)
            && !is_at_least(version, self.fixed_in).unwrap_or(false)
    }
}

/// Whether the version is at or after the first release of its line; if its line is missing, the
/// last first release counts. `None` if there are none at all.
fn is_at_least(version: Version, firsts: &[Version]) -> Option<bool> {
    let own = firsts.iter().find(|first| first.is_of_the_line_of(version));
    own.or(firsts.iter().max()).map(|first| version >= *first)
}

/// The defects of this program in this version.
pub(crate) fn of_program(program: &str, version: Version) -> Vec<&'static Defect> {
    let all = DEFECTS.iter().filter(|defect| defect.program == program);
    all.filter(|defect| defect.is_in(version)).collect()
}

impl Symptom {
    fn shows(&self, sign: Sign) -> bool {
        match sign {
            Sign::Any => true,
            Sign::ShimAlive => self.shim == Shim::Alive,
            Sign::ShimGone => self.shim == Shim::Gone,
            Sign::OnlyCri => self.only_cri_says_so,
            Sign::NoState => !self.has_state,
        }
    }

    fn version_of(&self, program: &str) -> Option<Version> {
        let runtime = self.runtime.as_ref().filter(|(name, _)| name == program);
        match program {
            "containerd" => self.containerd.filter(|_| self.shim != Shim::Stopped),
            _ => runtime.map(|(_, version)| *version),
        }
    }
}

/// The installed versions' defects that may have caused the symptom. For an unknown version none is
/// named: it would be a guess.
pub(crate) fn of_symptom(symptom: &Symptom) -> Vec<&'static Defect> {
    let fits = |defect: &&Defect| {
        let version = symptom.version_of(defect.program);
        defect.kinds.contains(&symptom.kind)
            && symptom.shows(defect.sign)
            && version.is_some_and(|it| defect.is_in(it))
    };
    DEFECTS.iter().filter(fits).collect()
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
            ("containerd v2.3.1", "/13483", true),
            ("containerd v2.4.2", "/13483", false),
            ("containerd v1.7.34", "/GHSA-7jxh-36q5-gcqv", true),
            ("containerd v1.7.35", "/GHSA-7jxh-36q5-gcqv", false),
            ("containerd v2.0.11", "/GHSA-7jxh-36q5-gcqv", true),
            ("containerd v2.0.12", "/GHSA-7jxh-36q5-gcqv", false),
            ("containerd v2.2.7", "/GHSA-7jxh-36q5-gcqv", true),
            ("containerd v2.2.8", "/GHSA-7jxh-36q5-gcqv", false),
            ("containerd v2.3.4", "/GHSA-7jxh-36q5-gcqv", true),
            ("containerd v2.3.5", "/GHSA-7jxh-36q5-gcqv", false),
            ("containerd v2.3.5-rc.1", "/GHSA-7jxh-36q5-gcqv", true),
            // These two lines had ended before.
            ("containerd 1.6.39", "/GHSA-7jxh-36q5-gcqv", true),
            ("containerd v2.1.9", "/GHSA-7jxh-36q5-gcqv", true),
            ("containerd v2.4.0", "/GHSA-7jxh-36q5-gcqv", false),
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
    fn a_line_of_releases_is_in_support_up_to_its_last_day() {
        let on = |year, month, day| Date::from_calendar_date(year, month, day).unwrap();
        let now = on(2026, Month::November, 28);
        // The version's own line, or older than any known one.
        let cases = [
            ("containerd 1.5.18", now, Some(false)),
            ("containerd 1.6.20~ds1", now, Some(true)),
            ("containerd 1.7.35", now, Some(true)),
            ("containerd 1.7.35", on(2026, Month::September, 30), None),
            ("containerd 1.7.35", on(2026, Month::October, 1), Some(true)),
            ("containerd v2.0.12", now, Some(true)),
            ("containerd v2.1.9", now, Some(true)),
            ("containerd v2.2.8", on(2026, Month::November, 6), None),
            ("containerd v2.2.8", on(2026, Month::November, 7), Some(true)),
            ("containerd v2.3.7", now, None),
            ("containerd v2.3.7", on(2028, Month::May, 1), Some(true)),
            ("containerd v2.4.2", now, None),
            ("runc 1.1.15", now, Some(false)),
            ("runc 1.2.9", on(2026, Month::October, 31), None),
            ("runc 1.3.7", on(2026, Month::October, 31), None),
            ("runc 1.3.7", now, Some(true)),
            ("runc 1.4.4", now, None),
            ("runc 1.6.0-rc.1", now, None),
            ("Kubernetes v1.33.9", now, Some(true)),
            ("Kubernetes v1.34.0", now, None),
            ("crun 1.8.1", now, None),
        ];
        for (said, today, expected) in cases {
            let program = said.split(' ').next().unwrap();
            let found = out_of_support(program, Version::find(said).unwrap(), today);
            assert_eq!(found.map(|(_, is_own)| is_own), expected, "{said} {today}");
        }
    }

    fn phantom(containerd: &str) -> Symptom {
        Symptom {
            kind: Kind::Phantom,
            containerd: Version::find(containerd),
            runtime: Version::find("1.3.6").map(|it| ("runc".to_owned(), it)),
            shim: Shim::Alive,
            only_cri_says_so: false,
            has_state: true,
        }
    }

    fn named(symptom: &Symptom) -> String {
        let all = of_symptom(symptom);
        all.iter().map(|defect| defect.reference).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_divergence_names_no_defect_that_is_mended_here() {
        let names = |version| named(&phantom(version));
        assert!(names("v1.6.20").contains("/8617") && names("1.7.15").contains("/10651"));
        assert!(!names("1.7.24~ds1").contains("/10651"));
    }

    #[test]
    fn a_version_that_is_not_known_has_no_defect_and_neither_has_a_stopped_shim() {
        for kind in Kind::ALL {
            let unknown = Symptom { kind, runtime: None, ..phantom("nightly") };
            assert_eq!(named(&unknown), "", "{kind:?}");
        }
        let stopped = Symptom { shim: Shim::Stopped, ..phantom("1.7.15") };
        assert_eq!(named(&stopped), "");
        // For another runtime than the one with the defect.
        let frozen = |name: &str, version: &str| Symptom {
            kind: Kind::FrozenButRunning,
            runtime: Version::find(version).map(|it| (name.to_owned(), it)),
            ..phantom("1.7.24")
        };
        assert!(named(&frozen("runc", "1.1.15")).ends_with("/5325"));
        assert!(named(&frozen("runc", "1.0.1")).contains("/104280"));
        assert!(named(&frozen("crun", "1.21")).ends_with("/1.29.1"));
        assert_eq!(named(&frozen("crun", "1.29.1")), "");
        assert_eq!(named(&frozen("youki", "0.5.0")), "");
    }

    #[test]
    fn a_defect_is_named_only_where_what_it_does_is_seen() {
        let phantom = || phantom("1.6.0");
        let gone = Symptom { shim: Shim::Gone, ..phantom() };
        assert!(named(&gone).contains("/6402") && !named(&phantom()).contains("/6402"));
        assert!(!named(&gone).contains("/8617"));
        let only_cri = Symptom { only_cri_says_so: true, ..phantom() };
        assert!(named(&only_cri).contains("/12678") && !named(&phantom()).contains("/12678"));
        let left = |has_state| Symptom {
            kind: Kind::StoppedButPopulated,
            runtime: Version::find("1.1.15").map(|it| ("runc".to_owned(), it)),
            has_state,
            ..phantom()
        };
        assert!(named(&left(false)).ends_with("/delete.go") && named(&left(true)).is_empty());
    }
}
