//! Gives a CPU to the threads that must run, for as long as they must, and to no others.
//!
//! A container starves if its threads get no CPU: its quota is spent, its weight is small, or the node
//! is busy. The runtime then fails or crawls, because its own stages, the threads that must freeze and
//! the threads that must die all run in that container. These threads, and no others, are lifted above
//! the fair scheduling class, where neither quota nor neighbour holds them up, and then put back.
//!
//! This module is the operation's side. It looks whether a thread waits. Only then does it start a
//! lifter, a process of its own, which does the rest. docs/unable-to-freeze.md has the measurements.

mod census;
mod kin;
mod lifted;
mod lifter;
mod pace;
mod peer;
mod plan;
mod push;
mod put_back;
pub mod report;
mod set;
mod slots;
mod suspicion;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use lifter::{Lifter, Task, Waits};
use peer::{NoAnswer, Peer};
pub(crate) use plan::Plan;
pub use report::{Ended, Report, Summary, Whose};
use slots::{Slot, Use};
use state::account::{self, Account, POD_BURST, Rate};
use state::lifted::class::{self, Before};
use state::lifted::notes;
use suspicion::{DYING_LOOK, Look, Suspicion};

use crate::family::Family;
use cgroup::process::{self, Process};
use config::Config;
use state::state_dir::{self, StateDir};

/// How often to look for a freeze: runc 1.1 to 1.5 lets a cgroup freeze for some 2 ms before it thaws
/// it again (fs/freezer.go).
pub(crate) const FREEZE_LOOK: Duration = Duration::from_micros(300);
/// A container that is being created has few threads to freeze, and there is much else to look at
/// first.
pub(crate) const FREEZE_LOOK_OF_A_NEW_ONE: Duration = Duration::from_millis(1);
/// How long a foreground exec is still watched after its command has started.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// Stands for the runtime after its end: no process has this pid.
const NOBODY: i32 = i32::MAX;

/// How long a lifter has to put its operation's threads back and to say what it lifted. While it has
/// threads lifted, it is above the fair class itself.
const ANSWER_WAIT: Duration = Duration::from_millis(100);

/// A lifter ends by then, whatever it waits for: for a slot, and then twice its own limit.
const LONGEST_OF_ALL: Duration = Duration::from_secs(12);

/// After so many killed lifters, an operation starts no more.
const MOST_LOST: u32 = 3;

/// After a lifter has come to a limit, the next one waits for `REST`; there are at most `MOST_TURNS`.
const REST: Duration = Duration::from_secs(1);
const MOST_TURNS: u32 = 8;

/// The node's burst is what its share yields in this time.
const NODE_BURST_MS: u64 = 500;

/// The lifts of one operation.
pub(crate) struct Lift<'a> {
    plan: Option<Plan>,
    config: &'a Config,
    state: &'a StateDir,
    /// Records what was lifted after the operation's own record was written.
    afterwards: Box<dyn Fn(Summary) + 'a>,
    stage: Stage,
    /// From when on there is no reason to look any more.
    ends: Option<Instant>,
    /// How many lifters were killed, and how many ended while the operation went on.
    lost: u32,
    turns: u32,
    /// Lifters that have answered and may still run.
    answered: Vec<i32>,
    summary: Summary,
    recovered: Vec<String>,
}

impl std::fmt::Debug for Lift<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lift").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// Where the lift stands.
#[derive(Debug)]
enum Stage {
    Watching(Suspicion),
    AtWork(AtWork),
    /// After a limit.
    Resting {
        until: Instant,
    },
    /// Nothing more is lifted.
    Over,
}

/// A lifter at work.
#[derive(Debug)]
struct AtWork {
    stream: UnixStream,
    process: Process,
    /// It works for what the operation has started but does not wait for.
    is_for_after: bool,
}

impl<'a> Lift<'a> {
    pub(crate) fn new(
        plan: Option<Plan>,
        config: &'a Config,
        state: &'a StateDir,
        afterwards: Box<dyn Fn(Summary) + 'a>,
    ) -> Lift<'a> {
        // Without the pids of /proc no process can be found.
        let plan = plan.filter(|_| process::pids_are_of_proc());
        Lift {
            plan,
            config,
            state,
            afterwards,
            stage: Stage::Over,
            ends: None,
            lost: 0,
            turns: 0,
            answered: Vec::new(),
            summary: Summary::default(),
            recovered: Vec::new(),
        }
    }

    /// The runtime has just been started.
    pub(crate) fn begin_attempt(&mut self) {
        self.ends = None;
        self.stage = match self.stage {
            _ if self.has_had_enough() => Stage::Over,
            Stage::Resting { until } => Stage::Resting { until },
            _ => Stage::Watching(Suspicion::begin()),
        };
    }

    fn has_had_enough(&self) -> bool {
        self.lost >= MOST_LOST || self.turns >= MOST_TURNS || self.summary.refused.is_some()
    }

    fn at_work(&self) -> Option<&AtWork> {
        match &self.stage {
            Stage::AtWork(at_work) => Some(at_work),
            _ => None,
        }
    }

    /// The file descriptor to poll for the end of a lifter.
    pub(crate) fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        self.at_work().map(|at_work| at_work.stream.as_fd())
    }

    /// Looks whether a thread waits, and starts a lifter if so. Gives the time until the next look.
    pub(crate) fn look(&mut self, family: &mut Family, now: Instant) -> Option<Duration> {
        self.reap();
        self.see_to_the_lifter();
        self.go_on(now);
        let plan = self.plan.as_ref()?;
        let look = match &mut self.stage {
            Stage::Watching(suspicion) => suspicion.look(family, plan, self.state, now),
            Stage::Resting { until } => return Some(until.saturating_duration_since(now)),
            Stage::AtWork(_) | Stage::Over => return None,
        };
        match look {
            Look::Again(next) => Some(next),
            Look::Start { process, waits } => self.start(family.pid(), process, waits),
        }
    }

    /// Ends the watch, or a rest.
    fn go_on(&mut self, now: Instant) {
        let is_past = |end: Instant| now >= end;
        match self.stage {
            Stage::Watching(_) | Stage::Resting { .. } if self.ends.is_some_and(is_past) => {
                self.stage = Stage::Over;
            }
            Stage::Resting { until } if is_past(until) => {
                self.stage = Stage::Watching(Suspicion::again());
            }
            _ => {}
        }
    }

    /// Looks once more after the runtime's end, for what the runtime has started.
    pub(crate) fn look_without_runtime(&mut self) {
        self.see_to_the_lifter();
        self.go_on(Instant::now());
        let (Some(plan), Stage::Watching(_)) = (&self.plan, &self.stage) else { return };
        let dies = plan.kills && plan.files.as_ref().is_some_and(lifter::waiting_to_die);
        if plan.is_freezing() || dies {
            self.start(NOBODY, None, Waits { inside: true, outside: false });
        }
    }

    /// Ends the lifter of an attempt and keeps its summary. A lifter for a program or a kill continues
    /// alone.
    pub(crate) fn end_attempt(&mut self) {
        let Some(mut at_work) = self.take_at_work() else { return };
        let limit = if at_work.is_for_after { Duration::ZERO } else { ANSWER_WAIT };
        match peer::end(&mut at_work.stream, limit) {
            Ok(summary) => self.summary.add(summary),
            Err(NoAnswer::Gone) => self.recover(at_work.process),
            // The lifter writes a record of its own.
            Err(NoAnswer::Late) => {}
        }
        self.answered.push(at_work.process.pid);
        self.reap();
    }

    /// Afterwards the operation watches again.
    fn take_at_work(&mut self) -> Option<AtWork> {
        match std::mem::replace(&mut self.stage, Stage::Watching(Suspicion::again())) {
            Stage::AtWork(at_work) => Some(at_work),
            other => {
                self.stage = other;
                None
            }
        }
    }

    fn see_to_the_lifter(&mut self) {
        if !self.at_work().is_some_and(|at_work| peer::ends(&at_work.stream)) {
            return;
        }
        let Some(mut at_work) = self.take_at_work() else { return };
        match peer::last_words(&mut at_work.stream, ANSWER_WAIT) {
            Ok(summary) => {
                self.summary.add(summary);
                self.turns += 1;
                self.stage = Stage::Resting { until: Instant::now() + REST };
            }
            Err(_) => {
                self.lost += 1;
                self.recover(at_work.process);
            }
        }
        if self.has_had_enough() {
            self.stage = Stage::Over;
        }
        self.answered.push(at_work.process.pid);
    }

    /// A lifter lives on for a while after its answer. If it ends after the operation, its next parent reaps
    /// it.
    fn reap(&mut self) {
        let runs = |pid: &i32| matches!(sys::wait(*pid, libc::WNOHANG), Ok(sys::Wait::Running));
        self.answered.retain(runs);
    }

    fn recover(&mut self, lifter: Process) {
        self.recovered.extend(notes::recover_of(&self.state.lifts(), lifter));
    }

    /// The threads of a killed container must run once more to die. The operation does not wait for
    /// that; the lifter does it alone.
    pub(crate) fn see_to_the_dying(&mut self) {
        self.see_to_the_lifter();
        let Some(files) = self.plan.as_ref().and_then(|plan| plan.files.as_ref()) else { return };
        let wait_to_die = || lifter::waiting_to_die(files);
        if self.at_work().is_none() && files.is_populated() && wait_to_die() {
            std::thread::sleep(DYING_LOOK);
            if wait_to_die() {
                let waits = Waits { inside: true, ..Waits::default() };
                let started = self.try_to_start(NOBODY, None, waits, Without::OneThatWaits);
                self.is_for_after(started);
            }
        }
    }

    /// Lifts for a detached exec whose runtime has ended and whose program is not loaded yet.
    pub(crate) fn see_to_the_program(&mut self, pid: i32) {
        self.see_to_the_lifter();
        if self.at_work().is_none() {
            let started = self.try_to_start(NOBODY, Some(pid), Waits::default(), Without::Nobody);
            self.is_for_after(started);
        }
    }

    fn is_for_after(&mut self, started: std::io::Result<Option<AtWork>>) {
        match started {
            Ok(Some(at_work)) => {
                self.stage = Stage::AtWork(AtWork { is_for_after: true, ..at_work });
            }
            Ok(None) => {}
            Err(error) => self.refuse(&error),
        }
    }

    /// The process of a foreground command runs. The runtime has little left to do, and a container's
    /// own program is not ours to watch.
    pub(crate) fn wind_up(&mut self) {
        let gives = self.plan.as_ref().is_some_and(|plan| !plan.program.is_zero());
        self.ends = Some(Instant::now() + if gives { LAST_LOOK } else { Duration::ZERO });
    }

    pub(crate) fn take_summary(&mut self) -> Summary {
        std::mem::take(&mut self.summary)
    }

    /// What a dead lifter had left lifted and was put back.
    pub(crate) fn take_recovered(&mut self) -> Vec<String> {
        std::mem::take(&mut self.recovered)
    }

    /// Why nothing was lifted although it should have been.
    pub(crate) fn refused(&self) -> Option<&str> {
        self.summary.refused.as_deref()
    }

    /// Starts a lifter. If all slots are taken, gives the time until the next look.
    fn start(&mut self, runtime: i32, process: Option<i32>, waits: Waits) -> Option<Duration> {
        match self.try_to_start(runtime, process, waits, Without::Nobody) {
            Ok(Some(at_work)) => self.stage = Stage::AtWork(at_work),
            Ok(None) => {
                let Stage::Watching(suspicion) = &mut self.stage else { return None };
                return Some(suspicion.wait_for_a_slot());
            }
            Err(error) => {
                self.stage = Stage::Over;
                self.refuse(&error);
            }
        }
        None
    }

    fn refuse(&mut self, error: &std::io::Error) {
        self.summary.refused.get_or_insert_with(|| error.to_string());
    }

    /// Gives `None` if there was no slot, and so nobody was started.
    fn try_to_start(
        &self,
        runtime: i32,
        process: Option<i32>,
        waits: Waits,
        without: Without,
    ) -> std::io::Result<Option<AtWork>> {
        let cpus = sys::usable_cpus();
        let Some(task) = self.task(runtime, process, waits, cpus) else { return Ok(None) };
        self.state.lifts_made()?;
        let slot = Slot::take(&task.slots, Use::Lift, cpus)?;
        if slot.is_none() && without == Without::Nobody {
            return Ok(None);
        }
        let has_slot = slot.is_some();
        let (ours, theirs) = UnixStream::pair()?;
        let own = lifter::own_class(task.default_slice)?;
        let Some(pid) = sys::fork()? else { self.be_the_lifter(task, slot, theirs, own) };
        // Raised here, while this process has a CPU: the lifter would have to wait for one to raise
        // itself. If the kernel refuses, the lifter will find that out itself.
        if has_slot {
            let _ = class::raise(pid, &own);
        }
        let process = Process::of(pid).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(Some(AtWork { stream: ours, process, is_for_after: false }))
    }

    fn task(&self, runtime: i32, process: Option<i32>, waits: Waits, cpus: u64) -> Option<Task> {
        let plan = self.plan.as_ref()?;
        let directory = self.state.lifts();
        let node = Rate {
            percent: self.config.lift.node_percent * cpus,
            burst: Duration::from_millis(
                self.config.lift.node_percent * cpus * NODE_BURST_MS / 100,
            ),
        };
        let pod = Rate { percent: self.config.lift.pod_percent, burst: POD_BURST };
        let accounts = self.state.accounts();
        let pod_file = plan.pod.as_ref().map(|pod| state_dir::file_name(pod.as_os_str()));
        Some(Task {
            what: plan.what.clone(),
            runtime,
            files: plan.files.clone(),
            process,
            program_limit: plan.program.saturating_sub(self.summary.cpu(Whose::Program)),
            freezes: plan.freezes,
            kills: plan.kills,
            waits,
            pod: Account::new(accounts.join(pod_file.unwrap_or_default()), pod),
            kept: node.burst * 3 / 4,
            node: Account::new(directory.join("node"), node),
            slots: directory.join("slots"),
            directory,
            default_slice: class::default_slice(),
        })
    }

    /// Keeps nothing of the operation but its end of the socket and a slot. The container's output or a
    /// lock would otherwise stay open until the lifter ends.
    fn be_the_lifter(&self, task: Task, slot: Option<Slot>, stream: UnixStream, own: Before) -> ! {
        let _ = nix::unistd::setsid();
        sys::end_ourselves_after(LONGEST_OF_ALL);
        let _ = std::env::set_current_dir("/");
        let _ = nix::sys::prctl::set_name(c"frostlock-lift");
        let mut kept = vec![stream.as_raw_fd()];
        kept.extend(slot.as_ref().map(|slot| slot.file.as_raw_fd()));
        sys::close_all_but(&mut kept);
        sys::occupy_closed_stdio();
        sys::allow_more_files();
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _ = state_dir::make_private(&self.state.accounts());
            let mut peer = Peer(Some(stream));
            let slot_later = || lifter::slot_for_the_dying(&task.slots, task.files.as_ref()?);
            let Some(slot) = slot.or_else(slot_later) else { return };
            let summary = match Lifter::begin(task, slot, own) {
                Ok(lifter) => lifter.run(peer),
                Err(error) => {
                    class::lower(process::own_pid(), &own);
                    let refused = Some(format!("no note: {error}"));
                    peer.answer(&Summary { lifts: Vec::new(), refused });
                    return;
                }
            };
            if summary.lifts.iter().any(|report| report.whose != Whose::Watcher) {
                (self.afterwards)(summary);
            }
            account::sweep(&self.state.accounts());
        }));
        sys::exit_now(0)
    }
}

/// Who is started if all slots are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    /// The operation looks again.
    Nobody,
    /// The operation ends, and nobody would look again: a lifter that waits, in the fair class.
    OneThatWaits,
}
