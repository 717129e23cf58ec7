//! frostlock ends as the runtime, or the container's process in the foreground, ends. Signals and
//! stops do the same to a runtime behind frostlock as to a bare one, once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A pty, and a program that counts signals, need raw system calls.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use testkit::{Scratch, eventually, proof, runtime};

const SOON: Duration = Duration::from_secs(10);

const RUNTIMES: [&str; 2] = ["runc-1.1.5", "runc-1.5.3"];

/// Bare and wrapped, each with a name for the messages.
fn both(scratch: &Scratch, runtime: &Path) -> [(&'static str, Command); 2] {
    [("bare", scratch.bare(runtime)), ("wrapped", scratch.wrapped(runtime))]
}

#[test]
fn exit_codes_come_through() {
    let codes: Vec<i32> = if proof() {
        (0..=255).collect()
    } else {
        vec![0, 1, 2, 7, 42, 125, 126, 127, 128, 137, 254, 255]
    };
    for name in RUNTIMES {
        let runtime = runtime(name).path;
        let scratch = Scratch::new();
        let exit = scratch.bundle("exit", "exit");
        let idle = scratch.bundle("idle", "idle");
        testkit::succeed(scratch.wrapped(&runtime).args(["run", "-d", "-b"]).arg(idle).arg("idle"));
        for &code in &codes {
            scratch.edit(&exit, |config| {
                config["process"]["env"] = serde_json::json!(["PATH=/bin", format!("CODE={code}")]);
            });
            for (side, mut command) in both(&scratch, &runtime) {
                let status = testkit::run(command.args(["run", "-b"]).arg(&exit).arg("c1")).status;
                assert_eq!(status.code(), Some(code), "{name} run {side}");
            }
            for (side, mut command) in both(&scratch, &runtime) {
                let script = format!("exit {code}");
                let status =
                    testkit::run(command.args(["exec", "idle", "sh", "-c", &script])).status;
                assert_eq!(status.code(), Some(code), "{name} exec {side}");
            }
        }
        println!("{name}: {} exit codes of run and of exec come through", codes.len());
    }
}

/// runc then ends with 128 plus the signal's number; that is runc's choice, and stays the same.
#[test]
fn deaths_of_the_containers_process_come_through() {
    for name in RUNTIMES {
        let runtime = runtime(name).path;
        let scratch = Scratch::new();
        let dies = scratch.bundle("exit", "dies");
        let idle = scratch.bundle("idle", "idle");
        testkit::succeed(scratch.wrapped(&runtime).args(["run", "-d", "-b"]).arg(idle).arg("idle"));
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGSEGV, libc::SIGRTMIN() + 6] {
            let script = format!("kill -{signal} $$");
            scratch.edit(&dies, |config| {
                config["process"]["args"] = serde_json::json!(["sh", "-c", script]);
                // An init in its own pid namespace is immune to its own signals.
                let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.retain(|namespace| namespace["type"] != "pid");
            });
            let run = both(&scratch, &runtime).map(|(_, mut command)| {
                testkit::run(command.args(["run", "-b"]).arg(&dies).arg("c1")).status
            });
            let exec = both(&scratch, &runtime).map(|(_, mut command)| {
                testkit::run(command.args(["exec", "idle", "sh", "-c", &script])).status
            });
            for [bare, wrapped] in [run, exec] {
                assert_eq!(bare, wrapped, "{name} {signal}");
                assert_eq!(bare.code(), Some(128 + signal), "{name} {signal}");
            }
        }
    }
}

#[test]
fn a_real_runtime_that_is_killed_kills_us() {
    for name in RUNTIMES {
        let runtime = runtime(name).path;
        let scratch = Scratch::new();
        let idle = scratch.bundle("idle", "idle");
        let mut command = scratch.wrapped(&runtime);
        let mut wrapper = command.args(["run", "-b"]).arg(idle).arg("c1").spawn().unwrap();
        eventually(SOON, "the container runs", || {
            let state = testkit::run(scratch.bare(&runtime).args(["state", "c1"]));
            testkit::text(&state.stdout).contains("\"running\"")
        });
        send(only_child(wrapper.id() as i32), libc::SIGKILL);
        let status = testkit::wait(&mut wrapper, SOON).expect("the wrapper's end");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{name}");
    }
}

#[test]
fn a_runtime_that_dies_of_a_signal_makes_us_die_of_it() {
    let scratch = Scratch::new();
    let signals = [
        libc::SIGKILL,
        libc::SIGTERM,
        libc::SIGABRT,
        libc::SIGSEGV,
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGPIPE,
        libc::SIGUSR1,
        libc::SIGALRM,
        libc::SIGRTMIN(),
        libc::SIGRTMIN() + 3,
        libc::SIGRTMAX(),
    ];
    for signal in signals {
        let runtime = fake(&scratch, &format!("ulimit -c 0; kill -{signal} $$; sleep 10"));
        // Held back and passed on, in the foreground, and not supervised.
        for args in
            [&["pause", "c1"] as &[&str], &["exec", "c1", "true"], &["kill", "c1"], &["list"]]
        {
            for (side, mut command) in both(&scratch, &runtime) {
                let status = testkit::run(command.args(args)).status;
                assert_eq!(status.signal(), Some(signal), "{args:?} {side}: {status}");
            }
        }
    }
}

/// Even a signal that our caller ignores or has blocked: a bare runtime would have reset that.
#[test]
fn also_when_the_caller_ignores_or_blocks_the_signal() {
    let scratch = Scratch::new();
    let runtime = fake(&scratch, "kill -KILL $$");
    let mut command = scratch.wrapped(&runtime);
    let block = || {
        // SAFETY: async-signal-safe calls on a local, which sigfillset initialises.
        unsafe {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        }
        Ok(())
    };
    // SAFETY: the closure keeps to async-signal-safe calls.
    unsafe { command.pre_exec(block) };
    let status = testkit::run(command.args(["pause", "c1"])).status;
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
}

#[test]
fn a_signal_sent_to_us_reaches_the_runtime_once() {
    let signals = [
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGUSR1,
        libc::SIGHUP,
        libc::SIGWINCH,
        libc::SIGQUIT,
        libc::SIGTSTP,
        libc::SIGCONT,
        libc::SIGRTMIN() + 3,
    ];
    for args in [&["exec", "c1", "true"] as &[&str], &["pause", "c1"], &["kill", "c1"]] {
        let counter = Counter::new();
        for (side, mut command) in both(&counter.scratch, &counter.runtime) {
            let mut child = counter.start(command.args(args));
            for &signal in &signals {
                let before = counter.received();
                send(child.id() as i32, signal);
                counter.await_more(before.len(), signal, side);
            }
            assert_eq!(counter.end(&mut child).code(), Some(0), "{args:?} {side}");
            assert_eq!(counter.received(), signals, "{args:?} {side}");
        }
    }
}

/// The kernel queues real-time signals: a hundred sent are a hundred received.
#[test]
fn queued_signals_are_not_lost() {
    const COUNT: usize = 100;
    let counter = Counter::new();
    let signal = libc::SIGRTMIN() + 3;
    let mut command = counter.scratch.wrapped(&counter.runtime);
    let mut child = counter.start(command.args(["exec", "c1", "true"]));
    for _ in 0..COUNT {
        send(child.id() as i32, signal);
    }
    eventually(SOON, "all signals", || counter.received().len() >= COUNT);
    assert_eq!(counter.end(&mut child).code(), Some(0));
    assert_eq!(counter.received(), vec![signal; COUNT]);
}

#[test]
fn a_terminals_signals_reach_the_runtime_once() {
    const ROUNDS: usize = 10;
    const INTERRUPT: u8 = 3;
    const QUIT: u8 = 28;
    let counter = Counter::new();
    for (side, mut command) in both(&counter.scratch, &counter.runtime) {
        let terminal = Terminal::open();
        terminal.control(command.args(["exec", "c1", "true"]));
        let mut child = counter.start(&mut command);
        let mut expected = Vec::new();
        for round in 0..ROUNDS {
            for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGWINCH] {
                match signal {
                    libc::SIGINT => terminal.type_key(INTERRUPT),
                    libc::SIGQUIT => terminal.type_key(QUIT),
                    _ => terminal.resize(round as u16 + 20),
                }
                expected.push(signal);
                counter.await_more(expected.len() - 1, signal, side);
            }
        }
        assert_eq!(counter.end(&mut child).code(), Some(0), "{side}");
        assert_eq!(counter.received(), expected, "{side}");
    }
}

/// The kernel signals only the leader of a terminal's session: after an `ssh -t host runc run ...`
/// lost its connection, or a tmux window was closed.
#[test]
fn a_hangup_reaches_the_runtime_of_a_session_leader() {
    let counter = Counter::new();
    for (side, mut command) in both(&counter.scratch, &counter.runtime) {
        let terminal = Terminal::open();
        terminal.control(command.args(["exec", "c1", "true"]));
        let mut child = counter.start(&mut command);
        terminal.hang_up();
        counter.await_more(1, libc::SIGCONT, side);
        assert_eq!(counter.end(&mut child).code(), Some(0), "{side}");
        assert_eq!(counter.received_in_order(), [libc::SIGHUP, libc::SIGCONT], "{side}");
    }
}

/// The leader's end signals the process group in the foreground, frostlock and the runtime.
#[test]
fn the_end_of_a_session_leader_reaches_the_runtime_once() {
    let counter = Counter::new();
    for (side, command) in both(&counter.scratch, &counter.runtime) {
        let terminal = Terminal::open();
        let mut shell = Command::new("sh");
        shell.args(["-c", "\"$@\"; true", "sh"]).arg(command.get_program());
        shell.args(command.get_args()).args(["exec", "c1", "true"]);
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        terminal.control(&mut shell);
        let mut shell = counter.start(&mut shell);
        let below = only_child(shell.id() as i32);
        shell.kill().unwrap();
        shell.wait().unwrap();
        counter.await_more(0, libc::SIGHUP, side);
        counter.let_end();
        eventually(SOON, "its end", || state(below) == 'X' || state(below) == 'Z');
        assert_eq!(counter.received(), [libc::SIGHUP], "{side}");
    }
}

/// As a shell with job control needs it.
#[test]
fn a_stopped_runtime_stops_us_and_goes_on_with_us() {
    for args in [&["exec", "c1", "true"] as &[&str], &["pause", "c1"]] {
        let counter = Counter::new();
        let mut command = counter.scratch.wrapped(&counter.runtime);
        // In its own group with a parent outside: the kernel does not stop an orphaned group.
        let command = command.args(args).process_group(0).env("COUNTER_CAN_BE_STOPPED", "1");
        let mut wrapper = counter.start(command);
        let pid = wrapper.id() as i32;
        let runtime = only_child(pid);
        for round in 1..=3 {
            send(runtime, libc::SIGTSTP);
            eventually(SOON, "the wrapper stops", || state(pid) == 'T');
            assert_eq!(state(runtime), 'T');
            send(pid, libc::SIGCONT);
            eventually(SOON, "both go on", || state(pid) != 'T' && state(runtime) != 'T');
            counter.await_more(round - 1, libc::SIGCONT, "wrapped");
        }
        assert_eq!(counter.end(&mut wrapper).code(), Some(0), "{args:?}");
        assert_eq!(counter.received(), [libc::SIGCONT; 3], "{args:?}");
    }
}

/// As by an operator, or a tool that limits CPU time this way: whoever continues it does not know
/// frostlock.
#[test]
fn a_runtime_that_is_stopped_for_a_while_ends_as_if_it_had_not_been() {
    for args in [&["exec", "c1", "true"] as &[&str], &["pause", "c1"]] {
        let counter = Counter::new();
        let mut command = counter.scratch.wrapped(&counter.runtime);
        let mut wrapper = counter.start(command.args(args));
        let runtime = only_child(wrapper.id() as i32);
        send(runtime, libc::SIGSTOP);
        eventually(SOON, "it stops", || state(runtime) == 'T');
        std::thread::sleep(Duration::from_millis(20));
        send(runtime, libc::SIGCONT);
        assert_eq!(counter.end(&mut wrapper).code(), Some(0), "{args:?}");
        assert_eq!(counter.received(), [libc::SIGCONT], "{args:?}");
    }
}

/// Stopped by a signal that was sent to frostlock, as by `kill -TSTP`; bare, the runtime gets it.
#[test]
fn a_stop_sent_to_us_stops_both() {
    let scratch = Scratch::new();
    let runtime = fake(
        &scratch,
        &format!("while [ ! -e {} ]; do sleep 0.02; done", scratch.path("end").display()),
    );
    let mut command = scratch.wrapped(&runtime);
    // In its own group with a parent outside: the kernel does not stop an orphaned group.
    let mut wrapper = command.args(["exec", "c1", "true"]).process_group(0).spawn().unwrap();
    let pid = wrapper.id() as i32;
    eventually(SOON, "the runtime", || !children(pid).is_empty());
    let runtime = only_child(pid);
    eventually(SOON, "the script", || comm(runtime) == "runc");
    send(pid, libc::SIGTSTP);
    eventually(SOON, "both stop", || state(pid) == 'T' && state(runtime) == 'T');
    send(pid, libc::SIGCONT);
    eventually(SOON, "both go on", || state(pid) != 'T' && state(runtime) != 'T');
    std::fs::write(scratch.path("end"), "").unwrap();
    assert_eq!(testkit::wait(&mut wrapper, SOON).and_then(|status| status.code()), Some(0));
}

/// The runtime is a script whose PATH has frostlock as `runc`.
#[test]
fn a_script_that_calls_us_is_not_called_for_ever() {
    let scratch = Scratch::new();
    let bin = scratch.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(testkit::frostlock(), bin.join("runc")).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let script = "echo >>\"$CALLS\"; [ $(wc -l <\"$CALLS\") -lt 20 ] || exit 99; exec runc \"$@\"";
    let runtime = fake(&scratch, script);
    for args in [&["state", "c1"] as &[&str], &["pause", "c1"], &["--version"]] {
        let calls = scratch.path("calls");
        let _ = std::fs::remove_file(&calls);
        let mut command = scratch.wrapped(&runtime);
        let ended = testkit::run(command.args(args).env("PATH", &path).env("CALLS", &calls));
        assert_eq!(ended.status.code(), Some(1), "{args:?}: {ended:?}");
        let said = testkit::text(&ended.stderr);
        assert!(said.contains("has called frostlock"), "{args:?}: {said}");
        assert_eq!(std::fs::read_to_string(&calls).unwrap().lines().count(), 1, "{args:?}");
    }
}

/// systemd listens only to the process that it started.
#[test]
fn with_a_notify_socket_the_runtime_is_the_process_that_was_started() {
    let scratch = Scratch::new();
    let runtime = fake(&scratch, "echo $$");
    let pids = |verb: &str, variable: &str| {
        let mut command = scratch.wrapped(&runtime);
        let command = command.args([verb, "c1"]).env(variable, scratch.path("notify"));
        let child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let started = child.id().to_string();
        (started, testkit::text(&child.wait_with_output().unwrap().stdout).trim().to_owned())
    };
    for verb in ["run", "start"] {
        let (started, runtime) = pids(verb, "NOT_THE_NOTIFY_SOCKET");
        assert_ne!(started, runtime, "the control");
        let (started, runtime) = pids(verb, "NOTIFY_SOCKET");
        assert_eq!(started, runtime, "{verb}");
        assert_eq!(scratch.journal().last().unwrap()["verdict"], "handed over");
    }
}

/// A runtime that is a shell script.
fn fake(scratch: &Scratch, script: &str) -> PathBuf {
    testkit::program(&scratch.path("runc"), &format!("#!/bin/sh\n{script}\n"))
}

/// A runtime that records every signal at the moment of its arrival: a shell's traps would merge
/// two into one.
struct Counter {
    scratch: Scratch,
    runtime: PathBuf,
}

impl Counter {
    fn new() -> Counter {
        let scratch = Scratch::new();
        let exe = std::env::current_exe().unwrap();
        let runtime = fake(
            &scratch,
            &format!("exec {} --exact count_signals --ignored >/dev/null", exe.display()),
        );
        Counter { scratch, runtime }
    }

    fn start(&self, command: &mut Command) -> Child {
        for file in ["log", "ready", "end"] {
            let _ = std::fs::remove_file(self.scratch.path(file));
        }
        let child = command.env("COUNTER_DIR", self.scratch.path("")).spawn().unwrap();
        eventually(SOON, "the counter", || self.scratch.path("ready").exists());
        child
    }

    fn received(&self) -> Vec<i32> {
        let log = std::fs::read(self.scratch.path("log")).unwrap();
        log.into_iter().map(i32::from).collect()
    }

    /// Waits for the next, and long enough after it to see a duplicate.
    fn await_more(&self, than: usize, signal: i32, side: &str) {
        eventually(SOON, &format!("{side}: signal {signal}"), || self.received().len() > than);
        std::thread::sleep(Duration::from_millis(10));
    }

    /// In order of their numbers: of two that arrive together, the later may be taken first.
    fn received_in_order(&self) -> Vec<i32> {
        let mut received = self.received();
        received.sort_unstable();
        received
    }

    fn let_end(&self) {
        std::fs::write(self.scratch.path("end"), "").unwrap();
    }

    fn end(&self, child: &mut Child) -> ExitStatus {
        self.let_end();
        testkit::wait(child, SOON).expect("the end")
    }
}

#[test]
#[ignore = "the runtime of the tests that count signals"]
fn count_signals() {
    use std::sync::atomic::{AtomicI32, Ordering};
    static LOG: AtomicI32 = AtomicI32::new(-1);
    extern "C" fn note(signal: libc::c_int) {
        let byte = signal as u8;
        // SAFETY: writes one byte of a live local to a descriptor that stays open.
        unsafe { libc::write(LOG.load(Ordering::Relaxed), (&raw const byte).cast(), 1) };
    }
    let Some(dir) = std::env::var_os("COUNTER_DIR").map(PathBuf::from) else { return };
    let log = std::fs::File::options().append(true).create(true).open(dir.join("log")).unwrap();
    LOG.store(log.as_raw_fd(), Ordering::Relaxed);
    let stops = std::env::var_os("COUNTER_CAN_BE_STOPPED").is_some();
    let is_noted = |signal: &i32| *signal != libc::SIGCHLD && !(stops && *signal == libc::SIGTSTP);
    for signal in (1..=libc::SIGRTMAX()).filter(is_noted) {
        // SAFETY: an all-zero sigaction is valid but for the handler, which is set, and is
        // async-signal-safe. The kernel refuses it for KILL and STOP, the C library for its own two.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
    std::fs::write(dir.join("ready"), "").unwrap();
    eventually(Duration::from_secs(60), "the end", || dir.join("end").exists());
}

/// A pseudo-terminal.
struct Terminal {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Terminal {
    fn open() -> Terminal {
        use std::ptr::{null, null_mut};
        let (mut ours, mut theirs) = (-1, -1);
        // SAFETY: both descriptors are written before use; name, settings and size may be null.
        let opened = unsafe { libc::openpty(&mut ours, &mut theirs, null_mut(), null(), null()) };
        assert_eq!(opened, 0);
        for fd in [ours, theirs] {
            // Whoever keeps our side open keeps the terminal from hanging up.
            // SAFETY: no memory is involved.
            assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }, 0);
        }
        // SAFETY: two new descriptors that nobody else owns.
        unsafe {
            Terminal { ours: OwnedFd::from_raw_fd(ours), theirs: OwnedFd::from_raw_fd(theirs) }
        }
    }

    /// Makes it the controlling terminal of the command, which leads its own session in the
    /// foreground.
    fn control(&self, command: &mut Command) {
        let terminal = self.theirs.as_raw_fd();
        let take = move || {
            // SAFETY: async-signal-safe calls on a descriptor that is open in the parent.
            match unsafe { (libc::setsid(), libc::ioctl(terminal, libc::TIOCSCTTY, 0)) } {
                (-1, _) | (_, -1) => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        // SAFETY: the closure keeps to async-signal-safe calls.
        unsafe { command.pre_exec(take) };
    }

    /// As if the connection or the window behind it was gone.
    fn hang_up(self) {
        drop(self.ours);
    }

    fn type_key(&self, key: u8) {
        assert_eq!(nix::unistd::write(&self.ours, &[key]), Ok(1));
    }

    fn resize(&self, rows: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: `size` lives across the call, which only reads it.
        let resized = unsafe { libc::ioctl(self.ours.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        assert_eq!(resized, 0);
    }
}

fn send(pid: i32, signal: i32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "{pid} is gone");
}

fn children(pid: i32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    list.unwrap_or_default().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn only_child(pid: i32) -> i32 {
    // On a busy machine there may be a lifter beside the runtime.
    let is_lifter = |pid: &i32| comm(*pid).trim_end() == "frostlock-lift";
    let children: Vec<i32> = children(pid).into_iter().filter(|pid| !is_lifter(pid)).collect();
    assert_eq!(children.len(), 1, "{children:?}");
    children[0]
}

fn comm(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// As in /proc/PID/stat: T is stopped.
fn state(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('X')
}
