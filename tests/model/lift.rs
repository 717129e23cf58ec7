//! Lifted threads, who puts them back, and the notes that tell the next operation to do so.
//!
//! Two operations of the node, each repeating forever, of which one has a lifter when it wants one,
//! and a process of two threads that may be lifted. Threads end, and the second may execute a
//! program: it then has the number of the first, and keeps its class. A number can be reused by
//! somebody's own real-time thread, but not between a check of it and the following step: pids do
//! not wrap around so fast. Not modelled: what ends a lift (clocks and accounts: here any thread is
//! put back at any time), and a program that fights for its class (`settle` of src/lift/set.rs;
//! tests/throttled/tenants.rs). Assumed: a lifter knows the process of a thread, and an existing
//! note can be read.

use stateright::{Model, Property};

use crate::explore::{holds, trips};

const LIFTED: &str = "nothing stays lifted after its lifter, its operation and the next one";
const OTHERS: &str = "nothing is put back that we have not lifted";

const OPERATIONS: usize = 2;
/// The first operation has it.
const LIFTERS: usize = 1;
/// The number of the process, and of its first thread.
const LEADER: usize = 0;
const SECOND: usize = 1;
const THREADS: [usize; 2] = [LEADER, SECOND];

/// What is done differently from the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// set.rs, `Set::lift`: lifts, then writes the note.
    LiftedBeforeNote,
    /// set.rs, `Set::lift`: writes no line for the process of a thread.
    LeaderNotNoted,
    /// set.rs, `follow_into_its_program`.
    ProgramNotFollowed,
    /// set.rs, `Set::drop`: removes the note, then puts back.
    NoteRemovedFirst,
    /// supervise, `put_back_lifted`: does not read notes.
    NotesNotRead,
    /// notes.rs, `put_back`: removes the note, then puts back.
    LeftNoteRemovedFirst,
    /// notes.rs, `read`: also reads notes of a living lifter.
    LivingNotesRead,
    /// notes.rs, `thread`: does not check whether it is still the same thread.
    StartNotChecked,
}

/// Which thread has a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Thread {
    Gone,
    Fair,
    Lifted,
    /// The number now belongs to another thread, which is real-time by itself; the second state
    /// must not occur.
    Another,
    AnotherPutBack,
}

type Numbers = [bool; THREADS.len()];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Idle,
    /// supervise, `put_back_lifted`; notes.rs, `left`.
    ReadNotes,
    /// lift/mod.rs, `Lift::recover`; notes.rs, `recover_of`.
    ReadOwnNote,
    /// notes.rs, `put_back`: this many of its steps are done, three for each note.
    PutBack(usize),
    /// The runtime works; lift/mod.rs, `look`.
    Work,
    /// lift/mod.rs, `end_attempt`; peer.rs, `end`.
    AwaitAnswer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Operation {
    step: Step,
    has_lifter: bool,
    has_answer: bool,
    /// What it has read from each note, and must put back.
    read: [Option<Numbers>; LIFTERS],
    /// What was left lifted when it began to read.
    due: Numbers,
}

const NONE: Operation = Operation {
    step: Step::Idle,
    has_lifter: false,
    has_answer: false,
    read: [None; LIFTERS],
    due: [false; THREADS.len()],
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum LifterStep {
    Dead,
    /// notes.rs, `Note::begin`.
    BeginNote,
    /// lift/lifter/mod.rs, `run`.
    Look,
    // set.rs, `Set::lift`.
    WriteDown(usize),
    Raise(usize),
    // set.rs, `put_all_back`, and the note's removal.
    PutAllBack,
    RemoveNote,
}

/// lift/peer.rs: its end of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Peer {
    Open,
    Told,
    HungUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Lifter {
    step: LifterStep,
    set: Numbers,
    peer: Peer,
    is_alone: bool,
}

const DEAD: Lifter =
    Lifter { step: LifterStep::Dead, set: [false; 2], peer: Peer::Open, is_alone: false };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    threads: [Thread; THREADS.len()],
    operations: [Operation; OPERATIONS],
    lifters: [Lifter; LIFTERS],
    /// The file of each lifter, and the threads that have a line in it.
    notes: [Option<Numbers>; LIFTERS],
}

const BOOTED: State = State {
    threads: [Thread::Fair; THREADS.len()],
    operations: [NONE; OPERATIONS],
    lifters: [DEAD; LIFTERS],
    notes: [None; LIFTERS],
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Next(usize),
    Fork(usize),
    AnswerIsLate(usize),
    Kill(usize),
    Lifter(usize),
    Lift(usize, usize),
    PutBack(usize, usize),
    EndLifter(usize),
    KillLifter(usize),
    Executes,
    Ends(usize),
    NumberComesAgain(usize),
    LosePower,
}

struct Lift {
    broken: Broken,
}

impl Model for Lift {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![BOOTED]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // Consequences of a fault do not count.
        if state.stays_lifted() || state.has_put_back_another() {
            return;
        }
        for it in 0..OPERATIONS {
            actions.extend([Action::Next(it), Action::Fork(it), Action::AnswerIsLate(it)]);
            actions.push(Action::Kill(it));
        }
        for it in 0..LIFTERS {
            actions.extend([Action::Lifter(it), Action::EndLifter(it), Action::KillLifter(it)]);
            actions.extend(THREADS.map(|thread| Action::Lift(it, thread)));
            actions.extend(THREADS.map(|thread| Action::PutBack(it, thread)));
        }
        actions.push(Action::Executes);
        actions.extend(THREADS.map(Action::Ends));
        actions.extend(THREADS.map(Action::NumberComesAgain));
        actions.push(Action::LosePower);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Next(it) => self.step(&mut next, it)?,
            Action::Fork(it) => next.fork(it)?,
            Action::AnswerIsLate(it) if state.operations[it].step == Step::AwaitAnswer => {
                next.end(it);
            }
            Action::AnswerIsLate(_) => return None,
            Action::Kill(it) => next.end(it),
            Action::Lifter(it) => self.step_of_lifter(&mut next, it)?,
            Action::Lift(it, thread) => next.begin_to_lift(it, thread, self.broken)?,
            Action::PutBack(it, thread) if state.lifters[it].step == LifterStep::Look => {
                self.put_back(&mut next, it, thread)?;
            }
            Action::PutBack(..) => return None,
            Action::EndLifter(it) => self.end_lifter(&mut next, it)?,
            Action::KillLifter(it) => next.lifters[it] = DEAD,
            Action::Executes => next.execute()?,
            Action::Ends(LEADER) => next.threads = [Thread::Gone; THREADS.len()],
            Action::Ends(thread) => next.threads[thread] = Thread::Gone,
            Action::NumberComesAgain(thread) => next.reuse(thread)?,
            Action::LosePower => next = BOOTED,
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Lift>> {
        vec![
            Property::always(LIFTED, |_, state: &State| !state.stays_lifted()),
            Property::always(OTHERS, |_, state: &State| !state.has_put_back_another()),
        ]
    }
}

impl Lift {
    /// One step of an operation.
    fn step(&self, state: &mut State, it: usize) -> Option<()> {
        let op = state.operations[it];
        let lifter_is_dead = state.lifters.get(it).is_none_or(|it| it.step == LifterStep::Dead);
        let step = match op.step {
            Step::Idle => Step::ReadNotes,
            Step::ReadNotes => {
                state.operations[it].due = THREADS.map(|thread| state.is_left(thread));
                let is_read = |of: usize| {
                    let is_dead = state.lifters[of].step == LifterStep::Dead;
                    is_dead && self.broken != Broken::NotesNotRead
                        || self.broken == Broken::LivingNotesRead
                };
                state.operations[it].read =
                    std::array::from_fn(|of| is_read(of).then(|| self.read(state, of)).flatten());
                Step::PutBack(0)
            }
            Step::ReadOwnNote => {
                state.operations[it].read[it] = self.read(state, it);
                Step::PutBack(0)
            }
            Step::PutBack(done) => self.put_back_left(state, it, done),
            // The lifter has closed its socket, without an answer: recover.
            Step::Work | Step::AwaitAnswer if op.has_lifter && lifter_is_dead && !op.has_answer => {
                state.operations[it].has_lifter = false;
                Step::ReadOwnNote
            }
            Step::Work if op.has_lifter => {
                state.lifters[it].peer = Peer::Told;
                Step::AwaitAnswer
            }
            Step::AwaitAnswer if !op.has_answer => return None,
            Step::Work | Step::AwaitAnswer => {
                state.end(it);
                return Some(());
            }
        };
        state.operations[it].step = step;
        Some(())
    }

    /// notes.rs, `read_of`: the lines of threads that are still the same.
    fn read(&self, state: &State, of: usize) -> Option<Numbers> {
        let is_same = |thread: usize| {
            let is_same = matches!(state.threads[thread], Thread::Fair | Thread::Lifted);
            is_same || self.broken == Broken::StartNotChecked
        };
        let lines = state.notes[of]?;
        Some(THREADS.map(|thread| lines[thread] && is_same(thread)))
    }

    /// notes.rs, `put_back`: thread by thread, then the file, unless a thread has kept its class.
    fn put_back_left(&self, state: &mut State, it: usize, done: usize) -> Step {
        let steps = THREADS.len() + 1;
        if done == LIFTERS * steps {
            state.operations[it].read = [None; LIFTERS];
            return Step::Work;
        }
        let (of, at) = (done / steps, done % steps);
        let Some(lines) = state.operations[it].read[of] else {
            return Step::PutBack((of + 1) * steps);
        };
        let is_first = self.broken == Broken::LeftNoteRemovedFirst;
        let at = if is_first { (at + THREADS.len()) % steps } else { at };
        if at < THREADS.len() {
            if lines[at] {
                state.lower(at);
            }
        } else if is_first || !THREADS.iter().any(|it| lines[*it] && state.is_lifted(*it)) {
            state.notes[of] = None;
        }
        Step::PutBack(done + 1)
    }

    fn step_of_lifter(&self, state: &mut State, it: usize) -> Option<()> {
        let lifts_first = self.broken == Broken::LiftedBeforeNote;
        let step = match state.lifters[it].step {
            LifterStep::Dead => return None,
            LifterStep::BeginNote => {
                state.notes[it] = Some([false; THREADS.len()]);
                LifterStep::Look
            }
            // The operation has ended: it gets the list of lifts, and leaves the rest to the
            // lifter.
            LifterStep::Look if state.lifters[it].peer == Peer::Told => {
                if state.lifters[it].is_alone {
                    return None;
                }
                state.lifters[it].is_alone = true;
                state.operations[it].has_answer = true;
                LifterStep::Look
            }
            LifterStep::Look => return None,
            LifterStep::WriteDown(thread) => {
                // The file may already be removed.
                if let Some(lines) = &mut state.notes[it] {
                    lines[thread] = true;
                    lines[LEADER] |= self.broken != Broken::LeaderNotNoted;
                }
                if lifts_first { LifterStep::Look } else { LifterStep::Raise(thread) }
            }
            LifterStep::Raise(thread) => {
                if matches!(state.threads[thread], Thread::Fair | Thread::Lifted) {
                    state.threads[thread] = Thread::Lifted;
                    state.lifters[it].set[thread] = true;
                    state.operations.iter_mut().for_each(|op| op.due[thread] = false);
                }
                if lifts_first { LifterStep::WriteDown(thread) } else { LifterStep::Look }
            }
            LifterStep::PutAllBack => {
                match THREADS.into_iter().find(|thread| state.lifters[it].set[*thread]) {
                    Some(thread) => {
                        self.put_back(state, it, thread)?;
                        LifterStep::PutAllBack
                    }
                    None if self.broken == Broken::NoteRemovedFirst => LifterStep::Dead,
                    None => LifterStep::RemoveNote,
                }
            }
            LifterStep::RemoveNote => {
                state.notes[it] = None;
                let puts_back = self.broken == Broken::NoteRemovedFirst;
                if puts_back { LifterStep::PutAllBack } else { LifterStep::Dead }
            }
        };
        state.lifters[it].step = step;
        if step == LifterStep::Dead {
            state.lifters[it] = DEAD;
        }
        Some(())
    }

    /// set.rs, `put_back`; for a thread that is gone, follows its program.
    fn put_back(&self, state: &mut State, it: usize, thread: usize) -> Option<()> {
        let lifter = &mut state.lifters[it];
        if !std::mem::take(&mut lifter.set[thread]) {
            return None;
        }
        let follows = !lifter.set[LEADER] && self.broken != Broken::ProgramNotFollowed;
        match state.threads[thread] {
            Thread::Gone if thread != LEADER && follows => state.lower(LEADER),
            _ => state.lower(thread),
        }
        Some(())
    }

    /// lift/lifter/mod.rs, `run`: ends when it has nothing left to do, or when its operation has
    /// closed the socket.
    fn end_lifter(&self, state: &mut State, it: usize) -> Option<()> {
        let lifter = &mut state.lifters[it];
        let may_end = lifter.is_alone || lifter.peer == Peer::HungUp;
        if lifter.step != LifterStep::Look || !may_end {
            return None;
        }
        let removes = self.broken == Broken::NoteRemovedFirst;
        lifter.step = if removes { LifterStep::RemoveNote } else { LifterStep::PutAllBack };
        Some(())
    }
}

impl State {
    /// lift/mod.rs, `try_to_start`. One at a time, and not while the last one's note exists or is
    /// being read: here the two would have the same name.
    fn fork(&mut self, it: usize) -> Option<()> {
        let lifter = self.lifters.get_mut(it)?;
        let is_read = self.operations.iter().any(|op| op.read[it].is_some());
        let is_free = lifter.step == LifterStep::Dead && self.notes[it].is_none() && !is_read;
        let op = &mut self.operations[it];
        if op.step != Step::Work || op.has_lifter || !is_free {
            return None;
        }
        op.has_lifter = true;
        *lifter = Lifter { step: LifterStep::BeginNote, ..DEAD };
        Some(())
    }

    /// An operation is over or dead: the kernel closes its end of the socket.
    fn end(&mut self, it: usize) {
        self.operations[it] = NONE;
        if let Some(lifter) = self.lifters.get_mut(it).filter(|it| it.step != LifterStep::Dead) {
            lifter.peer = Peer::HungUp;
        }
    }

    /// set.rs, `Set::lift`: the previous class is noted first. A thread that is real-time by itself
    /// is not lifted.
    fn begin_to_lift(&mut self, it: usize, thread: usize, broken: Broken) -> Option<()> {
        let lifter = &mut self.lifters[it];
        let looks = lifter.step == LifterStep::Look;
        if !looks || lifter.set[thread] || self.threads[thread] != Thread::Fair {
            return None;
        }
        lifter.step = match broken {
            Broken::LiftedBeforeNote => LifterStep::Raise(thread),
            _ => LifterStep::WriteDown(thread),
        };
        Some(())
    }

    /// A thread takes the number of its process, and ends all others.
    fn execute(&mut self) -> Option<()> {
        let is_there = |it: Thread| matches!(it, Thread::Fair | Thread::Lifted);
        let may = self.threads.into_iter().all(is_there);
        self.threads = [self.threads[SECOND], Thread::Gone];
        self.operations.iter_mut().for_each(|op| op.due = [false; THREADS.len()]);
        may.then_some(())
    }

    fn reuse(&mut self, thread: usize) -> Option<()> {
        let lifts = self.lifters.iter().any(|lifter| lifter.step != LifterStep::Dead);
        let recovers = self.operations.iter().any(|op| matches!(op.step, Step::PutBack(_)));
        let may = self.threads[thread] == Thread::Gone && !lifts && !recovers;
        self.threads[thread] = Thread::Another;
        may.then_some(())
    }

    /// class.rs, `is_lifted`: decided by policy, priority and flag.
    fn is_lifted(&self, thread: usize) -> bool {
        matches!(self.threads[thread], Thread::Lifted | Thread::Another)
    }

    /// class.rs, `lower`.
    fn lower(&mut self, thread: usize) {
        self.threads[thread] = match self.threads[thread] {
            Thread::Lifted => Thread::Fair,
            Thread::Another => Thread::AnotherPutBack,
            other => other,
        };
    }

    /// Lifted, but not by a living lifter.
    fn is_left(&self, thread: usize) -> bool {
        let executed = thread == LEADER && self.threads[SECOND] == Thread::Gone;
        let has = |lifter: &Lifter| lifter.set[thread] || executed && lifter.set[SECOND];
        self.threads[thread] == Thread::Lifted && !self.lifters.iter().any(has)
    }

    /// Left lifted, and no note tells the next operation; or it was told, and did not put it back.
    fn stays_lifted(&self) -> bool {
        THREADS.into_iter().filter(|thread| self.is_left(*thread)).any(|thread| {
            let is_noted = |of: usize| {
                let is_dead = self.lifters[of].step == LifterStep::Dead;
                is_dead && self.notes[of].is_some_and(|lines| lines[thread])
            };
            let had_its_turn = |op: &Operation| op.step == Step::Work && op.due[thread];
            !(0..LIFTERS).any(is_noted) || self.operations.iter().any(had_its_turn)
        })
    }

    fn has_put_back_another(&self) -> bool {
        self.threads.contains(&Thread::AnotherPutBack)
    }
}

#[test]
fn what_is_lifted_is_put_back() {
    holds("lift", || Lift { broken: Broken::Nothing });
}

#[test]
fn a_lift_without_one_of_its_steps_is_found_out() {
    for (broken, trips_it) in [
        (Broken::LiftedBeforeNote, LIFTED),
        (Broken::LeaderNotNoted, LIFTED),
        (Broken::ProgramNotFollowed, LIFTED),
        (Broken::NoteRemovedFirst, LIFTED),
        (Broken::NotesNotRead, LIFTED),
        (Broken::LeftNoteRemovedFirst, LIFTED),
        (Broken::LivingNotesRead, LIFTED),
        (Broken::StartNotChecked, OTHERS),
    ] {
        trips(&format!("lift, {broken:?}"), || Lift { broken }, &[trips_it]);
    }
}
