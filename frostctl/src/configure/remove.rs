//! `frostctl unconfigure`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::arguments::Target;
use super::change::{self, Change};
use super::check::Expected;
use super::engine::Engine;
use super::files::Files;
use super::record::Record;
use super::report::{Action, Report};
use super::restart::Restart;
use super::{base, check, file, go_template, live, places};

/// How long conmon and shims may take to end after their last container.
const LINGER: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

/// At most this many containers are named; the rest is counted.
const NAMED: usize = 5;

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
        let (name, files) = (self.name, self.files);
        let changes = self.changes()?;
        let mut report = Report::new(files.engine, name, self.dry_run);
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
        if self.dry_run {
            report.files = changes.iter().map(Change::report).collect();
            return Ok(report);
        }
        // An error from before our change is not caused by the removal, and not ours to fix.
        let is_kept = self.is_kept || check::reads(files).is_err();
        let expected = Expected { name, binary: None, before: None, is_kept };
        change::make(files, &changes, &expected, restart, &mut report)?;
        Ok(report)
    }

    fn changes(&self) -> anyhow::Result<Vec<Change>> {
        // The importing file comes first: it must not name a file that is gone.
        let imports = self.files.is_import().then_some(self.files.main.as_path());
        let paths = imports.into_iter().chain([self.files.entry.as_path()]);
        paths.map(|path| self.change(path)).collect()
    }

    fn change(&self, path: &Path) -> anyhow::Result<Change> {
        let old = Record::load(path, self.name)?;
        let now = file::read(path)?;
        let before = old.as_ref().map(|it| it.before.as_deref());
        let ours_in = now.as_deref().filter(|text| before != Some(Some(text)));
        let without = ours_in.map(|text| {
            base::of(self.files, old.as_ref(), self.name, text).with_context(|| format!("{path:?}"))
        });
        let (after, action) = match without.transpose()?.flatten() {
            Some((Some(rest), _)) if before == Some(None) && is_bare(self.files.engine, &rest) => {
                (None, Action::Removed)
            }
            Some(without) => without,
            None => (now.clone(), Action::Unchanged),
        };
        Ok(Change { path: path.to_owned(), now, after, action, old, new: None })
    }

    /// Which containers run through it, if there is something to take out.
    pub(super) fn used(&self) -> anyhow::Result<Option<String>> {
        let changes = self.changes()?;
        let binaries: Vec<PathBuf> = changes.iter().flat_map(|it| self.binaries(it)).collect();
        let is_needed = changes.iter().any(Change::is_needed);
        Ok(is_needed.then(|| still_in_use(self.files.engine, &binaries)).flatten())
    }

    fn binaries(&self, change: &Change) -> Vec<PathBuf> {
        let now = change.now.as_deref().unwrap_or_default();
        match &change.old {
            Some(record) => record.binaries().collect(),
            None => places::named(self.files.engine, now, self.name).into_iter().collect(),
        }
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

/// Whether only leftovers of ours remain in the text.
fn is_bare(engine: Engine, text: &str) -> bool {
    if go_template::is_bare(text) {
        return true;
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match engine {
        Engine::Docker => text.split_whitespace().collect::<String>() == "{}",
        _ => lines.all(|line| line.starts_with('[') || line.starts_with("version")),
    }
}
