//! The lifted threads: for each, what it was before, for whom it was lifted and what it has used.
//!
//! Dropping the set puts everything back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

use super::report::{Ended, Report, Whose};
use cgroup::process::{self, Process, Stat};
use cgroup::threads::{Candidate, Clock};
use state::lifted::class::{self, Before};
use state::lifted::hold::Hold;
use state::lifted::notes::Note;

/// What one thread may use above the fair class, in CPU time; a program's threads have a limit of their
/// own. runc's busiest thread of a create or an exec used 9 ms here. This limit also ends any loop that
/// a lifted thread is in inside the kernel.
const THREAD_LIMIT: Duration = Duration::from_millis(40);

/// What the work of one use has cost.
#[derive(Debug, Clone, Copy)]
struct Tally {
    threads: u32,
    cpu: Duration,
    first: Instant,
    last: Instant,
    ended: Ended,
}

/// The CPU time of a process with all its threads, including ended ones, as far as it is known which
/// thread used it. The rest, `unknown`, is the most that threads which have ended since can have used.
#[derive(Debug)]
struct Total {
    clock: ClockId,
    known: Duration,
}

impl Total {
    fn of(pid: i32) -> Option<Total> {
        let clock = clock_getcpuclockid(Pid::from_raw(pid)).ok()?;
        Some(Total { clock, known: Duration::from(clock.now().ok()?) })
    }

    /// None if the process is gone.
    fn unknown(&self) -> Option<Duration> {
        Some(Duration::from(self.clock.now().ok()?).saturating_sub(self.known))
    }
}

#[derive(Debug)]
struct Lifted {
    process: i32,
    start: u64,
    whose: Whose,
    before: Before,
    /// CPU time over its whole life.
    used: Duration,
    /// CPU time since it was lifted.
    gained: Duration,
    looked: Instant,
    clock: Clock,
    slack: Option<File>,
}

/// What must be known of a thread before it is lifted.
struct Ready {
    before: Before,
    used: Duration,
    clock: Clock,
    slack: Option<File>,
}

impl Ready {
    fn of(tid: i32, default_slice: u64) -> Option<Ready> {
        let clock = Clock::of(tid).ok()?;
        let slack = class::open_slack(tid).ok();
        let mut before = Before::of(tid, default_slice).ok()??;
        if let Some(slack) = &slack {
            before = before.with_slack(slack);
        }
        Some(Ready { before, used: clock.read()?, clock, slack })
    }
}

/// A thread that was put back. A second thread of its program may still make it real-time again: by a call
/// that passed the kernel's check while the first was lifted, and completes once the second runs again.
#[derive(Debug)]
struct Former {
    process: i32,
    start: u64,
    whose: Whose,
    before: Before,
}

/// A thread that was put back, until it is certain that it stays fair. One that calls
/// sched_setscheduler all the time to keep its class may have passed the kernel's check before it was
/// put back, and be given the class afterwards (__sched_setscheduler, 6.18). Once it has run as a fair
/// thread, it has no such call under way.
#[derive(Debug)]
struct Settling {
    lifted: Lifted,
    fair_looks: u32,
    /// How many rows of put-backs it has survived.
    lost: u32,
    hold: Option<Hold>,
}

impl Settling {
    fn begin(lifted: Lifted) -> Settling {
        Settling { lifted, fair_looks: 0, lost: 0, hold: None }
    }

    fn put_back(&mut self, tid: i32, may_hold: bool) {
        let before = &self.lifted.before;
        let is_held = self.hold.is_some();
        let resists = !is_held && class::lower_firmly(tid, before) && class::is_lifted(tid);
        self.lost += u32::from(resists);
        if resists && may_hold {
            self.hold = Hold::of(tid);
        }
        self.let_go();
    }

    /// A thread that stays above the fair class keeps a CPU for ever. Only a program that is after just
    /// that gets here.
    fn is_to_be_killed(&self, tid: i32) -> bool {
        self.lost == MOST_LOST
            && self.lifted.clock.read().is_some()
            && !class::may_raise_itself(tid)
    }

    /// Lets the thread go once it has stopped.
    fn let_go(&mut self) {
        let before = &self.lifted.before;
        self.hold = self.hold.take().filter(|hold| !hold.lower(before));
    }
}

#[derive(Debug)]
pub(super) struct Set {
    note: Note,
    lifted: BTreeMap<i32, Lifted>,
    settling: BTreeMap<i32, Settling>,
    former: BTreeMap<i32, Former>,
    /// Threads that have had their share; with the start time, because pids are reused.
    spent: BTreeSet<(i32, u64)>,
    tallies: BTreeMap<Whose, Tally>,
    /// CPU time in earlier reports.
    reported: BTreeMap<Whose, Duration>,
    /// CPU time used since it was last charged.
    uncharged: Duration,
    uncharged_program: Duration,
    found: u64,
    /// When all were last counted, and what the threads that have ended since may have used together.
    metered: Instant,
    unseen: Duration,
    /// The processes whose threads are lifted.
    processes: BTreeMap<i32, Total>,
    cpus: u32,
    usable_cpus: u32,
    default_slice: u64,
    /// The lifter's own start time.
    since: u64,
    /// Whether a thread that resists may be held still. Not while the runtime is held: ptrace may have
    /// to wait while another thread of the same process executes a program.
    may_hold: bool,
}

impl Set {
    /// Without a note nothing may be lifted.
    pub(super) fn begin(directory: &Path, what: &str, default_slice: u64) -> io::Result<Set> {
        Ok(Set {
            note: Note::begin(directory, what)?,
            lifted: BTreeMap::new(),
            settling: BTreeMap::new(),
            former: BTreeMap::new(),
            spent: BTreeSet::new(),
            tallies: BTreeMap::new(),
            reported: BTreeMap::new(),
            uncharged: Duration::ZERO,
            uncharged_program: Duration::ZERO,
            found: 0,
            metered: Instant::now(),
            unseen: Duration::ZERO,
            processes: BTreeMap::new(),
            default_slice,
            since: Process::ourselves().map_or(u64::MAX, |lifter| lifter.start),
            may_hold: true,
            cpus: u32::try_from(sys::online_cpus()).unwrap_or(u32::MAX),
            usable_cpus: u32::try_from(sys::usable_cpus()).unwrap_or(u32::MAX),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lifted.is_empty()
    }

    pub(super) fn may_hold(&mut self, may: bool) {
        self.may_hold = may;
    }

    pub(super) fn usable_cpus(&self) -> u32 {
        self.usable_cpus
    }

    pub(super) fn count(&self, whose: Whose) -> usize {
        self.lifted.values().filter(|lifted| lifted.whose == whose).count()
    }

    /// How many times a thread was lifted, in all.
    pub(super) fn found(&self) -> u64 {
        self.found
    }

    pub(super) fn has(&self, tid: i32) -> bool {
        self.lifted.contains_key(&tid)
    }

    /// Lifts those candidates that may be lifted and are not yet. Between the first and the last raise
    /// it does nothing that may block.
    pub(super) fn lift(&mut self, those: &[Candidate], whose: Whose) -> io::Result<()> {
        let mut prepared = Vec::new();
        let mut noted = None;
        for Candidate { tid, process, stat } in those {
            let is_held = self.settling.get(tid).is_some_and(|settling| settling.hold.is_some());
            if self.has(*tid) || is_held || self.spent.contains(&(*tid, stat.start)) {
                continue;
            }
            // The thread has ended, or it is above the fair class by itself.
            let Some(ready) = Ready::of(*tid, self.default_slice) else { continue };
            self.note.add(*tid, stat.start, &ready.before);
            if process != tid && noted != Some((*process, ready.before)) {
                noted = Some((*process, ready.before));
                if let Some(leader) = Stat::of_thread(*process) {
                    self.note.add(*process, leader.start, &ready.before);
                }
            }
            prepared.push((*tid, *process, stat.start, ready));
        }
        self.note.write_down()?;
        let now = Instant::now();
        for (tid, process, start, ready) in prepared {
            match class::raise(tid, &ready.before) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
                Err(error) => return Err(error),
            }
            let Ready { before, used, clock, slack } = ready;
            let gained = Duration::ZERO;
            self.found += 1;
            let is_shared = matches!(whose, Whose::Runtime | Whose::Program);
            if is_shared && !self.processes.contains_key(&process) {
                self.processes.extend(Total::of(process).map(|total| (process, total)));
            }
            self.settling.remove(&tid);
            let lifted =
                Lifted { process, start, whose, before, used, gained, looked: now, clock, slack };
            self.lifted.insert(tid, lifted);
            self.tally(whose, now).threads += 1;
        }
        Ok(())
    }

    fn tally(&mut self, whose: Whose, now: Instant) -> &mut Tally {
        let none =
            Tally { threads: 0, cpu: Duration::ZERO, first: now, last: now, ended: Ended::Done };
        self.tallies.entry(whose).or_insert(none)
    }

    /// Counts what the lifted threads have used, and puts back those that have used too much.
    pub(super) fn meter(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.metered);
        (self.unseen, self.metered) = (passed * self.cpus, now);
        // Living threads first: what they have used was not used by the ended ones.
        let mut readings: Vec<_> =
            self.lifted.iter().map(|(tid, lifted)| (*tid, lifted.clock.read())).collect();
        readings.sort_by_key(|(_, used)| used.is_none());
        for (tid, used) in readings {
            if self.count_one(tid, used, now) {
                let has_its_share = |lifted: &&Lifted| {
                    lifted.whose != Whose::Program && lifted.gained >= THREAD_LIMIT
                };
                if let Some(lifted) = self.lifted.get(&tid).filter(has_its_share) {
                    // This lifter does not lift it again.
                    self.spent.insert((tid, lifted.start));
                    self.put_back(tid, Ended::ThreadLimit);
                }
            }
        }
        let has_lifted = |process: i32| self.lifted.values().any(|it| it.process == process);
        self.processes.retain(|process, total| {
            total.known += total.unknown().unwrap_or_default();
            has_lifted(*process)
        });
    }

    /// Counts one thread; gives whether it still exists.
    fn count_one(&mut self, tid: i32, used: Option<Duration>, now: Instant) -> bool {
        let Some(lifted) = self.lifted.get_mut(&tid) else { return false };
        let (is_there, mut gained) = (used.is_some(), lifted.gain(used, now));
        let (whose, process) = (lifted.whose, lifted.process);
        let total = self.processes.get_mut(&process);
        if !is_there {
            let most = total.as_ref().and_then(|total| total.unknown()).unwrap_or(gained);
            gained = gained.min(self.unseen).min(most);
            self.unseen -= gained;
        }
        if let Some(total) = total {
            total.known += gained;
        }
        self.book(whose, gained, now);
        if !is_there {
            if let Some(lifted) = self.lifted.remove(&tid) {
                self.follow_into_its_program(tid, lifted);
            }
        }
        is_there
    }

    /// A thread that executes a program takes the pid of its process and keeps its class.
    fn follow_into_its_program(&mut self, tid: i32, lifted: Lifted) {
        let process = lifted.process;
        if process == tid || self.has(process) || !class::lower_firmly(process, &lifted.before) {
            return;
        }
        if let Ok(clock) = Clock::of(process) {
            let used = clock.read().unwrap_or_default();
            let slack = class::open_slack(process).ok();
            let start = Stat::of_thread(process).map_or(lifted.start, |stat| stat.start);
            let lifted = Lifted { start, used, clock, slack, ..lifted };
            self.former.insert(process, Former::of(&lifted));
            self.settling.insert(process, Settling::begin(lifted));
        }
    }

    fn book(&mut self, whose: Whose, gained: Duration, now: Instant) {
        let tally = self.tally(whose, now);
        tally.cpu += gained;
        tally.last = now;
        self.uncharged += gained;
        if whose == Whose::Program {
            self.uncharged_program += gained;
        }
    }

    pub(super) fn put_back(&mut self, tid: i32, ended: Ended) {
        let Some(lifted) = self.lifted.get(&tid) else { return };
        class::lower(tid, &lifted.before);
        if let Some(slack) = &lifted.slack {
            class::mend_in(slack, &lifted.before);
        }
        let whose = lifted.whose;
        let is_there = self.count_one(tid, lifted.clock.read(), Instant::now());
        if let Some(lifted) = self.lifted.remove(&tid).filter(|_| is_there && whose.may_resist()) {
            self.former.insert(tid, Former::of(&lifted));
            // A thread that sleeps or is frozen has no such call of its own under way.
            if Stat::of_thread(tid).is_some_and(|stat| stat.is_runnable()) {
                let mut settling = Settling::begin(lifted);
                settling.put_back(tid, self.may_hold);
                self.settling.insert(tid, settling);
            }
        }
        if let Some(tally) = self.tallies.get_mut(&whose).filter(|_| ended != Ended::Done) {
            tally.ended = ended;
        }
    }

    /// Looks again at the threads that were put back, and puts back again any that is not what it was
    /// before.
    pub(super) fn settle(&mut self, now: Instant) {
        // There may be thousands of threads that were frozen, and they run nothing before the end.
        self.find_again(now, |whose| whose != Whose::Freeze);
        let (mut gains, mut killed) = (Vec::new(), Vec::new());
        let (may_hold, note) = (self.may_hold, &self.note);
        let is_anothers = |tid, start| is_dying(tid) || note.is_anothers(tid, start);
        self.settling.retain(|tid, settling| {
            let lifted = &mut settling.lifted;
            let was_lifted = class::is_lifted(*tid);
            // A thread that has been told to stop must stop before it can be let go.
            if was_lifted && settling.hold.is_none() && is_anothers(*tid, lifted.start) {
                return false;
            }
            let used = lifted.clock.read();
            let (is_there, gained) = (used.is_some(), lifted.gain(used, now));
            if was_lifted || settling.hold.is_some() {
                gains.push((lifted.whose, gained));
                settling.fair_looks = 0;
                settling.put_back(*tid, may_hold);
                if settling.is_to_be_killed(*tid) {
                    sys::kill(settling.lifted.process, libc::SIGKILL);
                    killed.push(settling.lifted.whose);
                }
            } else if !gained.is_zero() || !Stat::of_thread(*tid).is_some_and(|s| s.is_runnable()) {
                settling.fair_looks += 1;
            }
            is_there && settling.fair_looks < ENOUGH_LOOKS
        });
        for (whose, gained) in gains {
            self.book(whose, gained, now);
        }
        for whose in killed {
            self.tally(whose, now).ended = Ended::Killed;
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settling.is_empty()
    }

    /// Whether any thread was put back that may resist.
    pub(super) fn has_former(&self) -> bool {
        !self.former.is_empty()
    }

    /// Looks at all threads that were ever put back.
    pub(super) fn settle_all(&mut self, now: Instant) {
        self.find_again(now, |_| true);
        self.settle(now);
    }

    /// Puts back threads that have a class of ours and were not lifted. The kernel copies a thread without
    /// the lock under which its class changes (dup_task_struct, kernel/fork.c, 6.18). So a child that is
    /// born during a put-back may have the policy of before and the RESET_ON_FORK of after. It is scheduled
    /// as fair (sched_fork), and may make itself real-time at any time, as that changes no policy.
    /// `is_member` says whether a process belongs to the operation.
    pub(super) fn put_back_strays(
        &mut self,
        tids: impl IntoIterator<Item = i32>,
        is_member: impl Fn(i32) -> bool,
        now: Instant,
    ) {
        for tid in tids {
            if !self.is_known(tid) && class::is_lifted(tid) {
                if let Some(lifted) = self.stray(tid, &is_member, now) {
                    self.put_back_again(tid, lifted);
                }
            }
        }
    }

    /// A thread that was real-time when the lifter began, or that another one lifts, is left alone.
    fn stray(&self, tid: i32, is_member: impl Fn(i32) -> bool, now: Instant) -> Option<Lifted> {
        let stat = Stat::of_thread(tid)?;
        let is_born_real_time = || {
            stat.start >= self.since
                && process::of_thread(tid).is_some_and(|pid| {
                    is_member(pid) || self.has_had(pid) || self.has_had(stat.parent)
                })
                && !self.note.is_anothers(tid, stat.start)
        };
        if !stat.is_fair() && !is_born_real_time() {
            return None;
        }
        let (start, whose) = (stat.start, Whose::Program);
        Former { process: tid, start, whose, before: Before::ordinary() }.again(tid, now)
    }

    /// Whether a thread of this process was ever put back.
    fn has_had(&self, process: i32) -> bool {
        self.former.values().any(|former| former.process == process)
    }

    fn is_known(&self, tid: i32) -> bool {
        self.lifted.contains_key(&tid) || self.settling.contains_key(&tid)
    }

    fn put_back_again(&mut self, tid: i32, lifted: Lifted) {
        let mut settling = Settling::begin(lifted);
        settling.put_back(tid, self.may_hold);
        self.former.insert(tid, Former::of(&settling.lifted));
        self.settling.insert(tid, settling);
    }

    fn find_again(&mut self, now: Instant, is_due: impl Fn(Whose) -> bool) {
        let is_known = |tid: &i32| self.lifted.contains_key(tid) || self.settling.contains_key(tid);
        let mut again = Vec::new();
        self.former.retain(|tid, former| {
            if !is_due(former.whose) || is_known(tid) {
                return true;
            }
            let Some(is_lifted) = class::look(*tid) else { return false };
            if !is_lifted || is_dying(*tid) || self.note.is_anothers(*tid, former.start) {
                return true;
            }
            again.extend(former.again(*tid, now).map(|lifted| (*tid, lifted)));
            false
        });
        for (tid, lifted) in again {
            self.put_back_again(tid, lifted);
        }
    }

    /// Puts back all that are so: first all of them, and then it is counted what they have used.
    pub(super) fn put_back_if(&mut self, ended: Ended, is_so: impl Fn(i32, Whose) -> bool) {
        let those = self.lifted.iter().filter(|(tid, lifted)| is_so(**tid, lifted.whose));
        let tids: Vec<i32> = those
            .map(|(tid, lifted)| {
                class::lower(*tid, &lifted.before);
                *tid
            })
            .collect();
        for tid in tids {
            self.put_back(tid, ended);
        }
    }

    pub(super) fn put_all_back(&mut self, ended: Ended) {
        self.put_back_if(ended, |_, _| true);
    }

    /// Books CPU time that the lifter itself used above the fair class.
    pub(super) fn book_watcher(&mut self, cpu: Duration) {
        let now = Instant::now();
        let tally = self.tally(Whose::Watcher, now);
        tally.threads = 1;
        tally.cpu += cpu;
        tally.last = now;
        self.uncharged += cpu;
    }

    /// What was used since the last call: by all, and by programs.
    pub(super) fn take_uncharged(&mut self) -> (Duration, Duration) {
        let all = std::mem::take(&mut self.uncharged);
        (all, std::mem::take(&mut self.uncharged_program))
    }

    /// What they have used so far, whether reported or not.
    pub(super) fn used(&self, whose: Whose) -> Duration {
        let reported = self.reported.get(&whose).copied().unwrap_or_default();
        reported + self.tallies.get(&whose).map_or(Duration::ZERO, |tally| tally.cpu)
    }

    /// What is new since the last call.
    pub(super) fn take_reports(&mut self) -> Vec<Report> {
        let reports = self.reports();
        for report in &reports {
            *self.reported.entry(report.whose).or_default() += report.cpu;
        }
        self.tallies.retain(|whose, _| self.lifted.values().any(|lifted| lifted.whose == *whose));
        let now = Instant::now();
        for tally in self.tallies.values_mut() {
            *tally = Tally { threads: 0, cpu: Duration::ZERO, first: now, last: now, ..*tally };
        }
        reports
    }

    fn reports(&self) -> Vec<Report> {
        let report = |(whose, tally): (&Whose, &Tally)| Report {
            whose: *whose,
            threads: tally.threads,
            cpu: tally.cpu,
            took: tally.last.saturating_duration_since(tally.first),
            ended: tally.ended,
        };
        self.tallies.iter().map(report).collect()
    }
}

/// A thread that dies runs nothing more, and may have been lifted for that.
fn is_dying(tid: i32) -> bool {
    Stat::of_thread(tid).is_some_and(|stat| stat.is_dying())
}

/// In how many looks a thread must have run as a fair one, or have slept.
const ENOUGH_LOOKS: u32 = 2;

/// A thread that is still lifted after so many rows of put-backs (`lower_firmly`) will not stay fair.
const MOST_LOST: u32 = 50;

impl Former {
    fn of(lifted: &Lifted) -> Former {
        let Lifted { process, start, whose, before, .. } = *lifted;
        Former { process, start, whose, before }
    }

    /// None if the number is another thread's now, the thread has the right to raise itself, or it dies.
    fn again(&self, tid: i32, now: Instant) -> Option<Lifted> {
        let Former { process, start, whose, before } = *self;
        let clock = Clock::of(tid).ok()?;
        let used = clock.read()?;
        let stat = Stat::of_thread(tid).filter(|stat| stat.start == start)?;
        if stat.is_dying() || class::may_raise_itself(tid) {
            return None;
        }
        let (gained, slack) = (Duration::ZERO, class::open_slack(tid).ok());
        Some(Lifted { process, start, whose, before, used, gained, looked: now, clock, slack })
    }
}

impl Lifted {
    /// What it has used since the last look. If it is gone, the most that it can have used.
    fn gain(&mut self, used: Option<Duration>, now: Instant) -> Duration {
        let gained = match used {
            Some(used) => used.saturating_sub(self.used),
            None => now.saturating_duration_since(self.looked),
        };
        self.used += gained;
        self.gained += gained;
        self.looked = now;
        gained
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        self.put_all_back(Ended::Done);
        // Whoever comes next looks at one that could not be put back.
        let mut all = self.settling.keys().chain(self.former.keys());
        if !all.any(|tid| class::is_lifted(*tid)) {
            self.note.remove();
        }
    }
}
