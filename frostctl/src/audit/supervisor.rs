//! The shim or conmon above a container.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use cgroup::process::{self, Process};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use super::claim::{Container, Fate, Owner, Supervisor};
use super::fate;
use crate::node::containerd::SOCKETS;

const MAX_GENERATIONS: usize = 64;

/// Found above the first process or its zombie, or else by the shims' command lines.
pub(crate) fn of_container(container: &Container) -> Option<Supervisor> {
    let init = container.init?;
    match fate::of(init) {
        Fate::Alive | Fate::Zombie { .. } => above(init.pid),
        Fate::Unknown | Fate::Gone | Fate::Reused => by_command_line(container),
    }
}

/// The nearest supervisor among the ancestors of a process.
pub(crate) fn above(pid: i32) -> Option<Supervisor> {
    let mut pid = pid;
    for _ in 0..MAX_GENERATIONS {
        pid = process::parent_of(pid).filter(|parent| *parent > 1)?;
        if let Some(found) = supervisor(pid) {
            return Some(found);
        }
    }
    None
}

fn supervisor(pid: i32) -> Option<Supervisor> {
    let name = process::comm(pid)?;
    // The kernel keeps 15 bytes: containerd-shim-runc-v2 is "containerd-shim".
    if !is_supervisor(&name) {
        return None;
    }
    let process = Process::of(pid)?;
    let words = command_line(pid);
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    let address = after(&words, b"-address").map(|word| PathBuf::from(OsStr::from_bytes(word)));
    let foreign = has_other_mounts(pid);
    // docker's shims have a path in /var/run, which is a symlink.
    let resolved = address.as_ref().filter(|_| !foreign).and_then(|it| it.canonicalize().ok());
    let stopped = matches!(process.state(), Some('T' | 't'));
    Some(Supervisor { process, name, address: resolved.or(address), stopped, foreign })
}

/// conmon-rs calls itself `conmonrs`, and distributions build conmon under other names.
fn is_supervisor(name: &str) -> bool {
    name.starts_with("containerd-shim") || name.starts_with("conmon")
}

/// The containerd sockets on the command lines of this node's shims.
pub(crate) fn addresses() -> impl Iterator<Item = PathBuf> {
    // Any process can take the name of a shim, and the answer at its socket names programs.
    let trusted = pids().filter(|pid| process::is_trusted(*pid));
    let all = trusted.filter_map(supervisor).filter(|shim| !shim.foreign);
    all.filter_map(|shim| shim.address)
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

/// Whether a process is in another mount namespace than both ours and pid 1's.
pub(crate) fn is_elsewhere(pid: i32) -> bool {
    has_other_mounts(pid)
}

pub(crate) fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn command_line(pid: i32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

fn after<'a>(words: &[&'a [u8]], option: &[u8]) -> Option<&'a [u8]> {
    let at = words.iter().position(|word| *word == option)?;
    words.get(at + 1).copied()
}

/// A unit with ProtectSystem= has its own mount namespace, on top of the node's files.
fn has_other_mounts(pid: i32) -> bool {
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

/// A shim is started with `-namespace NAMESPACE -id ID`; a pod's shim has the pod's id.
fn by_command_line(container: &Container) -> Option<Supervisor> {
    let Owner::Containerd(namespace) = &container.owner else { return None };
    let ids = [Some(&container.id), container.sandbox.as_ref()];
    pids().find_map(|pid| {
        let line = command_line(pid);
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let id = after(&words, b"-id")?;
        let same = after(&words, b"-namespace")? == namespace.as_bytes()
            && ids.iter().flatten().any(|known| known.as_bytes() == id);
        let found = same.then(|| supervisor(pid)).flatten()?;
        (!found.foreign && process::is_trusted(pid)).then_some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
