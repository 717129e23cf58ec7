//! Streams records over several files, whatever state these are in. Lines that are not records of
//! this version, or are out of order, are counted and skipped.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};

use serde::Serialize;
use serde_json::error::Category;

use super::data::Data;
use super::record::Record;
use crate::output::count;
use crate::progress::Reading;

/// The newest version of records that is understood here.
const VERSION: u32 = 1;

const BLOCK_BYTES: usize = 1 << 20;

/// The same as in the writer's reader; a longer line is not ours.
const LINE_BYTES: usize = 64 * 1024;

/// Wrappers that end at the same time may write in another order than that of their clocks. A
/// record that is further back is out of order.
const DISORDER_NS: u64 = 60 * 1_000_000_000;

/// Lines that were not used, by reason, and gaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Skipped {
    /// A partial line, or one that is not JSON.
    pub(crate) torn: u64,
    /// JSON, but no record.
    pub(crate) foreign: u64,
    pub(crate) future_version: u64,
    pub(crate) out_of_order: u64,
    /// Places where the journal says that records may be missing.
    pub(crate) gaps: u64,
}

impl Skipped {
    /// How many lines were not used.
    pub(crate) fn total(&self) -> u64 {
        self.torn + self.foreign + self.future_version + self.out_of_order
    }

    /// How many, and why, for a person.
    pub(crate) fn say(self, out: &mut dyn io::Write) -> io::Result<()> {
        if self.gaps > 0 {
            writeln!(
                out,
                "records may be missing in {}: the disk did not take them in time",
                count(self.gaps, "place", "places")
            )?;
        }
        if self.total() == 0 {
            return Ok(());
        }
        writeln!(out, "{self}")
    }
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = if self.total() == 1 { "was" } else { "were" };
        write!(
            f,
            "{} {verb} not used: {} torn, {} foreign, {} of a later version, {} out of order",
            count(self.total(), "line", "lines"),
            self.torn,
            self.foreign,
            self.future_version,
            self.out_of_order
        )
    }
}

/// Why a line is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    Torn,
    Foreign,
    FutureVersion,
}

/// Passes every line, in bounded memory: a line that is longer than a block comes in pieces.
pub(crate) fn lines(mut input: impl Read, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK_BYTES];
    let mut filled = 0;
    loop {
        let got = input.read(&mut buffer[filled..])?;
        filled += got;
        let Some(end) = memchr::memrchr(b'\n', &buffer[..filled]) else {
            if got == 0 || filled == buffer.len() {
                each(&buffer[..filled]);
                filled = 0;
            }
            if got == 0 {
                return Ok(());
            }
            continue;
        };
        let mut from = 0;
        for at in memchr::memchr_iter(b'\n', &buffer[..=end]) {
            each(&buffer[from..at]);
            from = at + 1;
        }
        buffer.copy_within(from..filled, 0);
        filled -= from;
    }
}

/// `None` is an empty line, which the writer adds after a torn one.
pub(crate) fn parse(line: &[u8]) -> Result<Option<Record<'_>>, Unread> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    if line.len() > LINE_BYTES {
        return Err(Unread::Foreign);
    }
    // Once per line, rather than for each of its strings.
    let line = std::str::from_utf8(line).map_err(|_| Unread::Torn)?;
    match serde_json::from_str::<Record<'_>>(line) {
        Ok(record) if record.v > VERSION => Err(Unread::FutureVersion),
        Ok(record) if record.v == 0 || record.mono_ns == 0 => Err(Unread::Foreign),
        Ok(record) => Ok(Some(record)),
        // A later version may have other types for a key.
        Err(_) if version(line) > VERSION => Err(Unread::FutureVersion),
        Err(error) if error.classify() == Category::Data => Err(Unread::Foreign),
        Err(_) => Err(Unread::Torn),
    }
}

/// The reading's position in time.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) skipped: Skipped,
    /// The progress of a reading that a person waits for.
    reading: Option<Reading>,
    /// Records that were passed on.
    pub(crate) used: u64,
    boot: String,
    latest_ns: u64,
    earlier_boots: HashSet<String>,
    /// Records of this boot up to this time were already read: they are skipped without a count.
    known: Option<(String, u64)>,
}

impl Reader {
    /// A reader that shows its progress on a terminal, out of this many bytes.
    pub(crate) fn of(bytes: u64) -> Reader {
        Reader { reading: Some(Reading::of(bytes)), ..Reader::default() }
    }

    /// From here on, skips what was already read: the next file has some of the same records.
    pub(crate) fn only_later(&mut self) {
        self.known = Some((self.boot.clone(), self.latest_ns));
    }

    pub(crate) fn read(
        &mut self,
        file: &File,
        each: &mut impl FnMut(&Record<'_>),
    ) -> io::Result<()> {
        self.read_from(file, 0, each)
    }

    /// In the middle of a file, the first line is most likely torn.
    pub(crate) fn read_from(
        &mut self,
        file: &File,
        from: u64,
        each: &mut impl FnMut(&Record<'_>),
    ) -> io::Result<()> {
        lines(Data::of(file, from, file.metadata()?.len())?, |line| self.line(line, each))
    }

    pub(crate) fn line(&mut self, line: &[u8], each: &mut impl FnMut(&Record<'_>)) {
        if let Some(reading) = &mut self.reading {
            // Including the newline.
            reading.add(line.len() + 1);
        }
        match parse(line) {
            Ok(Some(record)) if self.is_in_order(&record) => match &*record.verb {
                "gap" => self.skipped.gaps += 1,
                _ => {
                    self.used += 1;
                    each(&record);
                }
            },
            Ok(_) => {}
            Err(Unread::Torn) => self.skipped.torn += 1,
            Err(Unread::Foreign) => self.skipped.foreign += 1,
            Err(Unread::FutureVersion) => self.skipped.future_version += 1,
        }
    }

    fn is_in_order(&mut self, record: &Record<'_>) -> bool {
        let known = self.known.as_ref().filter(|_| !is_told_apart(record));
        if known.is_some_and(|(boot, until)| {
            (*boot == *record.boot_id && record.mono_ns <= *until)
                || self.earlier_boots.contains(&*record.boot_id)
        }) {
            return false;
        }
        if *record.boot_id != *self.boot {
            if self.earlier_boots.contains(&*record.boot_id) {
                self.skipped.out_of_order += 1;
                return false;
            }
            let before = std::mem::replace(&mut self.boot, record.boot_id.to_string());
            self.earlier_boots.insert(before);
            self.latest_ns = 0;
        }
        if is_told_apart(record) {
            return true;
        }
        if record.mono_ns.saturating_add(DISORDER_NS) < self.latest_ns {
            self.skipped.out_of_order += 1;
            return false;
        }
        self.latest_ns = self.latest_ns.max(record.mono_ns);
        true
    }
}

/// An end's time is when it happened, possibly hours ago. Its writer also does not wait for the
/// wrappers' records, which a hanging disk may hold back. So its time says nothing about what was
/// read.
fn is_told_apart(record: &Record<'_>) -> bool {
    matches!(&*record.verb, "exit" | "oom")
}

fn version(line: &str) -> u32 {
    #[derive(serde::Deserialize)]
    struct Version {
        v: u32,
    }
    serde_json::from_str::<Version>(line).map_or(0, |record| record.v)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(boot: &str, mono_s: u64, id: &str) -> String {
        let mono_ns = mono_s * 1_000_000_000;
        format!(r#"{{"v":1,"boot_id":"{boot}","mono_ns":{mono_ns},"verb":"kill","id":"{id}"}}"#)
    }

    fn read(text: &str) -> (Vec<String>, Skipped) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let (mut reader, mut ids) = (Reader::default(), Vec::new());
        reader.read(&file, &mut |record| ids.push(record.id.to_string())).unwrap();
        (ids, reader.skipped)
    }

    #[test]
    fn what_is_no_record_is_counted_by_reason() {
        let good = line("a", 100, "x");
        let gap = line("a", 101, "").replace("kill", "gap");
        let text = format!(
            "{good}\n{}\n\n{gap}\n[1]\n{{\"v\":1}}\n{{\"other\":true}}\n{{\"v\":2,\"mono_ns\":\"later\"}}\n{}\n\u{0}\u{0}\n{}\n{}",
            &good[..30],
            good.replace("\"v\":1", "\"v\":7"),
            line("a", 99, "slightly late"),
            line("a", 101, "no newline yet"),
        );
        let (ids, skipped) = read(&text);
        assert_eq!(ids, ["x", "slightly late", "no newline yet"]);
        let expected = Skipped { torn: 2, foreign: 3, future_version: 2, out_of_order: 0, gaps: 1 };
        assert_eq!(skipped, expected);
    }

    #[test]
    fn a_reading_counts_every_byte_be_it_of_a_record_or_not() {
        let text = format!("{}\ntorn\n\n{}", line("a", 100, "x"), "x".repeat(3 << 20));
        let mut reader = Reader::of(text.len() as u64);
        lines(text.as_bytes(), |line| reader.line(line, &mut |_| {})).unwrap();
        let said = reader.reading.map(|it| it.to_string());
        assert_eq!(said.as_deref(), Some("read 3 of 4 MiB, 100 %"));
        let half = Reader::of(1 << 20).reading.map(|mut it| {
            it.add(1 << 19);
            it.to_string()
        });
        assert_eq!(half.as_deref(), Some("read 0 of 1 MiB, 50 %"));
    }

    #[test]
    fn another_boot_begins_anew_and_an_earlier_one_does_not_come_back() {
        let lines = [
            line("a", 1000, "1"),
            line("a", 10, "far back"),
            line("b", 5, "2"),
            line("a", 2000, "back in a"),
        ];
        let (ids, skipped) = read(&lines.join("\n"));
        assert_eq!(ids, ["1", "2"]);
        assert_eq!(skipped.out_of_order, 2);
    }

    #[test]
    fn an_exit_that_is_told_hours_later_is_read() {
        let late = line("a", 10, "late").replace("kill", "exit");
        let lines = [line("a", 8000, "1"), late, line("a", 10, "far back"), line("a", 8001, "2")];
        let (ids, skipped) = read(&lines.join("\n"));
        assert_eq!(ids, ["1", "late", "2"]);
        assert_eq!(skipped.out_of_order, 1);
    }

    #[test]
    fn records_that_come_after_a_later_exit_are_read_from_either_journal() {
        let exit = line("a", 9000, "exit").replace("kill", "exit");
        let mut long = tempfile::tempfile().unwrap();
        let lines = [line("a", 100, "1"), exit, line("a", 101, "2")];
        long.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
        let mut short = tempfile::tempfile().unwrap();
        short.write_all([line("a", 101, "2"), line("a", 102, "3")].join("\n").as_bytes()).unwrap();
        let (mut reader, mut ids) = (Reader::default(), Vec::new());
        for file in [long, short] {
            reader.read(&file, &mut |record| ids.push(record.id.to_string())).unwrap();
            reader.only_later();
        }
        assert_eq!(ids, ["1", "exit", "2", "3"]);
        assert_eq!(reader.skipped.total(), 0);
    }

    #[test]
    fn lines_of_any_length_across_blocks() {
        let long = "x".repeat(3 * BLOCK_BYTES);
        let many: String = (0..20_000).map(|n| line("a", 100 + n, &n.to_string()) + "\n").collect();
        let (ids, skipped) = read(&format!("{many}{long}\n{}\n", line("a", 30_000, "last")));
        assert_eq!(ids.len(), 20_001);
        assert!(skipped.torn + skipped.foreign >= 1);
    }
}
