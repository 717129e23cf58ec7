//! What /proc says of processes. Identifies them by more than a pid, which is reused.

use std::ffi::OsStr;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A process, told apart from a later one with the same pid by its start time (clock ticks since
/// boot, field 22 of /proc/PID/stat).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    pub start: u64,
}

impl Process {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<Process> {
        Stat::of(pid).map(|stat| Process { pid, start: stat.start })
    }

    /// A name for a file about it: `PID-START`.
    pub fn name(self) -> String {
        format!("{}-{}", self.pid, self.start)
    }

    /// The process of that name.
    pub fn named(name: &OsStr) -> Option<Process> {
        let (pid, start) = name.to_str()?.split_once('-')?;
        Some(Process { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }

    pub fn ourselves() -> Option<Process> {
        Process::of(own_pid())
    }

    /// Whether it still runs. A zombie does not.
    pub fn is_alive(self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.start == self.start && stat.state != b'Z')
    }

    /// The letter of its state in /proc; `None` if it is gone or its pid is reused.
    pub fn state(self) -> Option<char> {
        let stat = Stat::of(self.pid).filter(|stat| stat.start == self.start)?;
        Some(char::from(stat.state))
    }

    /// Whether it is an ancestor of the calling process. A hook that our operation started is its
    /// descendant; a caller in the same session is not.
    pub fn is_ancestor_of_ours(self) -> bool {
        let is_above = ancestors(own_pid()).into_iter().skip(1).any(|pid| pid == self.pid);
        is_above && Process::of(self.pid) == Some(self)
    }
}

const MAX_GENERATIONS: usize = 256;

/// The fields of /proc/PID/stat that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub state: u8,
    pub parent: i32,
    pub start: u64,
    /// How many threads the process has.
    pub threads: usize,
    flags: u64,
    pending: u64,
    priority: i64,
}

/// From include/linux/sched.h; the same since 2.6.
const PF_EXITING: u64 = 0x4;
const PF_FORKNOEXEC: u64 = 0x40;

impl Stat {
    pub fn of(pid: i32) -> Option<Stat> {
        Stat::read(&format!("/proc/{pid}/stat"))
    }

    /// Of one thread: the file of a process sums up all its threads, which takes longer the more there
    /// are.
    pub fn of_thread(tid: i32) -> Option<Stat> {
        Stat::read(&format!("/proc/{tid}/task/{tid}/stat"))
    }

    fn read(path: &str) -> Option<Stat> {
        Stat::from(&std::fs::File::open(path).ok()?)
    }

    /// Opens the file, which can then be read again and again without a look-up of its name.
    pub fn open_of_thread(tid: i32) -> std::io::Result<std::fs::File> {
        std::fs::File::open(format!("/proc/{tid}/task/{tid}/stat"))
    }

    /// The state now; `None` if the process is gone.
    pub fn from(file: &std::fs::File) -> Option<Stat> {
        // One read: the 52 fields of a line do not fill the buffer.
        let mut line = [0; 2048];
        let length = std::os::unix::fs::FileExt::read_at(file, &mut line, 0).ok()?;
        Stat::parse(&line[..length])
    }

    /// The comm in parentheses may itself contain spaces and parentheses, so fields are counted from
    /// the last one.
    pub fn parse(text: &[u8]) -> Option<Stat> {
        let after_comm = text.iter().rposition(|&byte| byte == b')')? + 1;
        let fields = std::str::from_utf8(&text[after_comm..]).ok()?;
        let mut fields = fields.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        let flags = fields.nth(4)?.parse().ok()?;
        let priority = fields.nth(8)?.parse().ok()?;
        let threads = fields.nth(1)?.parse().ok()?;
        let start = fields.nth(1)?.parse().ok()?;
        let pending = fields.nth(8).and_then(|pending| pending.parse().ok()).unwrap_or(0);
        Some(Stat { state, parent, start, threads, flags, pending, priority })
    }

    /// The thread runs or waits for a CPU.
    pub fn is_runnable(&self) -> bool {
        self.state == b'R'
    }

    /// How the scheduler treats the thread, whatever its policy is called: 20 plus the nice value of a fair
    /// one, less than 0 of a real-time one (proc_pid_stat(5)).
    pub fn is_fair(&self) -> bool {
        self.priority >= 0
    }

    /// It is a copy of its parent that has not executed anything yet. Only the kernel can set that: a
    /// program that takes the name of a runtime's stage cannot pass for one.
    pub fn has_not_executed(&self) -> bool {
        self.flags & PF_FORKNOEXEC != 0
    }

    /// It has been killed and must die: every thread of a process gets its own SIGKILL
    /// (complete_signal, kernel/signal.c).
    pub fn is_dying(&self) -> bool {
        self.flags & PF_EXITING != 0 || self.pending & (1 << (libc::SIGKILL - 1)) != 0
    }
}

/// The name of the program that a process runs, as the kernel keeps it (15 bytes); also of a thread.
pub fn comm(pid: i32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned())
}

/// The parent of any process.
pub fn parent_of(pid: i32) -> Option<i32> {
    Stat::of(pid).map(|stat| stat.parent)
}

/// Our own pid as /proc shows it. In a pid namespace that was entered without a /proc of its own, as by
/// `unshare --pid` or by `nsenter --mount` from a container, the pid that we know ourselves by is
/// another process's in /proc. The link is resolved by the /proc in which it stands.
pub fn own_pid() -> i32 {
    let link = std::fs::read_link("/proc/self").ok();
    let pid = link.and_then(|link| link.to_str()?.parse().ok());
    pid.unwrap_or(std::process::id() as i32)
}

/// Whether a pid that a system call gave us is the one in /proc.
pub fn pids_are_of_proc() -> bool {
    own_pid() == std::process::id() as i32
}

/// A process and its ancestors, as far as /proc shows them.
pub fn ancestors(pid: i32) -> Vec<i32> {
    let family = std::iter::successors(Some(pid), |pid| parent_of(*pid));
    // Parents cannot form a cycle, but pids that are read one after the other can.
    family.take_while(|pid| *pid > 0).take(MAX_GENERATIONS).collect()
}

/// Our parent, also as /proc shows it.
pub fn parent() -> i32 {
    let own = own_pid();
    let known = nix::unistd::getppid().as_raw();
    if own == std::process::id() as i32 {
        return known;
    }
    Stat::of(own).map_or(known, |stat| stat.parent)
}

/// Whether our children would be in another pid namespace than we are, as with a caller that executed
/// us through `unshare --pid` or `nsenter --pid --no-fork`. A runtime would not find its containers
/// there, because they know their processes by our pids.
pub fn children_are_elsewhere() -> bool {
    let Ok(ours) = std::fs::read_link("/proc/self/ns/pid") else { return false };
    match std::fs::read_link("/proc/self/ns/pid_for_children") {
        Ok(theirs) => theirs != ours,
        // While no process is in it (pidns_for_children_get). On a kernel older than 4.12 the answer is
        // unknown.
        Err(error) => {
            error.kind() == std::io::ErrorKind::NotFound
                && std::fs::symlink_metadata("/proc/self/ns/pid_for_children").is_ok()
        }
    }
}

/// The process that a thread belongs to.
pub fn of_thread(tid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    process.trim().parse().ok()
}

/// Whether what a process says of itself may steer us: all its uids are root's or our own. Its name
/// and its command line are its own choice. The owner of /proc/PID would not do: a process that is not
/// dumpable has root there, and a setuid program keeps the user's real uid (proc_pid(5)).
pub fn is_trusted(pid: i32) -> bool {
    let status = std::fs::read(format!("/proc/{pid}/status")).unwrap_or_default();
    are_uids_of(&String::from_utf8_lossy(&status), [0, nix::unistd::geteuid().as_raw()])
}

/// Whether the real, effective, saved and file system uid are each one of `users`.
fn are_uids_of(status: &str, users: [u32; 2]) -> bool {
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    let uids: Vec<Option<u32>> = uids.split_whitespace().map(|uid| uid.parse().ok()).collect();
    uids.len() == 4 && uids.iter().all(|uid| uid.is_some_and(|uid| users.contains(&uid)))
}

/// The CPU time that a process has used so far.
pub fn cpu_time(pid: i32) -> Option<Duration> {
    let clock = nix::time::clock_getcpuclockid(nix::unistd::Pid::from_raw(pid)).ok()?;
    clock.now().ok().map(Duration::from)
}

/// How far a thread has run: its CPU time at the scheduler's last tick, and how often it was given a
/// CPU. All zero if the kernel does not count it (CONFIG_SCHED_INFO).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    used: Duration,
    turns: u64,
}

impl Ran {
    pub fn of(tid: i32) -> Option<Ran> {
        let text = std::fs::read_to_string(format!("/proc/{tid}/schedstat")).ok()?;
        let turns = text.split_ascii_whitespace().nth(2)?.parse().ok()?;
        Some(Ran { used: cpu_time_of(text.as_bytes())?, turns })
    }
}

/// The CPU time in a `schedstat`; `None` if the thread is gone.
pub(crate) fn cpu_time_in(schedstat: &std::fs::File) -> Option<Duration> {
    let mut line = [0; 128];
    let length = std::os::unix::fs::FileExt::read_at(schedstat, &mut line, 0).ok()?;
    cpu_time_of(&line[..length])
}

/// The same from its text.
pub fn cpu_time_of(schedstat: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(schedstat).ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// How long our own thread has waited for a CPU since it began, throttled or behind others: `run_delay`
/// of `/proc/PID/schedstat` (Documentation/scheduler/sched-stats.rst).
pub fn own_wait() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split_ascii_whitespace().nth(1).and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

/// Identifies the boot: after a reboot a pid and its start time mean nothing.
pub fn boot_id() -> Option<String> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot_id.trim().to_owned())
}

/// CLOCK_BOOTTIME, which runs while the machine sleeps and does not jump.
pub fn since_boot_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// The CPU time of our children that have ended and were waited for, and of theirs. The program that
/// executed us may have had some before.
pub fn children_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Duration::ZERO };
    let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

/// The CPU time that the calling thread has used.
pub fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comm_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat =
            Stat::parse(b"42 (a) b (c)) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 991 1 1")
                .unwrap();
        assert_eq!((stat.state, stat.parent, stat.start), (b'S', 7, 991));
    }

    #[test]
    fn who_is_killed_and_who_has_not_executed_is_in_flags_and_pending_signals() {
        let line = |flags: u64, pending: u64| {
            let line = format!(
                "7 (a) R 1 7 7 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 5 1 1 1 1 1 1 1 1 {pending} 0"
            );
            Stat::parse(line.as_bytes()).unwrap()
        };
        assert!(line(0x400140, 0).has_not_executed() && !line(0x400100, 0).has_not_executed());
        assert!(line(0x400104, 0).is_dying() && line(0, 256).is_dying());
        assert!(!line(0x400140, 512).is_dying());
    }

    #[test]
    fn our_own_flags_and_times_are_read() {
        let own = own_pid();
        let stat = Stat::of(own).unwrap();
        assert!(!stat.has_not_executed() && !stat.is_dying());
        assert!(cpu_time(own).unwrap() > Duration::ZERO);
        let schedstat = std::fs::File::open("/proc/self/schedstat").unwrap();
        assert!(cpu_time_in(&schedstat).is_some() && Ran::of(own).is_some());
        assert_eq!(of_thread(nix::unistd::gettid().as_raw()), Some(own));
    }

    #[test]
    fn one_uid_of_another_user_is_enough_not_to_be_trusted() {
        let status = |uids: &str| format!("Name:\tcontainerd\nUid:\t{uids}\nGid:\t0\t0\t0\t0\n");
        for (uids, users, trusted) in [
            ("0\t0\t0\t0", [0, 0], true),
            ("1000\t0\t0\t0", [0, 0], false),
            ("0\t1000\t0\t0", [0, 0], false),
            ("0\t0\t1000\t0", [0, 0], false),
            ("0\t0\t0\t1000", [0, 0], false),
            ("0\t0\t0", [0, 0], false),
            ("1000\t1000\t1000\t1000", [0, 1000], true),
            ("1001\t1001\t1001\t1001", [0, 1000], false),
        ] {
            assert_eq!(are_uids_of(&status(uids), users), trusted, "{uids:?}");
        }
        assert!(!are_uids_of("", [0, 0]) && is_trusted(own_pid()));
    }

    #[test]
    fn a_torn_stat_is_no_process() {
        assert!(Stat::parse(b"42 (a) S 7").is_none());
        assert!(Stat::parse(b"").is_none());
    }

    #[test]
    fn we_are_alive_and_our_parent_is_our_ancestor() {
        let ourselves = Process::ourselves().unwrap();
        assert!(ourselves.is_alive());
        assert!(!Process { start: ourselves.start + 1, ..ourselves }.is_alive());
        assert!(Process::of(parent()).unwrap().is_ancestor_of_ours());
        assert!(!ourselves.is_ancestor_of_ours());
    }
}
