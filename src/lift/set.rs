//! The lifted threads: for each, what it was before, for whom it was lifted and what it has used.
//!
//! Dropping the set puts everything back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

use super::lifted::{Lifted, Ready};
use super::put_back::PutBack;
use super::report::{Ended, Report, Whose};
use cgroup::process::Stat;
use cgroup::threads::{Candidate, Clock};
use state::lifted::class;
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
pub(super) struct Set {
    note: Note,
    lifted: BTreeMap<i32, Lifted>,
    former: PutBack,
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
}

impl Set {
    /// Without a note nothing may be lifted.
    pub(super) fn begin(directory: &Path, what: &str, default_slice: u64) -> io::Result<Set> {
        Ok(Set {
            note: Note::begin(directory, what)?,
            lifted: BTreeMap::new(),
            former: PutBack::begin(),
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
            cpus: u32::try_from(sys::online_cpus()).unwrap_or(u32::MAX),
            usable_cpus: u32::try_from(sys::usable_cpus()).unwrap_or(u32::MAX),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lifted.is_empty()
    }

    pub(super) fn may_hold(&mut self, may: bool) {
        self.former.may_hold = may;
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
            if self.has(*tid)
                || self.former.is_held(*tid)
                || self.spent.contains(&(*tid, stat.start))
            {
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
            self.former.is_lifted_again(tid);
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
            self.former.put_back(process, lifted);
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
            self.former.add(tid, lifted);
        }
        if let Some(tally) = self.tallies.get_mut(&whose).filter(|_| ended != Ended::Done) {
            tally.ended = ended;
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.former.is_settled()
    }

    /// Whether any thread was put back that may resist.
    pub(super) fn has_former(&self) -> bool {
        !self.former.is_empty()
    }

    /// Looks again at the threads that were put back, and puts back again any that is not what it was
    /// before.
    pub(super) fn settle(&mut self, now: Instant) {
        // There may be thousands of threads that were frozen, and they run nothing before the end.
        self.settle_those(now, |whose| whose != Whose::Freeze);
    }

    pub(super) fn settle_all(&mut self, now: Instant) {
        self.settle_those(now, |_| true);
    }

    fn settle_those(&mut self, now: Instant, is_due: impl Fn(Whose) -> bool) {
        let lifted = &self.lifted;
        self.former.find_again(&self.note, now, |tid| lifted.contains_key(&tid), is_due);
        let again = self.former.look(&self.note, now);
        for (whose, gained) in again.gains {
            self.book(whose, gained, now);
        }
        for whose in again.killed {
            self.tally(whose, now).ended = Ended::Killed;
        }
    }

    pub(super) fn put_back_strays(
        &mut self,
        tids: impl IntoIterator<Item = i32>,
        is_member: impl Fn(i32) -> bool,
        now: Instant,
    ) {
        let lifted = &self.lifted;
        for tid in tids.into_iter().filter(|tid| !lifted.contains_key(tid)) {
            self.former.put_back_stray(tid, &is_member, &self.note, now);
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

impl Drop for Set {
    fn drop(&mut self) {
        self.put_all_back(Ended::Done);
        // Whoever comes next looks at one that could not be put back.
        if !self.former.is_any_lifted(&self.note) {
            self.note.remove();
        }
    }
}
