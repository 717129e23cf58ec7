//! The process that lifts. It finds the threads that must run, raises them, counts what they use, and
//! puts them back.
//!
//! It is a process of its own, because its operation may be killed at any moment. It then sees the end
//! of the socket and puts everything back. While something is lifted, it is above the fair class
//! itself, at the same priority as what it has lifted and not above. It reaps nothing, writes no log,
//! and takes no lock that it would have to wait for.

mod dying;
mod freezing;
mod program;
mod runtime;
mod work;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::census::{Census, Kind};
use super::kin::Kin;
use super::peer::{Heard, Peer};
use super::report::{Ended, Summary, Whose};
use super::set::Set;
use super::slots::Slot;
use cgroup::process;
use cgroup::{Reader, freeze};
use state::account::Account;
use state::lifted::class::{self, Before};

use dying::Dying;
pub(super) use dying::{slot_for_the_dying, waiting_to_die};
use freezing::Freezing;
use program::Program;
use runtime::Runtime;
pub(super) use runtime::Waits;
use work::{LONGEST, Work};

/// Every 1 to 2 ms is as good as every 0.15 ms and costs less. New threads and children are not lifted,
/// so each has to be found.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// If the last looks found nobody new. A program is never left alone for so long.
const LOOK_LESS: Duration = Duration::from_millis(3);
const LOOK_SELDOM: Duration = Duration::from_millis(10);
/// Looks may take this part of one CPU's time, and down to a quarter of that the more lifters there are
/// for each CPU. A look at many threads, or on a machine where many look, costs more.
const LOOKS_ARE_A_PART: u32 = 8;
/// A look that lifted many is no measure for the next one.
const MOST_COST: Duration = Duration::from_micros(200);
/// How many looks without anybody new are a while.
const A_WHILE: u32 = 4;
const A_LONG_WHILE: u32 = 20;
/// How often, at the end, the lifter tries to write down what was used, a millisecond apart.
const MOST_CHARGES: u32 = 20;
/// Alone, the lifter ends after so long without work: others need the slot, too.
const IDLE: Duration = Duration::from_millis(100);

/// What one lifter is for.
#[derive(Debug)]
pub(super) struct Task {
    /// For people.
    pub(super) what: String,
    pub(super) runtime: i32,
    pub(super) files: Option<Reader>,
    /// A container's process that waits to be started, or an exec's whose runtime has ended.
    pub(super) process: Option<i32>,
    /// What an exec'd command and its descendants may use together; zero for a container's own program.
    pub(super) program_limit: Duration,
    pub(super) freezes: Option<Duration>,
    pub(super) kills: bool,
    /// What the operation has seen.
    pub(super) waits: Waits,
    pub(super) pod: Account,
    pub(super) node: Account,
    /// The part of the node's account that is kept for threads in a container.
    pub(super) kept: Duration,
    pub(super) directory: PathBuf,
    pub(super) slots: PathBuf,
    /// The slice of a fair thread, which a lifter that has been raised cannot see.
    pub(super) default_slice: u64,
}

pub(super) struct Lifter {
    work: Work,
    runtime: Runtime,
    program: Program,
    freezing: Option<Freezing>,
    dying: Option<Dying>,
    /// The container's.
    files: Option<Reader>,
    /// One of the node's slots.
    slot: Option<Slot>,
    inside_refused: bool,
    refused: Option<String>,
    /// What the operation did not wait to hear.
    unsaid: Summary,
    /// Since when no thread has been lifted or has had to be.
    idle_since: Option<Instant>,
    looks: Looks,
    /// The operation has ended; the lifter works on alone.
    is_alone: bool,
    /// Why nothing may be lifted any more.
    over: Option<Ended>,
}

/// When the next look is due, and what the last ones found.
struct Looks {
    next: Instant,
    quiet: u32,
    /// How many threads have been lifted so far.
    found: u64,
}

impl Lifter {
    /// `own` is the lifter's class before its operation raised it.
    pub(super) fn begin(task: Task, slot: Slot, own: Before) -> io::Result<Lifter> {
        let cgroup = task.files.as_ref().and_then(Reader::cpu_dir).map(|(_, dir)| dir);
        let follows = !task.program_limit.is_zero();
        let searched = task.files.as_ref().filter(|_| task.freezes.is_some() || task.kills);
        let kin = Kin::among(&searched.map(freeze::threads).unwrap_or_default());
        let set = Set::begin(&task.directory, &task.what, task.default_slice)?;
        let census = Census::new(task.runtime, cgroup, task.process, follows);
        let frozen = task.files.clone().zip(task.freezes);
        let dying = task.files.clone().filter(|_| task.kills);
        Ok(Lifter {
            work: Work::begin(set, census, kin, (task.node, task.pod), task.slots, own),
            runtime: Runtime::begin(task.waits, task.kept),
            program: Program::within(task.program_limit),
            freezing: frozen.map(|(files, every)| Freezing::of(files, every)),
            dying: dying.map(Dying::of),
            files: task.files,
            slot: Some(slot),
            inside_refused: false,
            refused: None,
            unsaid: Summary::default(),
            idle_since: None,
            looks: Looks { next: Instant::now(), quiet: 0, found: 0 },
            is_alone: false,
            over: None,
        })
    }

    /// Runs until there is no more to do; gives what the operation has not been told.
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
                self.put_all_back(ended);
                // After a limit and a rest the operation may get another lifter. It does not wait until
                // those that were put back have settled: a thread that waits for its quota takes seconds.
                if !self.is_alone {
                    self.charge();
                    self.say_so(&mut peer);
                }
                break;
            }
            self.charge();
            match peer.hear(self.pause()) {
                Heard::Nothing => {}
                Heard::End => {
                    self.is_alone = true;
                    if let Some(dying) = &mut self.dying {
                        dying.look_afresh();
                        self.looks.next = Instant::now();
                    }
                    self.put_the_operation_back();
                    self.charge();
                    self.say_so(&mut peer);
                }
                Heard::HangUp if self.is_alone => {}
                Heard::HangUp => break,
            }
        }
        self.put_all_back(Ended::Done);
        self.charge();
        self.wait_until_settled();
        self.take_summary()
    }

    fn put_all_back(&mut self, ended: Ended) {
        self.work.set.put_all_back(ended);
        self.slot = None;
        self.program.give_the_slot_back();
    }

    /// Charges for all until now, and lowers the lifter itself if nothing is lifted any more.
    fn charge(&mut self) {
        self.work.charge();
        if self.work.set.is_empty() && !self.is_holding() {
            self.work.step_down();
        }
    }

    fn say_so(&mut self, peer: &mut Peer) {
        self.work.write_accounts();
        let summary = self.take_summary();
        if !peer.answer(&summary) {
            self.unsaid = summary;
        }
    }

    /// Waits until the threads that were put back have been seen fair, and once more for each of them.
    fn wait_until_settled(&mut self) {
        let since = Instant::now();
        let mut is_last = false;
        loop {
            self.let_the_runtime_go();
            self.work.set.settle_all(Instant::now());
            self.see_to_strays();
            self.work.charge();
            let has_settled = self.has_settled();
            // With nobody left there is nothing to look at once more.
            is_last |= !self.work.set.has_former();
            if has_settled && is_last || since.elapsed() >= LONGEST {
                break;
            }
            is_last = has_settled;
            std::thread::sleep(LOOK_LESS);
            while !self.has_settled() && since.elapsed() < LONGEST {
                self.let_the_runtime_go();
                self.work.set.settle(Instant::now());
                self.work.charge();
                std::thread::sleep(LOOK_LESS);
            }
        }
        // Other lifters may be writing the accounts.
        for _ in 0..MOST_CHARGES {
            if self.work.write_accounts() {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn has_settled(&self) -> bool {
        self.work.set.is_settled() && !self.is_holding()
    }

    /// All threads of the container are looked at.
    fn see_to_strays(&mut self) {
        let Some(files) = self.files.as_ref().filter(|_| self.work.set.found() > 0) else { return };
        // Whoever was born since the last look is a member, too.
        let _ = self.work.census.look(false);
        let tids = freeze::threads(files);
        self.work.put_back_strays(tids);
    }

    fn take_summary(&mut self) -> Summary {
        let mut summary = std::mem::take(&mut self.unsaid);
        let lifts = self.work.set.take_reports();
        summary.add(Summary { lifts, refused: self.refused.take() });
        summary
    }

    fn refuse(&mut self, error: &io::Error) {
        self.refused = Some(class::refusal(error));
        self.over = Some(Ended::Done);
    }

    /// Puts back what was lifted for the operation alone.
    fn put_the_operation_back(&mut self) {
        let members = self.work.census.members().filter(|_| self.program.is_due());
        let inside: BTreeSet<i32> = members.flat_map(|m| m.threads.tids()).collect();
        let stays = |tid, whose| whose == Whose::Kill || inside.contains(&tid);
        self.work.set.put_back_if(Ended::Done, |tid, whose| !stays(tid, whose));
    }

    fn is_done(&self) -> bool {
        if !self.is_alone {
            return false;
        }
        let has_program = self.program.is_due() && !self.work.census.is_empty();
        let is_idle = self.idle_since.is_some_and(|since| since.elapsed() >= IDLE);
        !self.has_dying() && (is_idle || !has_program)
    }

    fn has_dying(&self) -> bool {
        self.dying.as_ref().is_some_and(|dying| !dying.is_empty())
    }

    fn is_holding(&self) -> bool {
        self.freezing.as_ref().is_some_and(Freezing::is_holding)
    }

    fn let_the_runtime_go(&mut self) {
        if let Some(freezing) = &mut self.freezing {
            freezing.let_the_runtime_go(&mut self.work);
        }
    }

    fn push_into_the_freezer(&mut self) -> io::Result<()> {
        self.freezing.as_mut().map_or(Ok(()), |freezing| freezing.push(&mut self.work))
    }

    fn pause(&self) -> Duration {
        if self.is_holding() {
            return LOOK_EVERY;
        }
        let next = self.looks.next.saturating_duration_since(Instant::now());
        let freezing = self.freezing.as_ref().filter(|_| !self.is_alone);
        freezing.map_or(next, |freezing| next.min(freezing.every))
    }

    fn interval(&self) -> Duration {
        let set = &self.work.set;
        match self.looks.quiet {
            _ if set.count(Whose::Program) + set.count(Whose::Kill) > 0 => LOOK_EVERY,
            _ if self.has_dying() => LOOK_LESS,
            0..A_WHILE => LOOK_EVERY,
            A_WHILE..A_LONG_WHILE => LOOK_LESS,
            _ => LOOK_SELDOM,
        }
    }

    fn look(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.let_the_runtime_go();
        if now < self.looks.next {
            return self.push_into_the_freezer();
        }
        let result = self.look_at_all(now);
        let cost = self.work.own_time().min(MOST_COST);
        let others = self.slot.as_ref().map_or(0, |slot| slot.others);
        let share = 1 + 2 * others / self.work.set.usable_cpus();
        self.looks.next = self.looks.next.max(now + cost * LOOKS_ARE_A_PART * share);
        result
    }

    fn look_at_all(&mut self, now: Instant) -> io::Result<()> {
        self.work.set.meter(now);
        self.work.set.settle(now);
        self.over = self.work.limit_reached(now);
        if self.over.is_some() {
            return Ok(());
        }
        self.looks.next = now + LOOK_EVERY;
        if let Some(wait) = self.work.node.without_credit_for() {
            self.wait_for_credit();
            self.looks.next = now + wait.clamp(LOOK_EVERY, LOOK_SELDOM);
            return Ok(());
        }
        self.see_who_is_there();
        self.lift()?;
        let is_idle =
            self.work.set.is_empty() && self.work.runnable(Kind::Program, |_| false).is_empty();
        self.idle_since = self.idle_since.or(Some(now)).filter(|_| is_idle);
        if self.work.set.count(Whose::Program) == 0 {
            self.program.give_the_slot_back();
        }
        let found = self.work.set.found();
        self.looks.quiet = if found == self.looks.found { self.looks.quiet + 1 } else { 0 };
        self.looks.found = found;
        self.looks.next = now + self.interval();
        Ok(())
    }

    fn wait_for_credit(&mut self) {
        // Dying threads have little left to do, and put back they would wait halfway.
        let asleep = self.work.stages_asleep();
        let stays = |tid, whose| whose == Whose::Kill || asleep.contains(&tid);
        self.work.set.put_back_if(Ended::NodeLimit, |tid, whose| !stays(tid, whose));
    }

    fn see_who_is_there(&mut self) {
        let may_wait = self.work.set.count(Whose::Program) == 0;
        let seen = self.work.census.look(may_wait);
        for pid in seen.executed {
            self.work.set.put_back(pid, Ended::Done);
        }
        if !seen.started.is_empty() {
            // It may have a few milliseconds to go, and two more stages after it.
            self.looks.quiet = 0;
        }
        for tid in seen.started {
            self.work.inherit(tid);
        }
    }

    fn lift(&mut self) -> io::Result<()> {
        self.push_into_the_freezer()?;
        if let Some(dying) = &mut self.dying {
            dying.lift(&mut self.work, self.runtime.waits.inside)?;
        }
        self.runtime.lift_outside(&mut self.work)?;
        self.lift_inside()?;
        if self.looks.quiet >= A_LONG_WHILE {
            runtime::put_back_sleepers(&mut self.work);
        }
        Ok(())
    }

    fn lift_inside(&mut self) -> io::Result<()> {
        if self.inside_refused || !self.runtime.waits_inside(&self.work) {
            return Ok(());
        }
        let work = &mut self.work;
        match runtime::lift_stages(work).and_then(|()| self.program.lift(work)) {
            // The container's cgroup may have no real-time runtime although ours has.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && work.is_up() => {
                self.refused = Some(class::refusal(&error));
                self.inside_refused = true;
                program::put_back(work, Ended::Done);
                Ok(())
            }
            lifted => lifted,
        }
    }
}

/// The class of this process, which is about to start a lifter.
pub(super) fn own_class(default_slice: u64) -> io::Result<Before> {
    let own = process::own_pid();
    let before = Before::of(own, default_slice)?;
    let before = before.ok_or_else(|| io::Error::other("not a fair process"))?;
    Ok(before.with_slack(&class::open_slack(own)?))
}
