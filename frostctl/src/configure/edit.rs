//! The input and the result of an edit, for any file format.

use std::path::Path;

use anyhow::bail;

use super::record::Ours;

#[derive(Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) name: &'a str,
    pub(crate) binary: &'a str,
    /// The entry to copy; `None`: the default runtime.
    pub(crate) wrap: Option<&'a str>,
    pub(crate) set_as_default: bool,
    /// The engine merges the file with others, table by table: the file needs to hold only our
    /// entry.
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
    /// The program of the entry, if it names one.
    pub(crate) binary: Option<String>,
}

/// Fails if the entry with this name is somebody else's.
pub(super) fn must_be_ours(name: &str, binary: Option<&str>) -> anyhow::Result<()> {
    if binary.is_some_and(is_ours) {
        return Ok(());
    }
    bail!(
        "has a runtime {name:?} that is not frostlock (it runs {:?}); choose another --name; nothing was changed",
        binary.unwrap_or("the engine's own")
    )
}

/// Whether an entry's program is frostlock: by its name, since the file may be gone, or by its
/// mark.
pub(crate) fn is_ours(binary: impl AsRef<Path>) -> bool {
    is_named_ours(binary.as_ref()) || config::locate::is_frostlock(binary.as_ref())
}

pub(crate) fn is_named_ours(binary: &Path) -> bool {
    let name = binary.file_name().unwrap_or_default().to_string_lossy();
    name == "frostlock" || name.starts_with("frostlock-")
}
