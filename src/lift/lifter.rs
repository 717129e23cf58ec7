//! The process that lifts: it finds who must run, raises them, counts what they use, and puts them back.
//!
//! A process of its own, since its operation may be killed at any moment: it then finds the end of a
//! socket and puts everything back. While something is lifted it is above the fair class itself, beside
//! what it has lifted and not above; it reaps nothing, writes no log, and takes no lock that it would
//! have to wait for.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::census::{Census, Kind};
use super::kin::Kin;
use super::pace::{self, Pace};
use super::peer::{Heard, Peer};
use super::push;
use super::report::{Ended, Summary, Whose};
use super::set::Set;
use super::slots::{Slot, Use};
use cgroup::freeze;
use cgroup::process::{self, Stat};
use cgroup::threads::{Candidate, Threads};
use cgroup::{Freezer, Reader};
use state::account::Account;
use state::lifted::class::{self, Before};
use state::lifted::hold::Hold;

/// Every 1 to 2 ms is as good as every 0.15 and costs less: new threads and children are not lifted,
/// and each has to be found.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Where the last looks have found nobody new; a program is never left alone for so long.
const LOOK_LESS: Duration = Duration::from_millis(3);
const LOOK_SELDOM: Duration = Duration::from_millis(10);
/// Of the time, of one CPU, and down to a quarter of that the more of us there are for each CPU: a look at many threads, or on a
/// machine where many look, costs more.
const LOOKS_ARE_A_PART: u32 = 8;
/// A look that has lifted many is no measure for the next one.
const MOST_COST: Duration = Duration::from_micros(200);
/// So many looks without anybody new are a while.
const A_WHILE: u32 = 4;
const A_LONG_WHILE: u32 = 20;

/// What the runtime's work may use above the fair class in one operation, in CPU time. A create took
/// 36 ms here, an exec 24.
const RUNTIME_LIMIT: Duration = Duration::from_millis(200);
/// Threads that freeze need microseconds each.
const FREEZE_LIMIT: Duration = Duration::from_millis(200);
/// Threads that die need some tenths of a millisecond, and what they have to unmap.
const KILL_LIMIT: Duration = Duration::from_millis(500);
/// What we may use so ourselves.
const WATCHER_LIMIT: Duration = Duration::from_millis(80);
/// Where there are many to freeze, at 0.2 ms each.
const HOLDER_LIMIT: Duration = Duration::from_millis(300);
/// For how long the runtime may be held, and for more than how many threads it is.
const HOLD_LIMIT: Duration = Duration::from_millis(500);
const FEW: usize = 24;
/// How many are looked at to see whether there is one to be pushed.
const MOST_ASKED: usize = 64;
/// How often its threads are listed, to hold them all.
const HOLD_ROUNDS: u32 = 3;
const LET_GO_WITHIN: Duration = Duration::from_millis(3);
const LET_GO_EVERY: Duration = Duration::from_micros(100);
/// Of those who die, at a time: each has some tenths of a millisecond to run, and we want a CPU, too.
const MOST_DYING: usize = 16;
/// How often it is tried at the end to write down what was used, a millisecond apart.
const MOST_CHARGES: u32 = 20;
/// Left to it alone, we end when there has been nothing to do for so long: a slot is others', too.
const IDLE: Duration = Duration::from_millis(100);
/// How many of a cgroup's threads are looked up by name at one look, and after how many looks again.
const MOST_NAMES: usize = 256;
const ALIVE_LOOKS: u32 = 10;
/// From our beginning, whatever it is for.
const LONGEST: Duration = Duration::from_secs(5);

/// What one lifter is for.
#[derive(Debug)]
pub(super) struct Task {
    /// For a person.
    pub(super) what: String,
    pub(super) runtime: i32,
    pub(super) files: Option<Reader>,
    /// Of a container that is to be started, or of an exec whose runtime has ended.
    pub(super) process: Option<i32>,
    /// What an exec'd command and its descendants may use together; none of a container's own program.
    pub(super) program_limit: Duration,
    pub(super) freezes: Option<Duration>,
    pub(super) kills: bool,
    /// What its operation has seen.
    pub(super) waits: Waits,
    pub(super) pod: Account,
    pub(super) node: Account,
    /// The part of the node's account that is for threads in a container alone: where many runtimes
    /// run at once they keep each other from a CPU, and to lift them all is to lift none.
    pub(super) kept: Duration,
    pub(super) directory: PathBuf,
    pub(super) slots: PathBuf,
}

/// Who has been seen to wait for a CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) outside: bool,
    pub(super) inside: bool,
}

pub(super) struct Lifter {
    task: Task,
    /// One of those that the node has.
    slot: Option<Slot>,
    set: Set,
    census: Census,
    /// In the container's cgroup, and no part of its workload.
    kin: Kin,
    paces: BTreeMap<i32, Pace>,
    waits: Waits,
    inside_refused: bool,
    program_slot: Option<Slot>,
    /// What was about to die at the last look, by its file in /proc.
    dying: BTreeMap<i32, File>,
    refused: Option<String>,
    /// What its operation did not wait to hear.
    unsaid: Summary,
    /// Since when there is nobody lifted or to be lifted.
    idle_since: Option<Instant>,
    /// Who was seen not to die, for some looks.
    alive: BTreeSet<i32>,
    dying_looks: u32,
    own: Before,
    is_up: bool,
    /// Our own CPU time when it was looked at last.
    own_time: Duration,
    began: Instant,
    next_look: Instant,
    quiet_looks: u32,
    /// How many were lifted so far.
    found: u64,
    /// Its operation has ended and left us to it.
    is_alone: bool,
    /// The runtime's threads, while it must not take back the freeze that it waits for.
    held: Vec<Hold>,
    /// For how long it may be so, in all.
    hold_left: Duration,
    has_held: bool,
    /// Why there is to be nothing lifted any more.
    over: Option<Ended>,
}

impl Lifter {
    /// `own` is its class before whoever has started it has raised it.
    pub(super) fn begin(task: Task, slot: Slot, own: Before) -> io::Result<Lifter> {
        let cgroup = task.files.as_ref().and_then(Reader::cpu_dir).map(|(_, dir)| dir);
        let follows = !task.program_limit.is_zero();
        let searched = task.files.as_ref().filter(|_| task.freezes.is_some() || task.kills);
        let kin = Kin::among(&searched.map(freeze::threads).unwrap_or_default());
        let is_up = class::is_lifted(process::own_pid());
        Ok(Lifter {
            set: Set::begin(&task.directory, &task.what)?,
            census: Census::new(task.runtime, cgroup, task.process, follows),
            kin,
            paces: BTreeMap::new(),
            waits: task.waits,
            slot: Some(slot),
            inside_refused: false,
            program_slot: None,
            dying: BTreeMap::new(),
            refused: None,
            unsaid: Summary::default(),
            idle_since: None,
            alive: BTreeSet::new(),
            dying_looks: 0,
            own,
            is_up,
            // What was used above the fair class before this is counted, too.
            own_time: if is_up { Duration::ZERO } else { process::thread_time() },
            began: Instant::now(),
            next_look: Instant::now(),
            quiet_looks: 0,
            found: 0,
            is_alone: false,
            held: Vec::new(),
            hold_left: HOLD_LIMIT,
            has_held: false,
            over: None,
            task,
        })
    }

    /// Until there is no more to do; gives what its operation has not been told of.
    pub(super) fn run(mut self, mut peer: Peer) -> Summary {
        loop {
            match self.look() {
                Ok(()) => {}
                Err(error) => self.refuse(&error),
            }
            if self.over.is_none() && self.is_done() {
                self.over = Some(Ended::Done);
            }
            if let Some(ended) = self.over {
                self.set.put_all_back(ended);
                (self.slot, self.program_slot) = (None, None);
            }
            self.charge();
            self.rise_or_step_down();
            if self.over.is_some() && self.is_alone {
                break;
            }
            if self.has_had_its_turn() {
                self.say_so(&mut peer);
                break;
            }
            match peer.hear(self.pause()) {
                Heard::Nothing => {}
                Heard::End => {
                    self.is_alone = true;
                    self.put_the_operation_back();
                    self.charge();
                    self.rise_or_step_down();
                    self.say_so(&mut peer);
                }
                Heard::HangUp if self.is_alone => {}
                Heard::HangUp => break,
            }
        }
        self.set.put_all_back(Ended::Done);
        (self.slot, self.program_slot) = (None, None);
        self.charge();
        self.rise_or_step_down();
        self.wait_until_settled();
        self.take_summary()
    }

    /// A limit is reached, and the operation goes on: after a rest it may have another lifter.
    fn has_had_its_turn(&self) -> bool {
        let is_limited = self.over.is_some_and(|ended| ended != Ended::Done);
        is_limited && !self.is_alone && self.set.is_settled()
    }

    fn say_so(&mut self, peer: &mut Peer) {
        self.write_accounts();
        let summary = self.take_summary();
        if !peer.answer(&summary) {
            self.unsaid = summary;
        }
    }

    /// For those that we have put back to be seen fair.
    fn wait_until_settled(&mut self) {
        let since = Instant::now();
        self.let_the_runtime_go();
        while !(self.set.is_settled() && self.held.is_empty()) && since.elapsed() < LONGEST {
            std::thread::sleep(LOOK_LESS);
            self.let_the_runtime_go();
            self.set.settle(Instant::now());
            self.charge();
        }
        // Others may be at the accounts.
        for _ in 0..MOST_CHARGES {
            if self.write_accounts() {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Whether all that was charged stands in them.
    fn write_accounts(&mut self) -> bool {
        let (node, pod) = (self.task.node.write_down(), self.task.pod.write_down());
        node && pod
    }

    fn take_summary(&mut self) -> Summary {
        let mut summary = std::mem::take(&mut self.unsaid);
        summary.add(Summary { lifts: self.set.take_reports(), refused: self.refused.take() });
        summary
    }

    fn refuse(&mut self, error: &io::Error) {
        self.refused = Some(class::refusal(error));
        self.over = Some(Ended::Done);
    }

    /// What is for the operation alone ends with it.
    fn put_the_operation_back(&mut self) {
        let lingers = !self.task.program_limit.is_zero();
        let members = self.census.members().filter(|_| lingers);
        let inside: BTreeSet<i32> = members.flat_map(|m| m.threads.tids()).collect();
        let stays = |tid, whose| whose == Whose::Kill || inside.contains(&tid);
        self.set.put_back_if(Ended::Done, |tid, whose| !stays(tid, whose));
    }

    fn is_done(&self) -> bool {
        if !self.is_alone {
            return false;
        }
        let has_program = !self.task.program_limit.is_zero() && !self.census.is_empty();
        let is_idle = self.idle_since.is_some_and(|since| since.elapsed() >= IDLE);
        let has_dying = self.task.kills && !self.dying.is_empty();
        !has_dying && (is_idle || !has_program)
    }

    fn pause(&self) -> Duration {
        if !self.held.is_empty() {
            return LOOK_EVERY;
        }
        if self.over.is_some() {
            return if self.set.is_settled() { LONGEST } else { LOOK_LESS };
        }
        let next = self.next_look.saturating_duration_since(Instant::now());
        let freeze_look = self.task.freezes.filter(|_| !self.is_alone);
        freeze_look.map_or(next, |look| next.min(look))
    }

    fn interval(&self) -> Duration {
        match self.quiet_looks {
            _ if self.set.count(Whose::Program) + self.set.count(Whose::Kill) > 0 => LOOK_EVERY,
            _ if !self.dying.is_empty() => LOOK_LESS,
            0..A_WHILE => LOOK_EVERY,
            A_WHILE..A_LONG_WHILE => LOOK_LESS,
            _ => LOOK_SELDOM,
        }
    }

    fn look(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.let_the_runtime_go();
        if self.over.is_some() {
            self.set.settle(now);
            return Ok(());
        }
        if now < self.next_look {
            return self.push_into_the_freezer();
        }
        let result = self.look_at_all(now);
        let cost = process::thread_time().saturating_sub(self.own_time).min(MOST_COST);
        let others = self.slot.as_ref().map_or(0, |slot| slot.others);
        let share = 1 + 2 * others / self.set.cpus();
        self.next_look = self.next_look.max(now + cost * LOOKS_ARE_A_PART * share);
        result
    }

    fn look_at_all(&mut self, now: Instant) -> io::Result<()> {
        self.set.meter(now);
        self.set.settle(now);
        self.over = self.limit_reached(now);
        if self.over.is_some() {
            return Ok(());
        }
        self.next_look = now + LOOK_EVERY;
        if let Some(wait) = self.task.node.without_credit_for() {
            // Those who die have little left to do, and would wait halfway.
            let asleep = self.stages_asleep();
            let stays = |tid, whose| whose == Whose::Kill || asleep.contains(&tid);
            self.set.put_back_if(Ended::NodeLimit, |tid, whose| !stays(tid, whose));
            self.next_look = now + wait.clamp(LOOK_EVERY, LOOK_SELDOM);
            return Ok(());
        }
        let seen = self.census.look(self.set.count(Whose::Program) == 0);
        for pid in seen.executed {
            self.set.put_back(pid, Ended::Done);
        }
        for tid in seen.started {
            class::inherit(tid, &self.own);
        }
        self.push_into_the_freezer()?;
        self.lift_the_dying()?;
        self.lift_outside()?;
        self.lift_inside()?;
        self.put_back_sleepers();
        let is_idle = self.set.is_empty() && self.runnable(Kind::Program, |_| false).is_empty();
        self.idle_since = self.idle_since.or(Some(now)).filter(|_| is_idle);
        if self.set.count(Whose::Program) == 0 {
            self.program_slot = None;
        }
        let found = self.set.found();
        self.quiet_looks = if found == self.found { self.quiet_looks + 1 } else { 0 };
        self.found = found;
        self.next_look = now + self.interval();
        Ok(())
    }

    fn limit_reached(&mut self, now: Instant) -> Option<Ended> {
        let is_spent =
            self.set.used(Whose::Freeze) > FREEZE_LIMIT || self.set.used(Whose::Kill) > KILL_LIMIT;
        if now.duration_since(self.began) > LONGEST || is_spent {
            return Some(Ended::OperationLimit);
        }
        let watched = self.set.used(Whose::Watcher);
        let is_long = watched > WATCHER_LIMIT;
        let mut may_be_long = || {
            let holds = self.has_held && watched <= HOLDER_LIMIT;
            holds && self.task.node.holds_more_than(Duration::ZERO)
        };
        (is_long && !may_be_long()).then_some(Ended::WatcherLimit)
    }

    fn charge(&mut self) {
        let before = std::mem::replace(&mut self.own_time, process::thread_time());
        if self.is_up {
            self.set.book_watcher(self.own_time.saturating_sub(before));
        }
        let (all, program) = self.set.take_uncharged();
        self.task.node.charge(all);
        self.task.pod.charge(program);
    }

    /// Above the fair class while something else is, and before it is.
    fn rise(&mut self) -> io::Result<()> {
        if !self.is_up {
            class::raise(0, &self.own)?;
            self.is_up = true;
        }
        Ok(())
    }

    /// Also where it was raised by another, and has not seen that.
    fn rise_or_step_down(&mut self) {
        if self.set.is_empty() && self.held.is_empty() {
            class::lower(process::own_pid(), &self.own);
            self.is_up = false;
        }
    }

    /// The runtime's own process, where a busy node keeps it from a CPU.
    fn lift_outside(&mut self) -> io::Result<()> {
        let is_spent = self.set.used(Whose::Runtime) >= RUNTIME_LIMIT;
        if is_spent || !self.task.node.holds_more_than(self.task.kept) {
            self.put_back_outside();
            return Ok(());
        }
        let Some(runtime) = &self.census.runtime else { return Ok(()) };
        if !self.waits.outside {
            let pace = self.paces.entry(self.task.runtime);
            self.waits.outside = waits(pace, runtime);
        }
        if !self.waits.outside {
            return Ok(());
        }
        let set = &self.set;
        let runnable: Vec<_> = runtime.runnable_but(|tid| set.has(tid)).collect();
        if runnable.is_empty() {
            return Ok(());
        }
        self.rise()?;
        self.set.lift(&runnable, Whose::Runtime)
    }

    fn put_back_outside(&mut self) {
        let runtime = self.census.runtime.iter();
        let outside: BTreeSet<i32> = runtime.flat_map(Threads::tids).collect();
        self.set.put_back_if(Ended::Done, |tid, _| outside.contains(&tid));
    }

    /// Those threads of the runtime's in the container that do not run just now, and are put back when
    /// they do: one that was lifted while it was throttled, and is put back while it does not run, goes
    /// back to where throttled threads wait, whatever lock of the kernel it holds (enqueue_throttled_task,
    /// kernel/sched/fair.c, 6.18).
    fn stages_asleep(&self) -> BTreeSet<i32> {
        let stages = self.census.members().filter(|m| m.is_inside && m.kind == Kind::Stage);
        let asleep = stages.flat_map(|stage| {
            let runnable: BTreeSet<i32> =
                stage.threads.runnable().map(|thread| thread.tid).collect();
            stage.threads.tids().filter(move |tid| !runnable.contains(tid))
        });
        asleep.collect()
    }

    /// Whoever of the runtime's own process sleeps for a while, as it waits for another, need not be
    /// lifted. In the container they stay.
    fn put_back_sleepers(&mut self) {
        let Some(runtime) = self.census.runtime.as_ref() else { return };
        if self.quiet_looks < A_LONG_WHILE {
            return;
        }
        let runnable: BTreeSet<i32> = runtime.runnable().map(|thread| thread.tid).collect();
        let outside: BTreeSet<i32> = runtime.tids().collect();
        let sleeps = |tid, _| outside.contains(&tid) && !runnable.contains(&tid);
        self.set.put_back_if(Ended::Done, sleeps);
    }

    fn lift_inside(&mut self) -> io::Result<()> {
        if self.inside_refused {
            return Ok(());
        }
        for member in self.census.members().filter(|member| member.is_inside) {
            if !self.waits.inside {
                let pace = self.paces.entry(member.pid);
                self.waits.inside = waits(pace, &member.threads);
            }
        }
        if !self.waits.inside {
            return Ok(());
        }
        let set = &self.set;
        let stages = self.runnable(Kind::Stage, |tid| set.has(tid));
        let lifted = self.lift_stages(&stages).and_then(|()| self.lift_programs());
        match lifted {
            // Its cgroup may have no real-time runtime where ours has.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && self.is_up => {
                self.refused = Some(class::refusal(&error));
                self.inside_refused = true;
                self.set.put_back_if(Ended::Done, |_, whose| whose == Whose::Program);
                Ok(())
            }
            lifted => lifted,
        }
    }

    /// The threads in the container that run or wait for a CPU.
    fn runnable(&self, kind: Kind, but: impl Fn(i32) -> bool) -> Vec<Candidate> {
        let members = self.census.members().filter(|m| m.is_inside && m.kind == kind);
        members.flat_map(|member| member.threads.runnable_but(&but)).collect()
    }

    fn lift_stages(&mut self, threads: &[Candidate]) -> io::Result<()> {
        if self.set.used(Whose::Runtime) >= RUNTIME_LIMIT {
            let asleep = self.stages_asleep();
            let is_due = |tid, whose| whose == Whose::Runtime && !asleep.contains(&tid);
            self.set.put_back_if(Ended::OperationLimit, is_due);
            return Ok(());
        }
        if threads.is_empty() {
            return Ok(());
        }
        self.rise()?;
        self.set.lift(threads, Whose::Runtime)
    }

    /// One thread at a time, and on one CPU less than there are: what spins there cannot keep us from
    /// putting it back.
    fn lift_programs(&mut self) -> io::Result<()> {
        if self.task.program_limit.is_zero() {
            return Ok(());
        }
        if self.set.used(Whose::Program) >= self.task.program_limit {
            self.set.put_back_if(Ended::OperationLimit, |_, whose| whose == Whose::Program);
            self.task.program_limit = Duration::ZERO;
            return Ok(());
        }
        if self.task.pod.without_credit_for().is_some() {
            self.set.put_back_if(Ended::PodLimit, |_, whose| whose == Whose::Program);
            return Ok(());
        }
        let runnable = self.runnable(Kind::Program, |_| false);
        let is_idle = |tid| !runnable.iter().any(|runnable| runnable.tid == tid);
        self.set.put_back_if(Ended::Done, |tid, whose| whose == Whose::Program && is_idle(tid));
        if self.set.count(Whose::Program) > 0 || runnable.is_empty() || !self.has_program_slot()? {
            return Ok(());
        }
        for candidate in runnable {
            self.rise()?;
            self.set.lift(&[candidate], Whose::Program)?;
            if self.set.has(candidate.tid) {
                break;
            }
        }
        Ok(())
    }

    fn has_program_slot(&mut self) -> io::Result<bool> {
        if self.program_slot.is_none() {
            let cpus = sys::online_cpus();
            self.program_slot = Slot::take(&self.task.slots, Use::Program, cpus)?;
        }
        Ok(self.program_slot.is_some())
    }

    /// While the freeze is written and not yet one. The runtime only looks on meanwhile: it must not
    /// stand in the way of those threads.
    fn push_into_the_freezer(&mut self) -> io::Result<()> {
        let Some(files) = self.task.files.clone().filter(|_| self.task.freezes.is_some()) else {
            return Ok(());
        };
        let began = Instant::now();
        let pushed = self.push_while_it_freezes(&files, began);
        if !self.held.is_empty() {
            self.hold_left = self.hold_left.saturating_sub(began.elapsed());
            self.let_the_runtime_go_at_once();
        }
        pushed
    }

    fn push_while_it_freezes(&mut self, files: &Reader, began: Instant) -> io::Result<()> {
        let is_freezing = || files.freezer() == Freezer::Freezing;
        if !is_freezing() {
            return Ok(());
        }
        // Whoever gets none comes back at the next look.
        let cpus = sys::online_cpus();
        let Some(_slot) = Slot::take(&self.task.slots, Use::Push, cpus)? else { return Ok(()) };
        // Those that are frozen are not asked once more before all have been.
        let mut tids = Vec::new();
        let mut pushed = 1;
        while is_freezing() && files.is_told_to_freeze() {
            self.put_back_outside();
            if tids.is_empty() {
                if pushed == 0 {
                    // Who is left does not freeze for being given a CPU, but may for a thaw.
                    self.hold_left = Duration::ZERO;
                    break;
                }
                tids = freeze::threads(files);
                tids.retain(|tid| !self.kin.has(*tid));
                pushed = 0;
            }
            self.rise()?;
            let has_due = || pushed > 0 || tids.iter().take(MOST_ASKED).any(|tid| is_due(*tid));
            if tids.len() > FEW && began.elapsed() < self.hold_left && has_due() {
                self.hold_the_runtime();
            }
            pushed += push::into_the_freezer(&mut self.set, &mut tids, is_freezing)?;
            self.charge();
            let is_held_for_long = !self.held.is_empty() && began.elapsed() >= self.hold_left;
            if is_held_for_long || self.limit_reached(Instant::now()).is_some() {
                break;
            }
        }
        Ok(())
    }

    /// runc 1.1 to 1.5 lets a cgroup freeze for some 2 ms, thaws it again, and so on for a quarter of a
    /// second (fs/freezer.go): of many threads the first ones have left the freezer before the last ones
    /// are in it. By the files that we have of it: its number may be another's by now.
    fn hold_the_runtime(&mut self) {
        let Some(runtime) = self.census.runtime.as_mut().filter(|_| self.held.is_empty()) else {
            return;
        };
        // One that is not held yet may start another.
        for _ in 0..HOLD_ROUNDS {
            if runtime.stat().is_none_or(|stat| stat.state == b'Z') {
                return;
            }
            runtime.list();
            let is_held = |tid: &i32| self.held.iter().any(|hold| hold.is_of(*tid));
            let new: Vec<i32> = runtime.tids().filter(|tid| !is_held(tid)).collect();
            if new.is_empty() {
                break;
            }
            self.held.extend(new.into_iter().filter_map(Hold::by_trace));
        }
        self.has_held |= !self.held.is_empty();
        self.set.may_hold(self.held.is_empty());
    }

    /// Who has yet to stop is let go at one of the next looks.
    fn let_the_runtime_go(&mut self) {
        self.held.retain(|hold| !hold.let_go());
        self.set.may_hold(self.held.is_empty());
    }

    /// While we have a CPU: a thread that wakes up to stop needs one first.
    fn let_the_runtime_go_at_once(&mut self) {
        let since = Instant::now();
        self.let_the_runtime_go();
        while !self.held.is_empty() && since.elapsed() < LET_GO_WITHIN {
            std::thread::sleep(LET_GO_EVERY);
            self.let_the_runtime_go();
        }
    }

    /// Who has been killed stays lifted until it is gone: it runs nothing of its own any more. Put back
    /// halfway it would wait for its cgroup's next period, and no list of the cgroup's has it by then.
    fn lift_the_dying(&mut self) -> io::Result<()> {
        let Some(files) = self.task.files.as_ref().filter(|_| self.task.kills) else {
            return Ok(());
        };
        let is_here = |stat: &Stat| stat.is_dying() && !matches!(stat.state, b'Z' | b'X');
        let mut due = Vec::new();
        self.dying.retain(|tid, file| {
            let stat = Stat::from(file).filter(is_here);
            let process = *tid;
            let runnable = stat.filter(Stat::is_runnable);
            due.extend(runnable.map(|stat| Candidate { tid: process, process, stat }));
            stat.is_some()
        });
        self.dying_looks = self.dying_looks.wrapping_add(1);
        let listed = freeze::threads(files);
        if listed.len() <= MOST_NAMES || self.dying_looks % ALIVE_LOOKS == 0 {
            self.alive.clear();
        }
        let mut names = 0;
        for tid in listed {
            let is_known = self.dying.contains_key(&tid) || self.alive.contains(&tid);
            if is_known
                || self.kin.has(tid)
                || names == MOST_NAMES
                || self.dying.len() >= MOST_NAMES
            {
                continue;
            }
            names += 1;
            let Ok(file) = Stat::open_of_thread(tid) else { continue };
            let Some(stat) = Stat::from(&file).filter(is_here) else {
                self.alive.insert(tid);
                continue;
            };
            if self.waits.inside && stat.is_runnable() {
                due.push(Candidate { tid, process: tid, stat });
            }
            self.dying.insert(tid, file);
        }
        let dying = &self.dying;
        let is_gone = |tid, whose| whose == Whose::Kill && !dying.contains_key(&tid);
        self.set.put_back_if(Ended::Done, is_gone);
        due.retain(|thread| !self.set.has(thread.tid));
        due.truncate(MOST_DYING.saturating_sub(self.set.count(Whose::Kill)));
        if due.is_empty() {
            return Ok(());
        }
        self.rise()?;
        self.set.lift(&due, Whose::Kill)
    }
}

/// Of this process, which is about to start a lifter.
pub(super) fn own_class() -> io::Result<Before> {
    let own = process::own_pid();
    let before = Before::of(own, class::default_slice())?;
    let before = before.ok_or_else(|| io::Error::other("not a fair process"))?;
    Ok(before.with_slack(&class::open_slack(own)?))
}

fn is_due(tid: i32) -> bool {
    Stat::of_thread(tid).is_some_and(|stat| stat.is_runnable())
}

/// Whether a process has been seen to wait.
fn waits(pace: Entry<'_, i32, Pace>, process: &Threads) -> bool {
    match pace {
        Entry::Occupied(mut known) => known.get_mut().look(process) == pace::Sight::Waits,
        Entry::Vacant(new) => {
            new.insert(Pace::first_seen(process));
            false
        }
    }
}

/// Whether a thread of a cgroup has been killed and waits for a CPU to die.
pub(super) fn waiting_to_die(files: &Reader) -> bool {
    let some = freeze::threads(files).into_iter().take(MOST_NAMES);
    some.filter_map(Stat::of_thread).any(|stat| stat.is_dying() && stat.is_runnable())
}
