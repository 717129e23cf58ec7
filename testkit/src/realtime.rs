//! Threads above the fair class, in the class of a lift, whoever owns them.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::command::run;

/// A thread as in its `stat`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thread {
    pub pid: i32,
    pub tid: i32,
    /// In clock ticks since the boot.
    pub start: u64,
    pub comm: String,
}

const SCHED_RR: u64 = 2;
const PRIORITY: u64 = 1;

/// Every thread of the machine that is SCHED_RR with priority 1, except those that have ended.
pub fn lifted_threads() -> Vec<Thread> {
    let pids = numbers("/proc");
    let tasks = pids.into_iter().flat_map(|pid| {
        numbers(&format!("/proc/{pid}/task")).into_iter().map(move |tid| (pid, tid))
    });
    tasks.filter_map(|(pid, tid)| lifted(pid, tid)).collect()
}

fn lifted(pid: i32, tid: i32) -> Option<Thread> {
    let stat = Stat::of(pid, tid)?;
    let is_lifted = stat.policy == SCHED_RR && stat.priority == PRIORITY;
    let has_ended = matches!(stat.state, 'Z' | 'X');
    let thread = Thread { pid, tid, start: stat.start, comm: stat.comm };
    (is_lifted && !has_ended).then_some(thread)
}

/// proc_pid_stat(5), in part.
#[derive(Debug)]
pub struct Stat {
    pub comm: String,
    pub state: char,
    pub nice: i64,
    pub start: u64,
    pub priority: u64,
    pub policy: u64,
}

impl Stat {
    pub fn of(pid: i32, tid: i32) -> Option<Stat> {
        let text = fs::read(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
        let text = String::from_utf8_lossy(&text);
        let (head, tail) = text.rsplit_once(')')?;
        // The third field is the first of these.
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
        Some(Stat {
            comm: head.split_once('(')?.1.to_owned(),
            state: fields.first()?.chars().next()?,
            nice: field(19)?,
            start: field(22)?.try_into().ok()?,
            priority: field(40)?.try_into().ok()?,
            policy: field(41)?.try_into().ok()?,
        })
    }
}

/// Threads that stay lifted: those that were lifted at every look until the limit, so not those
/// that somebody else's operation lifts for a moment. Also returns after how long none was left.
pub fn left_lifted(limit: Duration) -> (Vec<Thread>, Duration) {
    let began = Instant::now();
    let mut left = lifted_threads();
    while !left.is_empty() && began.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(2));
        let now = lifted_threads();
        left.retain(|thread| now.contains(thread));
    }
    (left, began.elapsed())
}

/// The CPU time that a thread has used.
pub fn cpu_time(pid: i32, tid: i32) -> Option<Duration> {
    let path = format!("/proc/{pid}/task/{tid}/schedstat");
    let first = fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(first))
}

/// What threads use between two looks that both find them lifted: a lower bound of their lifted CPU
/// time.
#[derive(Debug, Default)]
pub struct Meter {
    last: BTreeMap<Thread, Duration>,
    pub used: Duration,
}

impl Meter {
    pub fn look(&mut self, lifted: Vec<Thread>) {
        let mut now = BTreeMap::new();
        for thread in lifted {
            let Some(used) = cpu_time(thread.pid, thread.tid) else { continue };
            if let Some(before) = self.last.get(&thread) {
                self.used += used.saturating_sub(*before);
            }
            now.insert(thread, used);
        }
        self.last = now;
    }
}

/// SCHED_RR of priority 1 with RESET_ON_FORK, by hand.
pub fn lift_by_hand(tid: i32) -> bool {
    let mut chrt = Command::new("chrt");
    chrt.args(["--reset-on-fork", "--rr", "--pid", "1", &tid.to_string()]);
    run(&mut chrt).status.success()
}

pub fn numbers(dir: &str) -> Vec<i32> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
