//! Cgroups that a runtime did not remove when it deleted their container.
//!
//! A directory cannot be removed while a task is in it, and a throttled task takes seconds to die. runc
//! tries for a moment, says `device or resource busy` and returns 0 (1.1), or an error and keeps its
//! state (1.2 and newer).

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::read::{MOST_CGROUPS, children, tree};

/// The directories of one cgroup that still exist, in all hierarchies.
#[derive(Debug)]
pub struct Leftovers {
    dirs: Vec<PathBuf>,
    since: Instant,
    found: usize,
}

impl Leftovers {
    pub fn find(dirs: Vec<PathBuf>) -> Leftovers {
        let dirs: Vec<PathBuf> = dirs.into_iter().filter(|dir| dir.is_dir()).collect();
        let found = dirs.len();
        Leftovers { dirs, since: Instant::now(), found }
    }

    /// Tries once; gives whether all are gone now.
    pub fn remove(&mut self) -> bool {
        self.dirs.retain(|dir| !remove_tree(dir, &mut { MOST_CGROUPS }));
        self.dirs.is_empty()
    }

    /// One line, if there was anything to do.
    pub fn report(&self) -> Option<String> {
        if self.found == 0 {
            return None;
        }
        let removed = self.found - self.dirs.len();
        let waited = self.since.elapsed().as_millis();
        let mut line = format!("removed {removed} cgroup directories that were left ({waited} ms)");
        if let Some(dir) = self.dirs.first() {
            let live = some_pids(dir).join(", ");
            line.push_str(&format!("; still there: {} (pids: {live})", dir.display()));
        }
        Some(line)
    }
}

/// Some of the processes in the cgroup and below.
fn some_pids(dir: &Path) -> Vec<String> {
    const SHOWN: usize = 5;
    let of = |dir: PathBuf| {
        let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        procs.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    tree(dir).into_iter().flat_map(of).take(SHOWN).collect()
}

/// Removes a cgroup as runc does, after the cgroups below it; one with a task in it stays. Gives
/// whether it is gone. Each call removes some of very many: it goes down to the last before it goes on
/// to the next.
fn remove_tree(dir: &Path, left: &mut usize) -> bool {
    let below: Vec<PathBuf> = children(dir).take(*left).collect();
    for below in below {
        if *left == 0 {
            break;
        }
        *left -= 1;
        remove_tree(&below, left);
    }
    match std::fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn very_many_are_removed_in_several_calls() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("c");
        for number in 0..3000 {
            std::fs::create_dir_all(top.join(format!("{number}/below"))).unwrap();
        }
        let mut leftovers = Leftovers::find(vec![top]);
        let calls = (1..100).find(|_| leftovers.remove());
        assert!(calls.is_some_and(|calls| calls > 1), "{calls:?}");
    }
}
