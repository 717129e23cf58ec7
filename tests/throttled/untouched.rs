//! A container that no quota holds back never sees a write to its bandwidth files.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::scene::{Container, Quota, Via, refills};
use crate::support::cpu::Version;
use crate::support::{Scratch, proof, runtime};
use crate::table::Table;
use crate::{RUNTIMES, alone};

const LIMIT: Duration = Duration::from_secs(15);
const ROUNDS: usize = 4;

type Commands = [&'static [&'static str]];

const EVERY_VERB: &Commands = &[
    &["exec", "c", "/bin/true"],
    &["pause", "c"],
    &["resume", "c"],
    &["kill", "c", "WINCH"],
    &["update", "--pids-limit", "77", "c"],
    &["state", "c"],
];

/// runc itself writes quota and period in an update of a container that has them.
const FREEZES: &Commands = &[&["pause", "c"], &["resume", "c"]];

/// Writes seen to each of the files.
struct Watch(Inotify);

impl Watch {
    fn new(container: &Container<'_>) -> Watch {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        for file in Version::here().bandwidth_files() {
            inotify.add_watch(&container.file("cpu", file), AddWatchFlags::IN_MODIFY).unwrap();
        }
        Watch(inotify)
    }

    /// Since the last call, and at least so many: equal ones that follow each other are one event.
    fn writes(&self) -> usize {
        let mut writes = 0;
        loop {
            match self.0.read_events() {
                Ok(events) => writes += events.len(),
                Err(Errno::EAGAIN) => return writes,
                Err(error) => panic!("inotify: {error}"),
            }
        }
    }
}

#[test]
fn only_a_throttled_container_sees_writes() {
    let _alone = alone();
    let head =
        format!("{:<34} {:<8} {:>10} {:>7} {:>12}", "", "", "operations", "writes", "with refills");
    let mut table = Table::with_head("writes to the bandwidth files", head);
    for name in RUNTIMES.into_iter().filter(|name| proof() || *name != "runc-1.1.15") {
        let runtime = runtime(name);
        let scenes = [
            (None, EVERY_VERB, false),
            // As much as refill_below leaves alone.
            (Some(Quota::new(50, 100)), FREEZES, false),
            (Some(Quota::new(1, 100).here()), FREEZES, true),
        ];
        for (quota, commands, refilled) in scenes {
            let what = quota.map_or("no quota".to_owned(), |quota| quota.to_string());
            let scene = format!("{name} 2 busy, {what}");
            for via in [Via::Bare, Via::Wrapped] {
                let scratch = Scratch::new();
                let container = Container::busy(&scratch, &runtime, via, "c", 2);
                if let Some(quota) = quota {
                    container.limit(quota);
                }
                let created = scratch.journal().len();
                let watch = Watch::new(&container);
                let (mut failed, mut writes) = (Vec::new(), 0);
                for _ in 0..ROUNDS {
                    for words in commands {
                        failed.extend(container.timed(words, LIMIT).failure);
                        writes += watch.writes();
                    }
                }
                let journal = scratch.journal().split_off(created);
                let told = journal.iter().filter(|record| !refills(record).is_empty()).count();
                let operations = ROUNDS * commands.len();
                table.line(format!(
                    "{scene:<34} {:<8} {operations:>10} {writes:>7} {told:>12}",
                    via.name()
                ));
                let expected = refilled && via == Via::Wrapped;
                table.claim((writes > 0) == expected && (told > 0) == expected, || {
                    format!("{scene}, {}: {writes} writes, {told} told", via.name())
                });
                let may_fail = refilled && via == Via::Bare;
                table.claim(failed.is_empty() || may_fail, || {
                    format!("{scene}, {}: {failed:?}", via.name())
                });
            }
        }
    }
    table.finish();
}
