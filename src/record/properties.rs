//! What the writer writes is read back, and nothing else disturbs the reader.

use std::ffi::OsString;
use std::io::BufReader;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::hook;
use crate::invocation::Verb;
use crate::lift::{Ended, Report, Summary, Whose};
use crate::outcome::{
    self, Attempt, LastFigures, LockUse, Outcome, Quotas, Stages, Throttling, Verdict,
};
use crate::retry::Reason;
use crate::verdict::Failure;
use cgroup::bundle::PodNames;
use cgroup::process::Process;
use cgroup::{CpuQuota, Identity, Throttled};
use journal::Journal;
use journal::reader::{Records, Skipped, history};
use journal::record::{Exit, Record};
use state::lock::{Holder, Mode};

const LINE: &str = r#"{"v":1,"id":"a","tries":[{"ms":1.5}],"exit":{"signal":9},"pod":{"uid":"u"}}"#;

fn name() -> impl Strategy<Value = OsString> {
    vec(any::<u8>(), 0..2000).prop_map(OsString::from_vec)
}

fn lock_use() -> impl Strategy<Value = LockUse> {
    let holder = ("[a-z]{1,9}", any::<String>(), any::<(i32, u64, u64)>());
    let holder = holder.prop_map(|(verb, id, (pid, start, since))| Holder {
        process: Process { pid, start },
        verb,
        id,
        since,
    });
    prop_oneof![
        Just(LockUse::None),
        Just(LockUse::Held(Mode::Exclusive)),
        holder.clone().prop_map(LockUse::Nested),
        vec(holder, 0..3).prop_map(LockUse::TimedOut),
    ]
}

fn exit() -> impl Strategy<Value = outcome::Exit> {
    prop_oneof![
        any::<i32>().prop_map(outcome::Exit::Code),
        any::<i32>().prop_map(outcome::Exit::Signal),
        Just(outcome::Exit::NotStarted),
    ]
}

fn attempts() -> impl Strategy<Value = Vec<Attempt>> {
    let failure = option::of(Just(Failure::Paused));
    vec((any::<u32>(), failure, option::of(any::<u32>())), 0..4).prop_map(|attempts| {
        let ms = |ms: u32| Duration::from_micros(ms.into());
        let attempts = attempts.into_iter();
        attempts
            .map(|(took, failure, delay)| Attempt { took: ms(took), failure, delay: delay.map(ms) })
            .collect()
    })
}

prop_compose! {
    fn lift()(threads in any::<u32>(), cpu in any::<u32>(), took in any::<u32>()) -> Report {
        Report {
            whose: Whose::Program,
            threads,
            cpu: Duration::from_micros(cpu.into()),
            took: Duration::from_micros(took.into()),
            ended: Ended::PodLimit,
        }
    }
}

prop_compose! {
    fn throttling()(ms in any::<[u32; 3]>(), counts in any::<(u64, u64)>()) -> Throttling {
        let [throttled, cpu, explained] = ms.map(|us| Duration::from_micros(us.into()));
        let (nr_periods, nr_throttled) = counts;
        Throttling { throttled, nr_periods, nr_throttled, cpu, explained }
    }
}

fn hook() -> impl Strategy<Value = hook::report::Report> {
    let found =
        prop_oneof![Just(hook::report::Found::Thawed), Just(hook::report::Found::StillFrozen)];
    (any::<String>(), found, any::<u32>(), option::of(any::<String>())).prop_map(
        |(stage, found, waited, frozen)| hook::report::Report {
            stage,
            found,
            waited: Duration::from_micros(waited.into()),
            frozen,
        },
    )
}

prop_compose! {
    pub(crate) fn outcome()(
        verb in option::of(prop::sample::select(Verb::ALL.to_vec())),
        id in name(),
        cgroup in option::of(name()),
        texts in any::<[Option<String>; 4]>(),
        signal in option::of(name()),
        lock in lock_use(),
        times in any::<(u32, Option<u32>)>(),
        attempts in attempts(),
        gave_up in option::of(Just(Reason::OutOfTime)),
        exit in option::of(exit()),
        quota in option::of(any::<(Option<i64>, u64)>()),
        throttled in option::of(any::<(u64, u64)>()),
        init in option::of(any::<(i32, u64)>()),
        notes in vec(any::<String>(), 0..3),
        lifts in vec(lift(), 0..3), refused in option::of(".*"), recovered in vec(".*", 0..3),
        hook in option::of(hook()),
        throttling in option::of(throttling()),
    ) -> Outcome {
        let [requested_by, namespace, pod, uid] = texts;
        let ms = |ms: u32| Duration::from_micros(ms.into());
        let quota = quota.map(|(quota_us, period_us)| CpuQuota { quota_us, period_us });
        Outcome {
            verb,
            id,
            cgroup: cgroup.and_then(Identity::new),
            runtime: "/usr/sbin/runc".into(),
            requested_by,
            signal,
            lock,
            stages: Stages { run: ms(times.0), started: times.1.map(ms), ..Stages::default() },
            attempts,
            gave_up,
            exit,
            verdict: exit.map_or(Verdict::HandedOver, Verdict::of),
            quotas: Quotas { container: quota, pod: None },
            figures: throttled.map(|(nr_throttled, throttled_us)| LastFigures {
                throttled: Some(Throttled { nr_periods: 0, nr_throttled, throttled_us }),
                oom_kill: Some(nr_throttled),
            }),
            throttling,
            recovered,
            lifts: Summary { lifts, refused },
            lift_of: None,
            init: init.map(|(pid, start)| Process { pid, start }),
            pod: PodNames { namespace, name: pod, uid, ..PodNames::default() },
            hook,
            notes,
        }
    }
}

fn read(journal: &[u8]) -> Vec<Option<Record>> {
    Records::of(journal).map(Result::ok).collect()
}

proptest! {
    #[test]
    fn every_key_that_is_written_is_read(outcomes in vec(outcome(), 1..4)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.jsonl");
        let journal = Journal::new(path.clone(), 1024, None);
        outcomes.iter().for_each(|outcome| super::append(&journal, outcome));
        let records: Vec<_> = history(&path).map(Result::unwrap).collect();
        let text = std::fs::read_to_string(&path).unwrap();
        prop_assert_eq!(records.len(), outcomes.len());
        for ((line, record), outcome) in text.lines().zip(records).zip(&outcomes) {
            prop_assert!(line.len() <= 64 * 1024);
            prop_assert_eq!(record.verb.as_deref(), outcome.command());
            prop_assert_eq!(record.verdict.as_deref(), Some(outcome.verdict.as_str()));
            prop_assert_eq!(record.attempts, Some(outcome.attempts.len() as u64));
            let written: serde_json::Value = serde_json::from_str(line).unwrap();
            prop_assert_eq!(serde_json::to_value(&record).unwrap(), written);
        }
    }

    #[test]
    fn garbage_costs_only_its_own_lines(
        garbage in vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(), size in 1usize..50,
    ) {
        let torn = &LINE.as_bytes()[..at.index(LINE.len())];
        let journal =
            [LINE.as_bytes(), b"\n", &garbage, b"\n", torn, b"\n", LINE.as_bytes()].concat();
        let records = read(&journal);
        let whole = read(LINE.as_bytes());
        prop_assert_eq!(records.first(), whole.first());
        prop_assert_eq!(records.last(), whole.first());
        let pieces = Records::of(BufReader::with_capacity(size, &journal[..]));
        prop_assert_eq!(pieces.map(Result::ok).collect::<Vec<_>>(), records);
    }
}

#[test]
fn half_a_line_then_a_line() {
    let journal = format!("{}\n{LINE}\n", &LINE[..20]);
    let mut records = Records::of(journal.as_bytes());
    assert!(matches!(records.next(), Some(Err(Skipped::NotARecord(_)))));
    let record = records.next().unwrap().unwrap();
    assert_eq!((record.id.as_deref(), record.exit), (Some("a"), Some(Exit::Signal(9))));
    assert!(records.next().is_none());
}

#[test]
fn a_line_without_end_is_not_held() {
    let endless = std::io::Read::take(std::io::repeat(b'x'), 8 << 20);
    let journal = std::io::Read::chain(endless, b"\n{\"v\":1}\n".as_slice());
    let records: Vec<_> = Records::of(BufReader::new(journal)).collect();
    assert!(matches!(records[..], [Err(Skipped::TooLong), Ok(_)]), "{records:?}");
}

#[test]
fn the_older_file_comes_first_and_neither_need_be_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.jsonl");
    let ids = || history(&path).map(|record| record.unwrap().id).collect::<Vec<_>>();
    assert_eq!(ids(), []);
    std::fs::write(directory.path().join("journal.jsonl.1"), "{\"v\":1,\"id\":\"old\"}").unwrap();
    assert_eq!(ids(), [Some("old".to_owned())]);
    std::fs::write(&path, "{\"v\":1,\"id\":\"new\"}\n").unwrap();
    assert_eq!(ids(), [Some("old".to_owned()), Some("new".to_owned())]);
}

#[test]
fn what_is_not_a_file_is_an_error_and_does_not_block() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("journal.jsonl");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [&fifo, directory.path(), Path::new("/dev/zero")] {
        let records: Vec<_> = history(path).collect();
        assert!(matches!(records[..], [Err(Skipped::Unreadable(_))]), "{records:?}");
    }
}
