//! One look at everything: all sources at once, each for a bounded time, none required.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use cgroup::bundle::Bundle;
use cgroup::{Hierarchies, Proc};
use frostlock_cri::Client;
use state::remains;
use state::state_dir::StateDir;

use super::claim::{
    Asked, Container, KUBERNETES, Missed, NoAnswer, Owner, Root, Seen, Source, Status, counted,
};
use super::containerd::{Containerd, Limits};
use super::{crio, kubernetes, podman, runtimes, strays, supervisor, truth};
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

pub(crate) fn look(places: &Places, patience: Patience) -> anyhow::Result<Seen> {
    let mounts = Hierarchies::read(&Proc::default()).context("/proc/self/mountinfo")?;
    let mut seen = Seen::default();
    let sockets = places.sockets_now();
    if sockets.is_empty() {
        seen.asked.push(no_containerd(&SOCKETS.map(Path::new)));
    }
    if !places.podman {
        let why = "root has never used it here";
        seen.asked.push(Asked::missed(Source::Podman, podman::PLACE, Missed::Absent, why));
    }
    let crios = crio::running();
    thread::scope(|scope| {
        let containerds = sockets.iter();
        let mut asked: Vec<_> =
            containerds.map(|it| scope.spawn(move || ask_containerd(it, patience))).collect();
        asked.extend(crios.iter().map(|it| scope.spawn(move || it.ask(patience.cri))));
        asked.extend(places.podman.then(|| scope.spawn(move || podman::look(patience.podman))));
        asked.into_iter().filter_map(|it| it.join().ok()).for_each(|part| seen.add(part));
    });
    let of_crio = crios.iter().flat_map(crio::Crio::roots).map(Path::to_owned);
    let more = places.roots.iter().cloned().chain(of_crio).chain(runtimes::usual_roots());
    seen.roots.extend(more.map(|path| Root { path, binary: None }));
    let mut known = HashSet::new();
    for root in std::mem::take(&mut seen.roots) {
        if known.insert(root.path.clone()) {
            seen.add(runtimes::look(&root, &mounts));
        }
    }
    if let Some(crio) = crio::missing(&crios, &seen.containers) {
        seen.add(crio.ask(patience.cri));
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
    container.name = bundle.and_then(|bundle| bundle.pod.path());
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

fn ask_containerd(socket: &Path, patience: Patience) -> Seen {
    let place = socket.display().to_string();
    let own = supervisor::check_peer(socket)
        .and_then(|()| Containerd::at(socket)?.look(patience.containerd))
        .map_err(|error| NoAnswer::of(socket, format!("{error:#}")));
    let mut seen = Seen::of(Source::Containerd, place.as_str(), own);
    if seen.complete.iter().any(Owner::is_kubernetes) {
        let pods = pods(socket, patience.cri).transpose();
        let pods = pods.map(|it| it.map_err(|error| NoAnswer::of(socket, error.to_string())));
        seen.add(pods.map_or_else(Seen::default, |pods| Seen::of(Source::Cri, place, pods)));
    }
    seen
}

/// Asks the containerd at this socket; `None` if it has no CRI.
fn pods(socket: &Path, limit: Duration) -> Result<Option<(String, Seen)>, frostlock_cri::Error> {
    let client = Client::lazy(socket)?.at_most(limit);
    kubernetes::look(&client, &Owner::Containerd(KUBERNETES.to_owned()))
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
        let runs = container.status(Source::Cri).is_some_and(Status::needs_process);
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
        let of = counted(count);
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
        let how = || no_containerd(&[&docker, &k3s]).missed.unwrap();
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
            let status = Status::Running;
            container.claims.push(super::super::claim::Claim {
                source: Source::Cri,
                status,
                said,
                place,
            });
            container.socket = Some(socket.clone());
            seen.containers.push(container);
        }
        let began = Instant::now();
        ask_for_pids(&mut seen, Patience::HASTY);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(seen.asked.iter().any(|asked| !asked.answered));
    }
}
