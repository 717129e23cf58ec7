//! `frostctl unconfigure`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::arguments::Target;
use super::check::{Checked, Expected};
use super::engine::Engine;
use super::files::{Files, Kind};
use super::interrupt::Held;
use super::places::{self, named};
use super::record::{Ours, Previous, Record};
use super::report::{Action, FileReport, Report, diff};
use super::restart::{Handler, Restart};
use super::{check, file, go_template, json_file, lines, live, podman, toml_file};

/// How long conmon and shims may take to end after their last container.
const LINGER: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

/// At most this many containers are named; the rest is counted.
const NAMED: usize = 5;

/// One file and its new content.
#[derive(Debug)]
struct Change {
    path: PathBuf,
    now: Option<String>,
    /// `None`: no file.
    after: Option<String>,
    action: Action,
    record: Option<Record>,
}

pub(super) fn remove(target: &Target, force: bool) -> anyhow::Result<Report> {
    target.check_name()?;
    let files = places::to_unconfigure(target)?;
    let effective = match (target.restart, target.runtime) {
        (true, Engine::Containerd) => check::effective(&files.main, files.containerd.as_deref())
            .context(
                "containerd cannot read its configuration as it is, and would not come up \
                      again; leave out --restart; nothing was changed",
            )?,
        _ => None,
    };
    let removal = Removal {
        engine: target.runtime,
        name: &target.name,
        files: &files,
        force,
        is_kept: force,
        dry_run: target.dry_run,
    };
    let restart = target.restart_plan(&files, target.runtime.restart(), effective.as_ref())?;
    removal.run(restart.as_ref())
}

/// What to take out of which files.
#[derive(Debug)]
pub(super) struct Removal<'a> {
    pub(super) engine: Engine,
    pub(super) name: &'a str,
    pub(super) files: &'a Files,
    /// Also if containers run through it.
    pub(super) force: bool,
    /// Keep the result even if the engine does not accept it.
    pub(super) is_kept: bool,
    pub(super) dry_run: bool,
}

impl Removal<'_> {
    pub(super) fn run(&self, restart: Option<&Restart<'_>>) -> anyhow::Result<Report> {
        let (engine, name, files) = (self.engine, self.name, self.files);
        let changes = self.changes()?;
        let mut report = Report::new(engine, name, self.dry_run);
        match self.used()? {
            Some(used) if !self.force => {
                let why = format!("{used}; end them first, or add --force; nothing was changed");
                if !self.dry_run {
                    bail!(why)
                }
                report.refused = Some(why);
            }
            used => report.notes.extend(used),
        }
        report.files = changes.iter().map(Change::report).collect();
        if !self.dry_run {
            // An error from before our change is not caused by the removal, and not ours to fix.
            let is_kept = self.is_kept || check::reads(engine, files).is_err();
            apply(engine, files, &changes, (name, is_kept), restart, &mut report)?;
            if report.changes() && restart.is_none() {
                report.next.extend(files.restart_advice(engine.forget()));
            }
        }
        Ok(report)
    }

    fn changes(&self) -> anyhow::Result<Vec<Change>> {
        // The importing file comes first: it must not name a file that is gone.
        let imports = self.files.is_import().then_some(self.files.main.as_path());
        let paths = imports.into_iter().chain([self.files.entry.as_path()]);
        let plan = |path| plan(self.engine, path, self.name, self.files.kind);
        paths.map(plan).collect()
    }

    /// Which containers run through it, if there is something to take out.
    pub(super) fn used(&self) -> anyhow::Result<Option<String>> {
        let changes = self.changes()?;
        let binaries: Vec<PathBuf> =
            changes.iter().flat_map(|it| it.binaries(self.engine, self.name)).collect();
        let is_needed = changes.iter().any(Change::is_needed);
        Ok(is_needed.then(|| still_in_use(self.engine, &binaries)).flatten())
    }
}

/// Waits, since a monitor outlives its container for a moment.
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

/// Containers in use matter: kubelet cannot end pods whose handler is gone.
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

fn plan(engine: Engine, path: &Path, name: &str, kind: Kind) -> anyhow::Result<Change> {
    let record = Record::load(path, name)?;
    let now = file::read(path)?;
    let change = |after: Option<String>, action, now, record| {
        Ok(Change { path: path.to_owned(), now, after, action, record })
    };
    let Some(text) = now.clone() else { return change(None, Action::Unchanged, now, record) };
    let Some(record) = record else {
        let ours =
            if kind == Kind::GoTemplate { Ours::Template } else { Ours::Entry { default: None } };
        let taken = without(engine, &ours, &text, name).with_context(|| format!("{path:?}"))?;
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

/// The text without our part, all else unchanged; `None` if nothing of ours is in it.
pub(super) fn taken_out(record: &Record, text: &str) -> anyhow::Result<Option<String>> {
    let Ours::Import(import) = &record.ours else {
        return without(record.engine, &record.ours, text, &record.name);
    };
    let before = toml_file::parse(record.before.as_deref().unwrap_or_default())?;
    let taken = toml_file::unimport(&lines::plain(text), import, !before.contains_key("imports"))?;
    Ok(taken.map(|taken| lines::fit(text, &taken)))
}

pub(super) fn without(
    engine: Engine,
    ours: &Ours,
    text: &str,
    name: &str,
) -> anyhow::Result<Option<String>> {
    let plain = lines::plain(text);
    let taken = match ours {
        Ours::Import(import) => toml_file::unimport(&plain, import, false)?,
        Ours::Entry { default } => entry_out(engine, &plain, name, default.as_ref())?,
        Ours::Template => go_template::without(&plain, name),
    };
    Ok(taken.map(|taken| lines::fit(text, &taken)))
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

/// Whether only leftovers of ours remain in the text.
fn is_bare(engine: Engine, text: &str) -> bool {
    if go_template::is_bare(text) {
        return true;
    }
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

    fn binaries(&self, engine: Engine, name: &str) -> Vec<PathBuf> {
        match &self.record {
            Some(record) => record.binaries().collect(),
            None => {
                named(engine, self.now.as_deref().unwrap_or_default(), name).into_iter().collect()
            }
        }
    }

    fn write(&self) -> anyhow::Result<()> {
        match (&self.now, &self.after) {
            (now, Some(after)) => file::replace(&self.path, now.as_deref(), after),
            (now, None) => file::put_back(&self.path, now.as_deref().unwrap_or_default(), None),
        }
    }
}

/// All files or none, as in `configure`.
fn apply(
    engine: Engine,
    files: &Files,
    changes: &[Change],
    (name, is_kept): (&str, bool),
    restart: Option<&Restart<'_>>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let held = Held::hold()?;
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
        _ => match check::check(engine, files, &expected) {
            Err(error) if is_kept => Ok(Some(Checked::Not(format!("{error:#}")))),
            checked => checked.map(Some),
        },
    });
    match checked.and_then(|checked| held.obey().map(|()| checked)) {
        Ok(checked) => checked.into_iter().for_each(|checked| report.checked(checked)),
        Err(error) => return Err(put_back(&done, error)),
    }
    if let Some(restart) = restart.filter(|it| !done.is_empty() || it.is_owed(Handler::Gone)) {
        if let Err(error) = restart.run(Handler::Gone, &held) {
            return Err(restart.again(put_back(&done, error), &held));
        }
        report.restarted_by = Some(restart.command.clone());
    }
    changes.iter().filter_map(|change| change.record.as_ref()).try_for_each(Record::forget)
}

fn put_back(done: &[&Change], mut error: anyhow::Error) -> anyhow::Error {
    for change in done.iter().rev() {
        let now = change.now.as_deref().unwrap_or_default();
        if let Err(second) = file::replace(&change.path, change.after.as_deref(), now) {
            error =
                error.context(format!("and {:?} could not be put back ({second:#})", change.path));
        }
    }
    if done.is_empty() { error } else { error.context("the files were put back as they were") }
}
