//! The counters and the journal's position that they reach: one file, replaced as a whole, under a
//! lock.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::counters::Counters;
use super::pods::Pods;
use super::position::Position;

const VERSION: u32 = 1;

/// 200 pods with the longest names take less than 200 KB.
const MAX_BYTES: u64 = 4 << 20;

/// A first reading of the whole journal takes a fraction of a second.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_STEP: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) version: u32,
    pub(crate) boot_id: String,
    pub(crate) positions: Vec<Position>,
    pub(crate) counters: Counters,
    pub(crate) pods: Pods,
}

/// The lock on a checkpoint, and the checkpoint's path.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Store {
    /// The lock has its own file, since each new checkpoint is another file.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Store> {
        let directory = directory_of(path);
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let beside = with_suffix(path, ".lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&beside)
            .with_context(|| format!("cannot write {}", beside.display()))?;
        let lock = lock(file).with_context(|| format!("cannot lock {}", beside.display()))?;
        Ok(Store { path: path.to_owned(), _lock: lock })
    }

    /// A missing file is an empty checkpoint. A damaged one is set aside, and the text says so:
    /// Prometheus can handle counters that restart at zero, and the old content is not lost.
    pub(crate) fn load(&self) -> anyhow::Result<(Checkpoint, Option<String>)> {
        let path = self.path.display();
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(file) => file.take(MAX_BYTES).read_to_end(&mut bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Default::default()),
            Err(error) => Err(error),
        }
        .with_context(|| format!("cannot read {path}"))?;
        let checkpoint: Result<Checkpoint, _> = serde_json::from_slice(&bytes);
        let version = checkpoint.as_ref().map_or_else(|_| version_of(&bytes), |it| it.version);
        anyhow::ensure!(
            version <= VERSION,
            "{path} is of version {version}, and this frostctl writes {VERSION}: use the newer one, \
             or another --state"
        );
        match checkpoint {
            Ok(checkpoint) => Ok((checkpoint, None)),
            Err(error) => {
                let aside = with_suffix(&self.path, ".damaged");
                std::fs::rename(&self.path, &aside)
                    .with_context(|| format!("cannot set the damaged {path} aside"))?;
                let note = format!(
                    "{path} was damaged ({error}): the counters begin at zero; it is now {}",
                    aside.display()
                );
                Ok((Checkpoint::default(), Some(note)))
            }
        }
    }

    pub(crate) fn save(&self, checkpoint: &mut Checkpoint) -> anyhow::Result<()> {
        checkpoint.version = VERSION;
        let json = serde_json::to_vec(checkpoint)?;
        replace(&self.path, &json, 0o600)
    }
}

/// Readers see the old file or the new one, even after a power failure.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file =
            tempfile::Builder::new().prefix(".frostctl-").tempfile_in(directory_of(path))?;
        // Not at creation, where the umask would remove bits.
        file.as_file().set_permissions(PermissionsExt::from_mode(mode))?;
        file.write_all(content)?;
        file.as_file().sync_data()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A later version may have other types for a key.
fn version_of(bytes: &[u8]) -> u32 {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    serde_json::from_slice(bytes).map_or(0, |it: Versioned| it.version)
}

fn lock(mut file: File) -> anyhow::Result<Flock<File>> {
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK)) if Instant::now() < until => file = again,
            Err((_, Errno::EWOULDBLOCK)) => {
                anyhow::bail!("another frostctl has had it for {} s", LOCK_WAIT.as_secs())
            }
            Err((_, errno)) => return Err(errno.into()),
        }
        std::thread::sleep(LOCK_STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_one_is_kept_aside_and_one_of_a_later_version_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.json");
        let store = Store::open(&path).unwrap();
        std::fs::write(&path, "{\"version\":1,\"boot").unwrap();
        let (checkpoint, note) = store.load().unwrap();
        assert_eq!(checkpoint, Checkpoint::default());
        assert!(note.unwrap().contains("metrics.json.damaged"));
        let kept = std::fs::read_to_string(directory.path().join("metrics.json.damaged")).unwrap();
        assert_eq!(kept, "{\"version\":1,\"boot");

        let later = "{\"version\":2,\"counters\":7}";
        std::fs::write(&path, later).unwrap();
        assert!(store.load().unwrap_err().to_string().contains("version 2"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), later);
    }

    /// As written by the version that had refills.
    #[test]
    fn one_with_refills_is_read_and_goes_on_without_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.json");
        let before = r#"{"version":1,"boot_id":"b",
            "positions":[{"inode":7,"head":"{\"v\":1","offset":700}],
            "counters":{"operations":{"exec":{"failed":2,"ok":40}},"durations":{},"lock_waits":{},
            "retries":{"exec":3},"failures":{},"given_up":{},"refills":{"exec":{"done":9}},
            "refill_us":{"exec":70000},"recovered":4,"oom_kills":5,"skipped_lines":6,
            "journal_gaps":1},
            "pods":{"n":{"p":{"retries":3,"refills":9,"refill_us":70000,"counted_ns":11}}}}"#;
        std::fs::write(&path, before).unwrap();
        let store = Store::open(&path).unwrap();
        let (mut checkpoint, note) = store.load().unwrap();
        let counters = &checkpoint.counters;
        let all = (counters.recovered, counters.oom_kills, counters.skipped_lines);
        assert_eq!((note, all, counters.journal_gaps), (None, (4, 5, 6), 1));
        assert_eq!((counters.operations["exec"]["ok"], counters.retries["exec"]), (40, 3));
        assert_eq!(counters.lifts.len(), 0);
        assert_eq!(checkpoint.positions.len(), 1);
        assert_eq!(checkpoint.pods.iter().map(|(_, _, pod)| pod.retries).sum::<u64>(), 3);
        store.save(&mut checkpoint).unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("refill"));
        assert_eq!(store.load().unwrap(), (checkpoint, None));
    }

    #[test]
    fn what_is_saved_is_loaded_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/metrics.json");
        let store = Store::open(&path).unwrap();
        let mut saved = Checkpoint { boot_id: "b".into(), ..Checkpoint::default() };
        saved.counters.lifted_us.insert("runtime".into(), 7);
        store.save(&mut saved).unwrap();
        assert_eq!(store.load().unwrap(), (saved, None));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
    }
}
