//! What each program says of a container, and what is true of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cgroup::process::Process;
use cgroup::{Freezer, Identity};
use serde::Serialize;

/// Who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    Runtime,
    Containerd,
    Cri,
    Podman,
    /// Itself; what it says of its containers is of [`Source::Cri`].
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
    /// It has the container, and cannot say: its shim does not answer.
    Silent,
    Unknown,
}

impl Status {
    /// Whether there has to be a process.
    pub(crate) fn needs_process(self) -> bool {
        matches!(self, Status::Running | Status::Paused | Status::Silent)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Claim {
    pub(crate) source: Source,
    pub(crate) status: Status,
    /// In its own word.
    pub(crate) said: String,
    /// A socket, a file or a command: where it can be asked again.
    pub(crate) place: String,
}

/// To whom the container belongs, as far as its places tell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    Nobody,
    /// A namespace of containerd's.
    Containerd(String),
    Podman,
    Crio,
    /// An engine that is not known here.
    Unknown,
}

impl Owner {
    pub(crate) fn namespace(&self) -> Option<&str> {
        match self {
            Owner::Containerd(namespace) => Some(namespace),
            Owner::Nobody | Owner::Podman | Owner::Crio | Owner::Unknown => None,
        }
    }

    /// kubelet stands behind these.
    pub(crate) fn is_kubernetes(&self) -> bool {
        *self == Owner::Crio || self.namespace() == Some(KUBERNETES)
    }
}

/// The namespace of containerd that its CRI uses.
pub(crate) const KUBERNETES: &str = "k8s.io";

/// Where the runtime keeps the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuntimeState {
    pub(crate) root: PathBuf,
    /// A name, or a path where containerd knows it.
    pub(crate) binary: PathBuf,
}

/// The first process, as it was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Init {
    pub(crate) pid: i32,
    /// Only the runtime writes it down; without it a pid that is another's by now looks alive, unless
    /// its cgroup tells.
    pub(crate) start: Option<u64>,
}

/// What became of the first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nobody has said which it was.
    Unknown,
    Alive,
    /// Dead, and its parent has not taken note.
    Zombie {
        parent: Option<i32>,
    },
    Gone,
    /// Its pid is another process's.
    Reused,
}

impl Fate {
    pub(crate) fn is_dead(self) -> bool {
        matches!(self, Fate::Zombie { .. } | Fate::Gone | Fate::Reused)
    }
}

/// A shim, or conmon: who has to take note of a container's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Supervisor {
    pub(crate) process: Process,
    pub(crate) name: String,
    /// The socket of its containerd, as it knows it.
    pub(crate) address: Option<PathBuf>,
    /// Stopped by a signal or a debugger: it takes note of nothing.
    pub(crate) stopped: bool,
    /// It has other mounts than we: its paths are not ours.
    pub(crate) foreign: bool,
}

/// What the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) fate: Fate,
    pub(crate) supervisor: Option<Supervisor>,
    /// Living processes in the cgroup and in those below it; nothing where it is shared with others.
    pub(crate) members: Vec<Process>,
    pub(crate) freezer: Freezer,
    /// The cgroup that was told to freeze: its own directory or one above it.
    pub(crate) frozen_at: Option<PathBuf>,
    /// By its own wish, and not for one above it.
    pub(crate) frozen_itself: bool,
    /// Paused through frostlock, which wrote it down.
    pub(crate) paused_on_record: bool,
    /// Others of these containers have the same cgroup.
    pub(crate) shared: bool,
    /// All living processes in the cgroup and below it, in whatever hierarchy, whosever they are.
    pub(crate) inhabitants: Vec<Process>,
    /// The units of systemd that these are in, by their names.
    pub(crate) units: Vec<String>,
}

impl Default for Truth {
    fn default() -> Truth {
        Truth {
            fate: Fate::Unknown,
            supervisor: None,
            members: Vec::new(),
            freezer: Freezer::Unknown,
            frozen_at: None,
            frozen_itself: false,
            paused_on_record: false,
            shared: false,
            inhabitants: Vec::new(),
            units: Vec::new(),
        }
    }
}

/// One container, as everybody sees it.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) owner: Owner,
    /// `namespace/pod/container` in Kubernetes.
    pub(crate) name: Option<String>,
    pub(crate) pod_uid: Option<String>,
    /// Where its configuration is, which names it if nobody else does.
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) is_sandbox: bool,
    /// The pod that it is in, whose shim is its own.
    pub(crate) sandbox: Option<String>,
    pub(crate) claims: Vec<Claim>,
    pub(crate) state: Option<RuntimeState>,
    /// Its runtime is one whose files we can read: not kata's or gVisor's.
    pub(crate) has_runc: bool,
    /// containerd has a record of it, with or without a task.
    pub(crate) is_recorded: bool,
    pub(crate) init: Option<Init>,
    pub(crate) cgroup: Option<Identity>,
    /// The socket of the containerd or the CRI-O that has it, or should.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) truth: Truth,
}

impl Container {
    pub(crate) fn new(owner: Owner, id: String) -> Container {
        Container {
            id,
            owner,
            name: None,
            pod_uid: None,
            bundle: None,
            is_sandbox: false,
            sandbox: None,
            claims: Vec::new(),
            state: None,
            has_runc: false,
            is_recorded: false,
            init: None,
            cgroup: None,
            socket: None,
            truth: Truth::default(),
        }
    }

    pub(crate) fn status(&self, source: Source) -> Option<Status> {
        self.claims.iter().find(|claim| claim.source == source).map(|claim| claim.status)
    }

    /// Of those above the runtime, who have a state of their own to be wrong in.
    pub(crate) fn managers(&self) -> impl Iterator<Item = &Claim> {
        self.claims.iter().filter(|claim| claim.source != Source::Runtime)
    }

    /// A pod of CRI-O's that needs no infra container: nothing of it runs.
    pub(crate) fn is_only_a_pod(&self) -> bool {
        self.owner == Owner::Crio && self.is_sandbox && self.state.is_none()
    }

    pub(crate) fn is_in_use(&self) -> bool {
        self.truth.fate == Fate::Alive
    }
}

/// Processes in a container's cgroup that is nobody's.
#[derive(Debug, Clone)]
pub(crate) struct Stray {
    pub(crate) id: String,
    /// As far as its pod tells.
    pub(crate) name: Option<String>,
    pub(crate) cgroup: Identity,
    pub(crate) members: Vec<Process>,
    pub(crate) supervisor: Option<Supervisor>,
}

/// How it went with one of those that were asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) source: Source,
    pub(crate) place: String,
    /// What it is, or why there is no answer.
    pub(crate) answer: Result<String, NoAnswer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoAnswer {
    pub(crate) how: Missed,
    pub(crate) why: String,
}

impl NoAnswer {
    /// Of a socket that was asked: the fault may be its owner's or ours.
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
    /// It is there, or has to be, and does not answer.
    Silent,
    /// We may not ask it.
    Denied,
    /// It is there, and we know no way to ask it.
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
        Asked { source, place: place.into(), answer: Err(NoAnswer { how, why: why.into() }) }
    }

    /// Whether what it says is only not known just now.
    pub(crate) fn may_answer_later(&self) -> bool {
        self.answer.as_ref().is_err_and(|it| matches!(it.how, Missed::Silent | Missed::Denied))
    }

    /// Whether it has something to say that is not known.
    pub(crate) fn is_missed(&self) -> bool {
        self.answer.as_ref().is_err_and(|it| it.how != Missed::Absent)
    }
}

/// Everything that was seen at one look.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) containers: Vec<Container>,
    pub(crate) strays: Vec<Stray>,
    pub(crate) asked: Vec<Asked>,
    /// Files that could not be read, and the like.
    pub(crate) notes: Vec<String>,
    /// What each containerd that answered is, by its socket.
    pub(crate) versions: BTreeMap<PathBuf, String>,
    /// Owners of whom all containers are known.
    pub(crate) complete: Vec<Owner>,
    /// Engines that run and whose containers are not known.
    pub(crate) unread: Vec<String>,
    /// The sockets that answered.
    pub(crate) answered: Vec<PathBuf>,
}
