//! The way out.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::check::Expected;
use super::engine::Engine;
use super::record::{Ours, Previous, Record};
use super::report::{Action, FileReport, Report, diff};
use super::{Files, Target, check, file, json_file, layout, live, podman, toml_file};

/// How long conmon and shims may take to end after their last container.
const LINGER: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

/// So many containers are named; the rest is counted.
const NAMED: usize = 5;

/// One file and what it is to be.
#[derive(Debug)]
struct Change {
    path: PathBuf,
    now: Option<String>,
    /// None: no file.
    after: Option<String>,
    action: Action,
    record: Option<Record>,
}

pub(super) fn remove(target: &Target, force: bool) -> anyhow::Result<Report> {
    let files = target.files()?;
    let (engine, name) = (target.runtime, target.name.as_str());
    // The file that imports the other first: it must not name one that is gone.
    let mut paths = vec![files.main.as_path()];
    if files.imports() {
        paths.push(&files.entry);
    }
    let mut changes = Vec::new();
    let mut binaries = Vec::new();
    for path in paths {
        let record = Record::load(path, name)?;
        let now = file::read(path)?;
        binaries.extend(binaries_of(engine, now.as_deref(), name, record.as_ref()));
        changes.push(plan(engine, path, name, now, record)?);
    }
    let mut report = Report::new(engine, name, target.dry_run);
    let used =
        changes.iter().any(Change::is_needed).then(|| still_in_use(engine, &binaries)).flatten();
    match used {
        Some(used) if !force && !target.dry_run => {
            bail!("{used}; end them first, or add --force; nothing was changed")
        }
        used => report.notes.extend(used),
    }
    report.files = changes.iter().map(Change::report).collect();
    if !target.dry_run {
        apply(engine, &files, &changes, name, &mut report)?;
        if report.changes() {
            report.next.extend(engine.forget().map(str::to_owned));
        }
    }
    Ok(report)
}

fn binaries_of(
    engine: Engine,
    now: Option<&str>,
    name: &str,
    record: Option<&Record>,
) -> Vec<PathBuf> {
    match record {
        Some(record) => record.binaries().collect(),
        None => named(engine, now.unwrap_or_default(), name).into_iter().collect(),
    }
}

fn named(engine: Engine, text: &str, name: &str) -> Option<PathBuf> {
    if engine == Engine::Docker {
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        return Some(value["runtimes"][name]["path"].as_str()?.into());
    }
    let document = toml_file::parse(text).ok()?;
    let layout = layout::Layout::of(engine, &document).ok()?;
    Some(layout.binary_of(layout.entry(&document, name)?)?.into())
}

/// A monitor outlives its container for a moment.
fn still_in_use(engine: Engine, binaries: &[PathBuf]) -> Option<String> {
    let deadline = Instant::now() + LINGER;
    loop {
        let used = in_use(engine, binaries)?;
        if Instant::now() >= deadline {
            return Some(used);
        }
        std::thread::sleep(POLL);
    }
}

/// Pods whose handler is gone cannot be ended by kubelet.
fn in_use(engine: Engine, binaries: &[PathBuf]) -> Option<String> {
    let mut uses: Vec<String> = binaries
        .iter()
        .flat_map(|binary| live::uses(binary))
        .filter(|found| found.of == engine)
        .map(|found| found.container)
        .collect();
    uses.sort();
    uses.dedup();
    let named = uses.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = uses.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!uses.is_empty()).then(|| format!("containers run through it: {named}{more}"))
}

fn plan(
    engine: Engine,
    path: &Path,
    name: &str,
    now: Option<String>,
    record: Option<Record>,
) -> anyhow::Result<Change> {
    let change = |after: Option<String>, action, now, record| {
        Ok(Change { path: path.to_owned(), now, after, action, record })
    };
    let Some(text) = now.clone() else { return change(None, Action::Unchanged, now, record) };
    let Some(record) = record else {
        let taken = entry_out(engine, &text, name, None).with_context(|| format!("{path:?}"))?;
        let action = if taken.is_some() { Action::TakenOut } else { Action::Unchanged };
        return change(taken.or(Some(text)), action, now, None);
    };
    if record.before.as_deref() == Some(&text) {
        return change(now.clone(), Action::Unchanged, now, Some(record));
    }
    if record.after == text {
        let before = record.before.clone();
        let action = if before.is_some() { Action::Restored } else { Action::Removed };
        return change(before, action, now, Some(record));
    }
    match taken_out(&record, &text).with_context(|| format!("{path:?}"))? {
        Some(after) if record.before.is_none() && is_bare(engine, &after) => {
            change(None, Action::Removed, now, Some(record))
        }
        Some(after) => change(Some(after), Action::TakenOut, now, Some(record)),
        None => change(now.clone(), Action::Unchanged, now, Some(record)),
    }
}

/// The text without what is ours, and all else as it is; none if nothing of ours is in it.
pub(super) fn taken_out(record: &Record, text: &str) -> anyhow::Result<Option<String>> {
    match &record.ours {
        Ours::Import(import) => toml_file::unimport(text, import),
        Ours::Entry { default } => entry_out(record.engine, text, &record.name, default.as_ref()),
    }
}

fn entry_out(
    engine: Engine,
    text: &str,
    name: &str,
    default: Option<&Previous>,
) -> anyhow::Result<Option<String>> {
    match engine {
        Engine::Docker => json_file::unconfigure(text, name, default),
        Engine::Podman => podman::unconfigure(text, name, default),
        _ => toml_file::unconfigure(engine, text, name, default),
    }
}

/// Whether nothing is left in a file that was ours alone.
fn is_bare(engine: Engine, text: &str) -> bool {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match engine {
        Engine::Docker => text.split_whitespace().collect::<String>() == "{}",
        _ => lines.into_iter().all(|line| line.starts_with('[') || line.starts_with("version")),
    }
}

impl Change {
    fn is_needed(&self) -> bool {
        self.now != self.after
    }

    fn report(&self) -> FileReport {
        let diff = diff(&self.path, self.now.as_deref(), self.after.as_deref());
        FileReport { path: self.path.clone(), action: self.action, backup: None, diff }
    }

    fn write(&self) -> anyhow::Result<()> {
        match (&self.now, &self.after) {
            (now, Some(after)) => file::replace(&self.path, now.as_deref(), after),
            (now, None) => file::put_back(&self.path, now.as_deref().unwrap_or_default(), None),
        }
    }
}

fn apply(
    engine: Engine,
    files: &Files,
    changes: &[Change],
    name: &str,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut done: Vec<&Change> = Vec::new();
    let mut result = Ok(());
    for change in changes.iter().filter(|change| change.is_needed()) {
        result = change.write();
        if result.is_err() {
            break;
        }
        done.push(change);
    }
    let expected = Expected { name, binary: None, before: None };
    let checked = result.and_then(|()| match done.as_slice() {
        [] => Ok(None),
        _ => check::check(engine, &files.main, &files.entry, &expected).map(Some),
    });
    match checked {
        Ok(checked) => checked.into_iter().for_each(|checked| report.checked(checked)),
        Err(error) => {
            for change in done.iter().rev() {
                let now = change.now.as_deref().unwrap_or_default();
                file::replace(&change.path, change.after.as_deref(), now)?;
            }
            return Err(error.context("the files were put back as they were"));
        }
    }
    changes.iter().filter_map(|change| change.record.as_ref()).try_for_each(Record::forget)
}
