//! The journal's files: the long journal on disk, the short one in /run, or the named ones.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use config::Config;
use journal::history::{self, History};
use state::state_dir::StateDir;

use super::reader::{Reader, Skipped};
use super::record::Record;
use crate::node::root;

/// Where the records come from.
#[derive(Debug, clap::Args)]
pub(crate) struct Source {
    /// Read this file, or this directory of a long journal [default: the node's]
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
}

/// The files, oldest first, held open, so that no rotation loses one.
#[derive(Debug)]
pub(crate) struct Journal {
    long: Vec<(PathBuf, File)>,
    /// Records that the long journal does not have yet, since its disk is slow or full.
    short: Vec<(PathBuf, File)>,
    /// The file that grows. The long journal gets all records, but may not exist yet.
    pub(crate) growing: PathBuf,
}

impl Source {
    pub(crate) fn open(&self) -> anyhow::Result<Journal> {
        if let Some(path) = &self.journal {
            let long = if path.is_dir() { open_history(path)? } else { open_all(pair(path))? };
            anyhow::ensure!(
                !long.is_empty(),
                "{}: there is no journal: expected a file of records, or a directory with \
                 history.jsonl",
                path.display()
            );
            let growing = long.last().map(|(path, _)| path.clone()).unwrap_or_default();
            return Ok(Journal { long, short: Vec::new(), growing });
        }
        let state = StateDir::from_env();
        let (config, _) = Config::load();
        Journal::of(&config, &state)?.with_context(|| {
            let long = History::of(&config, &state);
            let long = long.map_or("a long one".into(), |it| it.directory().display().to_string());
            format!(
                "there is no journal: neither {long} nor {} is there. The wrapper writes it once a \
                 container manager runs it; see Install in the README, and history.enabled in the \
                 configuration",
                state.journal().display(),
            )
        })
    }
}

impl Journal {
    /// The node's journal; `None` if there is none yet.
    pub(crate) fn of(config: &Config, state: &StateDir) -> anyhow::Result<Option<Journal>> {
        let history = History::of(config, state);
        let long = match &history {
            Some(history) => open_history(history.directory())?,
            None => Vec::new(),
        };
        let short = open_all(pair(&state.journal()))?;
        if long.is_empty() && short.is_empty() {
            return Ok(None);
        }
        let growing = history.and_then(|it| history::files(it.directory()).pop());
        let growing = growing.unwrap_or_else(|| state.journal());
        Ok(Some(Journal { long, short, growing }))
    }

    /// Passes each record of the newest bytes once, oldest first: at most this many from each of the
    /// two journals. Returns whether that was everything. The reader then knows what was read.
    pub(crate) fn newest(
        &self,
        bytes: u64,
        reader: &mut Reader,
        each: &mut impl FnMut(&Record<'_>),
    ) -> anyhow::Result<bool> {
        let mut is_whole = true;
        for files in [&self.long, &self.short].into_iter().filter(|it| !it.is_empty()) {
            for ((path, file), from) in files.iter().zip(starts(files, bytes)) {
                is_whole &= from == 0;
                reader
                    .read_from(file, from, each)
                    .with_context(|| format!("cannot read {}", path.display()))?;
            }
            reader.only_later();
        }
        Ok(is_whole)
    }

    /// Passes each record once, oldest first; returns how many lines could not be used.
    pub(crate) fn each(&self, mut each: impl FnMut(&Record<'_>)) -> anyhow::Result<Skipped> {
        let mut reader = Reader::of(self.len());
        self.pass(&mut reader, &mut each)?;
        self.ensure_records(&reader)?;
        Ok(reader.skipped)
    }

    /// Numbers from a file that is no journal would be zeros, and look like an answer.
    pub(crate) fn ensure_records(&self, reader: &Reader) -> anyhow::Result<()> {
        if reader.used > 0 {
            return Ok(());
        }
        let path = self.growing.display();
        match reader.skipped {
            skipped if skipped.total() == 0 => anyhow::bail!(
                "{path}: the journal is empty: the wrapper writes a record with each operation"
            ),
            skipped if skipped.total() == skipped.future_version => anyhow::bail!(
                "{path}: every record is of a later version: use the frostctl of that version"
            ),
            skipped => anyhow::bail!(
                "{path}: no record of frostlock's in it; {skipped}. Name a journal, or leave out \
                 --journal for the node's"
            ),
        }
    }

    /// The same, with a reader that then knows what was read.
    pub(crate) fn pass(
        &self,
        reader: &mut Reader,
        each: &mut impl FnMut(&Record<'_>),
    ) -> anyhow::Result<()> {
        self.newest(u64::MAX, reader, each).map(drop)
    }

    /// The size of all files, in bytes.
    fn len(&self) -> u64 {
        let files = self.long.iter().chain(&self.short);
        files.filter_map(|(_, file)| Some(file.metadata().ok()?.len())).sum()
    }

    /// How many bytes of the growing file were read; following starts there.
    pub(crate) fn growing_len(&self) -> u64 {
        let mut files = self.long.iter().chain(&self.short);
        let file = files.find(|(path, _)| *path == self.growing);
        file.and_then(|(_, file)| file.metadata().ok()).map_or(0, |metadata| metadata.len())
    }
}

/// For each file, oldest first: the offset at which the last `bytes` of all files begin.
fn starts(files: &[(PathBuf, File)], bytes: u64) -> Vec<u64> {
    let mut left = bytes;
    let mut starts: Vec<u64> = files
        .iter()
        .rev()
        .map(|(_, file)| {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            let from = length.saturating_sub(left);
            left = left.saturating_sub(length);
            from
        })
        .collect();
    starts.reverse();
    starts
}

/// Opens the file that grows first: if it is rotated meanwhile, it is found under both names.
fn open_history(directory: &Path) -> anyhow::Result<Vec<(PathBuf, File)>> {
    let mut numbered = history::files(directory);
    let current = numbered.pop().map(|path| open_all(vec![path])).transpose()?.unwrap_or_default();
    let mut numbered = history::files(directory);
    numbered.pop();
    let mut files = open_all(numbered)?;
    let inode = |file: &File| file.metadata().ok().map(|it| (it.dev(), it.ino()));
    files.retain(|(_, file)| current.iter().all(|(_, current)| inode(current) != inode(file)));
    files.extend(current);
    Ok(files)
}

fn pair(path: &Path) -> Vec<PathBuf> {
    vec![older(path), path.to_owned()]
}

/// The file beside a journal to which it is set aside.
pub(crate) fn older(path: &Path) -> PathBuf {
    let mut older = path.as_os_str().to_owned();
    older.push(".1");
    older.into()
}

/// Opens the files that exist.
fn open_all(paths: Vec<PathBuf>) -> anyhow::Result<Vec<(PathBuf, File)>> {
    let mut files = Vec::new();
    for path in paths {
        match root::open(&path) {
            Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => {
                files.push((path, file));
            }
            Ok(_) => anyhow::bail!("{} is not a regular file", path.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(error).with_context(|| {
                    format!("cannot read {}: only its owner may, try sudo", path.display())
                });
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        }
    }
    Ok(files)
}
