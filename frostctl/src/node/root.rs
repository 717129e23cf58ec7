//! The node as a file tree: the live one, or a recorded one below a directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Configurations have some KB, and mountinfo of a node with thousands of mounts some MB.
const MOST_READ: u64 = 16 << 20;

#[derive(Debug, Clone, Default)]
pub(crate) struct Root(Option<PathBuf>);

impl Root {
    pub(crate) fn at(directory: Option<PathBuf>) -> Root {
        Root(directory)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.0.is_none()
    }

    /// Where to read a path of the node.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        match &self.0 {
            Some(directory) => directory.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    /// Invalid UTF-8 is replaced. A FIFO in the file's place does not block.
    pub(crate) fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        read(&self.path(path.as_ref()))
    }

    pub(crate) fn is_there(&self, path: impl AsRef<Path>) -> bool {
        self.path(path.as_ref()).symlink_metadata().is_ok()
    }
}

/// Reads a file at this very path.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(path)?.take(MOST_READ + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_READ {
        return Err(io::Error::other("is larger than any such file"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A FIFO in the file's place does not block.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}
