//! The directory that holds what must survive between two operations: locks, records of containers, the
//! journal.
//!
//! Losing its contents harms no container; without them, operations run as they would without
//! frostlock.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const DEFAULT: &str = "/run/frostlock";
const LOCKS: &str = "locks";
const LIFTS: &str = "lifts";

/// Where our state is.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// `FROSTLOCK_STATE_DIR`, or `/run/frostlock`; without root `$XDG_RUNTIME_DIR/frostlock`. Rootless
    /// podman calls its runtime as root of a user namespace, where /run belongs to somebody else.
    pub fn from_env() -> StateDir {
        if let Some(path) = absolute_env("FROSTLOCK_STATE_DIR") {
            return StateDir(path);
        }
        match absolute_env("XDG_RUNTIME_DIR") {
            Some(runtime_dir) if !is_ours(Path::new(DEFAULT)) => {
                StateDir(runtime_dir.join("frostlock"))
            }
            _ => StateDir(PathBuf::from(DEFAULT)),
        }
    }

    pub fn at(path: PathBuf) -> StateDir {
        StateDir(path)
    }

    /// Whether it is the directory that all wrappers of a node share.
    pub fn is_the_nodes(&self) -> bool {
        self.0 == Path::new(DEFAULT)
    }

    /// While this file exists, every command goes to the bare runtime.
    pub fn kill_switch(&self) -> PathBuf {
        self.0.join("off")
    }

    pub fn journal(&self) -> PathBuf {
        self.0.join("journal.jsonl")
    }

    pub fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }

    /// Private console sockets; a short name, because a socket's path must fit into 108 bytes.
    pub fn consoles(&self) -> PathBuf {
        self.0.join("tty")
    }

    /// The directory of the lock files, made if needed. Refused if others can put files there: a lock
    /// file that others can hold would stop the node.
    pub fn locks(&self) -> io::Result<PathBuf> {
        self.private(LOCKS)
    }

    /// Why the directory cannot be used as it is. One that does not exist yet can.
    pub fn complaint(&self) -> Option<io::Error> {
        let there = std::fs::symlink_metadata(&self.0);
        let error = check(&self.0, there).err()?;
        (error.kind() != io::ErrorKind::NotFound).then_some(error)
    }

    /// The directory of the lock files, which may not exist.
    pub fn lock_files(&self) -> PathBuf {
        self.0.join(LOCKS)
    }

    /// What is lifted now, and by which lifter.
    pub fn lifts(&self) -> PathBuf {
        self.0.join(LIFTS)
    }

    /// The same, made if needed.
    pub fn lifts_made(&self) -> io::Result<PathBuf> {
        self.private(LIFTS)
    }

    /// What the lifted programs of each pod have used.
    pub fn accounts(&self) -> PathBuf {
        self.0.join("accounts")
    }

    /// Notes of what must be undone, one directory for each cgroup.
    pub fn intents(&self) -> PathBuf {
        self.0.join("intents")
    }

    /// Makes the directory itself if it does not exist.
    pub fn make(&self) -> io::Result<()> {
        make_private(&self.0)
    }

    fn private(&self, name: &str) -> io::Result<PathBuf> {
        let directory = self.0.join(name);
        make_private(&self.0)?;
        make_private(&directory)?;
        Ok(directory)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Whether root owns it or would own it if it were made. Non-root users must not be sent to root's
/// state directory, even if it does not exist yet.
fn is_ours(path: &Path) -> bool {
    let mut owners = path.ancestors().filter_map(|path| std::fs::symlink_metadata(path).ok());
    nix::unistd::geteuid().is_root() && owners.next().is_some_and(|nearest| nearest.uid() == 0)
}

fn absolute_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Makes the directory with mode 0700, or checks that the existing one is ours alone.
pub fn make_private(path: &Path) -> io::Result<()> {
    // Most often it exists; an attempt to make it would lock its parent first.
    let there = std::fs::symlink_metadata(path);
    if there.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(explain(path, &error)),
        }
    }
    check(path, there.or_else(|_| std::fs::symlink_metadata(path)))
}

/// Opens a file of ours in this way, never through a symbolic link, and never anything but a regular
/// file: we write to it, and opening a FIFO would block.
pub fn open(path: &Path, how: &mut OpenOptions) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = how.read(true).mode(0o600).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{} is not a regular file", path.display())));
    }
    Ok(file)
}

/// Whether an open file is still the one at this path.
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// What is in a directory, if it can be read.
pub fn listed(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Writes a file whole or not at all: first as `next`, which then replaces it.
pub(crate) fn write_whole(path: &Path, next: &Path, bytes: &[u8]) -> io::Result<()> {
    let written = open(next, OpenOptions::new().write(true).create(true).truncate(true))
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| std::fs::rename(next, path));
    if written.is_err() {
        let _ = std::fs::remove_file(next);
    }
    written
}

fn check(path: &Path, there: io::Result<std::fs::Metadata>) -> io::Result<()> {
    let metadata = there.map_err(|error| explain(path, &error))?;
    if !metadata.is_dir() {
        return Err(explain(path, &io::Error::from_raw_os_error(libc::ENOTDIR)));
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        return Err(explain(path, &io::Error::other("others can write to it")));
    }
    Ok(())
}

fn explain(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot use {}: {error}", path.display()))
}

/// A file name for a cgroup or a container: a part that people recognise, and a hash of the whole,
/// because a path may be longer than a file name. FNV-1a and not std's hasher, which may change with
/// the compiler: two releases of ours must agree while both run. Two paths with the same name share a
/// lock.
pub fn file_name(name: &OsStr) -> String {
    format!("{}-{:032x}", readable(name), fnv1a(name.as_bytes()))
}

/// What such a name begins with: the same for all paths with the same last part.
pub fn readable(name: &OsStr) -> String {
    const READABLE_BYTES: usize = 80;
    let last = Path::new(name).file_name().unwrap_or_default().as_bytes();
    let plain = |&byte: &u8| if byte.is_ascii_alphanumeric() { byte as char } else { '_' };
    last.iter().take(READABLE_BYTES).map(plain).collect()
}

fn fnv1a(bytes: &[u8]) -> u128 {
    const OFFSET_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET_BASIS, |hash, &byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_short_plain_and_different() {
        let long = "/kubepods".repeat(100);
        assert!(file_name(OsStr::new(&long)).len() <= 113);
        assert!(!file_name(OsStr::new("/a/..\n/b;c")).contains(['/', '.', '\n', ';']));
        assert_ne!(file_name(OsStr::new("/a/x")), file_name(OsStr::new("/b/x")));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // Test vectors of the FNV authors.
        assert_eq!(fnv1a(b""), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(fnv1a(b"a"), 0xd228cb696f1a8caf78912b704e4a8964);
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        make_private(&path).unwrap();
        make_private(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(make_private(&path).unwrap_err().to_string().contains("others can write"));
    }

    #[test]
    fn a_file_in_its_place_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        std::fs::write(&path, "").unwrap();
        assert!(make_private(&path).is_err());
    }
}
