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
mod push;
mod put_back;
pub mod report;
mod set;
mod slots;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lifter::{Lifter, Task, Waits};
use pace::{Pace, Sight};
use peer::{NoAnswer, Peer};
pub use report::{Ended, Report, Summary, Whose};
use slots::{Slot, Use};
use state::account::{self, Account, POD_BURST, Rate};
use state::lifted::class::{self, Before};
use state::lifted::notes;

use crate::family::{self, FIRST_LOOK, Family};
use cgroup::process::{self, Process};
use cgroup::threads::Threads;
use cgroup::{Freezer, Reader};
use config::Config;
use state::state_dir::{self, StateDir};

const LOOK_AT_THE_STARVED: Duration = Duration::from_millis(3);
/// A look that is due within this time is made at once.
const AT_ONCE: Duration = Duration::from_micros(150);
/// If this process itself has waited for a CPU for so long by now, the node is busy and the runtime
/// waits too. `cat /proc/thread-self/schedstat` on two CPUs showed 1 ms at most in 200 runs on an idle
/// machine, and a median of 3.3 ms at load 20.
const BUSY_NODE: Duration = Duration::from_millis(3);
/// A thread that has just been killed may be about to run without help.
const DYING_LOOK: Duration = Duration::from_micros(500);
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

/// What an operation wants lifted.
#[derive(Debug)]
pub(crate) struct Plan {
    /// For people: verb and container.
    pub(crate) what: String,
    /// The container's cgroup files.
    pub(crate) files: Option<Reader>,
    /// The container's first process, if it waits to be started.
    pub(crate) init: Option<i32>,
    /// The pod whose account a program's time is booked to.
    pub(crate) pod: Option<PathBuf>,
    /// What an exec'd command may use; zero if it gets nothing.
    pub(crate) program: Duration,
    /// How often to look for a freeze, if the operation may freeze.
    pub(crate) freezes: Option<Duration>,
    pub(crate) kills: bool,
    /// The container or its pod has been throttled so far. A container that has not freezes in
    /// microseconds, except on a busy node, and there its runtime is seen to wait.
    pub(crate) is_throttled: bool,
    /// It has been throttled in more than a tenth of its periods: a thread in it that seems to wait
    /// does wait.
    pub(crate) is_starved: bool,
}

/// The lifts of one operation.
pub(crate) struct Lift<'a> {
    plan: Option<Plan>,
    config: &'a Config,
    state: &'a StateDir,
    /// Records what was lifted after the operation's own record was written.
    afterwards: Box<dyn Fn(Summary) + 'a>,
    suspicion: Suspicion,
    at_work: Option<AtWork>,
    /// How many lifters were killed, and how many came to a limit.
    lost: u32,
    turns: u32,
    rests_until: Option<Instant>,
    summary: Summary,
    recovered: Vec<String>,
}

impl std::fmt::Debug for Lift<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lift").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// A lifter at work.
#[derive(Debug)]
struct AtWork {
    stream: UnixStream,
    process: Process,
    /// It works for what the operation has started but does not wait for.
    is_for_after: bool,
}

/// What was seen of the processes that may wait for a CPU.
#[derive(Debug)]
struct Suspicion {
    outside: Pace,
    inside: BTreeMap<i32, Pace>,
    saw_dying: bool,
    /// The runtime has just been started.
    is_first: bool,
    /// All slots were taken when a process was seen to wait.
    waits_for_a_slot: bool,
    next: Instant,
    began: Instant,
    /// Whether there is no reason to look any more, and from when on.
    is_over: bool,
    ends: Option<Instant>,
}

impl Suspicion {
    fn begin() -> Suspicion {
        Suspicion {
            outside: Pace::begin(),
            inside: BTreeMap::new(),
            saw_dying: false,
            is_first: true,
            waits_for_a_slot: false,
            next: Instant::now() + FIRST_LOOK,
            began: Instant::now(),
            is_over: false,
            ends: None,
        }
    }
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
            suspicion: Suspicion::begin(),
            at_work: None,
            lost: 0,
            turns: 0,
            rests_until: None,
            summary: Summary::default(),
            recovered: Vec::new(),
        }
    }

    /// The runtime has just been started.
    pub(crate) fn begin_attempt(&mut self) {
        self.suspicion = Suspicion::begin();
        self.suspicion.is_over = self.has_had_enough();
    }

    fn has_had_enough(&self) -> bool {
        self.lost >= MOST_LOST || self.turns >= MOST_TURNS || self.summary.refused.is_some()
    }

    /// The file descriptor to poll for the end of a lifter.
    pub(crate) fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        self.at_work.as_ref().map(|at_work| at_work.stream.as_fd())
    }

    /// Looks whether a thread waits, and starts a lifter if so. Gives the time until the next look.
    pub(crate) fn look(&mut self, family: &mut Family, now: Instant) -> Option<Duration> {
        self.see_to_the_lifter();
        if self.at_work.is_some() {
            return None;
        }
        let runtime = family.pid();
        if let Some(left) = self.rest_left(now) {
            return Some(left);
        }
        if self.suspicion.ends.is_some_and(|end| now >= end) {
            self.suspicion.is_over = true;
        }
        let plan = self.plan.as_ref().filter(|_| !self.suspicion.is_over)?;
        if plan.is_freezing() {
            return self.start(runtime, None, Waits { inside: true, ..Waits::default() });
        }
        if std::mem::take(&mut self.suspicion.is_first) && process::own_wait() >= BUSY_NODE {
            return self.start(runtime, plan.init, Waits { outside: true, inside: true });
        }
        if now + AT_ONCE < self.suspicion.next {
            return Some(self.until_next(now));
        }
        if self.suspicion.waits_for_a_slot && !self.has_a_slot() {
            return self.wait_for_a_slot();
        }
        let late = now.duration_since(self.suspicion.next);
        let dying = plan.files.as_ref().filter(|_| plan.kills);
        family.look(now);
        let (waits, is_suspect) = self.suspicion.look(family, plan, dying);
        if waits != Waits::default() {
            return self.start(runtime, plan.init, waits);
        }
        // A process that is itself kept from a CPU need not look twice.
        if is_suspect && late > pace::tick() * LATE_TICKS {
            return self.start(runtime, plan.init, Waits { outside: true, inside: false });
        }
        let now = Instant::now();
        let most = if plan.is_starved { LOOK_AT_THE_STARVED } else { Duration::MAX };
        let next = family::look_again_in(self.suspicion.began.elapsed()).min(most);
        self.suspicion.next = now
            + match is_suspect {
                true if self.suspicion.saw_dying => DYING_LOOK,
                true => second_look(),
                false => next,
            };
        Some(self.until_next(now))
    }

    /// Looks once more after the runtime's end, for what the runtime has started.
    pub(crate) fn look_without_runtime(&mut self) {
        self.see_to_the_lifter();
        if self.at_work.is_some() || self.rest_left(Instant::now()).is_some() {
            return;
        }
        let Some(plan) = self.plan.as_ref().filter(|_| !self.suspicion.is_over) else { return };
        let dies = plan.kills && plan.files.as_ref().is_some_and(lifter::waiting_to_die);
        if plan.is_freezing() || dies {
            self.start(NOBODY, None, Waits { inside: true, outside: false });
        }
    }

    fn rest_left(&self, now: Instant) -> Option<Duration> {
        self.rests_until?.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    fn until_next(&self, now: Instant) -> Duration {
        let next = self.suspicion.next.saturating_duration_since(now);
        let plan = self.plan.as_ref().filter(|plan| plan.is_throttled);
        plan.and_then(|plan| plan.freezes).map_or(next, |look| next.min(look))
    }

    /// Ends the lifter of an attempt and keeps its summary. A lifter for a program or a kill continues
    /// alone.
    pub(crate) fn end_attempt(&mut self) {
        let Some(mut at_work) = self.at_work.take() else { return };
        let limit = if at_work.is_for_after { Duration::ZERO } else { ANSWER_WAIT };
        match peer::end(&mut at_work.stream, limit) {
            Ok(summary) => self.summary.add(summary),
            Err(NoAnswer::Gone) => self.recover(at_work.process),
            // The lifter writes a record of its own.
            Err(NoAnswer::Late) => {}
        }
        // If the lifter has ended, it must not be left to our caller to reap.
        let _ = sys::wait(at_work.process.pid, libc::WNOHANG);
    }

    fn see_to_the_lifter(&mut self) {
        let ends = self.at_work.as_ref().is_some_and(|at_work| peer::ends(&at_work.stream));
        let Some(mut at_work) = self.at_work.take_if(|_| ends) else { return };
        match peer::last_words(&mut at_work.stream, ANSWER_WAIT) {
            Ok(summary) => {
                self.summary.add(summary);
                self.turns += 1;
                self.rests_until = Some(Instant::now() + REST);
            }
            Err(_) => {
                self.lost += 1;
                self.recover(at_work.process);
            }
        }
        self.suspicion.is_over |= self.has_had_enough();
        // If it ends a moment later, its next parent reaps it.
        let _ = sys::wait(at_work.process.pid, libc::WNOHANG);
    }

    fn recover(&mut self, lifter: Process) {
        self.recovered.extend(notes::recover_of(&self.state.lifts(), lifter));
    }

    /// The threads of a killed container must run once more to die. The operation does not wait for
    /// that; the lifter does it alone.
    pub(crate) fn see_to_the_dying(&mut self) {
        let Some(files) = self.plan.as_ref().and_then(|plan| plan.files.as_ref()) else { return };
        let wait_to_die = || lifter::waiting_to_die(files);
        if self.at_work.is_none() && files.is_populated() && wait_to_die() {
            std::thread::sleep(DYING_LOOK);
            if wait_to_die() {
                let waits = Waits { inside: true, ..Waits::default() };
                if let Err(error) = self.try_to_start(NOBODY, None, waits, Without::OneThatWaits) {
                    self.summary.refused.get_or_insert_with(|| error.to_string());
                }
                self.is_for_after();
            }
        }
    }

    /// Lifts for a detached exec whose runtime has ended and whose program is not loaded yet.
    pub(crate) fn see_to_the_program(&mut self, pid: i32) {
        if self.at_work.is_none() {
            self.start(NOBODY, Some(pid), Waits::default());
            self.is_for_after();
        }
    }

    fn is_for_after(&mut self) {
        if let Some(at_work) = &mut self.at_work {
            at_work.is_for_after = true;
        }
    }

    /// The process of a foreground command runs. The runtime has little left to do, and a container's
    /// own program is not ours to watch.
    pub(crate) fn wind_up(&mut self) {
        let gives = self.plan.as_ref().is_some_and(|plan| !plan.program.is_zero());
        self.suspicion.ends = Some(Instant::now() + if gives { LAST_LOOK } else { Duration::ZERO });
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
            Ok(true) => None,
            Ok(false) => self.wait_for_a_slot(),
            Err(error) => {
                self.suspicion.is_over = true;
                self.summary.refused.get_or_insert_with(|| error.to_string());
                None
            }
        }
    }

    fn wait_for_a_slot(&mut self) -> Option<Duration> {
        self.suspicion.waits_for_a_slot = true;
        let look = family::look_again_in(self.suspicion.began.elapsed());
        self.suspicion.next = Instant::now() + look;
        Some(look)
    }

    /// Also true if the slots cannot be read: `start` then reports the error.
    fn has_a_slot(&self) -> bool {
        let slots = self.state.lifts().join("slots");
        !matches!(Slot::take(&slots, Use::Lift, sys::usable_cpus()), Ok(None))
    }

    /// Gives `false` if there was no slot, and so nobody was started.
    fn try_to_start(
        &mut self,
        runtime: i32,
        process: Option<i32>,
        waits: Waits,
        without: Without,
    ) -> std::io::Result<bool> {
        let cpus = sys::usable_cpus();
        let Some(task) = self.task(runtime, process, waits, cpus) else { return Ok(true) };
        self.state.lifts_made()?;
        let slot = Slot::take(&task.slots, Use::Lift, cpus)?;
        if slot.is_none() && without == Without::Nobody {
            return Ok(false);
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
        self.at_work = Some(AtWork { stream: ours, process, is_for_after: false });
        Ok(true)
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

/// When to look again at a thread that may wait. The scheduler credits a running process with its time
/// at each tick; between two ticks it looks like one that waits.
fn second_look() -> Duration {
    pace::tick() + Duration::from_micros(200)
}

/// A look that was this many ticks late was kept from a CPU by more than our own runtime.
const LATE_TICKS: u32 = 3;

impl Suspicion {
    /// Which processes wait, and whether one may.
    fn look(&mut self, family: &Family, plan: &Plan, dying: Option<&Reader>) -> (Waits, bool) {
        let mut waits = Waits::default();
        let mut is_suspect = false;
        let mut take = |sight, waits: &mut bool| match sight {
            Sight::Runs => {}
            Sight::Suspect => is_suspect = true,
            Sight::Waits => *waits = true,
        };
        if let Some(runtime) = family.runtime() {
            take(self.outside.look(runtime), &mut waits.outside);
        }
        // The init that this runtime starts is not its child.
        let init = plan.init.and_then(|pid| Threads::of(pid).ok());
        for child in family.children().chain(&init) {
            let sight = match self.inside.entry(child.pid()) {
                Entry::Occupied(mut known) => known.get_mut().look(child),
                Entry::Vacant(new) => match new.insert(Pace::first_seen(child)).is_suspect() {
                    true => Sight::Suspect,
                    false => Sight::Runs,
                },
            };
            let is_certain = plan.is_starved && sight == Sight::Suspect;
            take(if is_certain { Sight::Waits } else { sight }, &mut waits.inside);
        }
        let is_dying = dying.is_some_and(lifter::waiting_to_die);
        waits.inside |= is_dying && (self.saw_dying || plan.is_starved);
        is_suspect |= is_dying;
        self.saw_dying = is_dying;
        (waits, is_suspect)
    }
}

impl Plan {
    fn is_freezing(&self) -> bool {
        let files = self.files.as_ref().filter(|_| self.freezes.is_some());
        files.is_some_and(|f| f.freezer() == Freezer::Freezing && f.is_told_to_freeze())
    }
}
