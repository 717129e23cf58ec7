//! What each program says about a container, and what is true.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cgroup::process::Process;
use cgroup::{Freezer, Identity};
use serde::Serialize;

/// Who makes a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    Runtime,
    Containerd,
    Cri,
    Podman,
    /// CRI-O itself; its claims about containers have [`Source::Cri`].
    Crio,
    Kernel,
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Source::Runtime => "runtime",
            Source::Containerd => "containerd",
            Source::Cri => "CRI",
            Source::Podman => "podman",
            Source::Crio => "CRI-O",
            Source::Kernel => "kernel",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
    /// The source has the container but does not know its status: the shim does not answer.
    Silent,
    Unknown,
}

impl Status {
    /// Whether a container with this status must have a process.
    pub(crate) fn needs_process(self) -> bool {
        matches!(self, Status::Running | Status::Paused | Status::Silent)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Claim {
    pub(crate) source: Source,
    pub(crate) status: Status,
    /// In the source's own words.
    pub(crate) said: String,
    /// A socket, a file or a command: where the source can be asked again.
    pub(crate) place: String,
}

/// To whom the container belongs, as far as its paths tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    #[default]
    Nobody,
    /// A containerd namespace.
    Containerd(String),
    Podman,
    Crio,
    /// Another user, whose files may say anything.
    User,
    /// An engine that frostctl does not know.
    Unknown,
}

impl Owner {
    pub(crate) fn namespace(&self) -> Option<&str> {
        match self {
            Owner::Containerd(namespace) => Some(namespace),
            Owner::Nobody | Owner::Podman | Owner::Crio | Owner::User | Owner::Unknown => None,
        }
    }

    /// Whether kubelet manages this owner's containers.
    pub(crate) fn is_kubernetes(&self) -> bool {
        *self == Owner::Crio || self.namespace() == Some(KUBERNETES)
    }
}

/// The containerd namespace that CRI uses.
pub(crate) const KUBERNETES: &str = "k8s.io";

/// A runtime's `--root`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    pub(crate) binary: Option<PathBuf>,
}

/// Where the runtime keeps the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuntimeState {
    pub(crate) root: PathBuf,
    /// A name, or a path if containerd knows the path.
    pub(crate) binary: PathBuf,
    /// The runtime has put the container into no cgroup, as with podman's `--cgroups=disabled`.
    pub(crate) has_no_cgroup: bool,
}

/// The first process, as it was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Init {
    pub(crate) pid: i32,
    /// Only the runtime records it. Without it, a reused pid looks alive, unless its cgroup gives
    /// it away.
    pub(crate) start: Option<u64>,
}

/// What became of the first process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nobody has said which process it was.
    #[default]
    Unknown,
    Alive,
    /// Dead, but not yet reaped by its parent.
    Zombie {
        parent: Option<i32>,
    },
    Gone,
    /// The pid now belongs to another process.
    Reused,
}

impl Fate {
    pub(crate) fn is_dead(self) -> bool {
        matches!(self, Fate::Zombie { .. } | Fate::Gone | Fate::Reused)
    }
}

/// The process that must notice a container's end: a shim, a conmon, or of a living container what an
/// engine has that frostctl does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Supervisor {
    pub(crate) process: Process,
    pub(crate) name: String,
    /// The socket of its containerd, as given on the shim's command line.
    pub(crate) address: Option<PathBuf>,
    /// Stopped by a signal or a debugger: it notices nothing.
    pub(crate) stopped: bool,
    /// It is in another mount namespace, so that its paths are not ours, or it is not known.
    pub(crate) foreign: bool,
}

/// What the kernel says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) fate: Fate,
    pub(crate) supervisor: Option<Supervisor>,
    /// Living processes in the cgroup and below it; empty if other containers share the cgroup.
    pub(crate) members: Vec<Process>,
    pub(crate) freezer: Freezer,
    /// The cgroup that was told to freeze: the container's own directory or one above it.
    pub(crate) frozen_at: Option<PathBuf>,
    /// The container's own cgroup was told to freeze, not only one above it.
    pub(crate) frozen_itself: bool,
    /// frostlock's record says that it was paused.
    pub(crate) paused_on_record: bool,
    /// Other containers have the same cgroup or one below it, or frostctl itself is in it.
    pub(crate) shared: bool,
    /// All living processes in the cgroup and below it, in any hierarchy, whoever owns them.
    pub(crate) inhabitants: Vec<Process>,
    /// The names of the systemd units that these processes are in.
    pub(crate) units: Vec<String>,
    /// There are more processes or cgroups than were read.
    pub(crate) is_cut: bool,
    /// It is a pod's sandbox, and containers of the pod run.
    pub(crate) pod_lives: bool,
}

/// One container, as each source sees it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) owner: Owner,
    /// `namespace/pod/container` in Kubernetes.
    pub(crate) name: Option<String>,
    pub(crate) pod_uid: Option<String>,
    /// The directory of its configuration, which names the container if no source does.
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) is_sandbox: bool,
    /// The pod that it is in; the pod's shim is also this container's shim.
    pub(crate) sandbox: Option<String>,
    pub(crate) claims: Vec<Claim>,
    pub(crate) state: Option<RuntimeState>,
    /// frostctl can read its runtime's files: it is not kata or gVisor.
    pub(crate) has_runc: bool,
    /// containerd has a record of the container, with or without a task.
    pub(crate) is_recorded: bool,
    pub(crate) init: Option<Init>,
    pub(crate) cgroup: Option<Identity>,
    /// The socket of the containerd or CRI-O that has the container, or should have it.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) truth: Truth,
}

impl Container {
    pub(crate) fn new(owner: Owner, id: String) -> Container {
        Container { id, owner, ..Container::default() }
    }

    pub(crate) fn status(&self, source: Source) -> Option<Status> {
        self.claims.iter().find(|claim| claim.source == source).map(|claim| claim.status)
    }

    /// Claims of the sources above the runtime, each of which keeps its own state and can be wrong.
    pub(crate) fn managers(&self) -> impl Iterator<Item = &Claim> {
        self.claims.iter().filter(|claim| claim.source != Source::Runtime)
    }

    /// A CRI-O pod without an infra container: it has no process.
    pub(crate) fn is_only_a_pod(&self) -> bool {
        self.owner == Owner::Crio && self.is_sandbox && self.state.is_none()
    }

    /// Its runtime has it in a cgroup, but we do not know in which, so nobody can be seen to live there.
    /// The root is not one that a runtime makes.
    pub(crate) fn has_an_unknown_cgroup(&self) -> bool {
        let is_known = self.cgroup.as_ref().is_some_and(|cgroup| !cgroup.is_root());
        !is_known && self.state.as_ref().is_some_and(|state| !state.has_no_cgroup)
    }

    pub(crate) fn is_in_use(&self) -> bool {
        self.truth.fate == Fate::Alive
    }
}

/// The answer of one source that was asked. Serialized as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Asked {
    pub(crate) source: Source,
    pub(crate) place: String,
    pub(crate) answered: bool,
    /// How it was missed, if it did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) missed: Option<Missed>,
    /// A summary of what it has, or why there is no answer.
    pub(crate) what: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoAnswer {
    pub(crate) how: Missed,
    pub(crate) why: String,
}

impl NoAnswer {
    /// For a socket: access rights decide whether the socket's owner or frostctl is at fault.
    pub(crate) fn of(socket: &Path, why: String) -> NoAnswer {
        let may_ask = rustix::fs::access(socket, rustix::fs::Access::WRITE_OK);
        let how = match may_ask {
            Err(rustix::io::Errno::ACCESS) => Missed::Denied,
            _ => Missed::Silent,
        };
        NoAnswer { how, why }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Missed {
    /// It is there, or must be, and does not answer.
    Silent,
    /// frostctl has no permission to ask it.
    Denied,
    /// It is there, but frostctl has no way to ask it.
    NotAsked,
    /// It was never there.
    Absent,
}

impl Asked {
    pub(crate) fn missed(
        source: Source,
        place: impl Into<String>,
        how: Missed,
        why: impl Into<String>,
    ) -> Asked {
        let (place, what) = (place.into(), why.into());
        Asked { source, place, answered: false, missed: Some(how), what }
    }

    /// Whether its claims are only missing at the moment.
    pub(crate) fn may_answer_later(&self) -> bool {
        matches!(self.missed, Some(Missed::Silent | Missed::Denied))
    }

    /// Whether it may have claims that are missing.
    pub(crate) fn is_missed(&self) -> bool {
        self.missed.is_some_and(|how| how != Missed::Absent)
    }
}

/// Everything that one look saw, or one source's part of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) containers: Vec<Container>,
    /// Processes in a cgroup named like a container's that belongs to no known container.
    pub(crate) strays: Vec<Container>,
    pub(crate) asked: Vec<Asked>,
    /// For example, files that could not be read.
    pub(crate) notes: Vec<String>,
    /// The version of each containerd that answered, by its socket.
    pub(crate) versions: BTreeMap<PathBuf, String>,
    /// Where runtimes keep the containers of these sources.
    pub(crate) roots: Vec<Root>,
    /// Owners whose containers are all known.
    pub(crate) complete: Vec<Owner>,
    /// Engines that run but whose containers are not known.
    pub(crate) unread: Vec<String>,
}

impl Seen {
    /// What a source has, with a summary, or why it did not answer.
    pub(crate) fn of(
        source: Source,
        place: impl Into<String>,
        answer: Result<(String, Seen), NoAnswer>,
    ) -> Seen {
        match answer {
            Ok((what, mut seen)) => {
                let place = place.into();
                seen.asked.push(Asked { source, place, answered: true, missed: None, what });
                seen
            }
            Err(NoAnswer { how, why }) => {
                Seen { asked: vec![Asked::missed(source, place, how, why)], ..Seen::default() }
            }
        }
    }

    pub(crate) fn add(&mut self, part: Seen) {
        self.containers.extend(part.containers);
        self.asked.extend(part.asked);
        self.notes.extend(part.notes);
        self.versions.extend(part.versions);
        self.roots.extend(part.roots);
        self.complete.extend(part.complete);
    }
}

pub(crate) fn counted(containers: usize) -> String {
    format!("{containers} container{}", if containers == 1 { "" } else { "s" })
}
