//! What was done, or would be, for people and for programs.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::check::Checked;
use super::engine::Engine;
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    Created,
    Changed,
    Unchanged,
    /// Byte for byte as it was before.
    Restored,
    /// Only our part is gone: the file was edited since, or its previous text is not known.
    TakenOut,
    Removed,
}

#[derive(Debug, Serialize)]
pub(crate) struct FileReport {
    pub(crate) path: PathBuf,
    pub(crate) action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backup: Option<PathBuf>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) diff: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) engine: Engine,
    pub(crate) runtime: String,
    pub(crate) dry_run: bool,
    pub(crate) files: Vec<FileReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) checked_by: Option<String>,
    /// The command after which the engine had loaded the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) restarted_by: Option<String>,
    /// Why the same without --dry-run would change nothing and fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
    pub(crate) notes: Vec<String>,
    /// What a person must do now.
    pub(crate) next: Vec<String>,
}

impl Report {
    pub(crate) fn new(engine: Engine, runtime: &str, dry_run: bool) -> Report {
        Report {
            engine,
            runtime: runtime.to_owned(),
            dry_run,
            files: Vec::new(),
            checked_by: None,
            restarted_by: None,
            refused: None,
            notes: Vec::new(),
            next: Vec::new(),
        }
    }

    pub(crate) fn changes(&self) -> bool {
        self.files.iter().any(|file| file.action != Action::Unchanged)
    }

    pub(crate) fn checked(&mut self, checked: Checked) {
        match checked {
            Checked::By(by) => self.checked_by = Some(by),
            Checked::Not(why) => self.notes.push(format!("not checked by the real program: {why}")),
        }
    }

    pub(super) fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.print(self, |out| self.write(out))?;
        Ok(if self.dry_run && self.changes() { Exit::Found } else { Exit::Clean })
    }

    pub(crate) fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        if self.dry_run {
            for file in &self.files {
                write!(out, "{}", file.diff)?;
            }
        }
        for file in self.files.iter().filter(|file| !self.dry_run || file.diff.is_empty()) {
            writeln!(out, "{}: {}", file.path.display(), said(file.action))?;
            if let Some(backup) = &file.backup {
                writeln!(out, "  what was there before: {}", backup.display())?;
            }
        }
        if let Some(by) = &self.checked_by {
            writeln!(out, "checked by: {by}")?;
        }
        if let Some(by) = &self.restarted_by {
            writeln!(out, "{} has loaded it, after: {by}", self.engine.name())?;
        }
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        for next in &self.next {
            writeln!(out, "next: {next}")?;
        }
        Ok(())
    }
}

fn said(action: Action) -> &'static str {
    match action {
        Action::Created => "created",
        Action::Changed => "changed",
        Action::Unchanged => "nothing to change",
        Action::Restored => "as it was before, byte for byte",
        Action::TakenOut => "only frostlock's entry was taken out, all other edits were kept",
        Action::Removed => "removed; there was no such file before",
    }
}

/// A diff with the names that `patch` expects.
pub(crate) fn diff(path: &std::path::Path, before: Option<&str>, after: Option<&str>) -> String {
    let name = path.display().to_string();
    let side = |text: Option<&str>| text.map_or("/dev/null".to_owned(), |_| name.clone());
    similar::TextDiff::from_lines(before.unwrap_or_default(), after.unwrap_or_default())
        .unified_diff()
        .header(&side(before), &side(after))
        .to_string()
}
