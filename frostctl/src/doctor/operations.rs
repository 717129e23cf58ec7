//! What the journal says of the last operations, for the age of a freeze and for refused lifts.
//! Only the journal's end is read: it can have any size.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cgroup::process;
use journal::reader::{self, Records};
use journal::record::{Exit, Record};
use state::state_dir::StateDir;

use crate::journal::older;

/// Per file; some ten thousand records.
const MOST_READ: u64 = 8 << 20;

/// Older refusals are not reported.
pub(crate) const RECENTLY: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub(crate) struct Operations {
    /// For each cgroup, the last operation of ours that says something about its freezer.
    pub(crate) freezes: HashMap<PathBuf, Last>,
    /// Lifts that were not made, or ended early, by the reason as the journal writes it.
    pub(crate) refusals: BTreeMap<String, Refusals>,
    /// Why the journal, or a part of it, could not be read.
    pub(crate) complaint: Option<String>,
}

/// The last operation that says something about a freezer, and its end in ns since boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) at: u64,
    pub(crate) verb: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    pub(crate) count: usize,
    /// The pod or container of the last one.
    pub(crate) whose: String,
}

impl Operations {
    pub(crate) fn read(state: &StateDir) -> Operations {
        let mut operations = Operations::default();
        let (boot, now) = (process::boot_id(), process::since_boot_ns());
        let newer = state.journal();
        for path in [older(&newer), newer] {
            match end_of(&path) {
                Ok(None) => {}
                Ok(Some(file)) => {
                    let records = Records::of(BufReader::new(file)).flatten();
                    let of_now = records.filter(|it| it.boot_id == boot);
                    of_now.for_each(|record| operations.add(&record, now));
                }
                Err(error) => {
                    operations.complaint = Some(format!("{}: {error}", path.display()));
                }
            }
        }
        operations
    }

    fn add(&mut self, record: &Record, now: u64) {
        if let (Some(cgroup), Some(last)) = (&record.cgroup, of_freezer(record)) {
            self.freezes.insert(PathBuf::from(cgroup), last);
        }
        let age = Duration::from_nanos(now.saturating_sub(record.mono_ns.unwrap_or(0)));
        if age <= RECENTLY {
            for reason in reasons(record) {
                let refusals = self.refusals.entry(reason).or_default();
                refusals.count += 1;
                refusals.whose = whose(record);
            }
        }
    }
}

/// The last part of a file; `None` if there is no file.
fn end_of(path: &Path) -> std::io::Result<Option<std::io::Take<File>>> {
    let Some(mut file) = reader::open(path)? else { return Ok(None) };
    // A partial line at the beginning is skipped, like any other torn record.
    file.seek(SeekFrom::Start(file.metadata()?.len().saturating_sub(MOST_READ)))?;
    Ok(Some(file.take(MOST_READ)))
}

/// A freeze begins with a successful pause. The other verbs here cannot succeed in a frozen cgroup,
/// so a freeze is younger than they are. An update or a kill can succeed, and says nothing.
fn of_freezer(record: &Record) -> Option<Last> {
    let verb = record.verb.as_deref()?;
    let says = matches!(verb, "pause" | "resume" | "create" | "start" | "run" | "restore" | "exec");
    if !says || record.exit != Some(Exit::Code(0)) {
        return None;
    }
    let ms = record.lock_wait_ms.unwrap_or(0.0) + record.run_ms.unwrap_or(0.0);
    let took = Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default();
    let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    Some(Last { at: record.mono_ns?.saturating_add(took), verb: verb.to_owned() })
}

fn reasons(record: &Record) -> Vec<String> {
    let refused = record.lift_refused.iter().map(|why| format!("lift_refused: {why}"));
    let ends = record.lifts.iter().filter_map(|lift| lift.ended.as_deref());
    let limits = ends.filter(|it| ["pod limit", "node limit"].contains(it));
    refused.chain(limits.map(|it| format!("ended: {it}"))).collect()
}

fn whose(record: &Record) -> String {
    let pod = record.pod.as_ref().and_then(|it| Some((it.namespace.as_ref()?, it.name.as_ref()?)));
    match pod {
        Some((namespace, name)) => format!("{namespace}/{name}"),
        None => record.id.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn record(text: &str) -> Record {
        let text = text.replacen('{', r#"{"v":1,"cgroup":"/a","id":"c","mono_ns":5000000000,"#, 1);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn only_what_cannot_succeed_in_a_frozen_cgroup_says_when_it_was_thawed() {
        for (text, expected) in [
            (r#"{"verb":"pause","run_ms":1000,"exit":{"code":0}}"#, Some((6_000_000_000, "pause"))),
            (
                r#"{"verb":"exec","lock_wait_ms":500,"exit":{"code":0}}"#,
                Some((5_500_000_000, "exec")),
            ),
            (r#"{"verb":"resume","exit":{"code":0}}"#, Some((5_000_000_000, "resume"))),
            // A paused container answers like this.
            (r#"{"verb":"exec","exit":{"code":255}}"#, None),
            (r#"{"verb":"pause","exit":{"code":1}}"#, None),
            (r#"{"verb":"pause","exit":{"signal":9}}"#, None),
            (r#"{"verb":"update","exit":{"code":0}}"#, None),
            (r#"{"verb":"kill","exit":{"code":0}}"#, None),
            (r#"{"verb":"lift"}"#, None),
        ] {
            let last = of_freezer(&record(text)).map(|it| (it.at, it.verb));
            assert_eq!(last, expected.map(|(at, verb)| (at, verb.to_owned())), "{text}");
        }
    }

    #[test]
    fn refusals_of_the_last_hour_are_counted_by_their_reason() {
        let mut operations = Operations::default();
        let now = 5_000_000_000 + 60_000_000_000;
        let pod = r#""pod":{"namespace":"n","name":"web","sandbox":false}"#;
        for text in [
            r#"{"verb":"exec","lift_refused":"RT_GROUP_SCHED"}"#.to_owned(),
            r#"{"verb":"exec","lift_refused":"no note: ENOSPC"}"#.to_owned(),
            format!(
                r#"{{"verb":"lift","lifts":[{{"whose":"program","ended":"pod limit"}}],{pod}}}"#
            ),
            r#"{"verb":"exec","lifts":[{"ended":"done"},{"ended":"thread limit"}]}"#.to_owned(),
        ] {
            operations.add(&record(&text), now);
        }
        let of = |count, whose: &str| Refusals { count, whose: whose.to_owned() };
        let expected = BTreeMap::from([
            ("lift_refused: RT_GROUP_SCHED".to_owned(), of(1, "c")),
            ("ended: pod limit".to_owned(), of(1, "n/web")),
            ("lift_refused: no note: ENOSPC".to_owned(), of(1, "c")),
        ]);
        assert_eq!(operations.refusals, expected);
        let mut later = Operations::default();
        later.add(
            &record(r#"{"verb":"exec","lift_refused":"RT_GROUP_SCHED"}"#),
            now + 3_600_000_000_000,
        );
        assert!(later.refusals.is_empty());
    }

    #[test]
    fn a_journal_of_a_terabyte_is_read_at_its_end_and_a_directory_is_a_complaint() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path().to_owned());
        let file = File::create(state.journal()).unwrap();
        file.set_len(1 << 40).unwrap();
        let boot = process::boot_id().unwrap();
        let line = format!(
            "\n{{\"v\":1,\"boot_id\":{boot:?},\"verb\":\"exec\",\"mono_ns\":1,\"cgroup\":\"/a\",\"exit\":{{\"code\":0}}}}\n"
        );
        let mut end = OpenOptions::new().append(true).open(state.journal()).unwrap();
        std::io::Write::write_all(&mut end, line.as_bytes()).unwrap();
        let read = Operations::read(&state);
        assert_eq!((read.freezes.len(), read.complaint), (1, None));
        std::fs::remove_file(state.journal()).unwrap();
        std::fs::create_dir(state.journal()).unwrap();
        assert!(Operations::read(&state).complaint.unwrap().ends_with(": not a regular file"));
    }
}
