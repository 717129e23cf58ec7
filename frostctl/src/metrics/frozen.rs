//! The cgroups that are frozen now, according to the kernel.

use std::path::{Path, PathBuf};

use cgroup::read::children;
use cgroup::{Freezer, Hierarchies, Identity, Proc, Reader};

/// A node with 500 pods has some 3000 cgroups; a larger tree is not walked to its end.
const MOST: usize = 50_000;

/// Counts only cgroups that were themselves told to freeze: those below are frozen with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Frozen {
    pub(crate) frozen: u64,
    /// Told to freeze, but some task has not stopped.
    pub(crate) freezing: u64,
}

pub(crate) fn count() -> Option<Frozen> {
    let mounts = Hierarchies::read(&Proc::default()).ok()?;
    let root = Identity::new("/")?;
    let files = Reader::new(&mounts, &root);
    let (_, top) = files.freezer_dir()?;
    Some(count_below(&files, top))
}

fn count_below(files: &Reader, top: &Path) -> Frozen {
    let mut frozen = Frozen::default();
    let mut left = vec![PathBuf::new()];
    let mut seen = 0;
    while let Some(below) = left.pop() {
        seen += 1;
        match files.below(&below).freezer() {
            Freezer::Frozen => frozen.frozen += 1,
            Freezer::Freezing => frozen.freezing += 1,
            Freezer::Thawed | Freezer::Unknown if seen < MOST => {
                let dirs = children(&top.join(&below));
                left.extend(dirs.filter_map(|it| Some(it.strip_prefix(top).ok()?.to_owned())));
            }
            Freezer::Thawed | Freezer::Unknown => {}
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
        assert_eq!(count_below(&files, top), Frozen::default());
        freeze(&top.join("asked"));
        assert_eq!(count_below(&files, top), Frozen { frozen: 1, freezing: 0 });
        assert!(count().unwrap().frozen >= 1, "from the root on");
        drop(scratch);
        assert!(!top.exists());
    }
}
