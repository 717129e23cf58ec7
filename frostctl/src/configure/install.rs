//! The way in.

use std::path::PathBuf;

use anyhow::{Context, bail};
use toml_edit::DocumentMut;

use super::check::Expected;
use super::edit::{Edited, Wish};
use super::engine::Engine;
use super::record::{Ours, Record};
use super::report::{Action, FileReport, Report, diff};
use super::{Configure, Files, binary, check, file, json_file, podman, remove, toml_file};

/// One file that is to change.
#[derive(Debug)]
struct Change {
    path: PathBuf,
    now: Option<String>,
    after: String,
    ours: Ours,
}

pub(super) fn install(asked: &Configure) -> anyhow::Result<Report> {
    let target = &asked.target;
    let files = target.files()?;
    let program = binary::find(asked.binary.as_deref())?;
    let effective = effective(target.runtime, &files)?;
    let wish = Wish {
        name: &target.name,
        binary: &program,
        wrap: asked.wrap.as_deref(),
        set_as_default: asked.set_as_default,
    };
    let (changes, edited) = plan(target.runtime, &files, &wish, effective.as_ref())?;
    let mut report = Report::new(target.runtime, &target.name, target.dry_run);
    if let Some(wrapped) = &edited.wrapped {
        match binary::mismatch(&program, wrapped)? {
            Some(why) if !asked.force => bail!("{why}; nothing was changed"),
            why => report.notes.extend(why),
        }
    }
    report.notes.extend(driver(target.runtime, &changes, &target.name));
    let before = match target.runtime {
        Engine::Containerd => effective.as_ref(),
        _ => None,
    };
    let expected = Expected { name: &target.name, binary: Some(&program), before };
    if target.dry_run {
        report.files.extend(changes.iter().map(|change| change.report(None)));
        return Ok(report);
    }
    apply(target.runtime, &files, &changes, &expected, &mut report)?;
    advise(asked, &mut report);
    Ok(report)
}

/// Without it in containerd and with it in kubelet, pods crash in a loop.
fn driver(engine: Engine, changes: &[Change], name: &str) -> Option<String> {
    let change =
        changes.first().filter(|change| engine == Engine::Containerd && change.is_needed())?;
    let document = toml_file::parse(&change.after).ok()?;
    let layout = super::layout::Layout::of(engine, &document).ok()?;
    let set = layout.entry(&document, name)?.get("options").and_then(|it| it.get("SystemdCgroup"));
    let is_systemd = set.and_then(toml_edit::Item::as_bool).unwrap_or(false);
    (!is_systemd).then(|| {
        "SystemdCgroup is false, as in the entry that it stands in for: kubelet's cgroupDriver must be cgroupfs".to_owned()
    })
}

/// What the engine makes of its files before we come, as a source of options.
fn effective(engine: Engine, files: &Files) -> anyhow::Result<Option<DocumentMut>> {
    match engine {
        Engine::Containerd => {
            // Our own reader says better what is wrong with a file, and where.
            if let Some(text) = file::read(&files.main)? {
                toml_file::parse(&text).with_context(|| format!("{:?}", files.main))?;
            }
            check::effective(&files.main)
                .context("containerd cannot read its configuration as it is; nothing was changed")
        }
        Engine::Crio => crio(),
        Engine::Podman => podman::effective()
            .context("podman cannot read its configuration as it is; nothing was changed"),
        Engine::Docker => Ok(None),
    }
}

/// The last of CRI-O's files that has runtimes wins.
fn crio() -> anyhow::Result<Option<DocumentMut>> {
    let mut paths = vec![PathBuf::from("/etc/crio/crio.conf")];
    let mut drop_ins: Vec<PathBuf> = std::fs::read_dir("/etc/crio/crio.conf.d")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    drop_ins.sort();
    paths.extend(drop_ins);
    let mut found = None;
    for path in paths {
        let Some(text) = file::read(&path)? else { continue };
        let document = toml_file::parse(&text).with_context(|| format!("{path:?}"))?;
        let layout = super::layout::Layout::of(Engine::Crio, &document)?;
        if !layout.names(&document).is_empty() {
            found = Some(document);
        }
    }
    Ok(found)
}

fn plan(
    engine: Engine,
    files: &Files,
    wish: &Wish<'_>,
    effective: Option<&DocumentMut>,
) -> anyhow::Result<(Vec<Change>, Edited)> {
    let now = file::read(&files.entry)?;
    let text = match &now {
        // containerd takes an empty file for its defaults.
        Some(text) if engine != Engine::Containerd || !text.trim().is_empty() => text.clone(),
        _ => new_file(engine, files, effective)?,
    };
    let mut edited = match engine {
        Engine::Docker => json_file::configure(&text, wish),
        Engine::Podman => podman::configure(&text, wish, effective, &files.entry),
        _ => toml_file::configure(engine, &text, wish, effective),
    }
    .with_context(|| format!("{:?}", files.entry))?;
    let after = std::mem::take(&mut edited.text);
    let ours = edited.ours.clone();
    let mut changes = vec![Change { path: files.entry.clone(), now, after, ours }];
    if files.imports() {
        changes.extend(import(files)?);
    }
    Ok((changes, edited))
}

/// What a file that is not there begins with.
fn new_file(
    engine: Engine,
    files: &Files,
    effective: Option<&DocumentMut>,
) -> anyhow::Result<String> {
    if engine != Engine::Containerd {
        return Ok(String::new());
    }
    let mut version = effective.and_then(|it| it.get("version")?.as_integer()).unwrap_or(2);
    if files.imports() {
        // That of an imported file must not be above that of the file that imports it.
        let main = file::read(&files.main)?;
        let main = main.with_context(|| {
            format!("there is no {:?} to import it; leave --drop-in away", files.main)
        })?;
        version = toml_file::parse(&main)?
            .get("version")
            .and_then(|it| it.as_integer())
            .unwrap_or(version);
    }
    Ok(format!("version = {version}\n"))
}

fn import(files: &Files) -> anyhow::Result<Option<Change>> {
    let entry = files.entry.to_str().with_context(|| format!("{:?} is not UTF-8", files.entry))?;
    let now = file::read(&files.main)?;
    let after = toml_file::import(now.as_deref().unwrap_or_default(), entry)
        .with_context(|| format!("{:?}", files.main))?;
    let ours = Ours::Import(entry.to_owned());
    Ok(after.map(|after| Change { path: files.main.clone(), now, after, ours }))
}

impl Change {
    fn is_needed(&self) -> bool {
        self.now.as_ref() != Some(&self.after)
    }

    fn report(&self, backup: Option<PathBuf>) -> FileReport {
        let action = match &self.now {
            None => Action::Created,
            Some(now) if *now == self.after => Action::Unchanged,
            Some(_) => Action::Changed,
        };
        let diff = diff(&self.path, self.now.as_deref(), Some(&self.after));
        FileReport { path: self.path.clone(), action, backup, diff }
    }

    /// Ours may be there already, from an earlier time and with another binary or as the default.
    fn record(&self, engine: Engine, name: &str, binary: &str) -> anyhow::Result<Record> {
        let mut record = Record {
            engine,
            path: self.path.clone(),
            name: name.to_owned(),
            binary: binary.to_owned(),
            former: Vec::new(),
            before: self.now.clone(),
            after: self.after.clone(),
            ours: self.ours.clone(),
        };
        let Some(old) = Record::load(&self.path, name)? else { return Ok(record) };
        record.former.clone_from(&old.former);
        record.former.push(old.binary.clone());
        record.former.retain(|it| it != binary);
        record.former.dedup();
        let Some(now) = &self.now else { return Ok(record) };
        record.before = if *now == old.after {
            old.before.clone()
        } else {
            // Somebody has edited it since: what he wrote is to stay.
            remove::taken_out(&old, now)?.or_else(|| Some(now.clone()))
        };
        if let (Ours::Entry { default }, Ours::Entry { default: earlier }) =
            (&mut record.ours, old.ours)
        {
            *default = earlier.or(default.take());
        }
        Ok(record)
    }
}

/// All files or none: what was done before a failure is undone.
fn apply(
    engine: Engine,
    files: &Files,
    changes: &[Change],
    expected: &Expected<'_>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let binary = expected.binary.unwrap_or_default();
    let mut done: Vec<(&Change, Option<Record>)> = Vec::new();
    let mut result = Ok(());
    for change in changes {
        if !change.is_needed() {
            report.files.push(change.report(None));
            continue;
        }
        let old = Record::load(&change.path, expected.name)?;
        let record = change.record(engine, expected.name, binary)?;
        result = record.save().and_then(|backup| {
            file::replace(&change.path, change.now.as_deref(), &change.after).inspect_err(
                |_| {
                    restore_record(&record, old.as_ref());
                },
            )?;
            report.files.push(change.report(backup));
            done.push((change, old));
            Ok(())
        });
        if result.is_err() {
            break;
        }
    }
    let checked = result.and_then(|()| check::check(engine, &files.main, &files.entry, expected));
    match checked {
        Ok(checked) => report.checked(checked),
        Err(error) => return Err(undo(&done, expected.name, error)),
    }
    Ok(())
}

fn undo(done: &[(&Change, Option<Record>)], name: &str, error: anyhow::Error) -> anyhow::Error {
    let mut error = error;
    for (change, old) in done.iter().rev() {
        if let Err(second) = file::put_back(&change.path, &change.after, change.now.as_deref()) {
            error =
                error.context(format!("and {:?} could not be put back ({second:#})", change.path));
            continue;
        }
        if let Ok(Some(record)) = Record::load(&change.path, name) {
            restore_record(&record, old.as_ref());
        }
    }
    match done {
        [] => error,
        _ => error.context(
            "the files were put back as they were, since the result was not what was asked for",
        ),
    }
}

/// A record that is left over says of a file what is true all the same, and is replaced next time.
fn restore_record(record: &Record, old: Option<&Record>) {
    let _ = match old {
        Some(old) => old.save().map(|_| ()),
        None => record.forget(),
    };
}

fn advise(asked: &Configure, report: &mut Report) {
    let target = &asked.target;
    if !report.changes() {
        return;
    }
    report.next.extend(target.runtime.reload().map(str::to_owned));
    if asked.set_as_default {
        return;
    }
    let name = &target.name;
    report.next.push(match target.runtime {
        Engine::Containerd | Engine::Crio => {
            format!("pods get it by a RuntimeClass with `handler: {name}`, all of them with --set-as-default")
        }
        Engine::Docker | Engine::Podman => {
            format!("{} run --runtime {name} ..., or for all with --set-as-default", target.runtime.name())
        }
    });
}
