//! What the journal says of the last day. Reads a bounded number of bytes from its end.

use std::io::ErrorKind;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use config::Config;
use journal::history::History;
use state::state_dir::StateDir;

use super::facts::{Day, Last, Records};
use crate::journal::{Journal, Reader, Record, unix_ms};

/// Takes a quarter of a second. If a node has more operations per day than that, the answer says
/// how far back it goes.
const MOST_BYTES: u64 = 128 << 20;

const DAY_MS: i64 = 24 * 3600 * 1000;

pub(super) fn read(config: &Config, state: &StateDir) -> anyhow::Result<Records> {
    // A directory that must not be listed looks like a missing one.
    let history = History::of(config, state);
    if let Some(Err(error)) = history.map(|it| std::fs::read_dir(it.directory()))
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error).context("the journal on disk");
    }
    let Some(journal) = Journal::of(config, state)? else { return Ok(Records::default()) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let mut lately = Lately { now_ms, ..Lately::default() };
    let mut reader = Reader::default();
    let is_whole = journal.newest(MOST_BYTES, &mut reader, &mut |it| lately.add(it))?;
    Ok(lately.finish(is_whole))
}

#[derive(Debug, Default)]
struct Lately {
    now_ms: i64,
    first_ms: Option<i64>,
    last: Option<(i64, Last)>,
    day: Day,
}

impl Lately {
    fn add(&mut self, record: &Record<'_>) {
        let Some(at) = unix_ms(&record.time) else { return };
        self.first_ms.get_or_insert(at);
        let is_of_the_day = (self.now_ms - DAY_MS..=self.now_ms).contains(&at);
        if is_of_the_day && (record.is_operation() || record.is_late_lift()) {
            self.day.add(record);
        }
        // Records of one boot are in order, whatever the clock said.
        if record.is_operation() {
            self.last = Some((at, last(record)));
        }
    }

    fn finish(self, is_whole: bool) -> Records {
        let now_ms = self.now_ms;
        let last = self.last.map(|(at, last)| Last {
            age_s: u64::try_from(now_ms - at).ok().map(|ms| ms / 1000),
            ..last
        });
        let reach = self.first_ms.map_or(0, |first| now_ms - first);
        let only_s =
            (!is_whole && reach < DAY_MS).then(|| u64::try_from(reach / 1000).unwrap_or(0));
        Records { last, day: Day { only_s, ..self.day } }
    }
}

fn last(record: &Record<'_>) -> Last {
    let pod = &record.pod;
    let container = match pod.name.is_empty() {
        true => record.id.to_string(),
        false => [&*pod.namespace, &*pod.name, &*pod.container].join("/"),
    };
    Last {
        verb: record.verb.to_string(),
        container: container.trim_end_matches('/').to_owned(),
        verdict: record.verdict.to_string(),
        time: record.time.to_string(),
        age_s: None,
    }
}

impl Day {
    fn add(&mut self, record: &Record<'_>) {
        self.lifted += u64::from(!record.lifts.is_empty() && !record.is_late_lift());
        self.lifted_ms += record.lifted_ms();
        if record.is_late_lift() {
            return;
        }
        self.operations += 1;
        self.failed += u64::from(!matches!(&*record.verdict, "ok" | "handed over"));
        self.repeated += u64::from(record.attempts > 1);
        self.without_lock += u64::from(matches!(&*record.lock, "timed out" | "unavailable"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lately(lines: &[&str], is_whole: bool) -> Records {
        let mut lately =
            Lately { now_ms: unix_ms("2026-11-21T12:00:00.000Z").unwrap(), ..Lately::default() };
        for line in lines {
            lately.add(&serde_json::from_str(line).unwrap());
        }
        lately.finish(is_whole)
    }

    #[test]
    fn a_day_is_counted_and_what_is_older_is_not() {
        let records = lately(
            &[
                r#"{"time":"2026-11-20T11:00:00.000Z","verb":"exec","verdict":"failed"}"#,
                r#"{"time":"2026-11-20T13:00:00.000Z","verb":"exec","verdict":"failed","attempts":3}"#,
                r#"{"time":"2026-11-21T11:00:00.000Z","verb":"exec","verdict":"ok","lock":"timed out",
                    "lifts":[{"cpu_ms":7.5}]}"#,
                r#"{"time":"2026-11-21T11:00:01.000Z","verb":"lift","of":"exec","lifts":[{"cpu_ms":1}]}"#,
                r#"{"time":"2026-11-21T11:59:00.000Z","verb":"state","verdict":"handed over","id":"c",
                    "pod":{"namespace":"n","name":"p","container":""}}"#,
                r#"{"time":"2026-11-21T11:59:30.000Z","verb":"exit","id":"c"}"#,
            ],
            true,
        );
        let day = Day {
            operations: 3,
            failed: 1,
            repeated: 1,
            lifted: 1,
            lifted_ms: 8.5,
            without_lock: 1,
            only_s: None,
        };
        assert_eq!(records.day, day);
        let last = records.last.unwrap();
        assert_eq!((&*last.verb, &*last.container, last.age_s), ("state", "n/p", Some(60)));
    }

    #[test]
    fn how_far_back_it_goes_is_said_where_it_is_no_day() {
        let line = r#"{"time":"2026-11-21T11:00:00.000Z","verb":"exec","verdict":"ok"}"#;
        assert_eq!(lately(&[line], false).day.only_s, Some(3600));
        assert_eq!(lately(&[line], true).day.only_s, None);
        let old = line.replace("-21T", "-19T");
        assert_eq!(lately(&[&old, line], false).day.only_s, None);
        assert_eq!(lately(&[], true), Records::default());
        let future = line.replace("-21T", "-22T");
        assert_eq!(lately(&[&future], true).last.unwrap().age_s, None);
    }
}
