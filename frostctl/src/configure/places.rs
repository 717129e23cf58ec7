//! Which files to edit: the one that the engine reads, and the one that has our entry or gets it.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use toml_edit::{Item, Value};

use super::arguments::Target;
use super::distribution::{self, Seen, Way};
use super::edit::is_ours;
use super::engine::Engine;
use super::files::{Files, Kind};
use super::record::{Ours, Record};
use super::{check, file, layout, node, toml_file};
use crate::node::root::Root;
use crate::version::Version;

/// The first containerd that merges imported files table by table; earlier versions let an imported
/// file replace a plugin's whole section.
const MERGES: Version = Version::new(2, 0, 0);

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot tell where {path:?} is"))
}

/// A missing directory means a mistyped path: no engine would read what we wrote there. A drop-in
/// directory is created with its first file.
fn has_directory(target: &Target) -> anyhow::Result<()> {
    let root = Root::at(target.root.clone());
    for path in target.config.iter().chain(&target.drop_in) {
        let path = root.path(&absolute(path)?);
        let is_of_drop_ins = |it: &&Path| it.extension().is_some_and(|it| it == "d");
        let directory = path.parent().unwrap_or(&path);
        let directory =
            Some(directory).filter(is_of_drop_ins).and_then(Path::parent).unwrap_or(directory);
        if !directory.is_dir() {
            bail!(
                "there is no directory {directory:?}, so {} reads no {path:?}; name the file that it reads, or make the directory; nothing was changed",
                target.runtime.name()
            );
        }
    }
    Ok(())
}

/// Where our entry already is, or else where it goes.
pub(super) fn to_configure(target: &Target, no_drop_in: bool) -> anyhow::Result<Files> {
    has_directory(target)?;
    let (base, is_fixed) = base(target)?;
    let files = if is_fixed { base } else { chosen(base, target, no_drop_in)? };
    if target.runtime == Engine::Containerd {
        can_be_written(target, &files)?;
    }
    Ok(files)
}

/// A file of an image cannot be edited. Then our file must be in a directory that it imports.
fn can_be_written(target: &Target, files: &Files) -> anyhow::Result<()> {
    let main = match &target.root {
        Some(root) => Path::new("/").join(files.main.strip_prefix(root).unwrap_or(&files.main)),
        None => files.main.clone(),
    };
    let Some(why) = distribution::of_image(&main) else { return Ok(()) };
    let text = file::read(&files.main)?.unwrap_or_default();
    let stays = imported_directories(&files.main, &text)
        .iter()
        .any(|it| files.is_merged() && files.entry.parent() == Some(it));
    if !stays {
        bail!("{why}; nothing was changed");
    }
    Ok(())
}

fn chosen(base: Files, target: &Target, no_drop_in: bool) -> anyhow::Result<Files> {
    let there = standing(&base.main, &target.name)?;
    let asked = target.drop_in.as_deref().map(absolute).transpose()?;
    if let Some(there) = &there {
        let is_asked = asked.as_ref().is_none_or(|it| it == there);
        if !is_asked || (no_drop_in && *there != base.main) {
            bail!(
                "the runtime {:?} is in {there:?} already; run `frostctl unconfigure` first, then configure it anew; nothing was changed",
                target.name
            );
        }
    }
    let usual = || drop_in(&base, target).filter(|_| !no_drop_in);
    let entry = there.or(asked).or_else(usual);
    Ok(entry_at(base, entry))
}

/// Finds our entry by itself.
pub(super) fn to_unconfigure(target: &Target) -> anyhow::Result<Files> {
    let (base, is_fixed) = base(target)?;
    if is_fixed {
        return Ok(base);
    }
    let entry = match &target.drop_in {
        Some(drop_in) => Some(absolute(drop_in)?),
        None => standing(&base.main, &target.name)?,
    };
    Ok(entry_at(base, entry))
}

/// The files of a record.
pub(super) fn of_record(record: &Record) -> Files {
    let main = record.main.clone().unwrap_or_else(|| record.path.clone());
    // The importing file is recorded with its import; seen alone, it is a file like any other.
    let kind = if matches!(record.ours, Ours::Import(_)) { Kind::Own } else { record.kind };
    let files = Files { main, kind, ..Files::of(record.engine, record.path.clone()) };
    if record.engine != Engine::Containerd {
        return files;
    }
    let root = Root::default();
    let seen = node::look(&root);
    let containerd = running_with(&root, &seen, &files.main);
    let choice = distribution::choose(&seen, Some(&files.main)).ok();
    Files { choice, containerd, ..files }
}

/// The program of the containerd that reads this file, or a file generated from it in the same
/// directory.
fn running_with(root: &Root, seen: &Seen, main: &Path) -> Option<PathBuf> {
    let its = seen.running.iter().find(|it| it.config == main);
    let its = its.or_else(|| seen.running.iter().find(|it| it.config.parent() == main.parent()))?;
    program(root, its.program.as_ref()?)
}

/// The files, and whether they are fixed: otherwise the entry may go into containerd's file or into
/// a drop-in.
fn base(target: &Target) -> anyhow::Result<(Files, bool)> {
    let config = target.config.as_deref().map(absolute).transpose()?;
    let entry = match (&target.drop_in, target.runtime) {
        (_, Engine::Containerd) => return containerd(target, config.as_deref()),
        (Some(_), Engine::Docker) => {
            bail!("dockerd reads one file and no drop-ins; leave out --drop-in")
        }
        // For CRI-O and podman, the drop-in is the only file.
        (Some(drop_in), _) => absolute(drop_in)?,
        (None, engine) => config.unwrap_or_else(|| {
            Root::at(target.root.clone()).path(&engine.default_path(&target.name))
        }),
    };
    Ok((Files::of(target.runtime, entry), true))
}

fn containerd(target: &Target, config: Option<&Path>) -> anyhow::Result<(Files, bool)> {
    let root = Root::at(target.root.clone());
    let choice = distribution::choose(&node::look(&root), config)
        .map_err(|why| anyhow!("{why}; nothing was changed"))?;
    let running = choice.running.as_ref().and_then(|it| it.program.as_ref());
    let files = Files {
        containerd: running.and_then(|it| program(&root, it)),
        ..Files::of(Engine::Containerd, root.path(&choice.config))
    };
    let files = Files { choice: Some(choice), ..files };
    let name = file_name(&target.name);
    match files.distribution().way {
        Way::GoTemplate if target.drop_in.is_none() => Ok((go_template(files, &name)?, true)),
        Way::Template(template) => {
            let path =
                files.main.with_file_name(Path::new(template).file_name().unwrap_or_default());
            if !path.is_file() {
                bail!(
                    "there is no {path:?}, from which {} makes its file; nothing was changed",
                    files.distribution().name
                );
            }
            Ok((Files { main: path.clone(), entry: path, ..files }, true))
        }
        Way::Parts { directory, managed } if target.drop_in.is_none() => {
            let text = file::read(&files.main)?.unwrap_or_default();
            if !text.contains(managed) {
                return Ok((files, false));
            }
            let directory = root.path(Path::new(directory));
            let entry = directory.join(name);
            let is_imported = imported_directories(&files.main, &text).contains(&directory);
            let kind = if is_imported { Kind::Import { is_merged: true } } else { Kind::Part };
            Ok((Files { kind, entry, ..files }, true))
        }
        _ => Ok((files, false)),
    }
}

/// If one program has several names, as in k3s, the name decides.
fn program(root: &Root, path: &Path) -> Option<PathBuf> {
    let path = root.path(path);
    let by_name = path.with_file_name("containerd");
    [by_name, path].into_iter().find(|it| it.exists())
}

fn file_name(name: &str) -> String {
    format!("99-{name}.toml")
}

/// The generated file tells its version, and whether it imports files that others wrote.
fn go_template(files: Files, name: &str) -> anyhow::Result<Files> {
    let text = file::read(&files.main)?.with_context(|| {
        format!(
            "{} has not made {:?} yet; start it once, and configure again; nothing was changed",
            files.distribution().name,
            files.main
        )
    })?;
    let document = toml_file::parse(&text).with_context(|| format!("{:?}", files.main))?;
    let is_version_3 = layout::version(&document) == Some(3);
    let beside =
        |directory: &PathBuf| files.main.parent().is_some_and(|it| directory.starts_with(it));
    let directory = imported_directories(&files.main, &text).into_iter().find(beside);
    let (kind, entry) = match directory {
        Some(directory) if is_version_3 => (Kind::Import { is_merged: true }, directory.join(name)),
        _ => {
            let template = if is_version_3 { "config-v3.toml.tmpl" } else { "config.toml.tmpl" };
            (Kind::GoTemplate, files.main.with_file_name(template))
        }
    };
    Ok(Files { kind, entry, ..files })
}

fn entry_at(base: Files, entry: Option<PathBuf>) -> Files {
    match entry.filter(|it| *it != base.main) {
        Some(entry) => Files { kind: Kind::Import { is_merged: merges(&base) }, entry, ..base },
        None => base,
    }
}

fn merges(files: &Files) -> bool {
    check::containerd_version(files.containerd.as_deref()).is_some_and(|it| it >= MERGES)
}

/// The default place if containerd merges imports: a directory that its file imports, or `conf.d`
/// beside the file. If the file was named with --config, nothing is written outside its directory.
fn drop_in(base: &Files, target: &Target) -> Option<PathBuf> {
    let text = file::read(&base.main).ok()?.filter(|_| merges(base))?;
    let beside = base.main.parent()?;
    let is_near = |it: &PathBuf| target.config.is_none() || it.starts_with(beside);
    let imported = imported_directories(&base.main, &text).into_iter().find(is_near);
    Some(imported.unwrap_or_else(|| beside.join("conf.d")).join(file_name(&target.name)))
}

/// The directories that are imported as `DIRECTORY/*.toml`.
fn imported_directories(main: &Path, text: &str) -> Vec<PathBuf> {
    let all = imports(main, text);
    let directory =
        |it: &PathBuf| (it.file_name()? == "*.toml").then(|| it.parent().map(Path::to_owned))?;
    all.iter().filter_map(directory).collect()
}

fn imports(main: &Path, text: &str) -> Vec<PathBuf> {
    let Ok(document) = toml_file::parse(text) else { return Vec::new() };
    let list = document.get("imports").and_then(Item::as_array);
    let names = list.into_iter().flatten().filter_map(Value::as_str);
    names.map(|name| main.parent().unwrap_or(Path::new("/")).join(name)).collect()
}

/// The files that a file imports, as containerd expands them: `*` stands for part of a name.
pub(super) fn imported(main: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for import in imports(main, text) {
        let name = import.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((before, after)) = name.split_once('*') else {
            found.push(import);
            continue;
        };
        let is_meant = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix(before).is_some_and(|rest| rest.ends_with(after))
        };
        let all = import.parent().map(file::entries).unwrap_or_default();
        found.extend(all.into_iter().filter(is_meant));
    }
    found
}

/// The file that has our entry: a recorded file, the main file, or one that it imports.
fn standing(main: &Path, name: &str) -> anyhow::Result<Option<PathBuf>> {
    let records = Record::all().context("nothing was changed")?;
    let is_of_it = |it: &&Record| {
        it.name == name
            && it.engine == Engine::Containerd
            && matches!(it.ours, Ours::Entry { .. })
            && it.main.as_deref().unwrap_or(&it.path) == main
    };
    let recorded = records.iter().filter(is_of_it).map(|it| it.path.clone());
    let text = file::read(main)?.unwrap_or_default();
    let candidates = recorded.chain([main.to_owned()]).chain(imported(main, &text));
    for path in candidates {
        // The code that edits a file reports that the file cannot be read.
        let Ok(Some(text)) = file::read(&path) else { continue };
        if named(Engine::Containerd, &text, name).is_some_and(is_ours) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The program of our entry.
pub(super) fn named(engine: Engine, text: &str, name: &str) -> Option<PathBuf> {
    layout::handlers(engine, text)?.into_iter().find(|it| it.name == name)?.binary
}
