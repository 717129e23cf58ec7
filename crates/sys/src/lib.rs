//! Every raw system call that nix does not offer safely, and nothing else.
//!
//! Every other crate denies unsafe code. This one starts the runtime as a child as close to a bare
//! start as possible, replaces this process by the runtime, dies of the signal that the runtime died
//! of, and has a timer that interrupts a blocking flock, among others.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;

/// Turns the -1 of a system call into its error.
fn cvt(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// What the runtime is started with. Everything is laid out before the fork, because a child that
/// shares our memory may not allocate.
#[derive(Debug)]
pub struct Launch<'a> {
    pub program: &'a CStr,
    pub argv: &'a [CString],
    pub env: &'a mut [CString],
    /// The entry of `env` that must name the child's own pid: `LISTEN_PID=` and ten digits.
    pub listen_pid: Option<usize>,
    pub stdout: Option<BorrowedFd<'a>>,
    pub stderr: Option<BorrowedFd<'a>>,
    /// The signal mask with which we were started.
    pub mask: &'a SigSet,
    /// The action of SIGCHLD with which we were started.
    pub sigchld: &'a SavedAction,
}

/// The action of a signal as it was before we changed it.
#[derive(Clone, Copy)]
pub struct SavedAction {
    signal: libc::c_int,
    action: libc::sigaction,
}

impl std::fmt::Debug for SavedAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedAction").field("signal", &self.signal).finish_non_exhaustive()
    }
}

impl SavedAction {
    /// Puts the action back. Async-signal-safe.
    pub fn restore(&self) {
        // SAFETY: `action` was filled in by sigaction for the same signal, and a null old action is
        // allowed.
        unsafe { libc::sigaction(self.signal, &self.action, std::ptr::null_mut()) };
    }
}

/// Gives SIGCHLD its default action. A caller may have left us one that ignores it, and then the kernel
/// would reap the runtime before we could read its status.
pub fn default_sigchld() -> io::Result<SavedAction> {
    swap_action(libc::SIGCHLD, libc::SIG_DFL)
}

/// The actions of SIGPIPE and SIGXFSZ with which we were started.
static WRITE_SIGNALS: OnceLock<[SavedAction; 2]> = OnceLock::new();

/// From here on a failed write of ours is an error that we ignore and not our death: neither a caller
/// that closed the pipe nor a limit on file sizes may cost a container. The runtime finds both signals
/// as the caller left them.
pub fn ignore_write_signals() {
    let ignore = |signal| swap_action(signal, libc::SIG_IGN);
    if let (Ok(pipe), Ok(size)) = (ignore(libc::SIGPIPE), ignore(libc::SIGXFSZ)) {
        // Only the first call sees the caller's choice.
        let _ = WRITE_SIGNALS.set([pipe, size]);
    }
}

/// Async-signal-safe.
fn restore_write_signals() {
    for saved in WRITE_SIGNALS.get().into_iter().flatten() {
        saved.restore();
    }
}

/// Whether a limit on file sizes is set; it also holds for anonymous files.
pub fn file_size_is_limited() -> bool {
    getrlimit(Resource::RLIMIT_FSIZE).is_ok_and(|(limit, _)| limit != RLIM_INFINITY)
}

fn swap_action(signal: libc::c_int, handler: libc::sighandler_t) -> io::Result<SavedAction> {
    // SAFETY: an all-zero sigaction is valid: no flags, empty mask, the default action.
    let (mut new, mut old): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    new.sa_sigaction = handler;
    // SAFETY: both point to initialised sigactions that live across the call; `handler` is SIG_DFL
    // or `noop` below, which may run at any time.
    cvt(unsafe { libc::sigaction(signal, &new, &mut old) })?;
    Ok(SavedAction { signal, action: old })
}

/// Starts the runtime as a child that is killed when we die. Returns its pid once the exec has
/// succeeded.
///
/// std's `Command` cannot be used: it empties the signal mask and resets SIGPIPE in the child, although
/// a bare run inherits both from the caller, and it cannot write the child's own pid into LISTEN_PID.
///
/// Like vfork: until its exec the child lives in our memory and we stand still. Copying the page
/// tables, and then every page that either of the two writes to, took a tenth of a millisecond.
///
/// Must be called from the main thread: PR_SET_PDEATHSIG fires when the thread that forked ends. No
/// signal may have a handler that does more than return, because the child would run it in our memory.
pub fn spawn(launch: &mut Launch<'_>) -> io::Result<libc::pid_t> {
    // Tells the child whether we are still alive. To relay what the runtime says and to record its end
    // takes as many descriptors: if there are none left, the caller finds out while it can still become
    // the runtime.
    let (alive, ours) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let argv = pointers(launch.argv.iter().map(|s| s.as_ptr()));
    let mut env = pointers(launch.env.iter().map(|s| s.as_ptr()));
    // The child writes a shorter string over it, so it must not be freed as a CString.
    let mut entry =
        launch.listen_pid.map(|at| std::mem::take(&mut launch.env[at]).into_bytes_with_nul());
    let listen_pid = entry.as_mut().map(|entry| entry.as_mut_ptr());
    if let (Some(at), Some(entry)) = (launch.listen_pid, listen_pid) {
        env[at] = entry.cast();
    }
    let mut stack = vec![MaybeUninit::<Frame>::uninit(); STACK_BYTES / size_of::<Frame>()];
    let parent = [alive.as_raw_fd(), ours.as_raw_fd()];
    let mut child = Child { launch, argv: &argv, env: &env, listen_pid, parent, failed: 0 };
    // SAFETY: the stack is aligned, large enough for a few calls of libc, and used by nothing else.
    // CLONE_VFORK lets us continue only when the child has executed the runtime or has ended. So
    // everything that the child borrows outlives it, and nothing races with it; its descriptors, signal
    // mask and signal actions are copies.
    let pid = cvt(unsafe {
        libc::clone(
            run_child,
            stack.as_mut_ptr_range().end.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut child).cast(),
        )
    })?;
    // SAFETY: `child` is alive. Volatile, because another process has written it.
    match unsafe { (&raw const child.failed).read_volatile() } {
        0 => Ok(pid),
        errno => {
            let _ = wait(pid, 0);
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

/// The alignment of stacks.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Frame {
    _bytes: [u8; 16],
}

const STACK_BYTES: usize = 64 * 1024;

/// The data that the child of [`spawn`] works on.
struct Child<'a> {
    launch: &'a Launch<'a>,
    argv: &'a [*const libc::c_char],
    env: &'a [*const libc::c_char],
    listen_pid: Option<*mut u8>,
    /// Both ends of a pipe that no other process has: the one to read from, the one to write to.
    parent: [RawFd; 2],
    /// The errno of the call that failed.
    failed: libc::c_int,
}

extern "C" fn run_child(child: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passes its `Child` and does not touch it meanwhile.
    unsafe {
        let child = &mut *child.cast::<Child<'_>>();
        child.failed = exec_in_child(child);
        // This runs none of the parent's destructors.
        libc::_exit(127);
    }
}

fn pointers(strings: impl Iterator<Item = *const libc::c_char>) -> Vec<*const libc::c_char> {
    strings.chain(std::iter::once(std::ptr::null())).collect()
}

/// Returns the errno of the call that failed.
fn exec_in_child(child: &Child<'_>) -> libc::c_int {
    let launch = child.launch;
    // SAFETY: only async-signal-safe calls on memory that was laid out before the fork. `listen_pid`
    // points to "LISTEN_PID=" and eleven bytes, as `write_pid` needs. Once the mask is the caller's, a
    // signal ends or stops the child or is ignored: exec has reset every handler that we were started
    // with, and we set none but `noop`.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if has_died(child.parent) {
            libc::_exit(127);
        }
        if let Some(entry) = child.listen_pid {
            write_pid(entry.add(c"LISTEN_PID=".count_bytes()), libc::getpid() as u32);
        }
        for (from, to) in
            [(launch.stdout, libc::STDOUT_FILENO), (launch.stderr, libc::STDERR_FILENO)]
        {
            let failed = from.is_some_and(|from| libc::dup2(from.as_raw_fd(), to) == -1);
            if failed {
                return *libc::__errno_location();
            }
        }
        launch.sigchld.restore();
        restore_write_signals();
        libc::sigprocmask(libc::SIG_SETMASK, launch.mask.as_ref(), std::ptr::null_mut());
        libc::execve(launch.program.as_ptr(), child.argv.as_ptr(), child.env.as_ptr());
        *libc::__errno_location()
    }
}

/// Whether the parent died before PR_SET_PDEATHSIG took effect: a process that ends closes its files
/// before it signals its children. getppid cannot tell, because it is 0 in another pid namespace than
/// the parent's.
///
/// # Safety
/// Must be called in the child of [`spawn`], with its copies of both ends.
unsafe fn has_died([alive, ours]: [RawFd; 2]) -> bool {
    let mut hang_up = libc::pollfd { fd: alive, events: 0, revents: 0 };
    // SAFETY: `hang_up` lives across the call; the closed end is the child's own copy.
    unsafe {
        libc::close(ours);
        libc::poll(&mut hang_up, 1, 0);
    }
    hang_up.revents & libc::POLLHUP != 0
}

/// Writes `pid` in decimal and a NUL over the ten digits at `at`.
///
/// # Safety
/// `at` must point to at least eleven writable bytes.
unsafe fn write_pid(at: *mut u8, pid: u32) {
    let mut digits = [0u8; 10];
    let (mut rest, mut count) = (pid, 0);
    loop {
        digits[count] = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
        if rest == 0 {
            break;
        }
    }
    for place in 0..count {
        // SAFETY: at most ten digits, as the caller promises.
        unsafe { at.add(place).write(digits[count - 1 - place]) };
    }
    // SAFETY: at most the eleventh byte.
    unsafe { at.add(count).write(0) };
}

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}

/// Sets a variable for the runtime and what it calls. Must be called while there is no other thread.
pub fn set_variable(name: &str, value: &std::ffi::OsStr) {
    // SAFETY: no other thread reads or writes the environment.
    unsafe { std::env::set_var(name, value) };
}

/// The environment byte for byte; std's iterator leaves out entries without `=`.
pub fn environment() -> Vec<CString> {
    let mut entries = Vec::new();
    // SAFETY: `environ` is null or an array of NUL-terminated strings that ends in a null pointer, and
    // it does not change meanwhile.
    unsafe {
        let mut at = environ;
        while !at.is_null() && !(*at).is_null() {
            entries.push(CStr::from_ptr(*at).to_owned());
            at = at.add(1);
        }
    }
    entries
}

/// Whether an error of [`spawn`] is about the program, so that [`exec`] would fail with it, too.
pub fn is_of_exec(error: &io::Error) -> bool {
    let about_the_program =
        [libc::ENOENT, libc::EACCES, libc::EPERM, libc::ENOEXEC, libc::ENOTDIR, libc::ELOOP];
    error.raw_os_error().is_some_and(|errno| about_the_program.contains(&errno))
}

/// Replaces this process by the runtime; returns only on failure.
pub fn exec(program: &CStr, argv: &[CString]) -> io::Error {
    let argv = pointers(argv.iter().map(|s| s.as_ptr()));
    restore_write_signals();
    // SAFETY: both arrays end in a null pointer and point to NUL-terminated strings. No one changes
    // `environ` meanwhile, because there is no other thread.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), environ) };
    let error = io::Error::last_os_error();
    ignore_write_signals();
    error
}

/// Ends this process without running destructors or atexit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: always sound; everything that must reach a file was written with write(2).
    unsafe { libc::_exit(code) }
}

/// Ends this process by `signal`, as its child ended, so that the caller's wait status is that of a
/// bare run; without a second core file.
pub fn die_of(signal: i32) -> ! {
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // SAFETY: the default action is not a handler of ours, and no memory is involved.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
    }
    unblock(signal);
    // The shell's convention, if the signal has not killed us.
    exit_now(128 + signal)
}

/// Sends any signal, including real-time ones, which nix's enum lacks.
pub fn kill(pid: libc::pid_t, signal: i32) {
    // SAFETY: no memory is involved. If the child is gone already, that is no error for any caller.
    unsafe { libc::kill(pid, signal) };
}

/// What wait(2) reports of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Running,
    /// By this signal.
    Stopped(i32),
    Exited(i32),
    Killed(i32),
}

/// waitpid(2); nix's refuses the status of a child that died of a real-time signal.
pub fn wait(pid: libc::pid_t, options: libc::c_int) -> io::Result<Wait> {
    let mut status = 0;
    // SAFETY: `status` lives across the call.
    let waited = cvt(unsafe { libc::waitpid(pid, &mut status, options) })?;
    Ok(if waited == 0 {
        Wait::Running
    } else if libc::WIFEXITED(status) {
        Wait::Exited(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        Wait::Killed(libc::WTERMSIG(status))
    } else if libc::WIFSTOPPED(status) {
        Wait::Stopped(libc::WSTOPSIG(status))
    } else {
        Wait::Running
    })
}

/// Ends this process after `limit`, whatever it waits for, as long as a killing signal can end the
/// wait.
pub fn end_ourselves_after(limit: Duration) {
    let seconds = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
    // SAFETY: the default action is not a handler of ours, and alarm takes a number.
    unsafe {
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        libc::alarm(seconds);
    }
    unblock(libc::SIGALRM);
}

/// Lets a thread that we trace continue, with the signal it stopped for, if it stopped for one. False as
/// long as we trace it: it has not stopped, or it was killed in its stop. True if it is gone, whose
/// parent may now learn of its end.
pub fn stop_tracing(tid: libc::pid_t) -> bool {
    let mut status = 0;
    // SAFETY: `status` lives across the call.
    let waited = unsafe { libc::waitpid(tid, &mut status, libc::WNOHANG | libc::__WALL) };
    if waited == 0 {
        return false;
    }
    if waited < 0 || !libc::WIFSTOPPED(status) {
        return true;
    }
    let is_for_a_signal = status >> 16 != libc::PTRACE_EVENT_STOP;
    let signal = if is_for_a_signal { libc::WSTOPSIG(status) } else { 0 };
    // The kernel refuses if the thread was killed since the wait. The end of a traced thread must be
    // waited for by the tracer: until then its process is no zombie for its parent.
    // SAFETY: this request reads no memory of ours; its last argument is a number.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, 0, libc::c_long::from(signal)) == 0 }
}

/// Stops this process as its child was stopped; returns when it is continued. The caller passes the
/// SIGCONT on: where signals are blocked it is taken here, or else the child would get it twice.
pub fn stop_ourselves() {
    let (set, now) = (only(libc::SIGCONT), timespec(Duration::ZERO));
    // SAFETY: `set` and `now` live across the calls; the null info is allowed.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGSTOP);
        libc::sigtimedwait(&set, std::ptr::null_mut(), &now);
    }
}

/// Opens /dev/null, closed on exec, over those of the descriptors 0 to 2 that the caller left closed.
/// Otherwise a file of ours could become what the runtime takes for its stderr, and what we write to
/// our stderr could end up in a lock file. The child still finds them closed.
pub fn occupy_closed_stdio() {
    for fd in 0..=2 {
        // SAFETY: F_GETFD only reads. open takes the lowest free number, which is `fd`, because the
        // lower ones are taken by now.
        unsafe {
            if libc::fcntl(fd, libc::F_GETFD) == -1 {
                libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            }
        }
    }
}

/// Raises the limit to as many descriptors as this process may have.
pub fn allow_more_files() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// `struct sched_attr` as sched_setattr(2) has defined it since Linux 3.14.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// For a fair thread, its slice in ns, since Linux 6.12.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// The scheduling class of a thread; 0 means the calling thread.
pub fn sched_attr(tid: libc::pid_t) -> io::Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    let size = size_of::<SchedAttr>();
    // SAFETY: the kernel writes at most `size` bytes into `attr`, which lives across the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &mut attr, size, 0) };
    cvt(result as libc::c_int).map(|_| attr)
}

pub fn set_sched_attr(tid: libc::pid_t, attr: &SchedAttr) -> io::Result<()> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..*attr };
    // SAFETY: the kernel reads `attr.size` bytes, and it lives across the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &attr, 0) };
    cvt(result as libc::c_int).map(|_| ())
}

/// The nice value of a thread. A real-time thread has one, too.
pub fn nice(tid: libc::pid_t) -> io::Result<i32> {
    // SAFETY: getpriority only reads. The kernel's own call gives 20 less the value, so that no answer
    // looks like an error (getpriority(2), C library/kernel differences).
    let result = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid) };
    cvt(result as libc::c_int).map(|reversed| 20 - reversed)
}

/// How many CPUs are online; never less than one.
pub fn online_cpus() -> u64 {
    // SAFETY: sysconf only reads.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u64::try_from(count).unwrap_or(1).max(1)
}

/// How many CPUs this process may run on: fewer than are online with isolcpus, or with an affinity that
/// systemd sets. Never less than one.
pub fn usable_cpus() -> u64 {
    // SAFETY: a set of bits, for which zeros are a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the size of `set`. Where it has more CPUs than that, it refuses.
    let is_known = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } == 0;
    // SAFETY: it only counts bits.
    let allowed = if is_known { unsafe { libc::CPU_COUNT(&set) } } else { libc::c_int::MAX };
    online_cpus().min(u64::try_from(allowed).unwrap_or(1).max(1))
}

/// An anonymous file, closed on exec, that can be sealed.
pub fn memfd(name: &CStr) -> io::Result<OwnedFd> {
    // Kernels 6.3 to 6.5 refuse files that could be executed if vm.memfd_noexec is 2, and newer ones
    // warn about callers that do not say whether theirs are. Older kernels do not know the flag.
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let created =
        match memfd_create(name, flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
            Err(Errno::EINVAL) => memfd_create(name, flags),
            created => created,
        };
    created.map_err(io::Error::from)
}

/// fork(2). Gives the child's pid, and none in the child, which must end with [`exit_now`] and may
/// outlive us. There must be no second thread: the child would find its locks taken.
pub fn fork() -> io::Result<Option<libc::pid_t>> {
    // SAFETY: this program has one thread.
    let pid = cvt(unsafe { libc::fork() })?;
    Ok((pid != 0).then_some(pid))
}

extern "C" fn noop(_: libc::c_int) {}

/// How often the timer fires again after its deadline: a tick just before the flock call interrupts
/// nothing, but the next one does.
const TICK: Duration = Duration::from_millis(5);

/// Interrupts blocking system calls with EINTR once `after` has passed, until dropped.
///
/// flock has no timeout. setitimer would do, but it would remove an alarm that the caller set before it
/// executed us, and its timer survives exec. A POSIX timer does neither.
#[derive(Debug)]
pub struct Interrupt {
    timer: libc::timer_t,
    action: SavedAction,
    mask: SigSet,
}

impl Interrupt {
    pub fn after(after: Duration) -> io::Result<Interrupt> {
        // The last real-time signal: nothing that a caller sends to a runtime.
        let signal = libc::SIGRTMAX();
        let action = swap_action(signal, noop as *const () as libc::sighandler_t)?;
        // SAFETY: an all-zero sigevent is valid and completed below; timer_create writes the timer's id
        // before it is used.
        let timer = unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = signal;
            let mut timer: libc::timer_t = std::mem::zeroed();
            match cvt(libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer)) {
                Ok(_) => timer,
                Err(error) => {
                    action.restore();
                    return Err(error);
                }
            }
        };
        let interrupt = Interrupt { timer, action, mask: unblock(signal) };
        interrupt.arm(after)?;
        Ok(interrupt)
    }

    fn arm(&self, after: Duration) -> io::Result<()> {
        // Zero would disarm the timer.
        let first = after.max(Duration::from_nanos(1));
        let spec = libc::itimerspec { it_interval: timespec(TICK), it_value: timespec(first) };
        // SAFETY: the timer exists until drop; a null old value is allowed.
        cvt(unsafe { libc::timer_settime(self.timer, 0, &spec, std::ptr::null_mut()) })?;
        Ok(())
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        // SAFETY: the timer was created by `after` and is deleted once. A pending tick goes to `noop`
        // before the caller's mask and action come back.
        unsafe { libc::timer_delete(self.timer) };
        let _ = self.mask.thread_set_mask();
        self.action.restore();
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: duration.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(duration.subsec_nanos() as i32),
    }
}

/// The set of one signal, real-time ones included.
fn only(signal: libc::c_int) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        set
    }
}

/// Unblocks one signal; returns the old mask.
fn unblock(signal: libc::c_int) -> SigSet {
    // SAFETY: both sets live across the call, which initialises `old`.
    unsafe {
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_UNBLOCK, &only(signal), &mut old);
        SigSet::from_sigset_t_unchecked(old)
    }
}

/// Some bytes of a file, for locks that last as long as the file is open (open file description locks,
/// Linux 3.15). The classic record locks end with any descriptor of the process for that file.
#[derive(Debug, Clone, Copy)]
pub struct ByteRange {
    pub first: i64,
    /// 0 means to the end of the file.
    pub length: i64,
}

impl ByteRange {
    /// F_RDLCK, F_WRLCK or F_UNLCK.
    pub fn lock(self, file: &File, kind: libc::c_int, blocking: bool) -> io::Result<()> {
        let lock = self.as_flock(kind);
        let how =
            if blocking { FcntlArg::F_OFD_SETLKW(&lock) } else { FcntlArg::F_OFD_SETLK(&lock) };
        fcntl(file, how)?;
        Ok(())
    }

    /// Whether another open file has locked some of them for writing.
    pub fn is_locked(self, file: &File) -> io::Result<bool> {
        let mut lock = self.as_flock(libc::F_RDLCK);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
    }

    fn as_flock(self, kind: libc::c_int) -> libc::flock {
        libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: self.first,
            l_len: self.length,
            l_pid: 0,
        }
    }
}

/// flock(2) on `file`; nix's guard would panic when unlocking fails.
pub fn flock(file: &File, operation: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed.
    cvt(unsafe { libc::flock(file.as_raw_fd(), operation) }).map(|_| ())
}

/// Closes every descriptor but these.
pub fn close_all_but(keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut first = 0;
    for fd in keep.iter().map(|fd| *fd as libc::c_uint) {
        if first < fd {
            close_range(first, fd - 1);
        }
        first = fd + 1;
    }
    close_range(first, libc::c_uint::MAX);
}

/// For kernels before 5.9, which do not close ranges: as many as a process may have by default.
const DESCRIPTORS: libc::c_uint = 65_536;

fn close_range(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: the caller ensures that no owner of such a descriptor uses or drops it before this
    // process ends.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, last, 0) == -1 {
            (first..=last.min(DESCRIPTORS)).for_each(|fd| {
                libc::close(fd as libc::c_int);
            });
        }
    }
}

/// Takes ownership of a descriptor that the kernel has just given us in a message.
pub fn own(received: RawFd) -> OwnedFd {
    // SAFETY: recvmsg has installed it for us, and its number is not used elsewhere.
    unsafe { OwnedFd::from_raw_fd(received) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_anonymous_file_is_not_executable_where_the_kernel_knows_the_difference() {
        let mode = File::from(memfd(c"test").unwrap()).metadata().unwrap().permissions();
        let knows = std::path::Path::new("/proc/sys/vm/memfd_noexec").exists();
        assert_eq!(mode.mode() & 0o111 == 0, knows, "{:o}", mode.mode());
    }

    #[test]
    fn a_parent_that_has_closed_its_end_has_died() {
        let (alive, ours) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let child_copy = || ours.try_clone().unwrap().into_raw_fd();
        // SAFETY: the closed end is a copy that nothing owns.
        let has_died = |copy| unsafe { has_died([alive.as_raw_fd(), copy]) };
        assert!(!has_died(child_copy()));
        let last = child_copy();
        drop(ours);
        // Another test's child may have one more until its exec.
        let pause = || std::thread::sleep(Duration::from_millis(1));
        assert!(has_died(last) || (0..1000).any(|_| has_died(-1) || (pause(), false).1));
    }
}
