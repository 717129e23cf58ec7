//! Lifts the runtime's own work: its process outside the container, and its stages inside.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use super::super::census::Kind;
use super::super::pace::{Pace, Sight};
use super::super::report::{Ended, Whose};
use super::work::Work;
use cgroup::threads::Threads;

/// What the runtime's work may use above the fair class in one operation, in CPU time. A create took
/// 36 ms here, an exec 24.
const RUNTIME_LIMIT: Duration = Duration::from_millis(200);

/// Where the runtime has been seen to wait for a CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    pub(crate) outside: bool,
    pub(crate) inside: bool,
}

pub(super) struct Runtime {
    pub(super) waits: Waits,
    paces: BTreeMap<i32, Pace>,
    /// The part of the node's account that is kept for threads in a container. Where many runtimes run
    /// at once, they keep each other from a CPU, and to lift them all is to lift none.
    kept: Duration,
}

impl Runtime {
    /// `waits` is what the operation has seen.
    pub(super) fn begin(waits: Waits, kept: Duration) -> Runtime {
        Runtime { waits, paces: BTreeMap::new(), kept }
    }

    /// Lifts the runtime's own process if a busy node keeps it from a CPU.
    pub(super) fn lift_outside(&mut self, work: &mut Work) -> io::Result<()> {
        if is_spent(work) || !work.node.holds_more_than(self.kept) {
            work.put_back_outside();
            return Ok(());
        }
        let Some(runtime) = &work.census.runtime else { return Ok(()) };
        if !self.waits.outside {
            self.waits.outside = waits(self.paces.entry(runtime.pid()), runtime);
        }
        if !self.waits.outside {
            return Ok(());
        }
        let set = &work.set;
        let runnable: Vec<_> = runtime.runnable_but(|tid| set.has(tid)).collect();
        work.lift(&runnable, Whose::Runtime)
    }

    /// Whether a process in the container has been seen to wait.
    pub(super) fn waits_inside(&mut self, work: &Work) -> bool {
        for member in work.census.members().filter(|member| member.is_inside) {
            if !self.waits.inside {
                self.waits.inside = waits(self.paces.entry(member.pid), &member.threads);
            }
        }
        self.waits.inside
    }
}

fn is_spent(work: &Work) -> bool {
    work.set.used(Whose::Runtime) >= RUNTIME_LIMIT
}

pub(super) fn lift_stages(work: &mut Work) -> io::Result<()> {
    if is_spent(work) {
        let asleep = work.stages_asleep();
        let is_due = |tid, whose| whose == Whose::Runtime && !asleep.contains(&tid);
        work.set.put_back_if(Ended::OperationLimit, is_due);
        return Ok(());
    }
    let stages = work.runnable(Kind::Stage, |tid| work.set.has(tid));
    work.lift(&stages, Whose::Runtime)
}

/// Puts back threads of the runtime's own process that sleep for a while because they wait for another.
/// Stages in the container stay lifted.
pub(super) fn put_back_sleepers(work: &mut Work) {
    let Some(runtime) = work.census.runtime.as_ref() else { return };
    let runnable: BTreeSet<i32> = runtime.runnable().map(|thread| thread.tid).collect();
    let outside: BTreeSet<i32> = runtime.tids().collect();
    let sleeps = |tid, _| outside.contains(&tid) && !runnable.contains(&tid);
    work.set.put_back_if(Ended::Done, sleeps);
}

/// Whether a process has been seen to wait.
fn waits(pace: Entry<'_, i32, Pace>, process: &Threads) -> bool {
    match pace {
        Entry::Occupied(mut known) => known.get_mut().look(process) == Sight::Waits,
        Entry::Vacant(new) => {
            new.insert(Pace::first_seen(process));
            false
        }
    }
}
