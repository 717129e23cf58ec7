//! The change of files: all of them or none, whatever fails and whoever interrupts.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::check::{self, Expected};
use super::file;
use super::files::Files;
use super::record::Record;
use super::report::{Action, FileReport, Report, diff};
use super::restart::{Handler, Restart};
use crate::held::Held;

/// Held back from the first file to the last, until frostctl can end without half a change.
const ENDS: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// One file and its new content.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) path: PathBuf,
    /// `None`: there is no file.
    pub(super) now: Option<String>,
    /// `None`: there will be no file.
    pub(super) after: Option<String>,
    pub(super) action: Action,
    /// What was recorded of the file so far.
    pub(super) old: Option<Record>,
    /// What is recorded from now on; `None`: nothing.
    pub(super) new: Option<Record>,
}

impl Change {
    /// Our part goes into the file. It may already be there, from an earlier time and with another
    /// binary.
    pub(super) fn put(now: Option<String>, old: Option<Record>, record: Record) -> Change {
        let mut former = old.iter().flat_map(|old| &old.former).cloned().collect::<Vec<_>>();
        former.extend(old.as_ref().map(|old| old.binary.clone()));
        former.retain(|it| *it != record.binary);
        former.dedup();
        let missing = record.path.ancestors().skip(1).take_while(|it| !it.exists());
        let directory = missing.last().map(Path::to_owned);
        let made = old.as_ref().and_then(|old| old.made.clone()).or(directory);
        let action = match &now {
            None => Action::Created,
            Some(now) if *now == record.after => Action::Unchanged,
            Some(_) => Action::Changed,
        };
        let (path, after) = (record.path.clone(), Some(record.after.clone()));
        Change { path, now, after, action, old, new: Some(Record { former, made, ..record }) }
    }

    pub(super) fn is_needed(&self) -> bool {
        self.now != self.after
    }

    pub(super) fn diff(&self) -> String {
        diff(&self.path, self.now.as_deref(), self.after.as_deref())
    }

    pub(super) fn report(&self) -> FileReport {
        let (path, action) = (self.path.clone(), self.action);
        FileReport { path, action, backup: None, diff: self.diff() }
    }

    fn report_done(&self) -> FileReport {
        let backup = self.new.as_ref().filter(|_| self.is_needed()).and_then(Record::backup);
        FileReport { backup, ..self.report() }
    }

    fn make(&self) -> anyhow::Result<()> {
        if let Some(new) = &self.new {
            new.save()?;
        }
        let made = file::set(&self.path, self.now.as_deref(), self.after.as_deref());
        made.inspect_err(|_| self.restore_record())
    }

    fn undo(&self) -> anyhow::Result<()> {
        file::set(&self.path, self.after.as_deref(), self.now.as_deref())?;
        self.restore_record();
        Ok(())
    }

    /// A leftover record still describes the file correctly, and the next run replaces it.
    fn restore_record(&self) {
        let _ = match (&self.new, &self.old) {
            (None, _) => Ok(()),
            (Some(_), Some(old)) => old.save(),
            (Some(new), None) => new.forget(),
        };
    }
}

/// Makes the changes, has the engine check the result, and restarts it if asked to. A failure undoes
/// what was done before it.
pub(super) fn make(
    files: &Files,
    changes: &[Change],
    expected: &Expected<'_>,
    restart: Option<&Restart<'_>>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let held = Held::these(ENDS)?;
    let mut done = Vec::new();
    let made = changes.iter().filter(|it| it.is_needed()).try_for_each(|change| {
        change.make()?;
        done.push(change);
        Ok(())
    });
    // Where there was nothing to take out, nothing is expected of the engine.
    let is_checked = !done.is_empty() || expected.binary.is_some();
    let checked = made
        .and_then(|()| is_checked.then(|| check::check(files, expected)).transpose())
        .and_then(|checked| held.obey().map(|()| checked));
    match checked {
        Ok(checked) => checked.into_iter().for_each(|checked| report.checked(checked)),
        Err(error) => return Err(undo(&done, error)),
    }
    report.files = changes.iter().map(Change::report_done).collect();
    let (handler, advice) = match expected.binary {
        Some(_) => (Handler::There, files.engine.reload()),
        None => (Handler::Gone, files.engine.forget()),
    };
    match restart {
        Some(restart) if !done.is_empty() || restart.is_owed(handler) => {
            match restart.run(handler, &held) {
                Ok(()) => report.restarted_by = Some(restart.command.clone()),
                Err(error) if done.is_empty() => return Err(error.context("nothing was changed")),
                Err(error) => return Err(restart.again(undo(&done, error), &held)),
            }
        }
        None if report.changes() => report.next.extend(files.restart_advice(advice)),
        _ => {}
    }
    let taken_out = changes.iter().filter(|it| it.new.is_none());
    taken_out.filter_map(|it| it.old.as_ref()).try_for_each(Record::forget)
}

fn undo(done: &[&Change], mut error: anyhow::Error) -> anyhow::Error {
    for change in done.iter().rev() {
        if let Err(second) = change.undo() {
            error =
                error.context(format!("and {:?} could not be put back ({second:#})", change.path));
        }
    }
    if done.is_empty() { error } else { error.context("the files were put back as they were") }
}
