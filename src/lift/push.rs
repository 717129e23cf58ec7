//! Threads of the workload that have but one step to go: into the freezer.
//!
//! A few at a time, and we do not let go of our CPU while they are lifted: should the freeze be called
//! off in between, each of them runs on in its own program, and on a machine whose CPUs are all taken
//! by them we would get back to it after turns of 100 ms each (sched_rr_get_interval). So nothing is
//! done meanwhile that may wait for another: freezer.state on v1 is read under a mutex, and whoever has
//! that may be the runtime, which those threads keep from its CPU (met: eight of them ran for a second);
//! a name in /proc is waited for while another looks it up.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use super::report::{Ended, Whose};
use super::set::Set;
use cgroup::process::{self, Stat};
use cgroup::threads::Candidate;

/// How many, for each CPU but our own.
const AT_A_TIME: usize = 8;

/// How long they have: a thread that is not frozen after that sleeps, or is stopped.
const TURN: Duration = Duration::from_micros(500);

/// All of them together, until the bounds are looked at.
const PASS: Duration = Duration::from_millis(20);

/// Where there is one CPU we have to leave it to them.
const NAP: Duration = Duration::from_micros(50);

/// While it is to freeze, which is asked while none is lifted. Leaves those that it has not come to, and
/// gives how many were lifted.
pub(super) fn into_the_freezer(
    set: &mut Set,
    tids: &mut Vec<i32>,
    is_freezing: impl Fn() -> bool,
) -> io::Result<usize> {
    let others = sys::online_cpus() as usize - 1;
    let (mut lifted, mut process, since) = (0, 0, Instant::now());
    while !tids.is_empty() && since.elapsed() <= PASS && is_freezing() {
        let few: Vec<i32> = tids.drain(..tids.len().min((others * AT_A_TIME).max(1))).collect();
        let due: Vec<Due> = few.iter().filter_map(|tid| Due::of(*tid, &mut process)).collect();
        let those: Vec<Candidate> = due.iter().map(|due| due.candidate).collect();
        let begun = set.lift(&those, Whose::Freeze);
        if begun.is_ok() {
            wait_for(&due, others == 0);
        }
        lifted += due.len();
        set.put_back_if(Ended::Done, |_, whose| whose == Whose::Freeze);
        begun?;
    }
    Ok(lifted)
}

/// A thread that has not frozen, and its line in /proc, to be read again.
struct Due {
    candidate: Candidate,
    file: File,
}

impl Due {
    /// `process` is whose the last one was.
    fn of(tid: i32, process: &mut i32) -> Option<Due> {
        let of_the_last = File::open(format!("/proc/{process}/task/{tid}/stat")).ok();
        let is_new = of_the_last.is_none();
        let file = of_the_last.or_else(|| Stat::open_of_thread(tid).ok())?;
        let stat = Stat::from(&file).filter(Stat::is_runnable)?;
        if is_new {
            // One that executes a program meanwhile goes on under the number of its process.
            *process = process::of_thread(tid)?;
        }
        Some(Due { candidate: Candidate { tid, process: *process, stat }, file })
    }
}

fn wait_for(due: &[Due], naps: bool) {
    let since = Instant::now();
    let mut left = due;
    while let Some((first, rest)) = left.split_first() {
        if since.elapsed() >= TURN {
            return;
        }
        if Stat::from(&first.file).is_some_and(|stat| stat.is_runnable()) {
            if naps {
                std::thread::sleep(NAP);
            }
        } else {
            left = rest;
        }
    }
}
