//! How many operations of a node may lift at once.
//!
//! A slot is one byte of a file, locked through the open file (fcntl(2), F_OFD_SETLK). The lifter
//! inherits the slot from its operation. Whatever kills the two gives it back.

use std::fs::File;
use std::io;
use std::path::Path;

/// What a slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Any lift: two for each CPU, because an operation waits for something else most of the time.
    Lift,
    /// A program: one fewer than CPUs, so that on a machine of two, one CPU is left to us.
    Program,
    /// A push into the freezer: one fewer than CPUs. The pusher keeps its own CPU, and the threads that
    /// it pushes need another. Two pushers on two CPUs kept both until they reached a watcher's limit.
    Push,
}

impl Use {
    fn bytes(self, cpus: u64) -> std::ops::Range<u64> {
        const PROGRAMS: u64 = 1 << 20;
        const PUSHES: u64 = 1 << 21;
        let one_cpu_less = (cpus - 1).max(1);
        match self {
            Use::Lift => 0..2 * cpus,
            Use::Program => PROGRAMS..PROGRAMS + one_cpu_less,
            Use::Push => PUSHES..PUSHES + one_cpu_less,
        }
    }
}

/// A slot, until every process that has it drops it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) file: File,
    /// How many other slots were taken, at least.
    pub(super) others: u32,
}

impl Slot {
    /// `None` if all are taken. Does not wait.
    pub(super) fn take(path: &Path, what: Use, cpus: u64) -> io::Result<Option<Slot>> {
        let file = state::lock::open(path, true)?;
        for (others, byte) in (0..).zip(what.bytes(cpus)) {
            if lock(&file, byte)? {
                return Ok(Some(Slot { file, others }));
            }
        }
        Ok(None)
    }
}

fn lock(file: &File, byte: u64) -> io::Result<bool> {
    match (sys::ByteRange { first: byte as i64, length: 1 }).lock(file, libc::F_WRLCK, false) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_two_for_each_cpu_and_for_programs_and_pushes_one_less_than_cpus() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots");
        let take = |what| Slot::take(&path, what, 4).unwrap();
        let lifts: Vec<_> = (0..8).map(|_| take(Use::Lift).unwrap()).collect();
        assert!(take(Use::Lift).is_none());
        let programs: Vec<_> = (0..3).map(|_| take(Use::Program).unwrap()).collect();
        assert!(take(Use::Program).is_none());
        let pushes: Vec<_> = (0..3).map(|_| take(Use::Push).unwrap()).collect();
        assert!(take(Use::Push).is_none());
        assert!(lifts.iter().map(|slot| slot.others).eq(0..8));
        drop(lifts);
        assert!(take(Use::Lift).is_some());
        drop((programs, pushes));
    }

    #[test]
    fn on_a_machine_of_one_cpu_a_program_or_a_push_may_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots");
        for what in [Use::Program, Use::Push] {
            let slot = Slot::take(&path, what, 1).unwrap();
            assert!(slot.is_some() && Slot::take(&path, what, 1).unwrap().is_none());
        }
    }
}
