//! Threads above the fair scheduling class: one thread's way up and back, what is lifted right now, and
//! the recovery from a dead lifter. Which threads to lift, and for how long, is for the lifter to
//! decide.

pub mod class;
pub mod hold;
pub mod notes;

use class::Before;

/// Whether this kernel lets us lift a process. Lifts it and puts it back at once.
pub fn trial(pid: i32) -> std::io::Result<()> {
    let before = Before::of(pid, class::default_slice())?
        .ok_or_else(|| std::io::Error::other("not a fair process"))?;
    class::raise(pid, &before)?;
    class::lower(pid, &before);
    class::mend(pid, &before);
    Ok(())
}
