//! A finding of a check.

use std::fmt;
use std::path::Path;

use serde::Serialize;

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
    /// Paths are bytes, but JSON is text.
    pub(crate) path: String,
    pub(crate) content: String,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// The stable name of the check that has found it, from [`super::checks::ALL`].
    pub(crate) check: &'static str,
    pub(crate) what: String,
    pub(crate) evidence: Vec<Evidence>,
    pub(crate) consequence: String,
    pub(crate) remedy: String,
    /// The fix that `--fix` applies.
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

impl Finding {
    fn new(severity: Severity, what: impl Into<String>) -> Finding {
        Finding {
            severity,
            check: "",
            what: what.into(),
            evidence: Vec::new(),
            consequence: String::new(),
            remedy: String::new(),
            fix: None,
            brief: None,
        }
    }

    pub(crate) fn error(what: impl Into<String>) -> Finding {
        Finding::new(Severity::Error, what)
    }

    pub(crate) fn warning(what: impl Into<String>) -> Finding {
        Finding::new(Severity::Warning, what)
    }

    pub(crate) fn note(what: impl Into<String>) -> Finding {
        Finding::new(Severity::Note, what)
    }

    pub(crate) fn not_checked(what: impl Into<String>) -> Finding {
        Finding::new(Severity::NotChecked, what)
    }

    pub(crate) fn seen(mut self, path: impl AsRef<Path>, content: impl Into<String>) -> Finding {
        let path = path.as_ref().to_string_lossy().into_owned();
        self.evidence.push(Evidence { path, content: content.into() });
        self
    }

    pub(crate) fn seen_all<P: AsRef<Path>, C: Into<String>>(
        self,
        all: impl IntoIterator<Item = (P, C)>,
    ) -> Finding {
        all.into_iter().fold(self, |finding, (path, content)| finding.seen(path, content))
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
