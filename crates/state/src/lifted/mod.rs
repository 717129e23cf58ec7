//! Threads above the fair scheduling class: one thread's way up and back, what is up there right now, and
//! the recovery from a lifter that is dead. Who is to be lifted, and for how long, is the lifter's.

pub mod class;
pub mod hold;
pub mod notes;

use class::Before;

/// Whether this kernel lets us lift a process: lifts it, and puts it back at once.
pub fn trial(pid: i32) -> std::io::Result<()> {
    let before = Before::of(pid, class::default_slice())?
        .ok_or_else(|| std::io::Error::other("not a fair process"))?;
    class::raise(pid, &before)?;
    class::lower(pid, &before);
    class::mend(pid, &before);
    Ok(())
}
