//! The shim or conmon above a container.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use cgroup::process::{self, Process};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use super::claim::{Container, Fate, Supervisor};
use super::naming;
use crate::node::containerd::SOCKETS;

/// This node's shims, by the namespace and the id on their command lines.
pub(crate) type Shims = HashMap<(String, String), Supervisor>;

/// Found above the first process or its zombie, or else by the shims' command lines, which are read once
/// for all containers.
pub(crate) fn of_container(
    container: &Container,
    fate: Fate,
    shims: &LazyCell<Shims>,
) -> Option<Supervisor> {
    let init = container.init?;
    match fate {
        Fate::Alive => above(init.pid).or_else(|| stranger(&[init.pid])),
        Fate::Zombie { .. } => above(init.pid),
        Fate::Unknown | Fate::Gone | Fate::Reused => by_command_line(container, shims),
    }
}

/// The nearest supervisor among the ancestors of a process.
pub(crate) fn above(pid: i32) -> Option<Supervisor> {
    let above = process::ancestors(pid).into_iter().skip(1);
    above.filter(|pid| *pid > 1).find_map(supervisor)
}

/// What has these processes for children and is not one of them: an engine that frostctl does not know.
/// Not so pid 1, a systemd, and the first process of a pod whose containers share its pid namespace: the
/// kernel gives them the children of the dead. `pids` are sorted.
pub(crate) fn stranger(pids: &[i32]) -> Option<Supervisor> {
    let parents = pids.iter().filter_map(|pid| process::parent_of(*pid));
    let others = parents.filter(|pid| *pid > 1 && pids.binary_search(pid).is_err());
    others.filter(|pid| !naming::is_in_container(*pid)).find_map(|pid| {
        let name = process::comm(pid).filter(|name| name != "systemd")?;
        let process = Process::of(pid)?;
        Some(Supervisor { process, name, address: None, stopped: false, foreign: true })
    })
}

fn supervisor(pid: i32) -> Option<Supervisor> {
    let name = process::comm(pid)?;
    // The kernel keeps 15 bytes: containerd-shim-runc-v2 is "containerd-shim".
    if !is_supervisor(&name) {
        return None;
    }
    let process = Process::of(pid)?;
    let line = command_line(pid);
    let address = after(&line, b"-address").map(|word| PathBuf::from(OsStr::from_bytes(word)));
    let foreign = is_elsewhere(pid);
    // docker's shims have a path in /var/run, which is a symlink.
    let resolved = address.as_ref().filter(|_| !foreign).and_then(|it| it.canonicalize().ok());
    let stopped = matches!(process.state(), Some('T' | 't'));
    Some(Supervisor { process, name, address: resolved.or(address), stopped, foreign })
}

impl Supervisor {
    pub(crate) fn is_a_stranger(&self) -> bool {
        !is_supervisor(&self.name)
    }
}

/// conmon-rs calls itself `conmonrs`, and distributions build conmon under other names.
fn is_supervisor(name: &str) -> bool {
    name.starts_with("containerd-shim") || name.starts_with("conmon")
}

/// This node's shims and conmons. Any process can take the name of one, and the answer at its socket names
/// programs.
fn all() -> impl Iterator<Item = Supervisor> {
    let named = pids().filter_map(supervisor);
    named.filter(|it| !it.foreign && process::is_trusted(it.process.pid))
}

/// The containerd sockets on the command lines of this node's shims.
pub(crate) fn addresses() -> impl Iterator<Item = PathBuf> {
    all().filter_map(|shim| shim.address)
}

pub(crate) fn shims() -> Shims {
    all().filter_map(|shim| Some((task(&command_line(shim.process.pid))?, shim))).collect()
}

/// A shim is started with `-namespace NAMESPACE -id ID`; a pod's shim has the pod's id.
fn task(line: &[u8]) -> Option<(String, String)> {
    let text = |option| Some(String::from_utf8_lossy(after(line, option)?).into_owned());
    Some((text(b"-namespace")?, text(b"-id")?))
}

/// How many supervisors do not let us read their mount namespace.
pub(crate) fn unplaced() -> usize {
    let is_supervisor = |pid: &i32| process::comm(*pid).is_some_and(|it| is_supervisor(&it));
    let is_hidden = |pid: &i32| {
        mount_namespace(&pid.to_string())
            .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    pids().filter(is_supervisor).filter(is_hidden).count()
}

pub(crate) fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn command_line(pid: i32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// The word after an option of a command line.
fn after<'a>(line: &'a [u8], option: &[u8]) -> Option<&'a [u8]> {
    line.split(|byte| *byte == 0).skip_while(|word| *word != option).nth(1)
}

/// Whether a process is in another mount namespace than both ours and pid 1's. A unit with ProtectSystem=
/// has its own, on top of the node's files.
pub(crate) fn is_elsewhere(pid: i32) -> bool {
    let its = mount_namespace(&pid.to_string()).ok();
    let ours = ["self", "1"].map(|who| mount_namespace(who).ok());
    is_foreign(its.as_deref(), [ours[0].as_deref(), ours[1].as_deref()])
}

/// Foreign: neither our namespace nor pid 1's. An unreadable namespace counts as foreign.
fn is_foreign(its: Option<&Path>, ours: [Option<&Path>; 2]) -> bool {
    its.is_none() || !ours.contains(&its)
}

fn mount_namespace(who: &str) -> std::io::Result<PathBuf> {
    fs::read_link(Path::new("/proc").join(who).join("ns/mnt"))
}

/// In another pid namespace than the engines', no process is visible: every container would look
/// dead.
pub(crate) fn check_processes() -> anyhow::Result<()> {
    let elsewhere = SOCKETS.into_iter().find(|socket| has_unseen_owner(Path::new(socket)));
    match elsewhere {
        Some(socket) => anyhow::bail!(
            "the process that answers {socket} is not visible from here, so nothing was audited: \
             run frostctl on the node, or in a container with hostPID"
        ),
        None => Ok(()),
    }
}

/// To a reader in another pid namespace, the kernel reports the listener's pid as 0.
fn has_unseen_owner(socket: &Path) -> bool {
    let Ok(stream) = std::os::unix::net::UnixStream::connect(socket) else { return false };
    getsockopt(&stream, PeerCredentials).is_ok_and(|peer| peer.pid() == 0)
}

/// An answer names programs that we run and containers that we end: the listener must be root's or our own.
pub(crate) fn check_peer(socket: &Path) -> anyhow::Result<()> {
    // One that cannot be reached is reported by who asks it.
    let Ok(stream) = std::os::unix::net::UnixStream::connect(socket) else { return Ok(()) };
    let uid = getsockopt(&stream, PeerCredentials)?.uid();
    anyhow::ensure!(
        [0, nix::unistd::geteuid().as_raw()].contains(&uid),
        "it is not asked: it is answered by a process of uid {uid}"
    );
    Ok(())
}

/// Without readable mount namespaces every shim is foreign, and what is below shims is not counted.
pub(crate) fn check_namespaces() -> anyhow::Result<()> {
    check_processes()?;
    mount_namespace("1")
        .map(drop)
        .context("/proc/1/ns/mnt: telling which shims are this node's needs CAP_SYS_PTRACE")
}

fn by_command_line(container: &Container, shims: &Shims) -> Option<Supervisor> {
    let namespace = container.owner.namespace()?;
    let mut ids = [Some(&container.id), container.sandbox.as_ref()].into_iter().flatten();
    ids.find_map(|id| shims.get(&(namespace.to_owned(), id.clone())).cloned())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::claim::{Init, Owner};
    use super::*;

    thread_local!(static READ: Cell<usize> = const { Cell::new(0) });

    #[test]
    fn the_shims_are_read_once_for_all_dead_containers_and_found_by_namespace_and_id() {
        fn line(id: &str) -> String {
            format!("shim\0-namespace\0n\0-id\0{id}\0-address\0/c.sock\0")
        }
        let read = || -> Shims {
            READ.set(READ.get() + 1);
            let ours = Process::ourselves().unwrap();
            let shim = |id: &str| Supervisor {
                process: ours,
                name: id.to_owned(),
                address: None,
                stopped: false,
                foreign: false,
            };
            ["web", "pod"].map(|id| (task(line(id).as_bytes()).unwrap(), shim(id))).into()
        };
        let shims: LazyCell<Shims> = LazyCell::new(read);
        let of = |namespace: &str, id: &str, sandbox: Option<&str>| {
            let mut it = Container::new(Owner::Containerd(namespace.to_owned()), id.to_owned());
            it.init = Some(Init { pid: i32::MAX, start: Some(1) });
            it.sandbox = sandbox.map(str::to_owned);
            of_container(&it, Fate::Gone, &shims).map(|it| it.name)
        };
        assert_eq!(of("n", "web", None).as_deref(), Some("web"));
        assert_eq!(of("n", "c", Some("pod")).as_deref(), Some("pod"));
        assert_eq!(of("other", "web", None), None);
        assert_eq!(READ.get(), 1);
    }

    #[test]
    fn an_engine_that_is_not_known_is_above_its_children_and_pid_1_is_none() {
        let mut child = std::process::Command::new("cat");
        let mut child = child.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let ours = process::own_pid();
        let above = stranger(&[child.id() as i32]).unwrap();
        assert!(above.process.pid == ours && above.is_a_stranger() && above.foreign);
        let mut both = [ours, child.id() as i32];
        both.sort();
        assert_ne!(stranger(&both).map(|it| it.process.pid), Some(ours), "it is one of them");
        assert_eq!(stranger(&[1]), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn every_conmon_is_a_supervisor() {
        for name in ["containerd-shim", "containerd-shim-", "conmon", "conmonrs", "conmon-rs"] {
            assert!(is_supervisor(name), "{name}");
        }
        for name in ["containerd", "common", "xconmon", "runc"] {
            assert!(!is_supervisor(name), "{name}");
        }
    }

    #[test]
    fn foreign_is_who_has_neither_our_mounts_nor_those_of_pid_1() {
        let [unit, node, other] = ["mnt:[1]", "mnt:[2]", "mnt:[3]"].map(|it| Some(Path::new(it)));
        assert!(!is_foreign(unit, [unit, node]));
        assert!(!is_foreign(node, [unit, node]));
        assert!(is_foreign(other, [unit, node]));
        assert!(is_foreign(None, [unit, None]));
    }
}
