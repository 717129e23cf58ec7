//! What the engine itself makes of a configuration.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use toml_edit::{DocumentMut, Item};

use super::engine::Engine;
use super::layout::{Layout, get};
use super::{program, toml_file};

/// Each takes less than a second on an idle machine.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

const MAX_LINES: usize = 12;

/// How it was checked, or why it was not.
pub(crate) type Checked = Result<String, String>;

/// What containerd reads in a file and all that it imports; none without a containerd.
pub(crate) fn effective(path: &Path) -> anyhow::Result<Option<DocumentMut>> {
    let Some(containerd) = program::find("containerd") else { return Ok(None) };
    let mut command = Command::new(containerd);
    if path.exists() {
        command.arg("--config").arg(path).args(["config", "dump"]);
    } else {
        command.args(["config", "default"]);
    }
    let text = program::run(&mut command, LIMIT)?;
    toml_file::parse(&text).map(Some).context("what `containerd config dump` prints")
}

/// What must be the same before and after.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) name: &'a str,
    /// None: there is to be no entry of that name.
    pub(crate) binary: Option<&'a str>,
    pub(crate) before: Option<&'a DocumentMut>,
}

/// `path` is the file that the engine is told to read, `entry` the one with the entry in it.
pub(crate) fn check(
    engine: Engine,
    path: &Path,
    entry: &Path,
    expected: &Expected<'_>,
) -> anyhow::Result<Checked> {
    match engine {
        Engine::Containerd => containerd(path, expected),
        Engine::Docker => docker(path),
        Engine::Podman => podman(entry, expected),
        Engine::Crio => Ok(Err("CRI-O has no command that checks a drop-in".to_owned())),
    }
}

/// An imported file may hide all of a section, and one runtime the built-in ones: nothing but our
/// entry may be different.
fn containerd(path: &Path, expected: &Expected<'_>) -> anyhow::Result<Checked> {
    let Some(after) = effective(path)? else { return Ok(Err("no containerd in PATH".to_owned())) };
    let layout = Layout::of(Engine::Containerd, &after)?;
    let entry = layout.entry(&after, expected.name);
    let binary = entry.and_then(|entry| layout.binary_of(entry));
    if entry.is_some() != expected.binary.is_some() || binary != expected.binary {
        bail!(
            "containerd reads the runtime {:?} as {:?} and not {:?}: a file that is imported has a section of its own, which takes the place of this one; see `containerd config dump`, and edit that file with --config",
            expected.name,
            binary.unwrap_or("not there"),
            expected.binary.unwrap_or("not there")
        );
    }
    if let Some(before) = expected.before {
        let (before, after) = (without(before, expected.name)?, without(&after, expected.name)?);
        if before != after {
            bail!(
                "containerd would read other things differently, too:\n{}",
                changed(&before, &after)
            );
        }
    }
    Ok(Ok("containerd config dump".to_owned()))
}

/// All but our entry, the default, and the list of files that were read.
fn without(document: &DocumentMut, name: &str) -> anyhow::Result<String> {
    let mut document = document.clone();
    let layout = Layout::of(Engine::Containerd, &document)?;
    let (default, key) = &layout.default;
    for (path, key) in [(&layout.runtimes, name), (default, key)] {
        if let Some(table) = find(document.as_item_mut(), path).and_then(Item::as_table_like_mut) {
            table.remove(key);
        }
    }
    document.remove("imports");
    let has_runtimes = get(document.as_item(), &layout.runtimes).is_some();
    let text = if has_runtimes { document.to_string() } else { String::new() };
    // What was taken out leaves its empty lines.
    Ok(text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| format!("{line}\n"))
        .collect())
}

fn find<'a>(item: &'a mut Item, path: &[&str]) -> Option<&'a mut Item> {
    path.iter().try_fold(item, |item, key| item.get_mut(key))
}

fn changed(before: &str, after: &str) -> String {
    let diff = similar::TextDiff::from_lines(before, after);
    let lines = diff.iter_all_changes().filter(|change| change.tag() != similar::ChangeTag::Equal);
    lines.take(MAX_LINES).map(|change| format!("{}{}", change.tag(), change.value())).collect()
}

fn docker(path: &Path) -> anyhow::Result<Checked> {
    let Some(dockerd) = program::find("dockerd") else {
        return Ok(Err("no dockerd in PATH".to_owned()));
    };
    if !path.exists() {
        return Ok(Err("there is no file to check".to_owned()));
    }
    let mut command = Command::new(dockerd);
    command.arg("--validate").arg("--config-file").arg(path);
    match program::run(&mut command, LIMIT) {
        Ok(_) => Ok(Ok("dockerd --validate".to_owned())),
        // Before 23.0.
        Err(error) if error.to_string().contains("unknown flag: --validate") => {
            Ok(Err("this dockerd has no --validate".to_owned()))
        }
        Err(error) => Err(error),
    }
}

fn podman(entry: &Path, expected: &Expected<'_>) -> anyhow::Result<Checked> {
    let Some(podman) = program::find("podman") else {
        return Ok(Err("no podman in PATH".to_owned()));
    };
    let mut command = Command::new(podman);
    if entry.exists() && !entry.starts_with("/etc/containers") {
        command.env("CONTAINERS_CONF", entry);
    }
    if expected.binary.is_some() {
        command.args(["--runtime", expected.name]);
    }
    let said =
        program::run(command.args(["info", "--format", "{{.Host.OCIRuntime.Path}}"]), LIMIT)?;
    match expected.binary {
        Some(binary) if said.trim_end_matches('\n') != binary => {
            bail!("podman runs {:?} for the runtime {:?}", said.trim_end(), expected.name)
        }
        _ => Ok(Ok("podman info".to_owned())),
    }
}
