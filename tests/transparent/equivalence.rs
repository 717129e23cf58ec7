//! Bare and wrapped look the same to a caller: the same output, exit status, files, container and
//! cgroup, for valid and invalid command lines. Both sides run each command from the same fresh
//! state, in the same places, so that their output can be compared byte for byte; only times and
//! pids differ.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use testkit::{Runtime, Scratch, cgroup_dirs, frostlock, pids, proof, runtime, runtimes, slowness};

/// What exists before the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    Nothing,
    Created,
    Running,
    Paused,
    Stopped,
}

use Scene::{Created, Nothing, Paused, Running, Stopped};

/// Parts of the output that differ between two bare runs, besides times and pids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noise {
    None,
    /// Column widths that depend on a pid or a time, and ps's share of CPU time.
    Table,
    /// Usage figures, and addresses in criu's messages.
    Figures,
    /// Debug lines of processes that write at the same time, or that nobody reads any more; and the
    /// pids in crun's debug lines, which are not marked as pids.
    DebugLines,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    scene: Scene,
    /// `@` stands for a path: `@root` the runtime's root, `@work` the current directory, and the
    /// bundles `@idle`, `@true`, `@exit`, `@missing`, `@broken`. A line without a root gets `--root
    /// @root` in front.
    argv: &'static [&'static str],
    stdin: &'static str,
    noise: Noise,
    /// The command kills the container's init, which takes a moment.
    kills: bool,
}

const fn case(scene: Scene, argv: &'static [&'static str]) -> Case {
    Case { scene, argv, stdin: "", noise: Noise::None, kills: false }
}

impl Case {
    const fn stdin(self, stdin: &'static str) -> Case {
        Case { stdin, ..self }
    }

    const fn table(self) -> Case {
        Case { noise: Noise::Table, ..self }
    }

    const fn figures(self) -> Case {
        Case { noise: Noise::Figures, ..self }
    }

    const fn debug_lines(self) -> Case {
        Case { noise: Noise::DebugLines, ..self }
    }

    const fn kills(self) -> Case {
        Case { kills: true, ..self }
    }
}

const RESOURCES: &str = r#"{"cpu":{"quota":50000,"period":100000},"pids":{"limit":64}}"#;
const PROCESS: &str = r#"{"cwd":"/","args":["sh","-c","echo from a file"],
    "user":{"uid":0,"gid":0},"env":["PATH=/bin"]}"#;

const CASES: &[Case] = &[
    // Commands that are no operation on a container.
    case(Nothing, &[]),
    case(Nothing, &["--root"]),
    case(Nothing, &["--root", "@root", "--version"]),
    case(Nothing, &["-v"]),
    case(Nothing, &["--help"]),
    case(Nothing, &["help"]),
    case(Nothing, &["create", "--help"]),
    case(Nothing, &["exec", "-h"]),
    case(Nothing, &["update", "--usage"]),
    case(Nothing, &["features"]),
    case(Nothing, &["nosuch", "c1"]),
    case(Nothing, &["--nosuch", "state", "c1"]),
    case(Nothing, &["spec"]),
    case(Nothing, &["spec", "--bundle", "@idle"]),
    case(Nothing, &["spec", "--nosuch"]),
    case(Nothing, &["list"]),
    case(Nothing, &["list", "--format", "json"]),
    case(Nothing, &["list", "--format", "nosuch"]),
    // Without an id.
    case(Nothing, &["create"]),
    case(Nothing, &["run"]),
    case(Nothing, &["start"]),
    case(Nothing, &["state"]),
    case(Nothing, &["pause"]),
    case(Nothing, &["resume"]),
    case(Nothing, &["kill"]),
    case(Nothing, &["delete"]),
    case(Nothing, &["delete", "--force"]),
    case(Nothing, &["update"]),
    case(Nothing, &["exec"]),
    case(Nothing, &["ps"]),
    // For a container that does not exist.
    case(Nothing, &["start", "c1"]),
    case(Nothing, &["state", "c1"]),
    case(Nothing, &["state", ""]),
    case(Nothing, &["state", "c1", "c2"]),
    case(Nothing, &["state", "../c1"]),
    case(Nothing, &["pause", "c1"]),
    case(Nothing, &["resume", "c1"]),
    case(Nothing, &["kill", "c1", "KILL"]),
    case(Nothing, &["delete", "c1"]),
    case(Nothing, &["delete", "--force", "c1"]),
    case(Nothing, &["update", "--resources=-", "c1"]).stdin(RESOURCES),
    case(Nothing, &["exec", "c1", "true"]),
    case(Nothing, &["ps", "c1"]),
    case(Nothing, &["events", "--stats", "c1"]),
    case(Nothing, &["checkpoint", "c1"]),
    case(Nothing, &["restore", "--bundle", "@idle", "--detach", "c1"]),
    // The words before the command.
    case(Nothing, &["--root=", "state", "c1"]),
    case(Nothing, &["-root", "@root", "state", "c1"]),
    case(Nothing, &["--root=@root", "state", "c1"]),
    case(Nothing, &["--root", "@root", "--", "state", "c1"]),
    case(Nothing, &["--debug", "--root", "@root", "state", "c1"]),
    case(Nothing, &["--debug=false", "--root", "@root", "pause", "c1"]),
    case(Nothing, &["--rootless=bogus", "--root", "@root", "state", "c1"]),
    case(Nothing, &["--log", "@work/log", "--log-format", "json", "pause", "c1"]),
    case(Nothing, &["--log=@work/log", "--log-format=text", "state", "c1"]),
    case(Nothing, &["--log", "@work/nosuch/log", "pause", "c1"]),
    case(Nothing, &["--log", "@work/log", "--log-format", "nosuch", "pause", "c1"]),
    case(Nothing, &["--log", "@work/log", "--log-format", "json", "create", "-b", "@broken", "c1"]),
    case(
        Nothing,
        &["--log", "@work/log", "--log-format", "json", "create", "-b", "@missing", "c1"],
    ),
    case(Nothing, &["--log", "@work/log", "--log-format", "json", "--debug", "update", "c1"]),
    // create and run.
    case(Nothing, &["create", "--bundle", "@idle", "c1"]),
    case(Nothing, &["create", "--bundle", "@idle", "--", "c1"]),
    case(Nothing, &["create", "-b", "@idle", "--pid-file", "@work/pid", "--no-pivot", "c1"]),
    case(Nothing, &["create", "--bundle=@idle", "--pid-file=@work/nosuch/pid", "c1"]),
    case(Nothing, &["create", "c1"]),
    case(Nothing, &["create", "c1", "--bundle", "@idle"]),
    case(Nothing, &["create", "--bundle", "@work/nosuch", "c1"]),
    case(Nothing, &["create", "--bundle", "@idle", "--nosuch", "c1"]),
    case(Nothing, &["create", "--bundle", "@idle", "bad/id"]),
    case(Nothing, &["create", "--bundle", "@idle", ""]),
    case(Nothing, &["create", "--bundle", "@broken", "c1"]),
    case(Nothing, &["create", "--bundle", "@missing", "c1"]),
    case(Nothing, &["create", "-b", "@idle", "--console-socket", "@work/nosuch", "c1"]),
    case(Nothing, &["create", "--bundle", "@idle", "--preserve-fds", "5", "c1"]),
    case(Nothing, &["--debug", "create", "--bundle", "@idle", "c1"]).debug_lines(),
    case(Nothing, &["run", "--bundle", "@true", "c1"]),
    case(Nothing, &["run", "--keep", "--bundle", "@true", "c1"]),
    case(Nothing, &["run", "--bundle", "@exit", "c1"]),
    case(Nothing, &["run", "--bundle", "@missing", "c1"]),
    case(Nothing, &["run", "--detach", "--bundle", "@idle", "c1"]),
    case(Nothing, &["run", "-d", "-b", "@idle", "--pid-file", "@work/pid", "c1"]),
    case(Nothing, &["--debug", "run", "--bundle", "@exit", "c1"]).debug_lines(),
    // A created container.
    case(Created, &["create", "--bundle", "@idle", "c1"]),
    case(Created, &["run", "--bundle", "@true", "c1"]),
    case(Created, &["start", "c1"]),
    case(Created, &["start", "c1", "c2"]),
    case(Created, &["state", "c1"]),
    case(Created, &["list"]).table(),
    case(Created, &["ps", "c1"]).table(),
    case(Created, &["exec", "c1", "echo", "hello"]),
    case(Created, &["pause", "c1"]),
    case(Created, &["update", "--cpu-quota", "60000", "c1"]),
    case(Created, &["kill", "c1", "KILL"]).kills(),
    case(Created, &["delete", "c1"]),
    case(Created, &["delete", "--force", "c1"]),
    // A running container.
    case(Running, &["create", "--bundle", "@idle", "c1"]),
    case(Running, &["start", "c1"]),
    case(Running, &["state", "c1"]),
    case(Running, &["state", "--", "c1"]),
    case(Running, &["list"]).table(),
    case(Running, &["list", "--quiet"]),
    case(Running, &["list", "--format", "json"]),
    case(Running, &["ps", "c1"]).table(),
    case(Running, &["ps", "--format", "json", "c1"]),
    case(Running, &["ps", "c1", "-o", "comm"]),
    case(Running, &["events", "--stats", "c1"]).figures(),
    case(Running, &["pause", "c1"]),
    case(Running, &["pause", "--nosuch", "c1"]),
    case(Running, &["--log", "@work/log", "--log-format", "json", "pause", "c1"]),
    case(Running, &["resume", "c1"]),
    case(Running, &["resume", "c1", "extra"]),
    case(Running, &["exec", "c1", "true"]),
    // A runtime copies each stream separately: without the pause, either may come first.
    case(Running, &["exec", "c1", "sh", "-c", "echo out; sleep 0.3; echo err >&2; exit 3"]),
    case(Running, &["exec", "c1", "cat"]).stdin("what\nthe caller\0says"),
    case(Running, &["exec", "c1", "--", "echo", "hello"]),
    case(Running, &["exec", "--", "c1", "echo", "hello"]),
    case(Running, &["exec", "c1", "/nosuch"]),
    case(Running, &["exec", "c1", "nosuch"]),
    case(Running, &["exec", "c1", "/etc"]),
    case(Running, &["exec", "--cwd", "/nosuch", "c1", "true"]),
    case(Running, &["exec", "--cwd", "/tmp", "--env", "A=b", "c1", "sh", "-c", "pwd; echo $A"]),
    case(Running, &["exec", "--user", "1000:1000", "c1", "id"]),
    case(Running, &["exec", "--user", "nosuch", "c1", "id"]),
    case(Running, &["exec", "--detach", "--pid-file", "@work/pid", "c1", "sleep", "3600"]),
    case(Running, &["exec", "--process", "@work/process.json", "c1"]),
    case(Running, &["exec", "--process", "@work/nosuch.json", "c1"]),
    case(Running, &["exec", "--process", "@work/resources.json", "c1"]),
    case(Running, &["exec", "--nosuch", "c1", "true"]),
    case(Running, &["exec", "c1"]),
    case(Running, &["--log", "@work/log", "--log-format", "json", "exec", "c1", "nosuch"]),
    case(Running, &["kill", "c1", "KILL"]).kills(),
    case(Running, &["kill", "c1", "9"]).kills(),
    case(Running, &["kill", "c1", "SIGKILL"]).kills(),
    case(Running, &["kill", "--all", "c1", "KILL"]).kills(),
    case(Running, &["kill", "c1"]),
    case(Running, &["kill", "c1", "SIGWINCH"]),
    case(Running, &["kill", "c1", "0"]),
    case(Running, &["kill", "c1", "NOSUCH"]),
    case(Running, &["kill", "c1", "999"]),
    case(Running, &["kill", "c1", "-1"]),
    case(Running, &["kill", "--", "c1", "-1"]),
    case(Running, &["kill", "--nosuch", "c1", "KILL"]),
    case(Running, &["delete", "c1"]),
    case(Running, &["delete", "--force", "c1"]),
    case(Running, &["delete", "-f", "c1", "c2"]),
    case(Running, &["update", "c1"]),
    case(Running, &["update", "--memory", "67108864", "c1"]),
    case(Running, &["update", "--memory", "bogus", "c1"]),
    case(Running, &["update", "--cpu-period", "100000", "--cpu-quota", "50000", "c1"]),
    case(Running, &["update", "--cpu-quota", "bogus", "c1"]),
    case(Running, &["update", "--cpu-share", "512", "--pids-limit", "77", "c1"]),
    case(Running, &["update", "c1", "--pids-limit", "78"]),
    case(Running, &["update", "--cpuset-cpus", "0", "c1"]),
    case(Running, &["update", "--cpuset-cpus", "9999", "c1"]),
    case(Running, &["update", "--nosuch", "1", "c1"]),
    case(Running, &["update", "--resources=-", "c1"]).stdin(RESOURCES),
    case(Running, &["update", "--resources", "-", "c1"]).stdin(RESOURCES),
    case(Running, &["update", "-r", "-", "c1"]).stdin(RESOURCES),
    case(Running, &["update", "--resources=-", "c1"]).stdin("{\"cpu\": nonsense}"),
    case(Running, &["update", "--resources=-", "c1"]),
    case(Running, &["update", "--resources=-", "c1"]).stdin("[]"),
    case(Running, &["update", "--resources", "@work/resources.json", "c1"]),
    case(Running, &["update", "--resources", "@work/nosuch.json", "c1"]),
    case(Running, &["--log", "@work/log", "--log-format", "json", "update", "--resources=-", "c1"])
        .stdin("{"),
    case(Running, &["checkpoint", "--image-path", "@work/image", "c1"]).figures(),
    // A paused container.
    case(Paused, &["pause", "c1"]),
    case(Paused, &["--log", "@work/log", "--log-format", "json", "pause", "c1"]),
    case(Paused, &["resume", "c1"]),
    case(Paused, &["state", "c1"]),
    case(Paused, &["list"]).table(),
    case(Paused, &["ps", "c1"]).table(),
    case(Paused, &["start", "c1"]),
    case(Paused, &["exec", "c1", "true"]),
    case(Paused, &["update", "--cpu-quota", "60000", "c1"]),
    case(Paused, &["kill", "c1", "WINCH"]),
    case(Paused, &["delete", "c1"]),
    case(Paused, &["delete", "--force", "c1"]),
    // A stopped container.
    case(Stopped, &["start", "c1"]),
    case(Stopped, &["state", "c1"]),
    case(Stopped, &["list"]).table(),
    case(Stopped, &["ps", "c1"]),
    case(Stopped, &["exec", "c1", "true"]),
    case(Stopped, &["pause", "c1"]),
    case(Stopped, &["resume", "c1"]),
    case(Stopped, &["update", "--cpu-quota", "60000", "c1"]),
    case(Stopped, &["kill", "c1", "KILL"]),
    case(Stopped, &["kill", "--all", "c1", "KILL"]),
    case(Stopped, &["create", "--bundle", "@idle", "c1"]),
    case(Stopped, &["delete", "c1"]),
    case(Stopped, &["delete", "--force", "c1"]),
];

#[test]
fn there_are_enough_of_them() {
    assert!(CASES.len() >= 60, "{}", CASES.len());
}

#[test]
fn runc_1_1_5() {
    agree(&runtime("runc-1.1.5"), Streams::Two);
}

#[test]
fn runc_1_1_15() {
    agree(&runtime("runc-1.1.15"), Streams::One);
}

#[test]
fn runc_1_3_6() {
    agree(&runtime("runc-1.3.6"), Streams::Two);
}

#[test]
fn runc_1_5_3() {
    agree(&runtime("runc-1.5.3"), Streams::Two);
}

/// The versions that `make node-matrix` builds.
#[test]
#[ignore = "they are not built for `make test`: make proof SUITES=equivalence"]
fn other_runcs() {
    let tested = ["runc-1.1.5", "runc-1.1.15", "runc-1.3.6", "runc-1.5.3"];
    let is_other = |name: &str| name.starts_with("runc-") && !tested.contains(&name);
    let others: Vec<Runtime> = runtimes().into_iter().filter(|it| is_other(&it.name)).collect();
    assert!(!others.is_empty(), "there is none; try: scripts/make-versions target/lab");
    others.iter().for_each(|runtime| agree(runtime, Streams::Two));
}

/// With --debug it prints its own arguments, and the log's path in them is ours. It prints a hash
/// table in any order: parts that differ between two bare runs prove nothing, but there are few of
/// them.
#[test]
#[ignore = "it is not built for `make test`: make proof SUITES=equivalence"]
fn youki() {
    let path = testkit::lab().join("youki-0.7.0/bin/youki");
    assert!(path.exists(), "there is none; try: scripts/make-versions target/lab");
    let (name, version) = ("youki-0.7.0".to_owned(), "0.7.0".to_owned());
    let place = Place::new(Runtime { name, path, version }, Streams::Two);
    let wrapper = frostlock();
    let says_nothing = |case: &Case| {
        let bare = place.observe(case, None);
        (0..8).any(|_| place.observe(case, None) != bare)
    };
    let of_bare_runs: Vec<&Case> = CASES
        .iter()
        .filter(|case| !case.argv.contains(&"--debug"))
        .filter_map(|case| place.difference(case, &wrapper).map(|report| (case, report)))
        .map(|(case, report)| {
            assert!(says_nothing(case), "{report}");
            case
        })
        .collect();
    println!("youki: {} command lines, bare runs differ in {}", CASES.len(), of_bare_runs.len());
    of_bare_runs.iter().for_each(|case| println!("  {:?} {:?}", case.scene, case.argv));
    assert!(of_bare_runs.len() * 10 < CASES.len(), "too much to show anything");
}

/// crun refuses a host that mixes cgroup v1 and v2.
#[test]
fn crun_on_v2() {
    testkit::on_v2("inner_on_v2");
}

#[test]
#[ignore = "run by crun_on_v2 in its mount namespace"]
fn inner_on_v2() {
    for runtime in runtimes() {
        let streams = if runtime.name == "crun-1.21" { Streams::One } else { Streams::Two };
        if runtime.name == "crun-1.8.1" || proof() {
            agree(&runtime, streams);
        }
    }
}

/// The comparison finds what a wrapper does wrong.
#[test]
fn an_unfaithful_wrapper_is_found_out() {
    let place = Place::new(runtime("runc-1.1.15"), Streams::Two);
    let state = case(Running, &["state", "c1"]);
    let resume = case(Paused, &["resume", "c1"]);
    let pause_with_log = case(Nothing, &["--log", "@work/log", "pause", "c1"]);
    let run = r#""$FROSTLOCK_RUNTIME" "$@""#;
    for (differs, case, script) in [
        ("stderr", state, format!("{run}; code=$?; printf x >&2; exit $code")),
        ("stdout", state, format!("{run}; code=$?; echo; exit $code")),
        ("status", state, format!("{run}; exit 1")),
        ("status", state, format!("{run}; kill -KILL $$")),
        ("container", resume, "exit 0".to_owned()),
        ("cgroups", resume, "exit 0".to_owned()),
        ("files", pause_with_log, format!("{run}; code=$?; echo x >>\"$4\"; exit $code")),
    ] {
        let stand_in = place.scratch.path("stand-in");
        testkit::program(&stand_in, &format!("#!/bin/sh\n{script}\n"));
        let report = place.difference(&case, &stand_in).expect(&script);
        assert!(report.contains(&format!("\n{differs}: ")), "{script}: {report}");
        // And only that is reported; what a resume changes shows in both.
        let named = report.lines().filter(|line| line.starts_with(char::is_alphabetic)).count();
        assert!(named <= 2, "{script}: {report}");
    }
}

fn agree(runtime: &Runtime, streams: Streams) {
    let place = Place::new(runtime.clone(), streams);
    let wrapper = frostlock();
    // If each case takes seconds, some stand for all. Those must not include the host's ps, which
    // fails in the middle of a line if the kernel has no boot time, as User-Mode Linux.
    let is_told = |case: &&Case| slowness() == 1 || !case.argv.contains(&"ps");
    let step = if slowness() > 1 { 5 } else { 1 };
    let cases: Vec<&Case> = CASES.iter().step_by(step).filter(is_told).collect();
    let differences: Vec<String> =
        cases.iter().filter_map(|case| place.difference(case, &wrapper)).collect();
    println!("{}: {} command lines, {} differ", runtime.name, cases.len(), differences.len());
    assert!(
        differences.is_empty(),
        "{} of {} differ with {}:\n{}",
        differences.len(),
        cases.len(),
        runtime.name,
        differences.join("\n")
    );
}

/// As callers do it: stdout and stderr separate, or both in one pipe, like containerd's shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Streams {
    Two,
    One,
}

/// What a command did, without parts that differ between two bare runs: a text for every aspect.
type Seen = BTreeMap<&'static str, String>;

/// Where both sides run, one after the other.
struct Place {
    scratch: Scratch,
    runtime: Runtime,
    streams: Streams,
}

impl Place {
    fn new(runtime: Runtime, streams: Streams) -> Place {
        let scratch = Scratch::new();
        for scene in ["idle", "true", "exit"] {
            scratch.bundle(scene, scene);
        }
        let missing = scratch.bundle("idle", "missing");
        scratch.edit(&missing, |config| {
            config["process"]["args"] = serde_json::json!(["/nosuch", "argument"]);
        });
        let broken = scratch.bundle("idle", "broken");
        std::fs::write(broken.join("config.json"), "{\"ociVersion\": ").unwrap();
        Place { scratch, runtime, streams }
    }

    fn work(&self) -> PathBuf {
        self.scratch.path("work")
    }

    /// The difference, for people. If a runtime's output varies, ours may match that of any of a
    /// few bare runs.
    fn difference(&self, case: &Case, wrapper: &Path) -> Option<String> {
        const BARE_RUNS: usize = 4;
        let wrapped = self.observe(case, Some(wrapper));
        let mut bare = self.observe(case, None);
        for _ in 1..BARE_RUNS {
            if bare == wrapped {
                return None;
            }
            let again = self.observe(case, None);
            if again == wrapped {
                return None;
            }
            if again == bare {
                break;
            }
            bare = again;
        }
        let mut report = format!("  {:?} {:?} {:?}", case.scene, case.argv, case.stdin);
        for (aspect, bare) in &bare {
            let wrapped = &wrapped[aspect];
            if bare != wrapped {
                write!(report, "\n{aspect}: bare {bare:?}\n    wrapped {wrapped:?}").unwrap();
            }
        }
        Some(report)
    }

    /// Sets the scene, runs the command, examines the result, clears everything away.
    fn observe(&self, case: &Case, wrapper: Option<&Path>) -> Seen {
        let left = self.scratch.clear();
        assert!(left.is_empty(), "left behind: {left:?}");
        let work = self.work();
        let _ = std::fs::remove_dir_all(&work);
        std::fs::create_dir(&work).unwrap();
        std::fs::write(work.join("resources.json"), RESOURCES).unwrap();
        std::fs::write(work.join("process.json"), PROCESS).unwrap();
        self.set(case.scene, wrapper.map(|_| frostlock()));

        let mut known = self.init_pids();
        let mut command = self.command(case, wrapper);
        let (mut child, readers) = start(&mut command, self.streams, case.stdin);
        let status = testkit::wait(&mut child, Duration::from_secs(30));
        let status = status.unwrap_or_else(|| panic!("{command:?} hangs"));
        if case.kills {
            testkit::eventually(Duration::from_secs(5), "the init's end", || {
                self.state()["status"] == "stopped"
            });
        }
        known.extend(self.init_pids());
        let clean = |raw: &[u8]| normalised(raw, &known, case.noise);

        let mut seen = Seen::new();
        seen.insert("status", format!("{status:?}"));
        seen.insert("container", self.container());
        seen.insert("cgroups", self.cgroups());
        seen.insert("files", files(&work, &clean));
        // A container holds the pipes open for its whole life.
        let left = self.scratch.clear();
        assert!(left.is_empty(), "left behind: {left:?}");
        for (stream, reader) in readers {
            seen.insert(stream, clean(&reader.join().unwrap()));
        }
        seen
    }

    fn command(&self, case: &Case, wrapper: Option<&Path>) -> Command {
        let names_root = case.argv.iter().any(|word| word.contains("-root"));
        let root: &[&str] =
            if names_root || case.argv.is_empty() { &[] } else { &["--root", "@root"] };
        let words = root.iter().chain(case.argv).map(|word| self.word(word));
        let mut command = self.program(wrapper);
        command.args(words).current_dir(self.work());
        command
    }

    fn program(&self, wrapper: Option<&Path>) -> Command {
        let Some(wrapper) = wrapper else { return Command::new(&self.runtime.path) };
        let mut command = Command::new(wrapper);
        command
            .env("FROSTLOCK_RUNTIME", &self.runtime.path)
            .env("FROSTLOCK_STATE_DIR", self.scratch.state())
            .env("FROSTLOCK_CONFIG", "/dev/null");
        command
    }

    fn word(&self, word: &str) -> String {
        let Some((before, place)) = word.split_once('@') else { return word.to_owned() };
        let (place, after) = place
            .split_once('/')
            .map_or((place, ""), |(place, _)| (place, &word[before.len() + 1 + place.len()..]));
        let path = match place {
            "root" | "work" => self.scratch.path(place),
            bundle => self.scratch.path(&format!("bundle-{bundle}")),
        };
        format!("{before}{}{after}", path.display())
    }

    /// Each side makes its own container, so that the wrapper has records of it.
    fn set(&self, scene: Scene, wrapper: Option<PathBuf>) {
        let bundle = self.word(if scene == Stopped { "@true" } else { "@idle" });
        let create: &[&str] = &["create", "--bundle", &bundle, "c1"];
        let (start, pause): (&[&str], &[&str]) = (&["start", "c1"], &["pause", "c1"]);
        let steps = match scene {
            Nothing => vec![],
            Created => vec![create],
            Running | Stopped => vec![create, start],
            Paused => vec![create, start, pause],
        };
        for step in steps {
            let mut command = self.program(wrapper.as_deref());
            command.arg("--root").arg(self.scratch.root()).args(step).stdin(Stdio::null());
            testkit::succeed(&mut command);
            if step == start && scene != Stopped {
                self.await_the_program();
            }
        }
        let wanted = match scene {
            Nothing => return,
            Created => "created",
            Running => "running",
            Paused => "paused",
            Stopped => "stopped",
        };
        testkit::eventually(Duration::from_secs(5), wanted, || self.state()["status"] == wanted);
    }

    /// `start` may return, and `pause` may freeze, before the init has executed the container's
    /// program.
    fn await_the_program(&self) {
        let pid = self.state()["pid"].as_i64().expect("the init's pid");
        testkit::eventually(Duration::from_secs(5), "the program", || {
            std::fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"sleep\0")
        });
    }

    /// The container's state according to the bare runtime; null without one.
    fn state(&self) -> serde_json::Value {
        let said = testkit::run(self.scratch.bare(&self.runtime.path).args(["state", "c1"]));
        serde_json::from_slice(&said.stdout).unwrap_or_default()
    }

    fn container(&self) -> String {
        let state = self.state();
        let pid = state["pid"].as_i64().unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let alive = stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'));
        format!("{} alive={}", state["status"], pid > 0 && alive)
    }

    /// All processes in our cgroups: the inits, whose pids are searched for in the outputs.
    fn init_pids(&self) -> Vec<i32> {
        let mut all: Vec<i32> =
            cgroup_dirs(&self.scratch.cgroup).iter().flat_map(|dir| pids(dir)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The existing cgroups, their processes, and what an update changes.
    fn cgroups(&self) -> String {
        const FILES: [&str; 7] = [
            "freezer.state",
            "cgroup.freeze",
            "cpu.cfs_quota_us",
            "cpu.shares",
            "cpuset.cpus",
            "memory.limit_in_bytes",
            "pids.max",
        ];
        let mut lines = Vec::new();
        for dir in cgroup_dirs(&self.scratch.cgroup) {
            let mut line = format!("{}: {} processes", dir.display(), pids(&dir).len());
            for file in FILES {
                if let Ok(value) = std::fs::read_to_string(dir.join(file)) {
                    write!(line, ", {file} {}", value.trim()).unwrap();
                }
            }
            lines.push(line);
        }
        lines.sort();
        lines.join("\n")
    }
}

type Reader = std::thread::JoinHandle<Vec<u8>>;

fn pipe() -> (File, File) {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    (read.into(), write.into())
}

/// Starts it with stdin from a pipe, like a caller that feeds it.
fn start(
    command: &mut Command,
    streams: Streams,
    stdin: &str,
) -> (Child, Vec<(&'static str, Reader)>) {
    let (out, out_end) = pipe();
    let (err, err_end) = match streams {
        Streams::Two => {
            let (err, end) = pipe();
            (Some(err), end)
        }
        Streams::One => (None, out_end.try_clone().unwrap()),
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(out_end)
        .stderr(err_end)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // The command holds its ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut feed = child.stdin.take().unwrap();
    // A command that reads nothing has closed its end.
    let _ = feed.write_all(stdin.as_bytes());
    drop(feed);
    let read = |mut from: File| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).unwrap();
            bytes
        })
    };
    let mut readers = vec![("stdout", read(out))];
    readers.extend(err.map(|err| ("stderr", read(err))));
    (child, readers)
}

/// The names and contents of all files of a directory.
fn files(dir: &Path, clean: &dyn Fn(&[u8]) -> String) -> String {
    let mut lines: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let contents = std::fs::read(&path).unwrap_or_default();
            format!("{}: {}", path.display(), clean(&contents))
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

/// Without times, the pids of the container's processes, and the case's noise.
fn normalised(raw: &[u8], known_pids: &[i32], noise: Noise) -> String {
    // Byte for byte: invalid UTF-8 must keep its differences.
    let raw: String = raw.iter().map(|&byte| byte as char).collect();
    let mut clean = String::new();
    let mut rest = raw.as_str();
    while let Some(character) = rest.chars().next() {
        let in_word = clean.ends_with(|last: char| last.is_ascii_alphanumeric());
        if !in_word && character.is_ascii_digit() {
            if let Some(length) = timestamp(rest).or_else(|| clock(rest)) {
                clean.push_str("<TIME>");
                rest = &rest[length..];
                continue;
            }
            let is_digit = |c: char| match noise {
                Noise::Figures => c.is_ascii_hexdigit(),
                _ => c.is_ascii_digit(),
            };
            let digits = rest.find(|c| !is_digit(c)).unwrap_or(rest.len());
            let is_pid = rest[..digits].parse().is_ok_and(|number| known_pids.contains(&number));
            clean.push_str(match (is_pid, noise) {
                (_, Noise::Figures | Noise::DebugLines) => "<FIGURE>",
                (true, _) => "<PID>",
                (false, _) => &rest[..digits],
            });
            rest = &rest[digits..];
            continue;
        }
        clean.push(character);
        rest = &rest[character.len_utf8()..];
    }
    match noise {
        Noise::Table => {
            let narrow = |line: &str| {
                let is_number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
                let words = line.split_whitespace();
                let words = words.map(|word| if is_number(word) { "<FIGURE>" } else { word });
                words.collect::<Vec<_>>().join(" ")
            };
            clean.split('\n').map(narrow).collect::<Vec<_>>().join("\n")
        }
        Noise::DebugLines => {
            let kept = |line: &&str| !line.contains("level=debug") && !line.contains("\"debug\"");
            clean.split('\n').filter(kept).collect::<Vec<_>>().join("\n")
        }
        Noise::None | Noise::Figures => clean,
    }
}

/// The length of an RFC 3339 time at the start of `text`.
fn timestamp(text: &str) -> Option<usize> {
    let fixed = matching(text, "0000-00-00T00:00:00")?;
    let after = &text[fixed..];
    let fraction = after
        .strip_prefix('.')
        .map_or(0, |digits| 1 + digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len()));
    let zone = &after[fraction..];
    let zone = if zone.starts_with('Z') { 1 } else { matching(zone.get(1..)?, "00:00")? + 1 };
    Some(fixed + fraction + zone)
}

/// The length of `12:34` or `12:34:56` at the start of `text`, as ps writes them.
fn clock(text: &str) -> Option<usize> {
    matching(text, "00:00:00").or_else(|| matching(text, "00:00"))
}

/// The length of a pattern in which 0 stands for any digit.
fn matching(text: &str, form: &str) -> Option<usize> {
    let is_so = |(seen, wanted): (char, char)| {
        if wanted == '0' { seen.is_ascii_digit() } else { seen == wanted }
    };
    let alike = text.chars().zip(form.chars()).take_while(|&pair| is_so(pair)).count();
    (alike == form.len()).then_some(form.len())
}
