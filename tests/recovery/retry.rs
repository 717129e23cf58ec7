//! Which failures are retried, how often and when, and what the caller sees: the scripted runtime
//! fails with the recorded texts, first bare, then behind the wrapper.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use testkit::fake_runtime::{Attempt, Fake};
use testkit::{Scratch, eventually, program, run, runtime, succeed, text};

const MS: Duration = Duration::from_millis(1);

/// What a machine with other work may add.
const TOLERANCE: Duration = Duration::from_millis(800);

const CREATE: &str = "runc create failed: unable to start container process: error during container \
                      init: error setting cgroup config for procHooks process: unable to freeze";

const PAUSED: &str = "cannot exec in a paused container (use --ignore-paused to override)";

const FREEZE: &str = "unable to freeze";

/// One period: the first attempt after a failure may come within it.
const PERIOD: Duration = Duration::from_millis(100);

/// After a freeze was waited out, the attempt may come within this time.
const AFTER_THAW: Duration = Duration::from_millis(10);

const VERBS: [&str; 11] = [
    "create",
    "run",
    "restore",
    "start",
    "exec",
    "update",
    "pause",
    "resume",
    "checkpoint",
    "kill",
    "delete",
];

/// The recorded texts, each with the verbs that must be retried on it.
const TEXTS: &[(&str, &[&str])] = &[
    // runc 1.1 and newer, then 1.0.
    (CREATE, &["create", "run"]),
    (
        "container_linux.go:380: starting container process caused: process_linux.go:545: container \
         init caused: process_linux.go:508: setting cgroup config for procHooks process caused: \
         unable to freeze",
        &["create", "run"],
    ),
    (
        "runc create failed: unable to start container process: error during container init: error \
         setting cgroup config for procHooks process: unexpected state THAWED while freezing",
        &["create", "run"],
    ),
    // Up to 1.1: after the hooks and the terminal.
    (
        "runc create failed: unable to start container process: error setting cgroup config for \
         ready process: unable to freeze",
        &[],
    ),
    (FREEZE, &["update", "pause"]),
    ("unexpected state THAWED while freezing", &["update", "pause"]),
    ("timeout of 10s reached waiting for the cgroup to freeze", &["update", "pause"]),
    (
        "expected \"cgroup.freeze\" to be in state \"FROZEN\" but was in \"THAWED\"",
        &["update", "pause"],
    ),
    // youki.
    ("timeout of 10000 ms reached waiting for the cgroup to freeze", &["update", "pause"]),
    // Refusals; the second is crun's. An exec never gets the others, but they mean the same.
    (PAUSED, &["exec"]),
    ("the container `c1` is paused", &["exec"]),
    ("cannot start a container in the paused state", &["exec"]),
    ("cannot delete container c1 that is not stopped: paused", &["exec"]),
    ("runc create failed: container's cgroup unexpectedly frozen", &["exec"]),
    // Failures that another attempt would not fix.
    ("freezer not supported: openat2 /x/cgroup.freeze: no such file or directory", &[]),
    ("cannot toggle freezer: cgroups not configured for container", &[]),
    ("container with given ID already exists", &[]),
    ("container does not exist", &[]),
    ("container not running", &[]),
    ("container not paused", &[]),
    ("cannot exec in a stopped container", &[]),
    ("container's cgroup is not empty: 1 process(es) found", &[]),
    ("unable to destroy container: unable to remove container's cgroup: device busy", &[]),
    ("container init was OOM-killed (memory limit too low?)", &[]),
    ("exec failed: exec: \"nope\": executable file not found in $PATH", &[]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Log {
    Json,
    Text,
    None,
}

const LOGS: [Log; 3] = [Log::Json, Log::Text, Log::None];

#[test]
fn every_text_with_every_verb_and_a_json_log() {
    every_text_with_every_verb(Log::Json);
}

#[test]
fn every_text_with_every_verb_and_a_text_log() {
    every_text_with_every_verb(Log::Text);
}

#[test]
fn every_text_with_every_verb_and_no_log() {
    every_text_with_every_verb(Log::None);
}

fn every_text_with_every_verb(log: Log) {
    let chunks = TEXTS.chunks(TEXTS.len().div_ceil(4));
    std::thread::scope(|scope| {
        for texts in chunks {
            scope.spawn(move || {
                let scratch = Scratch::new();
                let bench = Bench::new(&scratch, "");
                for (number, (text, retried)) in texts.iter().enumerate() {
                    for verb in VERBS {
                        // Output without a log, on the container's own stdio, is not examined.
                        let blind = log == Log::None && matches!(verb, "create" | "run" | "exec");
                        let again = retried.contains(&verb) && !blind;
                        bench.compare(&format!("{number}-{verb}"), verb, log, text, again);
                    }
                }
            });
        }
    });
}

/// One fake runtime, with a caller's arguments.
struct Bench<'a> {
    fake: Fake<'a>,
}

/// What a caller gets from one command.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    exit: Option<i32>,
    stdout: String,
    stderr: String,
    log: String,
}

impl<'a> Bench<'a> {
    fn new(scratch: &'a Scratch, config: &str) -> Bench<'a> {
        Bench { fake: Fake::new(scratch, config) }
    }

    /// A failure followed by a success: bare, wrapped, and the success alone.
    fn compare(&self, name: &str, verb: &str, log: Log, text: &str, again: bool) {
        let (bad, good) = match verb {
            "exec" => (refuses(text), succeeds()),
            _ => (fails_with(text), succeeds()),
        };
        self.fake.script(&[(verb, &[bad, good.clone()])]);
        let what = format!("{verb}, {log:?}: {text}");
        let bare = self.once(&format!("{name}-bare"), verb, log, false);
        assert_eq!(bare.exit, Some(1), "control: not shown: {what}");

        let id = format!("{name}-wrapped");
        let wrapped = self.once(&id, verb, log, true);
        assert_eq!(self.attempts(verb, &id).len(), if again { 2 } else { 1 }, "{what}");
        let record = self.record(&id);
        assert_eq!(record["attempts"], if again { 2 } else { 1 }, "{what}: {record}");
        if !again {
            assert_eq!(wrapped, bare, "{what}");
            assert_eq!(
                (&record["verdict"], &record["exit"]["code"]),
                (&"failed".into(), &1.into())
            );
            return;
        }
        self.fake.script(&[(verb, &[good])]);
        let last_alone = self.once(&format!("{name}-alone"), verb, log, false);
        // fd 2 of these is the container's, and a failed attempt's output there is discarded.
        let wrapped = match verb {
            "create" | "run" | "exec" => Seen {
                stdout: last_alone.stdout.clone(),
                stderr: last_alone.stderr.clone(),
                ..wrapped
            },
            _ => wrapped,
        };
        assert_eq!(wrapped, last_alone, "{what}");
        assert_eq!((&record["verdict"], &record["exit"]["code"]), (&"ok".into(), &0.into()));
        assert_eq!(record["gave_up"], Value::Null);
        let delay = Duration::from_secs_f64(record["tries"][0]["delay_ms"].as_f64().unwrap() / 1e3);
        let least = if verb == "exec" { AFTER_THAW } else { PERIOD };
        assert!(delay >= least, "{what}: {record}");
    }

    fn once(&self, id: &str, verb: &str, log: Log, wrapped: bool) -> Seen {
        let makes = matches!(verb, "create" | "run" | "restore");
        let freezer = self.make_cgroup(id);
        if verb == "exec" {
            std::fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
        }
        if !makes {
            self.make(id);
        }
        self.give(id, verb, log, wrapped)
    }

    /// Runs the command on the existing container.
    fn give(&self, id: &str, verb: &str, log: Log, wrapped: bool) -> Seen {
        let file = self.fake.scratch.path(&format!("log-{id}"));
        std::fs::write(&file, before(log)).unwrap();
        let line = self.line(id, verb, log, &file);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let mut command = if wrapped { self.fake.wrapped(&line) } else { self.fake.bare(&line) };
        let output = run(&mut command);
        Seen {
            exit: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            log: std::fs::read_to_string(&file).unwrap(),
        }
    }

    fn line(&self, id: &str, verb: &str, log: Log, file: &Path) -> Vec<String> {
        let mut words: Vec<&str> = Vec::new();
        let file = file.to_str().unwrap();
        match log {
            Log::Json => words.extend(["--log", file, "--log-format", "json"]),
            Log::Text => words.extend(["--debug", "--log", file]),
            Log::None => {}
        }
        let bundle = self.fake.bundle(id);
        words.push(verb);
        match verb {
            "create" | "run" => words.extend(["--bundle", bundle.to_str().unwrap()]),
            "restore" => words.extend(["--bundle", bundle.to_str().unwrap(), "--image-path", "i"]),
            "checkpoint" => words.extend(["--image-path", "i"]),
            "update" => words.extend(["--cpu-quota", "1000"]),
            _ => {}
        }
        words.push(id);
        match verb {
            "exec" => words.push("true"),
            "kill" => words.push("TERM"),
            _ => {}
        }
        words.into_iter().map(str::to_owned).collect()
    }

    /// A container that exists without the wrapper's knowledge.
    fn make(&self, id: &str) {
        let bundle = self.fake.bundle(id);
        succeed(&mut self.fake.bare(&["create", "--bundle", bundle.to_str().unwrap(), id]));
    }

    /// The fake makes none; an exec is retried only if the freezer says thawed.
    fn make_cgroup(&self, id: &str) -> PathBuf {
        let dir = freezer_dir(&self.fake.cgroup(id));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn attempts(&self, verb: &str, id: &str) -> Vec<(u64, u64)> {
        let of_this = |one: &testkit::fake_runtime::Interval| one.verb == verb && one.id == id;
        let all = self.fake.intervals().into_iter().filter(of_this);
        all.map(|one| (one.start, one.end.unwrap_or(u64::MAX))).collect()
    }

    fn record(&self, id: &str) -> Value {
        let mut records = self.fake.scratch.journal().into_iter();
        records.rfind(|record| record["id"] == id).unwrap_or_else(|| panic!("no record of {id}"))
    }

    /// The time between one attempt's end and the next one's start.
    fn delays(&self, verb: &str, id: &str) -> Vec<Duration> {
        let attempts = self.attempts(verb, id);
        attempts.windows(2).map(|two| Duration::from_nanos(two[1].0 - two[0].1)).collect()
    }
}

fn before(log: Log) -> &'static str {
    match log {
        Log::Json => {
            "{\"level\":\"warning\",\"msg\":\"before\",\"time\":\"2019-01-01T00:00:00Z\"}\n"
        }
        Log::Text | Log::None => "before\n",
    }
}

fn fails_with(text: &str) -> Attempt {
    Attempt {
        stdout: "out of the failed one\n".to_owned(),
        stderr: format!("{text}\n"),
        log: text.to_owned(),
        exit: 1,
        ..Attempt::default()
    }
}

/// As an exec is refused while somebody has frozen the container for a moment that is then over.
fn refuses(text: &str) -> Attempt {
    Attempt { freezer: "THAWED".to_owned(), ..fails_with(text) }
}

fn succeeds() -> Attempt {
    Attempt { stdout: "done\n".to_owned(), stderr: "a warning\n".to_owned(), ..Attempt::default() }
}

/// On a v1 or hybrid host.
fn freezer_dir(cgroup: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup/freezer").join(cgroup.trim_start_matches('/'))
}

#[test]
fn delays_double_and_there_are_two_at_most() {
    for log in LOGS {
        let scratch = Scratch::new();
        let bench = Bench::new(&scratch, "");
        bench.make("c");
        bench.fake.script(&[("pause", &[Attempt { delay_us: 20_000, ..fails_with(FREEZE) }])]);
        let began = Instant::now();
        let seen = bench.give("c", "pause", log, true);
        let took = began.elapsed();
        let delays = bench.delays("pause", "c");
        let record = bench.record("c");
        println!("{log:?}: {took:?}, delays {delays:?}");
        assert!(took < 375 * MS + 3 * 20 * MS + TOLERANCE, "{took:?}");
        assert_eq!(delays.len(), 2, "{delays:?}");
        let least = [PERIOD, 150 * MS];
        for (delay, least) in delays.iter().zip(least) {
            assert!(*delay >= least, "{delays:?}");
        }
        let tries = record["tries"].as_array().unwrap();
        for (one, most) in tries.iter().zip([125.0, 250.0]) {
            assert!(one["delay_ms"].as_f64().is_none_or(|delay| delay <= most), "{record}");
            assert_eq!(one["failure"], "freeze failed");
        }
        assert_eq!((tries.len(), &record["attempts"]), (delays.len() + 1, &tries.len().into()));
        assert_eq!(record["gave_up"], "out of attempts");
        assert_eq!((&record["verdict"], &record["exit"]["code"]), (&"failed".into(), &1.into()));
        assert_eq!((seen.exit, seen.stdout.as_str()), (Some(1), "out of the failed one\n"));
        let explained = format!("unable to freeze (frostlock: {} attempts in ", tries.len());
        assert!(seen.stderr.starts_with(&explained), "{}", seen.stderr);
        let errors = seen.log.matches("unable to freeze").count();
        assert_eq!(errors, usize::from(log != Log::None), "{}", seen.log);
    }
}

#[test]
fn the_configuration_bounds_the_attempts() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "[retry]\ndeadline_ms = 400");
    bench.make("c");
    bench.throttle("c", 200 * MS);
    bench.fake.script(&[("pause", &[fails_with(FREEZE)])]);
    let began = Instant::now();
    assert_eq!(run(&mut bench.fake.wrapped(&["pause", "c"])).status.code(), Some(1));
    assert!(began.elapsed() < 400 * MS + TOLERANCE);
    // A second delay would end too late.
    let delays = bench.delays("pause", "c");
    assert!(delays.len() == 1 && delays[0] >= 200 * MS, "{delays:?}");
    assert_eq!(bench.record("c")["gave_up"], "out of time");
}

#[test]
fn no_delay_is_shorter_than_the_containers_period() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    bench.make("c");
    bench.throttle("c", 400 * MS);
    bench.fake.script(&[("pause", &[fails_with(FREEZE), succeeds()])]);
    succeed(&mut bench.fake.wrapped(&["pause", "c"]));
    let delays = bench.delays("pause", "c");
    assert!(delays.len() == 1 && delays[0] >= 400 * MS, "{delays:?}");
}

#[test]
fn a_slow_attempt_is_not_repeated() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "[retry]\ndeadline_ms = 300");
    bench.make("c");
    bench.fake.script(&[("pause", &[Attempt { delay_us: 400_000, ..fails_with(FREEZE) }])]);
    run(&mut bench.fake.wrapped(&["pause", "c"]));
    assert_eq!(bench.attempts("pause", "c").len(), 1);
    assert_eq!(bench.record("c")["gave_up"], "out of time");
}

/// A node at load 10: runc's first attempt takes 2 s, and kubelet has two minutes for a create.
#[test]
fn a_create_on_a_slow_node_is_repeated() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    let slow = Attempt { delay_us: 2_000_000, ..fails_with(CREATE) };
    for (id, script, exit, attempts) in [
        ("once", vec![slow.clone(), succeeds()], 0, 2),
        ("twice", vec![slow.clone(), slow.clone(), succeeds()], 0, 3),
        ("always", vec![slow.clone()], 1, 3),
    ] {
        bench.fake.script(&[(&format!("create {id}"), &script)]);
        let began = Instant::now();
        assert_eq!(bench.give(id, "create", Log::Json, true).exit, Some(exit), "{id}");
        let took = began.elapsed();
        println!("{id}: {took:?}, delays {:?}", bench.delays("create", id));
        assert_eq!(bench.attempts("create", id).len(), attempts, "{id}");
        assert!(took < Duration::from_secs(9), "{id}: {took:?}");
        assert_eq!(scratch.root().join(id).is_dir(), exit == 0, "{id}");
    }
    assert_eq!(bench.record("always")["gave_up"], "out of attempts");
}

/// The same exec within a slow node's time, and within a probe's second.
#[test]
fn a_probe_is_not_held_up() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    for (id, ms, attempts, gave_up) in
        [("slow", 500, 1, "out of time"), ("fair", 80, 3, "out of attempts")]
    {
        bench.make(id);
        let freezer = bench.make_cgroup(id);
        std::fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
        bench.fake.script(&[("exec", &[Attempt { delay_us: ms * 1000, ..refuses(PAUSED) }])]);
        let began = Instant::now();
        assert_eq!(bench.give(id, "exec", Log::Json, true).exit, Some(1), "{id}");
        let took = began.elapsed();
        println!("{id}: {took:?}");
        assert!(took < Duration::from_secs(1), "{id}: {took:?}");
        assert_eq!(bench.attempts("exec", id).len(), attempts, "{id}");
        assert_eq!(bench.record(id)["gave_up"], gave_up, "{id}");
    }
}

#[test]
fn without_retries_there_is_one_attempt() {
    for config in ["[retry]\ndeadline_ms = 0", "mode = \"lock\"", "mode = \"observe\""] {
        let scratch = Scratch::new();
        let bench = Bench::new(&scratch, config);
        bench.fake.script(&[
            ("*", &[fails_with(CREATE)]),
            ("exec", &[fails_with(PAUSED)]),
            ("create there", &[succeeds()]),
        ]);
        bench.make("there");
        for (verb, id) in
            [("create", "c"), ("exec", "there"), ("update", "there"), ("pause", "there")]
        {
            let began = Instant::now();
            let seen = bench.give(id, verb, Log::Json, true);
            assert!(began.elapsed() < TOLERANCE, "{config}, {verb}: {:?}", began.elapsed());
            assert_eq!(bench.attempts(verb, id).len(), 1, "{config}, {verb}");
            let record = bench.record(id);
            assert_eq!((&record["attempts"], &record["gave_up"]), (&1.into(), &Value::Null));
            assert_eq!((seen.exit, seen.log.lines().count()), (Some(1), 2), "{config}, {verb}");
        }
    }
}

/// The bare runtime's input, byte for byte, in each attempt.
#[test]
fn every_attempt_gets_the_whole_input() {
    let large = format!("{{\"cpu\": {{}}, \"x\": \"{}\"}}\n", "y".repeat(1 << 20));
    for (number, input) in ["{\"memory\": {\"limit\": 1}}", "", &large].iter().enumerate() {
        for (flag, value) in
            [("--resources", Some("-")), ("--resources=-", None), ("-r", Some("-"))]
        {
            let scratch = Scratch::new();
            let bench = Bench::new(&scratch, "");
            bench.make("c");
            bench.fake.script(&[("update", &[fails_with(FREEZE), fails_with(FREEZE), succeeds()])]);
            let words: Vec<&str> = ["update", flag].into_iter().chain(value).chain(["c"]).collect();
            let bare = feed(&mut bench.fake.bare(&words), input.as_bytes());
            assert_eq!(bare.status.code(), Some(1), "control: not shown");
            assert_eq!(bench.inputs(), [input.as_bytes()], "{number} {flag}");
            bench.forget();
            let wrapped = feed(&mut bench.fake.wrapped(&words), input.as_bytes());
            assert_eq!(wrapped.status.code(), Some(0), "{number} {flag}");
            let inputs = bench.inputs();
            assert_eq!(inputs.len(), 3);
            let trimmed = input.trim_end().as_bytes();
            assert!(
                inputs.iter().all(|one| one == &inputs[0] && one.trim_ascii_end() == trimmed),
                "{number} {flag}"
            );
        }
    }
}

impl Bench<'_> {
    fn inputs(&self) -> Vec<Vec<u8>> {
        self.input_files().iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    fn input_files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.fake.dir()).unwrap().flatten().map(|file| file.path());
        files.filter(|path| path.file_stem().is_some_and(|stem| stem == "stdin")).collect()
    }

    /// As if there had been no attempt yet.
    fn forget(&self) {
        for path in self.input_files() {
            std::fs::remove_file(path).unwrap();
        }
        for file in std::fs::read_dir(self.fake.dir()).unwrap().flatten() {
            if file.file_name().to_string_lossy().starts_with("count-") {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
        self.fake.forget_intervals();
    }
}

fn feed(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The other end may not read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// runc takes one JSON value and does not wait for the caller to close the pipe.
#[test]
fn a_caller_that_keeps_its_end_open_does_not_hang_us() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    bench.make("c");
    bench.fake.script(&[("update", &[fails_with(FREEZE), succeeds()])]);
    let mut command = bench.fake.wrapped(&["update", "-r", "-", "c"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut ours = child.stdin.take().unwrap();
    ours.write_all(b"{\"cpu\": ").unwrap();
    std::thread::sleep(20 * MS);
    ours.write_all(b"{}}").unwrap();
    assert_eq!(ends_within(&mut child, Duration::from_secs(5)), Some(0));
    assert_eq!(bench.inputs(), [b"{\"cpu\": {}}", b"{\"cpu\": {}}"]);
    drop(ours);
}

/// Some callers' pipes are non-blocking; that must not cut off the input.
#[test]
fn an_input_that_does_not_block_is_waited_for() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    bench.make("c");
    bench.fake.script(&[("update", &[fails_with(FREEZE), succeeds()])]);
    let (theirs, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut ours = File::from(ours);
    fcntl(&theirs, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut command = bench.fake.wrapped(&["update", "-r", "-", "c"]);
    let mut child =
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    drop(command);
    for part in [b"{\"cpu\"".as_slice(), b": {}}"] {
        std::thread::sleep(50 * MS);
        ours.write_all(part).unwrap();
    }
    drop(ours);
    assert_eq!(ends_within(&mut child, Duration::from_secs(5)), Some(0));
    assert_eq!(bench.inputs(), [b"{\"cpu\": {}}", b"{\"cpu\": {}}"]);
}

/// A file size limit also applies to our copy.
#[test]
fn an_input_larger_than_files_may_be_is_left_to_the_runtime() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    bench.make("c");
    bench.fake.script(&[("update", &[succeeds()])]);
    let numbers: Vec<String> = (100_000..130_000).map(|number| number.to_string()).collect();
    let input = format!("[{}]", numbers.join(","));
    let words = ["update", "-r", "-", "c"];
    for inner in [bench.fake.bare(&words), bench.fake.wrapped(&words)] {
        bench.forget();
        feed(&mut in_shell("ulimit -f 1; exec \"$@\"", &inner), input.as_bytes());
        // The limit cuts off the fake's copy at its end.
        let kept = bench.inputs().concat();
        assert!(kept.len() >= 512 && input.as_bytes().starts_with(&kept), "{:?}", text(&kept));
    }
}

fn in_shell(script: &str, inner: &Command) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap());
    }
    command
}

#[test]
fn a_closed_input_is_an_empty_one() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    bench.make("c");
    bench.fake.script(&[("update", &[fails_with(FREEZE), succeeds()])]);
    let inner = bench.fake.wrapped(&["update", "-r", "-", "c"]);
    let mut command = in_shell("exec \"$@\" <&-", &inner);
    succeed(&mut command);
    assert_eq!(bench.inputs(), [b"", b""]);
}

fn ends_within(child: &mut Child, limit: Duration) -> Option<i32> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(MS);
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

impl Bench<'_> {
    /// No delay is shorter than the period.
    fn throttle(&self, id: &str, period: Duration) {
        let cgroup = self.fake.cgroup(id);
        let cpu = Path::new("/sys/fs/cgroup/cpu").join(cgroup.trim_start_matches('/'));
        std::fs::create_dir_all(&cpu).unwrap();
        let period = period.as_micros();
        std::fs::write(cpu.join("cpu.cfs_period_us"), period.to_string()).unwrap();
        std::fs::write(cpu.join("cpu.cfs_quota_us"), (period / 10).to_string()).unwrap();
    }

    /// A pause that has failed once and is in its delay of a second; its log is `log-c`.
    fn pause_in_its_delay(&self) -> Child {
        self.make("c");
        self.throttle("c", 1000 * MS);
        self.fake.script(&[("pause", &[fails_with(FREEZE)])]);
        let log = self.fake.scratch.path("log-c");
        let words = ["--log", log.to_str().unwrap(), "--log-format", "json", "pause", "c"];
        let mut command = self.fake.wrapped(&words);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually(Duration::from_secs(5), "the first attempt's end", || {
            self.attempts("pause", "c").first().is_some_and(|(_, end)| *end != u64::MAX)
        });
        std::thread::sleep(20 * MS);
        child
    }

    fn log_of_c(&self) -> String {
        std::fs::read_to_string(self.fake.scratch.path("log-c")).unwrap_or_default()
    }
}

#[test]
fn a_signal_ends_the_delay_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let scratch = Scratch::new();
        let bench = Bench::new(&scratch, "");
        let child = bench.pause_in_its_delay();
        let since = Instant::now();
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(since.elapsed() < TOLERANCE, "{signal}: {:?}", since.elapsed());
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.starts_with("unable to freeze (frostlock: 1 attempt in "), "{said}");
        assert_eq!(bench.log_of_c().lines().count(), 1, "{}", bench.log_of_c());
        assert_eq!(bench.attempts("pause", "c").len(), 1);
        let record = bench.record("c");
        assert_eq!((&record["gave_up"], &record["attempts"]), (&"interrupted".into(), &1.into()));
    }
}

#[test]
fn killed_in_the_delay_nothing_is_left() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    let mut child = bench.pause_in_its_delay();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(bench.log_of_c(), "");
    assert!(scratch.journal().is_empty());
    bench.fake.script(&[]);
    succeed(&mut bench.fake.wrapped(&["update", "--cpu-quota", "1", "c"]));
    assert_eq!(bench.record("c")["lock"], "exclusive");
    assert!(bench.record("c")["lock_wait_ms"].as_f64().unwrap() < 500.0);
    assert_eq!(bench.attempts("pause", "c").len(), 1);
}

#[test]
fn the_lock_is_free_during_the_delay() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    let mut child = bench.pause_in_its_delay();
    succeed(&mut bench.fake.wrapped(&["update", "--cpu-quota", "1", "c"]));
    assert!(child.try_wait().unwrap().is_none(), "the delay was over");
    let record = bench.record("c");
    assert_eq!((&record["verb"], &record["lock"]), (&"update".into(), &"exclusive".into()));
    assert!(record["lock_wait_ms"].as_f64().unwrap() < 500.0, "{record}");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_lock_that_cannot_be_had_again_does_not_extend_the_deadline() {
    let scratch = Scratch::new();
    let config = "[lock]\nexclusive_wait_ms = 4000\n[retry]\ndeadline_ms = 2500";
    let bench = Bench::new(&scratch, config);
    bench.make("c");
    bench.throttle("c", 400 * MS);
    bench.fake.script(&[
        ("pause", &[Attempt { delay_us: 800_000, ..fails_with(FREEZE) }]),
        ("update", &[Attempt { delay_us: 4_000_000, ..succeeds() }]),
    ]);
    let began = Instant::now();
    let mut pause = bench.fake.wrapped(&["pause", "c"]);
    let mut pause = pause.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually(Duration::from_secs(5), "the first attempt's end", || {
        bench.attempts("pause", "c").first().is_some_and(|(_, end)| *end != u64::MAX)
    });
    let mut update = bench.fake.wrapped(&["update", "--cpu-quota", "1", "c"]);
    let mut update = update.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    pause.wait().unwrap();
    let took = began.elapsed();
    println!("{took:?} with a deadline of 2500 ms and attempts of 800 ms");
    kill(Pid::from_raw(update.id() as i32), Signal::SIGTERM).unwrap();
    update.wait().unwrap();
    // It would wait for 4 s.
    assert!(took < 2500 * MS + TOLERANCE, "{took:?}");
    let journal = scratch.journal();
    let record = journal.iter().find(|record| record["verb"] == "pause").unwrap();
    assert_eq!(
        (&record["attempts"], &record["lock"]),
        (&2.into(), &"timed out".into()),
        "{record}"
    );
}

/// A create is retried only if nobody else's state existed before.
#[test]
fn a_create_is_not_repeated_when_something_is_there() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    bench.make("old");
    bench.fake.script(&[
        ("create old", &[fails_with(CREATE)]),
        ("create new", &[Attempt { keep_state: true, ..fails_with(CREATE) }]),
    ]);
    for (id, gave_up) in [("old", Value::Null), ("new", "not repeatable".into())] {
        bench.fake.forget_intervals();
        assert_eq!(bench.give(id, "create", Log::Json, true).exit, Some(1));
        assert_eq!(bench.attempts("create", id).len(), 1, "{id}");
        assert_eq!(bench.record(id)["gave_up"], gave_up, "{id}");
        assert!(scratch.root().join(id).is_dir(), "{id} was removed");
    }
}

#[test]
fn an_exec_waits_for_the_end_of_a_freeze_that_nobody_asked_for() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    bench.make("c");
    let freezer = bench.make_cgroup("c");
    bench.fake.script(&[("exec", &[fails_with(PAUSED), succeeds()])]);
    std::fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
    let began = Instant::now();
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually(Duration::from_secs(5), "the refusal", || {
                bench.attempts("exec", "c").first().is_some_and(|(_, end)| *end != u64::MAX)
            });
            std::thread::sleep(100 * MS);
            std::fs::write(freezer.join("freezer.state"), "THAWED").unwrap();
        });
        bench.give("c", "exec", Log::Json, true)
    });
    assert_eq!((seen.exit, bench.attempts("exec", "c").len()), (Some(0), 2));
    assert_eq!(seen.log, before(Log::Json));
    assert!((90 * MS..300 * MS + TOLERANCE).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[test]
fn an_exec_does_not_wait_longer_than_it_may() {
    for (config, limit) in [("", 300), ("[retry]\ndeadline_ms = 200", 200)] {
        let scratch = Scratch::new();
        let bench = Bench::new(&scratch, config);
        bench.make("c");
        let freezer = bench.make_cgroup("c");
        bench.fake.script(&[("exec", &[fails_with(PAUSED), succeeds()])]);
        std::fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
        let began = Instant::now();
        let seen = bench.give("c", "exec", Log::Json, true);
        let took = began.elapsed();
        assert_eq!((seen.exit, bench.attempts("exec", "c").len()), (Some(1), 1));
        // The attempt takes a part of the deadline.
        assert!(took > (limit - 80) * MS && took < limit * MS + TOLERANCE, "{took:?}");
        assert_eq!(bench.record("c")["gave_up"], "not repeatable");
        assert!(seen.log.contains(PAUSED));
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_thaw() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    bench.make("c");
    let freezer = bench.make_cgroup("c");
    bench.fake.script(&[("exec", &[fails_with(PAUSED)])]);
    std::fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
    let log = scratch.path("log");
    let mut command = bench.fake.wrapped(&["--log", log.to_str().unwrap(), "exec", "c", "true"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually(Duration::from_secs(5), "the attempt's end", || {
        bench.attempts("exec", "c").first().is_some_and(|(_, end)| *end != u64::MAX)
    });
    std::thread::sleep(20 * MS);
    let since = Instant::now();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(since.elapsed() < TOLERANCE, "{:?}", since.elapsed());
    assert_eq!(bench.attempts("exec", "c").len(), 1);
}

#[test]
fn a_pause_that_was_asked_for_is_no_freeze_to_wait_out() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    bench.make("c");
    let freezer = bench.make_cgroup("c");
    bench.fake.script(&[("exec", &[refuses(PAUSED), refuses(PAUSED), succeeds()])]);
    std::fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
    succeed(&mut bench.fake.wrapped(&["pause", "c"]));
    std::fs::write(freezer.join("freezer.state"), "THAWED").unwrap();
    let began = Instant::now();
    assert_eq!(bench.give("c", "exec", Log::Json, true).exit, Some(1));
    assert!(began.elapsed() < TOLERANCE, "{:?}", began.elapsed());
    assert_eq!(bench.attempts("exec", "c").len(), 1);
    succeed(&mut bench.fake.wrapped(&["resume", "c"]));
    std::fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
    assert_eq!(bench.give("c", "exec", Log::Json, true).exit, Some(0));
    assert_eq!(bench.attempts("exec", "c").len(), 3);
}

/// The runtime's text is not enough: otherwise a text written by a tenant would be retried.
#[test]
fn a_refusal_without_a_freeze_is_not_repeated() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "");
    bench.make("c");
    let freezer = bench.make_cgroup("c").join("freezer.state");
    bench.fake.script(&[("exec", &[fails_with(PAUSED), succeeds()])]);
    assert_eq!(bench.give("c", "exec", Log::Json, true).exit, Some(1));
    assert_eq!(bench.attempts("exec", "c").len(), 1);
    let record = bench.record("c");
    let tries = &record["tries"][0];
    assert_eq!(
        (&tries["failure"], &record["gave_up"]),
        (&"refused as paused".into(), &"not repeatable".into())
    );
    // For a freeze that was over when the attempt ended, having seen its beginning is enough.
    bench.forget();
    bench.fake.script(&[("exec", &[refuses(PAUSED), succeeds()])]);
    std::fs::write(freezer, "FROZEN").unwrap();
    assert_eq!(bench.give("c", "exec", Log::Json, true).exit, Some(0));
    assert_eq!(bench.attempts("exec", "c").len(), 2);
}

/// An operation with the lock and a note may have frozen and thawed it while nobody looked.
#[test]
fn a_refusal_beside_an_update_is_repeated() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "[lock]\nshared_wait_ms = 50");
    bench.make("c");
    bench.make_cgroup("c");
    bench.fake.script(&[
        ("update", &[Attempt { delay_us: 1_500_000, ..succeeds() }]),
        ("exec", &[fails_with(PAUSED), succeeds()]),
    ]);
    let mut update = bench.fake.wrapped(&["update", "--cpu-quota", "1", "c"]);
    let mut update = update.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually(Duration::from_secs(5), "the update", || !bench.attempts("update", "c").is_empty());
    assert_eq!(bench.give("c", "exec", Log::Json, true).exit, Some(0));
    assert_eq!(bench.attempts("exec", "c").len(), 2);
    assert!(update.try_wait().unwrap().is_none(), "not shown: the update was over");
    update.wait().unwrap();
}

/// The pause had the lock when the exec looked for its record.
#[test]
fn a_pause_that_the_exec_waited_for_counts_as_well() {
    let scratch = Scratch::new();
    let bench = Bench::new(&scratch, "[lock]\nshared_wait_ms = 1500");
    bench.make("c");
    let freezer = bench.make_cgroup("c");
    std::fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
    bench.fake.script(&[
        ("pause", &[Attempt { delay_us: 900_000, ..succeeds() }]),
        ("exec", &[fails_with(PAUSED)]),
    ]);
    let mut pause = bench.fake.wrapped(&["pause", "c"]);
    let mut pause = pause.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually(Duration::from_secs(5), "the pause", || !bench.attempts("pause", "c").is_empty());
    assert_eq!(bench.give("c", "exec", Log::Json, true).exit, Some(1));
    let record = bench.record("c");
    assert!(record["lock_wait_ms"].as_f64().unwrap() > 100.0, "not shown: {record}");
    let (_, exec_end) = bench.attempts("exec", "c")[0];
    let waited = Duration::from_nanos(testkit::fake_runtime::monotonic_ns() - exec_end);
    assert!(waited < TOLERANCE, "{waited:?}");
    pause.wait().unwrap();
}

/// On cgroup v2 runc leaves `cgroup.freeze` at 1 when a pause fails.
#[test]
fn a_failed_pause_on_v2_is_undone() {
    for (config, frozen_before, left) in [
        ("", "0", "0"),
        // Somebody else's freeze.
        ("", "1", "1"),
        // These modes change nothing.
        ("mode = \"lock\"", "0", "1"),
        ("mode = \"observe\"", "0", "1"),
    ] {
        let scratch = Scratch::new();
        let bench = Bench::new(&scratch, config);
        let cgroup = bench.fake.cgroup("c");
        let on_host = Path::new("/sys/fs/cgroup/unified").join(&cgroup[1..]).join("cgroup.freeze");
        std::fs::create_dir_all(on_host.parent().unwrap()).unwrap();
        bench.fake.script(&[("pause", &[leaves_frozen(&bench, &cgroup)])]);
        let bundle = bench.fake.bundle("c");
        let create = ["create", "--bundle", bundle.to_str().unwrap(), "c"];
        succeed(&mut on_v2(&bench.fake.wrapped(&create)));
        std::fs::write(&on_host, frozen_before).unwrap();
        let output = run(&mut on_v2(&bench.fake.wrapped(&["pause", "c"])));
        assert_eq!(output.status.code(), Some(1));
        let freeze = std::fs::read_to_string(&on_host).unwrap();
        assert_eq!(freeze.trim(), left, "{config}, frozen before: {frozen_before}");
        // Each attempt began in the same state as the first.
        let seen = std::fs::read_to_string(bench.fake.dir().join("seen")).unwrap();
        let seen: Vec<&str> = seen.lines().collect();
        assert!(seen.len() > 1 || !config.is_empty(), "{seen:?}");
        assert!(seen.iter().all(|state| *state == frozen_before), "{seen:?}");
    }
}

fn leaves_frozen(bench: &Bench<'_>, cgroup: &str) -> Attempt {
    let script =
        "cat /sys/fs/cgroup$1/cgroup.freeze >>$2/seen; echo 1 >/sys/fs/cgroup$1/cgroup.freeze";
    let dir = bench.fake.dir().to_str().unwrap();
    let hook = ["sh", "-c", script, "sh", cgroup, dir].map(str::to_owned).to_vec();
    Attempt { hook, ..fails_with("timeout of 10s reached waiting for the cgroup to freeze") }
}

/// The same command where only v2 is mounted.
fn on_v2(inner: &Command) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/v2ns"));
    command.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap());
    }
    command
}

/// A real runc that counts its starts.
struct Counted<'a> {
    scratch: &'a Scratch,
    path: PathBuf,
}

impl<'a> Counted<'a> {
    fn new(scratch: &'a Scratch, real: &str) -> Counted<'a> {
        let dir = scratch.path("counted");
        std::fs::create_dir(&dir).unwrap();
        let real = runtime(real).path;
        let starts = dir.join("starts");
        let text =
            format!("#!/bin/sh\necho >>{}\nexec {} \"$@\"\n", starts.display(), real.display());
        Counted { scratch, path: program(&dir.join("runc"), &text) }
    }

    /// How often a wrapped command that fails with this text in its error starts the runtime, for
    /// each log format.
    fn counts(&self, words: &[&str], said: &str) {
        for log in LOGS {
            let starts = self.path.with_file_name("starts");
            let _ = std::fs::remove_file(&starts);
            let file = self.scratch.path("log-of-counted");
            let _ = std::fs::remove_file(&file);
            let mut command = self.scratch.wrapped(&self.path);
            match log {
                Log::Json => command.arg("--log").arg(&file).args(["--log-format", "json"]),
                Log::Text => command.arg("--debug").arg("--log").arg(&file),
                Log::None => &mut command,
            };
            let output = run(command.args(words));
            assert!(!output.status.success(), "{words:?}");
            let logged = std::fs::read_to_string(&file).unwrap_or_default();
            let error = logged + &text(&output.stderr);
            assert!(error.contains(said), "not shown: {words:?}: {error}");
            let starts = std::fs::read_to_string(&starts).unwrap().lines().count();
            assert_eq!(starts, 1, "{log:?}, {words:?}: {error}");
        }
    }
}

/// A tenant chooses the names of missing programs, directories and users. When this text was
/// matched anywhere, the first command made 22 and 35 starts of runc 1.1.15 and 1.3.6.
#[test]
fn an_exec_that_names_a_refusal_is_not_repeated() {
    for real in ["runc-1.1.15", "runc-1.5.3"] {
        let scratch = Scratch::new();
        let runc = Counted::new(&scratch, real);
        let bundle = scratch.bundle("idle", "c");
        succeed(
            scratch.bare(&runc.path).args(["run", "--detach", "--bundle"]).arg(bundle).arg("c"),
        );
        let said = "cannot exec in a paused container";
        runc.counts(&["exec", "c", said], said);
        let whole = format!("exec failed: {PAUSED}");
        runc.counts(&["exec", "c", &whole], said);
        runc.counts(&["exec", "c", &format!("x\n{whole}\n")], said);
        runc.counts(&["exec", "--cwd", &format!("/{whole}"), "c", "true"], said);
        runc.counts(&["exec", "--user", &whole, "c", "true"], said);
        // The values of an update are not the container's, but reach the error as well.
        runc.counts(&["update", "--cpuset-cpus", "unable to freeze", "c"], "unable to freeze");
    }
}

/// A change of a bundle's config.json.
type Change<'a> = &'a dyn Fn(&mut Value);

/// The same for the text of a bundle, and of its hooks: 5 starts, each of which ran the hooks.
#[test]
fn a_create_that_names_a_failed_freeze_is_not_repeated() {
    for real in ["runc-1.1.15", "runc-1.5.3"] {
        let scratch = Scratch::new();
        let runc = Counted::new(&scratch, real);
        let prints = |text: &str, exit: u32| {
            let script =
                format!("cat >/dev/null; echo ran >>\"$0\"; printf '%s' '{text}' >&2; exit {exit}");
            let file = scratch.path("hook-ran");
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", script, file] }])
        };
        let stage = "setting cgroup config for procHooks process: unable to freeze";
        let entry = json!({ "level": "error", "msg": CREATE }).to_string();
        let cases: [(&str, Change<'_>); 5] = [
            ("args", &|config| {
                config["process"]["args"] = json!([stage]);
                config["hooks"] = json!({ "createRuntime": prints("", 0) });
            }),
            ("hook-path", &|config| {
                config["hooks"] = json!({ "createRuntime": [{ "path": format!("/{stage}") }] });
            }),
            ("hook-output", &|config| {
                config["hooks"] = json!({ "createRuntime": prints(&format!("\n{CREATE}"), 1) });
            }),
            ("hook-log", &|config| {
                config["hooks"] = json!({ "createRuntime": prints(&format!("\n{entry}\n"), 1) });
            }),
            ("mount", &|config| {
                let source = format!("/none: {CREATE}");
                let mount = json!({ "destination": "/mnt", "source": source, "options": ["bind"] });
                config["mounts"].as_array_mut().unwrap().push(mount);
            }),
        ];
        for (id, change) in cases {
            let bundle = scratch.bundle("idle", id);
            scratch.edit(&bundle, |config| {
                config["annotations"] = json!({ stage: stage });
                change(config);
            });
            let _ = std::fs::remove_file(scratch.path("hook-ran"));
            runc.counts(&["create", "--bundle", bundle.to_str().unwrap(), id], "unable to freeze");
            let ran = std::fs::read_to_string(scratch.path("hook-ran")).unwrap_or_default();
            let expected =
                if matches!(id, "args" | "hook-output" | "hook-log") { LOGS.len() } else { 0 };
            assert_eq!(ran.lines().count(), expected, "{real}, {id}");
        }
    }
}
