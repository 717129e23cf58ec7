//! Real containerd 1.6 with frostlock as its runtime: a caller sees the same as with the bare
//! runtime. `ctr --runc-binary` sets the shim's option `BinaryName`, like
//! `runtimes.NAME.options.BinaryName` of the CRI plugin. ctr reads no configuration of runtimes,
//! which belongs to that plugin.
//!
//! Needs root and the lab (`make lab`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use testkit::failing::{PAUSED, PROC_HOOKS, failing, script};
use testkit::terminal::{Terminal, ends};
use testkit::transcript::Transcript;
use testkit::{Scratch, cgroup_dirs, eventually, frostlock, run, runtime, text};

mod failing {
    #[test]
    #[ignore = "run by the failing runtime"]
    fn connects_and_hangs_up() {
        testkit::failing::connects_and_hangs_up();
    }
}

const NAMESPACE: &str = "frostlock-test";
const SOON: Duration = Duration::from_secs(10);

/// A containerd of our own, whose shims find `runtime` as the wrapper's runtime.
struct Containerd {
    scratch: Scratch,
    runtime: PathBuf,
}

impl Containerd {
    fn up(runtime: &Path) -> Containerd {
        let containerd = Containerd { scratch: Scratch::new(), runtime: runtime.to_owned() };
        let up = run(containerd
            .script("up")
            .env("FROSTLOCK_RUNTIME", runtime)
            .env("FROSTLOCK_STATE_DIR", containerd.scratch.state())
            .env("FROSTLOCK_CONFIG", "/dev/null"));
        assert!(up.status.success(), "{}", text(&up.stderr));
        containerd
    }

    fn script(&self, action: &str) -> Command {
        let mut command =
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/containerd"));
        command.arg(action).arg(self.dir());
        command
    }

    fn dir(&self) -> PathBuf {
        self.scratch.path("c")
    }

    /// Where the shim keeps the runtime's state.
    fn root(&self) -> PathBuf {
        self.dir().join("runc")
    }

    fn ctr(&self) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.dir().join("containerd.sock"));
        ctr.args(["--namespace", NAMESPACE]).stdin(std::process::Stdio::null());
        ctr
    }

    fn bare(&self, id: &str) -> Side<'_> {
        self.side(self.runtime.clone(), id)
    }

    fn wrapped(&self, id: &str) -> Side<'_> {
        self.side(frostlock(), id)
    }

    fn side(&self, binary: PathBuf, id: &str) -> Side<'_> {
        let id = format!("{}-{id}", self.scratch.cgroup.trim_start_matches('/'));
        let hidden = vec![(binary.display().to_string(), "RUNTIME"), (id.clone(), "ID")];
        Side { containerd: self, binary, id, transcript: Transcript::new(hidden) }
    }

    /// The scene bare and wrapped: the same commands end the same way and print the same.
    fn same(&self, scene: impl Fn(&Side<'_>)) {
        let (bare, wrapped) = (self.bare("bare"), self.wrapped("wrapped"));
        for side in [&bare, &wrapped] {
            scene(side);
        }
        assert!(!bare.transcript.text().is_empty());
        assert_eq!(bare.transcript.text(), wrapped.transcript.text());
        assert!(self.journal(&bare.id).is_empty());
    }

    /// Verb and exit code of each record.
    fn journal(&self, id: &str) -> Vec<(String, i64)> {
        let of = |record: &Value| {
            assert!(record["holders"].is_null() && record["exit"]["signal"].is_null(), "{record}");
            (record["verb"].as_str().unwrap().to_owned(), record["exit"]["code"].as_i64().unwrap())
        };
        self.records(id).iter().map(of).collect()
    }

    fn records(&self, id: &str) -> Vec<Value> {
        let records = self.scratch.journal().into_iter();
        // A lift that outlived an operation is not an operation.
        records.filter(|record| record["id"] == id && record["verb"] != "lift").collect()
    }

    /// No lock, no record of a container, no socket, no cgroup, no process of ours.
    fn is_clean(&self) {
        eventually(SOON, "no wrapper process", || wrappers(&self.scratch.state()).is_empty());
        assert_eq!(self.scratch.lock_files(), Vec::<PathBuf>::new());
        for directory in ["containers", "tty"] {
            let left: Vec<_> = std::fs::read_dir(self.scratch.state().join(directory))
                .into_iter()
                .flatten()
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
        let cgroups = cgroup_dirs(&self.scratch.cgroup);
        assert!(
            cgroups.iter().all(|dir| dir.ends_with(self.scratch.cgroup.trim_start_matches('/'))),
            "{cgroups:?}"
        );
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let down = run(&mut self.script("down"));
        if !std::thread::panicking() {
            assert!(down.status.success(), "{}", text(&down.stderr));
            self.is_clean();
        }
    }
}

/// Wrappers that use this state directory.
fn wrappers(state: &Path) -> Vec<PathBuf> {
    let setting = format!("FROSTLOCK_STATE_DIR={}", state.display());
    let is_ours = |process: &PathBuf| {
        let is_wrapper =
            std::fs::read_link(process.join("exe")).is_ok_and(|exe| exe == frostlock());
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        is_wrapper && environment.split(|byte| *byte == 0).any(|entry| entry == setting.as_bytes())
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(is_ours)
        .collect()
}

/// One container, bare or wrapped, and what its caller saw.
struct Side<'a> {
    containerd: &'a Containerd,
    binary: PathBuf,
    id: String,
    transcript: Transcript,
}

impl Side<'_> {
    /// `ctr run` with these options; the command is the container's.
    fn run_command(&self, options: &[&str], command: &[&str]) -> Command {
        let mut ctr = self.containerd.ctr();
        ctr.args(["run", "--rootfs", "--read-only", "--env", "PATH=/bin", "--runc-binary"]);
        ctr.arg(&self.binary).arg("--runc-root").arg(self.containerd.root());
        ctr.arg("--cgroup").arg(format!("{}/{}", self.containerd.scratch.cgroup, self.id));
        ctr.args(options).arg(testkit::lab().join("rootfs")).arg(&self.id).args(command);
        ctr
    }

    fn run(&self, options: &[&str], command: &[&str]) -> String {
        self.see(&mut self.run_command(options, command))
    }

    /// `ctr task VERB OPTIONS ID REST`.
    fn task_command(&self, verb: &[&str], rest: &[&str]) -> Command {
        let mut ctr = self.containerd.ctr();
        ctr.arg("task").args(verb).arg(&self.id).args(rest);
        ctr
    }

    fn task(&self, verb: &[&str], rest: &[&str]) -> String {
        self.see(&mut self.task_command(verb, rest))
    }

    /// The runtime as the shim runs it, with the same root.
    fn runtime(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("--root")
            .arg(self.containerd.root().join(NAMESPACE))
            .args(args)
            .env("FROSTLOCK_RUNTIME", &self.containerd.runtime)
            .env("FROSTLOCK_STATE_DIR", self.containerd.scratch.state())
            .env("FROSTLOCK_CONFIG", "/dev/null");
        command
    }

    fn see(&self, command: &mut Command) -> String {
        self.transcript.see(command)
    }

    fn note(&self, seen: impl Into<String>) -> String {
        self.transcript.note(seen.into())
    }

    /// The status according to containerd: RUNNING, PAUSED, STOPPED or empty.
    fn status(&self) -> String {
        let output = run(self.containerd.ctr().args(["task", "ls"]));
        let list = text(&output.stdout);
        let of_this = list.lines().find(|line| line.starts_with(&self.id));
        of_this.and_then(|line| line.split_whitespace().last()).unwrap_or_default().to_owned()
    }

    fn becomes(&self, status: &str) {
        eventually(SOON, status, || self.status() == status);
        self.note(status);
    }

    fn ends(&self) {
        self.task(&["kill", "--signal", "KILL"], &[]);
        self.becomes("STOPPED");
        self.task(&["delete"], &[]);
        self.see(self.containerd.ctr().args(["container", "delete", &self.id]));
    }

    /// The shim's directory for this container.
    fn bundle(&self) -> PathBuf {
        let tasks = self.containerd.dir().join("state/io.containerd.runtime.v2.task");
        tasks.join(NAMESPACE).join(&self.id)
    }

    fn shim(&self) -> Option<i32> {
        let socket = self.containerd.dir().join("containerd.sock");
        let is_it = |process: &PathBuf| {
            let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
            let line = text(&line);
            let words: Vec<&str> = line.split('\0').collect();
            words[0].contains("containerd-shim")
                && words.contains(&self.id.as_str())
                && words.contains(&&*socket.to_string_lossy())
        };
        let all = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let found = all.into_iter().find(is_it)?;
        found.file_name()?.to_str()?.parse().ok()
    }
}

fn expected(verbs: &[(&str, i64)]) -> Vec<(String, i64)> {
    verbs.iter().map(|(verb, code)| ((*verb).to_owned(), *code)).collect()
}

/// Does not end at once: ctr loses the output of a process that ends while ctr still opens the
/// FIFOs, on a busy machine 2 of 240 times, bare as well as wrapped.
const SPEAKS: &str = "echo out; echo err >&2; sleep 0.3";

/// A container that writes the signals it got into a file.
const SIGNALS: [&str; 3] = [
    "sh",
    "-c",
    "trap 'echo one' USR1; trap 'echo two' USR2; trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.05; done",
];

#[test]
fn to_the_end_with_its_exit_code_and_output() {
    for version in ["runc-1.1.5", "runc-1.5.3"] {
        let containerd = Containerd::up(&runtime(version).path);
        containerd.same(|side| {
            let seen = side.run(&["--rm"], &["sh", "-c", &format!("{SPEAKS}; exit 7")]);
            assert!(seen.contains("exit status: 7") && seen.contains("out\nerr"), "{seen}");
            let seen = side.run(&["--rm"], &["/bin/missing"]);
            assert!(seen.contains("stat /bin/missing: no such file"), "{seen}");
            side.run(&["--rm"], &["true"]);
        });
        let id = containerd.wrapped("wrapped").id;
        let life = [("create", 0), ("start", 0), ("delete", 0), ("delete", 0)];
        let failed = [("create", 1), ("delete", 0)];
        let all = [&life[..], &failed, &life].concat();
        assert_eq!(containerd.journal(&id), expected(&all));
    }
}

#[test]
fn a_life_in_the_background() {
    for version in ["runc-1.1.5", "runc-1.1.15", "runc-1.5.3"] {
        let containerd = Containerd::up(&runtime(version).path);
        containerd.same(|side| {
            let log = containerd.scratch.path(&format!("{}.log", side.id));
            let uri = format!("file://{}", log.display());
            let logged = || std::fs::read_to_string(&log).unwrap_or_default();
            side.run(&["--detach", "--log-uri", &uri], &SIGNALS);
            side.becomes("RUNNING");
            eventually(SOON, "ready", || logged().contains("ready"));

            let exec =
                |id, command: &str| side.task(&["exec", "--exec-id", id], &["sh", "-c", command]);
            let seen = exec("one", &format!("{SPEAKS}; exit 5"));
            assert_eq!(seen, "exit status: 5 out\nerr");
            side.task(&["exec", "--exec-id", "two"], &["missing"]);

            // ctr leaves the FIFOs of a detached exec behind.
            let fifos = containerd.scratch.path("fifos").display().to_string();
            let detached = ["exec", "--detach", "--fifo-dir", &fifos, "--exec-id", "four"];
            side.task(&detached, &["sleep", "100"]);
            // The shim itself kills it.
            side.task(&["kill", "--exec-id", "four", "--signal", "KILL"], &[]);
            let mut delete = side.task_command(&["delete", "--exec-id", "four"], &[]);
            eventually(SOON, "killed", || run(&mut delete).status.code() == Some(128 + 9));

            side.task(&["pause"], &[]);
            side.becomes("PAUSED");
            // The shim refuses it without asking the runtime.
            exec("three", "true");
            side.task(&["resume"], &[]);
            side.becomes("RUNNING");
            side.task(&["checkpoint", "--image-path", "/proc/missing"], &[]);
            side.becomes("RUNNING");

            for (signal, word) in [("USR1", "one"), ("USR2", "two")] {
                side.task(&["kill", "--signal", signal], &[]);
                eventually(SOON, word, || logged().contains(word));
            }
            side.task(&["kill", "--signal", "99"], &[]);
            side.task(&["kill", "--all", "--signal", "USR1"], &[]);
            side.task(&["kill"], &[]);
            side.becomes("STOPPED");
            side.task(&["kill"], &[]);
            eventually(SOON, "the end of its log", || logged().contains("term"));
            side.task(&["delete"], &[]);
            side.task(&["delete"], &[]);
            side.see(containerd.ctr().args(["container", "delete", &side.id]));
            side.becomes("");
        });
        let verbs: Vec<_> = containerd.journal(&containerd.wrapped("wrapped").id);
        let expected = expected(&[
            ("create", 0),
            ("start", 0),
            ("exec", 0),
            ("exec", 255),
            ("exec", 0),
            ("pause", 0),
            ("resume", 0),
            // The shim pauses for a checkpoint.
            ("pause", 0),
            ("checkpoint", 1),
            ("resume", 0),
            ("kill", 0),
            ("kill", 0),
            ("kill", 1),
            ("kill", 0),
            ("kill", 0),
            // A stopped container cannot be killed.
            ("kill", 1),
            ("delete", 0),
            ("delete", 0),
        ]);
        assert_eq!(verbs, expected, "{version}");
    }
}

#[test]
fn limits_through_the_runtime_with_the_shims_root() {
    let containerd = Containerd::up(&runtime("runc-1.1.15").path);
    containerd.same(|side| {
        side.run(&["--detach", "--null-io"], &["sleep", "100"]);
        side.see(&mut side.runtime(&["update", "--memory", "67108864", &side.id]));
        let resources = containerd.scratch.path("resources");
        std::fs::write(&resources, r#"{"cpu":{"quota":50000,"period":100000}}"#).unwrap();
        let mut update = side.runtime(&["update", "--resources", "-", &side.id]);
        side.see(update.stdin(std::fs::File::open(&resources).unwrap()));
        let limit = |file: &str| {
            let (controller, _) = file.split_once('.').unwrap();
            let cgroup = format!("{}/{}", containerd.scratch.cgroup, side.id);
            std::fs::read_to_string(format!("/sys/fs/cgroup/{controller}{cgroup}/{file}")).unwrap()
        };
        side.note(limit("memory.limit_in_bytes"));
        assert_eq!(side.note(limit("cpu.cfs_quota_us")), "50000\n");
        side.see(&mut side.runtime(&["state", "missing"]));
        side.ends();
    });
    let verbs = ["create", "start", "update", "update", "kill", "delete", "delete"];
    let all = expected(&verbs.map(|verb| (verb, 0)));
    assert_eq!(containerd.journal(&containerd.wrapped("wrapped").id), all);
}

#[test]
fn a_terminal_works() {
    let containerd = Containerd::up(&runtime("runc-1.1.15").path);
    containerd.same(|side| {
        let (mut terminal, mut child) =
            Terminal::start(&side.run_command(&["--rm", "--tty"], &["sh"]));
        terminal.is_usable();
        exec_with_a_terminal(side);
        terminal.types("exit 4");
        side.note(ends(&mut child).to_string());
        side.becomes("");
    });
    let verbs = ["create", "start", "exec", "delete", "delete"];
    let all = expected(&verbs.map(|verb| (verb, 0)));
    assert_eq!(containerd.journal(&containerd.wrapped("wrapped").id), all);
}

fn exec_with_a_terminal(side: &Side<'_>) {
    let exec = side.task_command(&["exec", "--tty", "--exec-id", "terminal"], &["sh"]);
    let (mut terminal, mut child) = Terminal::start(&exec);
    terminal.is_usable();
    terminal.types("exit 6");
    side.note(ends(&mut child).to_string());
}

/// containerd cleans up after a killed shim: `delete --force`, within 5 s.
#[test]
fn a_shim_that_was_killed() {
    let containerd = Containerd::up(&runtime("runc-1.1.15").path);
    containerd.same(|side| {
        side.run(&["--detach", "--null-io"], &["sleep", "100"]);
        let state = containerd.root().join(NAMESPACE).join(&side.id);
        assert!(state.exists());
        let address = std::fs::read_to_string(side.bundle().join("address")).unwrap();
        kill(side.shim().expect("a shim"));
        eventually(SOON, "removed by the runtime", || !state.exists());
        // containerd leaves the socket of a killed shim.
        std::fs::remove_file(address.strip_prefix("unix://").unwrap()).unwrap();
        side.becomes("");
        let cgroup = format!("{}/{}", containerd.scratch.cgroup, side.id);
        assert!(cgroup_dirs(&cgroup).is_empty());
        side.see(containerd.ctr().args(["container", "delete", &side.id]));
    });
    let wrapped = containerd.wrapped("wrapped").id;
    eventually(SOON, "three records", || containerd.journal(&wrapped).len() >= 3);
    let all = expected(&[("create", 0), ("start", 0), ("delete", 0)]);
    assert_eq!(containerd.journal(&wrapped), all);
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn no_runtime_is_said_in_one_sentence() {
    let containerd = Containerd::up(Path::new("/missing/runc"));
    let side = containerd.wrapped("wrapped");
    let said = side.run(&["--rm"], &["true"]);
    assert_eq!(
        said,
        "exit status: 1 ctr: failed to create shim task: OCI runtime create failed: frostlock: \
         cannot find the runtime: /missing/runc is not there: unknown"
    );
}

#[test]
fn a_runtime_that_dies_in_create() {
    // Like runc and crun, it opens its log before anything else.
    let opens_log = "for word; do [ \"$last\" != --log ] || : >>\"$word\"; last=$word; done";
    // A runtime that exits with 1 has put the error into its log, or refused its command line and
    // opened none.
    let deaths = ["kill -KILL $$", "exit 3", "echo no room >&2; exit 2"];
    for death in deaths {
        dies_in_create(&format!("{opens_log}; {death}"), |bare, wrapped| assert_eq!(bare, wrapped));
    }
    // A runtime that fails earlier, for example because of a missing library, leaves no log.
    dies_in_create("exit 127", |bare, wrapped| {
        assert!(bare.contains("unable to retrieve OCI runtime error"), "control: {bare}");
        assert_eq!(bare, wrapped);
    });
}

fn dies_in_create(death: &str, is_right: impl Fn(&str, &str)) {
    let scripts = tempfile::tempdir().unwrap();
    let real = runtime("runc-1.1.15").path.display().to_string();
    let dies = script(
        &scripts.path().join("runc"),
        &format!("case \" $* \" in *' create '*) {death} ;; esac\nexec {real} \"$@\""),
    );
    let containerd = Containerd::up(&dies);
    let said = [containerd.bare("bare"), containerd.wrapped("wrapped")].map(|side| {
        let said = side.run(&["--rm"], &["true"]);
        assert!(said.starts_with("exit status: 1 ctr: failed to create shim task"), "{said}");
        assert_eq!(side.see(containerd.ctr().args(["container", "ls", "-q"])), "exit status: 0 ");
        said
    });
    is_right(&said[0], &said[1]);
}

#[test]
fn pod_and_container_are_named() {
    let containerd = Containerd::up(&runtime("runc-1.1.15").path);
    let side = containerd.wrapped("wrapped");
    let annotations = [
        "io.kubernetes.cri.sandbox-namespace=shop",
        "io.kubernetes.cri.sandbox-name=cart-7f9c",
        "io.kubernetes.cri.sandbox-uid=6a1d2f0e",
        "io.kubernetes.cri.container-name=redis",
    ];
    let mut options = vec!["--detach", "--null-io"];
    options.extend(annotations.iter().flat_map(|annotation| ["--annotation", annotation]));
    side.run(&options, &["sleep", "100"]);
    side.task(&["exec", "--exec-id", "probe"], &["true"]);
    side.task(&["pause"], &[]);
    side.task(&["resume"], &[]);
    side.ends();
    let pod = serde_json::json!({
        "namespace": "shop", "name": "cart-7f9c", "uid": "6a1d2f0e", "container": "redis"
    });
    let records = containerd.records(&side.id);
    let named: Vec<_> = records.iter().filter(|record| record["pod"] == pod).collect();
    let verbs: Vec<_> = named.iter().map(|record| record["verb"].as_str().unwrap()).collect();
    assert_eq!(verbs, ["create", "start", "exec", "pause", "resume", "kill", "delete"]);
    // The shim's second delete, after the container is gone.
    assert_eq!(records.len(), named.len() + 1);
}

#[test]
fn a_terminal_after_two_creates_that_failed() {
    let scripts = tempfile::tempdir().unwrap();
    let fails = failing(&scripts.path().join("runc"), "create", 2, PROC_HOOKS, 1);
    let containerd = Containerd::up(&fails);
    let failures = scripts.path().join("runc.failed");

    let bare = containerd.bare("bare");
    let (terminal, mut child) = Terminal::start(&bare.run_command(&["--rm", "--tty"], &["sh"]));
    assert_eq!(ends(&mut child).code(), Some(1));
    terminal.shows("procHooks process: unable to freeze");
    std::fs::remove_file(&failures).unwrap();

    let side = containerd.wrapped("wrapped");
    let (mut terminal, mut child) = Terminal::start(&side.run_command(&["--rm", "--tty"], &["sh"]));
    terminal.is_usable();
    exec_with_a_terminal(&side);
    let log = std::fs::read_to_string(side.bundle().join("log.json")).unwrap();
    assert!(!log.contains("unable to freeze"), "{log}");
    terminal.types("exit 4");
    assert_eq!(ends(&mut child).code(), Some(4));
    assert!(!terminal.screen().contains("unable to freeze"));
    let create = &containerd.records(&side.id)[0];
    assert_eq!((create["attempts"].as_u64(), create["verdict"].as_str()), (Some(3), Some("ok")));
    let tries = create["tries"].as_array().unwrap();
    assert_eq!(tries[0]["failure"], "freeze failed in procHooks");
    assert_eq!(std::fs::read_to_string(&failures).unwrap(), "2\n");
}

/// The output of a failed attempt is already in the container's stream when we see it; runc writes
/// its error to stderr as well as to its log.
#[test]
fn output_after_two_creates_that_failed() {
    let scripts = tempfile::tempdir().unwrap();
    let fails = failing(&scripts.path().join("runc"), "create", 2, PROC_HOOKS, 1);
    let containerd = Containerd::up(&fails);
    let side = containerd.wrapped("wrapped");
    let output = run(&mut side.run_command(&["--rm"], &["sh", "-c", &format!("{SPEAKS}; exit 7")]));
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(text(&output.stderr), format!("{PROC_HOOKS}\n").repeat(2) + "err\n");
}

#[test]
fn an_exec_with_a_terminal_that_was_refused_as_paused() {
    let scripts = tempfile::tempdir().unwrap();
    let fails = failing(&scripts.path().join("runc"), "exec", 2, PAUSED, 255);
    let containerd = Containerd::up(&fails);
    for side in [containerd.bare("bare"), containerd.wrapped("wrapped")] {
        side.run(&["--detach", "--null-io"], &["sleep", "100"]);
        let cgroup = format!("/sys/fs/cgroup/freezer{}/{}", containerd.scratch.cgroup, side.id);
        std::fs::write(scripts.path().join("runc.freezer"), cgroup).unwrap();
        let exec = side.task_command(&["exec", "--tty", "--exec-id", "refused"], &["sh"]);
        let (mut terminal, mut child) = Terminal::start(&exec);
        if side.binary == frostlock() {
            terminal.is_usable();
            terminal.types("exit 6");
            assert_eq!(ends(&mut child).code(), Some(6));
        } else {
            assert_eq!(ends(&mut child).code(), Some(1));
            terminal.shows("cannot exec in a paused container");
            std::fs::remove_file(scripts.path().join("runc.failed")).unwrap();
        }
        side.ends();
    }
    let records = containerd.records(&containerd.wrapped("wrapped").id);
    let exec = records.iter().find(|record| record["verb"] == "exec").unwrap();
    assert_eq!((exec["attempts"].as_u64(), exec["verdict"].as_str()), (Some(3), Some("ok")));
}

#[test]
fn a_create_that_fails_to_the_last_attempt_says_what_bare_says_and_why() {
    let scripts = tempfile::tempdir().unwrap();
    let fails = failing(&scripts.path().join("runc"), "create", 1000, PROC_HOOKS, 1);
    let containerd = Containerd::up(&fails);
    containerd.same(|side| {
        let seen = side.run(&["--rm"], &["true"]);
        let shim = "failed to create shim task: OCI runtime create failed";
        // Each attempt's line is also in the container's own stream.
        assert!(seen.ends_with(&format!("ctr: {shim}: {PROC_HOOKS}: unknown")), "{seen}");
    });
    // In addition, the wrapped runtime says why.
    let side = containerd.wrapped("why");
    let said = text(&run(&mut side.run_command(&["--rm"], &["true"])).stderr);
    assert!(said.contains(&format!("{PROC_HOOKS} (frostlock: ")), "{said}");
}

/// Stands for a shim or conmon: accepts on its console socket and counts what it gets. It accepts
/// late, like containerd after `create` has returned, or once immediately, like conmon.
#[test]
fn a_caller_gets_one_connection_with_one_terminal() {
    for at_once in [false, true] {
        for times in [0, 2] {
            one_connection(times, at_once);
        }
    }
}

fn one_connection(times: u32, at_once: bool) {
    let scratch = Scratch::new();
    let fails = failing(&scratch.path("runc"), "create", times, PROC_HOOKS, 1);
    let bundle = scratch.bundle("terminal", "c1");
    let (socket, log) = (scratch.path("tty.sock"), scratch.path("log.json"));
    let listener = UnixListener::bind(&socket).unwrap();
    let accepted = at_once.then(|| {
        let (listener, socket) = (listener.try_clone().unwrap(), socket.clone());
        std::thread::spawn(move || {
            let connection = listener.accept().unwrap().0;
            std::fs::remove_file(socket).unwrap();
            connection
        })
    });
    let mut create = scratch.wrapped(&fails);
    create.arg("--log").arg(&log).args(["--log-format", "json", "create", "--bundle"]).arg(&bundle);
    create.arg("--console-socket").arg(&socket).arg("c1");
    let created = testkit::succeed(&mut create);
    assert_eq!(text(&created.stderr), "", "of the attempts that failed");

    let connection = match accepted {
        Some(thread) => thread.join().unwrap(),
        None => listener.accept().unwrap().0,
    };
    let mut received = descriptors(&connection);
    assert_eq!(received.len(), 1, "one terminal");
    assert_eq!(descriptors(&connection).len(), 0, "and then the end");
    listener.set_nonblocking(true).unwrap();
    let again = listener.accept().map(|_| ()).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::WouldBlock, "one connection");

    testkit::succeed(scratch.wrapped(&fails).args(["start", "c1"]));
    let mut terminal = Terminal::new(received.remove(0));
    terminal.is_usable();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "");
    assert_eq!(scratch.journal()[0]["attempts"], times + 1);
    testkit::succeed(scratch.wrapped(&fails).args(["delete", "--force", "c1"]));
}

/// One message: its descriptors, empty at the end of the connection.
fn descriptors(connection: &UnixStream) -> Vec<std::os::fd::OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    connection.set_read_timeout(Some(SOON)).unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); 256];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let mut slices = [std::io::IoSliceMut::new(&mut bytes)];
    recvmsg(connection, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let messages = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    messages.flatten().collect()
}
