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

/// By the first process, or what is left of it, else by the shims' command lines.
pub(crate) fn of_container(container: &Container) -> Option<Supervisor> {
    let init = container.init?;
    match fate::of(init) {
        Fate::Alive | Fate::Zombie { .. } => above(init.pid),
        Fate::Unknown | Fate::Gone | Fate::Reused => by_command_line(container),
    }
}

/// The nearest one among the ancestors of a process.
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
    // docker's shims are told of /var/run, which is a link.
    let resolved = address.as_ref().filter(|_| !foreign).and_then(|it| it.canonicalize().ok());
    let stopped = matches!(process.state(), Some('T' | 't'));
    Some(Supervisor { process, name, address: resolved.or(address), stopped, foreign })
}

/// conmon-rs calls itself `conmonrs`, and distributions have builds of conmon under names of their own.
fn is_supervisor(name: &str) -> bool {
    name.starts_with("containerd-shim") || name.starts_with("conmon")
}

/// The sockets of those who have started the shims of this node.
pub(crate) fn addresses() -> impl Iterator<Item = PathBuf> {
    let all = pids().filter_map(supervisor).filter(|shim| !shim.foreign);
    all.filter_map(|shim| shim.address)
}

/// How many of them hide from us in which mount namespace they are.
pub(crate) fn unplaced() -> usize {
    let is_supervisor = |pid: &i32| process::comm(*pid).is_some_and(|it| is_supervisor(&it));
    let is_hidden = |pid: &i32| {
        mount_namespace(&pid.to_string())
            .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    pids().filter(is_supervisor).filter(is_hidden).count()
}

/// Whether a process has the mounts of neither us nor pid 1.
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

/// A unit with ProtectSystem= has a mount namespace of its own, over the node's files.
fn has_other_mounts(pid: i32) -> bool {
    let its = mount_namespace(&pid.to_string()).ok();
    let ours = ["self", "1"].map(|who| mount_namespace(who).ok());
    is_foreign(its.as_deref(), [ours[0].as_deref(), ours[1].as_deref()])
}

/// Neither ours nor that of pid 1; what cannot be told is not ours to judge.
fn is_foreign(its: Option<&Path>, ours: [Option<&Path>; 2]) -> bool {
    its.is_none() || !ours.contains(&its)
}

fn mount_namespace(who: &str) -> std::io::Result<PathBuf> {
    fs::read_link(Path::new("/proc").join(who).join("ns/mnt"))
}

/// In another pid namespace than the engines' every process is gone, and every container would look dead.
pub(crate) fn check_processes() -> anyhow::Result<()> {
    let elsewhere = SOCKETS.into_iter().find(|socket| has_unseen_owner(Path::new(socket)));
    match elsewhere {
        Some(socket) => anyhow::bail!(
            "{socket} is answered by a process that is not to be seen from here: run it on the node, or in a \
             container with hostPID; nothing was looked at"
        ),
        None => Ok(()),
    }
}

/// The kernel gives the pid of who listens as 0 to a reader of another pid namespace.
fn has_unseen_owner(socket: &Path) -> bool {
    let Ok(stream) = std::os::unix::net::UnixStream::connect(socket) else { return false };
    getsockopt(&stream, PeerCredentials).is_ok_and(|peer| peer.pid() == 0)
}

/// Without them every shim is foreign, and what is below shims is not counted.
pub(crate) fn check_namespaces() -> anyhow::Result<()> {
    check_processes()?;
    mount_namespace("1")
        .map(drop)
        .context("/proc/1/ns/mnt: to tell which shims are this node's, CAP_SYS_PTRACE is needed")
}

/// A shim is started with `-namespace NAMESPACE -id ID`; that of a pod with the pod's id.
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
        (!found.foreign).then_some(found)
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
