//! frostlock itself, as it is set up on the node.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cgroup::Identity;
use cgroup::process;
use config::locate::{Choice, is_frostlock};
use config::{Config, Syslog};
use journal::reader;
use state::lock::Holder;
use state::remains::{self, Known, Unfinished};
use state::state_dir::StateDir;

use super::containerd::{Containerd, Entry};
use super::lift::{self, Left};
use super::processes::{self, Running};
use super::root::Root;
use crate::configure::{self, Drift};

const CONFIG: &str = "/etc/frostlock/config.toml";

/// An operation takes well under a second, with all its retries some; kubelet's own limit is minutes.
const HELD_LONG: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) config: PathBuf,
    pub(crate) complaints: Vec<String>,
    pub(crate) runtime: Result<PathBuf, String>,
    pub(crate) state: StateDir,
    pub(crate) state_complaint: Option<String>,
    pub(crate) is_off: bool,
    pub(crate) wants_syslog: bool,
    pub(crate) has_syslog: bool,
    /// Entries of containerd that run frostlock, by name.
    pub(crate) entries: Vec<String>,
    /// Entries of containerd whose program is not there: their pods cannot start.
    pub(crate) missing: Vec<Entry>,
    /// Entries that `frostctl configure` would write in another way now.
    pub(crate) drifts: anyhow::Result<Vec<Drift>>,
    pub(crate) unfinished: Vec<Unfinished>,
    /// Threads that a lifter which was killed has left lifted.
    pub(crate) lifted: Vec<Left>,
    pub(crate) stale: Vec<PathBuf>,
    /// Locks that have been held for longer than any operation takes.
    pub(crate) held: Vec<(PathBuf, Holder)>,
    pub(crate) known: Vec<Known>,
    /// When the last of our operations on a cgroup began, in boot time, and which it was.
    pub(crate) last: HashMap<PathBuf, (u64, String)>,
}

impl Ours {
    pub(crate) fn read(
        node: &Root,
        cgroups: &[Identity],
        containerds: &[Containerd],
        is_any_frozen: bool,
        running: &[Running],
    ) -> Ours {
        let state = if node.is_live() {
            StateDir::from_env()
        } else {
            StateDir::at(node.path("/run/frostlock".as_ref()))
        };
        let (config, complaints) = configuration(node);
        let choice = Choice {
            env: None,
            argv0: OsStr::new("frostlock"),
            config: config.runtime.as_deref(),
            path: std::env::var_os("PATH"),
            above: None,
        };
        // A recorded tree has no programs.
        let runtime = match node.is_live() {
            true => choice.find().map_err(|error| error.to_string()),
            false => Ok(config.runtime.clone().map_or("runc".into(), PathBuf::from)),
        };
        let ours = containerds.iter().flat_map(|containerd| {
            let programs = programs(containerd);
            programs.filter(|(_, program)| is_ours(node, containerd, program)).map(|(it, _)| it)
        });
        let socket = std::fs::metadata(node.path("/dev/log".as_ref()));
        Ours {
            config: config_path(),
            complaints,
            runtime,
            state_complaint: state.complaint().filter(|_| node.is_live()).map(|it| it.to_string()),
            is_off: state.kill_switch().exists(),
            wants_syslog: config.syslog != Syslog::Off,
            has_syslog: !node.is_live() || socket.is_ok_and(|it| it.file_type().is_socket()),
            entries: ours.map(|it| it.name.clone()).collect(),
            missing: match node.is_live() && processes::is_on_the_node(running) {
                true => containerds.iter().flat_map(missing).collect(),
                false => Vec::new(),
            },
            // What was configured is not in a recorded tree.
            drifts: if node.is_live() { configure::drifts() } else { Ok(Vec::new()) },
            unfinished: remains::unfinished(&state),
            // A recorded tree has no threads.
            lifted: if node.is_live() { lift::left(&state) } else { Vec::new() },
            stale: remains::stale(&state, cgroups),
            // Those who held it when a tree was recorded are gone.
            held: if node.is_live() { remains::held(&state, HELD_LONG) } else { Vec::new() },
            known: remains::known(&state),
            // The journal has megabytes, and is asked for the age of a freeze only.
            last: if is_any_frozen { last_operations(&state) } else { HashMap::new() },
            state,
        }
    }
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

/// In a recorded tree by its name alone.
fn is_ours(node: &Root, containerd: &Containerd, binary: &Path) -> bool {
    match node.is_live() {
        true => located(containerd, binary).is_some_and(|it| is_frostlock(&it)),
        false => binary.file_name().is_some_and(|it| it.to_string_lossy().starts_with("frostlock")),
    }
}

fn missing(containerd: &Containerd) -> Vec<Entry> {
    let missing = programs(containerd).filter(|(_, it)| located(containerd, it).is_none());
    missing.map(|(entry, _)| entry.clone()).collect()
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
        .or_else(|| super::programs::which(binary))
}

fn last_operations(state: &StateDir) -> HashMap<PathBuf, (u64, String)> {
    let now = process::boot_id();
    let records = reader::history(&state.journal()).flatten();
    let of_now = records.filter(|it| it.boot_id == now);
    // What a lift had after its operation is no operation.
    let of_now = of_now.filter(|it| it.verb.as_deref() != Some("lift"));
    let named = of_now.filter_map(|it| Some((PathBuf::from(it.cgroup?), (it.mono_ns?, it.verb?))));
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_whose_program_is_gone_is_missing() {
        let entry = |name: &str, binary: &str| Entry {
            name: name.to_owned(),
            binary: Some(binary.into()),
            systemd: None,
            is_default: false,
            file: "/etc/containerd/config.toml".into(),
        };
        let entries =
            vec![entry("gone", "/x/frostlock"), entry("name", "frostlock-x"), entry("sh", "sh")];
        let config = PathBuf::from("/etc/containerd/config.toml");
        let containerd = Containerd { config, running: None, entries, complaints: Vec::new() };
        let missing: Vec<String> = missing(&containerd).into_iter().map(|it| it.name).collect();
        assert_eq!(missing, ["gone", "name"]);
    }
}
