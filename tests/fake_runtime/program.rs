//! A runtime with runc's command line that does nothing but what `FAKE_DIR/script` says, and writes
//! down when: one line for the start of an operation in `FAKE_DIR/intervals`, one more for its end.
//!
//!     START_NS END_NS VERB ID CGROUP PID PPID LOCKED
//!
//! END_NS is `-` in the first. The times are CLOCK_MONOTONIC. LOCKED is 1 where the parent had a lock
//! file open at the start: a wrapper that is killed leaves no record that says so. Containers are
//! directories of the root with a state.json that names cgroups; no cgroup is made. What
//! `--resources -` reads is kept in `FAKE_DIR/stdin.PID`.
//!
//! `fake-runtime launch [--alarm SECONDS] [--block-signals] PROGRAM ARG...` executes a program as a
//! caller with such habits would.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use testkit::fake_runtime::{Attempt, Script, terminal};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|word| word == "launch") {
        launch(&args[1..]);
    }
    let line = Line::read(&args);
    if line.verb.is_empty() {
        print(std::io::stdout(), "runc version 0.0-fake\n");
        return;
    }
    std::process::exit(Operation::new(line).run());
}

/// The relevant parts of the command line.
#[derive(Default)]
struct Line {
    root: PathBuf,
    log: Option<PathBuf>,
    log_json: bool,
    debug: bool,
    verb: String,
    bundle: PathBuf,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    reads_stdin: bool,
    id: String,
}

/// Flags of runc that take the next word as their value.
const VALUES: &[&str] = &[
    "--root",
    "--log",
    "--log-format",
    "--criu",
    "--rootless",
    "--bundle",
    "-b",
    "--pid-file",
    "--console-socket",
    "--pidfd-socket",
    "--preserve-fds",
    "--resources",
    "-r",
    "--cwd",
    "--env",
    "-e",
    "--user",
    "-u",
    "--process",
    "-p",
    "--cap",
    "-c",
    "--cpu-quota",
    "--cpu-period",
    "--cpu-share",
    "--memory",
    "--pids-limit",
    "--image-path",
    "--work-path",
];

impl Line {
    fn read(args: &[String]) -> Line {
        let mut line = Line { root: "/run/runc".into(), bundle: ".".into(), ..Line::default() };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            if !word.starts_with('-') {
                if line.verb.is_empty() {
                    line.verb.clone_from(word);
                    continue;
                }
                line.id.clone_from(word);
                break;
            }
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None if VALUES.contains(&word.as_str()) => {
                    (word.as_str(), words.next().cloned().unwrap_or_default())
                }
                None => (word.as_str(), String::new()),
            };
            match name {
                "--root" => line.root = value.into(),
                "--log" => line.log = Some(value.into()),
                "--debug" => line.debug = true,
                "--log-format" => line.log_json = value == "json",
                "--bundle" | "-b" => line.bundle = value.into(),
                "--pid-file" => line.pid_file = Some(value.into()),
                "--console-socket" => line.console_socket = Some(value.into()),
                "--resources" | "-r" => line.reads_stdin = value == "-",
                _ => {}
            }
        }
        line
    }
}

/// The same in every entry, so that two logs can be compared.
const TIME: &str = "2020-01-01T00:00:00Z";

struct Operation {
    line: Line,
    fake: PathBuf,
    /// The path of the container's state.
    state: PathBuf,
    attempt: Attempt,
}

struct Begun {
    at: u128,
    locked: bool,
}

fn parent_has_a_lock() -> bool {
    let files = std::fs::read_dir(format!("/proc/{}/fd", nix::unistd::getppid()));
    let paths = files.into_iter().flatten().flatten();
    let mut paths = paths.filter_map(|it| std::fs::read_link(it.path()).ok());
    paths.any(|path| path.extension().is_some_and(|it| it == "lock"))
}

impl Operation {
    fn new(line: Line) -> Operation {
        let fake = PathBuf::from(std::env::var_os("FAKE_DIR").expect("FAKE_DIR"));
        let state = line.root.join(&line.id);
        let attempt = attempt(&fake, &line);
        Operation { line, fake, state, attempt }
    }

    fn run(&self) -> i32 {
        let begun = Begun { at: now(), locked: parent_has_a_lock() };
        if let Err(error) = self.open_log() {
            print(std::io::stderr(), &format!("{error}\n"));
            return 1;
        }
        let makes = matches!(self.line.verb.as_str(), "create" | "run" | "restore");
        let was_there = self.state.is_dir();
        let cgroup = if makes && !was_there { self.planned() } else { self.recorded() };
        self.note(&begun, None, &cgroup);
        if makes && !was_there {
            std::fs::create_dir_all(&self.state).unwrap();
        }
        let mut exit = self.work().unwrap_or_else(|why| {
            self.complain(&why);
            1
        });
        if makes && was_there {
            self.complain("container with given ID already exists");
            exit = 1;
        } else if !makes && !was_there {
            self.complain("container does not exist");
            exit = 1;
        }
        self.keep_books(makes, was_there, exit, &cgroup);
        self.note(&begun, Some(now()), &cgroup);
        if self.attempt.signal != 0 {
            die_of(self.attempt.signal);
        }
        exit
    }

    /// As runc does it, before anything else.
    fn open_log(&self) -> std::io::Result<()> {
        let Some(path) = &self.line.log else { return Ok(()) };
        OpenOptions::new().append(true).create(true).open(path).map(drop)
    }

    fn work(&self) -> Result<i32, String> {
        let attempt = &self.attempt;
        if self.line.reads_stdin {
            let mut input = Vec::new();
            std::io::stdin().read_to_end(&mut input).map_err(|error| error.to_string())?;
            let kept = self.fake.join(format!("stdin.{}", std::process::id()));
            std::fs::write(kept, input).unwrap();
        }
        if let Some((program, args)) = attempt.hook.split_first() {
            let _ = Command::new(program).args(args).status();
        }
        if !attempt.freezer.is_empty() {
            freeze(&self.recorded(), &attempt.freezer);
        }
        // Until the end: a terminal without a master hangs up.
        let _terminal = match &self.line.console_socket {
            Some(socket) => terminal::hand_out(socket, &attempt.console)?,
            None => None,
        };
        let jitter = if attempt.jitter_us == 0 { 0 } else { random() % attempt.jitter_us };
        std::thread::sleep(Duration::from_micros(attempt.delay_us + jitter));
        if let Some((program, args)) = attempt.child.split_first() {
            let mut child = Command::new(program).args(args).spawn().unwrap();
            if let Some(path) = &self.line.pid_file {
                std::fs::write(path, child.id().to_string()).unwrap();
            }
            let _ = child.wait();
        }
        print(std::io::stdout(), &attempt.stdout);
        print(std::io::stderr(), &attempt.stderr);
        if !attempt.log.is_empty() {
            self.log(&attempt.log);
        }
        if attempt.hang {
            hang();
        }
        Ok(attempt.exit)
    }

    /// Leaves the state as runc would.
    fn keep_books(&self, makes: bool, was_there: bool, exit: i32, cgroup: &str) {
        let failed = exit != 0 || self.attempt.signal != 0;
        let keep = self.attempt.keep_state;
        if makes && !was_there {
            match (failed, self.line.verb == "run") {
                (false, false) => self.write_state(cgroup),
                _ if !keep => drop(std::fs::remove_dir_all(&self.state)),
                _ => {}
            }
        } else if self.line.verb == "delete" && !failed && !keep {
            let _ = std::fs::remove_dir_all(&self.state);
        } else if self.line.verb == "pause" && !failed {
            freeze(cgroup, "FROZEN");
        } else if self.line.verb == "resume" && !failed {
            freeze(cgroup, "THAWED");
        }
    }

    fn planned(&self) -> String {
        let config = read_json(&self.line.bundle.join("config.json"));
        config["linux"]["cgroupsPath"]
            .as_str()
            .map_or_else(|| format!("/{}", self.line.id), str::to_owned)
    }

    fn recorded(&self) -> String {
        let state = read_json(&self.state.join("state.json"));
        state["fake_cgroup"].as_str().unwrap_or("-").to_owned()
    }

    /// Atomically, like runc.
    fn write_state(&self, cgroup: &str) {
        let bundle = std::fs::canonicalize(&self.line.bundle).unwrap();
        let state = json!({
            "id": self.line.id,
            "init_process_pid": 0,
            "init_process_start": 0,
            "fake_cgroup": cgroup,
            "cgroup_paths": cgroup_paths(cgroup),
            "config": { "labels": [format!("bundle={}", bundle.display())] },
        });
        let next = self.state.join("state.next");
        std::fs::write(&next, state.to_string()).unwrap();
        std::fs::rename(next, self.state.join("state.json")).unwrap();
    }

    fn complain(&self, message: &str) {
        self.log(message);
        print(std::io::stderr(), &format!("{message}\n"));
    }

    fn log(&self, message: &str) {
        let Some(path) = &self.line.log else { return };
        let line = if self.line.log_json {
            json!({ "level": "error", "msg": message, "time": TIME }).to_string()
        } else {
            format!("time=\"{TIME}\" level=error msg={message:?}")
        };
        let noise = if !self.line.debug {
            String::new()
        } else if self.line.log_json {
            format!("{}\n", json!({ "level": "debug", "msg": "noise", "time": TIME }))
        } else {
            format!("time=\"{TIME}\" level=debug msg=noise\n")
        };
        append(path, &format!("{noise}{line}\n{noise}"));
    }

    fn note(&self, begun: &Begun, ended: Option<u128>, cgroup: &str) {
        let ended = ended.map_or_else(|| "-".to_owned(), |ended| ended.to_string());
        let (verb, id) = (&self.line.verb, &self.line.id);
        let (pid, parent) = (std::process::id(), nix::unistd::getppid());
        let Begun { at, locked } = begun;
        let locked = u8::from(*locked);
        let line = format!("{at} {ended} {verb} {id} {cgroup} {pid} {parent} {locked}\n");
        append(&self.fake.join("intervals"), &line);
    }
}

/// What this start of the runtime must do.
fn attempt(fake: &Path, line: &Line) -> Attempt {
    let text = std::fs::read_to_string(fake.join("script")).unwrap_or_else(|_| "{}".to_owned());
    let script: Script = serde_json::from_str(&text).expect("FAKE_DIR/script");
    let of_this = format!("{} {}", line.verb, line.id);
    let found = [of_this.as_str(), line.verb.as_str(), "*"].iter().find_map(|key| script.get(*key));
    let attempts = found.cloned().unwrap_or_default();
    if attempts.len() < 2 {
        return attempts.into_iter().next().unwrap_or_default();
    }
    let number = count(&fake.join(format!("count-{}-{}", line.verb, line.id)));
    attempts[number.min(attempts.len() - 1)].clone()
}

/// How often this was called for the file before. The lock gives two concurrent callers different
/// numbers.
fn count(path: &Path) -> usize {
    let file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    let locked = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let before = locked.metadata().unwrap().len() as usize;
    (&*locked).write_all(b".").unwrap();
    before
}

/// The paths of a cgroup in every hierarchy, as in runc's state.json.
fn cgroup_paths(cgroup: &str) -> Value {
    let below = cgroup.trim_start_matches('/');
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return json!({ "": top.join(below) });
    }
    let hierarchies = std::fs::read_dir(top).unwrap().flatten();
    hierarchies
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "unified" && name != "systemd")
        .map(|name| (name.clone(), json!(top.join(&name).join(below))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// In its v1 cgroup, if the test has made one.
fn freeze(cgroup: &str, state: &str) {
    let file = format!("/sys/fs/cgroup/freezer{cgroup}/freezer.state");
    if Path::new(&file).exists() {
        std::fs::write(file, state).unwrap();
    }
}

fn read_json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn append(path: &Path, line: &str) {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.unwrap().write_all(line.as_bytes()).unwrap();
}

/// The reader may be gone.
fn print(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
    let _ = to.flush();
}

fn now() -> u128 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_nanos()
}

/// Good enough for jitter.
fn random() -> u64 {
    let mut seed = now() as u64 ^ (u64::from(std::process::id()) << 32) | 1;
    for shift in [13, 7, 17] {
        seed ^= seed.rotate_left(shift).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    seed
}

fn hang() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn die_of(signal: i32) -> ! {
    let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
    let _ = nix::sys::signal::raise(signal);
    std::process::exit(128 + signal as i32)
}

fn launch(args: &[String]) -> ! {
    let mut args = args;
    loop {
        match args {
            [flag, seconds, rest @ ..] if flag == "--alarm" => {
                nix::unistd::alarm::set(seconds.parse().unwrap());
                args = rest;
            }
            [flag, rest @ ..] if flag == "--block-signals" => {
                nix::sys::signal::SigSet::all().thread_block().unwrap();
                args = rest;
            }
            _ => break,
        }
    }
    // Not through std, which would empty the mask again.
    let argv: Vec<CString> = args
        .iter()
        .map(|arg| CString::new(std::ffi::OsString::from(arg).into_vec()).unwrap())
        .collect();
    let error = nix::unistd::execv(&argv[0], &argv).unwrap_err();
    panic!("{}: {error}", args[0]);
}
