//! Whether an operation could write what it needs into frostlock's state directory. Writes nothing
//! to find out.

use std::path::Path;

use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};

/// A note, a lock, a record of a container and a line of the journal need less.
const NEEDED_BYTES: u64 = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// How many bytes are free.
    Full(u64),
    NoInodes,
    ReadOnly,
    NotWritable(String),
}

/// `None` if all is well. A missing directory would be created in its nearest existing ancestor.
pub(crate) fn trouble(state: &Path) -> Option<NoRoom> {
    let there = state.ancestors().find(|path| path.symlink_metadata().is_ok())?;
    let of = statvfs(there).ok()?;
    let inodes = (of.f_files > 0).then_some(of.f_favail);
    let read_only = of.f_flag.contains(StatVfsMountFlags::RDONLY);
    judge(of.f_bavail.saturating_mul(of.f_frsize), inodes, read_only).or_else(|| {
        let refused = access(there, Access::WRITE_OK | Access::EXEC_OK).err()?;
        Some(NoRoom::NotWritable(format!("{}: {refused}", there.display())))
    })
}

/// File systems without a fixed number of inodes cannot run out of them.
fn judge(bytes: u64, inodes: Option<u64>, is_read_only: bool) -> Option<NoRoom> {
    match (bytes, inodes) {
        _ if is_read_only => Some(NoRoom::ReadOnly),
        (bytes, _) if bytes < NEEDED_BYTES => Some(NoRoom::Full(bytes)),
        (_, Some(0)) => Some(NoRoom::NoInodes),
        _ => None,
    }
}

impl NoRoom {
    pub(crate) fn what(&self) -> &'static str {
        match self {
            NoRoom::Full(_) | NoRoom::NoInodes => "frostlock's state directory is full",
            NoRoom::ReadOnly | NoRoom::NotWritable(_) => {
                "frostlock's state directory cannot be written to"
            }
        }
    }

    pub(crate) fn seen(&self) -> String {
        match self {
            NoRoom::Full(bytes) => format!("{bytes} bytes are free"),
            NoRoom::NoInodes => "no inode is free".to_owned(),
            NoRoom::ReadOnly => "its file system is mounted read-only".to_owned(),
            NoRoom::NotWritable(why) => why.clone(),
        }
    }

    pub(crate) fn remedy(&self, state: &Path) -> String {
        let state = state.display();
        match self {
            NoRoom::Full(_) => {
                format!("make room: df {state}; du -x {state}; what else is in that file system")
            }
            NoRoom::NoInodes => format!("remove files: df -i {state}"),
            NoRoom::ReadOnly => format!(
                "find out why (dmesg), then: mount -o remount,rw $(findmnt -nT {state} -o TARGET)"
            ),
            NoRoom::NotWritable(_) => {
                format!("lsattr -d {state}; frostlock needs a directory of root's with mode 0700")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_and_inodes_and_a_read_only_mount_are_told_apart() {
        for (bytes, inodes, read_only, expected) in [
            (1 << 20, Some(100), false, None),
            (NEEDED_BYTES, Some(1), false, None),
            (NEEDED_BYTES - 1, Some(1), false, Some(NoRoom::Full(NEEDED_BYTES - 1))),
            (0, None, false, Some(NoRoom::Full(0))),
            (1 << 20, Some(0), false, Some(NoRoom::NoInodes)),
            // btrfs and others report none.
            (1 << 20, None, false, None),
            (0, Some(0), true, Some(NoRoom::ReadOnly)),
        ] {
            assert_eq!(judge(bytes, inodes, read_only), expected, "{bytes} {inodes:?}");
        }
    }

    #[test]
    fn one_that_is_not_there_yet_is_judged_by_where_it_will_be() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(trouble(&dir.path().join("not/yet")), None);
    }
}
