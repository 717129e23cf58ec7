//! Real podman and conmon with frostlock as their runtime: a user sees the same as with the bare
//! runtime.
//!
//! podman clears the runtime's environment. So each suite has a mount namespace with its own /run,
//! which has the state directory, and with the wanted runtime over Debian's runc. Needs root and
//! the lab (`make lab`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use testkit::failing::{PROC_HOOKS, failing};
use testkit::terminal::{Terminal, ends};
use testkit::transcript::Transcript;
use testkit::{Scratch, eventually, frostlock, run, runtime, text};

mod failing {
    #[test]
    #[ignore = "run by the failing runtime"]
    fn connects_and_hangs_up() {
        testkit::failing::connects_and_hangs_up();
    }
}

const SOON: Duration = Duration::from_secs(10);

/// Where frostlock finds runc, since podman gives it no other PATH.
const RUNC: &str = "/usr/sbin/runc";

/// The namespace's own /run and /dev/shm, which has podman's locks. podman requests a log, from
/// which it takes the error, only from a runtime that it knows by name to write JSON;
/// `runtime_supports_json` adds ours. Nothing in the namespace outlives its standard input.
const SET_UP: &str = r#"
    mount -t tmpfs none /run && mount -t tmpfs none /dev/shm && mount --bind "$1" /usr/sbin/runc &&
    cp -a "$2" /run/rootfs && printf '%s\n' '[engine]' "runtime_supports_json = [$3]" >/run/conf &&
    mkdir /run/podman && echo ready && exec cat"#;

struct Podman {
    scratch: Scratch,
    /// Keeps the namespace alive.
    namespace: Child,
}

impl Podman {
    fn with(runc: &Path) -> Podman {
        Podman::knowing(r#""runc", "frostlock""#, runc)
    }

    fn knowing(json_runtimes: &str, runc: &Path) -> Podman {
        let scratch = Scratch::new();
        let mut namespace = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", SET_UP, "sh"])
            .args([runc, &testkit::lab().join("rootfs"), Path::new(json_runtimes)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let output = namespace.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Podman { scratch, namespace }
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.namespace.id())).arg(program);
        command.env("CONTAINERS_CONF", "/run/conf").stdin(Stdio::null());
        command
    }

    fn podman(&self, runtime: &Path) -> Command {
        let mut podman = self.inside("podman");
        podman.args(["--root", "/run/podman/root", "--runroot", "/run/podman/run"]);
        podman.args(["--tmpdir", "/run/podman/tmp", "--storage-driver", "vfs"]);
        podman.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime"]);
        podman.arg(runtime);
        podman
    }

    fn bare(&self) -> Side<'_> {
        self.side(PathBuf::from(RUNC))
    }

    fn wrapped(&self) -> Side<'_> {
        self.side(frostlock())
    }

    fn side(&self, runtime: PathBuf) -> Side<'_> {
        let hidden = vec![(runtime.display().to_string(), "RUNTIME")];
        Side { podman: self, runtime, transcript: Transcript::new(hidden) }
    }

    /// The scene bare and wrapped: the same commands end the same way and print the same.
    fn same(&self, scene: impl Fn(&Side<'_>)) {
        let (bare, wrapped) = (self.bare(), self.wrapped());
        scene(&bare);
        assert!(self.journal().is_empty());
        scene(&wrapped);
        assert!(!bare.transcript.text().is_empty());
        assert_eq!(bare.transcript.text(), wrapped.transcript.text());
    }

    /// /run/frostlock as the host sees it.
    fn state(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/frostlock", self.namespace.id()))
    }

    fn journal(&self) -> Vec<Value> {
        let journal = std::fs::read_to_string(self.state().join("journal.jsonl"));
        let journal = journal.unwrap_or_default();
        journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn verbs(&self) -> Vec<(String, i64)> {
        let of = |record: &Value| {
            let code = record["exit"]["code"].as_i64().unwrap();
            (record["verb"].as_str().unwrap().to_owned(), code)
        };
        // A lift that outlived an operation is not an operation.
        self.journal().iter().filter(|record| record["verb"] != "lift").map(of).collect()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let removed =
            run(self.podman(Path::new(RUNC)).args(["rm", "--force", "--all", "--time", "0"]));
        let mut left = Vec::new();
        for directory in ["containers", "locks", "tty"] {
            left.extend(
                std::fs::read_dir(self.state().join(directory)).into_iter().flatten().flatten(),
            );
        }
        drop(self.namespace.stdin.take());
        let _ = self.namespace.wait();
        if !std::thread::panicking() {
            assert!(removed.status.success(), "{}", text(&removed.stderr));
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

/// podman with one runtime, bare or wrapped, and what its user saw.
struct Side<'a> {
    podman: &'a Podman,
    runtime: PathBuf,
    transcript: Transcript,
}

impl Side<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut podman = self.podman.podman(&self.runtime);
        podman.args(args);
        podman
    }

    fn does(&self, args: &[&str]) -> String {
        self.transcript.see(&mut self.command(args))
    }

    fn run_command(&self, options: &[&str], command: &[&str]) -> Command {
        let mut podman = self.command(&["run", "--network", "none"]);
        podman.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        podman.args(["--cgroup-parent", &self.podman.scratch.cgroup, "--name", "c1"]);
        podman.args(options).args(["--rootfs", "/run/rootfs"]).args(command);
        podman
    }

    fn run(&self, options: &[&str], command: &[&str]) -> String {
        self.transcript.see(&mut self.run_command(options, command))
    }

    fn state(&self) -> String {
        self.does(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "c1"])
    }
}

fn expected(verbs: &[(&str, i64)]) -> Vec<(String, i64)> {
    verbs.iter().map(|(verb, code)| ((*verb).to_owned(), *code)).collect()
}

#[test]
fn to_the_end_with_its_exit_code_and_output() {
    let podman = Podman::with(&runtime("runc-1.1.15").path);
    podman.same(|side| {
        let seen = side.run(&["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!(seen, "exit status: 7 out\nerr");
        let seen = side.run(&["--rm"], &["/bin/missing"]);
        assert!(seen.starts_with("exit status: 127 Error: RUNTIME: runc create failed"), "{seen}");
    });
    let all = [("create", 0), ("start", 0), ("delete", 0), ("create", 1), ("delete", 0)];
    eventually(SOON, "five records", || podman.verbs().len() >= 5);
    assert_eq!(podman.verbs(), expected(&all));
    let by: Vec<_> = podman.journal().iter().map(|record| record["requested_by"].clone()).collect();
    assert_eq!(by[..2], ["conmon", "podman"]);
}

#[test]
fn a_life_in_the_background() {
    let podman = Podman::with(&runtime("runc-1.1.15").path);
    podman.same(|side| {
        let loops = "trap 'exit 3' TERM; while :; do sleep 0.05; done";
        side.run(&["--detach"], &["sh", "-c", loops]);
        assert!(side.state().contains("running"));
        let seen = side.does(&["exec", "c1", "sh", "-c", "echo out; echo err >&2; exit 5"]);
        assert_eq!(seen, "exit status: 5 out\nerr");
        side.does(&["exec", "c1", "missing"]);
        side.does(&["pause", "c1"]);
        assert!(side.state().contains("paused"));
        side.does(&["exec", "c1", "true"]);
        side.does(&["unpause", "c1"]);
        side.does(&["update", "--memory", "64m", "c1"]);
        side.does(&["kill", "--signal", "USR9", "c1"]);
        side.does(&["stop", "--time", "5", "c1"]);
        assert!(side.state().contains("exited 3"));
        side.does(&["start", "c1"]);
        side.does(&["rm", "--force", "--time", "0", "c1"]);
        side.does(&["inspect", "c1"]);
    });
    let all = expected(&[
        ("create", 0),
        ("start", 0),
        ("exec", 0),
        ("exec", 255),
        ("pause", 0),
        ("resume", 0),
        ("update", 0),
        ("kill", 0),
        ("delete", 0),
        ("create", 0),
        ("start", 0),
        ("kill", 0),
        ("delete", 0),
    ]);
    assert_eq!(podman.verbs(), all);
}

#[test]
fn a_terminal_works() {
    let podman = Podman::with(&runtime("runc-1.1.15").path);
    podman.same(|side| {
        let (mut terminal, mut child) =
            Terminal::start(&side.run_command(&["--rm", "--tty", "--interactive"], &["sh"]));
        terminal.is_usable();
        let exec = side.command(&["exec", "--tty", "--interactive", "c1", "sh"]);
        let (mut other, mut other_child) = Terminal::start(&exec);
        other.is_usable();
        other.types("exit 6");
        side.transcript.note(ends(&mut other_child).to_string());
        terminal.types("exit 4");
        side.transcript.note(ends(&mut child).to_string());
    });
}

/// conmon accepts its one connection at once, and removes the socket.
#[test]
fn a_terminal_after_two_creates_that_failed() {
    let scripts = tempfile::tempdir().unwrap();
    let podman = Podman::with(&failing(&scripts.path().join("runc"), "create", 2, PROC_HOOKS, 1));
    let bare = podman.bare();
    let (terminal, mut child) =
        Terminal::start(&bare.run_command(&["--rm", "--tty", "--interactive"], &["sh"]));
    assert_eq!(ends(&mut child).code(), Some(126));
    terminal.shows("procHooks process: unable to freeze");
    std::fs::remove_file(scripts.path().join("runc.failed")).unwrap();

    let side = podman.wrapped();
    let (mut terminal, mut child) =
        Terminal::start(&side.run_command(&["--rm", "--tty", "--interactive"], &["sh"]));
    terminal.is_usable();
    terminal.types("exit 4");
    assert_eq!(ends(&mut child).code(), Some(4));
    assert!(!terminal.screen().contains("unable to freeze"), "{}", terminal.screen());
    assert_eq!(podman.journal()[0]["attempts"], 3);
}

/// podman reads the log as one JSON object: if it has two lines, podman shows stderr instead.
#[test]
fn a_create_that_fails_to_the_last_attempt_says_what_bare_says() {
    let scripts = tempfile::tempdir().unwrap();
    let podman =
        Podman::with(&failing(&scripts.path().join("runc"), "create", 1000, PROC_HOOKS, 1));
    podman.same(|side| {
        let seen = side.run(&["--rm"], &["true"]);
        assert!(
            seen.contains(&format!("Error: OCI runtime error: RUNTIME: {PROC_HOOKS}")),
            "{seen}"
        );
    });
    let attempts = podman.journal()[0]["attempts"].as_u64().unwrap();
    assert!(attempts > 1, "{attempts}");
}

/// If its configuration does not mention frostlock, podman gives it no log and takes the error from
/// stderr, and a create cannot be retried.
#[test]
fn unknown_to_podman() {
    let podman = Podman::knowing(r#""runc""#, &runtime("runc-1.1.15").path);
    let seen = podman.wrapped().run(&["--rm"], &["/bin/missing"]);
    assert!(seen.starts_with("exit status: 127 Error: RUNTIME: time="), "{seen}");
    assert!(seen.contains("stat /bin/missing: no such file or directory"), "{seen}");
}
