//! The scheduling class of one thread: above the fair class, and back.
//!
//! SCHED_RR, priority 1, for everything that is ever lifted: if one real-time thread in the kernel
//! spins for another of lower priority, it spins for ever. RESET_ON_FORK, so that what a lifted thread
//! starts is fair again. A thread that is already real-time or deadline is left alone, and what a
//! program has changed itself stays as it is.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::str::FromStr;

use cgroup::process::Stat;
use sys::{self, SchedAttr};

const PRIORITY: u32 = 1;
const RESET_ON_FORK: u64 = libc::SCHED_FLAG_RESET_ON_FORK as u64;
/// include/uapi/linux/sched.h, since 6.12.
const SCHED_EXT: i32 = 7;

/// What a thread was before it was lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    policy: u32,
    nice: i32,
    flags: u64,
    /// In ns; 0 is the kernel's default.
    slice: u64,
    /// In ns. Since 6.12 a real-time thread has none, and after that gets the value of its birth, not
    /// its last one.
    timer_slack: u64,
}

/// Lifts a thread whose class was `before`.
pub fn raise(tid: i32, before: &Before) -> io::Result<()> {
    let lifted = SchedAttr {
        policy: libc::SCHED_RR as u32,
        flags: before.flags | RESET_ON_FORK,
        priority: PRIORITY,
        ..SchedAttr::default()
    };
    sys::set_sched_attr(tid, &lifted)
}

/// Puts a thread back if it still has the class that `raise` gave it; gives whether it had.
pub fn lower(tid: i32, before: &Before) -> bool {
    if !is_lifted(tid) {
        return false;
    }
    // A real-time thread keeps a nice value of its own, which its program may have changed meanwhile
    // (set_user_nice, kernel/sched/syscalls.c): nice(1), say.
    let nice = sys::nice(tid).unwrap_or(before.nice);
    sys::set_sched_attr(tid, &SchedAttr { nice, ..before.attr() }).is_ok()
}

/// The same for a thread that may do what it can to keep its class. A call of its own that passed the
/// kernel's check while it was lifted is carried out after a put-back. Of 20 threads that called all
/// the time, 19 stayed fair after so many put-backs in a row, and all after three rows.
pub fn lower_firmly(tid: i32, before: &Before) -> bool {
    const AT_ONCE: u32 = 50;
    let was_lifted = lower(tid, before);
    if was_lifted {
        (1..AT_ONCE).for_each(|_| {
            lower(tid, before);
        });
    }
    was_lifted
}

/// Restores the timer slack, which the class has changed.
pub fn mend(tid: i32, before: &Before) {
    if let Ok(slack) = open_slack(tid) {
        mend_in(&slack, before);
    }
}

/// The same through an open file.
pub fn mend_in(slack: &File, before: &Before) {
    if read_slack(slack).is_some_and(|now| now != before.timer_slack) {
        // The file does not take writes at an offset.
        let mut slack = slack;
        let _ = slack.write_all(before.timer_slack.to_string().as_bytes());
    }
}

/// Makes a thread that is called real-time and scheduled as fair an ordinary one in name, too; `None` if
/// it is real-time. The kernel copies a thread without the lock under which its class changes
/// (dup_task_struct, kernel/fork.c, 6.18), so a child that is born while its parent is put back may be
/// such a thread. A call that asks for the policy that it already has changes nothing.
pub fn mend_policy(tid: i32) -> Option<Before> {
    let is_called_ours = || {
        sys::sched_attr(tid)
            .is_ok_and(|it| it.policy == libc::SCHED_RR as u32 && it.priority == PRIORITY)
    };
    // The name is read once more: another lifter may have put the thread back in between.
    if !is_called_ours() || !Stat::of_thread(tid)?.is_fair() || !is_called_ours() {
        return None;
    }
    let nice = sys::nice(tid).unwrap_or(0);
    let ordinary = Before { nice, ..Before::ordinary() };
    sys::set_sched_attr(tid, &ordinary.attr()).ok().map(|()| ordinary)
}

/// The slice, in ns, of a fair thread that has none of its own: ours, before we are lifted.
pub fn default_slice() -> u64 {
    sys::sched_attr(0).map_or(0, |ours| ours.runtime)
}

/// A thread that a lifted thread has started is an ordinary one, whatever its parent was before
/// (sched_fork, kernel/sched/core.c). A stage of the runtime must be what this process is.
pub fn inherit(tid: i32, ours: &Before) {
    let is_ordinary = |now: &Before| (now.policy, now.nice) == (libc::SCHED_OTHER as u32, 0);
    let is_other = (ours.policy, ours.nice) != (libc::SCHED_OTHER as u32, 0);
    if is_other && Before::of(tid, 0).ok().flatten().is_some_and(|now| is_ordinary(&now)) {
        let _ = sys::set_sched_attr(tid, &ours.attr());
    }
    if let Some(slack) = open_slack(tid).ok().filter(|slack| read_slack(slack) == Some(0)) {
        mend_in(&slack, ours);
    }
}

/// Whether a thread has the class that [`raise`] gave it. Without RESET_ON_FORK a thread that has the
/// capability gave itself that class. A thread without it has kept the class over our put-back: the
/// kernel looks at the old class before it has the lock, and at the flag after that
/// (user_check_sched_setscheduler, 6.18).
pub fn is_lifted(tid: i32) -> bool {
    look(tid).unwrap_or(false)
}

/// Whether a thread may be what [`raise`] has made of it without us: by RLIMIT_RTPRIO, or its capability.
pub fn may_raise_itself(tid: i32) -> bool {
    let limits = std::fs::read_to_string(format!("/proc/{tid}/limits")).unwrap_or_default();
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max realtime priority"));
    let soft = soft.and_then(|rest| rest.split_ascii_whitespace().next());
    soft.is_some_and(|limit| limit != "0") || has_sys_nice(&tid.to_string())
}

/// As `is_lifted`; none of a thread that is gone.
pub fn look(tid: i32) -> Option<bool> {
    let now = sys::sched_attr(tid).ok()?;
    Some(
        now.policy == libc::SCHED_RR as u32
            && now.priority == PRIORITY
            && (now.flags & RESET_ON_FORK != 0 || !may_raise_itself(tid)),
    )
}

impl Before {
    /// What most threads are.
    pub fn ordinary() -> Before {
        let policy = libc::SCHED_OTHER as u32;
        Before { policy, nice: 0, flags: 0, slice: 0, timer_slack: ORDINARY_SLACK }
    }

    fn attr(&self) -> SchedAttr {
        SchedAttr {
            policy: self.policy,
            flags: self.flags,
            nice: self.nice,
            runtime: self.slice,
            ..SchedAttr::default()
        }
    }

    /// The same with the timer slack, read from an open file.
    pub fn with_slack(self, slack: &File) -> Before {
        let known = read_slack(slack).filter(|&slack| slack > 0);
        Before { timer_slack: known.unwrap_or(ORDINARY_SLACK), ..self }
    }

    /// A thread's class now; `None` if it is not fair. Since 6.12 the kernel reports its default slice
    /// for a thread that has none, and would take that as one that was set: `default_slice` is that of
    /// a fair thread of ours.
    pub fn of(tid: i32, default_slice: u64) -> io::Result<Option<Before>> {
        let now = sys::sched_attr(tid)?;
        let fair = [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE, SCHED_EXT];
        if !fair.contains(&(now.policy as i32)) {
            return Ok(None);
        }
        let is_default = now.runtime == default_slice;
        Ok(Some(Before {
            policy: now.policy,
            nice: now.nice,
            flags: now.flags & RESET_ON_FORK,
            slice: if is_default { 0 } else { now.runtime },
            timer_slack: ORDINARY_SLACK,
        }))
    }
}

/// That of the first process (init/init_task.c), and so of all that have not asked for another. A child
/// of a lifted thread is born with none.
const ORDINARY_SLACK: u64 = 50_000;

/// Opens the timer slack of a thread for reading and writing (CAP_SYS_NICE).
pub fn open_slack(tid: i32) -> io::Result<File> {
    std::fs::OpenOptions::new().read(true).write(true).open(format!("/proc/{tid}/timerslack_ns"))
}

fn read_slack(slack: &File) -> Option<u64> {
    let mut text = [0; 32];
    let length = slack.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
}

/// The form in a note.
impl std::fmt::Display for Before {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Before { policy, nice, flags, slice, timer_slack } = self;
        write!(f, "{policy} {nice} {flags} {slice} {timer_slack}")
    }
}

impl FromStr for Before {
    type Err = ();

    fn from_str(text: &str) -> Result<Before, ()> {
        let fields: Vec<&str> = text.split(' ').collect();
        let [policy, nice, flags, slice, timer_slack] = fields[..] else { return Err(()) };
        Ok(Before {
            policy: policy.parse().map_err(drop)?,
            nice: nice.parse().map_err(drop)?,
            flags: flags.parse().map_err(drop)?,
            slice: slice.parse().map_err(drop)?,
            timer_slack: timer_slack.parse().map_err(drop)?,
        })
    }
}

/// Why the kernel has refused. With the capability, the only reason can be that the thread's cgroup has
/// no real-time runtime (sched_setscheduler, kernel/sched/syscalls.c).
pub fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) if has_sys_nice("self") => "RT_GROUP_SCHED".to_owned(),
        Some(libc::EPERM) => "CAP_SYS_NICE".to_owned(),
        _ => error.to_string(),
    }
}

/// Whether a thread has the capability in the initial user namespace, as far as /proc tells. That
/// namespace has always had this number (PROC_USER_INIT_INO). The scheduler ignores a capability in
/// another namespace.
fn has_sys_nice(who: &str) -> bool {
    const CAP_SYS_NICE: u32 = 23;
    let namespace = std::fs::read_link(format!("/proc/{who}/ns/user"));
    if namespace.is_ok_and(|link| link.as_os_str() != "user:[4026531837]") {
        return false;
    }
    let status = std::fs::read_to_string(format!("/proc/{who}/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    effective.is_some_and(|mask| mask >> CAP_SYS_NICE & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_what_is_read() {
        let before = Before { policy: 3, nice: -5, flags: 1, slice: 3_000_000, timer_slack: 7 };
        assert_eq!(before.to_string().parse(), Ok(before));
        for torn in ["", "3 -5 1", "3 -5 1 3000000", "3 -5 1 0 7 9", "x 0 0 0 0"] {
            assert_eq!(torn.parse::<Before>(), Err(()), "{torn}");
        }
    }

    #[test]
    fn a_thread_of_ours_is_fair() {
        assert!(Before::of(0, default_slice()).unwrap().is_some());
        assert!(!is_lifted(0));
    }
}
