//! Lifts what an exec runs in the container, and its descendants.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::super::census::Kind;
use super::super::report::{Ended, Whose};
use super::super::slots::{Slot, Use};
use super::work::Work;

pub(super) struct Program {
    /// What they may use together; zero for a container's own program.
    limit: Duration,
    slot: Option<Slot>,
}

impl Program {
    pub(super) fn within(limit: Duration) -> Program {
        Program { limit, slot: None }
    }

    /// Whether the program may still use something.
    pub(super) fn is_due(&self) -> bool {
        !self.limit.is_zero()
    }

    pub(super) fn give_the_slot_back(&mut self) {
        self.slot = None;
    }

    /// Lifts one thread at a time, and on one CPU fewer than there are: a thread that spins cannot keep
    /// us from putting it back.
    pub(super) fn lift(&mut self, work: &mut Work) -> io::Result<()> {
        if !self.is_due() {
            return Ok(());
        }
        if work.set.used(Whose::Program) >= self.limit {
            put_back(work, Ended::OperationLimit);
            self.limit = Duration::ZERO;
            return Ok(());
        }
        if work.pod.without_credit_for().is_some() {
            put_back(work, Ended::PodLimit);
            return Ok(());
        }
        let runnable = work.runnable(Kind::Program, |_| false);
        let is_idle = |tid| !runnable.iter().any(|runnable| runnable.tid == tid);
        work.set.put_back_if(Ended::Done, |tid, whose| whose == Whose::Program && is_idle(tid));
        if work.set.count(Whose::Program) > 0 || runnable.is_empty() {
            return Ok(());
        }
        if !self.has_a_slot(&work.slots)? {
            return Ok(());
        }
        work.put_back_strays(runnable.iter().map(|thread| thread.tid).collect());
        for candidate in runnable {
            work.lift(&[candidate], Whose::Program)?;
            if work.set.has(candidate.tid) {
                break;
            }
        }
        Ok(())
    }

    fn has_a_slot(&mut self, slots: &Path) -> io::Result<bool> {
        if self.slot.is_none() {
            self.slot = Slot::take(slots, Use::Program, sys::usable_cpus())?;
        }
        Ok(self.slot.is_some())
    }
}

pub(super) fn put_back(work: &mut Work, ended: Ended) {
    work.set.put_back_if(ended, |_, whose| whose == Whose::Program);
}
