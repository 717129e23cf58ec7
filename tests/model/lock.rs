//! The lock of one cgroup: flock on two files, tickets, and files that a delete removes.
//!
//! Four processes, each repeating one operation forever: an update (exclusive), a delete
//! (exclusive, which removes the files or not), two execs or `state`s (shared). If a process is
//! killed, or its time is up, the kernel closes its files and it starts again, so both are one
//! action. Power loss takes all processes and files. No counter grows: tickets are kept as ranks,
//! and files without a name are renumbered. So the number of states is finite, and "forever" is
//! explored.

use stateright::{Model, Property};

use crate::explore::{holds, trips};

const OVERLAP: &str = "two exclusives never overlap";
const STARVED: &str = "a waiter is never starved";

const UPDATE: usize = 0;
const DELETE: usize = 1;
/// This one, and all after it.
const EXEC: usize = 2;
const PROCESSES: usize = 4;

/// What is done differently from the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// wait.rs, `Wait::lock`: does not check whether the locked file was removed.
    NoInodeCheck,
    /// mod.rs, `Guard::retire`: removes the file after releasing the lock.
    RemovedWithoutLock,
    /// mod.rs, `Guard::retire`, by a process that shares the lock.
    RemovedBySharer,
    /// mod.rs, `Guard::retire`: removes the turnstile although somebody waits in it.
    RemovesTheQueue,
    /// turnstile.rs, `enter`: does not wait for those ahead.
    NoTicketOrder,
    /// mod.rs, `LockFiles::pass`: releases the turn before it has the lock.
    TurnGivenBackEarly,
    /// mod.rs, `LockFiles::look_in`: does not look into the turnstile.
    LooksPastTheTurnstile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum File {
    /// The file at the path.
    Named,
    /// A removed file.
    Orphan(u8),
}

/// The next step; in the order of the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Step {
    Idle,
    // turnstile.rs, `enter`; the first three are wait.rs, `Wait::lock`, on the turnstile.
    OpenTurnstile,
    LockTurnstile,
    CheckTurnstile,
    Draw,
    UnlockTurnstile,
    AwaitTurn,
    CheckTurn,
    // mod.rs, `LockFiles::pass`: wait.rs, `Wait::lock`, on the lock.
    Open,
    Lock,
    Check,
    LeaveTurnstile,
    /// supervise: the operation; then mod.rs, `Guard`, dropped or `retire`d.
    In,
    CheckBeforeRemoval,
    RemoveLock,
    // turnstile.rs, `remove_if_empty`.
    OpenToRemove,
    LockToRemove,
    CheckToRemove,
    RemoveTurnstile,
    // mod.rs, `LockFiles::look_in`, for `state`.
    LookIntoTurnstile,
    LookOpen,
    LookLock,
    LookCheck,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Process {
    step: Step,
    turnstile: Option<File>,
    /// Its rank among the tickets of that file; 0 is none.
    ticket: u8,
    /// Holds the flock of the turnstile file, to draw a ticket.
    draws: bool,
    lock: Option<File>,
    /// Holds the flock of the lock file.
    holds: bool,
}

const NOBODY: Process = Process {
    step: Step::Idle,
    turnstile: None,
    ticket: 0,
    draws: false,
    lock: None,
    holds: false,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    processes: [Process; PROCESSES],
    /// Whether there is a file at the path.
    turnstile: bool,
    lock: bool,
    /// How many others got the lock since the update drew its ticket.
    overtaken: u8,
}

const BOOTED: State =
    State { processes: [NOBODY; PROCESSES], turnstile: false, lock: false, overtaken: 0 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Next(usize),
    /// Instead of the next step: a look before the queue, a removal before the end.
    Instead(usize),
    KillOrTimeOut(usize),
    LosePower,
}

struct Lock {
    broken: Broken,
    deletes: bool,
    /// How many at a time.
    execs: usize,
}

impl Model for Lock {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![BOOTED]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // Consequences of a fault do not count.
        if state.overlap() || state.is_starved() {
            return;
        }
        for process in (0..PROCESSES).filter(|it| self.is_in_it(state, *it)) {
            actions.extend([
                Action::Next(process),
                Action::Instead(process),
                Action::KillOrTimeOut(process),
            ]);
        }
        actions.push(Action::LosePower);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Next(it) => next.step(it, self.broken)?,
            Action::Instead(it) => next.instead(it, self.broken)?,
            Action::KillOrTimeOut(it) => next.processes[it] = NOBODY,
            Action::LosePower => next = BOOTED,
        }
        next.number_anew();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Lock>> {
        vec![
            Property::always(OVERLAP, |_, state: &State| !state.overlap()),
            Property::always(STARVED, |_, state: &State| !state.is_starved()),
        ]
    }
}

impl Lock {
    fn is_in_it(&self, state: &State, it: usize) -> bool {
        let begun = state.processes.map(|process| process.step != Step::Idle);
        let execs = begun[EXEC..].iter().filter(|begun| **begun).count();
        match it {
            DELETE => self.deletes,
            EXEC.. => begun[it] || execs < self.execs,
            _ => true,
        }
    }
}

impl State {
    /// `None` while it must wait.
    fn step(&mut self, it: usize, broken: Broken) -> Option<()> {
        use Step::*;
        let mut process = self.processes[it];
        process.step = match process.step {
            Idle => OpenTurnstile,
            OpenTurnstile => {
                self.turnstile = true;
                process.turnstile = Some(File::Named);
                LockTurnstile
            }
            LockTurnstile if !self.is_free_to_draw(it) => return None,
            LockTurnstile => {
                process.draws = true;
                CheckTurnstile
            }
            CheckTurnstile if process.turnstile != Some(File::Named) => {
                process = Process { turnstile: None, draws: false, ..process };
                OpenTurnstile
            }
            CheckTurnstile => Draw,
            Draw => {
                let queue = self.others(it).filter(|other| other.turnstile == process.turnstile);
                process.ticket = queue.map(|other| other.ticket).max().unwrap_or(0) + 1;
                UnlockTurnstile
            }
            UnlockTurnstile => {
                process.draws = false;
                AwaitTurn
            }
            AwaitTurn if broken != Broken::NoTicketOrder && self.is_ahead_of(it) => return None,
            AwaitTurn => CheckTurn,
            CheckTurn if process.turnstile != Some(File::Named) => {
                process = Process { step: OpenTurnstile, ..NOBODY };
                OpenTurnstile
            }
            CheckTurn => {
                if broken == Broken::TurnGivenBackEarly {
                    process = Process { turnstile: None, ticket: 0, draws: false, ..process };
                }
                Open
            }
            Open => {
                self.lock = true;
                process.lock = Some(File::Named);
                Lock
            }
            Lock if !self.is_free_for(it) => return None,
            Lock => {
                process.holds = true;
                Check
            }
            Check if process.lock != Some(File::Named) && broken != Broken::NoInodeCheck => {
                process = Process { lock: None, holds: false, ..process };
                Open
            }
            Check => LeaveTurnstile,
            LeaveTurnstile => {
                process = Process { turnstile: None, ticket: 0, draws: false, ..process };
                In
            }
            CheckBeforeRemoval if process.lock == Some(File::Named) => RemoveLock,
            RemoveLock => {
                self.remove_lock();
                process.lock = self.processes[it].lock;
                if broken == Broken::RemovesTheQueue { RemoveTurnstile } else { OpenToRemove }
            }
            OpenToRemove if self.turnstile => {
                process.turnstile = Some(File::Named);
                LockToRemove
            }
            LockToRemove if self.is_free_to_draw(it) => {
                process.draws = true;
                CheckToRemove
            }
            CheckToRemove
                if process.turnstile == Some(File::Named) && !self.is_somebody_in_line() =>
            {
                RemoveTurnstile
            }
            OpenToRemove | LockToRemove | CheckToRemove => {
                process = NOBODY;
                Idle
            }
            RemoveTurnstile => {
                self.remove_turnstile();
                process = NOBODY;
                Idle
            }
            LookIntoTurnstile
                if self.is_somebody_in_line() && broken != Broken::LooksPastTheTurnstile =>
            {
                OpenTurnstile
            }
            LookIntoTurnstile => LookOpen,
            // Without a file, nobody holds the lock.
            LookOpen if !self.lock => Idle,
            LookOpen => {
                process.lock = Some(File::Named);
                LookLock
            }
            LookLock if self.is_free_for(it) => {
                process.holds = true;
                LookCheck
            }
            LookCheck if process.lock == Some(File::Named) => In,
            LookLock | LookCheck => {
                process = NOBODY;
                OpenTurnstile
            }
            In | CheckBeforeRemoval => {
                process = NOBODY;
                Idle
            }
        };
        self.count(it, process.step);
        self.processes[it] = process;
        Some(())
    }

    fn instead(&mut self, it: usize, broken: Broken) -> Option<()> {
        let process = &mut self.processes[it];
        process.step = match (it, process.step) {
            (EXEC.., Step::Idle) => Step::LookIntoTurnstile,
            (EXEC.., Step::In) if broken == Broken::RemovedBySharer => Step::RemoveLock,
            (DELETE, Step::In) if broken == Broken::RemovedWithoutLock => {
                *process = NOBODY;
                Step::RemoveLock
            }
            (DELETE, Step::In) => Step::CheckBeforeRemoval,
            _ => return None,
        };
        Some(())
    }

    fn others(&self, it: usize) -> impl Iterator<Item = &Process> {
        self.processes.iter().enumerate().filter(move |(other, _)| *other != it).map(|(_, o)| o)
    }

    /// flock(2) on the turnstile.
    fn is_free_to_draw(&self, it: usize) -> bool {
        let file = self.processes[it].turnstile;
        !self.others(it).any(|other| other.draws && other.turnstile == file)
    }

    /// turnstile.rs, `enter`: whether a byte below ours is locked.
    fn is_ahead_of(&self, it: usize) -> bool {
        let ours = &self.processes[it];
        self.others(it).any(|other| {
            other.turnstile == ours.turnstile && other.ticket > 0 && other.ticket < ours.ticket
        })
    }

    /// turnstile.rs, `is_taken`: by a process with a ticket of the file at the path.
    fn is_somebody_in_line(&self) -> bool {
        let mut all = self.processes.iter();
        self.turnstile && all.any(|it| it.turnstile == Some(File::Named) && it.ticket > 0)
    }

    /// flock(2).
    fn is_free_for(&self, it: usize) -> bool {
        let shares = |process: usize| process >= EXEC;
        (0..PROCESSES).filter(|other| *other != it).all(|other| {
            let holder = &self.processes[other];
            !holder.holds || holder.lock != self.processes[it].lock || shares(it) && shares(other)
        })
    }

    fn remove_lock(&mut self) {
        self.lock = false;
        let orphan = File::Orphan(PROCESSES as u8);
        let files = self.processes.iter_mut().map(|process| &mut process.lock);
        files.filter(|file| **file == Some(File::Named)).for_each(|file| *file = Some(orphan));
    }

    fn remove_turnstile(&mut self) {
        self.turnstile = false;
        let orphan = File::Orphan(PROCESSES as u8);
        let files = self.processes.iter_mut().map(|process| &mut process.turnstile);
        files.filter(|file| **file == Some(File::Named)).for_each(|file| *file = Some(orphan));
    }

    /// Whether two operations that exclude each other both believe that they have the lock.
    fn overlap(&self) -> bool {
        let is_in = |process: &Process| matches!(process.step, Step::In | Step::CheckBeforeRemoval);
        let exclusive = self.processes[..EXEC].iter().filter(|process| is_in(process)).count();
        exclusive > 1 || exclusive == 1 && self.processes[EXEC..].iter().any(is_in)
    }

    /// Overtaken more often than there are others, or no process can continue.
    fn is_starved(&self) -> bool {
        usize::from(self.overtaken) >= PROCESSES || self.is_stuck()
    }

    /// None of the processes that have begun can continue.
    fn is_stuck(&self) -> bool {
        let waits = |it: usize| match self.processes[it].step {
            Step::LockTurnstile | Step::AwaitTurn | Step::Lock => {
                self.clone().step(it, Broken::Nothing).is_none()
            }
            _ => false,
        };
        let mut begun =
            (0..PROCESSES).filter(|it| self.processes[*it].step != Step::Idle).peekable();
        begun.peek().is_some() && begun.all(waits)
    }

    fn count(&mut self, it: usize, next: Step) {
        let waits = (Step::UnlockTurnstile..=Step::Check).contains(&self.processes[UPDATE].step);
        match (it, next) {
            (UPDATE, Step::In | Step::UnlockTurnstile | Step::OpenTurnstile) => self.overtaken = 0,
            (UPDATE, _) => {}
            (_, Step::In) if waits => {
                self.overtaken = (self.overtaken + 1).min(PROCESSES as u8);
            }
            _ => {}
        }
    }

    /// Makes equivalent states equal: only the order of tickets counts, and which orphans are the
    /// same, but not which exec is which.
    fn number_anew(&mut self) {
        if self.processes[UPDATE].step == Step::Idle {
            self.overtaken = 0;
        }
        self.processes[EXEC..].sort();
        let before = self.processes;
        for process in &mut self.processes {
            let rank = |other: &&Process| {
                other.turnstile == process.turnstile && (1..=process.ticket).contains(&other.ticket)
            };
            process.ticket = before.iter().filter(rank).count() as u8;
        }
        name_anew(self.processes.iter_mut().map(|process| &mut process.turnstile));
        name_anew(self.processes.iter_mut().map(|process| &mut process.lock));
    }
}

fn name_anew<'a>(files: impl Iterator<Item = &'a mut Option<File>>) {
    let mut seen: Vec<u8> = Vec::new();
    for file in files {
        if let Some(File::Orphan(number)) = file {
            let known = seen.iter().position(|other| other == number).unwrap_or(seen.len());
            if known == seen.len() {
                seen.push(*number);
            }
            *number = known as u8;
        }
    }
}

#[test]
fn the_lock_is_one_and_fair() {
    holds("lock", || Lock { broken: Broken::Nothing, deletes: true, execs: 2 });
}

/// With as few processes as needed.
#[test]
fn a_lock_without_one_of_its_steps_is_found_out() {
    for (broken, deletes, execs, trips_it) in [
        (Broken::NoInodeCheck, true, 1, OVERLAP),
        (Broken::RemovedWithoutLock, true, 1, OVERLAP),
        (Broken::RemovedBySharer, false, 2, OVERLAP),
        (Broken::RemovesTheQueue, true, 1, STARVED),
        (Broken::NoTicketOrder, false, 1, STARVED),
        (Broken::TurnGivenBackEarly, false, 1, STARVED),
        (Broken::LooksPastTheTurnstile, false, 1, STARVED),
    ] {
        let lock = || Lock { broken, deletes, execs };
        trips(&format!("lock, {broken:?}"), lock, &[trips_it]);
    }
}
