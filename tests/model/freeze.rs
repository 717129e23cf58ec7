//! Freezing and thawing a cgroup, and the notes of what must be undone.
//!
//! Two operations, each repeating forever, with any verb; and strangers, who pause and resume by
//! the bare runtime while no operation of ours is at work. The lock is assumed to work as in
//! `lock`. A runtime dies with its wrapper; it can also die alone. FREEZING and FROZEN are one
//! state: the freeze was requested. A file system that outlives the boot may still have the notes.

use stateright::{Model, Property};

use crate::explore::{holds, trips};

const FROZEN: &str = "nothing stays frozen that nobody paused";
const THAWED: &str = "nothing is thawed that somebody paused";

const OPERATIONS: usize = 2;

/// What is done differently from the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// supervise, `Operation::intent`, but only after the runtime's end.
    NoteAfterFreeze,
    /// intent.rs, `recover`: removes the note, then thaws.
    NoteRemovedBeforeThaw,
    /// supervise, `Operation::finish`: removes the note, then records the pause.
    NoteRemovedBeforeRecord,
    /// attempt.rs, `Attempts::undo`.
    NothingUndone,
    /// supervise/hold.rs, `Hold::recover`: does not read notes.
    NotesNotRead,
    /// supervise, `is_paused_no_more`: trusts an old record of a pause.
    OldRecordKept,
    /// intent.rs, `undo`: does not read the record.
    RecordNotRead,
    /// attempt.rs, `Attempts::run`: retries, although another's pause prevented the undo.
    TriedAgainOnAFreeze,
    /// supervise, `Operation::finish`: removes the note, although another's pause prevented the
    /// undo.
    SkippedUndoForgotten,
    /// intent.rs, `Intent::write`: does not check whether it is frozen.
    NoLookBefore,
    /// intent.rs, `undo`: accepts a note of another boot.
    NoBootId,
    /// Known not to be covered: the kernel releases the lock of a killed wrapper, and then kills
    /// its runtime, which may write the freeze in between.
    RuntimeOutlives,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Verb {
    Pause,
    Resume,
    Update,
    Exec,
}

/// The next step; in the order of the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Idle,
    /// supervise/hold.rs, `Hold::take`.
    Lock,
    // supervise/hold.rs, `Hold::recover`; intent.rs, `recover` and `undo`.
    IsDue,
    LockToRecover,
    Judge,
    ThawLeft,
    RemoveLeft,
    /// supervise, `Operation::supervise`: a resume begins; `is_paused_no_more`.
    Record,
    // supervise, `Operation::intent`; intent.rs, `Intent::write`.
    LookBefore,
    WriteNote,
    /// attempt.rs, `Attempts::run`.
    Attempt,
    // The runtime.
    RuntimeLooks,
    RuntimeFreezes,
    RuntimeEnds,
    RuntimeThaws,
    /// attempt.rs, `Attempts::unconfirmed`.
    Confirm,
    // attempt.rs, `Attempts::undo`.
    Undo,
    ThawOwn,
    /// attempt.rs, `Attempts::next`: retry after a delay without the lock, or not.
    Again,
    LockAgain,
    // supervise, `Operation::finish`.
    RecordPause,
    RemoveNote,
    /// supervise, `Operation::settle`; what the caller sees.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Operation {
    step: Step,
    verb: Verb,
    /// Whether it got its lock and still has it.
    guard: bool,
    /// Whether there is a note, and what it says about the state before.
    note: Option<bool>,
    frozen_before: bool,
    paused_before: bool,
    left_frozen: bool,
    was_paused: bool,
    runtime: Runtime,
}

/// How the last attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Runtime {
    Failed,
    /// As verdict.rs recognizes it, and retry.rs retries it.
    DidNotFreeze,
    Succeeded,
}

const NONE: Operation = Operation {
    step: Step::Idle,
    verb: Verb::Exec,
    guard: false,
    note: None,
    frozen_before: false,
    paused_before: false,
    left_frozen: false,
    was_paused: false,
    runtime: Runtime::Failed,
};

/// Whether somebody wants it frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Wish {
    Nobody,
    /// Somebody wanted it frozen or thawed, and was killed before learning the result.
    Either,
    Paused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    frozen: bool,
    wish: Wish,
    /// crates/state/src/record.rs, `paused`.
    recorded: bool,
    /// Notes of the dead that say that it was not frozen before, and those that are being read.
    left: bool,
    left_read: bool,
    /// The same, from another boot.
    left_of_old: bool,
    lock: Option<usize>,
    /// A runtime whose wrapper is dead, and that is about to freeze.
    orphan: bool,
    operations: [Operation; OPERATIONS],
}

const BOOTED: State = State {
    frozen: false,
    wish: Wish::Nobody,
    recorded: false,
    left: false,
    left_read: false,
    left_of_old: false,
    lock: None,
    orphan: false,
    operations: [NONE; OPERATIONS],
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Begin(usize, Verb),
    Next(usize, Turn),
    Kill(usize),
    KillRuntime(usize),
    OrphanFreezes,
    StrangerPauses,
    StrangerResumes,
    /// All of /run is lost; notes on a disk stay.
    LosePower {
        notes_stay: bool,
    },
}

/// How a step turns out: well or badly; a failing runtime can leave a freeze behind, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Well,
    Badly,
    BadlyAndThawed,
}

struct Freeze {
    broken: Broken,
    /// Whether a wait for the lock may end without it.
    times_out: bool,
}

impl Model for Freeze {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![BOOTED]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // Consequences of a fault do not count.
        if self.stays_frozen(state) || state.is_about_to_thaw_a_pause() {
            return;
        }
        for it in 0..OPERATIONS {
            let verbs = [Verb::Pause, Verb::Resume, Verb::Update, Verb::Exec];
            actions.extend(verbs.map(|verb| Action::Begin(it, verb)));
            let turns = [Turn::Well, Turn::Badly, Turn::BadlyAndThawed];
            actions.extend(turns.map(|turn| Action::Next(it, turn)));
            actions.extend([Action::Kill(it), Action::KillRuntime(it)]);
        }
        actions.extend([Action::StrangerPauses, Action::StrangerResumes, Action::OrphanFreezes]);
        actions.extend([true, false].map(|notes_stay| Action::LosePower { notes_stay }));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Begin(it, verb) => next.begin(it, verb)?,
            Action::Next(it, turn) => self.step(&mut next, it, turn)?,
            Action::Kill(it) => {
                let freezes = state.operations[it].step == Step::RuntimeFreezes;
                next.orphan |= freezes && self.broken == Broken::RuntimeOutlives;
                next.kill(it);
            }
            Action::OrphanFreezes if state.orphan => (next.frozen, next.orphan) = (true, false),
            Action::OrphanFreezes => return None,
            Action::KillRuntime(it) => next.operations[it].kill_runtime()?,
            // A stranger who pauses while a note exists cannot be told from the operation that
            // died.
            Action::StrangerPauses if state.is_quiet() && !state.left => {
                (next.frozen, next.wish) = (true, Wish::Paused);
            }
            Action::StrangerResumes if state.is_quiet() => {
                (next.frozen, next.wish) = (false, Wish::Nobody);
            }
            Action::StrangerPauses | Action::StrangerResumes => return None,
            Action::LosePower { notes_stay } => {
                next = State { left_of_old: notes_stay && state.has_notes(), ..BOOTED };
            }
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Freeze>> {
        vec![
            Property::always(FROZEN, |model: &Freeze, state| !model.stays_frozen(state)),
            Property::always(THAWED, |_, state: &State| !state.is_about_to_thaw_a_pause()),
        ]
    }
}

impl Freeze {
    /// `None` while it must wait, or if it cannot turn out like this.
    fn step(&self, state: &mut State, it: usize, turn: Turn) -> Option<()> {
        use Step::*;
        let broken = self.broken;
        let op = state.operations[it];
        let next = match (op.step, turn) {
            (Lock | LockAgain, Turn::Well) if state.lock.is_none() => {
                state.lock = Some(it);
                let step = if op.step == Lock { IsDue } else { Attempt };
                Operation { step, guard: true, ..op }
            }
            // It goes ahead without the lock.
            (Lock | LockAgain, Turn::Badly) if self.times_out && state.lock.is_some() => {
                let step = if op.step == Lock { IsDue } else { Attempt };
                Operation { step, ..op }
            }
            (IsDue, Turn::Well) => {
                let is_due = state.left || state.left_read || state.left_of_old;
                let step = match op.guard {
                    _ if !is_due || broken == Broken::NotesNotRead => op.recovered(),
                    true => Judge,
                    false => LockToRecover,
                };
                Operation { step, ..op }
            }
            // An operation that waited for its own lock in vain does not wait again.
            (LockToRecover, Turn::Well) if state.lock.is_none() => {
                state.lock = Some(it);
                Operation { step: Judge, ..op }
            }
            (LockToRecover, Turn::Badly) if state.lock.is_some() => {
                Operation { step: op.recovered(), ..op }
            }
            (Judge, Turn::Well) => {
                (state.left, state.left_read) = (false, state.left || state.left_read);
                let counts = state.left_read || state.left_of_old && broken == Broken::NoBootId;
                let is_pause = state.recorded && broken != Broken::RecordNotRead;
                let thaws = counts && state.frozen && !is_pause;
                if thaws && broken == Broken::NoteRemovedBeforeThaw {
                    (state.left_read, state.left_of_old) = (false, false);
                }
                Operation { step: if thaws { ThawLeft } else { RemoveLeft }, ..op }
            }
            (ThawLeft, Turn::Well) => {
                state.thaw();
                Operation { step: RemoveLeft, ..op }
            }
            (RemoveLeft, Turn::Well) => {
                (state.left_read, state.left_of_old) = (false, false);
                state.release_after_recovery(it);
                Operation { step: op.recovered(), ..op }
            }
            (Record, Turn::Well) => self.record_before(state, op),
            (LookBefore, Turn::Well) => {
                let frozen_before = state.frozen && broken != Broken::NoLookBefore;
                let is_late = broken == Broken::NoteAfterFreeze;
                let step = if is_late { Attempt } else { WriteNote };
                Operation { step, frozen_before, ..op }
            }
            (WriteNote, Turn::Well) => {
                Operation { step: Attempt, note: Some(op.frozen_before), ..op }
            }
            (Attempt, Turn::Well) => {
                let is_ours = op.left_frozen && !state.recorded;
                let frozen_before = state.frozen && !is_ours;
                let step = if op.verb == Verb::Resume { RuntimeThaws } else { RuntimeLooks };
                Operation { step, frozen_before, paused_before: state.recorded, ..op }
            }
            (RuntimeLooks, Turn::Well) if !state.frozen => Operation { step: RuntimeFreezes, ..op },
            // A pause fails because the container is already paused; an update keeps the freeze.
            (RuntimeLooks, Turn::Well) => {
                let is_update = op.verb == Verb::Update;
                let runtime = if is_update { Runtime::Succeeded } else { Runtime::Failed };
                Operation { step: Confirm, runtime, ..op }
            }
            (RuntimeFreezes, Turn::Well) => {
                state.frozen = true;
                let step = if op.verb == Verb::Pause { RuntimeEnds } else { RuntimeThaws };
                Operation { step, ..op }
            }
            (RuntimeEnds, Turn::Well) => {
                Operation { step: Confirm, runtime: Runtime::Succeeded, ..op }
            }
            (RuntimeThaws, Turn::Well) => {
                (state.frozen, state.wish) = (false, Wish::Nobody);
                Operation { step: Confirm, runtime: Runtime::Succeeded, ..op }
            }
            // As in runc on cgroup v2.
            (RuntimeEnds | RuntimeThaws, Turn::Badly) => {
                Operation { step: Confirm, runtime: Runtime::DidNotFreeze, ..op }
            }
            (RuntimeEnds | RuntimeThaws, Turn::BadlyAndThawed) if op.verb != Verb::Resume => {
                (state.frozen, state.wish) = (false, Wish::Nobody);
                Operation { step: Confirm, runtime: Runtime::DidNotFreeze, ..op }
            }
            (Confirm, Turn::Well) => {
                let is_pause = op.verb == Verb::Pause;
                let note = match broken {
                    Broken::NoteAfterFreeze if op.verb != Verb::Resume => Some(op.frozen_before),
                    _ => op.note,
                };
                let thawed = is_pause && op.has_succeeded() && !state.frozen;
                let runtime = if thawed { Runtime::DidNotFreeze } else { op.runtime };
                Operation { step: Undo, runtime, note, ..op }
            }
            // The freeze was requested, but it does not freeze.
            (Confirm, Turn::Badly) if op.verb == Verb::Pause && op.has_succeeded() => {
                Operation { step: Undo, runtime: Runtime::DidNotFreeze, ..op }
            }
            (Undo, Turn::Well) => {
                let is_due =
                    op.guard && !op.has_succeeded() && op.may_freeze() && !op.frozen_before;
                let is_anothers = state.is_of_another_pause(it);
                let thaws = is_due && state.frozen && !is_anothers;
                let thaws = thaws && broken != Broken::NothingUndone;
                Operation { step: if thaws { ThawOwn } else { Again }, ..op }
            }
            (ThawOwn, Turn::Well) => {
                state.thaw();
                Operation { step: Again, ..op }
            }
            (Again, Turn::Well) => Operation { step: RecordPause, ..op },
            (Again, Turn::Badly) if op.runtime == Runtime::DidNotFreeze && op.may_freeze() => {
                let left_frozen = !op.frozen_before && state.frozen;
                if left_frozen && op.guard && broken != Broken::TriedAgainOnAFreeze {
                    return None;
                }
                state.release(it);
                Operation { step: LockAgain, guard: false, left_frozen, ..op }
            }
            (RecordPause, Turn::Well) if broken == Broken::NoteRemovedBeforeRecord => {
                Operation { step: RemoveNote, note: self.note_at_the_end(state, it), ..op }
            }
            (RecordPause, Turn::Well) => {
                state.record_pause(op);
                Operation { step: RemoveNote, ..op }
            }
            (RemoveNote, Turn::Well) if broken == Broken::NoteRemovedBeforeRecord => {
                state.record_pause(op);
                Operation { step: End, ..op }
            }
            (RemoveNote, Turn::Well) => {
                Operation { step: End, note: self.note_at_the_end(state, it), ..op }
            }
            (End, Turn::Well) => {
                state.left |= op.note == Some(false);
                state.release(it);
                state.tell_the_caller(op);
                NONE
            }
            _ => return None,
        };
        state.operations[it] = next;
        Some(())
    }

    /// supervise, `Operation::finish`: a freeze that is left because the lock is missing or another
    /// pauses is for the next operation.
    fn note_at_the_end(&self, state: &State, it: usize) -> Option<bool> {
        let op = state.operations[it];
        let is_anothers = state.another_pauses(it) && self.broken != Broken::SkippedUndoForgotten;
        let may_have_left_one = (!op.guard || is_anothers) && !op.has_succeeded() && state.frozen;
        op.note.filter(|frozen_before| may_have_left_one && !frozen_before)
    }

    /// No operation is at work, and no note tells the next one to thaw; or it was told, and did
    /// not.
    fn stays_frozen(&self, state: &State) -> bool {
        if !state.frozen || state.wish != Wish::Nobody {
            return false;
        }
        let is_taken_for_a_pause = state.recorded && self.broken != Broken::RecordNotRead;
        let is_forgotten = state.is_quiet() && (!state.left || is_taken_for_a_pause);
        let has_recovered = |it: usize| {
            let op = &state.operations[it];
            op.guard && op.step == Step::Record && !state.operations[1 - it].is_at_work()
        };
        is_forgotten || (0..OPERATIONS).any(has_recovered)
    }

    fn record_before(&self, state: &mut State, op: Operation) -> Operation {
        if op.verb == Verb::Resume {
            let was_paused = state.recorded;
            state.recorded = false;
            if state.wish == Wish::Paused {
                state.wish = Wish::Either;
            }
            return Operation { step: Step::Attempt, was_paused, ..op };
        }
        let is_paused_no_more = op.guard && state.recorded && !state.frozen;
        let only_a_pause = self.broken == Broken::OldRecordKept && op.verb != Verb::Pause;
        if is_paused_no_more && !only_a_pause {
            state.recorded = false;
        }
        Operation { step: Step::LookBefore, ..op }
    }
}

impl Operation {
    fn has_succeeded(&self) -> bool {
        self.runtime == Runtime::Succeeded
    }

    fn may_freeze(&self) -> bool {
        matches!(self.verb, Verb::Pause | Verb::Update)
    }

    /// The step after the recovery.
    fn recovered(&self) -> Step {
        if self.verb == Verb::Exec { Step::End } else { Step::Record }
    }

    fn kill_runtime(&mut self) -> Option<()> {
        use Step::*;
        let runs = matches!(self.step, RuntimeLooks | RuntimeFreezes | RuntimeEnds | RuntimeThaws);
        (self.step, self.runtime) = (Confirm, Runtime::Failed);
        runs.then_some(())
    }

    fn thaws(&self) -> bool {
        matches!(self.step, Step::ThawLeft | Step::ThawOwn)
    }

    /// Its runtime may have frozen something that it has not checked yet.
    fn is_at_work(&self) -> bool {
        use Step::*;
        !matches!(self.step, Idle | Lock | IsDue | LockToRecover | LockAgain)
    }
}

impl State {
    fn begin(&mut self, it: usize, verb: Verb) -> Option<()> {
        let is_idle = self.operations[it].step == Step::Idle;
        // An exec shares its lock, and takes this one only to recover.
        let step = if verb == Verb::Exec { Step::IsDue } else { Step::Lock };
        self.operations[it] = Operation { step, verb, ..NONE };
        is_idle.then_some(())
    }

    fn kill(&mut self, it: usize) {
        self.left |= self.operations[it].note == Some(false);
        if self.lock == Some(it) {
            self.left |= std::mem::take(&mut self.left_read);
        }
        self.release(it);
        self.operations[it] = NONE;
    }

    fn release(&mut self, it: usize) {
        self.lock = self.lock.filter(|holder| *holder != it);
    }

    /// supervise/hold.rs, `Hold::recover`: releases the lock that it took only to recover.
    fn release_after_recovery(&mut self, it: usize) {
        if !self.operations[it].guard {
            self.release(it);
        }
    }

    fn thaw(&mut self) {
        (self.frozen, self.wish) = (false, Wish::Nobody);
    }

    /// attempt.rs, `is_of_another_pause`.
    fn is_of_another_pause(&self, it: usize) -> bool {
        let is_recorded = self.recorded && !self.operations[it].paused_before;
        is_recorded || self.another_pauses(it)
    }

    /// intent.rs, `another_pauses`: by the other's note.
    fn another_pauses(&self, it: usize) -> bool {
        let other = &self.operations[1 - it];
        other.note.is_some() && other.verb == Verb::Pause
    }

    /// supervise, `Operation::finish`.
    fn record_pause(&mut self, op: Operation) {
        let is_paused = op.verb == Verb::Pause && op.has_succeeded();
        if is_paused || op.was_paused && self.frozen {
            self.recorded = true;
            if self.wish == Wish::Nobody {
                self.wish = Wish::Either;
            }
        }
    }

    fn tell_the_caller(&mut self, op: Operation) {
        let is_paused = op.verb == Verb::Pause && op.has_succeeded();
        let stays_paused = op.was_paused && !op.has_succeeded();
        if (is_paused || stays_paused) && self.frozen {
            self.wish = Wish::Paused;
        }
    }

    fn is_quiet(&self) -> bool {
        self.operations.iter().all(|op| op.step == Step::Idle)
    }

    fn has_notes(&self) -> bool {
        let of_living = self.operations.iter().any(|op| op.note == Some(false));
        of_living || self.left || self.left_read || self.left_of_old
    }

    fn is_about_to_thaw_a_pause(&self) -> bool {
        self.frozen && self.wish == Wish::Paused && self.operations.iter().any(Operation::thaws)
    }
}

#[test]
fn what_is_frozen_and_thawed_is_what_was_asked_for() {
    holds("freeze", || Freeze { broken: Broken::Nothing, times_out: false });
}

#[test]
fn a_recovery_without_one_of_its_steps_is_found_out() {
    for (broken, trips_it) in [
        (Broken::NoteAfterFreeze, FROZEN),
        (Broken::NoteRemovedBeforeThaw, FROZEN),
        (Broken::NoteRemovedBeforeRecord, FROZEN),
        (Broken::NothingUndone, FROZEN),
        (Broken::SkippedUndoForgotten, FROZEN),
        (Broken::TriedAgainOnAFreeze, FROZEN),
        (Broken::NotesNotRead, FROZEN),
        (Broken::OldRecordKept, FROZEN),
        (Broken::RecordNotRead, THAWED),
        (Broken::NoLookBefore, THAWED),
        (Broken::NoBootId, THAWED),
        (Broken::RuntimeOutlives, FROZEN),
    ] {
        trips(&format!("freeze, {broken:?}"), || Freeze { broken, times_out: false }, &[trips_it]);
    }
}

/// Known not to be covered: an operation that has waited in vain goes ahead, at the same time as
/// the holder.
#[test]
fn without_the_lock_neither_holds() {
    let freeze = || Freeze { broken: Broken::Nothing, times_out: true };
    trips("freeze, without the lock", freeze, &[FROZEN, THAWED]);
}
