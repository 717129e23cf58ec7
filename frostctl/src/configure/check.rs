//! What the engine itself reads from a configuration.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use toml_edit::{DocumentMut, Item};

use super::engine::{ANSWERS_WITHIN, Engine};
use super::files::{Files, Kind};
use super::layout::{Layout, RUNTIMES};
use super::{file, go_template, toml_file};
use crate::program;
use crate::version::Version;

const MAX_LINES: usize = 12;

#[derive(Debug)]
pub(crate) enum Checked {
    By(String),
    /// Why it could not be checked.
    Not(String),
}

fn version_of(program: PathBuf) -> Option<Version> {
    Version::find(&program::run(Command::new(program).arg("--version"), ANSWERS_WITHIN).ok()?)
}

/// The containerd that runs, else the first in PATH.
fn containerd_program(running: Option<&Path>) -> Option<PathBuf> {
    running.map(Path::to_owned).or_else(|| program::find("containerd"))
}

pub(crate) fn containerd_version(running: Option<&Path>) -> Option<Version> {
    version_of(containerd_program(running)?)
}

/// The release of the k3s or rke2 whose containerd this is, else of the one in PATH.
pub(crate) fn release(name: &str, running: Option<&Path>) -> Option<Version> {
    // Below /var/lib/rancher/rke2/data/v1.28.1-rke2r1-HASH; for k3s the name has no version.
    let parts = running.into_iter().flat_map(Path::components);
    let parts = parts.filter_map(|it| it.as_os_str().to_str()).filter(|it| it.contains(name));
    let in_path = parts.filter_map(Version::find).next_back();
    let beside = running.and_then(|it| program::trusted(&it.with_file_name(name)).ok());
    in_path.or_else(|| version_of(beside.or_else(|| program::find(name))?))
}

/// Fails if the engine cannot read its files as they are now.
pub(crate) fn reads(files: &Files) -> anyhow::Result<()> {
    match files.engine {
        Engine::Containerd if files.kind == Kind::Part => Ok(()),
        Engine::Containerd => effective(&files.main, files.containerd.as_deref()).map(drop),
        Engine::Docker => docker(&files.main).map(drop),
        Engine::Podman => super::podman::effective().map(drop),
        Engine::Crio => crio_reads(&files.entry).map(drop),
    }
}

/// What containerd reads from a file and all its imports; `None` without a containerd.
pub(crate) fn effective(
    path: &Path,
    running: Option<&Path>,
) -> anyhow::Result<Option<DocumentMut>> {
    let Some(containerd) = containerd_program(running) else { return Ok(None) };
    let mut command = Command::new(containerd);
    if path.exists() {
        command.arg("--config").arg(path).args(["config", "dump"]);
    } else {
        command.args(["config", "default"]);
    }
    let text = program::run(&mut command, ANSWERS_WITHIN)?;
    toml_file::parse(&text).map(Some).context("what `containerd config dump` prints")
}

/// What must hold after the change.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) name: &'a str,
    /// `None`: there must be no entry with that name.
    pub(crate) binary: Option<&'a str>,
    pub(crate) before: Option<&'a DocumentMut>,
    /// Also if the engine does not accept it.
    pub(crate) is_kept: bool,
}

impl Expected<'_> {
    /// Fails if the engine reads another program. `more`: why that may be, and what to do.
    fn is_read(&self, engine: &str, binary: Option<&str>, more: &str) -> anyhow::Result<()> {
        let [read, asked] = [binary, self.binary].map(|it| it.unwrap_or("not there"));
        ensure!(
            binary == self.binary,
            "{engine} reads the runtime {:?} as {read:?} and not {asked:?}{more}",
            self.name
        );
        Ok(())
    }
}

pub(crate) fn check(files: &Files, expected: &Expected<'_>) -> anyhow::Result<Checked> {
    match checked(files, expected) {
        Err(error) if expected.is_kept => Ok(Checked::Not(format!("{error:#}"))),
        checked => checked,
    }
}

fn checked(files: &Files, expected: &Expected<'_>) -> anyhow::Result<Checked> {
    let running = files.containerd.as_deref();
    match (files.engine, files.kind) {
        (Engine::Containerd, Kind::GoTemplate) => generated(files, expected),
        (Engine::Containerd, Kind::Part) => {
            let who = match files.distribution().name {
                "" => "the distribution",
                name => name,
            };
            Ok(Checked::Not(format!(
                "{who} merges this file into containerd's configuration at its next start"
            )))
        }
        (Engine::Containerd, _) => containerd(&files.main, running, expected),
        (Engine::Docker, _) => docker(&files.main),
        (Engine::Podman, _) => podman(&files.entry, expected),
        (Engine::Crio, _) => crio(&files.entry, expected),
    }
}

/// The next generated file will be the last generated one plus our block.
fn generated(files: &Files, expected: &Expected<'_>) -> anyhow::Result<Checked> {
    let [generated, template] = [&files.main, &files.entry].map(|path| file::read(path));
    let template = template?.unwrap_or_default();
    let rendered =
        go_template::rendered(&generated?.unwrap_or_default(), &template, expected.name)?;
    let mut copy = tempfile::NamedTempFile::new().context("cannot write a copy to check")?;
    copy.write_all(rendered.as_bytes()).context("cannot write a copy to check")?;
    Ok(match containerd(copy.path(), files.containerd.as_deref(), expected)? {
        Checked::By(by) => Checked::By(format!("{by}, of what will be generated")),
        not => not,
    })
}

/// An imported file can hide a whole section, and one configured runtime hides the built-in ones.
/// So nothing but our entry and the default may differ.
fn containerd(
    path: &Path,
    running: Option<&Path>,
    expected: &Expected<'_>,
) -> anyhow::Result<Checked> {
    let Some(after) = effective(path, running)? else {
        return Ok(Checked::Not("no containerd runs or is in PATH".to_owned()));
    };
    let layout = Layout::of(Engine::Containerd, &after)?;
    let entry = layout.entry(&after, expected.name);
    let binary = entry.map(|entry| layout.binary_of(entry).unwrap_or("the default"));
    expected.is_read(
        "containerd",
        binary,
        ": an imported file has its own section, which replaces this one; see `containerd config \
         dump`, and edit that file with --config",
    )?;
    if let Some(before) = expected.before {
        let (before, after) = (without(before, expected.name)?, without(&after, expected.name)?);
        if before != after {
            bail!(
                "the change would alter what else containerd reads:\n{}",
                changed(&before, &after)
            );
        }
    }
    Ok(Checked::By("containerd config dump".to_owned()))
}

/// The document without our entry, the default, and the list of imports.
fn without(document: &DocumentMut, name: &str) -> anyhow::Result<String> {
    let mut document = document.clone();
    let layout = Layout::of(Engine::Containerd, &document)?;
    let table = layout.table.iter().try_fold(document.as_item_mut(), |it, key| it.get_mut(key));
    if let Some(table) = table.and_then(Item::as_table_like_mut) {
        table.remove(layout.default);
        if let Some(all) = table.get_mut(RUNTIMES).and_then(Item::as_table_like_mut) {
            all.remove(name);
        }
    }
    document.remove("imports");
    let has_runtimes = layout.runtimes(&document).is_some();
    let text = if has_runtimes { document.to_string() } else { String::new() };
    // A removed table leaves its empty lines.
    Ok(text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| format!("{line}\n"))
        .collect())
}

fn changed(before: &str, after: &str) -> String {
    let diff = similar::TextDiff::from_lines(before, after);
    let lines = diff.iter_all_changes().filter(|change| change.tag() != similar::ChangeTag::Equal);
    lines.take(MAX_LINES).map(|change| format!("{}{}", change.tag(), change.value())).collect()
}

fn docker(path: &Path) -> anyhow::Result<Checked> {
    let Some(dockerd) = program::find("dockerd") else {
        return Ok(Checked::Not("no dockerd in PATH".to_owned()));
    };
    if !path.exists() {
        return Ok(Checked::Not("there is no file to check".to_owned()));
    }
    let mut command = Command::new(dockerd);
    command.arg("--validate").arg("--config-file").arg(path);
    match program::run(&mut command, ANSWERS_WITHIN) {
        Ok(_) => Ok(Checked::By("dockerd --validate".to_owned())),
        // dockerd before 23.0.
        Err(error) if error.to_string().contains("unknown flag: --validate") => {
            Ok(Checked::Not("this dockerd has no --validate".to_owned()))
        }
        Err(error) => Err(error),
    }
}

fn podman(entry: &Path, expected: &Expected<'_>) -> anyhow::Result<Checked> {
    let Some(podman) = program::find("podman") else {
        return Ok(Checked::Not("no podman in PATH".to_owned()));
    };
    let mut command = Command::new(podman);
    if entry.exists() && !entry.starts_with("/etc/containers") {
        command.env("CONTAINERS_CONF", entry);
    }
    if expected.binary.is_some() {
        command.args(["--runtime", expected.name]);
    }
    let said = program::run(
        command.args(["info", "--format", "{{.Host.OCIRuntime.Path}}"]),
        ANSWERS_WITHIN,
    )?;
    match expected.binary {
        Some(binary) if said.trim_end_matches('\n') != binary => {
            bail!("podman runs {:?} for the runtime {:?}", said.trim_end(), expected.name)
        }
        _ => Ok(Checked::By("podman info".to_owned())),
    }
}

/// CRI-O's settings where its files say nothing; `None` without a CRI-O.
pub(crate) fn crio_default() -> anyhow::Result<Option<DocumentMut>> {
    let Some(crio) = program::find("crio") else { return Ok(None) };
    let printed = crio_config(Command::new(crio).args(["config", "--default"]))?;
    toml_file::of_crio(&printed).map(Some)
}

fn crio_config(command: &mut Command) -> anyhow::Result<DocumentMut> {
    let said = program::run(command, ANSWERS_WITHIN)?;
    toml_file::parse(&said).context("what `crio config` prints")
}

/// What CRI-O reads from its files and the directory of our entry; `None` without a CRI-O.
fn crio_reads(entry: &Path) -> anyhow::Result<Option<DocumentMut>> {
    let Some(crio) = program::find("crio") else { return Ok(None) };
    let mut command = Command::new(crio);
    if let Some(directory) = entry.parent() {
        command.arg("--config-dir").arg(directory);
    }
    crio_config(command.arg("config")).map(Some)
}

fn crio(entry: &Path, expected: &Expected<'_>) -> anyhow::Result<Checked> {
    let Some(read) = crio_reads(entry)? else {
        return Ok(Checked::Not("no crio in PATH".to_owned()));
    };
    let layout = Layout::of(Engine::Crio, &read)?;
    let binary = layout.entry(&read, expected.name).and_then(|entry| layout.binary_of(entry));
    expected.is_read("CRI-O", binary, "; see `crio config`")?;
    Ok(Checked::By("crio config".to_owned()))
}
