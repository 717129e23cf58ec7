//! The environment that the wrapper gets: a shim has that of the containerd that started it, and
//! the wrapper that of its shim or conmon.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use state::state_dir::StateDir;

pub(crate) const STATE_DIR: &str = "FROSTLOCK_STATE_DIR";

const ENGINES: &[&str] = &["containerd", "dockerd", "crio"];

/// They outlive their engine, and keep its old environment. The kernel cuts a name to 15 bytes.
const MONITORS: &[&str] = &["containerd-shim", "conmon"];

/// Arguments with which an engine's program only prints something and ends.
const QUESTIONS: &[&str] =
    &["--help", "-h", "--validate", "--version", "-v", "config", "help", "status", "version"];

/// Whether a process of an engine's program only answers, like `containerd config dump`: it serves
/// nobody and ends a moment later.
pub(crate) fn is_a_question<'a>(args: impl IntoIterator<Item = &'a str>) -> bool {
    args.into_iter().skip(1).any(|arg| QUESTIONS.contains(&arg))
}

#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) who: String,
    is_engine: bool,
    variables: HashMap<OsString, OsString>,
}

impl Environment {
    pub(crate) fn get(&self, name: &str) -> Option<&OsString> {
        self.variables.get(OsStr::new(name))
    }
}

/// The environments of this node's running engines.
pub(crate) fn of_engines() -> Vec<Environment> {
    of_all(Path::new("/proc")).into_iter().filter(|it| it.is_engine).collect()
}

/// Engines and shims with another state directory than this; each directory once.
pub(crate) fn other_states(own: &StateDir) -> Vec<(String, StateDir)> {
    others(of_all(Path::new("/proc")), own)
}

fn others(all: Vec<Environment>, own: &StateDir) -> Vec<(String, StateDir)> {
    let mut found: Vec<(String, StateDir)> = Vec::new();
    for it in all {
        // The wrapper accepts only an absolute path.
        let Some(path) = it.get(STATE_DIR).map(PathBuf::from).filter(|it| it.is_absolute()) else {
            continue;
        };
        let is_known = found.iter().any(|(_, it)| it.path() == path);
        if path != own.path() && !is_known {
            found.push((it.who, StateDir::at(path)));
        }
    }
    found
}

/// Engines first, so that they are named before their shims.
fn of_all(proc: &Path) -> Vec<Environment> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let mut pids: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let mut all: Vec<Environment> = pids.into_iter().filter_map(|pid| of(proc, pid)).collect();
    all.sort_by_key(|it| !it.is_engine);
    all
}

fn of(proc: &Path, pid: i32) -> Option<Environment> {
    let process = proc.join(pid.to_string());
    let comm = std::fs::read_to_string(process.join("comm")).ok()?;
    let comm = comm.trim_end();
    let is_engine = ENGINES.contains(&comm);
    if !is_engine && !MONITORS.contains(&comm) {
        return None;
    }
    // Any user can have a process with this name, and a process in a container has other files.
    let place = |who: &Path| std::fs::read_link(who.join("ns/mnt")).ok();
    let is_here = place(&process) == place(&proc.join("self"));
    let is_ours =
        std::fs::metadata(&process).is_ok_and(|it| it.uid() == nix::unistd::geteuid().as_raw());
    if !is_here || !is_ours {
        return None;
    }
    let cmdline = std::fs::read_to_string(process.join("cmdline")).ok()?;
    if is_engine && is_a_question(cmdline.split('\0')) {
        return None;
    }
    let bytes = std::fs::read(process.join("environ")).ok()?;
    Some(Environment { who: format!("{comm}, pid {pid}"), is_engine, variables: variables(&bytes) })
}

/// See environ(7).
fn variables(bytes: &[u8]) -> HashMap<OsString, OsString> {
    let pairs = bytes.split(|byte| *byte == 0).filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&pair[..at], &pair[at + 1..]);
        Some((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(value).to_owned()))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_found_in_an_engine_and_in_what_it_has_started() {
        let scratch = tempfile::tempdir().unwrap();
        for (pid, cmdline, environ) in [
            ("6", "containerd\0config\0dump\0", "FROSTLOCK_STATE_DIR=/run/asked\0"),
            ("7", "containerd-shim\0-id\0config\0", "PATH=/bin\0FROSTLOCK_STATE_DIR=/run/before\0"),
            ("8", "containerd\0--config\0/c\0", "FROSTLOCK_STATE_DIR=/run/elsewhere\0X=a=b\0"),
            ("9", "conmon", "FROSTLOCK_STATE_DIR=/run/elsewhere"),
            ("10", "dockerd", "FROSTLOCK_STATE_DIR=/run/frostlock"),
            ("11", "crio", "FROSTLOCK_STATE_DIR=relative"),
            ("12", "bash", "FROSTLOCK_STATE_DIR=/run/mine"),
        ] {
            let comm = cmdline.split('\0').next().unwrap();
            let process = scratch.path().join(pid);
            std::fs::create_dir_all(&process).unwrap();
            std::fs::write(process.join("comm"), format!("{comm}\n")).unwrap();
            std::fs::write(process.join("cmdline"), cmdline).unwrap();
            std::fs::write(process.join("environ"), environ).unwrap();
        }
        let own = StateDir::at("/run/frostlock".into());
        let found: Vec<_> = others(of_all(scratch.path()), &own)
            .into_iter()
            .map(|(who, it)| (who, it.path().to_owned()))
            .collect();
        let expected =
            [("containerd, pid 8", "/run/elsewhere"), ("containerd-shim, pid 7", "/run/before")];
        assert_eq!(found, expected.map(|(who, path)| (who.to_owned(), PathBuf::from(path))));
        let one = &of_all(scratch.path())[0];
        assert_eq!(one.get("X"), Some(&OsString::from("a=b")));
    }
}
