//! `frostctl history`: the life of a container, or of a pod's containers, as a timeline.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use crate::exit::Exit;
use crate::journal::{Journal, Reader, Record, Skipped, Source, unix_ms};
use crate::lives::{Life, Lives, Names, Wanted};
use crate::output::{self, Output, fitted, plain, seconds, table, time};
use crate::report::CLOCK_SET_MS;
use crate::timeline::{Event, Story};

/// How often a followed journal is checked.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(crate) struct History {
    /// A container's id or a unique beginning of it, or a pod, with or without
    /// `NAMESPACE/`
    /// [default: a line for every container]
    #[arg(value_name = "ID|POD")]
    what: Option<String>,

    /// Keep printing what happens from now on
    #[arg(long, short)]
    follow: bool,

    #[command(flatten)]
    source: Source,
}

/// One line of the overview.
#[derive(Debug, Serialize)]
struct Summary {
    id: String,
    #[serde(flatten)]
    names: Names,
    boot_id: String,
    /// The time of its first record; 0 while the clock was not set.
    first_ms: i64,
    lasted_s: f64,
    ready_after_s: Option<f64>,
    readiness_known: bool,
    execs: u64,
    end: &'static str,
}

#[derive(Debug, Serialize)]
struct Answer<T> {
    lives: Vec<T>,
    skipped: Skipped,
}

impl History {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let journal = self.source.open()?;
        let seen = journal.growing_len();
        let mut lives = Lives::default();
        let mut reader = Reader::default();
        journal.pass(&mut reader, &mut |record| {
            add(&mut lives, record);
        })?;
        // With --follow, an empty journal may still get records.
        if !self.follow || reader.skipped.total() > 0 {
            journal.ensure_records(&reader)?;
        }
        let skipped = reader.skipped;
        let wanted = self.what.as_ref().map(|what| lives.find_named(what)).transpose()?;
        match &wanted {
            None if !self.follow => overview(output, &lives, skipped)?,
            None => {}
            Some(wanted) => {
                let stories = tell(&journal, &lives, wanted)?;
                anyhow::ensure!(
                    self.follow || !stories.is_empty(),
                    "the journal has nothing of {}; `frostctl history` lists what it has",
                    plain(wanted.as_str())
                );
                show(output, &Answer { lives: stories, skipped }, self.follow)?;
            }
        }
        if self.follow {
            // Records that only the short journal had come again, in the long one.
            reader.only_later();
            follow(output, &journal.growing, seen, lives, reader, wanted.as_ref())?;
        }
        Ok(Exit::Clean)
    }
}

/// Prints one event per line, as JSON one object per line, until standard output has no reader.
fn follow(
    output: &Output,
    path: &Path,
    seen: u64,
    mut lives: Lives,
    mut reader: Reader,
    wanted: Option<&Wanted>,
) -> anyhow::Result<()> {
    let mut stories: BTreeMap<usize, Story> = BTreeMap::new();
    let mut tail = Tail::open(path, seen)?;
    loop {
        let mut events = Vec::new();
        for line in tail.lines(path)? {
            reader.line(&line, &mut |record| {
                let Some(index) = add(&mut lives, record) else { return };
                let Some(life) = lives.all.get(index) else { return };
                if wanted.is_some_and(|wanted| !wanted.is(life)) {
                    return;
                }
                let story = stories.entry(index).or_insert_with(|| Story::begin(life));
                if let Some(event) = story.add(record) {
                    events.push((label(life), event.clone()));
                }
            });
        }
        events.iter().try_for_each(|(label, event)| say(output, label, event))?;
        if output::has_no_reader_after(FOLLOW_EVERY)? {
            return Ok(());
        }
    }
}

fn add(lives: &mut Lives, record: &Record<'_>) -> Option<usize> {
    lives.add(record, unix_ms(&record.time).unwrap_or(0))
}

/// Reads the journal a second time, for the records that were asked for: the records of all
/// containers would not fit into bounded memory.
fn tell(journal: &Journal, lives: &Lives, wanted: &Wanted) -> anyhow::Result<Vec<Story>> {
    let mut again = Lives::default();
    let mut stories: BTreeMap<usize, Story> = BTreeMap::new();
    journal.pass(&mut Reader::default(), &mut |record| {
        let Some(index) = add(&mut again, record) else { return };
        let Some(life) = lives.all.get(index).filter(|life| wanted.is(life)) else { return };
        stories.entry(index).or_insert_with(|| Story::begin(life)).add(record);
    })?;
    for (index, story) in &mut stories {
        if let Some(life) = again.all.get(*index) {
            story.finish(life);
        }
    }
    Ok(stories.into_values().collect())
}

/// In UTC.
fn start(first_ms: i64) -> String {
    if first_ms == 0 { "clock not set".into() } else { time(first_ms) }
}

/// As much of an id as a person copies.
const SHORT: usize = 12;

/// Unique prefixes of ids, so that a person can ask for each.
struct Short<'a>(BTreeMap<&'a str, usize>);

impl<'a> Short<'a> {
    fn of(ids: impl Iterator<Item = &'a str>) -> Short<'a> {
        let mut lengths: BTreeMap<&str, usize> = ids.map(|id| (id, SHORT)).collect();
        let mut before: Option<(&str, &mut usize)> = None;
        for (id, length) in &mut lengths {
            if let Some((earlier, earlier_length)) = before {
                let same = id.chars().zip(earlier.chars()).take_while(|(a, b)| a == b).count();
                *earlier_length = (*earlier_length).max(same + 1);
                *length = same.max(SHORT - 1) + 1;
            }
            before = Some((id, length));
        }
        Short(lengths)
    }

    fn id(&self, id: &str) -> String {
        id.chars().take(self.0.get(id).copied().unwrap_or(SHORT)).collect()
    }
}

fn label(life: &Life) -> String {
    let short: String = life.id.chars().take(SHORT).collect();
    match life.names.pod().as_str() {
        "" => short,
        pod => format!("{pod} {} {short}", life.names.container),
    }
}

fn overview(output: &Output, lives: &Lives, skipped: Skipped) -> anyhow::Result<()> {
    let lives = lives.all.iter().map(|life| Summary {
        id: life.id.clone(),
        names: life.names.clone(),
        boot_id: life.boot.clone(),
        first_ms: if life.first_ms < CLOCK_SET_MS { 0 } else { life.first_ms },
        lasted_s: life.last_ns.saturating_sub(life.first_ns) as f64 / 1e9,
        ready_after_s: life.ready_after_ns().map(|ns| ns as f64 / 1e9),
        readiness_known: life.knows_execs,
        execs: life.execs,
        end: life.end().as_str(),
    });
    let answer = Answer { lives: lives.collect(), skipped };
    output.print(&answer, |out| {
        let mut table =
            table(["CONTAINER", "START", "POD", "NAME", "LASTED", "READY AFTER", "EXECS", "END"]);
        let short = Short::of(answer.lives.iter().map(|life| life.id.as_str()));
        for life in &answer.lives {
            table.add_row([
                plain(&short.id(&life.id)),
                start(life.first_ms),
                plain(&life.names.pod()),
                plain(&life.names.container),
                seconds(life.lasted_s),
                ready(life.ready_after_s, life.readiness_known),
                life.execs.to_string(),
                life.end.to_owned(),
            ]);
        }
        writeln!(out, "{}", fitted(&mut table))?;
        answer.skipped.say(out)
    })
}

fn show(output: &Output, answer: &Answer<Story>, follow: bool) -> anyhow::Result<()> {
    if follow && output.is_json() {
        let events = answer
            .lives
            .iter()
            .flat_map(|story| story.events.iter().map(|event| (story.id.as_str(), event)));
        return events.into_iter().try_for_each(|(id, event)| say(output, id, event));
    }
    output.print(answer, |out| {
        for story in &answer.lives {
            tell_one(out, story)?;
        }
        answer.skipped.say(out)
    })
}

fn tell_one(out: &mut dyn Write, story: &Story) -> std::io::Result<()> {
    let heading = format!("{}  {} {}", story.id, story.names.pod(), story.names.container);
    writeln!(out, "{}", plain(&heading))?;
    let mut table = table(["TIME", "AGE", "AFTER", "WHAT", "TOOK", "DETAIL"]);
    for event in &story.events {
        table.add_row([
            plain(&event.time),
            seconds(event.age_s),
            format!("+{}", seconds(event.after_s)),
            plain(&event.what),
            event.took(),
            plain(&event.detail),
        ]);
    }
    writeln!(out, "{}", fitted(&mut table))?;
    let end = if story.end.is_empty() { "it has not ended" } else { story.end };
    writeln!(
        out,
        "end: {end}; ready after: {}\n",
        ready(story.ready_after_s, story.readiness_known)
    )
}

fn say(output: &Output, label: &str, event: &Event) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        container: &'a str,
        #[serde(flatten)]
        event: &'a Event,
    }
    let line = if output.is_json() {
        serde_json::to_string(&Line { container: label, event })?
    } else {
        let (took, Event { time, what, detail, .. }) = (event.took(), event);
        plain(&format!("{time}  {label}  {what}  {took}  {detail}"))
    };
    output::print(|to| writeln!(to, "{line}"))
}

fn ready(after_s: Option<f64>, is_known: bool) -> String {
    match (after_s, is_known) {
        (Some(after), _) => seconds(after),
        (None, true) => "never".into(),
        (None, false) => "not known".into(),
    }
}

/// The end of a growing file, and of the file that replaces it.
struct Tail {
    /// `None` while the file does not exist.
    file: Option<File>,
    part: Vec<u8>,
}

impl Tail {
    fn open(path: &Path, from: u64) -> anyhow::Result<Tail> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            opened => Some(opened.with_context(|| format!("cannot read {}", path.display()))?),
        };
        file.as_mut().map(|file| file.seek(SeekFrom::Start(from))).transpose()?;
        Ok(Tail { file, part: Vec::new() })
    }

    fn lines(&mut self, path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
        // Opened first, so that the old file is read to its end before the change.
        let next = File::open(path).ok().filter(|next| {
            let inode = |file: &File| file.metadata().ok().map(|it| (it.dev(), it.ino()));
            inode(next) != self.file.as_ref().and_then(inode)
        });
        let mut lines = Vec::new();
        self.read(&mut lines)?;
        if let Some(next) = next {
            self.file = Some(next);
            self.read(&mut lines)?;
        }
        Ok(lines)
    }

    fn read(&mut self, lines: &mut Vec<Vec<u8>>) -> anyhow::Result<()> {
        let mut more = Vec::new();
        self.file.as_mut().map(|file| file.read_to_end(&mut more)).transpose()?;
        self.part.extend(more);
        while let Some(end) = memchr::memchr(b'\n', &self.part) {
            let rest = self.part.split_off(end + 1);
            lines.push(std::mem::replace(&mut self.part, rest));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_shown_as_far_as_they_differ() {
        let ids = ["web-frontend-1", "web-frontend-2", "web-frontend", "db", "0123456789abcdef"];
        let short = Short::of(ids.into_iter());
        let shown = ids.map(|id| short.id(id));
        assert_eq!(
            shown,
            ["web-frontend-1", "web-frontend-2", "web-frontend", "db", "0123456789ab"]
        );
    }

    #[test]
    fn a_terminal_obeys_no_journal() {
        let mut lives = Lives::default();
        let line =
            r#"{"v":1,"mono_ns":5,"verb":"create","id":"c\u001b[2J","note":"n\u001b]0;x\u0007"}"#;
        let record: Record<'_> = serde_json::from_str(line).unwrap();
        add(&mut lives, &record);
        let mut story = Story::begin(&lives.all[0]);
        story.add(&record);
        story.finish(&lives.all[0]);
        let mut out = Vec::new();
        tell_one(&mut out, &story).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("2J") && text.contains("]0;x"), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
}
