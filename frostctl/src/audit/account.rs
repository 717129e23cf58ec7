//! A divergence for people and programs: who says what, what is true, what to do.

use std::path::Path;

use cgroup::Freezer;
use serde::Serialize;

use super::claim::{Asked, Claim, Container, Fate, Owner, Source, Supervisor};
use super::judge::{Divergence, Kind, Subject};
use super::versions::Versions;
use super::{heal, runtimes, truth};
use crate::defects::{self, Defect};

/// Serialized as it is; the keys are stable.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Account {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    /// containerd's namespace.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) says: Vec<Claim>,
    pub(crate) evidence: Vec<String>,
    pub(crate) known_defects: Vec<&'static Defect>,
    pub(crate) remedy: Vec<String>,
}

pub(crate) fn of(divergence: &Divergence, versions: &mut Versions) -> Account {
    let container = divergence.container();
    Account {
        kind: divergence.kind,
        id: divergence.id().to_owned(),
        namespace: container.and_then(|it| it.owner.namespace()).map(str::to_owned),
        name: divergence.name().map(str::to_owned),
        says: container.map_or_else(Vec::new, |it| it.claims.clone()),
        evidence: evidence(divergence),
        known_defects: defects::of_symptom(&versions.symptom(divergence)),
        remedy: remedy(divergence),
    }
}

/// At most this many processes are named.
const MOST_NAMED: usize = 5;

fn evidence(divergence: &Divergence) -> Vec<String> {
    let mut lines = Vec::new();
    match &divergence.subject {
        Subject::Container(container) => {
            lines.extend(of_init(container));
            lines.extend(of_freezer(container));
            if let Some(cgroup) = &container.cgroup {
                lines.push(format!("cgroup {cgroup}: {}", population(container)));
            }
            if container.claims.is_empty() {
                lines.push("no runtime and no engine that was asked has this id".to_owned());
            }
        }
        Subject::Engine(asked) => {
            lines.push(format!("{} does not answer: {}", asked.source.name(), asked.what));
            lines.push("its view of its containers is unknown, so it was not compared".to_owned());
        }
    }
    lines.extend(of_supervisor(divergence));
    lines
}

fn of_init(container: &Container) -> Option<String> {
    let init = container.init?;
    let pid = init.pid;
    Some(match container.truth.fate {
        Fate::Unknown => return None,
        Fate::Alive => format!("its first process {} is alive", truth::named(pid)),
        Fate::Gone => format!("its first process {pid} is gone: there is no /proc/{pid}"),
        Fate::Reused => {
            let start = init.start.map_or_else(String::new, |start| {
                format!(": the first process started at tick {start}, this one at another")
            });
            format!("its pid {pid} now belongs to another process, {}{start}", truth::named(pid))
        }
        Fate::Zombie { parent } => {
            let parent = parent.map_or_else(String::new, |parent| {
                format!("; its parent, {}, has not reaped it", truth::named(parent))
            });
            format!("its first process {pid} is a zombie{parent}")
        }
    })
}

fn of_freezer(container: &Container) -> Option<String> {
    let state = match container.truth.freezer {
        Freezer::Frozen => "FROZEN",
        Freezer::Freezing => "FREEZING",
        Freezer::Thawed | Freezer::Unknown => return None,
    };
    let place = container.truth.frozen_at.as_deref().unwrap_or(Path::new("its cgroup"));
    let whose = if container.truth.frozen_itself { "" } else { ", above it," };
    Some(format!("{state}: {}{whose} was told to freeze", place.display()))
}

fn population(container: &Container) -> String {
    let truth = &container.truth;
    // For a cgroup that is shared, or whose processes appear only in another hierarchy.
    let members = if truth.members.is_empty() { &truth.inhabitants } else { &truth.members };
    let rest = if truth.is_cut { ", and not all of it was read" } else { "" };
    if members.is_empty() {
        return format!("no living process{rest}");
    }
    let mut named: Vec<String> =
        members.iter().take(MOST_NAMED).map(|process| truth::named(process.pid)).collect();
    if members.len() > MOST_NAMED {
        named.push("...".to_owned());
    }
    format!("{} living: {}{rest}", members.len(), named.join(", "))
}

fn of_supervisor(divergence: &Divergence) -> Option<String> {
    let Some(Supervisor { process, name, stopped, .. }) = divergence.supervisor() else {
        let is_orphan = divergence.kind == Kind::Orphan;
        return is_orphan.then(|| "no shim and no conmon is above it".to_owned());
    };
    let state = match stopped {
        true => "is stopped: it notices nothing until it gets SIGCONT",
        false => "is above it",
    };
    Some(format!("{name} ({}) {state}", process.pid))
}

/// What a person can do. If `heal` acts on this kind, the first line is the command for it.
fn remedy(divergence: &Divergence) -> Vec<String> {
    let container = match &divergence.subject {
        Subject::Container(container) => container,
        Subject::Engine(asked) => return vec![of_engine(asked)],
    };
    if container.owner == Owner::User {
        return vec![heal::A_USERS.to_owned()];
    }
    let id = quoted(&container.id);
    let mut lines = Vec::new();
    match divergence.kind {
        Kind::Phantom | Kind::Disagreement => {
            if divergence.kind == Kind::Phantom {
                lines.push("frostctl audit --heal".to_owned());
            }
            let stopped = divergence.supervisor().filter(|shim| shim.stopped);
            lines.extend(stopped.map(|shim| format!("kill -CONT {}", shim.process.pid)));
            lines.extend(by_hand(container, &id));
            // podman 4.3 then says "Stopping" forever, and neither starts nor stops the container.
            let is_lost = container.owner == Owner::Podman && container.truth.supervisor.is_none();
            lines.extend(is_lost.then(|| {
                format!(
                    "podman rm --force {id}, if nothing else helps: it removes the container's \
                         files, too"
                )
            }));
        }
        Kind::Orphan => lines.push("frostctl audit --kill-orphans".to_owned()),
        Kind::StoppedButPopulated => {
            lines.push("frostctl audit --heal --kill-orphans".to_owned());
            lines.extend(by_runtime(container, &format!("delete --force {id}")));
        }
        Kind::FrozenButRunning => lines.push(thaw(container, &id)),
        Kind::StoppedSupervisor => lines
            .extend(divergence.supervisor().map(|shim| format!("kill -CONT {}", shim.process.pid))),
        Kind::Unanswered => {}
    }
    lines
}

fn of_engine(asked: &Asked) -> String {
    match asked.source {
        Source::Podman => "podman ps --all, which says what is wrong".to_owned(),
        Source::Crio => "systemctl status crio; journalctl -u crio; if it hangs, restart it: \
                         containers keep running"
            .to_owned(),
        _ => "systemctl status containerd; journalctl -u containerd; if it hangs, restart it: \
              containers keep running"
            .to_owned(),
    }
}

fn by_hand(container: &Container, id: &str) -> Option<String> {
    let socket = container.socket.as_deref();
    match &container.owner {
        owner if owner.is_kubernetes() => {
            let stop = if container.is_sandbox { "stopp" } else { "stop" };
            // crictl's default endpoint is containerd's.
            let socket = socket.filter(|_| *owner == Owner::Crio);
            let endpoint = socket.map(|it| format!("--runtime-endpoint unix://{} ", it.display()));
            Some(format!("crictl {}{stop} {id}", endpoint.unwrap_or_default()))
        }
        Owner::Podman => {
            let is_lost = container.truth.supervisor.is_none();
            let stop = if is_lost { format!("podman stop --time 1 {id}; ") } else { String::new() };
            Some(format!("{stop}podman container cleanup {id}"))
        }
        Owner::Containerd(namespace) => {
            let socket = socket.unwrap_or(Path::new("/run/containerd/containerd.sock"));
            let (socket, namespace) = (quoted(&socket.to_string_lossy()), quoted(namespace));
            let at = format!("--address {socket} --namespace {namespace}");
            Some(format!("ctr {at} task delete --force {id}"))
        }
        Owner::Unknown => None,
        _ => by_runtime(container, &format!("delete --force {id}")),
    }
}

fn by_runtime(container: &Container, what: &str) -> Option<String> {
    let state = container.state.as_ref()?;
    let (binary, root) = (state.binary.to_string_lossy(), state.root.to_string_lossy());
    Some(format!("{} --root {} {what}", quoted(&binary), quoted(&root)))
}

/// frostctl thaws nothing by itself: the freeze may be somebody's pause.
fn thaw(container: &Container, id: &str) -> String {
    let resumed = by_runtime(container, &format!("resume {id}"));
    resumed.filter(|_| container.truth.frozen_itself).unwrap_or_else(|| {
        let place = container.truth.frozen_at.as_deref().map(Path::to_string_lossy);
        format!("frostctl doctor --fix --thaw {}", quoted(&place.unwrap_or_default()))
    })
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let is_path =
        |word: &str| word.split('/').all(|part| part.is_empty() || runtimes::is_plain(part));
    if is_path(word) && !word.is_empty() {
        return word.to_owned();
    }
    if word.chars().any(char::is_control) {
        return format!("$'{}'", word.chars().map(in_dollar_quotes).collect::<String>());
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn in_dollar_quotes(c: char) -> String {
    match c {
        '\'' | '\\' => format!("\\{c}"),
        c if c.is_control() => {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes).bytes().map(|byte| format!("\\x{byte:02x}")).collect()
        }
        c => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_population_that_was_not_read_to_its_end_says_so() {
        let mut it = Container::new(Owner::Nobody, "web".to_owned());
        it.truth.is_cut = true;
        assert_eq!(population(&it), "no living process, and not all of it was read");
    }

    #[test]
    fn words_are_fit_for_a_shell() {
        assert_eq!(quoted("/run/runc"), "/run/runc");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted("a\nb"), "$'a\\x0ab'");
        assert_eq!(quoted(""), "''");
    }
}
