//! Our record of a container, so that the next operation on it need not find everything out again: its
//! cgroup, its first process, whether it was paused through us.
//!
//! A record is valid only while the runtime's state directory is the one that it was written for.
//! Whether to trust it, and what holds instead, is for the operation to decide.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cgroup::bundle::PodNames;
use cgroup::process::Process;
use cgroup::{Hierarchies, Identity, Places, Reader, json};
use serde::{Deserialize, Serialize};

use crate::state_dir::{self, StateDir, listed};

/// What we know of a container between two operations on it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Record {
    /// As it was given to the runtime; the file's name has only a readable form of it.
    #[serde(default)]
    pub id: String,
    pub cgroup: PathBuf,
    /// The files of its figures and its pod's. To find them again we would have to parse mountinfo,
    /// which takes 3 ms on a node with 5000 mounts.
    pub files: Reader,
    pub pod_files: Option<Reader>,
    /// The files of its limits, if they are not in the cgroup of its processes: crun can put them into
    /// one below (`run.oci.systemd.subgroup`).
    #[serde(default)]
    pub limits_files: Option<Reader>,
    /// Its directories in all hierarchies.
    #[serde(default)]
    pub dirs: Vec<PathBuf>,
    pub pod: PodNames,
    pub init: Option<Process>,
    /// The runtime's state directory of this container; none while it is being created.
    pub made_as: Option<Inode>,
    /// Whether it was paused through us and not resumed since: somebody asked for that freeze.
    #[serde(default)]
    pub paused: bool,
    /// The process that is creating it or has created it.
    pub creator: Option<Process>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    pub dev: u64,
    pub ino: u64,
    /// ext4 reuses the inode number of a removed directory for the next one.
    pub born: Option<SystemTime>,
}

impl Inode {
    pub fn of(path: &Path) -> Option<Inode> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Inode { dev: metadata.dev(), ino: metadata.ino(), born: metadata.created().ok() })
    }
}

impl Record {
    /// Whether its cgroup is the same as the outer one's or below it, in any hierarchy.
    pub fn is_in(&self, outer: &Record) -> bool {
        self.cgroup.starts_with(&outer.cgroup)
            || self.dirs.iter().any(|dir| outer.dirs.iter().any(|outer| dir.starts_with(outer)))
    }

    pub fn new(
        places: &Places,
        leaf: Option<Identity>,
        mounts: &Hierarchies,
        pod: PodNames,
    ) -> Record {
        let files = Reader::at(mounts, places);
        let of_leaf = leaf.map(|leaf| Reader::new(mounts, &leaf));
        let (files, limits_files) = match of_leaf {
            Some(of_leaf) => (of_leaf, Some(files)),
            None => (files, None),
        };
        Record {
            cgroup: places.named().as_path().to_owned(),
            files,
            pod_files: places.pod().map(|pod| Reader::at(mounts, &pod)),
            limits_files,
            dirs: mounts.dirs_at(places),
            pod,
            ..Record::default()
        }
    }

    /// `None` if the record is missing, torn or of another version; then the runtime's own state is
    /// read.
    pub fn read(path: &Path) -> Option<Record> {
        serde_json::from_str(&json::read_text(path).ok()?).ok()
    }

    /// Writes the record whole or not at all: readers take no lock.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        if let Some(state) = directory.parent() {
            state_dir::make_private(state)?;
        }
        state_dir::make_private(directory)?;
        state_dir::write_whole(path, &unfinished(path), &serde_json::to_vec(self)?)
    }
}

/// Our record of a container, found without the runtime's root: a hook is told only the id.
#[derive(Debug)]
pub struct Recorded {
    pub record: Record,
    pub path: PathBuf,
}

impl Recorded {
    /// All containers of this id, under whatever roots.
    pub fn of_id(state: &StateDir, id: &OsStr) -> Vec<Recorded> {
        if id.is_empty() {
            return Vec::new();
        }
        let begins = format!("{}-", state_dir::readable(id));
        let is_named = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_bytes().starts_with(begins.as_bytes()))
        };
        let named = listed(&state.containers()).filter(is_named).filter_map(Recorded::read);
        named.filter(|recorded| recorded.record.id == known_as(id)).collect()
    }

    /// All records.
    pub fn all(state: &StateDir) -> Vec<Recorded> {
        listed(&state.containers()).filter_map(Recorded::read).collect()
    }

    pub(crate) fn read(path: PathBuf) -> Option<Recorded> {
        let is_whole = path.extension() == Some(OsStr::new("json"));
        is_whole.then(|| Some(Recorded { record: Record::read(&path)?, path }))?
    }

    /// Whether a directory of its cgroup exists.
    pub(crate) fn has_a_cgroup(&self) -> bool {
        self.record.dirs.iter().any(|dir| dir.is_dir())
    }

    pub fn cgroup(&self) -> Option<Identity> {
        Identity::new(&self.record.cgroup)
    }

    /// Whether the container runs or is being created.
    pub fn is_in_use(&self) -> bool {
        let Record { init, creator, .. } = self.record;
        [init, creator].into_iter().flatten().any(Process::is_alive)
    }

    pub fn forget(&self) {
        remove(&self.path);
    }
}

/// Whether a container of this id was paused through us and not resumed since.
pub fn is_paused_on_record(state: &StateDir, id: &OsStr) -> bool {
    Recorded::of_id(state, id).iter().any(|recorded| recorded.record.paused && recorded.is_in_use())
}

/// An id as a record has it. Runtimes accept only plain ones.
pub fn known_as(id: &OsStr) -> String {
    id.to_string_lossy().into_owned()
}

/// An id that is not a single name would lead out of the root; no runtime accepts it.
pub fn plain(id: &OsStr) -> &OsStr {
    let is_one_name = Path::new(id).file_name() == Some(id);
    if is_one_name { id } else { OsStr::new("-") }
}

/// The path contains the resolved root: docker names its own through /var/run, which is a link.
pub fn path(state: &StateDir, runtime_state: &Path) -> PathBuf {
    let resolved = runtime_state.parent().and_then(resolve);
    let path = match (resolved, runtime_state.file_name()) {
        (Some(root), Some(id)) => root.join(id),
        _ => runtime_state.to_owned(),
    };
    state.containers().join(format!("{}.json", state_dir::file_name(path.as_os_str())))
}

/// Resolves as much as exists: the first `create` makes the root, and later ones must get the same
/// result.
fn resolve(root: &Path) -> Option<PathBuf> {
    let root = std::path::absolute(root).ok()?;
    root.ancestors().find_map(|there| {
        let rest = root.strip_prefix(there).ok()?;
        Some(std::fs::canonicalize(there).ok()?.join(rest))
    })
}

/// Removes the record of a container that is gone, and an unfinished next one.
pub fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
    let _ = std::fs::remove_file(unfinished(path));
}

/// One name per container, so that many killed writers leave one file. Two writers at once, which only
/// a lock that timed out allows, can at most spoil a record: then the runtime's own state is read.
pub fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("new")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_behind_a_link_is_the_same_before_and_after_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        let link = dir.path().join("link");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let before = resolve(&link.join("a/b"));
        std::fs::create_dir_all(real.join("a/b")).unwrap();
        assert_eq!(before, resolve(&link.join("a/b")));
        assert_eq!(before, std::fs::canonicalize(real.join("a/b")).ok());
    }
}
