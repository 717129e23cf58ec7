//! One start of the runtime: its stdio, its signals, its end.
//!
//! The child is as close to a bare start as possible, because a container's init inherits much of what
//! its runtime was started with: signal mask and dispositions, limits, umask, descriptors.

use std::cell::Cell;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::time::TimeSpec;
use nix::unistd::{getpid, getsid};

use crate::outcome::Exit;

/// The runtime and its command line.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub path: PathBuf,
    /// Our own arguments, without `argv[0]`, byte for byte.
    pub args: Vec<OsString>,
}

/// Where the runtime writes to; `None` is the caller's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outputs<'a> {
    pub(crate) stdout: Option<BorrowedFd<'a>>,
    pub(crate) stderr: Option<BorrowedFd<'a>>,
}

impl Runtime {
    /// `argv[0]` is the path, as in a bare run: runc prints it in its usage messages and crun picks its
    /// handler by it.
    fn argv(&self) -> io::Result<Vec<CString>> {
        std::iter::once(self.path.as_os_str())
            .chain(self.args.iter().map(OsString::as_os_str))
            .map(|arg| CString::new(arg.as_bytes()).map_err(io::Error::from))
            .collect()
    }

    /// Becomes the runtime; returns only on failure.
    pub fn exec(&self) -> io::Error {
        match self.argv() {
            Ok(argv) => sys::exec(&argv[0], &argv),
            Err(error) => error,
        }
    }

    /// Starts the runtime as our child.
    pub(crate) fn start(&self, signals: &Signals, outputs: Outputs<'_>) -> io::Result<Child> {
        let argv = self.argv()?;
        let mut env = sys::environment();
        let listen_pid = reserve_listen_pid(&mut env);
        // Before the fork: a short runtime may have ended before we learn that it was executed.
        let since = Instant::now();
        let pid = sys::spawn(&mut sys::Launch {
            program: &argv[0],
            argv: &argv,
            env: &mut env,
            listen_pid,
            stdout: outputs.stdout,
            stderr: outputs.stderr,
            mask: &signals.at_entry,
            sigchld: &signals.sigchld,
        })?;
        remember(Last::Runs(pid));
        Ok(Child { pid, since })
    }
}

/// systemd's socket activation names the process that gets the sockets. If that is us, it must be the
/// runtime. Makes room for the child's pid, which only the child knows.
fn reserve_listen_pid(env: &mut [CString]) -> Option<usize> {
    const NAME: &[u8] = b"LISTEN_PID=";
    let ours = std::process::id().to_string();
    let at = env.iter().position(|entry| {
        entry.as_bytes().strip_prefix(NAME).is_some_and(|pid| pid == ours.as_bytes())
    })?;
    env[at] = c"LISTEN_PID=0000000000".to_owned();
    Some(at)
}

/// What has become of the runtime, in case something of ours fails. The kernel reports its end only
/// once.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Last {
    NotStarted,
    Runs(i32),
    Ended(Exit),
}

static LAST: Mutex<Last> = Mutex::new(Last::NotStarted);

/// The last attempt that was started.
pub(crate) fn last() -> Last {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember(last: Last) {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = last;
}

/// Blocks signals and reads them from a descriptor, from before the runtime's start until our end. So a
/// signal that arrives in between is forwarded, and is neither lost nor deadly.
#[derive(Debug)]
pub(crate) struct Signals {
    at_entry: SigSet,
    sigchld: sys::SavedAction,
    arrivals: SignalFd,
    /// A signal that came while there was no runtime to send it to.
    held: Cell<Option<i32>>,
}

/// A signal came that would have ended the runtime.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl Signals {
    pub(crate) fn take() -> io::Result<Signals> {
        let all = SigSet::all();
        let arrivals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let sigchld = sys::default_sigchld()?;
        let at_entry = all.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        Ok(Signals { at_entry, sigchld, arrivals, held: Cell::new(None) })
    }

    /// Restores the signals, because we become the runtime after all.
    pub(crate) fn give_back(&self) {
        self.sigchld.restore();
        let _ = self.at_entry.thread_set_mask();
    }

    /// Waits for signals or for something to read, at most until `timeout`, and forwards the signals.
    fn forward(&self, to: i32, timeout: Option<Duration>, also: &[BorrowedFd<'_>]) {
        if let Some(signal) = self.held.take() {
            sys::kill(to, signal);
        }
        self.wait(timeout, also);
        while let Ok(Some(arrived)) = self.arrivals.read_signal() {
            if has_reached_us_alone(&arrived) {
                sys::kill(to, arrived.ssi_signo as i32);
            }
        }
    }

    /// Sleeps while no runtime runs. A signal that would have ended one ends this sleep, and every
    /// later one; if another runtime starts, it gets the signal.
    pub(crate) fn sleep(&self, duration: Duration) -> Result<(), Interrupted> {
        let until = Instant::now() + duration;
        loop {
            if self.have_come() {
                return Err(Interrupted);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.wait(Some(left), &[]);
            while let Ok(Some(arrived)) = self.arrivals.read_signal() {
                let signal = arrived.ssi_signo as i32;
                if !HARMLESS.contains(&signal) {
                    self.held.set(Some(signal));
                }
            }
        }
    }

    /// Whether a signal has ended a sleep and no runtime has got it yet.
    pub(crate) fn have_come(&self) -> bool {
        self.held.get().is_some()
    }

    /// Only a stop and its continuation can interrupt this; the callers look again.
    fn wait(&self, timeout: Option<Duration>, also: &[BorrowedFd<'_>]) {
        let wakers = std::iter::once(self.arrivals.as_fd()).chain(also.iter().copied());
        let mut wakers: Vec<PollFd<'_>> =
            wakers.map(|waker| PollFd::new(waker, PollFlags::POLLIN)).collect();
        let _ = ppoll(&mut wakers, timeout.map(TimeSpec::from), None);
    }
}

impl Drop for Signals {
    /// After a panic the bare runtime may be executed. Otherwise the signals stay blocked until our
    /// end: one that came while the runtime ended could kill us before there is a record.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.give_back();
        }
    }
}

/// The kernel sends a terminal's signals to the whole process group. A signal for a failed write of
/// ours is marked as sent by ourselves. An alarm that the caller set before it executed us has reached
/// only us. So has a hangup of the terminal, with the SIGCONT that follows, if we lead the session
/// (tty_signal_session_leader, drivers/tty/tty_jobctrl.c); the foreground group gets it when its leader
/// ends, which here is our own end.
fn has_reached_us_alone(arrived: &siginfo) -> bool {
    let from_a_process = arrived.ssi_code <= 0 && arrived.ssi_pid != std::process::id();
    match arrived.ssi_signo as i32 {
        libc::SIGCHLD => false,
        libc::SIGALRM => true,
        libc::SIGHUP | libc::SIGCONT => from_a_process || leads_the_session(),
        _ => from_a_process,
    }
}

fn leads_the_session() -> bool {
    getsid(None).is_ok_and(|leader| leader == getpid())
}

/// Signals that by default do not end a process.
const HARMLESS: [i32; 7] = [
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGURG,
    libc::SIGWINCH,
];

/// The runtime at work.
#[derive(Debug)]
pub(crate) struct Child {
    pid: i32,
    since: Instant,
}

/// What the caller does while it waits.
pub(crate) trait Watch {
    /// Descriptors that wake it up, besides signals.
    fn waits_on(&self) -> Vec<BorrowedFd<'_>>;

    /// Called after every event, and no later than the time that it asked for.
    fn look(&mut self, child: &Child) -> Option<Duration>;
}

impl Child {
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Waits for the runtime's end.
    pub(crate) fn wait(&self, signals: &Signals, watch: &mut dyn Watch) -> Exit {
        loop {
            if let Some(exit) = reap(self.pid) {
                remember(Last::Ended(exit));
                return exit;
            }
            let timeout = watch.look(self);
            signals.forward(self.pid, timeout, &watch.waits_on());
        }
    }
}

/// The runtime's end, if it has ended. If its terminal has stopped it, we stop, too, so that a shell
/// with job control sees the job stopped. Not after a SIGSTOP, which somebody sent to the runtime
/// alone: they continue it alone, and would leave us stopped, with the lock.
fn reap(pid: i32) -> Option<Exit> {
    match sys::wait(pid, libc::WNOHANG | libc::WUNTRACED) {
        Ok(sys::Wait::Exited(code)) => Some(Exit::Code(code)),
        Ok(sys::Wait::Killed(signal)) => Some(Exit::Signal(signal)),
        Ok(sys::Wait::Stopped(libc::SIGSTOP)) => None,
        Ok(sys::Wait::Stopped(_)) => {
            sys::stop_ourselves();
            sys::kill(pid, libc::SIGCONT);
            None
        }
        Ok(sys::Wait::Running) => None,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
        // Something has taken the status from us; we must not claim that the runtime succeeded.
        Err(_) => Some(Exit::Code(1)),
    }
}

/// How often to look where no descriptor would wake us.
const LOOK_PLAINLY_EVERY: Duration = Duration::from_millis(10);

/// Waits without anything but `meanwhile` to do.
pub(crate) fn wait_plainly(pid: i32, mut meanwhile: impl FnMut()) -> Exit {
    loop {
        if let Some(exit) = reap(pid) {
            return exit;
        }
        meanwhile();
        std::thread::sleep(LOOK_PLAINLY_EVERY);
    }
}
