//! The CPU bandwidth file that is rewritten, and the watch for others who write beside us.
//!
//! In the kernel a write to one bandwidth file reads the other settings and sets them all again, with
//! nothing held in between (`cpu_period_write_u64` and `tg_set_cfs_bandwidth` in kernel/sched/core.c).
//! A write of ours can so take back a quota that somebody sets at that very moment: measured with a
//! writer and a refill at 1 kHz each, 2 to 7 of 4,600 quotas were lost (6.18, `make proof
//! SUITES=writers`). So the files are watched, and whoever opens one has it for himself for a moment:
//! the same measurement then loses none. Without such a watch nothing is refilled.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};

use crate::cgroup::read::Version;
use crate::cgroup::{CpuQuota, Reader};
use crate::process;

/// For how long a file that was opened by another is left to him. From open to write it takes runc,
/// kubelet and systemd some microseconds.
pub(super) const YIELD: Duration = Duration::from_micros(200);

/// What came of one refill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refilled {
    Done {
        /// In CPU time: it may have been preempted.
        cost: Duration,
    },
    /// Somebody else is about to write, or has just written.
    Yielded,
    Failed,
}

/// The open files of one cgroup.
#[derive(Debug)]
pub(super) struct Bandwidth {
    version: Version,
    /// The one that is rewritten.
    rewritten: File,
    /// v1's quota and period, v2's `cpu.max`.
    limits: Vec<File>,
}

/// The watch for others who write; one for all cgroups of an operation, since root has 128 on the
/// whole node (fs.inotify.max_user_instances), and kubelet and systemd need theirs.
#[derive(Debug)]
pub(super) struct Others {
    seen: Inotify,
    yields_until: Option<Instant>,
}

impl Drop for Others {
    /// To close a watch, the kernel waits for a grace period: 8 to 16 ms (6.18, 250 Hz) by which we
    /// would end later than the runtime. So it is left to the kernel's own worker: a descriptor that
    /// is in flight to a socket that is in flight itself is nobody's, and is collected
    /// (net/unix/garbage.c, in a worker of its own since 6.9; before, we wait as we would have).
    fn drop(&mut self) {
        let _ = self.leave_to_the_kernel();
    }
}

impl Others {
    fn leave_to_the_kernel(&self) -> nix::Result<()> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (to, from) = socketpair(AddressFamily::Unix, SockType::Datagram, None, flags)?;
        let passed = [self.seen.as_fd().as_raw_fd(), from.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&passed)];
        let byte = [IoSlice::new(b"-")];
        sendmsg::<()>(to.as_raw_fd(), &byte, &rights, MsgFlags::MSG_DONTWAIT, None)?;
        Ok(())
    }

    pub(super) fn new() -> io::Result<Others> {
        let seen = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Others { seen, yields_until: None })
    }

    fn are_at_it(&mut self, now: Instant) -> bool {
        if self.seen.read_events().is_ok_and(|events| !events.is_empty()) {
            self.yields_until = Some(now + YIELD);
        }
        self.yields_until.is_some_and(|until| now < until)
    }

    fn watch(&self, dir: &Path, limits: &[&str], rewritten: &str) -> io::Result<()> {
        for name in limits.iter().filter(|name| **name != rewritten) {
            let seen = AddWatchFlags::IN_OPEN | AddWatchFlags::IN_MODIFY;
            self.seen.add_watch(&dir.join(name), seen)?;
        }
        // That one is modified is our own doing.
        self.seen.add_watch(&dir.join(rewritten), AddWatchFlags::IN_OPEN)?;
        Ok(())
    }
}

impl Bandwidth {
    /// `None` where there is no file that may be used.
    pub(super) fn open(
        files: &Reader,
        may_use_cpu_max: bool,
        others: &Others,
    ) -> io::Result<Option<Bandwidth>> {
        let Some((version, dir)) = files.cpu_dir() else { return Ok(None) };
        let names = match version {
            Version::V1 => &["cpu.cfs_quota_us", "cpu.cfs_period_us"][..],
            Version::V2 => &["cpu.max"][..],
        };
        let limits: io::Result<Vec<File>> =
            names.iter().map(|name| read(&dir.join(name))).collect();
        let Some((name, rewritten)) = rewritable(version, dir, may_use_cpu_max)? else {
            return Ok(None);
        };
        // After our own opening of them.
        others.watch(dir, names, name)?;
        Ok(Some(Bandwidth { version, rewritten, limits: limits? }))
    }

    pub(super) fn quota(&self) -> Option<CpuQuota> {
        let texts: Option<Vec<String>> = self.limits.iter().map(|file| text(file).ok()).collect();
        let texts = texts?;
        match self.version {
            Version::V1 => CpuQuota::from_v1(texts.first()?, texts.get(1)?),
            Version::V2 => CpuQuota::from_v2(texts.first()?),
        }
    }

    /// Writes the value that is there.
    pub(super) fn refill(&self, now: Instant, others: &mut Others) -> Refilled {
        let Ok(value) = text(&self.rewritten) else { return Refilled::Failed };
        // Nothing comes between the look and the write.
        let since = process::thread_time();
        if others.are_at_it(now) {
            return Refilled::Yielded;
        }
        match self.rewritten.write_at(value.as_bytes(), 0) {
            Ok(_) => Refilled::Done { cost: process::thread_time().saturating_sub(since) },
            Err(_) => Refilled::Failed,
        }
    }
}

/// The file that a resize changes least. `cpu.cfs_burst_us` and `cpu.max.burst` are there since kernel
/// 5.14. Older kernels have only `cpu.max` on v2, where what is written names the quota itself, so that
/// a resize between our reading and writing would be taken back: only if it is asked for.
fn rewritable(
    version: Version,
    dir: &Path,
    may_use_cpu_max: bool,
) -> io::Result<Option<(&'static str, File)>> {
    let names = match version {
        Version::V1 => &["cpu.cfs_burst_us", "cpu.cfs_period_us"][..],
        Version::V2 if may_use_cpu_max => &["cpu.max.burst", "cpu.max"][..],
        Version::V2 => &["cpu.max.burst"][..],
    };
    for name in names {
        match OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(dir.join(name))
        {
            Ok(file) => return Ok(Some((name, file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn read(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK).open(path)
}

/// From the open file: opening it again would look like another's opening.
fn text(file: &File) -> io::Result<String> {
    let mut bytes = [0; 64];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}
