//! frostlock itself, as it is set up on the node.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use frostlock::cgroup::Identity;
use frostlock::config::Config;
use frostlock::journal::reader;
use frostlock::locate::{Choice, is_frostlock};
use frostlock::process;
use frostlock::remains::{self, Known, Unfinished};
use frostlock::state_dir::StateDir;

use super::containerd::Containerd;
use super::root::Root;

const CONFIG: &str = "/etc/frostlock/config.toml";

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
    pub(crate) unfinished: Vec<Unfinished>,
    pub(crate) stale: Vec<PathBuf>,
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
        };
        // A recorded tree has no programs.
        let runtime = match node.is_live() {
            true => choice.find().map_err(|error| error.to_string()),
            false => Ok(config.runtime.clone().map_or("runc".into(), PathBuf::from)),
        };
        let entries = containerds.iter().flat_map(|it| &it.entries);
        let ours = entries.filter(|it| it.binary.as_deref().is_some_and(|it| is_ours(node, it)));
        let socket = std::fs::metadata(node.path("/dev/log".as_ref()));
        Ours {
            config: config_path(),
            complaints,
            runtime,
            state_complaint: state.complaint().filter(|_| node.is_live()).map(|it| it.to_string()),
            is_off: state.kill_switch().exists(),
            wants_syslog: config.syslog,
            has_syslog: !node.is_live() || socket.is_ok_and(|it| it.file_type().is_socket()),
            entries: ours.map(|it| it.name.clone()).collect(),
            unfinished: remains::unfinished(&state),
            stale: remains::stale(&state, cgroups),
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

/// In a recorded tree by its name alone.
fn is_ours(node: &Root, binary: &Path) -> bool {
    match node.is_live() {
        true => is_frostlock(binary),
        false => binary.file_name().is_some_and(|it| it.to_string_lossy().starts_with("frostlock")),
    }
}

fn last_operations(state: &StateDir) -> HashMap<PathBuf, (u64, String)> {
    let now = process::boot_id();
    let records = reader::history(&state.journal()).flatten();
    let of_now = records.filter(|it| it.boot_id == now);
    let named = of_now.filter_map(|it| Some((PathBuf::from(it.cgroup?), (it.mono_ns?, it.verb?))));
    named.collect()
}
