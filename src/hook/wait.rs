//! The wait for a thaw.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::report::Found;
use cgroup::{Freezer, Reader};

/// A look is one to a handful of reads. cgroup v1 offers nothing to wait on, and a container's start
/// must not be delayed by more than this.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until nothing is frozen or freezing, for at most `limit`; also gives what was.
pub(super) fn until_thawed(files: &Reader, limit: Duration) -> (Found, Option<String>) {
    if files.freezer_dir().is_none() {
        return (Found::Unknown, None);
    }
    let deadline = Instant::now() + limit;
    let mut was: Option<String> = None;
    loop {
        // Before the look: we may be in the frozen cgroup ourselves (podman puts conmon, and so its
        // hooks, below the container's parent), and when it is thawed, the time is long over.
        let left = deadline.saturating_duration_since(Instant::now());
        match frozen(files) {
            None if was.is_none() => return (Found::Thawed, None),
            None => return (Found::ThawedMeanwhile, was),
            Some(dir) => was = Some(dir.display().to_string()),
        }
        if left.is_zero() {
            return (Found::StillFrozen, was);
        }
        std::thread::sleep(LOOK_EVERY.min(left));
    }
}

/// The directory that is frozen or freezing: the container's or one above. It may not exist yet, or not
/// any more.
fn frozen(files: &Reader) -> Option<PathBuf> {
    let above = files.frozen_ancestor();
    let own = || files.freezer_dir().map(|(_, dir)| Path::to_owned(dir));
    above.or_else(|| match files.freezer() {
        Freezer::Frozen | Freezer::Freezing => own(),
        Freezer::Thawed | Freezer::Unknown => None,
    })
}
