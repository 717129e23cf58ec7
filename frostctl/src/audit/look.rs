//! One look at everything: all sources at once, each for a bounded time, none required.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use cgroup::bundle::Bundle;
use cgroup::{Hierarchies, Proc};
use frostlock_cri::Client;
use state::remains;
use state::state_dir::StateDir;

use super::claim::{Asked, Claim, Container, KUBERNETES, Missed, NoAnswer, Owner, Seen, Source};
use super::containerd::{Answer, Containerd, Known, Limits};
use super::runtimes::{self, Root};
use super::{crio, kubernetes, podman, strays, supervisor, truth};
use crate::node::containerd::{self, SOCKETS};

/// Where to look.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Used in place of the usual ones, if not empty.
    pub(crate) sockets: Vec<PathBuf>,
    /// Read in addition to the usual ones.
    pub(crate) roots: Vec<PathBuf>,
    pub(crate) podman: bool,
}

impl Places {
    pub(crate) fn usual() -> Places {
        Places { sockets: Vec::new(), roots: Vec::new(), podman: podman::was_used() }
    }

    /// Evaluated at each look, since a containerd may have started meanwhile. A containerd may
    /// listen elsewhere; running shims know its socket, even after it has gone and its socket with
    /// it.
    fn sockets_now(&self) -> Vec<PathBuf> {
        let resolved = |it: PathBuf| it.canonicalize().unwrap_or(it);
        if !self.sockets.is_empty() {
            return self.sockets.iter().cloned().map(resolved).collect();
        }
        let mut all = there(SOCKETS.iter().map(PathBuf::from));
        all.extend(
            containerd::listening().into_iter().chain(supervisor::addresses()).map(resolved),
        );
        all.sort();
        all.dedup();
        all
    }
}

/// Each socket once: docker's shims know its socket below /var/run.
fn there(paths: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let there: BTreeSet<PathBuf> = paths.filter_map(|path| path.canonicalize().ok()).collect();
    there.into_iter().collect()
}

/// Time limits per source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) containerd: Limits,
    pub(crate) cri: Duration,
    pub(crate) podman: Duration,
}

impl Patience {
    /// containerd waits 2 s for a shim.
    pub(crate) const CALM: Patience = Patience {
        containerd: Limits { task: Duration::from_millis(2500), all: Duration::from_secs(8) },
        cri: Duration::from_secs(5),
        podman: Duration::from_secs(15),
    };
    /// Two looks must fit into 2 s.
    pub(crate) const HASTY: Patience = Patience {
        containerd: Limits { task: Duration::from_millis(400), all: Duration::from_millis(700) },
        cri: Duration::from_millis(500),
        podman: Duration::from_millis(700),
    };
}

/// What one containerd said through its own API and through CRI.
struct Said<'a> {
    socket: &'a Path,
    own: anyhow::Result<Answer>,
    cri: Option<Result<Vec<Container>, String>>,
}

pub(crate) fn look(places: &Places, patience: Patience) -> anyhow::Result<Seen> {
    let mounts = Hierarchies::read(&Proc::default()).context("/proc/self/mountinfo")?;
    let mut seen = Seen::default();
    let mut roots = Vec::new();
    let sockets = places.sockets_now();
    if sockets.is_empty() {
        seen.asked.push(no_containerd(&SOCKETS.map(Path::new)));
    }
    if !places.podman {
        let why = "root has never used it here";
        seen.asked.push(Asked::missed(Source::Podman, "podman ps --all", Missed::Absent, why));
    }
    let crios = crio::running();
    thread::scope(|scope| {
        let asked: Vec<_> = sockets
            .iter()
            .map(|socket| scope.spawn(move || ask_containerd(socket, patience)))
            .collect();
        let of_crio: Vec<_> =
            crios.iter().map(|it| scope.spawn(move || it.ask(patience.cri))).collect();
        let podman = places.podman.then(|| scope.spawn(move || podman::look(patience.podman)));
        for said in asked.into_iter().filter_map(|thread| thread.join().ok()) {
            take_containerd(said, &mut seen, &mut roots);
        }
        for said in of_crio.into_iter().filter_map(|thread| thread.join().ok()) {
            take_crio(said, &mut seen);
        }
        if let Some(Ok(said)) = podman.map(thread::ScopedJoinHandle::join) {
            take_podman(said, &mut seen);
        }
    });
    let of_crio = crios.iter().flat_map(crio::Crio::roots);
    let of_crio: Vec<Root> = of_crio.map(|it| Root { path: it.to_owned(), binary: None }).collect();
    let more = named_roots(places).into_iter().chain(of_crio).chain(runtimes::usual_roots());
    for root in more {
        if !roots.iter().any(|known: &Root| known.path == root.path) {
            roots.push(root);
        }
    }
    runtimes::look(&roots, &mounts, &mut seen);
    if let Some(crio) = crio::missing(&crios, &seen.containers) {
        take_crio(crio.ask(patience.cri), &mut seen);
    }
    seen.unread = crios.iter().filter_map(|it| it.unread(&seen.asked, &seen.containers)).collect();
    seen.notes.extend(
        seen.unread.iter().map(|why| format!("{why}: no cgroup is reported as an orphan's")),
    );
    let count = supervisor::unplaced();
    if count > 0 {
        let why = format!(
            "left out {count} of the shims and conmons: without CAP_SYS_PTRACE, frostctl cannot \
             tell whether they are this node's"
        );
        seen.asked.push(Asked::missed(Source::Kernel, "/proc/PID/ns/mnt", Missed::Denied, why));
    }
    seen.containers = merge(std::mem::take(&mut seen.containers));
    ask_for_pids(&mut seen, patience);
    let state = StateDir::from_env();
    truth::establish(&mut seen, &mounts, &state);
    strays::look(&mut seen, &mounts, &remains::known(&state));
    seen.containers.iter_mut().for_each(name);
    Ok(seen)
}

/// Names the container if no source did, for example because its containerd does not answer.
fn name(container: &mut Container) {
    let is_of_pods = container.owner.is_kubernetes() || container.owner == Owner::Unknown;
    if container.name.is_some() || !is_of_pods {
        return;
    }
    let bundle = container.bundle.as_deref().and_then(|it| Bundle::read(it).ok());
    container.name = bundle.and_then(|Bundle { pod, .. }| {
        let container = pod.container.map_or_else(String::new, |it| format!("/{it}"));
        Some(format!("{}/{}{container}", pod.namespace?, pod.name?))
    });
}

/// A containerd that has run since the boot is stopped, not absent: its socket is gone, but the
/// directory of its shims is still there (`state` in its configuration, runtime/v2/manager.go,
/// 1.7).
fn no_containerd(sockets: &[&Path]) -> Asked {
    let has_run = |socket: &&&Path| socket.with_file_name("io.containerd.runtime.v2.task").is_dir();
    match sockets.iter().find(has_run) {
        Some(stopped) => {
            let why = "it is stopped: its socket is not there, and it has run since the boot";
            Asked::missed(Source::Containerd, stopped.to_string_lossy(), Missed::Silent, why)
        }
        None => {
            let why = "no socket at the usual places, and no shim that names another";
            Asked::missed(Source::Containerd, SOCKETS[0], Missed::Absent, why)
        }
    }
}

fn named_roots(places: &Places) -> Vec<Root> {
    places.roots.iter().map(|path| Root { path: path.clone(), binary: None }).collect()
}

fn ask_containerd(socket: &Path, patience: Patience) -> Said<'_> {
    let own = supervisor::check_peer(socket)
        .and_then(|()| Containerd::at(socket)?.look(patience.containerd));
    let has_pods = own.as_ref().is_ok_and(|own| own.namespaces.iter().any(|n| n == KUBERNETES));
    let cri = has_pods
        .then(|| pods(socket, patience.cri).map_err(|error| error.to_string()))
        .and_then(Result::transpose);
    Said { socket, own, cri }
}

/// Asks the containerd at this socket; `None` if it has no CRI.
fn pods(socket: &Path, limit: Duration) -> Result<Option<Vec<Container>>, frostlock_cri::Error> {
    let client = Client::lazy(socket)?.at_most(limit);
    kubernetes::look(&client, &Owner::Containerd(KUBERNETES.to_owned()))
}

fn take_crio(said: crio::Said, seen: &mut Seen) {
    seen.asked.push(said.asked);
    if let Some(containers) = said.containers {
        seen.containers.extend(containers);
        seen.complete.push(Owner::Crio);
    }
}

fn take_containerd(said: Said<'_>, seen: &mut Seen, roots: &mut Vec<Root>) {
    let place = said.socket.display().to_string();
    let answer = match said.own {
        Ok(own) => {
            let summary = format!("{}, {}", own.version, runtimes::counted(own.containers.len()));
            seen.answered.push(said.socket.to_owned());
            seen.versions.insert(said.socket.to_owned(), own.version);
            seen.complete.extend(own.namespaces.into_iter().map(Owner::Containerd));
            for known in own.containers {
                note_root(&known, roots);
                seen.containers.push(of_containerd(known, said.socket, &place));
            }
            Ok(summary)
        }
        Err(error) => Err(NoAnswer::of(said.socket, format!("{error:#}"))),
    };
    seen.asked.push(Asked { source: Source::Containerd, place: place.clone(), answer });
    if let Some(cri) = said.cri {
        let answer = cri.map_err(|why| NoAnswer::of(said.socket, why)).map(|containers| {
            let count = kubernetes::counted(&containers);
            seen.containers.extend(containers);
            count
        });
        seen.asked.push(Asked { source: Source::Cri, place, answer });
    }
}

fn note_root(known: &Known, roots: &mut Vec<Root>) {
    let usual = || Path::new("/run/containerd/runc").join(&known.namespace);
    let path = known.root.clone().unwrap_or_else(usual);
    if path.is_dir() && !roots.iter().any(|root| root.path == path) {
        roots.push(Root { path, binary: known.binary.clone() });
    }
}

fn of_containerd(known: Known, socket: &Path, place: &str) -> Container {
    let label = |key: &str| known.labels.get(key).map(String::as_str);
    let pod = label("io.kubernetes.pod.namespace").zip(label("io.kubernetes.pod.name"));
    let name = pod.map(|(namespace, pod)| match label("io.kubernetes.container.name") {
        Some(container) => format!("{namespace}/{pod}/{container}"),
        None => format!("{namespace}/{pod}"),
    });
    let is_sandbox = label("io.cri-containerd.kind") == Some("sandbox");
    let mut container = Container::new(Owner::Containerd(known.namespace), known.id);
    container.name = name;
    container.is_sandbox = is_sandbox;
    container.has_runc = known.has_runc;
    container.is_recorded = true;
    container.socket = Some(socket.to_owned());
    if let Some(task) = known.task {
        let (source, place) = (Source::Containerd, place.to_owned());
        container.claims.push(Claim { source, status: task.status, said: task.said, place });
        // The runtime's record replaces this one: it has the start time.
        container.init = task.pid.map(|pid| super::claim::Init { pid, start: None });
    }
    container
}

fn take_podman(said: anyhow::Result<Vec<Container>>, seen: &mut Seen) {
    let answer = match said {
        Ok(containers) => {
            let summary = runtimes::counted(containers.len());
            seen.containers.extend(containers);
            seen.complete.push(Owner::Podman);
            Ok(summary)
        }
        Err(error) => Err(NoAnswer { how: Missed::Silent, why: format!("{error:#}") }),
    };
    seen.asked.push(Asked { source: Source::Podman, place: "podman ps --all".to_owned(), answer });
}

/// Merges what the sources say of each container.
fn merge(all: Vec<Container>) -> Vec<Container> {
    let mut merged: Vec<Container> = Vec::new();
    let mut places: HashMap<(Owner, String), usize> = HashMap::new();
    for container in all {
        // Two roots of plain runc may each have a container with the same name.
        let is_plain = matches!(container.owner, Owner::Nobody | Owner::User);
        let key = (container.owner.clone(), container.id.clone());
        match places.get(&key).and_then(|at| merged.get_mut(*at)).filter(|_| !is_plain) {
            Some(known) => add(known, container),
            None => {
                places.insert(key, merged.len());
                merged.push(container);
            }
        }
    }
    merged
}

fn add(known: &mut Container, other: Container) {
    known.claims.extend(other.claims);
    known.is_sandbox |= other.is_sandbox;
    known.has_runc |= other.has_runc;
    known.is_recorded |= other.is_recorded;
    known.name = known.name.take().or(other.name);
    known.pod_uid = known.pod_uid.take().or(other.pod_uid);
    known.bundle = known.bundle.take().or(other.bundle);
    known.sandbox = known.sandbox.take().or(other.sandbox);
    known.state = known.state.take().or(other.state);
    known.cgroup = known.cgroup.take().or(other.cgroup);
    known.socket = known.socket.take().or(other.socket);
    let with_start = |init: &super::claim::Init| init.start.is_some();
    let recorded = known.init.filter(with_start).or(other.init.filter(with_start));
    known.init = recorded.or(known.init).or(other.init);
}

/// For containers that run according to CRI and have no pid from runtime or containerd. All of them
/// together get the time of one, or a CRI that hangs would take it for each.
fn ask_for_pids(seen: &mut Seen, patience: Patience) {
    let deadline = Instant::now() + patience.cri;
    let mut late = BTreeMap::new();
    for container in &mut seen.containers {
        let runs = container
            .claims
            .iter()
            .any(|claim| claim.source == Source::Cri && claim.status.needs_process());
        let is_asked = runs && container.init.is_none() && !container.is_only_a_pod();
        let Some(socket) = container.socket.clone().filter(|_| is_asked) else {
            continue;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            *late.entry(socket).or_insert(0) += 1;
        } else {
            container.init = kubernetes::believed(&socket, left, container);
        }
    }
    seen.asked.extend(late.into_iter().map(|(socket, count)| {
        let seconds = patience.cri.as_secs_f32();
        let of = runtimes::counted(count);
        let why = format!("no time left to ask for the pids of {of} ({seconds} s for all)");
        Asked::missed(Source::Cri, socket.display().to_string(), Missed::Silent, why)
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_asked_once_by_whatever_name_and_when_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, link) = (dir.path().join("c.sock"), dir.path().join("link"));
        let both = || there([socket.clone(), link.clone()].into_iter());
        assert!(both().is_empty());
        std::fs::write(&socket, "").unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        assert_eq!(both(), [socket.canonicalize().unwrap()]);
    }

    #[test]
    fn a_users_container_is_not_merged_and_a_later_init_replaces_none() {
        let init = |pid| Some(super::super::claim::Init { pid, start: Some(7) });
        let container = |owner: &Owner, pid| {
            let mut it = Container::new(owner.clone(), "web".to_owned());
            it.init = init(pid);
            it
        };
        let pids = |owner: Owner, other: Owner| -> Vec<i32> {
            let all = merge(vec![container(&owner, 1), container(&other, 2)]);
            all.iter().filter_map(|it| Some(it.init?.pid)).collect()
        };
        assert_eq!(pids(Owner::Crio, Owner::User), [1, 2]);
        assert_eq!(pids(Owner::User, Owner::User), [1, 2]);
        assert_eq!(pids(Owner::Crio, Owner::Crio), [1], "the first that was recorded stays");
    }

    #[test]
    fn a_containerd_that_was_stopped_is_not_absent() {
        let dir = tempfile::tempdir().unwrap();
        let [docker, k3s] = ["docker", "k3s"].map(|name| dir.path().join(name).join("c.sock"));
        let how = || no_containerd(&[&docker, &k3s]).answer.unwrap_err().how;
        std::fs::create_dir_all(k3s.with_file_name("fifo")).unwrap();
        assert_eq!(how(), Missed::Absent);
        std::fs::create_dir_all(k3s.with_file_name("io.containerd.runtime.v2.task")).unwrap();
        assert_eq!(how(), Missed::Silent);
    }

    #[test]
    fn a_cri_that_hangs_takes_the_time_of_one_container() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("cri.sock");
        let _mute = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let mut seen = Seen::default();
        for id in 0..20 {
            let owner = Owner::Containerd(KUBERNETES.to_owned());
            let mut container = Container::new(owner, id.to_string());
            let (said, place) = (String::new(), String::new());
            let status = super::super::claim::Status::Running;
            container.claims.push(Claim { source: Source::Cri, status, said, place });
            container.socket = Some(socket.clone());
            seen.containers.push(container);
        }
        let began = Instant::now();
        ask_for_pids(&mut seen, Patience::HASTY);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(seen.asked.iter().any(|asked| asked.answer.is_err()));
    }
}
