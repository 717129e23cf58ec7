//! The directory that holds what must be known between two operations: locks, records of
//! containers, the journal.
//!
//! Everything in it can be lost without harm to a container; without it operations run as they
//! would without us.

use std::ffi::OsStr;
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
    /// podman calls its runtime as root of a user namespace, to which /run is somebody else's.
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

    /// Whether it is the one that all of a node's wrappers share.
    pub fn is_the_nodes(&self) -> bool {
        self.0 == Path::new(DEFAULT)
    }

    /// While this file exists, every command is the bare runtime's.
    pub fn kill_switch(&self) -> PathBuf {
        self.0.join("off")
    }

    pub fn journal(&self) -> PathBuf {
        self.0.join("journal.jsonl")
    }

    pub fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }

    /// Private console sockets; a short name, since a socket's path must fit into 108 bytes.
    pub fn consoles(&self) -> PathBuf {
        self.0.join("tty")
    }

    /// The directory of the lock files, made if need be. Refused when somebody else could put files
    /// there: a lock file that others can hold would stop the node.
    pub fn locks(&self) -> io::Result<PathBuf> {
        self.private(LOCKS)
    }

    /// Why it could not be used as it is; one that is not there yet can.
    pub fn complaint(&self) -> Option<io::Error> {
        let there = std::fs::symlink_metadata(&self.0);
        let error = check(&self.0, there).err()?;
        (error.kind() != io::ErrorKind::NotFound).then_some(error)
    }

    /// The same, if it is there.
    pub fn lock_files(&self) -> PathBuf {
        self.0.join(LOCKS)
    }

    /// What is lifted now, and by whom.
    pub fn lifts(&self) -> PathBuf {
        self.0.join(LIFTS)
    }

    /// The same, made if need be.
    pub fn lifts_made(&self) -> io::Result<PathBuf> {
        self.private(LIFTS)
    }

    /// What the lifted programs of each pod have used.
    pub fn accounts(&self) -> PathBuf {
        self.0.join("accounts")
    }

    /// Notes of what is to be undone, a directory for each cgroup.
    pub fn intents(&self) -> PathBuf {
        self.0.join("intents")
    }

    /// Makes the directory itself, if it is not there.
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

/// Whether root is who owns it, or may make it. Others must not be sent to where root's state is, be
/// it not there yet.
fn is_ours(path: &Path) -> bool {
    let mut owners = path.ancestors().filter_map(|path| std::fs::symlink_metadata(path).ok());
    nix::unistd::geteuid().is_root() && owners.next().is_some_and(|nearest| nearest.uid() == 0)
}

fn absolute_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Makes the directory with mode 0700, or checks that the one that is there is ours alone.
pub fn make_private(path: &Path) -> io::Result<()> {
    // Most often it is there; an attempt to make it would lock its parent first.
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

/// Whole or not at all: what is at `next` becomes the file.
pub(crate) fn write_whole(path: &Path, next: &Path, bytes: &[u8]) -> io::Result<()> {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        // A FIFO in its place must not block us.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(next)
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

/// A file name for a cgroup or a container: what a person can recognise, and a hash of the whole,
/// as a path may be longer than a file name. FNV-1a rather than std's hasher, which may change with
/// the compiler: two releases of ours must agree while both are running. Should two names meet,
/// they share a lock.
pub fn file_name(name: &OsStr) -> String {
    format!("{}-{:032x}", readable(name), fnv1a(name.as_bytes()))
}

/// What such a name begins with, the same for all paths that end in the same name.
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
