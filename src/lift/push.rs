//! Pushes threads of the workload that have one step left to go: into the freezer.
//!
//! It lifts a few at a time and keeps its own CPU while they are lifted. If the freeze is called off in
//! between, each of them continues in its own program. On a machine whose CPUs they all take, we would
//! get back to them only after turns of 100 ms each (sched_rr_get_interval). So we do nothing meanwhile
//! that may block. A read of freezer.state on v1 takes a mutex, and its holder may be the runtime,
//! which those threads keep from its CPU (seen: eight of them ran for a second). A look-up of a name in
//! /proc may wait for a concurrent look-up of the same name.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use super::report::{Ended, Whose};
use super::set::Set;
use cgroup::process::{self, Stat};
use cgroup::threads::Candidate;

/// How many threads, for each CPU but our own.
const AT_A_TIME: usize = 8;

/// How long they have. A thread that is not frozen by then sleeps or is stopped.
const TURN: Duration = Duration::from_micros(500);

/// How long to push, in all, before the limits are checked again.
const PASS: Duration = Duration::from_millis(20);

/// With one CPU we must leave it to them.
const NAP: Duration = Duration::from_micros(50);

/// Pushes while the freeze is under way; asks that only while no thread is lifted. Leaves the threads
/// that it has not got to in `tids`, and gives how many it lifted.
pub(super) fn into_the_freezer(
    set: &mut Set,
    tids: &mut Vec<i32>,
    is_freezing: impl Fn() -> bool,
) -> io::Result<usize> {
    let others = sys::usable_cpus() as usize - 1;
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

/// A thread that has not frozen, and its open stat file in /proc, which is read again.
struct Due {
    candidate: Candidate,
    file: File,
}

impl Due {
    /// `process` is the process of the last thread.
    fn of(tid: i32, process: &mut i32) -> Option<Due> {
        let of_the_last = File::open(format!("/proc/{process}/task/{tid}/stat")).ok();
        let is_new = of_the_last.is_none();
        let file = of_the_last.or_else(|| Stat::open_of_thread(tid).ok())?;
        let stat = Stat::from(&file).filter(Stat::is_runnable)?;
        if is_new {
            // A thread that executes a program meanwhile continues under the pid of its process.
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
