//! Every command on bad days: a failure is one clear line and the documented exit status, leaves
//! nothing half done, and comes soon. SIGINT during a configure is in tests/configure, during a
//! heal in tests/audit, during a selftest in tests/selftest.rs. `record` and `serve` wait by
//! design: this tests what ends them.
//!
//! Needs root and util-linux (script, setpriv, unshare).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::live::Ended;
use testkit::{frostctl, frostlock};

/// The slowest command asks several programs for their versions.
const SOON: Duration = Duration::from_secs(20);

/// `record` retries after 0.1 s, 0.2 s, 0.4 s.
const SEVERAL_TRIES: Duration = Duration::from_secs(1);

/// Longer than any id, and longer than a file name can be.
const LONG: usize = 300;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Day {
    Good,
    NoRoot,
    NoProc,
    /// The journal is a directory.
    Directory,
    /// A terabyte that nobody has written.
    Sparse,
    /// Records of 1970 and of 2126.
    Clocks,
    /// A terminal with 40 columns.
    Terminal,
    /// Standard output is closed.
    Closed,
    /// The reader of standard output has gone.
    Pipe,
    /// Standard output is a file on a full file system.
    Full,
}

const DAYS: [Day; 10] = [
    Day::Good,
    Day::NoRoot,
    Day::NoProc,
    Day::Directory,
    Day::Sparse,
    Day::Clocks,
    Day::Terminal,
    Day::Closed,
    Day::Pipe,
    Day::Full,
];

/// The words of each command, and its exit status on each of [`DAYS`]; `*` depends on this machine.
const COMMANDS: [(&str, &str); 27] = [
    ("--version", "0 0 0 0 0 0 0 0 0 3"),
    ("--help", "0 0 0 0 0 0 0 0 0 3"),
    ("status --help", "0 0 0 0 0 0 0 0 0 3"),
    ("status", "* * * * * * * * * 3"),
    ("audit", "* * 3 * * * * * * 3"),
    ("doctor", "* * 2 * * * * * * 3"),
    ("configure --runtime containerd --config CONFIG --binary FROSTLOCK", "0 3 0 0 0 0 0 0 0 3"),
    ("unconfigure --runtime containerd --config CONFIG", "0 * 0 0 0 0 0 0 0 3"),
    ("uninstall --dry-run --binary FROSTLOCK", "1 1 1 1 1 1 1 1 1 3"),
    ("off", "0 3 0 0 0 0 0 0 0 3"),
    ("on", "0 3 0 0 0 0 0 0 0 3"),
    ("config check", "0 0 0 0 0 0 0 0 0 3"),
    ("config show", "0 0 0 0 0 0 0 0 0 3"),
    ("selftest --frostlock FROSTLOCK --runtime /bin/false", "3 3 3 3 3 3 3 3 3 3"),
    ("selftest --cri --socket /nosuch", "3 3 3 3 3 3 3 3 3 3"),
    ("doctor --root UNHEALTHY", "1 1 1 1 1 1 1 1 1 3"),
    ("doctor --root UNHEALTHY --npd", "1 1 1 1 1 1 1 1 1 3"),
    ("paths LONG", "3 3 3 3 3 3 3 3 3 3"),
    ("history LONG", "3 3 3 3 3 3 3 3 3 3"),
    ("report", "3 3 3 3 3 0 3 3 3 3"),
    ("report --pod LONG", "3 3 3 3 3 3 3 3 3 3"),
    ("metrics", "0 3 3 3 0 0 0 0 0 3"),
    ("record", "3 3 3 3 3 3 3 3 3 3"),
    ("serve --listen unix:/nosuch/socket", "3 3 3 3 3 3 3 3 3 3"),
    ("serve --listen 192.0.2.1:9764", "3 3 3 3 3 3 3 3 3 3"),
    ("man PAGES", "0 3 0 0 0 0 0 0 0 0"),
    ("completions bash", "0 0 0 0 0 0 0 0 0 3"),
];

/// A recorded node on which no pod has a cgroup.
const UNHEALTHY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/no-kubepods");

const CONFIG: &str = "version = 2\n\
    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
    runtime_type = \"io.containerd.runc.v2\"\n";

/// A directory that everybody can enter, with both programs, a state, a journal and a
/// configuration.
struct Place {
    dir: tempfile::TempDir,
    day: Day,
}

impl Place {
    fn new(day: Day) -> Place {
        let dir = tempfile::Builder::new().prefix("frostlock-").tempdir_in("/dev/shm").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = Place { dir, day };
        for (from, to) in [(PathBuf::from(frostctl()), "frostctl"), (frostlock(), "frostlock")] {
            let installed = Command::new("install").arg(from).arg(place.path(to)).status();
            assert!(installed.unwrap().success());
        }
        fs::write(place.path("config.toml"), "[history]\nenabled = false\n").unwrap();
        fs::write(place.path("containerd.toml"), CONFIG).unwrap();
        fs::create_dir(place.path("state")).unwrap();
        fs::set_permissions(place.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
        let journal = place.path("state/journal.jsonl");
        match day {
            Day::Directory => fs::create_dir(journal).unwrap(),
            Day::Sparse => fs::File::create(journal).unwrap().set_len(1 << 40).unwrap(),
            Day::Clocks => fs::write(journal, clocks()).unwrap(),
            _ => {}
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn words(&self, words: &str) -> Vec<String> {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        words
            .replace("LONG", &"x".repeat(LONG))
            .replace("CONFIG", &path("containerd.toml"))
            .replace("FROSTLOCK", &path("frostlock"))
            .replace("UNHEALTHY", UNHEALTHY)
            .replace("PAGES", &path("pages"))
            .split(' ')
            .map(str::to_owned)
            .collect()
    }

    fn command(&self, words: &[String]) -> Command {
        let program = self.path("frostctl").to_str().unwrap().to_owned();
        let line = [&[program], words].concat();
        // Like `"$@"` in a shell.
        let sh = |script: &str| ["sh", "-c", script, "sh"].map(str::to_owned).to_vec();
        let before = match self.day {
            Day::NoRoot => ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
                .map(str::to_owned)
                .to_vec(),
            Day::NoProc => {
                let hide = sh("mount -t tmpfs none /proc && exec \"$@\"");
                [vec!["unshare".to_owned(), "-m".to_owned()], hide].concat()
            }
            Day::Closed => sh("exec \"$@\" >&-"),
            Day::Pipe => sh("{ \"$@\"; echo $? >status; } | true; exit $(cat status)"),
            Day::Full => sh("exec \"$@\" >/dev/full"),
            _ => Vec::new(),
        };
        let mut all = [before, line].concat();
        if self.day == Day::Terminal {
            let inner = format!("stty cols 40; exec {}", all.join(" "));
            let script = ["script", "-q", "-e", "-c", &inner, "/dev/null"];
            all = script.map(str::to_owned).to_vec();
        }
        let mut command = Command::new("timeout");
        command.arg("30").args(all).current_dir(self.dir.path());
        for (name, path) in [
            ("FROSTLOCK_STATE_DIR", "state"),
            ("FROSTCTL_STATE_DIR", "kept"),
            ("FROSTLOCK_CONFIG", "config.toml"),
        ] {
            command.env(name, self.path(path));
        }
        command
    }

    /// What is wrong with the result.
    fn wrong(&self, words: &str, expected: &str) -> Vec<String> {
        let ended = Ended::of(&mut self.command(&self.words(words)));
        let mut wrong = Vec::new();
        let code = ended.code.unwrap_or(-1);
        let is_documented = (0..=3).contains(&code);
        if !is_documented || (expected != "*" && code.to_string() != expected) {
            wrong.push(format!("exit status {code}, expected {expected}"));
        }
        // A terminal has both streams in one.
        let said = if self.day == Day::Terminal { &ended.stdout } else { &ended.stderr };
        // metrics prints a note before the error about its output.
        let most = if words == "metrics" { 2 } else { 1 };
        if code == 3 && !(1..=most).contains(&said.trim_end().lines().count()) {
            wrong.push("not one line".to_owned());
        }
        if code == 3 && self.day != Day::Terminal && !ended.stdout.is_empty() {
            wrong.push("an answer, and an error".to_owned());
        }
        if said.contains("panicked") {
            wrong.push("a panic".to_owned());
        }
        if ended.took > SOON {
            wrong.push(format!("{:?}", ended.took));
        }
        let text = fs::read_to_string(self.path("containerd.toml")).unwrap();
        let is_whole = text == CONFIG || text.contains("runtimes.frostlock.options]\n");
        if !is_whole {
            wrong.push(format!("half a configuration: {text}"));
        }
        let about = format!("{:?}: {words}", self.day);
        wrong.iter().map(|it| format!("{about}: {it}\n{ended:?}")).collect()
    }
}

/// Times from before the clock was set, from a wrong clock, and from now.
fn clocks() -> String {
    let times =
        ["1970-01-01T00:00:01.000Z", "2126-11-21T05:56:08.000Z", "2026-11-21T05:56:08.000Z"];
    let record = |time| {
        format!(
            "{{\"v\":1,\"mono_ns\":1,\"boot_id\":\"b\",\"time\":\"{time}\",\"verb\":\"exec\",\
             \"id\":\"web\",\"verdict\":\"ok\"}}\n"
        )
    };
    times.map(record).concat()
}

#[test]
fn every_command_ends_soon_with_a_line_and_its_status() {
    let of_day = |(number, day): (usize, Day)| {
        let place = Place::new(day);
        let mut wrong = Vec::new();
        for (words, statuses) in COMMANDS {
            let statuses: Vec<&str> = statuses.split(' ').collect();
            assert_eq!(statuses.len(), DAYS.len(), "{words}");
            wrong.extend(place.wrong(words, statuses[number]));
        }
        wrong
    };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let days = DAYS.into_iter().enumerate();
        let all: Vec<_> = days.map(|it| scope.spawn(move || of_day(it))).collect();
        all.into_iter().flat_map(|it| it.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// With its own journal at this path below the place.
fn recording(day: Day, journal: &str) -> Place {
    let place = Place::new(day);
    let config = format!("[history]\ndirectory = '{}'\n", place.path(journal).display());
    fs::write(place.path("config.toml"), config).unwrap();
    place
}

#[test]
fn what_could_record_or_serve_nothing_ends_with_a_line() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = format!("serve --listen {}", busy.local_addr().unwrap());
    let file = recording(Day::Good, "log");
    fs::create_dir_all(file.path("log/history.jsonl")).unwrap();
    for (place, words, expected) in [
        (recording(Day::NoRoot, "state/log"), "record", "Permission denied"),
        (recording(Day::Good, "config.toml"), "record", "Not a directory"),
        (file, "record", "history.jsonl"),
        (Place::new(Day::NoRoot), "serve --listen unix:STATE/socket", "Permission denied"),
        (Place::new(Day::Good), busy.as_str(), "try another --listen"),
    ] {
        let words = words.replace("STATE", place.path("state").to_str().unwrap());
        let ended = Ended::of(&mut place.command(&place.words(&words)));
        assert_eq!((ended.code, ended.stderr.lines().count()), (Some(3), 1), "{words}: {ended:?}");
        assert!(ended.stderr.contains(expected), "{expected}: {ended:?}");
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn a_record_without_a_containerd_says_so_once_and_waits_until_it_is_ended() {
    let place = recording(Day::Good, "log");
    let mut record = Command::new(frostctl());
    record.args(["record", "--containerd", "/nosuch/socket", "--conmon-exits", "/nosuch"]);
    record.env("FROSTLOCK_STATE_DIR", place.path("state"));
    record.env("FROSTLOCK_CONFIG", place.path("config.toml"));
    let mut record = record.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(record.stderr.take().unwrap());
    let mut first = String::new();
    said.read_line(&mut first).unwrap();
    assert!(first.contains("no events of containerd, trying again: /nosuch/socket"), "{first}");
    std::thread::sleep(SEVERAL_TRIES);
    assert_eq!(record.try_wait().unwrap(), None);
    kill(Pid::from_raw(record.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(record.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
    let mut more = String::new();
    said.read_to_string(&mut more).unwrap();
    assert_eq!(more, "");
}

/// In separate namespaces, so that a frostctl of another test does not take them for containerds of
/// this node. They end with process 1 of their namespace.
fn beside_two_containerds(place: &Path, words: &[&str]) -> Ended {
    let script =
        "for it in a b; do env -u FROSTLOCK_STATE_DIR ./containerd --config $PWD/$it.toml & done
        until [ \"$(cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^containerd$')\" = 2 ]; do :; done
        \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--mount-proc", "bash", "-c", script, "bash"]);
    command.args(words).current_dir(place).stdin(Stdio::null());
    command.env("FROSTLOCK_STATE_DIR", place.join("state")).env("FROSTLOCK_CONFIG", "/dev/null");
    Ended::of(command.env("FROSTCTL_STATE_DIR", place.join("kept")))
}

#[test]
fn of_two_containerds_both_are_told_of_and_none_is_guessed() {
    let place = Place::new(Day::Good);
    for name in ["a.toml", "b.toml"] {
        fs::write(place.path(name), format!("{CONFIG}[grpc]\naddress = '/nosuch/{name}'\n"))
            .unwrap();
    }
    // The kernel names a script's process after the script.
    fs::write(place.path("text"), "#!/bin/sh\nexec >/dev/null 2>&1\nwhile :; do sleep 1; done\n")
        .unwrap();
    let mut install = Command::new("install");
    let installed = install.args(["-m755"]).arg(place.path("text")).arg(place.path("containerd"));
    assert!(installed.status().unwrap().success());
    let frostctl = |words: &[&str]| {
        beside_two_containerds(place.dir.path(), &[&["./frostctl"], words].concat())
    };
    let configure = ["configure", "--runtime", "containerd", "--binary", "./frostlock"];
    let ended = frostctl(&configure);
    assert_eq!((ended.code, ended.stderr.lines().count()), (Some(3), 1), "{ended:?}");
    assert!(ended.stderr.contains("several containerds run"), "{ended:?}");
    for name in ["a.toml", "b.toml"] {
        assert!(ended.stderr.contains(name), "{ended:?}");
        assert!(!fs::read_to_string(place.path(name)).unwrap().contains("frostlock"));
    }
    let status = frostctl(&["status", "--json"]).json();
    let engines = status["facts"]["engines"].as_array().unwrap();
    let files: Vec<&str> = engines.iter().filter_map(|it| it["file"].as_str()).collect();
    for name in ["/a.toml", "/b.toml"] {
        assert!(files.iter().any(|it| it.ends_with(name)), "{files:?}");
    }
    // Neither answers, so each may have it loaded.
    let ended = frostctl(&["uninstall", "--dry-run", "--binary", "./frostlock"]);
    for name in ["a.toml", "b.toml"] {
        let who = format!("the containerd at /nosuch/{name}, perhaps");
        assert!(ended.code == Some(1) && ended.stdout.contains(&who), "{ended:?}");
    }
    let ended = frostctl(&["audit"]);
    for name in ["a.toml", "b.toml"] {
        let who = format!("no answer: containerd at /nosuch/{name}: No such file");
        assert!(ended.code == Some(1) && ended.stdout.contains(&who), "{ended:?}");
    }
    let ended = frostctl(&["selftest", "--cri"]);
    assert_eq!((ended.code, ended.stderr.lines().count()), (Some(3), 1), "{ended:?}");
    assert!(ended.stderr.contains("/nosuch/"), "{ended:?}");
}

/// An engine with an unusual socket must not count as not running.
#[test]
fn a_cri_o_is_asked_where_its_files_have_it_listen() {
    let place = Place::new(Day::Good);
    let socket = place.path("crio.sock");
    // The kernel accepts connections for it, but nobody reads.
    let _mute = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let [listen, runtime] = [
        format!("[crio.api]\nlisten = '{}'\n", socket.display()),
        format!(
            "[crio.runtime.runtimes.frostlock]\nruntime_path = '{}'\n",
            place.path("frostlock").display()
        ),
    ];
    fs::write(place.path("crio.conf"), listen).unwrap();
    fs::write(place.path("99-frostlock.conf"), runtime).unwrap();
    let script = "mount -t tmpfs none /etc && mkdir -p /etc/crio/crio.conf.d && cp crio.conf /etc/crio \
                  && cp 99-frostlock.conf /etc/crio/crio.conf.d && exec ./frostctl status --json";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).current_dir(place.dir.path());
    command.env("FROSTLOCK_STATE_DIR", place.path("state")).env("FROSTLOCK_CONFIG", "/dev/null");
    let status = Ended::of(command.env("FROSTCTL_STATE_DIR", place.path("kept"))).json();
    let engines = status["facts"]["engines"].as_array().unwrap();
    let crio = engines.iter().find(|it| it["name"] == "crio").unwrap();
    assert_eq!(crio["handlers"][0]["name"], "frostlock", "{crio:#}");
    let asked = crio["loaded"]["not_checked"].as_str().unwrap_or_default();
    assert!(asked.contains("no answer"), "{crio:#}");
}
