//! The shim or conmon above a container.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use frostlock::process::{self, Process};

use super::claim::{Container, Fate, Owner, Supervisor};
use super::truth;

const MAX_GENERATIONS: usize = 64;

/// By the first process, or what is left of it, else by the shims' command lines.
pub(crate) fn of_container(container: &Container) -> Option<Supervisor> {
    let init = container.init?;
    match truth::fate(init) {
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
    if !name.starts_with("containerd-shim") && name != "conmon" {
        return None;
    }
    let process = Process::of(pid)?;
    let words = command_line(pid);
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    let address = after(&words, b"-address").map(|word| PathBuf::from(OsStr::from_bytes(word)));
    let stopped = matches!(process.state(), Some('T' | 't'));
    Some(Supervisor { process, name, address, stopped, foreign: has_other_mounts(pid) })
}

fn command_line(pid: i32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

fn after<'a>(words: &[&'a [u8]], option: &[u8]) -> Option<&'a [u8]> {
    let at = words.iter().position(|word| *word == option)?;
    words.get(at + 1).copied()
}

fn has_other_mounts(pid: i32) -> bool {
    let of = |who: &str| fs::read_link(Path::new("/proc").join(who).join("ns/mnt")).ok();
    of("self") != of(&pid.to_string())
}

/// A shim is started with `-namespace NAMESPACE -id ID`; that of a pod with the pod's id.
fn by_command_line(container: &Container) -> Option<Supervisor> {
    let Owner::Containerd(namespace) = &container.owner else { return None };
    let ids = [Some(&container.id), container.sandbox.as_ref()];
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.into_iter().find_map(|pid| {
        let line = command_line(pid);
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let id = after(&words, b"-id")?;
        let same = after(&words, b"-namespace")? == namespace.as_bytes()
            && ids.iter().flatten().any(|known| known.as_bytes() == id);
        let found = same.then(|| supervisor(pid)).flatten()?;
        (!found.foreign).then_some(found)
    })
}
