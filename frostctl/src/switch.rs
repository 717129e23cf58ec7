//! `frostctl off` and `frostctl on`: the off switch, a file in the state directory.
//!
//! It is for an emergency, so it depends on nothing of ours: an empty file is enough.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};
use config::Config;
use serde::Serialize;
use state::state_dir::StateDir;

use crate::environment::{self, STATE_DIR};
use crate::exit::Exit;
use crate::output::{Output, note, plain};

/// A reason is one line; the rest of the file is not read.
const REASON_BYTES: u64 = 1000;

/// Switch frostlock off: every command runs the bare runtime
///
/// The switch holds from the next command on, for all containers, running ones included. Nothing
/// has to be restarted, and no container notices. An operation under way ends as it began. Nothing
/// is locked, lifted, retried or recorded until `frostctl on`, or until a reboot, which empties
/// /run. An engine whose environment names another state directory has its own switch there;
/// frostctl off sets that one as well, unless FROSTLOCK_STATE_DIR names a directory for frostctl.
#[derive(Debug, clap::Args)]
#[command(after_help = concat!(
    "Exit status:\n",
    "  0  frostlock is off, even if it was off before\n",
    "  2  the command line is wrong\n",
    "  3  frostlock could not be switched off; standard error says why"
))]
pub(crate) struct Off {
    /// Why, for whoever finds it switched off; `frostctl status` shows it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Switch frostlock on again
///
/// The switch holds from the next command on.
#[derive(Debug, clap::Args)]
#[command(after_help = concat!(
    "Exit status:\n",
    "  0  frostlock is on, even if it was on before\n",
    "  2  the command line is wrong\n",
    "  3  frostlock could not be switched on; standard error says why"
))]
pub(crate) struct On;

/// The state of the switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Switch {
    pub(crate) path: PathBuf,
    pub(crate) is_off: bool,
    /// When it was switched off, in seconds since 1970.
    pub(crate) since: Option<u64>,
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Done {
    #[serde(flatten)]
    switch: Switch,
    /// Whether the command changed it.
    changed: bool,
    /// The switches of engines with their own state directory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    also: Vec<PathBuf>,
}

impl Switch {
    fn on(state: &StateDir) -> Switch {
        Switch { path: state.kill_switch(), is_off: false, since: None, reason: None }
    }

    /// An error means that it cannot be seen; this user's wrapper then treats it as on.
    pub(crate) fn read(state: &StateDir) -> io::Result<Switch> {
        let path = state.kill_switch();
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if is_missing(&error) => return Ok(Switch::on(state)),
            Err(error) => return Err(error),
        };
        let since = metadata.modified().ok();
        let since = since.and_then(|it| it.duration_since(SystemTime::UNIX_EPOCH).ok());
        let reason = if metadata.is_file() { reason(&path) } else { None };
        Ok(Switch { path, is_off: true, since: since.map(|it| it.as_secs()), reason })
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn reason(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)
        .ok()?;
    file.take(REASON_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.lines().next()?.trim().to_owned()).filter(|text| !text.is_empty())
}

impl Off {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let state = ours("off")?;
        let changed = create(&state).with_context(|| cannot("off", &state))?;
        if let Some(Err(error)) = self.reason.as_deref().map(|reason| write(&state, reason)) {
            note(&format!("frostlock is off, but the reason could not be written: {error}"));
        }
        let switch = Switch::read(&state).with_context(|| cannot("off", &state))?;
        if !switch.is_off {
            bail!(
                "{} is a link that leads nowhere; remove it, and try again",
                switch.path.display()
            );
        }
        let also = others("off", &state, create)?;
        Done { switch, changed, also }.print(output)
    }
}

impl On {
    #[allow(clippy::unused_self, reason = "a command like the others")]
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let state = ours("on")?;
        let changed = remove(&state).with_context(|| cannot("on", &state))?;
        let also = others("on", &state, remove)?;
        Done { switch: Switch::on(&state), changed, also }.print(output)
    }
}

/// The switches of engines with another state directory. If one was named, only that one is meant.
fn others(
    word: &str,
    own: &StateDir,
    switch: fn(&StateDir) -> io::Result<bool>,
) -> anyhow::Result<Vec<PathBuf>> {
    let is_alone = std::env::var_os(STATE_DIR).is_some();
    let mut done = Vec::new();
    for (who, state) in environment::other_states(own) {
        let theirs = format!("{who} has {STATE_DIR}={}", plain(&state.path().to_string_lossy()));
        if is_alone {
            note(&format!("{theirs}, and its containers were not switched {word}"));
            continue;
        }
        switch(&state).with_context(|| format!("{}; {theirs}", cannot(word, &state)))?;
        done.push(state.kill_switch());
    }
    Ok(done)
}

/// Returns whether it was off before.
fn remove(state: &StateDir) -> io::Result<bool> {
    match std::fs::remove_file(state.kill_switch()) {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Without root and without a named directory there may be two switches: the node's and this
/// user's.
fn ours(word: &str) -> anyhow::Result<StateDir> {
    let was_named = std::env::var_os(STATE_DIR).is_some();
    if !nix::unistd::geteuid().is_root() && !was_named {
        let own = StateDir::from_env();
        let needs_root = format!("switching frostlock {word} for the whole node needs root");
        // Without XDG_RUNTIME_DIR, a user has no directory of their own.
        if own.is_the_nodes() {
            bail!(needs_root);
        }
        let own = own.path().display();
        bail!(
            "{needs_root}; for your own rootless containers: FROSTLOCK_STATE_DIR={own} frostctl {word}"
        );
    }
    Ok(StateDir::from_env())
}

fn cannot(word: &str, state: &StateDir) -> String {
    format!("cannot switch frostlock {word} by {}", state.kill_switch().display())
}

/// Returns whether it was on before. Like the wrapper, uses an existing directory as it is.
fn create(state: &StateDir) -> io::Result<bool> {
    if !state.path().is_dir() {
        state.make()?;
    }
    let mut options = OpenOptions::new();
    match options.write(true).create_new(true).mode(0o644).open(state.kill_switch()) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// A FIFO in its place must not block us, nor a symlink lead to somebody else's file.
fn write(state: &StateDir, reason: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW);
    let line = cgroup::text::one_line(reason.as_ref(), REASON_BYTES as usize);
    let mut file = options.open(state.kill_switch())?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    file.set_len(0)?;
    file.write_all(format!("{line}\n").as_bytes())
}

impl Done {
    fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.print(self, |out| self.write(out))?;
        Ok(Exit::Clean)
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let path = plain(&self.switch.path.to_string_lossy());
        match (self.switch.is_off, self.changed) {
            (true, true) => writeln!(out, "frostlock is off: {path}"),
            (true, false) => writeln!(out, "frostlock was off already: {path}"),
            (false, true) => writeln!(out, "frostlock is on, in mode {:?}", mode()),
            (false, false) => writeln!(out, "frostlock was on already, in mode {:?}", mode()),
        }?;
        for path in &self.also {
            writeln!(out, "  and by {}, of an engine", plain(&path.to_string_lossy()))?;
        }
        if !self.switch.is_off {
            return Ok(());
        }
        if let Some(reason) = &self.switch.reason {
            writeln!(out, "  reason: {}", plain(reason))?;
        }
        writeln!(
            out,
            "  containers that run go on; from now on each command runs the bare runtime"
        )?;
        writeln!(out, "  nothing is locked, lifted, retried or recorded")?;
        // Others are on a disk, or in a directory that somebody chose.
        let or_reboot = if self.switch.path.starts_with("/run") { ", or a reboot" } else { "" };
        writeln!(out, "  until: frostctl on{or_reboot}")
    }
}

fn mode() -> &'static str {
    Config::load().0.mode.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_read_whatever_is_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path().join("state"));
        let is_off = || Switch::read(&state).unwrap().is_off;
        assert!(!is_off());
        assert!(create(&state).unwrap() && !create(&state).unwrap());
        assert_eq!(Switch::read(&state).unwrap().reason, None);
        std::fs::write(state.kill_switch(), "storm\nmore\n").unwrap();
        let switch = Switch::read(&state).unwrap();
        assert_eq!((switch.is_off, switch.reason.as_deref()), (true, Some("storm")));
        assert!(switch.since.is_some());
        std::fs::remove_file(state.kill_switch()).unwrap();
        // As the wrapper treats a dangling symlink.
        std::os::unix::fs::symlink("nowhere", state.kill_switch()).unwrap();
        assert!(!is_off());
        std::fs::remove_file(state.kill_switch()).unwrap();
        nix::unistd::mkfifo(&state.kill_switch(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let switch = Switch::read(&state).unwrap();
        assert_eq!((switch.is_off, switch.reason), (true, None));
    }
}
