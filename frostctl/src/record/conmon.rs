//! conmon's exit files: one for each container that has ended, with its exit code.

use std::collections::HashSet;
use std::fs::DirEntry;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use super::log::{Code, Happened, Log};

pub(super) const SOURCE: &str = "conmon";

/// CRI-O leaves a file until the container is removed, at least seconds later.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An exit code has three digits.
const FILE_BYTES: u64 = 16;

pub(super) async fn follow(directory: &Path, mut known: HashSet<String>, log: &Log) {
    loop {
        look(directory, &mut known, log);
        sleep(LOOK_EVERY).await;
    }
}

/// Without CRI-O, the directory does not exist.
fn look(directory: &Path, known: &mut HashSet<String>, log: &Log) {
    let mut there = HashSet::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(id) = entry.file_name().into_string() else { continue };
        if known.contains(&id) || add(&id, &entry, log).is_some() {
            there.insert(id);
        }
    }
    *known = there;
}

/// `None` if the file is not complete yet.
fn add(id: &str, entry: &DirEntry, log: &Log) -> Option<()> {
    let metadata = entry.metadata().ok()?;
    // conmon writes a file with another name, which has a dot, and renames it.
    if id.starts_with('.') || !metadata.is_file() || metadata.len() > FILE_BYTES {
        return None;
    }
    let code = std::fs::read_to_string(entry.path()).ok()?.trim().parse().ok()?;
    let exit = Some(Code { code });
    let (at, source) = (metadata.modified().ok()?, SOURCE);
    log.add(&Happened { source, at, namespace: None, id, exec_id: None, exit });
    Some(())
}
