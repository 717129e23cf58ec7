//! What a container's process inherits from the program that starts its runtime: signal mask and
//! dispositions, umask, limits, descriptors. With frostlock in between, it inherits the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// The unusual caller is made with raw system calls between fork and exec.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testkit::{Runtime, Scratch, runtime, runtimes, text};

/// Run as the container's process; prints everything that it could have inherited.
const LOOK: &str = r#"
    grep -E '^(SigBlk|SigIgn|SigCgt|Umask|NoNewPrivs|Cap|Groups)' /proc/$$/status
    umask
    cat /proc/$$/limits /proc/$$/oom_score_adj
    cut -d' ' -f18,19,41 /proc/$$/stat # priority, nice, scheduling policy
    for fd in /proc/$$/fd/*; do echo "${fd##*/} $(readlink $fd)"; done
    env | sort
"#;

/// Pipes and sockets differ in every run: only their existence is compared.
fn without_inodes(seen: &str) -> String {
    let line = |line: &str| match line.split_once(":[") {
        Some((kind, number)) if number.ends_with(']') => format!("{kind}:[]\n"),
        _ => format!("{line}\n"),
    };
    seen.lines().map(line).collect()
}

/// How the caller is unusual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// Not at all: otherwise two broken sides could be equal.
    Usual,
    /// Signals ignored and blocked, umask and limits changed; descriptors 3 and 9 open, of which 3
    /// is for the container.
    Unusual,
    /// The same with descriptors 3 to 9 for the container, and without stdin.
    WithoutStdin,
}

use Caller::{Unusual, Usual, WithoutStdin};

impl Caller {
    fn preserve_fds(self) -> &'static [&'static str] {
        match self {
            Usual => &[],
            Unusual => &["--preserve-fds", "1"],
            WithoutStdin => &["--preserve-fds", "7"],
        }
    }

    fn descriptors(self) -> Vec<i32> {
        match self {
            Usual => Vec::new(),
            Unusual => vec![3, 9],
            WithoutStdin => (3..=9).collect(),
        }
    }

    /// Changes the command's process just before it executes its program. Before that, std empties
    /// the signal mask and resets SIGPIPE.
    fn disguise(self, command: &mut Command, extra: &Path, runtime: &Runtime) {
        if self == Usual {
            return;
        }
        let mut ignored = vec![libc::SIGPIPE, libc::SIGUSR1];
        // A bare crun waits forever if it cannot reap its child.
        let is_crun = runtime.is_crun();
        if !is_crun {
            ignored.push(libc::SIGCHLD);
        }
        // From 1.2 on, a race in runc decides whether its init ignores the signal.
        if is_crun || runtime.version.starts_with("1.1.") {
            ignored.push(libc::SIGHUP);
        }
        let extra = File::open(extra).unwrap();
        let descriptors = self.descriptors();
        let change = move || {
            // SAFETY: only async-signal-safe calls, on locals and on what was captured before the
            // fork.
            unsafe {
                for &signal in &ignored {
                    libc::signal(signal, libc::SIG_IGN);
                }
                let mut blocked: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&mut blocked);
                for signal in [libc::SIGUSR2, libc::SIGWINCH, libc::SIGTTOU, libc::SIGRTMIN() + 2] {
                    libc::sigaddset(&mut blocked, signal);
                }
                libc::sigprocmask(libc::SIG_SETMASK, &blocked, std::ptr::null_mut());
                libc::umask(0o027);
                let files = libc::rlimit { rlim_cur: 321, rlim_max: 654 };
                libc::setrlimit(libc::RLIMIT_NOFILE, &files);
                let core = libc::rlimit { rlim_cur: 4096, rlim_max: 8192 };
                libc::setrlimit(libc::RLIMIT_CORE, &core);
                libc::setpriority(libc::PRIO_PROCESS, 0, 3);
                // The target's previous descriptor is std's, and closed on exec.
                let from = libc::fcntl(extra.as_raw_fd(), libc::F_DUPFD, 20);
                for &to in &descriptors {
                    libc::dup2(from, to);
                }
                libc::close(from);
                // A bare crun 1.8 refuses to run without stdin.
                if self == WithoutStdin && !is_crun {
                    libc::close(0);
                }
            }
            Ok(())
        };
        // SAFETY: the closure keeps to async-signal-safe calls.
        unsafe { command.pre_exec(change) };
    }
}

#[test]
fn runc() {
    for name in ["runc-1.1.5", "runc-1.1.15", "runc-1.5.3"] {
        for caller in [Usual, Unusual, WithoutStdin] {
            agree(&runtime(name), caller);
        }
    }
}

#[test]
fn crun_on_v2() {
    testkit::on_v2("inner_crun_on_v2");
}

#[test]
#[ignore = "run by crun_on_v2 in its mount namespace"]
fn inner_crun_on_v2() {
    for runtime in runtimes().iter().filter(|runtime| runtime.is_crun()) {
        for caller in [Usual, Unusual, WithoutStdin] {
            agree(runtime, caller);
        }
    }
}

fn agree(runtime: &Runtime, caller: Caller) {
    let place = Place::new(runtime);
    for (what, view) in [
        ("run", &Place::run as &dyn Fn(&Place, Side, Caller) -> String),
        ("create and start", &Place::create_and_start),
        ("exec", &Place::exec),
        ("create", &Place::create),
    ] {
        let bare = view(&place, Side::Bare, caller);
        let wrapped = view(&place, Side::Wrapped, caller);
        // Which descriptors a runtime's init still has open varies from moment to moment.
        let agree = wrapped == bare || (1..4).any(|_| wrapped == view(&place, Side::Bare, caller));
        assert!(agree, "{what} {caller:?} {}:\n{}", runtime.name, difference(&bare, &wrapped));
        // It is really what the caller passed on, and not, for instance, nothing.
        if caller != Usual && what == "run" {
            let first = |name: &str| bare.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(first("Max core file size").contains("4096"), "{bare}");
            // crun unblocks all signals; neither runtime keeps the umask or ignored signals.
            assert!(
                runtime.is_crun() || !first("SigBlk").ends_with("\t0000000000000000"),
                "{bare}"
            );
            let passed = bare.lines().filter(|line| line.ends_with("/extra")).count();
            assert_eq!(passed, if caller == Unusual { 1 } else { 7 }, "{bare}");
        }
    }
}

fn difference(bare: &str, wrapped: &str) -> String {
    let only = |these: &str, those: &str, side: &str| {
        let differ = |line: &&str| !those.lines().any(|other| other == *line);
        these.lines().filter(differ).map(|line| format!("{side}: {line}\n")).collect::<String>()
    };
    only(bare, wrapped, "bare") + &only(wrapped, bare, "wrapped")
}

/// A runtime resets some of this on the way, but it is itself started with everything that the
/// caller set.
#[test]
fn the_runtime_itself() {
    let mut place = Place::new(&runtime("runc-1.1.15"));
    place.runtime.path = place.scratch.path("runc");
    // Not with dash, which blocks all signals for a moment when it starts a command.
    let look = LOOK.replace("env", "env | grep -v ^FROSTLOCK_");
    testkit::program(&place.runtime.path, &format!("#!/bin/busybox sh\n{look}\necho end"));
    for caller in [Usual, Unusual, WithoutStdin] {
        for args in [&["create", "c1"] as &[&str], &["exec", "c1", "true"], &["list"]] {
            let view = |side| {
                let mut command = place.unusual(side, caller);
                let output = place.to_file(command.args(args));
                without_inodes(&std::fs::read_to_string(output).unwrap())
            };
            let (bare, wrapped) = (view(Side::Bare), view(Side::Wrapped));
            assert!(bare == wrapped, "{caller:?} {args:?}:\n{}", difference(&bare, &wrapped));
            assert!(bare.ends_with("end\n") && bare.contains("SigIgn"), "{bare}");
            assert_eq!(bare.lines().any(|line| line == "0027"), caller != Usual, "{bare}");
            assert_eq!(bare.contains("\n9 /"), caller != Usual, "{bare}");
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Bare,
    Wrapped,
}

struct Place {
    scratch: Scratch,
    runtime: Runtime,
    looking: PathBuf,
    idle: PathBuf,
}

impl Place {
    fn new(runtime: &Runtime) -> Place {
        let scratch = Scratch::new();
        let looking = scratch.bundle("signals", "looking");
        scratch.edit(&looking, |config| {
            config["process"]["args"] = serde_json::json!(["sh", "-c", LOOK]);
            // Removed, so that the inherited limits are visible.
            config["process"].as_object_mut().unwrap().remove("rlimits");
        });
        let idle = scratch.bundle("idle", "idle");
        scratch.edit(&idle, |config| {
            config["process"].as_object_mut().unwrap().remove("rlimits");
        });
        std::fs::write(scratch.path("extra"), "").unwrap();
        Place { scratch, runtime: runtime.clone(), looking, idle }
    }

    fn command(&self, side: Side) -> Command {
        match side {
            Side::Bare => self.scratch.bare(&self.runtime.path),
            Side::Wrapped => {
                // A process that is lifted while it inspects itself would see that.
                let config = self.scratch.path("config.toml");
                std::fs::write(&config, "[lift]\nenabled = false\n").unwrap();
                let mut wrapped = self.scratch.wrapped(&self.runtime.path);
                wrapped.env("FROSTLOCK_CONFIG", config);
                wrapped
            }
        }
    }

    fn unusual(&self, side: Side, caller: Caller) -> Command {
        let mut command = self.command(side);
        caller.disguise(&mut command, &self.scratch.path("extra"), &self.runtime);
        command
    }

    /// Succeeds, with output to the same file on both sides; the container sees the file's name.
    fn to_file(&self, command: &mut Command) -> PathBuf {
        let path = self.scratch.path("output");
        let file = File::create(&path).unwrap();
        let mut child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        let status = testkit::wait(&mut child, Duration::from_secs(30));
        assert!(
            status.is_some_and(|status| status.success()),
            "{command:?}: {status:?} {}",
            std::fs::read_to_string(&path).unwrap()
        );
        path
    }

    fn run(&self, side: Side, caller: Caller) -> String {
        self.clear();
        let mut command = self.unusual(side, caller);
        command.arg("run").args(caller.preserve_fds()).arg("--bundle").arg(&self.looking).arg("c1");
        let output = self.to_file(&mut command);
        without_inodes(&std::fs::read_to_string(output).unwrap())
    }

    fn create_and_start(&self, side: Side, caller: Caller) -> String {
        self.clear();
        let output = self.create_with(side, caller, &self.looking);
        testkit::succeed(self.unusual(side, caller).args(["start", "c1"]));
        testkit::eventually(Duration::from_secs(10), "the container's end", || {
            let state = testkit::run(self.scratch.bare(&self.runtime.path).args(["state", "c1"]));
            text(&state.stdout).contains("\"stopped\"")
        });
        without_inodes(&std::fs::read_to_string(output).unwrap())
    }

    fn exec(&self, side: Side, caller: Caller) -> String {
        self.clear();
        testkit::succeed(
            self.command(side).args(["run", "-d", "--bundle"]).arg(&self.idle).arg("c1"),
        );
        let mut command = self.unusual(side, caller);
        command.arg("exec").args(caller.preserve_fds()).args(["c1", "sh", "-c", LOOK]);
        let output = self.to_file(&mut command);
        without_inodes(&std::fs::read_to_string(output).unwrap())
    }

    /// The runtime's init while it waits for `start`, seen from outside.
    fn create(&self, side: Side, caller: Caller) -> String {
        self.clear();
        self.create_with(side, caller, &self.idle);
        let proc = self.init();
        until_at_rest(&proc);
        let status = std::fs::read_to_string(proc.join("status")).unwrap();
        let status = status.lines().filter(|line| {
            !line.starts_with("SigQ") && (line.starts_with("Sig") || line.starts_with("Um"))
        });
        let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
        let mut descriptors: Vec<String> =
            descriptors(&proc).into_iter().map(|(fd, target)| format!("{fd} {target}")).collect();
        descriptors.sort();
        let status: Vec<&str> = status.collect();
        without_inodes(&format!("{}\n{limits}{}", status.join("\n"), descriptors.join("\n")))
    }

    fn create_with(&self, side: Side, caller: Caller, bundle: &Path) -> PathBuf {
        let mut command = self.unusual(side, caller);
        command.arg("create").args(caller.preserve_fds()).arg("--bundle").arg(bundle).arg("c1");
        self.to_file(&mut command)
    }

    /// /proc/PID of the container's init.
    fn init(&self) -> PathBuf {
        let state = testkit::succeed(self.scratch.bare(&self.runtime.path).args(["state", "c1"]));
        let state: serde_json::Value = serde_json::from_slice(&state.stdout).unwrap();
        Path::new("/proc").join(state["pid"].to_string())
    }

    fn clear(&self) {
        let left = self.scratch.clear();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// `create` returns before the init is at rest: at rest, all its threads sleep, and it opens and
/// closes nothing more. An init that is kept from a CPU does not sleep.
fn until_at_rest(proc: &Path) {
    let sleeps = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('S'))
    };
    let mut before = Vec::new();
    testkit::eventually(Duration::from_secs(10), "the init at rest", || {
        std::thread::sleep(Duration::from_millis(20));
        let now = descriptors(proc);
        let mut tasks = std::fs::read_dir(proc.join("task")).unwrap().flatten();
        let at_rest = now == before && tasks.all(sleeps);
        before = now;
        at_rest
    });
}

fn descriptors(proc: &Path) -> Vec<(String, String)> {
    std::fs::read_dir(proc.join("fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let target = std::fs::read_link(entry.path()).ok()?;
            Some((entry.file_name().into_string().unwrap(), target.to_str()?.to_owned()))
        })
        .collect()
}

/// After `create`: descriptors of frostlock in a container would keep the lock for the container's
/// life.
#[test]
fn nothing_of_ours_is_open_in_the_container() {
    for name in ["runc-1.1.5", "runc-1.1.15", "runc-1.5.3"] {
        nothing_of_ours_is_open(&runtime(name));
    }
}

#[test]
fn nothing_of_ours_is_open_with_crun() {
    testkit::on_v2("inner_nothing_of_ours_is_open_with_crun");
}

#[test]
#[ignore = "run by nothing_of_ours_is_open_with_crun in its mount namespace"]
fn inner_nothing_of_ours_is_open_with_crun() {
    for runtime in runtimes().iter().filter(|runtime| runtime.is_crun()) {
        nothing_of_ours_is_open(runtime);
    }
}

fn nothing_of_ours_is_open(runtime: &Runtime) {
    let place = Place::new(runtime);
    for caller in [Usual, Unusual, WithoutStdin] {
        let pipes = |side| {
            place.clear();
            place.create_with(side, caller, &place.idle);
            let init = place.init();
            until_at_rest(&init);
            let open = descriptors(&init);
            let count = open.iter().filter(|(_, target)| target.starts_with("pipe:")).count();
            (count, open)
        };
        let (most, _) = pipes(Side::Bare);
        let (count, open) = pipes(Side::Wrapped);
        assert!(count <= most, "{}: {open:?}", runtime.name);
        let state = place.scratch.state().display().to_string();
        for (fd, target) in &open {
            let ours = target.starts_with(&state) || target.contains("memfd:frostlock");
            assert!(!ours, "{}: {fd} is {target}", runtime.name);
        }
        let locks = place.scratch.lock_files();
        assert!(!locks.is_empty(), "a create takes a lock");
        for lock in locks {
            let file = File::options().write(true).open(&lock).unwrap();
            // SAFETY: the descriptor is open; no memory is involved.
            let taken = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
            assert_eq!(taken, 0, "{} is held", lock.display());
        }
    }
}

/// systemd's protocol: descriptor 3 is for the process whose pid is in LISTEN_PID, which must be
/// the runtime's.
#[test]
fn activation_sockets_reach_the_container() {
    for name in ["runc-1.1.5", "runc-1.1.15", "runc-1.5.3"] {
        activation_sockets_reach(&runtime(name));
    }
}

#[test]
fn activation_sockets_reach_the_container_with_crun() {
    testkit::on_v2("inner_activation_sockets_reach_the_container_with_crun");
}

#[test]
#[ignore = "run by activation_sockets_reach_the_container_with_crun in its mount namespace"]
fn inner_activation_sockets_reach_the_container_with_crun() {
    for runtime in runtimes().iter().filter(|runtime| runtime.is_crun()) {
        activation_sockets_reach(runtime);
    }
}

fn activation_sockets_reach(runtime: &Runtime) {
    let place = Place::new(runtime);
    let socket = std::os::unix::net::UnixListener::bind(place.scratch.path("socket")).unwrap();
    let view = |side, whose_pid: &str| {
        place.clear();
        let inner = place.command(side);
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("LISTEN_FDS=1 LISTEN_PID={whose_pid} exec \"$@\""), "sh"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .args(["run", "--bundle"])
            .arg(&place.looking)
            .arg("c1");
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap());
        }
        let from = socket.as_raw_fd();
        let pass = move || {
            // SAFETY: async-signal-safe, on a descriptor that is open in the parent. By way of
            // another, as it may be 3 itself, and closed on exec.
            match unsafe { libc::dup2(libc::fcntl(from, libc::F_DUPFD, 20), 3) } {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        // SAFETY: the closure keeps to async-signal-safe calls.
        unsafe { command.pre_exec(pass) };
        let output = place.to_file(&mut command);
        without_inodes(&std::fs::read_to_string(output).unwrap())
    };
    // The shell's pid becomes the runtime's, or frostlock's.
    let (bare, wrapped) = (view(Side::Bare, "$$"), view(Side::Wrapped, "$$"));
    assert!(bare == wrapped, "{}:\n{}", runtime.name, difference(&bare, &wrapped));
    assert!(bare.contains("\n3 socket:"), "{bare}");
    // crun 1.8 does not pass the number.
    assert!(runtime.is_crun() || bare.contains("\nLISTEN_FDS=1\n"), "{bare}");
    // They are meant for another process, so frostlock must not pass them on.
    let (bare, wrapped) = (view(Side::Bare, "1"), view(Side::Wrapped, "1"));
    assert!(bare == wrapped, "{}:\n{}", runtime.name, difference(&bare, &wrapped));
}
