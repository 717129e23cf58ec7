//! frostlock's own setup on the node.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cgroup::Identity;
use config::locate::{self, Choice};
use config::{Config, Syslog};
use state::lock::Holder;
use state::remains::{self, Known, Unfinished};
use state::state_dir::StateDir;

use super::ask::Ask;
use super::operations::Operations;
use crate::configure::edit::{self, is_named_ours};
use crate::configure::{self, Drift};
use crate::loaded::{self, Owed, Unasked};
use crate::node::containerd::{Containerd, Entry};
use crate::node::lift::{self, Left};
use crate::node::processes::{self, Running};
use crate::node::room::{self, NoRoom};
use crate::node::root::Root;
use crate::program;

const CONFIG: &str = "/etc/frostlock/config.toml";

/// An operation takes well under a second, or a few with all retries; kubelet's own limit is
/// minutes.
const HELD_LONG: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) config: PathBuf,
    pub(crate) complaints: Vec<String>,
    pub(crate) runtime: Result<PathBuf, String>,
    pub(crate) state: StateDir,
    pub(crate) state_complaint: Option<String>,
    pub(crate) no_room: Option<NoRoom>,
    pub(crate) is_off: bool,
    pub(crate) wants_syslog: bool,
    pub(crate) has_syslog: bool,
    /// Names of containerd's entries that run frostlock.
    pub(crate) entries: Vec<String>,
    /// Entries of containerd whose program is missing or not executable: their pods cannot start.
    pub(crate) broken: Vec<(Entry, Broken)>,
    /// frostlock binaries in entries whose version differs from ours, with their version if they
    /// report it.
    pub(crate) other_versions: Vec<(PathBuf, Option<String>)>,
    /// For each containerd that has entries of ours: what a restart would change, or why that is
    /// not known.
    pub(crate) owed: Vec<(PathBuf, Result<Vec<Owed>, String>)>,
    /// Entries that `frostctl configure` would write differently now.
    pub(crate) drifts: anyhow::Result<Vec<Drift>>,
    pub(crate) unfinished: Vec<Unfinished>,
    /// Threads that a killed lifter has left lifted.
    pub(crate) lifted: Vec<Left>,
    pub(crate) stale: Vec<PathBuf>,
    /// Locks that have been held for longer than any operation takes.
    pub(crate) held: Vec<(PathBuf, Holder)>,
    pub(crate) known: Vec<Known>,
    pub(crate) operations: Operations,
    /// Pods, and containers outside pods, whose account is spent, and for how long.
    pub(crate) spent: Vec<(Identity, Duration)>,
}

/// What is wrong with an entry's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Broken {
    Missing,
    NotExecutable(PathBuf),
}

impl Ours {
    pub(crate) fn read(
        ask: &Ask,
        cgroups: &[Identity],
        containerds: &[Containerd],
        is_any_frozen: bool,
        running: &[Running],
    ) -> Ours {
        let node = &ask.root;
        let is_live = node.is_live();
        let is_loaded_asked = is_live && ask.wants("installation");
        let is_accounts_asked = ask.wants("accounts");
        // To other users, root's own directory looks like a foreign one.
        let is_ours_to_judge = is_live && nix::unistd::geteuid().is_root();
        let state = match is_live {
            true => StateDir::from_env(),
            false => StateDir::at(node.path("/run/frostlock".as_ref())),
        };
        let (config, mut complaints) = configuration(node);
        let choice = Choice {
            env: None,
            argv0: OsStr::new("frostlock"),
            config: config.runtime.as_deref(),
            path: std::env::var_os("PATH"),
            above: None,
        };
        // A recorded tree has no programs.
        let runtime = match is_live {
            true => choice.find_or_fall_back().map_err(|error| error.to_string()).map(|it| {
                complaints.extend(it.fell_back);
                it.path
            }),
            false => Ok(config.runtime.clone().map_or("runc".into(), PathBuf::from)),
        };
        let ours: Vec<(&Entry, PathBuf)> =
            containerds.iter().flat_map(|it| ours_of(node, it)).collect();
        let socket = std::fs::metadata(node.path("/dev/log".as_ref()));
        let is_seen = processes::is_on_the_node(running);
        Ours {
            config: config_path(),
            complaints,
            runtime,
            state_complaint: state
                .complaint()
                .filter(|_| is_ours_to_judge)
                .map(|it| it.to_string()),
            no_room: is_ours_to_judge.then(|| room::trouble(state.path())).flatten(),
            is_off: state.kill_switch().exists(),
            wants_syslog: config.log.syslog != Syslog::Off,
            has_syslog: !is_live || socket.is_ok_and(|it| it.file_type().is_socket()),
            entries: ours.iter().map(|(it, _)| it.name.clone()).collect(),
            broken: read_if(is_live && is_seen, || containerds.iter().flat_map(broken).collect()),
            other_versions: read_if(is_live, || other_versions(&ours)),
            owed: read_if(is_loaded_asked, || {
                containerds.iter().filter_map(|it| owed(it, is_seen)).collect()
            }),
            // A recorded tree does not have the records of `configure`.
            drifts: if is_loaded_asked { configure::drifts() } else { Ok(Vec::new()) },
            unfinished: remains::unfinished(&state),
            // A recorded tree has no threads.
            lifted: read_if(is_live, || lift::left(&state)),
            stale: remains::stale(&state, cgroups),
            // The holders at the time of a recording are gone.
            held: read_if(is_live, || remains::held(&state, HELD_LONG)),
            known: remains::known(&state),
            // The journal has megabytes.
            operations: read_if(is_any_frozen || is_accounts_asked, || Operations::read(&state)),
            spent: read_if(is_accounts_asked, || spent(&state, config.lift.pod_percent, cgroups)),
            state,
        }
    }
}

fn read_if<T: Default>(is_asked: bool, read: impl FnOnce() -> T) -> T {
    if is_asked { read() } else { T::default() }
}

fn config_path() -> PathBuf {
    std::env::var_os("FROSTLOCK_CONFIG").map_or(CONFIG.into(), PathBuf::from)
}

fn configuration(node: &Root) -> (Config, Vec<String>) {
    if node.is_live() {
        return Config::load();
    }
    match node.read(CONFIG) {
        Ok(text) => Config::parse(&text, Path::new(CONFIG)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Default::default(),
        Err(error) => (Config::default(), vec![format!("cannot read {CONFIG}: {error}")]),
    }
}

fn programs(containerd: &Containerd) -> impl Iterator<Item = (&Entry, &Path)> {
    containerd.entries.iter().filter_map(|it| Some((it, it.binary.as_deref()?)))
}

/// A recorded tree has no programs, so there only the name counts.
fn is_ours(node: &Root, containerd: &Containerd, binary: &Path) -> bool {
    match node.is_live() {
        true => edit::is_ours(located(containerd, binary).unwrap_or_else(|| binary.to_owned())),
        false => is_named_ours(binary),
    }
}

/// Entries that run frostlock, each with the file of its program.
fn ours_of<'a>(
    node: &Root,
    containerd: &'a Containerd,
) -> impl Iterator<Item = (&'a Entry, PathBuf)> {
    programs(containerd).filter(|(_, program)| is_ours(node, containerd, program)).map(
        |(it, program)| {
            let file = if node.is_live() { located(containerd, program) } else { None };
            (it, file.unwrap_or_else(|| program.to_owned()))
        },
    )
}

fn broken(containerd: &Containerd) -> Vec<(Entry, Broken)> {
    let all = programs(containerd).filter_map(|(entry, program)| {
        let broken = match located(containerd, program) {
            None => Broken::Missing,
            Some(file) if !program::is_executable(&file) => Broken::NotExecutable(file),
            Some(_) => return None,
        };
        Some((entry.clone(), broken))
    });
    all.collect()
}

/// After an upgrade of only one of the two, the node has records and state files of both versions.
fn other_versions(ours: &[(&Entry, PathBuf)]) -> Vec<(PathBuf, Option<String>)> {
    // A missing file is broken, and has no version.
    let files = ours.iter().map(|(_, file)| file).filter(|file| file.is_file());
    let mut files: Vec<&PathBuf> = files.collect();
    files.dedup();
    let versions = files.into_iter().map(|file| (file.clone(), locate::version_of(file)));
    versions.filter(|(_, it)| it.as_deref() != Some(env!("CARGO_PKG_VERSION"))).collect()
}

/// `None` if this containerd cannot have loaded an entry of ours.
fn owed(containerd: &Containerd, is_seen: bool) -> Option<(PathBuf, Result<Vec<Owed>, String>)> {
    let is_ours = |program: &Path| is_ours(&Root::default(), containerd, program);
    let configured = containerd.handlers();
    let has_ours = configured.iter().any(|it| it.binary.as_deref().is_some_and(is_ours));
    let asked = match containerd.running {
        Some(_) => loaded::ask(&containerd.socket),
        // A containerd that starts later reads the file then.
        None if has_ours && !is_seen => {
            Err(Unasked::NoAnswer("the processes of the node are not visible".to_owned()))
        }
        None if has_ours => Err(Unasked::NoAnswer("it does not run".to_owned())),
        None => return None,
    };
    let known = match asked {
        Ok(handlers) => Ok(loaded::owed(&configured, &handlers, is_ours)),
        Err(Unasked::NoCri) if !has_ours => return None,
        Err(why) => Err(why.to_string()),
    };
    Some((containerd.socket.clone(), known))
}

fn spent(state: &StateDir, percent: u64, cgroups: &[Identity]) -> Vec<(Identity, Duration)> {
    let booked_to = cgroups.iter().map(|it| it.pod().unwrap_or_else(|| it.clone()));
    let mut booked_to: Vec<Identity> = booked_to.collect();
    booked_to.sort();
    booked_to.dedup();
    state::account::spent(state, percent, &booked_to)
}

/// The file of a BinaryName: a name without a directory is looked up in containerd's PATH.
fn located(containerd: &Containerd, binary: &Path) -> Option<PathBuf> {
    if binary.is_absolute() {
        return binary.is_file().then(|| binary.to_owned());
    }
    let pid = containerd.running.as_ref().map(|it| it.pid);
    let its = pid.and_then(|pid| std::fs::read(format!("/proc/{pid}/environ")).ok());
    let its = its.unwrap_or_default();
    let its = its.split(|byte| *byte == 0).find_map(|it| it.strip_prefix(b"PATH="));
    let its = std::env::split_paths(OsStr::from_bytes(its.unwrap_or_default()));
    its.map(|directory| directory.join(binary))
        .find(|it| it.is_file())
        .or_else(|| program::find(binary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_whose_program_is_gone_or_cannot_be_run_is_broken() {
        let entry = |name: &str, binary: &str| Entry {
            name: name.to_owned(),
            binary: Some(binary.into()),
            systemd: None,
            options: Default::default(),
            is_default: false,
            file: "/etc/containerd/config.toml".into(),
        };
        let scratch = tempfile::tempdir().unwrap();
        let plain = scratch.path().join("frostlock");
        std::fs::write(&plain, "").unwrap();
        let entries = vec![
            entry("gone", "/x/frostlock"),
            entry("name", "frostlock-x"),
            entry("plain", plain.to_str().unwrap()),
            entry("sh", "sh"),
        ];
        let config = PathBuf::from("/etc/containerd/config.toml");
        let (socket, complaints) = (PathBuf::new(), Vec::new());
        let containerd = Containerd { config, running: None, socket, entries, complaints };
        let all: Vec<_> = broken(&containerd).into_iter().map(|(it, why)| (it.name, why)).collect();
        let expected = [
            ("gone".to_owned(), Broken::Missing),
            ("name".to_owned(), Broken::Missing),
            ("plain".to_owned(), Broken::NotExecutable(plain)),
        ];
        assert_eq!(all, expected);
    }
}
