//! Copies what is new in the short journal to the long one, each record once, even if the copying is
//! killed.
//!
//! The note of how far it came is written after the data. Whatever the long journal has beyond the note
//! was either copied by a carrier that was killed before it could note it, or written by others. A line
//! that is already there is not copied again.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fs::{File, Metadata};
use std::hash::{Hash, Hasher};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::history::{self, History};
use super::reader::{self, LINE_BYTES};
use super::{Stamp, VERSION, file};
use state::state_dir::is_at;

/// The size of one write to the disk, unless a line is longer.
const PIECE_BYTES: usize = 16 * 1024;

/// The journal may be set aside, even twice, while its two files are opened.
const OPEN_TRIES: u32 = 4;

pub(crate) struct Copy<'a> {
    pub journal: &'a Path,
    pub history: &'a History,
    /// Holds the [`Position`].
    pub note: &'a File,
    pub note_path: &'a Path,
}

/// A byte of a file. tmpfs never reuses an inode number; other file systems do, but record when the
/// file was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    dev: u64,
    ino: u64,
    born_ns: u64,
    at: u64,
}

impl Place {
    fn of(file: &Metadata, at: u64) -> Place {
        let born = file.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born_ns = born.map_or(0, |born| born.as_nanos() as u64);
        Place { dev: file.dev(), ino: file.ino(), born_ns, at }
    }

    fn is_in(&self, file: &Metadata) -> bool {
        *self == Place::of(file, self.at)
    }
}

/// How far the short journal has been copied, and where the long one ended then.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Position {
    sources: Vec<Copied>,
    history: Option<Place>,
}

/// How far one file of the short journal has been copied.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Copied {
    to: Place,
    /// Whether the file was set aside and copied to its end, so that it may be removed.
    is_whole: bool,
}

impl Position {
    /// An unreadable one counts as none.
    fn read(note: &File) -> Position {
        let mut text = [0; 4096];
        let length = note.read_at(&mut text, 0).unwrap_or(0);
        let line = text[..length].split(|byte| *byte == b'\n').next().unwrap_or_default();
        serde_json::from_slice(line).unwrap_or_default()
    }

    /// Fits in one page, which a kill does not divide.
    fn write(&self, note: &File) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        note.write_all_at(&line, 0)
    }

    fn find(&self, source: &Source) -> Option<Copied> {
        self.sources.iter().copied().find(|copied| copied.to.is_in(&source.metadata))
    }

    fn set(&mut self, source: &Source, at: u64, is_whole: bool) {
        let to = Place::of(&source.metadata, at);
        self.sources.retain(|copied| !copied.to.is_in(&source.metadata));
        self.sources.push(Copied { to, is_whole });
    }

    /// Forgets files that are gone; gives whether one of them may have had more than was copied.
    fn retain(&mut self, sources: &[Source]) -> bool {
        let is_there = |it: &Copied| sources.iter().any(|source| it.to.is_in(&source.metadata));
        let (there, gone): (Vec<_>, Vec<_>) = self.sources.drain(..).partition(is_there);
        self.sources = there;
        gone.iter().any(|copied| !copied.is_whole)
    }
}

/// A file of the short journal.
struct Source {
    file: File,
    metadata: Metadata,
    is_aside: bool,
}

impl Copy<'_> {
    /// Copies all that is new; gives where the files of the short journal ended then. One process at a
    /// time.
    pub(crate) fn all(&self) -> io::Result<Vec<Place>> {
        // Not with flock, which says that there is a carrier, even one that still waits.
        let whole = sys::ByteRange { first: 0, length: 0 };
        whole.lock(self.note, libc::F_WRLCK, true)?;
        let copied = self.all_locked();
        whole.lock(self.note, libc::F_UNLCK, true)?;
        copied
    }

    fn all_locked(&self) -> io::Result<Vec<Place>> {
        let sources = self.sources()?;
        let mut position = Position::read(self.note);
        let mut misses_some = position.retain(&sources);
        let known = self.known(&position, &sources)?;
        let mut ends = Vec::new();
        for source in &sources {
            let copied = position.find(source).map_or(0, |copied| copied.to.at);
            let was_emptied = copied > source.metadata.len();
            misses_some |= was_emptied;
            let mut at = if was_emptied { 0 } else { copied };
            loop {
                let (bytes, whole) = read_lines(&source.file, at)?;
                let piece = &bytes[..whole];
                if piece.is_empty() {
                    ends.push(Place::of(&source.metadata, at + bytes.len() as u64));
                    break;
                }
                at += whole as u64;
                let text = new_lines(piece, &known, &mut misses_some);
                if !text.is_empty() {
                    position.history = Some(self.append(&text)?);
                }
                position.set(source, at, false);
                position.write(self.note)?;
            }
            position.set(source, at, source.is_aside);
        }
        position.write(self.note)?;
        Ok(ends)
    }

    /// Where the files of the short journal end now.
    pub(crate) fn ends(&self) -> io::Result<Vec<Place>> {
        let sources = self.sources()?.into_iter();
        Ok(sources.map(|it| Place::of(&it.metadata, it.metadata.len())).collect())
    }

    fn append(&self, text: &[u8]) -> io::Result<Place> {
        // Somebody has removed our state, and another carrier may be at work with a note of its own.
        if !is_at(self.note, self.note_path) {
            return Err(ErrorKind::NotFound.into());
        }
        let written = self.history.append(text)?;
        Ok(Place::of(&written, written.len()))
    }

    /// The older one comes first.
    fn sources(&self) -> io::Result<Vec<Source>> {
        for _ in 0..OPEN_TRIES {
            let newer = reader::open(self.journal)?;
            let older = reader::open(&file::older(self.journal))?;
            if newer.as_ref().is_some_and(|newer| !is_at(newer, self.journal)) {
                continue;
            }
            let both = [(older, true), (newer, false)].into_iter();
            let both = both.filter_map(|(file, is_aside)| Some((file?, is_aside)));
            return both
                .map(|(file, is_aside)| Ok(Source { metadata: file.metadata()?, file, is_aside }))
                .collect();
        }
        Err(ErrorKind::WouldBlock.into())
    }

    /// The lines that the long journal has beyond the position. Most often there are none. Without a
    /// position, all lines that it could have from the short one.
    fn known(&self, position: &Position, sources: &[Source]) -> io::Result<HashSet<u64>> {
        let noted = |file: &Metadata| position.history.filter(|place| place.is_in(file));
        let (mut later, mut known) = (Vec::new(), HashSet::new());
        for path in history::files(self.history.directory()).iter().rev() {
            let Some(file) = reader::open(path)? else { continue };
            let metadata = file.metadata()?;
            if let Some(place) = noted(&metadata) {
                add_lines(&file, place.at, &mut known)?;
                later.iter().try_for_each(|(file, _)| add_lines(file, 0, &mut known))?;
                return Ok(known);
            }
            later.push((file, metadata.len()));
        }
        // Records of others may be in between, but not as many as ours.
        let mut left = sources.iter().map(|source| source.metadata.len()).sum::<u64>() * 2;
        for (file, length) in &later {
            let from = length.saturating_sub(left);
            add_lines(file, from, &mut known)?;
            left -= length - from;
        }
        Ok(known)
    }
}

/// The bytes at `at`, and how many of them make up whole lines for one write.
fn read_lines(file: &File, at: u64) -> io::Result<(Vec<u8>, usize)> {
    // Most often there is little, and clearing a large buffer would be most of the carrier's work.
    let there = file.metadata()?.len().saturating_sub(at).min(LINE_BYTES as u64);
    let mut bytes = vec![0; there as usize];
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], at + length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    let is_end = |byte: &u8| *byte == b'\n';
    let within = &bytes[..length.min(PIECE_BYTES)];
    let last = within.iter().rposition(is_end).or_else(|| bytes.iter().position(is_end));
    let whole = match last {
        Some(last) => last + 1,
        // Too long to be a record, and so is its end.
        None if length == LINE_BYTES => length,
        None => 0,
    };
    Ok((bytes, whole))
}

/// Leaves out torn lines that killed writers have left.
fn new_lines(piece: &[u8], known: &HashSet<u64>, misses_some: &mut bool) -> Vec<u8> {
    let mut text = Vec::new();
    let lines = piece.split_inclusive(|byte| *byte == b'\n');
    for line in lines.filter(|line| line.starts_with(b"{") && line.ends_with(b"}\n")) {
        if std::mem::take(misses_some) {
            text.extend(gap(line).filter(|gap| !known.contains(&hash(gap))).unwrap_or_default());
        }
        if !known.contains(&hash(line)) {
            text.extend_from_slice(line);
        }
    }
    text
}

/// Also the last line, if only its end is missing: the next writer adds that.
fn add_lines(file: &File, mut at: u64, known: &mut HashSet<u64>) -> io::Result<()> {
    loop {
        let (bytes, whole) = read_lines(file, at)?;
        let piece = if whole > 0 { &bytes[..whole] } else { &bytes };
        known.extend(piece.split_inclusive(|byte| *byte == b'\n').map(hash));
        if whole == 0 {
            return Ok(());
        }
        at += whole as u64;
    }
}

fn hash(line: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.strip_suffix(b"\n").unwrap_or(line).hash(&mut hasher);
    hasher.finish()
}

/// The record that says that others are missing, with the time of the first one that is not: readers
/// ignore what is out of order.
#[derive(Serialize)]
struct Gap {
    v: u32,
    #[serde(flatten)]
    stamp: Stamp,
    verb: &'static str,
    id: &'static str,
    note: &'static str,
}

fn gap(next: &[u8]) -> Option<Vec<u8>> {
    let gap = Gap {
        v: VERSION,
        stamp: serde_json::from_slice(next).ok()?,
        verb: "gap",
        id: "",
        note: "records before this one may be missing: the disk did not take them before /run had no \
               more room for them",
    };
    let mut line = serde_json::to_vec(&gap).ok()?;
    line.push(b'\n');
    Some(line)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::Journal;
    use super::*;
    use config::Config;
    use state::state_dir::StateDir;

    /// A journal whose files have a dozen lines each.
    struct Node {
        directory: tempfile::TempDir,
        journal: Journal,
        history: History,
        written: u64,
    }

    impl Node {
        fn new() -> Node {
            // In a file system where, as in /run, a new file is never mistaken for an old one.
            let directory = tempfile::tempdir_in("/dev/shm").unwrap();
            let disk = Some(directory.path().join("history").into());
            let config = Config {
                history: config::History { directory: disk, ..Config::default().history },
                ..Config::default()
            };
            let state = StateDir::at(directory.path().to_owned());
            let history = History::of(&config, &state).unwrap();
            Node { journal: Journal::new(state.journal(), 1, None), history, written: 0, directory }
        }

        fn write(&mut self) {
            self.written += 1;
            let line = format!("{{\"v\":1,\"time\":\"t\",\"mono_ns\":{}}}\n", 1000 + self.written);
            let padded = line.replace("\"t\"", &format!("\"{}\"", "t".repeat(40)));
            file::append(&self.journal.path, padded.as_bytes(), &self.journal).unwrap();
        }

        fn note_path(&self) -> PathBuf {
            self.directory.path().join("note")
        }

        fn copy(&self) -> io::Result<Vec<Place>> {
            let mut options = File::options();
            let options = options.read(true).write(true).create(true).truncate(false);
            let (path, journal) = (self.note_path(), &self.journal.path);
            let note = options.open(&path)?;
            Copy { journal, history: &self.history, note: &note, note_path: &path }.all()
        }

        /// A copy that was killed after a part of the data was written, before any of it was noted.
        fn copy_killed(&self, share: f64) {
            let current = self.history.directory().join("history.jsonl");
            let length = |path: &Path| std::fs::metadata(path).map_or(0, |it| it.len());
            let (before, note) = (length(&current), std::fs::read(self.note_path()));
            self.copy().unwrap();
            std::fs::write(self.note_path(), note.unwrap_or_default()).unwrap();
            if let Ok(file) = File::options().write(true).open(&current) {
                let more = (length(&current) - before) as f64 * share;
                file.set_len(before + more as u64).unwrap();
            }
        }

        fn disk(&self) -> Vec<Value> {
            let files = history::files(self.history.directory()).into_iter();
            let text: String =
                files.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
            let records = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            records.filter(|record: &Value| record["foreign"].is_null()).collect()
        }

        /// The numbers of the records in the long journal; a missing one must be marked as a gap.
        fn numbers(&self) -> Vec<u64> {
            let (mut numbers, mut is_gap) = (Vec::new(), false);
            for record in self.disk() {
                if record["verb"] == "gap" {
                    is_gap = true;
                    continue;
                }
                let number = record["mono_ns"].as_u64().unwrap() - 1000;
                let last = numbers.last().copied().unwrap_or(0);
                assert!(number > last, "{last} and then {number}");
                assert!(number == last + 1 || is_gap, "{last} and then {number} without a word");
                numbers.push(number);
                is_gap = false;
            }
            numbers
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(u8),
        /// With `frostctl record`.
        WriteToDisk,
        Copy,
        CopyKilled(f64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..20u8).prop_map(Step::Write),
            1 => Just(Step::WriteToDisk),
            3 => Just(Step::Copy),
            3 => (0.0..1.0f64).prop_map(Step::CopyKilled),
        ]
    }

    proptest! {
        #[test]
        fn each_record_is_copied_once_whoever_is_killed_and_a_gap_is_said(
            steps in vec(step(), 1..30),
        ) {
            let mut node = Node::new();
            node.write();
            node.copy().unwrap();
            for step in steps {
                match step {
                    Step::Write(count) => (0..count).for_each(|_| node.write()),
                    Step::WriteToDisk => {
                        node.history.append(b"{\"foreign\":1}\n").unwrap();
                    }
                    Step::Copy => drop(node.copy().unwrap()),
                    Step::CopyKilled(share) => node.copy_killed(share),
                }
            }
            node.write();
            node.copy().unwrap();
            prop_assert_eq!(node.numbers().last().copied(), Some(node.written));
        }
    }

    #[test]
    fn in_normal_operation_nothing_is_missing() {
        let mut node = Node::new();
        for _ in 0..50 {
            (0..7).for_each(|_| node.write());
            node.copy().unwrap();
        }
        assert_eq!(node.numbers(), (1..=350).collect::<Vec<_>>());
        assert!(node.disk().iter().all(|record| record["verb"] != "gap"));
    }

    #[test]
    fn what_the_disk_did_not_take_in_time_is_a_gap() {
        let mut node = Node::new();
        node.write();
        node.copy().unwrap();
        (0..100).for_each(|_| node.write());
        node.copy().unwrap();
        let disk = node.disk();
        assert_eq!((&disk[0]["mono_ns"], &disk[1]["verb"]), (&1001.into(), &"gap".into()));
        assert_eq!(disk[1]["mono_ns"], disk[2]["mono_ns"]);
        assert_eq!(*node.numbers().last().unwrap(), 101);
    }

    #[test]
    fn a_lost_note_doubles_nothing() {
        let mut node = Node::new();
        (0..20).for_each(|_| node.write());
        node.copy().unwrap();
        node.write();
        std::fs::write(node.note_path(), "{\"sources\":[{\"to\"").unwrap();
        node.copy().unwrap();
        assert_eq!(node.numbers().last(), Some(&21));
    }

    #[test]
    fn who_writes_late_into_what_was_set_aside_is_copied() {
        let mut node = Node::new();
        node.write();
        let late = File::options().append(true).open(&node.journal.path).unwrap();
        while !super::file::older(&node.journal.path).exists() {
            node.write();
        }
        node.copy().unwrap();
        io::Write::write_all(&mut &late, b"{\"v\":1,\"mono_ns\":7,\"verb\":\"late\"}\n").unwrap();
        node.copy().unwrap();
        let is_late = |record: &&Value| record["verb"] == "late";
        assert_eq!(node.disk().iter().filter(is_late).count(), 1);
    }

    #[test]
    fn what_is_no_record_stays_behind_and_half_a_line_waits_for_its_end() {
        let node = Node::new();
        let garbage =
            [&b"x".repeat(3 * LINE_BYTES)[..], b"\n\n{\"half\":\n{\"v\":1}\n{\"v\":"].concat();
        std::fs::write(&node.journal.path, garbage).unwrap();
        let ends = node.copy().unwrap();
        assert_eq!(node.disk(), [serde_json::json!({"v": 1})]);
        assert_eq!(node.copy().unwrap(), ends, "it is not looked for again and again");
        let mut journal = File::options().append(true).open(&node.journal.path).unwrap();
        io::Write::write_all(&mut journal, b"2}\n").unwrap();
        node.copy().unwrap();
        assert_eq!(node.disk().last(), Some(&serde_json::json!({"v": 2})));
    }

    #[test]
    fn without_its_note_in_place_it_writes_nothing() {
        let mut node = Node::new();
        node.write();
        let note = File::create(node.note_path()).unwrap();
        std::fs::remove_file(node.note_path()).unwrap();
        let (journal, history) = (node.journal.path.as_path(), &node.history);
        let copy = Copy { journal, history, note: &note, note_path: &node.note_path() };
        assert!(copy.all().is_err());
        assert_eq!(node.disk(), Vec::<Value>::new());
    }
}
