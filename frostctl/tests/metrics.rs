//! `frostctl metrics` and `serve`: real wrappers write, promtool reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use testkit::frostlock;

const WRITERS: usize = 8;

/// Between two readings fewer records than the 100 or so that 64 KiB hold, so that what is missing
/// has been lost, however slow the machine; in all more than two files of them.
const EACH: usize = 6;
const ROUNDS: usize = 10;

struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Lab {
        let lab = Lab(tempfile::tempdir().unwrap());
        let config = "[journal]\nmax_kib = 64\n[log]\nsyslog = false\n";
        std::fs::write(lab.path("config.toml"), config).unwrap();
        std::fs::DirBuilder::new().create(lab.state()).unwrap();
        std::fs::set_permissions(lab.state(), PermissionsExt::from_mode(0o700)).unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.path("state")
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("FROSTLOCK_STATE_DIR", self.state());
        command.env("FROSTLOCK_CONFIG", self.path("config.toml"));
        command
    }

    fn frostctl(&self) -> Command {
        self.command(Path::new(env!("CARGO_BIN_EXE_frostctl")))
    }

    /// One operation, which leaves one record.
    fn operation(&self, runtime: &str) {
        let mut command = self.command(&frostlock());
        command.env("FROSTLOCK_RUNTIME", runtime).args(["kill", "x", "KILL"]);
        command.stdin(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    }

    fn metrics(&self, args: &[&str]) -> Output {
        self.frostctl().arg("metrics").args(args).output().unwrap()
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.metrics(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn append(&self, line: &str) {
        let path = self.state().join("journal.jsonl");
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| line.rsplit_once(' ').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

fn operations(text: &str) -> f64 {
    let samples = samples(text);
    samples
        .iter()
        .filter(|(name, _)| name.starts_with("frostlock_operations_total"))
        .map(|it| it.1)
        .sum()
}

fn counters(text: &str) -> BTreeMap<String, f64> {
    let grows =
        |name: &String| ["_total", "_bucket", "_count", "_sum"].iter().any(|it| name.contains(it));
    samples(text).into_iter().filter(|(name, _)| grows(name)).collect()
}

/// Each sees only numbers that are at least those it saw before.
fn read_until(lab: &Lab, ended: &AtomicBool) {
    let mut before = BTreeMap::new();
    while !ended.load(Ordering::Relaxed) {
        let now = counters(&lab.text(&[]));
        for (name, value) in &before {
            assert!(now.get(name).is_some_and(|now| now >= value), "{name}: {value}, then {now:?}");
        }
        before = now;
    }
}

/// Eight wrappers at once, then a reading that has begun after their last record.
fn round(lab: &Lab) -> bool {
    let writer = |n: usize| {
        let runtime = if n % 2 == 0 { "/bin/true" } else { "/bin/false" };
        (0..EACH).for_each(|_| lab.operation(runtime));
    };
    let wrote = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|n| scope.spawn(move || writer(n))).collect();
        writers.into_iter().map(|it| it.join()).all(|it| it.is_ok())
    });
    wrote && lab.metrics(&[]).status.success()
}

/// Without a reading in between, what is lost is at least said.
#[test]
fn a_journal_that_turned_over_twice_is_a_gap() {
    let lab = Lab::new();
    lab.operation("/bin/true");
    lab.text(&[]);
    let write = || (0..EACH * ROUNDS).for_each(|_| lab.operation("/bin/true"));
    std::thread::scope(|scope| (0..WRITERS).for_each(|_| drop(scope.spawn(write))));
    let text = lab.text(&[]);
    assert!(operations(&text) < (WRITERS * EACH * ROUNDS + 1) as f64, "{text}");
    assert_eq!(samples(&text)["frostlock_journal_gaps_total"], 1.0, "{text}");
}

#[test]
fn no_record_is_lost_or_counted_twice_over_rotations() {
    let lab = Lab::new();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| read_until(&lab, &ended))).collect();
        let wrote: Vec<_> = (0..ROUNDS).map(|_| round(&lab)).collect();
        ended.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|it| it.join().unwrap());
        assert!(wrote.into_iter().all(|it| it), "a writer or the reading after it failed");
    });
    let all = (WRITERS * EACH * ROUNDS) as f64;

    // The control: the journal alone no longer has them all.
    let journal = lab.state().join("journal.jsonl");
    let alone = operations(&lab.text(&["--journal", journal.to_str().unwrap()]));
    assert!(alone > 0.0 && alone < all, "{alone} of {all}: it was not rotated twice");

    let text = lab.text(&[]);
    assert_eq!(operations(&text), all, "{text}");
    let samples = samples(&text);
    let ok = samples[r#"frostlock_operations_total{verb="kill",verdict="ok"}"#];
    assert_eq!(ok, all / 2.0, "half of them ran /bin/true");
    assert_eq!(samples["frostlock_operation_duration_seconds_count{verb=\"kill\"}"], all);
    assert_eq!(samples["frostlock_journal_skipped_lines_total"], 0.0);
    assert_eq!(samples["frostlock_journal_gaps_total"], 0.0);
}

fn promtool(args: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("no promtool; it comes with: scripts/setup lab");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

#[test]
fn promtool_accepts_what_any_journal_gives() {
    let lab = Lab::new();
    lab.operation("/bin/true");
    // All that a record can have, and names that would break a line.
    lab.append(
        r#"{"v":1,"mono_ns":1,"verb":"create","verdict":"failed","attempts":3,"gave_up":"out of time",
        "lock":"timed out","lock_wait_ms":1000.5,"stages":{"prepare":1,"lock":1000.5,"run":90},
        "tries":[{"ms":1,"failure":"freeze failed","delay_ms":100}],"recovered":["/a"],"oom_kill":2,
        "lifts":[{"whose":"program","threads":3,"cpu_ms":40.25,"ms":50,"ended":"done"}],
        "lift_refused":"no note: ENOSPC",
        "pod":{"namespace":"a\"b\\c","name":"d\ne{f=\"g\"} 1"}}"#
            .replace('\n', " ")
            .as_str(),
    );
    lab.append("{\"v\":1,\"verb\":\"cre");
    let text = lab.text(&[]);
    assert!(text.contains(r#"frostlock_pod_lifted_program_cpu_seconds_total{namespace="a\"b\\c",pod="d\ne{f=\"g\"} 1"} 0.04025"#), "{text}");
    for sample in [
        r#"frostlock_lifts_total{whose="program",ended="done"} 1"#,
        r#"frostlock_lifted_threads_total{whose="program"} 3"#,
        r#"frostlock_lift_refused_total{reason="no note"} 1"#,
        "frostlock_journal_skipped_lines_total 1",
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample}: {text}");
    }
    let checked = promtool(&["check", "metrics"], &text);
    assert!(checked.status.success() && said(&checked).is_empty(), "{}\n{text}", said(&checked));

    let broken = text.replace("frostlock_retries_total", "frostlock_retries");
    let checked = promtool(&["check", "metrics"], &broken);
    assert!(said(&checked).contains("frostlock_retries"), "the control: {}", said(&checked));
}

#[test]
fn the_rules_are_sound_and_fire_when_they_should() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    let (alerts, tests) = (rules.join("alerts.yml"), rules.join("alerts.test.yml"));
    for args in
        [["check", "rules", alerts.to_str().unwrap()], ["test", "rules", tests.to_str().unwrap()]]
    {
        let checked = promtool(&args, "");
        assert!(checked.status.success(), "{args:?}: {}", said(&checked));
    }
    // The control: the same tests against other limits.
    let lab = Lab::new();
    let other = std::fs::read_to_string(&alerts).unwrap().replace("[15m])) > 3", "[15m])) > 300");
    std::fs::write(lab.path("alerts.yml"), other).unwrap();
    std::fs::copy(&tests, lab.path("alerts.test.yml")).unwrap();
    let checked = promtool(&["test", "rules", lab.path("alerts.test.yml").to_str().unwrap()], "");
    assert!(!checked.status.success(), "{}", said(&checked));
}

#[test]
fn a_textfile_is_replaced_as_a_whole() {
    let lab = Lab::new();
    lab.operation("/bin/true");
    let directory = lab.path("textfiles");
    std::fs::create_dir(&directory).unwrap();
    let file = directory.join("frostlock.prom");
    std::fs::write(&file, "old").unwrap();
    let mut held = std::fs::File::open(&file).unwrap();
    let mut narrow = lab.command(Path::new("sh"));
    narrow.args(["-c", "umask 077; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_frostctl"), "metrics"]);
    assert!(narrow.arg("--textfile").arg(&file).status().unwrap().success());
    let mut old = String::new();
    held.read_to_string(&mut old).unwrap();
    assert_eq!(old, "old", "who reads it meanwhile reads it whole");
    assert_eq!(operations(&std::fs::read_to_string(&file).unwrap()), 1.0);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);

    // A journal that cannot be read leaves what was there.
    std::fs::remove_file(lab.state().join("journal.jsonl")).unwrap();
    std::fs::create_dir(lab.state().join("journal.jsonl")).unwrap();
    let failed = lab.metrics(&["--textfile", file.to_str().unwrap()]);
    assert_eq!(failed.status.code(), Some(3), "{}", said(&failed));
    assert!(said(&failed).contains("journal.jsonl: not a regular file"), "{}", said(&failed));
    assert_eq!(operations(&std::fs::read_to_string(&file).unwrap()), 1.0);

    let wrong = lab.metrics(&["--textfile", lab.path("x.txt").to_str().unwrap()]);
    assert!(said(&wrong).contains(".prom"), "{}", said(&wrong));
}

#[test]
fn without_a_journal_it_says_so() {
    let lab = Lab::new();
    let output = lab.metrics(&[]);
    assert!(output.status.success());
    assert!(said(&output).contains("there is no journal at"), "{}", said(&output));
    assert!(said(&output).contains("frostlock_journal_files 0"), "{}", said(&output));
}

struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(lab: &Lab) -> Server {
        Server::at(lab, "127.0.0.1:0")
    }

    fn at(lab: &Lab, listen: &str) -> Server {
        Server::with(lab, listen, &[])
    }

    fn with(lab: &Lab, listen: &str, args: &[&str]) -> Server {
        let mut command = lab.frostctl();
        command.args(["serve", "--listen", listen]).args(args).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).and_then(|it| it.split('/').next());
        Server { child, address: address.unwrap_or_default().to_owned() }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// A connection of another address of this host.
    fn connect_from(&self, from: [u8; 4]) -> TcpStream {
        use nix::sys::socket::{
            AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket,
        };
        let [a, b, c, d] = from;
        let socket =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let port = self.address.rsplit_once(':').unwrap().1.parse().unwrap();
        bind(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0)).unwrap();
        connect(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).unwrap();
        TcpStream::from(socket)
    }

    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // An answer to what was not read to its end may be followed by a reset.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }
}

/// Of a user who may read nothing else, as in the chart's exporter.
#[test]
fn a_textfile_is_shown_as_long_as_it_is_renewed() {
    let lab = Lab::new();
    lab.operation("/bin/true");
    let file = lab.path("frostlock.prom");
    let file = file.to_str().unwrap();
    let server = Server::with(&lab, "127.0.0.1:0", &["--textfile", file]);
    assert!(server.ask(GET).starts_with("HTTP/1.1 500"), "it is not there yet");
    assert!(lab.frostctl().args(["metrics", "--textfile", file]).status().unwrap().success());
    // Scrapes within one second get the same answer, an error none.
    let answer = server.ask(GET);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(operations(answer.split_once("\r\n\r\n").unwrap().1), 1.0);

    let old = std::time::SystemTime::now() - Duration::from_secs(301);
    OpenOptions::new().write(true).open(file).unwrap().set_modified(old).unwrap();
    let server = Server::with(&lab, "127.0.0.1:0", &["--textfile", file]);
    let answer = server.ask(GET);
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("301 s old"), "{answer}");
    let both = lab.frostctl().args(["serve", "--textfile", file, "--audit"]).output().unwrap();
    assert_eq!(both.status.code(), Some(2), "{}", said(&both));
}

#[test]
fn it_answers_http_within_its_bounds() {
    let lab = Lab::new();
    lab.operation("/bin/true");
    let server = Server::start(&lab);
    let get = GET;
    let answer = server.ask(get);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"),
        "{head}"
    );
    assert_eq!(operations(body), 1.0);
    let checked = promtool(&["check", "metrics"], body);
    assert!(checked.status.success(), "{}", said(&checked));

    assert!(server.ask("GET /x HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
    let post = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx";
    assert!(server.ask(post).starts_with("HTTP/1.1 405"));
    let large = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let refused = server.ask(&large);
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 431"), "{refused}");
    assert!(server.ask("rubbish\r\n\r\n").starts_with("HTTP/1.1 400"));

    assert!(server.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").ends_with("\r\n\r\nok\n"));
    // A journal that cannot be read is no reason to restart the server.
    std::fs::remove_file(lab.state().join("journal.jsonl")).unwrap();
    std::fs::create_dir(lab.state().join("journal.jsonl")).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !server.ask(get).starts_with("HTTP/1.1 500") {
        assert!(Instant::now() < until, "it answers with what it has read before");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(server.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200"));
}

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

/// The header deadline is 800 ms: what is answered before that has not waited for it.
const AT_ONCE: Duration = Duration::from_millis(700);

fn scrape(server: &Server) -> Duration {
    let began = Instant::now();
    let answer = server.ask(GET);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    began.elapsed()
}

#[test]
fn connections_that_say_nothing_delay_no_scrape() {
    let lab = Lab::new();
    let server = Server::start(&lab);
    scrape(&server);
    for round in 0..5 {
        let idle: Vec<TcpStream> = (0..16).map(|_| server.connect()).collect();
        let took = scrape(&server);
        println!("16 half-open connections, a scrape took {} ms", took.as_millis());
        assert!(took < AT_ONCE, "{round}: {took:?}");
        drop(idle);
    }
    // From so many addresses that it is all the places that they hold.
    let idle: Vec<TcpStream> = (1..=64).map(|n| server.connect_from([127, 0, 1, n])).collect();
    let took = scrape(&server);
    assert!(took < AT_ONCE, "64 addresses: {took:?}");
    drop(idle);
}

#[test]
fn a_head_that_does_not_come_ends_its_connection_within_a_second() {
    let lab = Lab::new();
    let mut server = Server::start(&lab);
    // Nothing at all, and a byte at a time.
    for pause in [None, Some(Duration::from_millis(50))] {
        let began = Instant::now();
        let mut stream = server.connect();
        if let Some(pause) = pause {
            while stream.write_all(b"G").is_ok() && began.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(pause);
            }
        }
        // Not by `read`, which a stop of this process interrupts. A reset is an end as well.
        let ended = stream.read_to_end(&mut Vec::new());
        let took = began.elapsed();
        let is_alive = server.child.try_wait().unwrap().is_none();
        let how = format!("{took:?}, by {ended:?}, {pause:?}, the server lives: {is_alive}");
        assert!(took > Duration::from_millis(500) && is_alive, "for another reason: {how}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

/// All have come before the server looks: none that has asked is taken for one that says nothing, and
/// loses its place to a later one.
#[test]
fn scrapes_at_once_cost_each_other_no_place() {
    let lab = Lab::new();
    lab.operation("/bin/true");
    let server = Server::start(&lab);
    let pid = nix::unistd::Pid::from_raw(server.child.id().try_into().unwrap());
    for round in 0..5 {
        nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).unwrap();
        let mut streams: Vec<TcpStream> = (0..16).map(|_| server.connect()).collect();
        streams.iter_mut().for_each(|stream| stream.write_all(GET.as_bytes()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGCONT).unwrap();
        for (number, mut stream) in streams.into_iter().enumerate().take(8) {
            let mut answer = String::new();
            let read = stream.read_to_string(&mut answer);
            assert!(answer.starts_with("HTTP/1.1 200"), "{round}, {number}: {read:?}, {answer:?}");
        }
    }
}

#[test]
fn a_unix_socket_is_its_groups_and_replaced_only_if_nobody_answers() {
    let lab = Lab::new();
    lab.operation("/bin/true");
    let path = lab.path("metrics.sock");
    let listen = format!("unix:{}", path.display());
    let ask = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(GET.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let refused = |listen: &str| {
        let output = lab.frostctl().args(["serve", "--listen", listen]).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        said(&output)
    };
    let first = Server::at(&lab, &listen);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    assert!(ask().starts_with("HTTP/1.1 200"));
    assert!(refused(&listen).contains("somebody listens at"));
    assert!(ask().starts_with("HTTP/1.1 200"), "the first one goes on");
    let idle: Vec<_> = (0..16).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let began = Instant::now();
    assert!(
        ask().starts_with("HTTP/1.1 200") && began.elapsed() < AT_ONCE,
        "{:?}",
        began.elapsed()
    );
    drop((idle, first));

    assert!(path.exists() && UnixStream::connect(&path).is_err(), "the control: it is left over");
    let second = Server::at(&lab, &listen);
    assert!(ask().starts_with("HTTP/1.1 200"));
    drop(second);

    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "mine").unwrap();
    assert!(refused(&listen).contains("is not a socket"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    assert!(refused(&format!("unix:{}/no/such", lab.path("x").display())).contains("directory"));
    let wrong = lab.frostctl().args(["serve", "--listen", "localhost:1"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{}", said(&wrong));
}
