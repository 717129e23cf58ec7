//! Shared by the suites: the binary under test, the real runtimes, and a scratch place that cleans
//! up after itself, whatever happens.

// Each suite uses a part of it.
#![allow(
    clippy::print_stdout,
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub mod cpu;
pub mod load;
pub mod realtime;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

/// The wrapper: the static release build that `make test` names, else cargo's own.
pub fn frostlock() -> PathBuf {
    std::env::var_os("FROSTLOCK_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_frostlock")), PathBuf::from)
}

/// The binary to compare with the one under test, if one is named.
pub fn before() -> Option<PathBuf> {
    std::env::var_os("FROSTLOCK_BEFORE").map(PathBuf::from)
}

/// Whether the counts of `make proof` were requested, rather than the short ones.
pub fn proof() -> bool {
    std::env::var_os("FROSTLOCK_PROOF").is_some()
}

/// How much slower this machine is than usual, as an emulated one: waits are that much longer and
/// quotas that much larger. Ratios stay the same.
pub fn slowness() -> u32 {
    std::env::var("FROSTLOCK_TEST_SLOWNESS").map_or(1, |times| times.parse().unwrap())
}

/// A real runtime from `scripts/fetch-runtimes`.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub name: String,
    pub path: PathBuf,
    pub version: String,
}

impl Runtime {
    pub fn is_crun(&self) -> bool {
        self.name.starts_with("crun")
    }
}

pub fn lab() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lab")
}

/// All runtimes; a missing one is a failure, never a skip.
pub fn runtimes() -> Vec<Runtime> {
    let list = lab().join("runtimes");
    let text = std::fs::read_to_string(&list)
        .unwrap_or_else(|error| panic!("{}: {error}; run scripts/fetch-runtimes", list.display()));
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let mut next = || words.next().expect("name path version");
            Runtime { name: next(), path: next().into(), version: next() }
        })
        .collect()
}

pub fn runtime(name: &str) -> Runtime {
    let found = runtimes().into_iter().find(|runtime| runtime.name == name);
    found.unwrap_or_else(|| panic!("{name} is not in target/lab/runtimes"))
}

/// A directory, a state directory, and a cgroup name; on drop, containers in it are killed and
/// removed with their cgroups.
#[derive(Debug)]
pub struct Scratch {
    dir: tempfile::TempDir,
    pub cgroup: String,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

/// As scripts/make-bundle makes it. Made once: the script takes 60 ms, and some suites make
/// thousands.
fn configuration(scene: &str) -> Value {
    static MADE: Mutex<BTreeMap<String, Value>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(scene.to_owned()).or_insert_with(|| make_configuration(scene)).clone()
}

fn make_configuration(scene: &str) -> Value {
    let dir = tempfile::Builder::new().prefix("frostlock-").tempdir_in("/dev/shm").unwrap();
    let made = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/make-bundle"))
        .arg(scene)
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "make-bundle: {}", text(&made.stderr));
    serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap()
}

impl Scratch {
    pub fn new() -> Scratch {
        assert!(nix::unistd::geteuid().is_root(), "the kernel suites need root");
        default_signals();
        // On tmpfs, like /run.
        let dir = tempfile::Builder::new().prefix("frostlock-").tempdir_in("/dev/shm").unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/frostlock-test-{}-{number}", std::process::id());
        Scratch { dir, cgroup }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// A bundle of a scene in test-bundles/, in the cgroup `CGROUP/ID`.
    pub fn bundle(&self, scene: &str, id: &str) -> PathBuf {
        let bundle = self.path(&format!("bundle-{id}"));
        let mut config = configuration(scene);
        config["linux"]["cgroupsPath"] = format!("{}/{id}", self.cgroup).into();
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        bundle
    }

    pub fn edit(&self, bundle: &Path, change: impl FnOnce(&mut Value)) {
        let path = bundle.join("config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
    }

    /// The bare runtime, with our root.
    pub fn bare(&self, runtime: &Path) -> Command {
        let mut command = Command::new(runtime);
        command.arg("--root").arg(self.root()).stdin(Stdio::null());
        command
    }

    /// The same through the wrapper.
    pub fn wrapped(&self, runtime: &Path) -> Command {
        self.wrapped_by(&frostlock(), runtime)
    }

    pub fn wrapped_by(&self, binary: &Path, runtime: &Path) -> Command {
        let mut command = Command::new(binary);
        command
            .arg("--root")
            .arg(self.root())
            .env("FROSTLOCK_RUNTIME", runtime)
            .env("FROSTLOCK_STATE_DIR", self.state())
            .env("FROSTLOCK_CONFIG", "/dev/null")
            .stdin(Stdio::null());
        command
    }

    /// The records that can be parsed, as readers must do: a writer that finds another at work
    /// takes the other's line for a torn one and starts a new one, and a killed writer leaves a
    /// partial line.
    pub fn journal(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.state().join("journal.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub fn lock_files(&self) -> Vec<PathBuf> {
        let Ok(files) = std::fs::read_dir(self.state().join("locks")) else { return Vec::new() };
        files.flatten().map(|file| file.path()).collect()
    }
}

impl Scratch {
    /// Kills what runs in our cgroups, removes them, and removes the state of runtime and wrapper.
    /// Not through the runtime: `delete --force` returns 0 and leaves processes and cgroups behind
    /// in the very cases that are tested. Returns the directories that could not be removed.
    pub fn clear(&self) -> Vec<PathBuf> {
        let left = remove_cgroup(&self.cgroup);
        for dir in [self.root(), self.state()] {
            let _ = std::fs::remove_dir_all(dir);
        }
        left
    }
}

/// Kills what runs in a cgroup and removes it. Returns the directories that could not be removed.
pub fn remove_cgroup(cgroup: &str) -> Vec<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(20) * slowness();
    let mut left = cgroup_dirs(cgroup);
    while !left.is_empty() && Instant::now() < deadline {
        for dir in &left {
            kill_all(dir);
        }
        for dir in left.iter().rev() {
            let _ = std::fs::remove_dir(dir);
        }
        left = cgroup_dirs(cgroup);
        if !left.is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    left
}

/// In the background of a shell, or below nohup, a suite has some signals ignored, and so would its
/// children. Signals sent in the tests would do nothing, and from 1.2 on a race in runc decides
/// whether its container's process inherits an ignored SIGHUP.
fn default_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for which in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        // SAFETY: the default action is no handler of ours.
        #[allow(unsafe_code)]
        unsafe { signal(which, SigHandler::SigDfl) }.unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let left = self.clear();
        if !left.is_empty() && !std::thread::panicking() {
            panic!("cgroups left behind: {left:?}");
        }
    }
}

/// Kills every process of a cgroup, even if frozen or throttled.
fn kill_all(dir: &Path) {
    for (file, value) in [
        ("freezer.state", "THAWED"),
        ("cgroup.freeze", "0"),
        ("cpu.cfs_quota_us", "-1"),
        ("cpu.max", "max"),
    ] {
        if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(dir.join(file)) {
            let _ = std::io::Write::write_all(&mut file, value.as_bytes());
        }
    }
    for pid in pids(dir) {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

/// Every directory of a cgroup and below it, in all hierarchies, parents first.
pub fn cgroup_dirs(cgroup: &str) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    let mount = Path::new("/sys/fs/cgroup");
    // Under scripts/v2ns, this is the mountpoint of the only hierarchy.
    let hierarchies = std::fs::read_dir(mount).unwrap().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([mount.to_owned()]) {
        let top = hierarchy.join(cgroup.trim_start_matches('/'));
        if top.is_dir() {
            collect_dirs(&top, &mut dirs);
        }
    }
    dirs
}

fn collect_dirs(dir: &Path, into: &mut Vec<PathBuf>) {
    into.push(dir.to_owned());
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_dirs(&entry.path(), into);
        }
    }
}

pub fn pids(cgroup_dir: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(cgroup_dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Runs to the end; output goes to files, since a container that inherits a pipe would keep it
/// open.
pub fn run(command: &mut Command) -> Output {
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let status = command
        .stdout(out.try_clone().unwrap())
        .stderr(err.try_clone().unwrap())
        .status()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Output { status, stdout: contents(out), stderr: contents(err) }
}

/// The same, and it must succeed.
pub fn succeed(command: &mut Command) -> Output {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// Installs a script, written by another process. If this process had it open for writing, so would
/// a child that another thread forks, and until that child executes something, nobody can execute
/// the script (ETXTBSY).
pub fn program(path: &Path, text: &str) -> PathBuf {
    executable(path, text.as_bytes())
}

fn executable(path: &Path, content: &[u8]) -> PathBuf {
    let _ = std::fs::remove_file(path);
    let source = path.with_extension("text");
    std::fs::write(&source, content).unwrap();
    succeed(Command::new("install").arg("-m755").args([source.as_path(), path]));
    std::fs::remove_file(source).unwrap();
    path.to_owned()
}

/// Installs an executable, copied by another process. If this process had it open for writing, so
/// would a child that another test's thread forks, and until that child executes something, nobody
/// can execute the file (ETXTBSY).
pub fn install(program: impl AsRef<Path>, path: impl AsRef<Path>) {
    let mut install = Command::new("install");
    let status = install.arg("-m755").arg(program.as_ref()).arg(path.as_ref()).status();
    assert!(status.unwrap().success(), "{}", path.as_ref().display());
}

/// A static program, which a container without libraries can run. Compiled once, which takes half a
/// second.
pub fn compiled(path: &Path, source: &'static str) -> PathBuf {
    static MADE: Mutex<BTreeMap<&str, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    executable(path, made.entry(source).or_insert_with(|| compile(source)))
}

fn compile(source: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let [code, binary] = ["code.c", "binary"].map(|name| dir.path().join(name));
    std::fs::write(&code, source).unwrap();
    succeed(Command::new("gcc").args(["-O2", "-static", "-pthread", "-o"]).args([&binary, &code]));
    std::fs::read(binary).unwrap()
}

pub fn contents(mut file: std::fs::File) -> Vec<u8> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until something is so, at most `limit`.
pub fn eventually(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit * slowness();
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs an ignored test of the calling suite where only cgroup v2 is mounted, as crun needs it.
pub fn on_v2(test: &str) {
    assert!(nix::unistd::geteuid().is_root(), "the kernel suites need root");
    run_inside(&mut Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/v2ns")), test);
}

/// The same, in the environment that a command provides.
pub fn run_inside(where_to: &mut Command, test: &str) {
    let inner = where_to
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = text(&[inner.stdout, inner.stderr].concat());
    assert!(inner.status.success() && text.contains("1 passed"), "{text}");
    if proof() {
        print!("{text}");
    }
}

/// A process's exit status; a process that has not ended in time is killed, and the result is
/// `None`. Sleeps until then: a hundred waiters that look each millisecond are a load of their own.
pub fn wait(child: &mut std::process::Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + limit * slowness();
    let pid = rustix::process::Pid::from_child(child);
    // It cannot be reaped by anybody else.
    let end = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    while child.try_wait().unwrap().is_none() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        let mut ends = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut ends, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
    child.try_wait().unwrap()
}
