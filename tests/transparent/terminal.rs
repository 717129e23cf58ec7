//! Terminals: what a caller gets on its console socket, which it accepts from once, if attempts
//! fail before one succeeds.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};
use serde_json::{Value, json};
use testkit::fake_runtime::terminal::receive;
use testkit::fake_runtime::{Attempt, Fake};
use testkit::{Scratch, eventually, frostlock, install, run, runtimes, succeed, text};

const FREEZE: &str = "runc create failed: unable to start container process: error during container \
                      init: error setting cgroup config for procHooks process: unable to freeze";

const PAUSED: &str = "cannot exec in a paused container (use --ignore-paused to override)";

/// Stands for a shim or conmon: it listens.
struct Caller {
    listener: UnixListener,
    path: PathBuf,
}

/// The result of one connection: its message, and whether it is still open.
#[derive(Debug)]
struct Connection {
    name: String,
    terminals: Vec<OwnedFd>,
}

impl Caller {
    fn listens_at(path: PathBuf) -> Caller {
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Caller { listener, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// All waiting connections; each is already closed, or has a message.
    fn connections(&self) -> Vec<Connection> {
        std::iter::from_fn(|| self.listener.accept().ok()).map(|(from, _)| message(&from)).collect()
    }

    fn first_within(&self, limit: Duration) -> Connection {
        let mut first = None;
        eventually(limit, "a connection", || {
            first = first.take().or_else(|| self.listener.accept().ok());
            first.is_some()
        });
        message(&first.unwrap().0)
    }

    /// The one connection with the one terminal.
    fn terminal(&self) -> (String, OwnedFd) {
        let mut connections = self.connections();
        assert_eq!(connections.len(), 1, "{connections:?}");
        let mut connection = connections.remove(0);
        assert_eq!(connection.terminals.len(), 1, "{connection:?}");
        (connection.name, connection.terminals.remove(0))
    }
}

fn message(from: &UnixStream) -> Connection {
    from.set_nonblocking(false).unwrap();
    from.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (name, terminals) = receive(from).expect("a message or a hang-up");
    let (more, none) = receive(from).expect("the end");
    assert!(more.is_empty() && none.is_empty(), "a second message");
    Connection { name: text(&name), terminals }
}

/// Checks that the terminal answers and can be resized.
fn try_out(terminal: OwnedFd) {
    let size = Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal, size).unwrap();
    assert_eq!((tcgetwinsize(&terminal).unwrap().ws_row, 77), (33, size.ws_col));
    let mut terminal = File::from(terminal);
    terminal.write_all(b"hello\n").unwrap();
    // Its echo, and the answer.
    read_until(&mut terminal, |said| said.matches("hello").count() == 2);
}

fn read_until(terminal: &mut File, mut enough: impl FnMut(&str) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut said = String::new();
    while !enough(&said) {
        assert!(Instant::now() < deadline, "it said {said:?}");
        let mut ready = [PollFd::new(terminal.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(100u8)).unwrap() > 0 {
            let mut bytes = [0; 1024];
            let length =
                terminal.read(&mut bytes).unwrap_or_else(|error| panic!("{said:?}: {error}"));
            said.push_str(&text(&bytes[..length]));
        }
    }
}

fn fails(console: &str, message: &str) -> Attempt {
    Attempt {
        console: console.to_owned(),
        stderr: format!("{message}\n"),
        log: message.to_owned(),
        exit: 1,
        ..Attempt::default()
    }
}

fn sends() -> Attempt {
    Attempt { console: "send".to_owned(), ..Attempt::default() }
}

/// A fake runtime, its caller, and the caller's log.
struct Scene<'a> {
    fake: Fake<'a>,
    caller: Caller,
    log: PathBuf,
}

impl<'a> Scene<'a> {
    fn new(scratch: &'a Scratch, create: &[Attempt]) -> Scene<'a> {
        let fake = Fake::new(scratch, "");
        fake.script(&[("create", create)]);
        let caller = Caller::listens_at(scratch.path("pty.sock"));
        Scene { fake, caller, log: scratch.path("log.json") }
    }

    fn words(&self, id: &str, more: &[&str]) -> Vec<String> {
        let (log, bundle) = (self.log.to_str().unwrap(), self.fake.bundle(id));
        let front = ["--log", log, "--log-format", "json", "create", "--console-socket"];
        let bundle = ["--bundle", bundle.to_str().unwrap()];
        let words = front.into_iter().chain([self.caller.path()]).chain(bundle);
        words.chain(more.iter().copied()).chain([id]).map(str::to_owned).collect()
    }

    fn wrapped(&self, id: &str) -> Command {
        self.wrapped_with(id, &[])
    }

    fn wrapped_with(&self, id: &str, more: &[&str]) -> Command {
        let words = self.words(id, more);
        self.fake.wrapped(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn bare(&self, id: &str) -> Command {
        let words = self.words(id, &[]);
        self.fake.bare(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn attempts(&self, id: &str) -> usize {
        self.fake.intervals().iter().filter(|one| one.id == id).count()
    }

    fn record(&self, id: &str) -> Value {
        let mut records = self.fake.scratch.journal().into_iter();
        records.rfind(|record| record["id"] == id).unwrap_or_else(|| panic!("no record of {id}"))
    }

    fn private_sockets(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.fake.scratch.state().join("tty"));
        files.into_iter().flatten().flatten().map(|file| file.path()).collect()
    }
}

#[test]
fn one_connection_and_one_terminal_whatever_went_before() {
    let scratch = Scratch::new();
    let script = [fails("hang up", FREEZE), fails("hang up", FREEZE), sends()];
    let scene = Scene::new(&scratch, &script);
    assert_eq!(run(&mut scene.bare("bare")).status.code(), Some(1), "control: not shown");
    let bare = scene.caller.connections();
    assert!(bare.len() == 1 && bare[0].terminals.is_empty(), "control: {bare:?}");
    std::fs::remove_file(&scene.log).unwrap();

    succeed(&mut scene.wrapped("c"));
    assert_eq!(scene.attempts("c"), 3);
    let (name, terminal) = scene.caller.terminal();
    assert!(name.starts_with("/dev/pts/"), "{name}");
    try_out(terminal);
    assert_eq!(std::fs::read_to_string(&scene.log).unwrap(), "");
    assert_eq!(
        (scene.record("c")["attempts"].as_u64(), scene.private_sockets()),
        (Some(3), vec![])
    );
}

#[test]
fn the_terminal_arrives_while_the_runtime_still_works() {
    let scratch = Scratch::new();
    let stays = Attempt { delay_us: 3_000_000, ..sends() };
    let scene = Scene::new(&scratch, &[fails("hang up", FREEZE), stays]);
    let mut child = scene.wrapped("c").stderr(Stdio::null()).spawn().unwrap();
    let mut connection = scene.caller.first_within(Duration::from_secs(2));
    assert!(child.try_wait().unwrap().is_none(), "the runtime had ended");
    try_out(connection.terminals.remove(0));
    assert!(child.try_wait().unwrap().is_none(), "the runtime had ended");
    assert!(child.wait().unwrap().success());
    assert_eq!(scene.attempts("c"), 2);
}

#[test]
fn what_has_been_sent_is_not_sent_again() {
    let scratch = Scratch::new();
    let scene = Scene::new(&scratch, &[fails("send", FREEZE), sends()]);
    let output = run(&mut scene.wrapped("c"));
    assert_eq!((output.status.code(), scene.attempts("c")), (Some(1), 1));
    assert_eq!(scene.record("c")["gave_up"], "not repeatable");
    let said = text(&output.stderr);
    assert!(said.starts_with(&format!("{FREEZE} (frostlock: 1 attempt in ")), "{said}");
    drop(scene.caller.terminal());
}

/// But with the one connection that a bare runtime would have made.
#[test]
fn failures_end_without_a_terminal() {
    let scratch = Scratch::new();
    let scene = Scene::new(&scratch, &[fails("hang up", FREEZE)]);
    let output = run(&mut scene.wrapped("c"));
    assert_eq!(output.status.code(), Some(1));
    assert!(scene.attempts("c") > 2);
    let connections = scene.caller.connections();
    assert!(connections.len() == 1 && connections[0].terminals.is_empty(), "{connections:?}");
    assert_eq!(std::fs::read_to_string(&scene.log).unwrap().lines().count(), 1);
    assert_eq!(scene.private_sockets(), Vec::<PathBuf>::new());
}

/// A caller that accepts for a limited time must not give up during a long hook.
#[test]
fn the_caller_is_connected_to_as_soon_as_the_runtime_connects() {
    let scratch = Scratch::new();
    let stays = Attempt { delay_us: 3_000_000, ..fails("hang up", "a hook failed") };
    let scene = Scene::new(&scratch, &[stays]);
    let mut child = scene.wrapped("c").stderr(Stdio::null()).spawn().unwrap();
    let mut connection = None;
    eventually(Duration::from_secs(2), "a connection", || {
        connection = connection.take().or_else(|| scene.caller.listener.accept().ok());
        connection.is_some()
    });
    assert!(child.try_wait().unwrap().is_none(), "the runtime had ended");
    assert_eq!(message(&connection.unwrap().0).terminals.len(), 0);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_caller_in_accept_hears_of_a_real_runtimes_failure() {
    for runtime in runtimes().iter().filter(|runtime| !runtime.is_crun()) {
        let scratch = Scratch::new();
        let bundle = scratch.bundle("terminal", "tty");
        scratch.edit(&bundle, |config| {
            config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/false" }] });
        });
        for (side, mut create) in
            [("bare", scratch.bare(&runtime.path)), ("wrapped", scratch.wrapped(&runtime.path))]
        {
            let caller = Caller::listens_at(scratch.path(&format!("{side}.sock")));
            create.args(["create", "--console-socket", caller.path(), "--bundle"]).arg(&bundle);
            assert_eq!(run(create.arg("tty")).status.code(), Some(1), "{} {side}", runtime.name);
            let connection = caller.first_within(Duration::from_secs(2));
            assert!(connection.terminals.is_empty(), "{} {side}: {connection:?}", runtime.name);
            assert_eq!(caller.connections().len(), 0, "{} {side}", runtime.name);
        }
    }
}

#[test]
fn a_runtime_that_never_connects() {
    let scratch = Scratch::new();
    let scene = Scene::new(&scratch, &[Attempt::default()]);
    succeed(&mut scene.wrapped("c"));
    assert_eq!(scene.caller.connections().len(), 0);
    assert_eq!(scene.private_sockets(), Vec::<PathBuf>::new());
}

#[test]
fn a_socket_that_is_none_is_the_runtimes_to_complain_about() {
    for case in ["missing", "a file", "nobody listens", "too long"] {
        let scratch = Scratch::new();
        let mut scene = Scene::new(&scratch, &[fails("send", FREEZE)]);
        let path = match case {
            "too long" => scratch.path(&"x".repeat(120)),
            _ => scratch.path("other.sock"),
        };
        match case {
            "a file" => std::fs::write(&path, "").unwrap(),
            "nobody listens" => drop(UnixListener::bind(&path).unwrap()),
            _ => {}
        }
        scene.caller.path = path;
        let bare = run(&mut scene.bare("c"));
        assert_eq!(bare.status.code(), Some(1), "{case}: control: not shown");
        assert!(text(&bare.stderr).contains("dial unix"), "{case}: {}", text(&bare.stderr));
        scene.fake.forget_intervals();
        let wrapped = run(&mut scene.wrapped("c"));
        assert_eq!((wrapped.status, wrapped.stderr), (bare.status, bare.stderr), "{case}");
        assert_eq!((scene.attempts("c"), scene.private_sockets()), (1, vec![]), "{case}");
    }
}

/// As another user, whose processes can be limited; root's cannot.
fn as_somebody(scratch: &Scratch, inner: &Command, processes: Option<u32>) -> Command {
    let somebody = 61236;
    let own = |path: &Path| std::os::unix::fs::chown(path, Some(somebody), Some(somebody)).unwrap();
    own(&scratch.path(""));
    for file in std::fs::read_dir(scratch.path("")).unwrap().flatten() {
        own(&file.path());
    }
    own(&scratch.path("fake/script"));
    // cargo's build directory is not accessible to everybody.
    for (name, program) in
        [("wrapper", frostlock()), ("fake/runtime", testkit::fake_runtime::program().into())]
    {
        install(program, scratch.path(name));
    }
    let id = somebody.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps=-all"]);
    if let Some(processes) = processes {
        command.args(["prlimit", &format!("--nproc={processes}")]);
    }
    let is_wrapped = inner.get_program() == frostlock();
    let name = if is_wrapped { "wrapper" } else { "fake/runtime" };
    command.arg(scratch.path(name)).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("FROSTLOCK_RUNTIME", scratch.path("fake/runtime"));
    command
}

/// Callers take one connection: the runtime's own if there is only one attempt, else that of the
/// failed attempt, as the bare runtime would have ended.
#[test]
fn the_first_connection_is_as_bare_where_we_become_the_runtime_after_all() {
    let scratch = Scratch::new();
    let scene = Scene::new(&scratch, &[fails("hang up", FREEZE)]);
    // No second process from the start, and none from the end of the first attempt on.
    let parent = "prlimit --nproc=1 --pid $(ps -o ppid= -p $PPID)";
    let takes_it_away = Attempt {
        hook: ["sh", "-c", parent].map(str::to_owned).into(),
        ..fails("hang up", FREEZE)
    };
    for (id, first, processes, attempts) in [
        ("bare", fails("hang up", FREEZE), None, 1),
        ("never", fails("hang up", FREEZE), Some(1), 1),
        ("later", takes_it_away, None, 2),
    ] {
        scene.fake.script(&[("create", &[first, fails("hang up", FREEZE)])]);
        let inner = if id == "bare" { scene.bare(id) } else { scene.wrapped(id) };
        let output = run(&mut as_somebody(&scratch, &inner, processes));
        assert_eq!(output.status.code(), Some(1), "{id}: {output:?}");
        assert_eq!(scene.attempts(id), attempts, "{id}: {output:?}");
        let connections = scene.caller.connections();
        assert_eq!(connections.len(), attempts, "{id}: {connections:?}");
        assert!(connections[0].terminals.is_empty(), "{id}: {connections:?}");
    }
}

#[test]
fn no_second_attempt_where_it_could_not_be_clean() {
    let scratch = Scratch::new();
    let scene = Scene::new(&scratch, &[fails("hang up", FREEZE), sends()]);
    let pidfd = run(&mut scene.wrapped_with("pidfd", &["--pidfd-socket", "/nowhere"]));
    assert_eq!((pidfd.status.code(), scene.attempts("pidfd")), (Some(1), 1));
    assert_eq!(scene.record("pidfd")["gave_up"], "not repeatable");
    assert_eq!(scene.caller.connections().len(), 1, "the runtime's own");

    let deep = scratch.path(&"d".repeat(100));
    let long = run(scene.wrapped("long").env("FROSTLOCK_STATE_DIR", &deep));
    assert_eq!((long.status.code(), scene.attempts("long")), (Some(1), 1));
    let journal = std::fs::read_to_string(deep.join("journal.jsonl")).unwrap();
    assert!(journal.contains("\"gave_up\":\"not repeatable\""), "{journal}");
    let connections = scene.caller.connections();
    assert!(connections.len() == 1 && connections[0].terminals.is_empty(), "{connections:?}");
}

#[test]
fn the_socket_of_a_killed_wrapper_is_swept() {
    let scratch = Scratch::new();
    let scene = Scene::new(&scratch, &[Attempt { hang: true, ..Attempt::default() }]);
    let mut child = scene.wrapped("c").spawn().unwrap();
    eventually(Duration::from_secs(5), "the runtime", || scene.attempts("c") == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let stale = scratch.state().join("tty").join(child.id().to_string());
    assert_eq!(scene.private_sockets(), [stale], "not shown: nothing was left");
    scene.fake.script(&[("create", &[sends()])]);
    scene.caller.connections();
    succeed(&mut scene.wrapped("d"));
    drop(scene.caller.terminal());
    assert_eq!(scene.private_sockets(), Vec::<PathBuf>::new());
}

#[test]
fn an_exec_with_a_terminal_is_tried_again_as_well() {
    let scratch = Scratch::new();
    let scene = Scene::new(&scratch, &[Attempt::default()]);
    let bundle = scene.fake.bundle("c");
    succeed(&mut scene.fake.bare(&["create", "--bundle", bundle.to_str().unwrap(), "c"]));
    let freezer = Path::new("/sys/fs/cgroup/freezer").join(&scene.fake.cgroup("c")[1..]);
    std::fs::create_dir_all(&freezer).unwrap();
    std::fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
    let refuses = Attempt { freezer: "THAWED".to_owned(), ..fails("", PAUSED) };
    scene.fake.script(&[("exec", &[refuses, sends()])]);
    let log = scene.log.to_str().unwrap();
    let socket = scene.caller.path();
    let words = ["--log", log, "exec", "--tty", "--detach", "--console-socket", socket, "c", "sh"];
    succeed(&mut scene.fake.wrapped(&words));
    try_out(scene.caller.terminal().1);
    assert_eq!(scene.record("c")["attempts"], 2);
}

#[test]
fn a_real_container_with_a_terminal() {
    for runtime in runtimes().iter().filter(|runtime| !runtime.is_crun()) {
        let scratch = Scratch::new();
        let bundle = scratch.bundle("terminal", "tty");
        let caller = Caller::listens_at(scratch.path("pty.sock"));
        let mut create = scratch.wrapped(&runtime.path);
        create.args(["create", "--console-socket", caller.path(), "--bundle"]).arg(bundle);
        succeed(create.arg("tty"));
        let (name, terminal) = caller.terminal();
        println!("{}: {name}", runtime.version);
        succeed(scratch.wrapped(&runtime.path).args(["start", "tty"]));
        let size = Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).unwrap();
        let mut terminal = File::from(terminal);
        terminal.write_all(b"stty size; echo $((40 + 2))\n").unwrap();
        read_until(&mut terminal, |said| said.contains("33 77") && said.contains("\n42"));
        succeed(scratch.wrapped(&runtime.path).args(["delete", "--force", "tty"]));
        let left = std::fs::read_dir(scratch.state().join("tty")).unwrap().count();
        assert_eq!(left, 0, "a private socket is left");
    }
}
