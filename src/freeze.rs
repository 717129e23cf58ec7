//! Taking back a freeze.

use crate::cgroup::Reader;
use crate::cgroup::read::Version;

/// Asks for a thaw and does not wait for it. A cgroup that is gone needs none.
pub(crate) fn thaw(files: &Reader) {
    let Some((version, dir)) = files.freezer_dir() else { return };
    let (file, thawed) = match version {
        Version::V1 => ("freezer.state", "THAWED"),
        Version::V2 => ("cgroup.freeze", "0"),
    };
    let _ = std::fs::write(dir.join(file), thawed);
}
