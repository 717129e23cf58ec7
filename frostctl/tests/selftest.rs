//! `frostctl selftest` with real runtimes: its verdict on a node and on a broken wrapper, and that
//! nothing stays, however it ends. Where the kernel refuses lifts, scripts/with-realtime runs it,
//! as `make test` does with all suites.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::live::Ended;
use testkit::{frostctl, frostlock, repository, runtime};

/// As its help says.
const MINUTE: Duration = Duration::from_secs(60);

/// For a run that fails before it begins, and one that is told to end.
const SOON: Duration = Duration::from_secs(10);

/// Two at a time would disturb each other: on two CPUs, eight threads would spin.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn selftest(wrapper: &Path, runtime: &Path) -> Command {
    let mut command = Command::new(frostctl());
    command.args(["selftest", "--json", "--frostlock"]).arg(wrapper);
    command.arg("--runtime").arg(runtime).env("FROSTLOCK_CONFIG", "/dev/null");
    command
}

/// Everything in /run and in the tree that has the name of this process's selftest.
fn left_by(pid: u32) -> Vec<PathBuf> {
    let prefix = format!("frostlock-selftest-{pid}-");
    let tree = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|it| it.path());
    let places = tree.chain(["/run", "/sys/fs/cgroup"].map(PathBuf::from));
    let entries = places.filter_map(|it| std::fs::read_dir(it).ok()).flatten().flatten();
    let paths = entries.map(|it| it.path());
    paths.filter(|it| it.file_name().unwrap().to_string_lossy().starts_with(&prefix)).collect()
}

/// The container's processes, wherever they are.
fn spinning() -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|it| it.path());
    let lines = all.filter_map(|it| std::fs::read(it.join("cmdline")).ok());
    let lines = lines.map(|it| String::from_utf8_lossy(&it).replace('\0', " "));
    lines.filter(|it| it.starts_with("/frostlock-selftest ")).collect()
}

fn assert_nothing_left(pid: u32) {
    assert_eq!((left_by(pid), spinning()), (Vec::new(), Vec::new()));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("frostlock-selftest"), "{mounts}");
}

fn row<'a>(report: &'a Value, operation: &str) -> &'a Value {
    let rows = report["operations"].as_array().unwrap();
    rows.iter().find(|it| it["operation"] == operation).unwrap()
}

fn works(name: &str) {
    let _one = one_at_a_time();
    let ended = Ended::of(&mut selftest(&frostlock(), &runtime(name).path));
    assert_nothing_left(ended.pid);
    assert!(ended.took < MINUTE, "{:?}", ended.took);
    let report = ended.json();
    assert_eq!(
        (ended.code, &report["verdict"]),
        (Some(0), &"works".into()),
        "{}: {report:#}",
        report["says"]
    );
    assert_eq!(report["throttled"], report["containers"], "{report:#}");
    for operation in ["create", "start", "exec", "update", "pause", "resume", "kill", "delete"] {
        let row = row(&report, operation);
        assert_eq!(row["frostlock"]["failed"], 0, "{row:#}");
        assert_eq!(row["frostlock"]["runs"], report["rounds"], "{row:#}");
    }
    // A bare probe with 1 ms of CPU in 100 ms, beside four threads, is not done within a second.
    let exec = row(&report, "exec");
    assert!(exec["frostlock"]["median_ms"].as_f64().unwrap() < 1000.0, "{exec:#}");
    assert!(["cured", "faster"].contains(&exec["effect"]["is"].as_str().unwrap()), "{exec:#}");
    // Without a terminal, it prints nothing but the result.
    assert_eq!(ended.stderr, "");
}

#[test]
fn it_works_with_runc_1_3() {
    works("runc-1.5.3");
}

#[test]
#[ignore = "takes 15 s, runs in make proof SUITES=selftest"]
fn it_works_with_runc_1_1() {
    works("runc-1.1.15");
}

/// A wrapper that does this for one verb, and is frostlock for all others.
fn broken(directory: &Path, verb: &str, what: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join("broken");
    let frostlock = frostlock();
    let text = format!(
        "#!/bin/sh\nfor word; do [ \"$word\" != {verb} ] || {{ {what}; break; }}; done\nexec {} \"$@\"\n",
        frostlock.display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The exit status and the report for a wrapper that is broken this way.
fn found_out(verb: &str, what: &str) -> (Option<i32>, Value) {
    let _one = one_at_a_time();
    let scratch = tempfile::tempdir().unwrap();
    let wrapper = broken(scratch.path(), verb, what);
    let ended = Ended::of(&mut selftest(&wrapper, &runtime("runc-1.5.3").path));
    assert_nothing_left(ended.pid);
    assert!(ended.took < MINUTE, "{:?}", ended.took);
    (ended.code, ended.json())
}

#[test]
fn a_wrapper_that_cannot_pause_is_found_out() {
    let (code, report) = found_out("pause", "echo 'no pause today' >&2; exit 1");
    assert_eq!((code, &report["verdict"]), (Some(2), &"does_not_work".into()), "{report:#}");
    let pause = row(&report, "pause");
    assert_eq!(pause["frostlock"]["failed"], report["rounds"], "{pause:#}");
    assert_eq!(pause["frostlock"]["error"], "no pause today");
    let says = report["says"].as_str().unwrap();
    assert!(says.starts_with("does not work: pause fails"), "{says}");
}

#[test]
#[ignore = "takes 15 s, runs in make proof SUITES=selftest"]
fn a_wrapper_that_leaves_containers_is_found_out() {
    let (code, report) = found_out("delete", "exit 0");
    assert_eq!(code, Some(2), "{report:#}");
    let delete = row(&report, "delete");
    assert_eq!(delete["frostlock"]["over_limit"], report["rounds"], "{delete:#}");
    let says = report["says"].as_str().unwrap();
    assert_eq!(says, "does not work: delete is slower through frostlock");
}

#[test]
#[ignore = "takes 15 s, runs in make proof SUITES=selftest"]
fn a_wrapper_that_is_slow_is_found_out() {
    let (code, report) = found_out("start", "sleep 1");
    assert_eq!(code, Some(2), "{report:#}");
    let says = report["says"].as_str().unwrap();
    assert_eq!(says, "does not work: start is slower through frostlock");
}

#[test]
fn a_refused_lift_is_told_as_the_record_has_it() {
    let _one = one_at_a_time();
    let inner = selftest(&frostlock(), &runtime("runc-1.5.3").path);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_nice", "--inh-caps", "-sys_nice"]);
    command.arg(inner.get_program()).args(inner.get_args()).env("FROSTLOCK_CONFIG", "/dev/null");
    let ended = Ended::of(&mut command);
    assert_nothing_left(ended.pid);
    assert!(ended.took < MINUTE, "{:?}", ended.took);
    let report = ended.json();
    assert_eq!(report["lift_refused"], "CAP_SYS_NICE", "{report:#}");
    // Not "does not work": without a lift, it is the same as bare.
    assert_eq!(report["verdict"], "not_shown", "{report:#}");
    assert_eq!(ended.code, Some(1), "{report:#}");
}

/// A running selftest, with a container in its cgroup.
struct Begun(Child);

impl Begun {
    fn new() -> Begun {
        let mut command = selftest(&frostlock(), &runtime("runc-1.5.3").path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let begun = Begun(command.spawn().unwrap());
        let since = Instant::now();
        while spinning().is_empty() {
            assert!(since.elapsed() < SOON, "no container within {SOON:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        begun
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// How it ends on this signal: the exit status and its output.
    fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        let since = Instant::now();
        kill(Pid::from_raw(self.pid() as i32), signal).unwrap();
        while self.0.try_wait().unwrap().is_none() {
            assert!(since.elapsed() < SOON, "{signal}: it has not ended within {SOON:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.0.stderr.take().unwrap(), &mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    let _one = one_at_a_time();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let begun = Begun::new();
        let pid = begun.pid();
        let said = format!("frostctl: interrupted by {signal}\n");
        assert_eq!(begun.end(signal), (Some(3), said));
        assert_nothing_left(pid);
    }
}

#[test]
fn what_a_killed_one_left_is_removed_by_the_next() {
    let _one = one_at_a_time();
    let begun = Begun::new();
    let pid = begun.pid();
    assert_eq!(begun.end(Signal::SIGKILL).0, None);
    assert!(!left_by(pid).is_empty() && !spinning().is_empty());
    // This run does no more than that, since its runtime fails.
    let ended = Ended::of(&mut selftest(&frostlock(), Path::new("/bin/false")));
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("left by a killed selftest"), "{}", ended.stderr);
    assert_nothing_left(pid);
    assert_nothing_left(ended.pid);
}

#[test]
fn what_it_cannot_use_is_one_line_and_status_3() {
    let _one = one_at_a_time();
    let runc = runtime("runc-1.5.3").path;
    let cases = [
        (
            selftest(&frostlock(), Path::new("/no/such/runc")),
            "/no/such/runc is not an executable program",
        ),
        (selftest(Path::new("/etc/passwd"), &runc), "/etc/passwd is not an executable program"),
        (selftest(&frostlock(), Path::new("/bin/false")), "/bin/false makes no container here"),
        (through_cri_here(), "no containerd runs here"),
        (without_root(&runc), "selftest needs root"),
        (without_proc(&runc), "cannot read /proc/self/mountinfo"),
    ];
    for (mut command, expected) in cases {
        let ended = Ended::of(&mut command);
        assert_eq!(ended.code, Some(3), "{command:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{expected}: {}", ended.stderr);
        assert_eq!((ended.stderr.lines().count(), &*ended.stdout), (1, ""), "{}", ended.stderr);
        assert!(ended.took < SOON, "{command:?}: {:?}", ended.took);
        assert_nothing_left(ended.pid);
    }
}

fn through_cri_here() -> Command {
    // The containerds of other tests must not be visible.
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", frostctl(), "selftest", "--cri"]);
    command
}

fn without_root(runc: &Path) -> Command {
    let inner = selftest(&frostlock(), runc);
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command
}

fn without_proc(runc: &Path) -> Command {
    let inner = selftest(&frostlock(), runc);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command
}

/// On a terminal with 40 columns it shows its progress after 2 s, and clears it.
#[test]
#[ignore = "takes 15 s, runs in make proof SUITES=selftest"]
fn a_terminal_is_shown_how_far_it_is() {
    let _one = one_at_a_time();
    let inner = selftest(&frostlock(), &runtime("runc-1.5.3").path);
    let words: Vec<_> = inner.get_args().map(|it| it.to_string_lossy().into_owned()).collect();
    let inner = format!("stty cols 40; {} {}", frostctl(), words.join(" "));
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &inner, "/dev/null"]).env("FROSTLOCK_CONFIG", "/dev/null");
    let ended = Ended::of(&mut command);
    let shown: Vec<&str> = ended.stdout.split("\r\u{1b}[K").collect();
    assert!(shown.len() > 5 && shown[1].starts_with("selftest: round 1 of 3, "), "{shown:?}");
    assert!(shown[1..shown.len() - 1].iter().all(|it| it.chars().count() < 40), "{shown:?}");
    let report: Value = serde_json::from_str(shown[shown.len() - 1]).unwrap();
    assert_eq!((ended.code, &report["verdict"]), (Some(0), &"works".into()));
}

/// A node with systemd, which makes the cgroups; it ends with this value, or with our process.
struct Node(tempfile::TempDir);

impl Node {
    fn up() -> Node {
        Node::with(&["--containerd", "none"])
    }

    fn with(containerd: &[&str]) -> Node {
        let dir = tempfile::Builder::new().prefix("frostlock-node-").tempdir_in("/dev/shm");
        let node = Node(dir.unwrap());
        let owner = std::process::id().to_string();
        let binary = frostlock();
        let show = ["--show", binary.to_str().unwrap()];
        let up = ["up", "--owner", &owner];
        let up = node.script(&[&up[..], containerd, &show].concat());
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        node
    }

    fn script(&self, words: &[&str]) -> Output {
        let mut command = Command::new(repository().join("scripts/node"));
        command.env("FROSTLOCK_NODE", self.0.path().join("node")).args(words);
        // Files: the node outlives the script, and keeps inherited descriptors open.
        let [out, err] = ["out", "err"].map(|name| self.0.path().join(name));
        let open = |path: &Path| std::fs::File::create(path).unwrap();
        let status =
            command.stdin(Stdio::null()).stdout(open(&out)).stderr(open(&err)).status().unwrap();
        let [stdout, stderr] = [out, err].map(|path| std::fs::read(path).unwrap());
        Output { status, stdout, stderr }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let ended = self.script(&["down"]);
        assert!(ended.status.success() || std::thread::panicking(), "node down: {ended:?}");
    }
}

#[test]
fn systemd_makes_the_cgroups_where_it_runs() {
    let _one = one_at_a_time();
    let node = Node::up();
    let inner = selftest(&frostlock(), &runtime("runc-1.1.15").path);
    let args = inner.get_args().map(|it| it.to_str().unwrap());
    let ended = node.script(&["exec", frostctl()].into_iter().chain(args).collect::<Vec<_>>());
    let report: Value = serde_json::from_slice(&ended.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&ended.stderr)));
    assert_eq!(report["cgroup_driver"], "systemd", "{report:#}");
    assert_eq!(
        (ended.status.code(), &report["verdict"]),
        (Some(0), &"works".into()),
        "{}: {report:#}",
        report["says"]
    );
    let left = [
        "exec",
        "sh",
        "-c",
        "ls -d /run/frostlock-selftest* /run/systemd/transient/frostlock-selftest*; find /sys/fs/cgroup -name 'frostlock-selftest*'",
    ];
    assert_eq!(String::from_utf8_lossy(&node.script(&left).stdout), "");
}

/// With a containerd that has frostlock as a handler.
fn configured(containerd: &str) -> Node {
    let node = Node::with(&["--containerd", containerd, "--runtime", "runc-1.5.3"]);
    let programs = repository().join("target/lab").canonicalize().unwrap();
    let path = format!(
        "PATH={}/containerd-{containerd}:/usr/sbin:/usr/bin:/sbin:/bin",
        programs.display()
    );
    let binary = frostlock();
    let words = ["exec", "env", &path, frostctl(), "configure", "--runtime", "containerd"];
    let more = ["--binary", binary.to_str().unwrap(), "--restart"];
    let output = node.script(&[&words[..], &more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    node
}

impl Node {
    fn client(&self) -> frostlock_cri::Client {
        frostlock_cri::Client::connect(&self.0.path().join("node/run/containerd.sock")).unwrap()
    }

    #[track_caller]
    fn has_nothing_left(&self) {
        let pods = self.client().list_pod_sandboxes().unwrap();
        assert!(pods.is_empty(), "{pods:?}");
        let find = "find /sys/fs/cgroup -name 'frostlock*selftest*'; \
                    systemctl list-units --plain --no-legend 'frostlock*selftest*'; ls /run | grep selftest";
        let left = self.script(&["exec", "sh", "-c", find]);
        assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    }
}

fn through_cri(containerd: &str) {
    let _one = one_at_a_time();
    let node = configured(containerd);
    let began = Instant::now();
    let ended = node.script(&["exec", frostctl(), "selftest", "--cri", "--json"]);
    assert!(began.elapsed() < MINUTE, "{:?}", began.elapsed());
    let report: Value = serde_json::from_slice(&ended.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&ended.stderr)));
    println!("{report:#}");
    assert_eq!(
        (ended.status.code(), &report["verdict"]),
        (Some(0), &"works".into()),
        "{}: {report:#}",
        report["says"]
    );
    assert_eq!(report["cri"]["bare"], "runc", "{report:#}");
    assert_eq!(report["cri"]["frostlock"], "frostlock", "{report:#}");
    for operation in ["sandbox", "create", "start", "exec", "update", "kill", "delete", "teardown"]
    {
        let row = row(&report, operation);
        assert_eq!(row["frostlock"]["failed"], 0, "{row:#}");
    }
    node.has_nothing_left();
}

#[test]
#[ignore = "takes a minute, runs in make proof SUITES=selftest"]
fn pods_of_containerd_2_are_compared() {
    through_cri("2.1.9");
}

#[test]
#[ignore = "takes a minute, runs in make proof SUITES=selftest"]
fn pods_of_containerd_1_are_compared() {
    through_cri("1.7.24");
}

/// A missing prerequisite is one line, too.
#[test]
fn a_signal_ends_its_pods_too() {
    let _one = one_at_a_time();
    let node = configured("2.1.9");
    let ended = node.script(&["exec", frostctl(), "selftest", "--cri", "--image", "no/such:1"]);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(3), "{said}");
    assert!(said.contains("the image no/such:1 is not on this node"), "{said}");
    // During a round.
    let words = ["exec", "timeout", "--preserve-status", "--signal=INT", "5"];
    let ended = node.script(&[&words[..], &[frostctl(), "selftest", "--cri"]].concat());
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(
        (ended.status.code(), said.as_str()),
        (Some(3), "frostctl: interrupted by SIGINT\n")
    );
    node.has_nothing_left();
}

/// As after a runtime whose freeze failed: frozen processes do not end when containerd says so.
#[test]
fn a_pod_that_somebody_freezes_goes_and_the_others_are_measured() {
    let _one = one_at_a_time();
    let node = configured("2.1.9");
    let prefix = std::fs::read_to_string(node.0.path().join("node/prefix")).unwrap();
    let freezer = PathBuf::from(format!("/sys/fs/cgroup/freezer{}", prefix.trim()));
    // A sandbox and its container.
    let has_both = |pod: &Path| {
        let scopes = std::fs::read_dir(pod).into_iter().flatten().flatten();
        scopes.filter(|it| it.path().extension().is_some_and(|it| it == "scope")).count() == 2
    };
    let freeze_one = || {
        let began = Instant::now();
        while began.elapsed() < MINUTE {
            let pods = std::fs::read_dir(&freezer).unwrap().flatten().map(|it| it.path());
            let mut pods = pods.filter(|it| it.to_string_lossy().contains("frostlock_selftest_"));
            if let Some(pod) = pods.find(|it| has_both(it)) {
                std::fs::write(pod.join("freezer.state"), "FROZEN").unwrap();
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    };
    let (was_frozen, ended) = std::thread::scope(|scope| {
        let freezes = scope.spawn(freeze_one);
        let ended = node.script(&["exec", frostctl(), "selftest", "--cri"]);
        (freezes.join().unwrap(), ended)
    });
    assert!(was_frozen);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(matches!(ended.status.code(), Some(0..=2)), "{said}");
    node.has_nothing_left();
}
