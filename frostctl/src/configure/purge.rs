//! What frostlock, frostctl and their installation have put on a node.

use std::path::{Path, PathBuf};

use config::Config;
use journal::history::History;
use serde::Serialize;
use state::remains;
use state::state_dir::StateDir;

use super::{file, live, record};
use crate::node::root::Root;
use crate::node::{containerd, crio, lift, processes};

/// Where engines other than containerd look for hooks.
const HOOKS: [&str; 2] = ["/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"];

const SETTINGS: &str = "/etc/frostlock";
const UNITS: &str = "/etc/systemd/system";
const COUNTERS: &str = "/var/lib/frostlock";

/// All that is ever in the state directory; anything else there belongs to somebody else.
const STATE: &[&str] =
    &["off", "locks", "containers", "intents", "lifts", "accounts", "tty", "journal.", "metrics."];
const HISTORY: &[&str] = &["history.", "history-", "journal."];

/// Below the prefix of `make install`.
const SHARED: &[(&str, &str)] = &[
    ("share/man/man1", "frostctl."),
    ("share/man/man1", "frostctl-"),
    ("share/man/man1", "frostlock."),
    ("share/man/man5", "frostlock."),
    ("share/bash-completion/completions", "frostctl"),
    ("share/zsh/site-functions", "_frostctl"),
    ("share/fish/vendor_completions.d", "frostctl.fish"),
];

/// Something that an uninstall without --purge leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Left {
    pub(super) path: PathBuf,
    pub(super) what: &'static str,
    /// Whether it also stays with --purge, because it belongs to the operator.
    #[serde(skip)]
    pub(super) is_theirs: bool,
}

/// All that exists, in the order of removal.
pub(super) fn left(binary: &Path) -> Vec<Left> {
    let state = StateDir::from_env();
    let history = History::of(&Config::load().0, &state);
    let directory = binary.parent().unwrap_or(Path::new("/"));
    let prefix = directory.parent().filter(|_| directory.ends_with("bin"));
    let is_named = std::env::var_os("FROSTLOCK_STATE_DIR").is_some();
    let ours = [
        ("state", known(state.path(), STATE)),
        ("journal", history.map(|it| known(it.directory(), HISTORY)).unwrap_or_default()),
        ("counters", if is_named { Vec::new() } else { known(COUNTERS, &["metrics."]) }),
        ("backup", backups()),
        ("program", known(directory, &[".frostlock.new", ".frostctl.new"])),
        ("pages and completions", prefix.map(shared).unwrap_or_default()),
        ("program", own_program(directory).into_iter().collect()),
    ];
    let theirs =
        [("settings", known(SETTINGS, &[""])), ("unit of systemd", known(UNITS, &["frostctl-"]))];
    let of = |is_theirs, (what, paths): (&'static str, Vec<PathBuf>)| {
        paths.into_iter().map(move |path| Left { path, what, is_theirs })
    };
    let ours = ours.into_iter().flat_map(|it| of(false, it));
    ours.chain(theirs.into_iter().flat_map(|it| of(true, it))).collect()
}

fn shared(prefix: &Path) -> Vec<PathBuf> {
    SHARED.iter().flat_map(|(directory, name)| known(prefix.join(directory), &[name])).collect()
}

/// Everything in the directory whose name makes it ours. In a directory that somebody else named,
/// only files that we write.
fn backups() -> Vec<PathBuf> {
    let mut all = known(record::directory(), &[""]);
    if std::env::var_os("FROSTCTL_STATE_DIR").is_some() {
        let is_ours = |it: &PathBuf| {
            let name = it.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".before") || name.ends_with(".json")
        };
        all.retain(is_ours);
    }
    all
}

/// frostctl itself, if installed beside the binary.
fn own_program(directory: &Path) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    (own.parent() == Some(directory) && own.ends_with("frostctl")).then_some(own)
}

/// Files with these names. A name that ends with a dot or a dash, or is empty, is a prefix.
fn known(directory: impl AsRef<Path>, names: &[&str]) -> Vec<PathBuf> {
    let is_known = |name: &str| {
        names.iter().any(|known| match known.is_empty() || known.ends_with(['.', '-']) {
            true => name.starts_with(known),
            false => name == *known,
        })
    };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = file::entries(directory.as_ref()).into_iter();
    entries.filter(|path| is_known(&name(path))).collect()
}

/// Why nothing may be removed yet: the state still has notes that undo something.
pub(super) fn needed() -> Option<String> {
    let state = StateDir::from_env();
    let notes = remains::unfinished(&state).len() + lift::left(&state).len();
    (notes > 0).then(|| {
        let (notes, are) = if notes == 1 {
            ("a note".to_owned(), "is")
        } else {
            (format!("{notes} notes"), "are")
        };
        format!(
            "{notes} of operations that were killed {are} in {}; run `frostctl doctor --fix` first",
            state.path().display()
        )
    })
}

/// Removes it, and the directories that are then empty.
pub(super) fn remove(left: &[Left]) -> anyhow::Result<()> {
    for it in left.iter().filter(|it| !it.is_theirs) {
        if it.path.is_dir() && !it.path.is_symlink() {
            std::fs::remove_dir_all(&it.path)
                .map_err(|error| anyhow::anyhow!("cannot remove {:?}: {error}", it.path))?;
        } else {
            file::remove(&it.path)?;
        }
    }
    let state = StateDir::from_env();
    let history = History::of(&Config::load().0, &state);
    let mut directories = vec![state.path().to_owned()];
    directories.extend(history.map(|it| it.directory().to_owned()));
    directories.push(record::directory());
    directories.extend(
        record::directory().parent().filter(|it| it.ends_with("frostlock")).map(Path::to_owned),
    );
    for directory in directories {
        // A directory that is not empty has files of others, and stays.
        let _ = std::fs::remove_dir(directory);
    }
    Ok(())
}

/// Hooks that run the binary: without the binary, no container with these hooks starts.
pub(super) fn hooks(binary: &Path) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = HOOKS.iter().map(PathBuf::from).collect();
    directories.extend(crio::hooks_directories());
    let specs = base_specs().into_iter().filter(|path| spec_runs(path, binary));
    let mut found: Vec<PathBuf> =
        directories.iter().flat_map(|it| hooks_in(it, binary)).chain(specs).collect();
    found.sort();
    found.dedup();
    found
}

/// Of the containerds that run, and of those whose configuration is at a usual place.
fn base_specs() -> Vec<PathBuf> {
    let node = Root::default();
    let all = containerd::read(&node, &processes::read(&node)).into_iter();
    all.flat_map(|it| it.entries).filter_map(|it| it.base_spec(&node)).collect()
}

fn spec_runs(path: &Path, binary: &Path) -> bool {
    let spec = json(path);
    let stages = spec["hooks"].as_object().into_iter().flatten();
    let hooks = stages.filter_map(|(_, it)| it.as_array()).flatten();
    let mut programs = hooks.filter_map(|it| it["path"].as_str());
    programs.any(|it| live::leads_over(Path::new(it), binary))
}

fn hooks_in(directory: &Path, binary: &Path) -> Vec<PathBuf> {
    let is_hook = |path: &PathBuf| path.extension().is_some_and(|it| it == "json");
    let runs = |path: &PathBuf| {
        let program = &json(path)["hook"]["path"];
        program.as_str().is_some_and(|it| live::leads_over(Path::new(it), binary))
    };
    file::entries(directory).into_iter().filter(is_hook).filter(runs).collect()
}

/// Null for a file that cannot be read, or is no JSON.
fn json(path: &Path) -> serde_json::Value {
    let text = file::read(path).ok().flatten().unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_ours() {
        let scratch = tempfile::tempdir().unwrap();
        for name in
            ["off", "office", "locks", "journal.jsonl", "journal.jsonl.1", "journalctl", "precious"]
        {
            std::fs::write(scratch.path().join(name), "").unwrap();
        }
        let found = known(scratch.path(), STATE);
        let names: Vec<_> = found.iter().filter_map(|it| it.file_name()?.to_str()).collect();
        assert_eq!(names, ["journal.jsonl", "journal.jsonl.1", "locks", "off"]);
    }

    #[test]
    fn a_hook_that_runs_it_is_found() {
        let scratch = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("ours.json", r#"{"hook": {"path": "/x/frostlock"}}"#),
            ("other.json", r#"{"hook": {"path": "/x/other"}}"#),
            ("broken.json", "{"),
            ("ours.txt", r#"{"hook": {"path": "/x/frostlock"}}"#),
        ] {
            std::fs::write(scratch.path().join(name), text).unwrap();
        }
        let found = hooks_in(scratch.path(), Path::new("/x/frostlock"));
        assert_eq!(found, [scratch.path().join("ours.json")]);
    }

    #[test]
    fn a_base_spec_with_a_hook_that_runs_it_is_found() {
        let scratch = tempfile::tempdir().unwrap();
        let [binary, link, spec] = ["frostlock", "link", "spec"].map(|it| scratch.path().join(it));
        std::fs::write(&binary, "").unwrap();
        std::os::unix::fs::symlink(&binary, &link).unwrap();
        for (path, expected) in [(&binary, true), (&link, true), (&spec, false)] {
            let hooks = serde_json::json!({ "hooks": {
                "createRuntime": [{ "path": "/x/other" }], "poststop": [{ "path": path }] } });
            std::fs::write(&spec, hooks.to_string()).unwrap();
            assert_eq!(spec_runs(&spec, &binary), expected, "{path:?}");
        }
        std::fs::write(&spec, "{}").unwrap();
        assert!(!spec_runs(&spec, &binary) && !spec_runs(&scratch.path().join("none"), &binary));
    }
}
