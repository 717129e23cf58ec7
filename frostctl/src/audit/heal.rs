//! Makes containerd and the runtime agree with the kernel, by their own means: kill and delete.
//! Never edits their state.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use cgroup::process::Process;
use cgroup::{Hierarchies, Identity, Proc, Reader};
use frostlock_cri::Client;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::claim::{Container, Fate, Init, Owner, RuntimeState, Seen, Status};
use super::containerd::{self, Containerd};
use super::judge::{Divergence, Kind};
use super::{command, fate, runtimes, truth};

/// containerd allows 10 s for the end of a task.
const CALL_LIMIT: Duration = Duration::from_secs(12);
/// runc's `delete --force` tries for 10 s.
const DELETE_LIMIT: Duration = Duration::from_secs(15);
/// frostlock, which may stand in for the runtime, then thaws what that has left frozen. What we run inherits
/// that we hold SIGTERM and SIGINT back.
const DELETE_GRACE: (Signal, Duration) = (Signal::HUP, Duration::from_secs(5));
/// containerd allows 2 s.
const SHIM_STATE_LIMIT: Duration = Duration::from_secs(3);
/// How long containerd may take to notice that a shim is gone.
const SHIM_LIMIT: Duration = Duration::from_secs(10);
/// How long conmon may take to record a container's end.
const CONMON_LIMIT: Duration = Duration::from_secs(5);
/// How long a killed process may take to die; a throttled process takes long.
const DEATH_LIMIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) const A_USERS: &str = "it is a user's: run frostctl audit as that user";
const RESTARTS_NONE: &str = "frostctl restarts no engine";
const NOT_KNOWN: &str = "frostctl does not know its engine";

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// SIGCONT to a stopped shim, which could not notice anything.
    Continue(Process),
    StopByCri {
        socket: PathBuf,
        id: String,
        is_pod: bool,
    },
    KillTask(Task),
    DeleteTask(Task),
    DeleteByRuntime {
        state: RuntimeState,
        id: String,
        cgroup: Option<Identity>,
    },
    /// Without a conmon, nobody tells podman that the container ended.
    StopByPodman(String),
    CleanUpPodman(String),
    KillProcesses {
        cgroup: Identity,
        members: Vec<Process>,
    },
}

/// A task of containerd's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    socket: PathBuf,
    namespace: String,
    id: String,
}

impl Step {
    pub(crate) fn told(&self) -> String {
        match self {
            Step::Continue(shim) => {
                format!("SIGCONT to {}, which is stopped", truth::named(shim.pid))
            }
            Step::StopByCri { id, is_pod: false, .. } => format!("CRI: StopContainer {id}"),
            Step::StopByCri { id, is_pod: true, .. } => format!("CRI: StopPodSandbox {id}"),
            Step::KillTask(Task { namespace, id, .. }) => {
                format!("containerd: kill task {id} of namespace {namespace} with SIGKILL")
            }
            Step::DeleteTask(Task { namespace, id, .. }) => {
                format!("containerd: delete task {id} of namespace {namespace}")
            }
            Step::DeleteByRuntime { state: RuntimeState { binary, root, .. }, id, .. } => {
                format!("{} --root {} delete --force {id}", binary.display(), root.display())
            }
            Step::StopByPodman(id) => format!("podman stop --time 1 {id}"),
            Step::CleanUpPodman(id) => format!("podman container cleanup {id}"),
            Step::KillProcesses { members, .. } => {
                let named: Vec<_> = members.iter().map(|it| truth::named(it.pid)).collect();
                format!("SIGKILL to {}", named.join(", "))
            }
        }
    }

    /// Whether the step goes through a shim, which may not answer.
    fn needs_shim(&self) -> bool {
        matches!(self, Step::StopByCri { .. } | Step::KillTask(_))
    }
}

/// The steps to take, or why none is taken. Pure.
pub(crate) fn plan(divergence: &Divergence, kill_orphans: bool) -> Result<Vec<Step>, String> {
    let Some(container) = divergence.container() else {
        return Err(RESTARTS_NONE.to_owned());
    };
    let refused = match (divergence.kind, &container.owner) {
        (_, Owner::Unknown) => NOT_KNOWN,
        (_, Owner::User) => A_USERS,
        _ if !runtimes::is_plain(&container.id) => "its id is not safe on a command line",
        (Kind::Phantom, _) => {
            spares_the_living(container, kill_orphans)?;
            return end(container);
        }
        (Kind::StoppedButPopulated, owner) => {
            spares_the_living(container, kill_orphans)?;
            match owner {
                Owner::Nobody => return delete_by_runtime(container),
                _ if kill_orphans => return kill_members(divergence.kind, container),
                _ => "its processes are killed only with --kill-orphans",
            }
        }
        (Kind::Orphan, _) if kill_orphans => return kill_members(divergence.kind, container),
        (Kind::Orphan, _) => "orphans are killed only with --kill-orphans",
        // With a first process known to be dead, it would be a phantom; here it may live.
        (Kind::Disagreement, _) => "frostctl cannot tell which of them is right",
        (Kind::FrozenButRunning, _) => {
            "somebody may have paused it: the remedy above is yours to choose"
        }
        (Kind::StoppedSupervisor, _) => {
            "whoever stopped it may still be at work on it: the remedy above is yours to choose"
        }
        (Kind::Unanswered, _) => RESTARTS_NONE,
    };
    Err(refused.to_owned())
}

/// A delete kills everything that lives in the cgroup or below, even a service of systemd's.
fn spares_the_living(container: &Container, kill_orphans: bool) -> Result<(), String> {
    let truth = &container.truth;
    let is_empty = truth.inhabitants.is_empty() && !truth.is_cut;
    if container.has_an_unknown_cgroup() {
        let why =
            "its runtime has it in a cgroup that is not known, and whatever lives there would die";
        return Err(why.to_owned());
    }
    if truth.pod_lives && !kill_orphans {
        let why = "containers of this pod run, which StopPodSandbox ends: only --kill-orphans takes them, too";
        return Err(why.to_owned());
    }
    if truth.shared && !is_empty {
        let why = "another container shares its cgroup, and the processes of both would die";
        return Err(why.to_owned());
    }
    if is_empty || kill_orphans {
        return Ok(());
    }
    let live = match truth.inhabitants.len() {
        0 => "it has more cgroups than are read: processes may live".to_owned(),
        1 => "1 process lives".to_owned(),
        many => format!("{many} processes live"),
    };
    let units = match truth.units.as_slice() {
        [] => String::new(),
        units => format!(" (of {})", units.join(", ")),
    };
    Err(format!("{live} in its cgroup or below{units}: only --kill-orphans kills them"))
}

fn end(container: &Container) -> Result<Vec<Step>, String> {
    let Container { id, owner, socket, is_sandbox, .. } = container;
    let id = id.clone();
    let socket = || {
        let why = match owner {
            Owner::Crio => "its CRI-O does not know it",
            _ => "the socket of its containerd is not known",
        };
        socket.clone().ok_or(why)
    };
    let shim = container.truth.supervisor.as_ref();
    let ending = match owner {
        Owner::Nobody => return delete_by_runtime(container),
        Owner::User | Owner::Unknown => return Err(NOT_KNOWN.to_owned()),
        Owner::Podman if shim.is_some() => vec![Step::CleanUpPodman(id)],
        Owner::Podman => vec![Step::StopByPodman(id.clone()), Step::CleanUpPodman(id)],
        Owner::Containerd(namespace) if !owner.is_kubernetes() => {
            let task = Task { socket: socket()?, namespace: namespace.clone(), id };
            vec![Step::KillTask(task.clone()), Step::DeleteTask(task)]
        }
        Owner::Containerd(_) | Owner::Crio => {
            vec![Step::StopByCri { socket: socket()?, id, is_pod: *is_sandbox }]
        }
    };
    let stopped = shim.filter(|shim| shim.stopped && !shim.foreign);
    let continued = stopped.map(|shim| Step::Continue(shim.process));
    Ok(continued.into_iter().chain(ending).collect())
}

fn delete_by_runtime(container: &Container) -> Result<Vec<Step>, String> {
    let state = container.state.clone().ok_or("no runtime has a state file of it")?;
    let (id, cgroup) = (container.id.clone(), container.cgroup.clone());
    Ok(vec![Step::DeleteByRuntime { state, id, cgroup }])
}

/// Kills the processes, then deletes what the runtime still has of the container. kubelet deletes
/// the containers of pods.
fn kill_members(kind: Kind, container: &Container) -> Result<Vec<Step>, String> {
    let cgroup = container.cgroup.clone().ok_or("its cgroup is not known")?;
    let members = container.truth.members.clone();
    if members.is_empty() {
        return Err("its cgroup is shared, or empty by now".to_owned());
    }
    let mut steps = vec![Step::KillProcesses { cgroup, members }];
    if kind == Kind::Orphan && !container.owner.is_kubernetes() {
        steps.extend(delete_by_runtime(container).unwrap_or_default());
    }
    Ok(steps)
}

/// Takes all the steps and records them in `done`. `seen` is from just before.
pub(crate) fn carry_out(
    divergence: &Divergence,
    steps: &[Step],
    seen: &Seen,
    done: &mut Vec<String>,
) -> anyhow::Result<()> {
    let Some(container) = divergence.container() else { return Ok(()) };
    for step in steps {
        check_same(container)?;
        let mut tried = take(step);
        if tried.is_err() && step.needs_shim() {
            if let Some(said) = end_shim(container, seen)? {
                done.push(said);
                check_same(container)?;
                tried = take(step);
            }
        }
        tried.with_context(|| step.told())?;
        done.push(step.told());
    }
    Ok(())
}

/// The steps go by id, and a restart monitor may meanwhile have started a container with the same
/// id.
fn check_same(container: &Container) -> anyhow::Result<()> {
    let recorded = container.state.as_ref().and_then(|it| runtimes::init(&it.root, &container.id));
    let of_task = task_of(container).and_then(|task| Some(Init { pid: task.pid?, start: None }));
    match recorded.into_iter().chain(of_task).find(|now| is_another(*now, container.init)) {
        Some(now) => bail!(
            "{} was started again meanwhile (pid {}): it is left alone from here on",
            container.id,
            now.pid
        ),
        None => Ok(()),
    }
}

/// Whether `now` is a living process other than the one that was judged.
fn is_another(now: Init, judged: Option<Init>) -> bool {
    let same = judged.is_some_and(|judged| {
        let starts = now.start.zip(judged.start);
        judged.pid == now.pid && starts.is_none_or(|(now, judged)| now == judged)
    });
    !same && fate::of(now) == Fate::Alive
}

fn take(step: &Step) -> anyhow::Result<()> {
    match step {
        Step::Continue(shim) => signal(*shim, Signal::CONT),
        Step::StopByCri { socket, id, is_pod } => {
            let client = Client::lazy(socket)?.at_most(CALL_LIMIT);
            match is_pod {
                true => client.stop_pod_sandbox(id)?,
                false => client.stop_container(id, Duration::ZERO)?,
            }
            Ok(())
        }
        Step::KillTask(task) => kill_task(task),
        Step::DeleteTask(Task { socket, namespace, id }) => {
            Containerd::at(socket)?.delete(namespace, id, CALL_LIMIT)
        }
        Step::DeleteByRuntime { state, id, cgroup } => {
            let root = state.root.to_str().ok_or_else(|| anyhow!("its root is not UTF-8"))?;
            let words = ["--root", root, "delete", "--force", id];
            let mounts = Hierarchies::read(&Proc::default())?;
            let files = cgroup.as_ref().map(|cgroup| Reader::new(&mounts, cgroup));
            thawed_if_it_fails(files.as_ref(), || run(&state.binary, &words))
        }
        Step::StopByPodman(id) => {
            // podman finds out that the container has ended and records it. Then (4.3) it fails,
            // since conmon's file is not there. The next step tells whether this helped.
            let _ = podman(&["stop", "--time", "1", id]);
            Ok(())
        }
        Step::CleanUpPodman(id) => clean_up_podman(id),
        Step::KillProcesses { cgroup, members } => kill(cgroup, members),
    }
}

/// A runtime freezes the cgroup to kill all that is in it (runc on v1). Where it is killed itself or gives up,
/// the freeze would stay, and what is frozen does not even die of SIGKILL.
fn thawed_if_it_fails(
    files: Option<&Reader>,
    delete: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let was_thawed = files.filter(|files| !files.is_told_to_freeze());
    delete().inspect_err(|_| {
        if let Some(files) = was_thawed.filter(|files| files.is_told_to_freeze()) {
            cgroup::freeze::thaw(files);
        }
    })
}

fn podman(words: &[&str]) -> anyhow::Result<()> {
    run(Path::new("podman"), words)
}

fn run(program: &Path, words: &[&str]) -> anyhow::Result<()> {
    command::run(program, words, DELETE_LIMIT, Some(DELETE_GRACE)).map(drop)
}

/// podman refuses until conmon has recorded the end, which conmon may be about to do.
fn clean_up_podman(id: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + CONMON_LIMIT;
    loop {
        match podman(&["container", "cleanup", id]) {
            // With --rm, conmon's own cleanup removes it.
            Err(error) if error.to_string().contains("no such container") => return Ok(()),
            Err(_) if Instant::now() < deadline => thread::sleep(LOOK_EVERY),
            done => return done,
        }
    }
}

/// Also waits until containerd has noticed.
fn kill_task(Task { socket, namespace, id }: &Task) -> anyhow::Result<()> {
    let containerd = Containerd::at(socket)?;
    containerd.kill(namespace, id, CALL_LIMIT)?;
    let deadline = Instant::now() + CALL_LIMIT;
    loop {
        match containerd.task(namespace, id, CALL_LIMIT)?.map(|task| task.status) {
            None | Some(Status::Stopped) => return Ok(()),
            Some(_) if Instant::now() < deadline => thread::sleep(LOOK_EVERY),
            Some(_) => bail!("it has not stopped within {} s", CALL_LIMIT.as_secs()),
        }
    }
}

/// The last resort if the shim answers nobody: containerd cleans up after a shim that dies. Not
/// done while a container lives below the shim.
fn end_shim(container: &Container, seen: &Seen) -> anyhow::Result<Option<String>> {
    let shim = container.truth.supervisor.as_ref().filter(|shim| !shim.foreign);
    // CRI and kubelet end the shim of a pod.
    let Some(shim) = shim.filter(|_| !container.owner.is_kubernetes()) else { return Ok(None) };
    if task_of(container).is_none_or(|task| task.status != Status::Silent) {
        return Ok(None);
    }
    let is_below = |container: &&Container| {
        let above = container.truth.supervisor.as_ref().map(|above| above.process);
        container.truth.fate == Fate::Alive && above == Some(shim.process)
    };
    if let Some(other) = seen.containers.iter().find(is_below) {
        bail!("its shim ({}) does not answer, and {} lives below it", shim.process.pid, other.id);
    }
    signal(shim.process, Signal::KILL)?;
    await_deaths(&[shim.process], SHIM_LIMIT)?;
    Ok(Some(format!("SIGKILL to its shim ({}), which did not answer", shim.process.pid)))
}

/// What containerd says now of the container's task.
fn task_of(container: &Container) -> Option<containerd::Task> {
    let (socket, namespace) = (container.socket.as_ref()?, container.owner.namespace()?);
    Containerd::at(socket).ok()?.task(namespace, &container.id, SHIM_STATE_LIMIT).ok()?
}

fn kill(cgroup: &Identity, members: &[Process]) -> anyhow::Result<()> {
    let mounts = Hierarchies::read(&Proc::default())?;
    let now = truth::members(&mounts, cgroup).processes;
    // A process that has left the cgroup meanwhile is not touched.
    let still: Vec<_> = members.iter().filter(|member| now.contains(member)).copied().collect();
    for member in &still {
        signal(*member, Signal::KILL)?;
    }
    await_deaths(&still, DEATH_LIMIT)
}

/// Sends through a pidfd, which always means the same process. Its identity is checked after
/// opening.
fn signal(process: Process, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(process.pid).ok_or_else(|| anyhow!("no pid: {}", process.pid))?;
    let descriptor = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("pid {}", process.pid)),
    };
    if Process::of(process.pid) != Some(process) {
        return Ok(());
    }
    match rustix::process::pidfd_send_signal(descriptor, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("pid {}", process.pid)),
    }
}

fn await_deaths(processes: &[Process], limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while let Some(alive) = processes.iter().find(|process| process.is_alive()) {
        if Instant::now() >= deadline {
            bail!("{} is still alive {} s after SIGKILL", truth::named(alive.pid), limit.as_secs());
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::claim::{Claim, Source};
    use crate::audit::judge::Subject;

    #[test]
    fn a_users_container_and_a_living_pod_are_left_alone() {
        let dead = |owner, id: &str| {
            let mut it = Container::new(owner, id.to_owned());
            it.truth.fate = Fate::Gone;
            it.socket = Some("/s".into());
            it
        };
        let planned = |it: &Container, kill_orphans| {
            let subject = Subject::Container(Box::new(it.clone()));
            plan(&Divergence { kind: Kind::Phantom, subject }, kill_orphans)
        };
        let mut pod = dead(Owner::Crio, "pod");
        pod.is_sandbox = true;
        assert!(planned(&pod, false).is_ok(), "the control");
        pod.truth.pod_lives = true;
        assert!(planned(&pod, false).is_err() && planned(&pod, true).is_ok());
        assert_eq!(planned(&dead(Owner::User, "web"), true), Err(A_USERS.to_owned()));
        assert!(planned(&dead(Owner::Podman, "--all"), true).is_err());
    }

    #[test]
    fn a_container_that_came_back_is_not_the_one_that_was_judged() {
        let me = Process::of(std::process::id() as i32).unwrap();
        let now = Init { pid: me.pid, start: Some(me.start) };
        let before = Init { pid: i32::MAX, start: Some(1) };
        assert!(is_another(now, Some(before)));
        assert!(is_another(now, Some(Init { start: Some(me.start + 1), ..now })));
        assert!(!is_another(now, Some(now)));
        assert!(!is_another(Init { start: None, ..now }, Some(now)));
        assert!(!is_another(before, Some(now)), "it is dead");
    }

    fn stopped(kind: Kind, change: fn(&mut Container)) -> Divergence {
        let mut web = Container::new(Owner::Nobody, "web".to_owned());
        web.truth.fate = Fate::Gone;
        web.state = Some(RuntimeState {
            root: PathBuf::from("/run/runc"),
            binary: PathBuf::from("runc"),
            has_no_cgroup: false,
        });
        web.cgroup = Identity::new("/web");
        change(&mut web);
        Divergence { kind, subject: Subject::Container(Box::new(web)) }
    }

    #[test]
    fn what_lives_in_the_cgroup_is_taken_only_when_that_was_asked_for() {
        let empty: fn(&mut Container) = |_| {};
        let busy: fn(&mut Container) = |it| {
            it.truth.inhabitants = vec![Process { pid: 7, start: 7 }];
            it.truth.units = vec!["sshd.service".to_owned()];
        };
        // As on v1, if only systemd's own hierarchy has the processes: the runtime's freezer shows
        // none.
        assert!(stopped(Kind::Phantom, busy).container().unwrap().truth.members.is_empty());
        for kind in [Kind::Phantom, Kind::StoppedButPopulated] {
            assert!(plan(&stopped(kind, empty), false).is_ok(), "{kind:?}");
            let why = plan(&stopped(kind, busy), false).unwrap_err();
            assert!(why.starts_with("1 process lives") && why.contains("sshd.service"), "{why}");
            assert!(plan(&stopped(kind, busy), true).is_ok(), "{kind:?}");
        }
        let cut: fn(&mut Container) = |it| it.truth.is_cut = true;
        let why = plan(&stopped(Kind::Phantom, cut), false).unwrap_err();
        assert!(why.contains("may live in its cgroup or below"), "{why}");
        assert!(plan(&stopped(Kind::Phantom, cut), true).is_ok());
        let shared: fn(&mut Container) = |it| {
            it.truth.inhabitants = vec![Process { pid: 7, start: 7 }];
            it.truth.shared = true;
        };
        assert!(plan(&stopped(Kind::Phantom, shared), true).is_err(), "a neighbour would die");
    }

    #[test]
    fn who_lives_in_a_cgroup_that_is_not_known_is_spared_and_without_a_cgroup_there_is_nobody() {
        let unknown: fn(&mut Container) = |it| it.cgroup = None;
        let root: fn(&mut Container) = |it| it.cgroup = Identity::new("/");
        let none: fn(&mut Container) = |it| {
            it.cgroup = None;
            it.state.as_mut().unwrap().has_no_cgroup = true;
        };
        for kind in [Kind::Phantom, Kind::StoppedButPopulated] {
            for change in [unknown, root] {
                let why = plan(&stopped(kind, change), true).unwrap_err();
                assert!(why.contains("not known"), "{why}");
            }
            assert!(plan(&stopped(kind, none), false).is_ok(), "{kind:?}");
        }
    }

    #[test]
    fn what_a_delete_that_failed_has_left_frozen_is_thawed_and_a_pause_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cgroup.freeze");
        std::fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let mountinfo = format!("30 20 0:26 / {} rw - cgroup2 cgroup rw\n", dir.path().display());
        let mounts = Hierarchies::parse(mountinfo.as_bytes());
        let files = Reader::new(&mounts, &Identity::new("/").unwrap());
        let left = |before: &str, ends: bool| {
            std::fs::write(&file, before).unwrap();
            let delete = || -> anyhow::Result<()> {
                std::fs::write(&file, "1")?;
                anyhow::ensure!(ends, "did not end within 15 s");
                Ok(())
            };
            assert_eq!(thawed_if_it_fails(Some(&files), delete).is_ok(), ends);
            std::fs::read_to_string(&file).unwrap()
        };
        assert_eq!(left("0", false), "0");
        assert_eq!(left("1", false), "1", "somebody had paused it");
        assert_eq!(left("0", true), "1", "the control");
    }

    #[test]
    fn nobodys_shim_is_continued_and_no_engine_restarted() {
        for kind in [Kind::StoppedSupervisor, Kind::Unanswered] {
            assert!(plan(&stopped(kind, |_| {}), true).is_err(), "{kind:?}");
        }
    }

    #[test]
    fn what_only_cri_says_to_run_is_not_ended_while_it_may_live() {
        let mut web = Container::new(Owner::Containerd("k8s.io".to_owned()), "web".to_owned());
        web.socket = Some(PathBuf::from("/run/c.sock"));
        let (said, place) = (String::new(), String::new());
        web.claims.push(Claim { source: Source::Cri, status: Status::Running, said, place });
        web.truth.fate = Fate::Alive;
        let mut divergence = Divergence {
            kind: Kind::Disagreement,
            subject: Subject::Container(Box::new(web.clone())),
        };
        assert!(plan(&divergence, false).is_err());
        web.truth.fate = Fate::Gone;
        divergence.kind = Kind::Phantom;
        divergence.subject = Subject::Container(Box::new(web));
        assert!(plan(&divergence, false).is_ok());
    }
}
