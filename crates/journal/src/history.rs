//! The long journal: the same records on disk, bounded in size and age, so that they survive a reboot.
//!
//! `history.jsonl` is the file that is written; full ones are numbered. A number is chosen while
//! holding the lock of the file that gets it. It is one more than the greatest, so no number is used
//! twice, whatever the clock does.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::file;
use config::Config;
use state::state_dir::StateDir;

const CURRENT: &str = "history.jsonl";
const PREFIX: &str = "history-";
const SUFFIX: &str = ".jsonl";

/// Records are removed by whole files, so this is how exactly the limits are kept.
const FILES: u64 = 16;

const DEFAULT: &str = "/var/log/frostlock";

/// The files in one directory.
#[derive(Debug, Clone)]
pub struct History {
    directory: PathBuf,
    max_bytes: u64,
    max_age: Duration,
}

impl History {
    /// `None` if it is off. Also `None` if the directory would be /var/log and our state is not the
    /// node's own, as without root.
    pub fn of(config: &Config, state: &StateDir) -> Option<History> {
        let named = config.history.directory.as_ref().map(PathBuf::from);
        let directory = named.or_else(|| state.is_the_nodes().then(|| PathBuf::from(DEFAULT)))?;
        (config.history.enabled && directory.is_absolute()).then(|| History {
            directory,
            max_bytes: config.history.max_mib << 20,
            max_age: Duration::from_secs(config.history.max_days * 24 * 3600),
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Adds whole lines; gives the file that has them now.
    pub(crate) fn append(&self, lines: &[u8]) -> io::Result<Metadata> {
        file::append(&self.directory.join(CURRENT), lines, self)
    }

    fn is_old(&self, time: io::Result<SystemTime>, age: Duration) -> bool {
        // A file from the future is not old.
        time.ok().and_then(|time| time.elapsed().ok()).is_some_and(|elapsed| elapsed > age)
    }

    /// Removes what is too old, and then the oldest files until the rest and one more full file fit.
    fn prune(&self) {
        let mut left = 0;
        for (_, path) in numbered(&self.directory).into_iter().rev() {
            let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
            left += metadata.len();
            let fits = left + self.max_bytes / FILES <= self.max_bytes;
            if !fits || self.is_old(metadata.modified(), self.max_age) {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

impl file::Rotation for History {
    fn is_full(&self, file: &Metadata, line: usize) -> bool {
        file.len() + line as u64 > self.max_bytes / FILES
            || self.is_old(file.created(), self.max_age / FILES as u32)
    }

    fn set_aside(&self, path: &Path) -> io::Result<()> {
        // An unreadable directory is not an empty one: its files would be overwritten.
        std::fs::read_dir(&self.directory)?;
        let greatest = numbered(&self.directory).last().map_or(0, |(number, _)| *number);
        let name = format!("{PREFIX}{:08}{SUFFIX}", greatest + 1);
        std::fs::rename(path, self.directory.join(name))?;
        self.prune();
        Ok(())
    }
}

/// Every file of a history, oldest first; the last one grows.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = numbered(directory).into_iter().map(|(_, path)| path).collect();
    files.push(directory.join(CURRENT));
    files
}

fn numbered(directory: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
            Some((number.parse().ok()?, entry.path()))
        })
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(directory: &Path) -> History {
        History {
            directory: directory.to_owned(),
            max_bytes: 16 * 100,
            max_age: Duration::from_secs(3600),
        }
    }

    fn lines(directory: &Path) -> Vec<String> {
        let texts =
            files(directory).into_iter().filter_map(|file| std::fs::read_to_string(file).ok());
        texts.collect::<String>().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_oldest_go_first_and_the_size_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let history = history(directory.path());
        for number in 0..1000 {
            history.append(format!("{number:09}\n").as_bytes()).unwrap();
            let sizes =
                files(directory.path()).into_iter().map(|file| file.metadata().unwrap().len());
            assert!(sizes.sum::<u64>() <= 1600);
        }
        let lines = lines(directory.path());
        assert!(lines.len() >= 140, "{}", lines.len());
        let expected: Vec<_> =
            (1000 - lines.len()..1000).map(|number| format!("{number:09}")).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_is_too_old_goes_and_what_is_from_the_future_stays() {
        let directory = tempfile::tempdir().unwrap();
        let history = history(directory.path());
        for (name, age) in [("history-00000007.jsonl", 4000), ("history-00000008.jsonl", -4000)] {
            let file = std::fs::File::create(directory.path().join(name)).unwrap();
            let now = SystemTime::now();
            let seconds = Duration::from_secs(i32::unsigned_abs(age).into());
            file.set_modified(if age > 0 { now - seconds } else { now + seconds }).unwrap();
        }
        for _ in 0..11 {
            history.append(b"123456789\n").unwrap();
        }
        let names: Vec<_> = files(directory.path())
            .iter()
            .map(|file| file.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["history-00000008.jsonl", "history-00000009.jsonl", "history.jsonl"]);
    }

    #[test]
    fn foreign_files_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["history-x.jsonl", "history-1.jsonl.gz", "other"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        assert_eq!(files(directory.path()), [directory.path().join(CURRENT)]);
    }
}
