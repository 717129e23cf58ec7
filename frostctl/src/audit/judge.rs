//! What does not agree. Pure: claims and truth in, divergences out.

use cgroup::Freezer;
use serde::Serialize;

use super::claim::{
    Asked, Claim, Container, Fate, Missed, Owner, Seen, Source, Status, Supervisor,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A source says that the container runs, but its process is gone.
    Phantom,
    /// Processes of a container that no engine has.
    Orphan,
    /// A source says that the container runs, but it is frozen and nobody has paused it.
    FrozenButRunning,
    /// Every source says that the container has ended, but its cgroup has processes.
    StoppedButPopulated,
    /// Runtime, containerd and CRI contradict each other.
    Disagreement,
    /// The container lives, but its shim or conmon is stopped: nobody would notice its end.
    StoppedSupervisor,
    /// An engine is there but does not answer: nothing is known of its containers.
    Unanswered,
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] = [
        Kind::Phantom,
        Kind::Orphan,
        Kind::FrozenButRunning,
        Kind::StoppedButPopulated,
        Kind::Disagreement,
        Kind::StoppedSupervisor,
        Kind::Unanswered,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Phantom => "phantom",
            Kind::Orphan => "orphan",
            Kind::FrozenButRunning => "frozen-but-running",
            Kind::StoppedButPopulated => "stopped-but-populated",
            Kind::Disagreement => "disagreement",
            Kind::StoppedSupervisor => "stopped-supervisor",
            Kind::Unanswered => "unanswered",
        }
    }
}

/// What a divergence is about.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    Container(Box<Container>),
    Engine(Box<Asked>),
}

#[derive(Debug, Clone)]
pub(crate) struct Divergence {
    pub(crate) kind: Kind,
    pub(crate) subject: Subject,
}

/// Recognizes the same divergence at another time.
pub(crate) type Key = (Kind, Option<Owner>, String);

impl Divergence {
    pub(crate) fn id(&self) -> &str {
        match &self.subject {
            Subject::Container(container) => &container.id,
            Subject::Engine(asked) => &asked.place,
        }
    }

    pub(crate) fn key(&self) -> Key {
        let owner = self.container().map(|container| container.owner.clone());
        (self.kind, owner, self.id().to_owned())
    }

    pub(crate) fn container(&self) -> Option<&Container> {
        match &self.subject {
            Subject::Container(container) => Some(container),
            Subject::Engine(_) => None,
        }
    }

    /// `namespace/pod/container` in Kubernetes.
    pub(crate) fn name(&self) -> Option<&str> {
        self.container()?.name.as_deref()
    }

    pub(crate) fn supervisor(&self) -> Option<&Supervisor> {
        self.container()?.truth.supervisor.as_ref()
    }
}

pub(crate) fn judge(seen: &Seen) -> Vec<Divergence> {
    let containers = seen.containers.iter().filter_map(|it| Some((of_container(it, seen)?, it)));
    let strays = seen.strays.iter().filter(|stray| is_orphan(stray, seen));
    let strays = strays.map(|stray| (Kind::Orphan, stray));
    let containers = containers.chain(strays).map(|(kind, container)| Divergence {
        kind,
        subject: Subject::Container(Box::new(container.clone())),
    });
    let silent = seen.asked.iter().filter(|asked| is_unanswered(asked)).map(|asked| Divergence {
        kind: Kind::Unanswered,
        subject: Subject::Engine(Box::new(asked.clone())),
    });
    let mut found: Vec<_> = containers.chain(silent).collect();
    found.sort_by_key(Divergence::key);
    found
}

/// A container has at most one divergence: the gravest.
fn of_container(container: &Container, seen: &Seen) -> Option<Kind> {
    let checks = [
        (Kind::Phantom, is_phantom(container)),
        (Kind::Orphan, is_disowned(container, seen)),
        (Kind::FrozenButRunning, is_frozen_but_running(container)),
        (Kind::StoppedSupervisor, has_a_stopped_supervisor(container)),
        (Kind::StoppedButPopulated, is_stopped_but_populated(container)),
        (Kind::Disagreement, disagree(container, seen)),
    ];
    checks.into_iter().find_map(|(kind, holds)| holds.then_some(kind))
}

fn is_phantom(container: &Container) -> bool {
    let is_claimed = container.claims.iter().any(|claim| claim.status.needs_process());
    is_claimed && container.truth.fate.is_dead()
}

/// The runtime has the container alive, but the engine that must have started it does not know it.
/// A container that is only created may not be on the engine's list yet.
fn is_disowned(container: &Container, seen: &Seen) -> bool {
    let runs = matches!(container.status(Source::Runtime), Some(Status::Running | Status::Paused));
    let is_known = container.managers().next().is_some();
    let by_whom = container.owner != Owner::Nobody && seen.complete.contains(&container.owner);
    runs && container.is_in_use()
        && !is_known
        && by_whom
        && was_asked(container.truth.supervisor.as_ref(), seen)
}

/// A process below the shim of a containerd that we did not ask is not ours to judge, nor one of an engine
/// that we do not know.
fn was_asked(supervisor: Option<&Supervisor>, seen: &Seen) -> bool {
    let Some(shim) = supervisor else { return true };
    let address = shim.address.as_ref();
    !shim.foreign && address.is_some_and(|address| seen.versions.contains_key(address))
}

/// An engine that is there must answer. One that was never there, or that we may not ask, is no
/// trouble.
fn is_unanswered(asked: &Asked) -> bool {
    let is_an_engine = !matches!(asked.source, Source::Runtime | Source::Kernel);
    is_an_engine && asked.missed == Some(Missed::Silent)
}

/// Also if a debugger stopped it.
fn has_a_stopped_supervisor(container: &Container) -> bool {
    let supervisor = container.truth.supervisor.as_ref();
    container.is_in_use() && supervisor.is_some_and(|it| it.stopped && !it.foreign)
}

/// Not if an engine runs whose containers are not known: any of them would look like an orphan.
fn is_orphan(stray: &Container, seen: &Seen) -> bool {
    seen.unread.is_empty()
        && !stray.truth.members.is_empty()
        && was_asked(stray.truth.supervisor.as_ref(), seen)
}

fn is_frozen_but_running(container: &Container) -> bool {
    let truth = &container.truth;
    let is_frozen = matches!(truth.freezer, Freezer::Frozen | Freezer::Freezing);
    // The runtime's "paused" is only what it reads from the freezer. It counts if no manager has a
    // claim.
    let has_managers = container.managers().next().is_some();
    let voices =
        || container.claims.iter().filter(|claim| claim.source != Source::Runtime || !has_managers);
    let runs = voices().any(|claim| claim.status == Status::Running);
    let paused = voices().any(|claim| claim.status == Status::Paused);
    is_frozen && container.is_in_use() && runs && !paused && !truth.paused_on_record
}

fn is_stopped_but_populated(container: &Container) -> bool {
    let stopped = |claim: &Claim| claim.status == Status::Stopped;
    let by_managers = container.managers().next().is_some() && container.managers().all(stopped);
    let by_runtime = container.managers().next().is_none() && container.claims.iter().all(stopped);
    let has_ended = !container.claims.is_empty() && (by_managers || by_runtime);
    let lives = container.is_in_use() && by_managers;
    has_ended && (lives || !container.truth.members.is_empty())
}

fn disagree(container: &Container, seen: &Seen) -> bool {
    let of = |source| container.status(source);
    let (cri, task, runtime) = (of(Source::Cri), of(Source::Containerd), of(Source::Runtime));
    // A pod with `sandboxer = "shim"` has neither record nor task, by design.
    let needs_task =
        container.owner != Owner::Crio && (!container.is_sandbox || container.is_recorded);
    let cri_alone = cri == Some(Status::Running)
        && (task == Some(Status::Stopped) || task.is_none() && needs_task);
    let cri_ended = cri == Some(Status::Stopped) && task == Some(Status::Running);
    let resumed = task == Some(Status::Paused)
        && container.is_in_use()
        && container.truth.freezer == Freezer::Thawed;
    // The runtime answers every kill with "container does not exist", and the pod stays
    // Terminating.
    let forgotten = needs_state(container, seen)
        && container.managers().any(|claim| claim.status == Status::Running)
        && container.truth.fate == Fate::Alive
        && runtime.is_none();
    cri_alone || cri_ended || resumed || forgotten
}

/// Whether frostctl can read its runtime's files, and has read them. CRI-O starts a conmon only for
/// such runtimes.
fn needs_state(container: &Container, seen: &Seen) -> bool {
    let above = container.truth.supervisor.as_ref();
    let has_conmon = above.is_some_and(|it| it.name.starts_with("conmon"));
    let is_of_crio = container.owner == Owner::Crio && has_conmon && seen.unread.is_empty();
    container.has_runc || is_of_crio
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgroup::process::Process;
    use std::path::PathBuf;

    fn container(fate: Fate, claims: &[(Source, Status)]) -> Container {
        let mut container =
            Container::new(Owner::Containerd("default".to_owned()), "web".to_owned());
        container.truth.fate = fate;
        container.truth.freezer = Freezer::Thawed;
        container.claims = claims
            .iter()
            .map(|&(source, status)| Claim {
                source,
                status,
                said: format!("{status:?}"),
                place: String::new(),
            })
            .collect();
        container
    }

    fn judged(container: Container) -> Option<Kind> {
        let complete = vec![container.owner.clone()];
        let seen = Seen { containers: vec![container], complete, ..Seen::default() };
        judge(&seen).first().map(|found| found.kind)
    }

    const RUNTIME: Source = Source::Runtime;
    const TASK: Source = Source::Containerd;
    const CRI: Source = Source::Cri;
    const RUNS: Status = Status::Running;
    const ENDED: Status = Status::Stopped;
    const LIVES: Fate = Fate::Alive;

    fn member() -> Process {
        Process { pid: 7, start: 7 }
    }

    #[test]
    fn what_fits_together_is_not_reported() {
        for (fate, claims) in [
            (LIVES, &[(RUNTIME, RUNS), (TASK, RUNS), (CRI, RUNS)][..]),
            (LIVES, &[(RUNTIME, RUNS)]),
            (Fate::Gone, &[(RUNTIME, ENDED)]),
            (Fate::Gone, &[(RUNTIME, ENDED), (TASK, ENDED), (CRI, ENDED)]),
            (Fate::Gone, &[(TASK, ENDED)]),
            (Fate::Unknown, &[(CRI, Status::Created)]),
            (Fate::Unknown, &[(CRI, ENDED)]),
            // A healthy container with a slow shim.
            (LIVES, &[(RUNTIME, RUNS), (TASK, Status::Silent)]),
            (LIVES, &[(RUNTIME, Status::Created), (TASK, Status::Created)]),
            // containerd does not list its task yet.
            (LIVES, &[(RUNTIME, Status::Created)]),
            (Fate::Unknown, &[]),
        ] {
            let claims: Vec<_> = claims.to_vec();
            // The first is plain runc's; the created one is containerd's.
            let mut container = container(fate, &claims);
            if claims == [(RUNTIME, RUNS)] {
                container.owner = Owner::Nobody;
            }
            assert_eq!(judged(container), None, "{fate:?} {claims:?}");
        }
    }

    #[test]
    fn a_process_that_is_gone_and_is_said_to_run_is_a_phantom() {
        for fate in [Fate::Gone, Fate::Reused, Fate::Zombie { parent: None }] {
            for claims in [
                &[(RUNTIME, ENDED), (TASK, RUNS)][..],
                &[(RUNTIME, ENDED), (TASK, Status::Silent)],
                &[(RUNTIME, ENDED), (TASK, Status::Paused)],
                &[(RUNTIME, ENDED), (TASK, ENDED), (CRI, RUNS)],
                &[(CRI, RUNS)],
                &[(RUNTIME, Status::Paused)],
                &[(Source::Podman, RUNS)],
            ] {
                assert_eq!(judged(container(fate, claims)), Some(Kind::Phantom), "{claims:?}");
            }
        }
    }

    #[test]
    fn frozen_and_said_to_run_counts_unless_somebody_paused_it() {
        let frozen = |claims: &[(Source, Status)], change: fn(&mut Container)| {
            let mut container = container(LIVES, claims);
            container.truth.freezer = Freezer::Frozen;
            change(&mut container);
            judged(container)
        };
        let unnoticed = &[(RUNTIME, Status::Paused), (TASK, RUNS)][..];
        assert_eq!(frozen(unnoticed, |_| {}), Some(Kind::FrozenButRunning));
        assert_eq!(frozen(unnoticed, |it| it.truth.paused_on_record = true), None);
        assert_eq!(frozen(&[(RUNTIME, Status::Paused), (TASK, Status::Paused)], |_| {}), None);
        // `ctr task pause` in a pod: CRI has no such state.
        assert_eq!(
            frozen(&[(RUNTIME, Status::Paused), (TASK, Status::Paused), (CRI, RUNS)], |_| {}),
            None
        );
        let plain: fn(&mut Container) = |it| it.owner = Owner::Nobody;
        assert_eq!(frozen(&[(RUNTIME, Status::Paused)], plain), None);
        // Frozen by a cgroup above, which runc does not check.
        assert_eq!(frozen(&[(RUNTIME, RUNS)], plain), Some(Kind::FrozenButRunning));
    }

    #[test]
    fn a_stopped_container_with_processes_is_told_from_an_empty_one() {
        let populated = |fate, claims: &[(Source, Status)]| {
            let mut container = container(fate, claims);
            container.truth.members = vec![member()];
            judged(container)
        };
        let kind = Some(Kind::StoppedButPopulated);
        assert_eq!(populated(Fate::Gone, &[(RUNTIME, ENDED)]), kind);
        assert_eq!(populated(Fate::Gone, &[(RUNTIME, ENDED), (TASK, ENDED)]), kind);
        assert_eq!(populated(LIVES, &[(RUNTIME, RUNS), (TASK, ENDED)]), kind);
        assert_eq!(populated(LIVES, &[(RUNTIME, RUNS), (TASK, RUNS)]), None);
    }

    #[test]
    fn a_container_that_its_containerd_does_not_have_is_an_orphan_if_that_was_asked() {
        let orphan = || container(LIVES, &[(RUNTIME, RUNS)]);
        assert_eq!(judged(orphan()), Some(Kind::Orphan));
        let unanswered = Seen { containers: vec![orphan()], ..Seen::default() };
        assert!(judge(&unanswered).is_empty());
        let mut of_another = orphan();
        of_another.truth.supervisor = Some(shim("/run/other.sock", false));
        assert_eq!(judged(of_another), None);
    }

    fn shim(address: &str, foreign: bool) -> Supervisor {
        Supervisor {
            process: member(),
            name: "containerd-shim".to_owned(),
            address: Some(PathBuf::from(address)),
            stopped: false,
            foreign,
        }
    }

    #[test]
    fn a_stray_below_a_shim_that_we_cannot_ask_about_is_not_ours_to_judge() {
        let stray = |supervisor| {
            let mut stray = Container::new(Owner::Nobody, "0".repeat(64));
            stray.truth.members = vec![member()];
            stray.truth.supervisor = supervisor;
            stray
        };
        let judged = |supervisor| {
            let versions = [(PathBuf::from("/run/c.sock"), "2.1.9".to_owned())].into();
            judge(&Seen { strays: vec![stray(supervisor)], versions, ..Seen::default() }).len()
        };
        assert_eq!(judged(None), 1);
        assert_eq!(judged(Some(shim("/run/c.sock", false))), 1);
        // In a node in a container, which has the same paths.
        assert_eq!(judged(Some(shim("/run/c.sock", true))), 0);
        assert_eq!(judged(Some(shim("/run/d.sock", false))), 0);
        let unknown = Supervisor { name: "engine".to_owned(), address: None, ..shim("", true) };
        assert_eq!(judged(Some(unknown)), 0);
        // Any of its containers would look like this.
        let unread = vec!["CRI-O (pid 7)".to_owned()];
        let strays = vec![stray(None)];
        assert!(judge(&Seen { strays, unread, ..Seen::default() }).is_empty());
    }

    #[test]
    fn a_stopped_shim_of_a_living_container_is_found_and_one_elsewhere_is_not() {
        let below = |supervisor: Supervisor| {
            let mut container = container(LIVES, &[(RUNTIME, RUNS), (TASK, Status::Silent)]);
            container.truth.supervisor = Some(supervisor);
            judged(container)
        };
        let stopped = |foreign| Supervisor { stopped: true, ..shim("/run/c.sock", foreign) };
        assert_eq!(below(shim("/run/c.sock", false)), None);
        assert_eq!(below(stopped(false)), Some(Kind::StoppedSupervisor));
        assert_eq!(below(stopped(true)), None);
        // The graver kind is named.
        let mut dead = container(Fate::Gone, &[(RUNTIME, ENDED), (TASK, RUNS)]);
        dead.truth.supervisor = Some(stopped(false));
        assert_eq!(judged(dead), Some(Kind::Phantom));
    }

    #[test]
    fn an_engine_that_is_there_and_silent_is_found() {
        for (source, how, expected) in [
            (Source::Containerd, Missed::Silent, 1),
            (Source::Cri, Missed::Silent, 1),
            (Source::Podman, Missed::Silent, 1),
            (Source::Containerd, Missed::Denied, 0),
            (Source::Containerd, Missed::Absent, 0),
            (Source::Crio, Missed::Silent, 1),
            (Source::Crio, Missed::NotAsked, 0),
            (Source::Runtime, Missed::Silent, 0),
        ] {
            let asked = vec![Asked::missed(source, "/run/c.sock", how, "no answer within 8 s")];
            let found = judge(&Seen { asked, ..Seen::default() });
            assert_eq!(found.len(), expected, "{source:?} {how:?}");
            assert!(found.iter().all(|it| it.kind == Kind::Unanswered && it.id() == "/run/c.sock"));
        }
    }

    #[test]
    fn cri_o_is_believed_beside_the_runtime_and_has_no_tasks() {
        let of_crio = |fate, claims: &[(Source, Status)]| {
            let mut container = container(fate, claims);
            container.owner = Owner::Crio;
            container
        };
        assert_eq!(judged(of_crio(LIVES, &[(RUNTIME, RUNS), (CRI, RUNS)])), None);
        let phantom = of_crio(Fate::Gone, &[(RUNTIME, ENDED), (CRI, RUNS)]);
        assert_eq!(judged(phantom), Some(Kind::Phantom));
        let unnoted = of_crio(LIVES, &[(RUNTIME, RUNS), (CRI, ENDED)]);
        assert_eq!(judged(unnoted), Some(Kind::StoppedButPopulated));
        assert_eq!(judged(of_crio(LIVES, &[(RUNTIME, RUNS)])), Some(Kind::Orphan));
        // For kata, the runtime has no state that we could read.
        let mut forgotten = of_crio(LIVES, &[(CRI, RUNS)]);
        assert_eq!(judged(forgotten.clone()), None);
        forgotten.truth.supervisor = Some(Supervisor {
            process: member(),
            name: "conmon".to_owned(),
            address: None,
            stopped: false,
            foreign: false,
        });
        assert_eq!(judged(forgotten.clone()), Some(Kind::Disagreement));
        let unread = vec!["the state was not read".to_owned()];
        let seen = Seen { containers: vec![forgotten], unread, ..Seen::default() };
        assert!(judge(&seen).is_empty());
    }

    #[test]
    fn cri_and_containerd_that_say_different_things_disagree() {
        let kind = Some(Kind::Disagreement);
        assert_eq!(judged(container(Fate::Unknown, &[(CRI, RUNS), (TASK, ENDED)])), kind);
        assert_eq!(judged(container(Fate::Unknown, &[(CRI, RUNS)])), kind);
        let mut of_shim = container(Fate::Unknown, &[(CRI, RUNS)]);
        of_shim.is_sandbox = true;
        assert_eq!(judged(of_shim.clone()), None);
        of_shim.is_recorded = true;
        assert_eq!(judged(of_shim), kind);
        let claims = [(RUNTIME, RUNS), (CRI, ENDED), (TASK, RUNS)];
        assert_eq!(judged(container(LIVES, &claims)), kind);
        // The runtime's state is gone.
        let mut forgotten = container(LIVES, &[(TASK, RUNS)]);
        assert_eq!(judged(forgotten.clone()), None);
        forgotten.has_runc = true;
        assert_eq!(judged(forgotten), kind);
        let paused = [(RUNTIME, RUNS), (TASK, Status::Paused)];
        assert_eq!(judged(container(LIVES, &paused)), kind);
    }
}
