//! Gathers the facts, each for a bounded time. Judges nothing, and changes nothing.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use config::locate::{self, Choice};
use config::{self, Config};
use state::state_dir::StateDir;

use super::facts::{Binary, Configuration, Engine, Facts, Known, Runtime, State};
use super::{engines, lately};
use crate::configure::{binary, live};
use crate::elf;
use crate::environment::{self, Environment, STATE_DIR};
use crate::node::processes::{self, Running};
use crate::node::room;
use crate::node::root::{self, Root};
use crate::program;
use crate::switch::Switch;

/// How long to wait for a runtime's version.
const SAYS_WITHIN: Duration = Duration::from_secs(2);

/// The state directory of the node's wrapper.
const STATE: &str = "/run/frostlock";

/// Variables that make the wrapper use other files.
const VARIABLES: &[&str] = &["FROSTLOCK_CONFIG", STATE_DIR, "FROSTLOCK_RUNTIME"];

const NOT_ROOT: &str = "only root can see it";

pub(super) fn facts() -> Facts {
    let running = processes::read(&Root::default());
    let engines = engines::read(&running);
    let binaries = binaries(&engines);
    let environments = environment::of_engines();
    let state = state_dir();
    let (config, config_fact) = configuration();
    Facts {
        version: env!("CARGO_PKG_VERSION"),
        containers: containers(&binaries, &running),
        runtime: runtime(&config, &binaries, &environments),
        switch: Known::of(Switch::read(&state).map_err(|error| unreadable(&error))),
        records: Known::of(lately::read(&config, &state)),
        state: known_state(&state),
        elsewhere: elsewhere(&environments),
        config: config_fact,
        binaries,
        engines,
    }
}

/// The node's state directory, whoever runs frostctl: without root, a user could have one of their
/// own.
fn state_dir() -> StateDir {
    let was_named = std::env::var_os(STATE_DIR).is_some();
    if is_root() || was_named { StateDir::from_env() } else { StateDir::at(STATE.into()) }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied if !is_root() => NOT_ROOT.to_owned(),
        _ => error.to_string(),
    }
}

fn binaries(engines: &[Engine]) -> Vec<Binary> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in engines.iter().flat_map(|it| &it.handlers).map(|it| &it.binary) {
        // The engine looks up a bare name in its PATH, which resembles ours.
        let path = program::find(path).unwrap_or_else(|| path.clone());
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        let usual = binary::usual().into_iter().find(|it| it.exists());
        paths.extend(usual.or_else(|| program::find("frostlock")));
    }
    paths.into_iter().map(examine).collect()
}

fn examine(path: PathBuf) -> Binary {
    let file = root::open(&path);
    Binary {
        is_there: path.exists(),
        is_executable: program::is_executable(&path),
        is_frostlock: file.is_ok().then(|| locate::is_frostlock(&path)),
        is_static: file.ok().and_then(|it| elf::loader(&it)).map(|it| it.is_none()),
        version: locate::version_of(&path),
        path,
    }
}

/// A file that only this user cannot read is unseen, not a mistake in the configuration.
fn configuration() -> (Config, Known<Configuration>) {
    let file = config::path();
    if let Err(error) = config::text(&file)
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        let why = format!("{}: {}", file.display(), unreadable(&error));
        return (Config::default(), Known::unseen(why));
    }
    let (config, mistakes) = Config::load();
    let mode = config.mode.as_str();
    (config, Known::Seen(Configuration { file, mode, mistakes }))
}

fn elsewhere(environments: &[Environment]) -> Vec<String> {
    let mut all = Vec::new();
    for environment in environments {
        for name in VARIABLES {
            let its = environment.get(name);
            if let Some(value) = its.filter(|it| std::env::var_os(name).as_ref() != Some(it)) {
                all.push(format!("{} has {name}={}", environment.who, value.to_string_lossy()));
            }
        }
    }
    all
}

fn runtime(config: &Config, binaries: &[Binary], environments: &[Environment]) -> Known<Runtime> {
    let path = environments.first().and_then(|it| it.get("PATH").cloned());
    let argv0 = binaries.first().map_or(OsStr::new("frostlock"), |it| it.path.as_os_str());
    let choice = Choice {
        env: std::env::var_os("FROSTLOCK_RUNTIME"),
        argv0,
        config: config.runtime.as_deref(),
        path: path.or_else(|| std::env::var_os("PATH")),
        above: None,
    };
    let none = Runtime { path: None, says: Known::unseen(""), fell_back: None, broken: None };
    let found = match choice.find_or_fall_back() {
        Ok(found) => found,
        Err(error) => return Known::Seen(Runtime { broken: Some(error.to_string()), ..none }),
    };
    let (says, broken) = version(&found.path);
    Known::Seen(Runtime { path: Some(found.path), says, fell_back: found.fell_back, broken })
}

/// What it says of its version, and why it cannot be run.
fn version(path: &Path) -> (Known<String>, Option<String>) {
    let began = Instant::now();
    match program::run(Command::new(path).arg("--version"), SAYS_WITHIN) {
        Ok(said) => (Known::Seen(said.lines().next().unwrap_or_default().trim().to_owned()), None),
        Err(_) if began.elapsed() >= SAYS_WITHIN => {
            let seconds = SAYS_WITHIN.as_secs();
            (Known::unseen(format!("it did not say its version within {seconds} s")), None)
        }
        Err(error) => (Known::unseen("it cannot be run"), Some(format!("{error:#}"))),
    }
}

fn known_state(state: &StateDir) -> Known<State> {
    if !is_root() && state.path() == Path::new(STATE) {
        return Known::unseen(NOT_ROOT);
    }
    let there = std::fs::symlink_metadata(state.path()).is_ok();
    let trouble = room::trouble(state.path());
    Known::Seen(State {
        directory: state.path().to_owned(),
        is_there: there,
        refused: state.complaint().map(|error| error.to_string()),
        full: trouble.as_ref().map(|it| format!("{}: {}", it.what(), it.seen())),
        remedy: trouble.map(|it| it.remedy(state.path())),
    })
}

fn containers(binaries: &[Binary], running: &[Running]) -> Known<usize> {
    if !is_root() {
        return Known::unseen(NOT_ROOT);
    }
    if !processes::is_on_the_node(running) {
        return Known::unseen("the processes of the node are not visible");
    }
    let mut all: Vec<String> = binaries
        .iter()
        .flat_map(|it| live::uses(&it.path))
        .map(|it| format!("{} {}", it.of.name(), it.container))
        .collect();
    all.sort();
    all.dedup();
    Known::Seen(all.len())
}
