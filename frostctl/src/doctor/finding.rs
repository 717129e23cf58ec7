//! A finding of a check.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::fix::Fix;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Good to know; nothing is wrong.
    Note,
    /// Something could not be seen: it is neither fine nor wrong.
    #[serde(rename = "not-checked")]
    NotChecked,
    /// Something will go wrong, or does now and then.
    Warning,
    /// Something does not work.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Note => "note",
            Severity::NotChecked => "not checked",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// A file or directory, with what it contains or lacks.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Evidence {
    #[serde(serialize_with = "lossy")]
    pub(crate) path: PathBuf,
    pub(crate) content: String,
}

/// Paths are bytes, but JSON is text.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// The check's stable name.
    pub(crate) check: &'static str,
    pub(crate) what: String,
    pub(crate) evidence: Vec<Evidence>,
    pub(crate) consequence: String,
    pub(crate) remedy: String,
    /// The fix that `--fix` applies.
    #[serde(serialize_with = "as_text")]
    pub(crate) fix: Option<Fix>,
    /// For a line that has no room for `what`.
    #[serde(skip)]
    pub(crate) brief: Option<Brief>,
}

/// The name and the state. If both do not fit, the name is cut and the state stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Brief {
    pub(crate) whose: String,
    pub(crate) state: String,
}

#[allow(clippy::ref_option, reason = "serde passes the field by reference")]
fn as_text<S: Serializer>(fix: &Option<Fix>, serializer: S) -> Result<S::Ok, S::Error> {
    match fix {
        Some(fix) => serializer.serialize_str(&fix.to_string()),
        None => serializer.serialize_none(),
    }
}

impl Finding {
    fn new(severity: Severity, check: &'static str, what: impl Into<String>) -> Finding {
        Finding {
            severity,
            check,
            what: what.into(),
            evidence: Vec::new(),
            consequence: String::new(),
            remedy: String::new(),
            fix: None,
            brief: None,
        }
    }

    pub(crate) fn error(check: &'static str, what: impl Into<String>) -> Finding {
        Finding::new(Severity::Error, check, what)
    }

    pub(crate) fn warning(check: &'static str, what: impl Into<String>) -> Finding {
        Finding::new(Severity::Warning, check, what)
    }

    pub(crate) fn note(check: &'static str, what: impl Into<String>) -> Finding {
        Finding::new(Severity::Note, check, what)
    }

    pub(crate) fn not_checked(check: &'static str, what: impl Into<String>) -> Finding {
        Finding::new(Severity::NotChecked, check, what)
    }

    pub(crate) fn seen(mut self, path: impl Into<PathBuf>, content: impl Into<String>) -> Finding {
        self.evidence.push(Evidence { path: path.into(), content: content.into() });
        self
    }

    pub(crate) fn so(mut self, consequence: impl Into<String>) -> Finding {
        self.consequence = consequence.into();
        self
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Finding {
        self.remedy = remedy.into();
        self
    }

    pub(crate) fn brief(mut self, whose: impl Into<String>, state: impl Into<String>) -> Finding {
        self.brief = Some(Brief { whose: whose.into(), state: state.into() });
        self
    }

    pub(crate) fn fix(mut self, fix: Fix) -> Finding {
        self.fix = Some(fix);
        self
    }
}
