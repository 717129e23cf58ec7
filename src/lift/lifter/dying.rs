//! Lifts killed threads until they are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::report::{Ended, Whose};
use super::super::slots::{Slot, Use};
use super::work::Work;
use cgroup::Reader;
use cgroup::freeze;
use cgroup::process::Stat;
use cgroup::threads::Candidate;

/// At a time. Each needs some tenths of a millisecond, and we need a CPU, too.
const MOST_DYING: usize = 16;
/// How many of a cgroup's threads are looked up by name in one look, and after how many looks the
/// threads that were alive are looked up again.
const MOST_NAMES: usize = 256;
const ALIVE_LOOKS: u32 = 10;

/// How long a lifter waits for a slot, how often it looks for one, and how often it looks whether it is
/// still needed, which costs more.
const SLOT_WAIT: Duration = Duration::from_secs(2);
const SLOT_LOOK: Duration = Duration::from_millis(10);
const STILL_DYING_LOOK: Duration = Duration::from_millis(100);

pub(super) struct Dying {
    files: Reader,
    /// The threads that were dying at the last look, each with its open stat file in /proc.
    known: BTreeMap<i32, File>,
    /// Threads that were seen not to be dying, for some looks.
    alive: BTreeSet<i32>,
    looks: u32,
    /// More may have been killed since the last look.
    is_stale: bool,
}

impl Dying {
    pub(super) fn of(files: Reader) -> Dying {
        let (known, alive) = (BTreeMap::new(), BTreeSet::new());
        Dying { files, known, alive, looks: 0, is_stale: true }
    }

    /// Not before it has looked.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && !self.is_stale
    }

    /// The operation has ended, and what it killed is dying from now on.
    pub(super) fn look_afresh(&mut self) {
        self.is_stale = true;
        self.alive.clear();
    }

    /// A killed thread stays lifted until it is gone: it runs no user code any more. Put back halfway,
    /// it would wait for its cgroup's next period, and by then none of the cgroup's lists shows it.
    pub(super) fn lift(&mut self, work: &mut Work, waits_inside: bool) -> io::Result<()> {
        let mut due = self.look_again();
        due.extend(self.find_more(work).into_iter().filter(|_| waits_inside));
        let known = &self.known;
        let is_gone = |tid, whose| whose == Whose::Kill && !known.contains_key(&tid);
        work.set.put_back_if(Ended::Done, is_gone);
        due.retain(|thread| !work.set.has(thread.tid));
        due.truncate(MOST_DYING.saturating_sub(work.set.count(Whose::Kill)));
        work.lift(&due, Whose::Kill)
    }

    /// Known threads that wait for a CPU.
    fn look_again(&mut self) -> Vec<Candidate> {
        let mut due = Vec::new();
        self.known.retain(|tid, file| {
            let stat = Stat::from(file).filter(is_here);
            due.extend(stat.filter(Stat::is_runnable).map(|stat| by_itself(*tid, stat)));
            stat.is_some()
        });
        due
    }

    /// New threads that wait for a CPU.
    fn find_more(&mut self, work: &Work) -> Vec<Candidate> {
        let mut due = Vec::new();
        self.is_stale = false;
        self.looks = self.looks.wrapping_add(1);
        let listed = freeze::threads(&self.files);
        if listed.len() <= MOST_NAMES || self.looks % ALIVE_LOOKS == 0 {
            self.alive.clear();
        }
        let mut names = 0;
        for tid in listed {
            let is_known = self.known.contains_key(&tid) || self.alive.contains(&tid);
            if is_known || work.kin.has(tid) {
                continue;
            }
            if names == MOST_NAMES || self.known.len() >= MOST_NAMES {
                break;
            }
            names += 1;
            let Ok(file) = Stat::open_of_thread(tid) else { continue };
            let Some(stat) = Stat::from(&file).filter(is_here) else {
                self.alive.insert(tid);
                continue;
            };
            if stat.is_runnable() {
                due.push(by_itself(tid, stat));
            }
            self.known.insert(tid, file);
        }
        due
    }
}

fn is_here(stat: &Stat) -> bool {
    stat.is_dying() && !matches!(stat.state, b'Z' | b'X')
}

/// Each is counted by itself: its process may be gone before it.
fn by_itself(tid: i32, stat: Stat) -> Candidate {
    Candidate { tid, process: tid, stat }
}

/// Whether a thread of the cgroup has been killed and waits for a CPU to die.
pub(crate) fn waiting_to_die(files: &Reader) -> bool {
    let some = freeze::threads(files).into_iter().take(MOST_NAMES);
    some.filter_map(Stat::of_thread).any(|stat| stat.is_dying() && stat.is_runnable())
}

/// Waits for a slot, for as long as a killed thread waits for a CPU. Where thirty containers are stopped at
/// once, the last one's turn comes after some tenths of a second.
pub(crate) fn slot_for_the_dying(slots: &Path, files: &Reader) -> Option<Slot> {
    let began = Instant::now();
    let mut looked = began;
    while began.elapsed() < SLOT_WAIT {
        if let Some(slot) = Slot::take(slots, Use::Lift, sys::usable_cpus()).ok()? {
            return Some(slot);
        }
        if looked.elapsed() >= STILL_DYING_LOOK {
            looked = Instant::now();
            if !waiting_to_die(files) {
                return None;
            }
        }
        std::thread::sleep(SLOT_LOOK);
    }
    None
}
