//! The cgroups that are frozen now, according to the kernel.

use std::path::{Path, PathBuf};

use cgroup::read::children;
use cgroup::{Freezer, Hierarchies, Identity, Proc, Reader};

/// A node with 500 pods has some 3000 cgroups; a larger tree is not walked to its end.
pub(super) const MOST: usize = 50_000;

/// Counts only cgroups that were themselves told to freeze: those below are frozen with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Frozen {
    pub(crate) frozen: u64,
    /// Told to freeze, but some task has not stopped.
    pub(crate) freezing: u64,
    /// There are more cgroups than were looked at, the upper ones first: these are the least numbers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_cut: bool,
}

pub(crate) fn count() -> Option<Frozen> {
    let mounts = Hierarchies::read(&Proc::default()).ok()?;
    let root = Identity::new("/")?;
    let files = Reader::new(&mounts, &root);
    let (_, top) = files.freezer_dir()?;
    Some(count_below(&files, top, MOST))
}

fn count_below(files: &Reader, top: &Path, most: usize) -> Frozen {
    let mut frozen = Frozen::default();
    let (mut dirs, mut next) = (vec![PathBuf::new()], 0);
    while let Some(below) = dirs.get(next).cloned() {
        next += 1;
        match files.below(&below).freezer() {
            Freezer::Frozen => frozen.frozen += 1,
            Freezer::Freezing => frozen.freezing += 1,
            Freezer::Thawed | Freezer::Unknown => {
                let below_it = children(&top.join(&below));
                let mut names = below_it.filter_map(|it| Some(below.join(it.file_name()?)));
                dirs.extend(names.by_ref().take(most.saturating_sub(dirs.len())));
                frozen.is_cut |= names.next().is_some();
            }
        }
    }
    frozen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Removes the cgroups in any case.
    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            for below in ["asked/below", "asked", "running", ""] {
                let dir = self.0.join(below);
                for (file, thawed) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
                    if dir.join(file).exists() {
                        let _ = std::fs::write(dir.join(file), thawed);
                    }
                }
                let _ = std::fs::remove_dir(dir);
            }
        }
    }

    fn freeze(dir: &Path) {
        let v1 = dir.join("freezer.state");
        if v1.exists() {
            std::fs::write(v1, "FROZEN").unwrap();
        } else {
            std::fs::write(dir.join("cgroup.freeze"), "1").unwrap();
        }
    }

    #[test]
    fn what_is_below_a_frozen_cgroup_is_not_counted() {
        let mounts = Hierarchies::read(&Proc::default()).unwrap();
        let name = format!("/frostlock-test-frozen-{}", std::process::id());
        let files = Reader::new(&mounts, &Identity::new(name).unwrap());
        let (_, top) = files.freezer_dir().expect("a freezer, v1 or v2");
        let scratch = Scratch(top.to_owned());
        std::fs::create_dir_all(top.join("asked/below")).expect("root, and a freezer to write to");
        std::fs::create_dir(top.join("running")).unwrap();
        let count_below = |most| count_below(&files, top, most);
        assert_eq!(count_below(4), Frozen::default(), "all four");
        assert!(count_below(3).is_cut && count_below(1).is_cut);
        freeze(&top.join("asked"));
        assert_eq!(count_below(MOST), Frozen { frozen: 1, freezing: 0, is_cut: false });
        assert!(count().unwrap().frozen >= 1, "from the root on");
        drop(scratch);
        assert!(!top.exists());
    }
}
