//! What is asked of an edit and what comes of it, whatever the format of the file.

use std::path::Path;

use super::record::Ours;

/// What to put in.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) name: &'a str,
    pub(crate) binary: &'a str,
    /// The entry to stand in for; none: the default runtime.
    pub(crate) wrap: Option<&'a str>,
    pub(crate) set_as_default: bool,
    /// The engine merges the file with others, table by table: it needs to hold our entry alone.
    pub(crate) is_merged: bool,
}

#[derive(Debug)]
pub(crate) struct Edited {
    pub(crate) text: String,
    pub(crate) ours: Ours,
    pub(crate) wrapped: Option<Wrapped>,
}

/// The entry that ours was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrapped {
    pub(crate) name: String,
    /// What it runs, if it says so.
    pub(crate) binary: Option<String>,
}

/// Whether what an entry runs is frostlock: by its name, as the file may be gone, or by its mark.
pub(crate) fn is_ours(binary: impl AsRef<Path>) -> bool {
    is_named_ours(binary.as_ref()) || config::locate::is_frostlock(binary.as_ref())
}

/// By the name alone.
pub(crate) fn is_named_ours(binary: &Path) -> bool {
    let name = binary.file_name().unwrap_or_default().to_string_lossy();
    name == "frostlock" || name.starts_with("frostlock-")
}
