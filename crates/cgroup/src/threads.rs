//! A process and its threads, through files of /proc that are opened only once.
//!
//! Only new threads are looked up by name. The kernel keeps a name of /proc that stands for a dead
//! thread in a cache, and whoever looks it up removes it and waits in a loop for all others doing the
//! same (d_invalidate, fs/dcache.c). Above the fair class that takes until a turn of 100 ms is over
//! (seen).

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use crate::process::{self, Stat};

/// A Go program has some ten; threads beyond this number are left alone.
const MOST_THREADS: usize = 64;

/// A process.
#[derive(Debug)]
pub struct Threads {
    pid: i32,
    stat: File,
    directory: File,
    threads: BTreeMap<i32, Thread>,
    /// Looks since the threads were listed.
    looks: u32,
}

/// The same number may hide a change: one has ended and one has begun.
const LISTED_EVERY: u32 = 4;

/// A thread that may be lifted.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub tid: i32,
    /// The process it belongs to, if known: a thread that executes a program takes that number.
    pub process: i32,
    pub stat: Stat,
}

/// The files of one thread, each opened on first use.
#[derive(Debug, Default)]
struct Thread {
    stat: OnceCell<Option<File>>,
    /// None if the kernel lacks CONFIG_PROC_CHILDREN.
    children: OnceCell<Option<File>>,
}

impl Threads {
    pub fn of(pid: i32) -> io::Result<Threads> {
        let stat = File::open(format!("/proc/{pid}/stat"))?;
        let directory = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(format!("/proc/{pid}/task"))?;
        let threads = BTreeMap::new();
        let mut threads = Threads { pid, stat, directory, threads, looks: 0 };
        threads.list();
        Ok(threads)
    }

    /// The process's state now; none if it is gone.
    pub fn stat(&self) -> Option<Stat> {
        Stat::from(&self.stat)
    }

    /// Finds new threads and forgets those that are gone; `now` is the state of the process.
    pub fn look(&mut self, now: &Stat) {
        self.looks += 1;
        if now.threads != self.threads.len() || self.looks >= LISTED_EVERY {
            self.list();
        }
    }

    pub fn list(&mut self) {
        self.looks = 0;
        // A directory that is opened anew is listed from its beginning.
        let entries = std::fs::read_dir(format!("/proc/self/fd/{}", self.directory.as_raw_fd()));
        let tids = entries.into_iter().flatten().flatten();
        let now: Vec<i32> =
            tids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        self.threads.retain(|tid, _| now.contains(tid));
        for tid in now {
            if self.threads.len() < MOST_THREADS && !self.threads.contains_key(&tid) {
                self.threads.insert(tid, Thread::default());
            }
        }
    }

    fn open<'a>(&self, tid: i32, name: &str, file: &'a OnceCell<Option<File>>) -> Option<&'a File> {
        let path = || format!("/proc/self/fd/{}/{tid}/{name}", self.directory.as_raw_fd());
        file.get_or_init(|| File::open(path()).ok()).as_ref()
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn tids(&self) -> impl Iterator<Item = i32> {
        self.threads.keys().copied()
    }

    /// The threads that run or wait for a CPU.
    pub fn runnable(&self) -> impl Iterator<Item = Candidate> {
        self.runnable_but(|_| false)
    }

    /// The same, except those that are known.
    pub fn runnable_but(&self, is_known: impl Fn(i32) -> bool) -> impl Iterator<Item = Candidate> {
        let others = self.threads.iter().filter(move |(tid, _)| !is_known(**tid));
        others.filter_map(|(tid, thread)| {
            let stat = Stat::from(self.open(*tid, "stat", &thread.stat)?);
            let stat = stat.filter(Stat::is_runnable)?;
            Some(Candidate { tid: *tid, process: self.pid, stat })
        })
    }

    /// The children of all its threads.
    pub fn children(&self) -> Vec<i32> {
        let open = |(tid, thread): (&i32, &'_ Thread)| {
            self.open(*tid, "children", &thread.children).map(pids)
        };
        self.threads.iter().filter_map(open).flatten().collect()
    }
}

/// As many as fit in one page.
fn pids(file: &File) -> Vec<i32> {
    let mut list = [0; 4096];
    let length = file.read_at(&mut list, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&list[..length]);
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The CPU time of one thread.
#[derive(Debug)]
pub struct Clock(File);

impl Clock {
    pub fn of(tid: i32) -> io::Result<Clock> {
        File::open(format!("/proc/{tid}/schedstat")).map(Clock)
    }

    /// None if the thread is gone. While it runs, the time is that of the scheduler's last tick.
    pub fn read(&self) -> Option<Duration> {
        process::cpu_time_in(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_comes_and_goes_is_seen() {
        let own = process::own_pid();
        let mut threads = Threads::of(own).unwrap();
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let (tid, its) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            tid.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = end.recv();
        });
        let its = its.recv().unwrap();
        threads.list();
        assert!(threads.tids().any(|tid| tid == its));
        let clock = Clock::of(its).unwrap();
        assert!(clock.read().is_some());
        drop(ended);
        thread.join().unwrap();
        while clock.read().is_some() {
            std::thread::yield_now();
        }
        threads.list();
        assert!(!threads.tids().any(|tid| tid == its));
    }

    #[test]
    fn children_are_found_by_the_thread_that_has_started_them() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut threads = Threads::of(process::own_pid()).unwrap();
        threads.list();
        assert!(threads.children().contains(&(child.id() as i32)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!threads.children().contains(&(child.id() as i32)));
    }
}
