//! What the four uses of a lifter share: which threads it sees, which it has lifted, and who pays.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::super::census::{Census, Kind};
use super::super::kin::Kin;
use super::super::report::{Ended, Whose};
use super::super::set::Set;
use cgroup::process;
use cgroup::threads::{Candidate, Threads};
use state::account::Account;
use state::lifted::class::{self, Before};

/// Threads need microseconds each to freeze.
const FREEZE_LIMIT: Duration = Duration::from_millis(200);
/// Threads need some tenths of a millisecond each to die, and time to unmap their memory.
const KILL_LIMIT: Duration = Duration::from_millis(500);
/// What the lifter itself may use above the fair class.
const WATCHER_LIMIT: Duration = Duration::from_millis(80);
/// The same if many threads must freeze, at 0.2 ms each.
const HOLDER_LIMIT: Duration = Duration::from_millis(300);
/// How long a lifter may lift, from its beginning, whatever it does.
pub(super) const LONGEST: Duration = Duration::from_secs(5);

pub(super) struct Work {
    pub(super) set: Set,
    pub(super) census: Census,
    /// Processes in the container's cgroup that are not part of its workload.
    pub(super) kin: Kin,
    pub(super) pod: Account,
    pub(super) node: Account,
    pub(super) slots: PathBuf,
    /// The runtime was held while its container froze.
    pub(super) has_held: bool,
    own: Own,
    began: Instant,
}

/// The lifter's own process.
struct Own {
    before: Before,
    is_up: bool,
    /// Its CPU time at the last look.
    time: Duration,
}

impl Own {
    fn find(before: Before) -> Own {
        let is_up = class::is_lifted(process::own_pid());
        // What was used above the fair class before this point counts, too.
        let time = if is_up { Duration::ZERO } else { process::thread_time() };
        Own { before, is_up, time }
    }
}

impl Work {
    /// `own` is the class of this process before its operation raised it.
    pub(super) fn begin(
        set: Set,
        census: Census,
        kin: Kin,
        (node, pod): (Account, Account),
        slots: PathBuf,
        own: Before,
    ) -> Work {
        let (own, began) = (Own::find(own), Instant::now());
        Work { set, census, kin, pod, node, slots, has_held: false, own, began }
    }

    pub(super) fn lift(&mut self, those: &[Candidate], whose: Whose) -> io::Result<()> {
        if those.is_empty() {
            return Ok(());
        }
        self.rise()?;
        self.set.lift(those, whose)
    }

    /// Of these threads.
    pub(super) fn put_back_strays(&mut self, tids: Vec<i32>) {
        let census = &self.census;
        let is_member = |pid| census.members().any(|member| member.pid == pid);
        self.set.put_back_strays(tids, is_member, Instant::now());
    }

    pub(super) fn is_up(&self) -> bool {
        self.own.is_up
    }

    /// Raises the lifter above the fair class, before it raises others.
    pub(super) fn rise(&mut self) -> io::Result<()> {
        if !self.own.is_up {
            class::raise(0, &self.own.before)?;
            self.own.is_up = true;
        }
        Ok(())
    }

    /// Also if another process raised the lifter and it does not know.
    pub(super) fn step_down(&mut self) {
        class::lower(process::own_pid(), &self.own.before);
        self.own.is_up = false;
    }

    /// For a stage that a lifted thread has started: gives it the class that ours was.
    pub(super) fn inherit(&self, tid: i32) {
        class::inherit(tid, &self.own.before);
    }

    /// CPU time of the lifter since it was last charged.
    pub(super) fn own_time(&self) -> Duration {
        process::thread_time().saturating_sub(self.own.time)
    }

    pub(super) fn charge(&mut self) {
        let before = std::mem::replace(&mut self.own.time, process::thread_time());
        if self.own.is_up {
            self.set.book_watcher(self.own.time.saturating_sub(before));
        }
        let (all, program) = self.set.take_uncharged();
        self.node.charge(all);
        self.pod.charge(program);
    }

    /// Gives whether everything that was charged has been written to the accounts.
    pub(super) fn write_accounts(&mut self) -> bool {
        let (node, pod) = (self.node.write_down(), self.pod.write_down());
        node && pod
    }

    pub(super) fn limit_reached(&mut self, now: Instant) -> Option<Ended> {
        let is_spent =
            self.set.used(Whose::Freeze) > FREEZE_LIMIT || self.set.used(Whose::Kill) > KILL_LIMIT;
        if now.duration_since(self.began) > LONGEST || is_spent {
            return Some(Ended::OperationLimit);
        }
        let watched = self.set.used(Whose::Watcher);
        let is_long = watched > WATCHER_LIMIT;
        let mut may_be_long = || {
            let holds = self.has_held && watched <= HOLDER_LIMIT;
            holds && self.node.holds_more_than(Duration::ZERO)
        };
        (is_long && !may_be_long()).then_some(Ended::WatcherLimit)
    }

    /// The threads in the container that run or wait for a CPU.
    pub(super) fn runnable(&self, kind: Kind, but: impl Fn(i32) -> bool) -> Vec<Candidate> {
        let members = self.census.members().filter(|m| m.is_inside && m.kind == kind);
        members.flat_map(|member| member.threads.runnable_but(&but)).collect()
    }

    /// Puts back the threads of the runtime's own process.
    pub(super) fn put_back_outside(&mut self) {
        let runtime = self.census.runtime.iter();
        let outside: BTreeSet<i32> = runtime.flat_map(Threads::tids).collect();
        self.set.put_back_if(Ended::Done, |tid, _| outside.contains(&tid));
    }

    /// The runtime's threads in the container that are not running just now; they are put back once
    /// they run. A thread that was lifted while it was throttled, and is put back while it does not
    /// run, goes back to where throttled threads wait, whatever kernel lock it holds
    /// (enqueue_throttled_task, kernel/sched/fair.c, 6.18).
    pub(super) fn stages_asleep(&self) -> BTreeSet<i32> {
        let stages = self.census.members().filter(|m| m.is_inside && m.kind == Kind::Stage);
        let asleep = stages.flat_map(|stage| {
            let runnable: BTreeSet<i32> =
                stage.threads.runnable().map(|thread| thread.tid).collect();
            stage.threads.tids().filter(move |tid| !runnable.contains(tid))
        });
        asleep.collect()
    }
}
