//! Containers of containerd and of plain runc, and the ways in which they go wrong.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::{install, repository, text};

const RUNC: &str = "runc-1.5.3";
const CRUN: &str = "crun-1.28";
const NAMESPACE: &str = "frostlock-test";
const SOON: Duration = Duration::from_secs(10);
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The path of a program in a list of the lab.
pub fn lab(list: &str, name: &str) -> PathBuf {
    let path = repository().join("target/lab").join(list);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.unwrap_or_else(|| panic!("no {name}")).split(' ').nth(1).unwrap().into()
}

pub fn cgroup() -> String {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("/frostlock-test-audit-{}-{number}", std::process::id())
}

/// Captures the output in files: processes that it leaves running may keep a pipe open.
pub fn run(command: &mut Command) -> Output {
    testkit::run(command.stdin(Stdio::null()))
}

pub fn report(output: &Output) -> (Value, i32) {
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}{}", text(&output.stdout), text(&output.stderr)));
    (report, output.status.code().unwrap_or(-1))
}

pub fn kill(pid: i32, signal: &str) {
    let signal: Signal = format!("SIG{signal}").parse().unwrap();
    nix::sys::signal::kill(Pid::from_raw(pid), signal).unwrap();
}

/// The letter of a process's state.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

pub fn pids(cgroup: &Path) -> Vec<i32> {
    let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    procs.lines().map(|line| line.parse().unwrap()).collect()
}

pub fn eventually(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn ends(child: &mut Child, limit: Duration) -> ExitStatus {
    let mut status = None;
    eventually(limit, "its end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap_or(ExitStatus::from_raw(-1))
}

pub fn parent(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    line.trim().parse().unwrap()
}

/// Kills a process without its parent noticing: the parent's SIGCHLD gets lost. The known defects
/// have the same effect: the process is gone, but its shim continues.
pub fn lose_exit(init: i32) -> Instant {
    let shim = parent(init);
    // Traced by a separate thread; when that ends, the shim is released.
    let killed = thread::spawn(move || swallow(shim, init)).join().unwrap();
    assert_eq!(state(init), Some('Z'), "the shim has taken note");
    killed
}

fn swallow(shim: i32, init: i32) -> Instant {
    let options = ptrace::Options::PTRACE_O_TRACECLONE;
    let mut traced = Vec::new();
    for task in fs::read_dir(format!("/proc/{shim}/task")).unwrap().flatten() {
        let thread = Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap());
        if ptrace::seize(thread, options).is_ok() {
            traced.push(thread);
        }
    }
    kill(init, "KILL");
    let killed = Instant::now();
    let (mut swallowed, mut quiet) = (false, killed);
    while !swallowed || quiet.elapsed() < Duration::from_millis(300) {
        assert!(killed.elapsed() < SOON, "no SIGCHLD");
        let mut idle = true;
        for thread in traced.clone() {
            let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
            let pass = match waitpid(thread, Some(flags)) {
                Ok(WaitStatus::Stopped(_, Signal::SIGCHLD)) => {
                    (swallowed, quiet) = (true, Instant::now());
                    None
                }
                Ok(WaitStatus::Stopped(_, signal)) => Some(signal),
                Ok(WaitStatus::PtraceEvent(_, _, event)) => {
                    let is_clone = event == ptrace::Event::PTRACE_EVENT_CLONE as i32;
                    if is_clone {
                        traced.push(Pid::from_raw(ptrace::getevent(thread).unwrap() as i32));
                    }
                    None
                }
                Ok(_) | Err(Errno::ECHILD) => continue,
                Err(error) => panic!("{error}"),
            };
            idle = false;
            let _ = ptrace::cont(thread, pass);
        }
        if idle {
            thread::sleep(Duration::from_millis(1));
        }
    }
    killed
}

fn audit(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frostctl"));
    command.arg("audit").args(words).env("FROSTLOCK_STATE_DIR", "/nonexistent");
    command
}

/// A containerd of our own.
pub struct Containerd {
    dir: tempfile::TempDir,
    cgroup: String,
    containerd: PathBuf,
}

impl Containerd {
    pub fn up(version: &str) -> Containerd {
        let dir = tempfile::Builder::new().prefix("frostlock-").tempdir_in("/dev/shm").unwrap();
        let containerd = lab("containerds", &format!("containerd-{version}"));
        let made = Containerd { dir, cgroup: cgroup(), containerd };
        let up = run(&mut made.script("up"));
        assert!(up.status.success(), "{}", text(&up.stderr));
        made
    }

    fn path(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        format!("{}:{path}:/usr/sbin:/sbin", self.containerd.parent().unwrap().display())
    }

    fn script(&self, action: &str) -> Command {
        let mut command = Command::new(repository().join("scripts/containerd"));
        command.arg(action).arg(self.place("c")).env("PATH", self.path());
        command
    }

    fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.place("c/containerd.sock")
    }

    pub fn pid(&self) -> i32 {
        fs::read_to_string(self.place("c/containerd.pid")).unwrap().trim().parse().unwrap()
    }

    /// Kills it, as if it crashed: its shims and containers stay.
    pub fn end(&self) {
        let pid = self.pid();
        kill(pid, "KILL");
        eventually(SOON, "its end", || matches!(state(pid), None | Some('Z')));
    }

    pub fn ctr_command(&self, words: &[&str]) -> Command {
        let mut ctr = Command::new(self.containerd.with_file_name("ctr"));
        ctr.arg("--address").arg(self.socket()).args(["--namespace", NAMESPACE]).args(words);
        ctr
    }

    pub fn ctr(&self, words: &[&str]) -> Output {
        run(&mut self.ctr_command(words))
    }

    pub fn run(&self, id: &str) {
        let mut ctr = self.ctr_command(&["run", "--detach", "--rootfs", "--read-only"]);
        ctr.args(["--env", "PATH=/bin", "--runc-binary"]).arg(lab("runtimes", RUNC));
        ctr.arg("--runc-root").arg(self.place("c/runc"));
        ctr.args(["--cgroup", &format!("{}/{id}", self.cgroup)]);
        // runc accepts no path that contains a symlink.
        let rootfs = repository().join("target/lab/rootfs").canonicalize().unwrap();
        ctr.arg(rootfs).args([id, "sleep", "1000"]);
        let ran = run(&mut ctr);
        assert!(ran.status.success(), "{}", text(&ran.stderr));
    }

    /// The container's status, according to containerd.
    pub fn status(&self, id: &str) -> String {
        let list = text(&self.ctr(&["task", "ls"]).stdout);
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
        line.and_then(|line| line.split_whitespace().last()).unwrap_or_default().to_owned()
    }

    pub fn freezer(&self, id: &str) -> PathBuf {
        PathBuf::from(format!("/sys/fs/cgroup/freezer{}/{id}", self.cgroup))
    }

    pub fn init_and_shim(&self, id: &str) -> (i32, i32) {
        let init = pids(&self.freezer(id))[0];
        (init, parent(init))
    }

    pub fn lose_exit(&self, id: &str) -> i32 {
        let (init, _) = self.init_and_shim(id);
        lose_exit(init);
        init
    }

    /// Returns when it was killed.
    pub fn lose_exit_at(&self, id: &str) -> Instant {
        lose_exit(self.init_and_shim(id).0)
    }

    pub fn audit_command(&self, words: &[&str]) -> Command {
        let mut command = audit(words);
        command.arg("--socket").arg(self.socket());
        command
    }

    pub fn audit(&self, words: &[&str]) -> (Value, i32) {
        report(&run(self.audit_command(words).arg("--json")))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let down = run(&mut self.script("down"));
        remove(&self.cgroup);
        assert!(down.status.success() || thread::panicking(), "{}", text(&down.stderr));
    }
}

/// Containers of plain runc or crun that share our pid namespace, so that a child outlives the
/// first process.
pub struct Plain {
    dir: tempfile::TempDir,
    cgroup: String,
    root: String,
    runtime: PathBuf,
    is_v2: bool,
}

impl Plain {
    pub fn runc(root: &str) -> Plain {
        Plain::new(root, RUNC, false)
    }

    /// On cgroup v2, since crun refuses a host with both versions.
    pub fn crun(root: &str) -> Plain {
        Plain::new(root, CRUN, true)
    }

    fn new(root: &str, runtime: &str, is_v2: bool) -> Plain {
        let dir = tempfile::Builder::new().prefix("frostlock-").tempdir_in("/dev/shm").unwrap();
        let (root, runtime) = (root.to_owned(), lab("runtimes", runtime));
        Plain { dir, cgroup: cgroup(), root, runtime, is_v2 }
    }

    fn program(&self, program: &Path) -> Command {
        if !self.is_v2 {
            return Command::new(program);
        }
        let mut command = Command::new(repository().join("scripts/v2ns"));
        command.arg(program);
        command
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join(&self.root)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.program(&self.runtime);
        command.arg("--root").arg(self.root()).args(words);
        command
    }

    pub fn run(&self, id: &str) {
        let bundle = self.dir.path().join(id);
        let mut make = Command::new(repository().join("scripts/make-bundle"));
        make.arg("idle").arg(&bundle).args(["--cgroup", &format!("{}/{id}", self.cgroup)]);
        assert!(run(&mut make).status.success());
        let file = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        config["process"]["args"] = ["sh", "-c", "sleep 1000 & sleep 1001; wait"].into();
        fs::write(&file, config.to_string()).unwrap();
        let ran = run(self.command(&["run", "--detach", "--bundle"]).arg(&bundle).arg(id));
        assert!(ran.status.success(), "{}", text(&ran.stderr));
        eventually(SOON, "three processes", || pids(&self.freezer(id)).len() == 3);
    }

    /// The directory that lists its processes.
    pub fn freezer(&self, id: &str) -> PathBuf {
        let top = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let v2 = top.into_iter().find(|top| Path::new(top).join("cgroup.controllers").exists());
        let top = v2.filter(|_| self.is_v2).unwrap_or("/sys/fs/cgroup/freezer");
        PathBuf::from(format!("{top}{}/{id}", self.cgroup))
    }

    /// A process with this name in its own mount namespace.
    pub fn elsewhere(&self, name: &str) -> Elsewhere {
        let program = self.dir.path().join(name);
        install("/bin/sleep", &program);
        let mut unshare = Command::new("unshare");
        let child = unshare.arg("--mount").arg(program).arg("1000").spawn().unwrap();
        let comm = format!("/proc/{}/comm", child.id());
        let elsewhere = Elsewhere(child);
        eventually(SOON, name, || fs::read_to_string(&comm).is_ok_and(|it| it.trim_end() == name));
        elsewhere
    }

    /// Where systemd has its own v1 hierarchy.
    pub fn in_systemds_hierarchy(&self, id: &str) -> PathBuf {
        PathBuf::from(format!("/sys/fs/cgroup/systemd{}/{id}", self.cgroup))
    }

    fn state(&self, id: &str) -> Value {
        serde_json::from_slice(&run(&mut self.command(&["state", id])).stdout).unwrap()
    }

    pub fn init(&self, id: &str) -> i32 {
        self.state(id)["pid"].as_i64().unwrap() as i32
    }

    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap().to_owned()
    }

    pub fn audit(&self, words: &[&str]) -> (Value, i32) {
        let path = self.runtime.parent().unwrap();
        let path = format!("{}:{}", path.display(), std::env::var("PATH").unwrap());
        let mut command = self.program(Path::new(env!("CARGO_BIN_EXE_frostctl")));
        command.args(["audit", "--json", "--root"]).arg(self.root()).args(words);
        command.env("FROSTLOCK_STATE_DIR", "/nonexistent").env("PATH", path);
        report(&run(&mut command))
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        remove(&self.cgroup);
    }
}

pub struct Elsewhere(Child);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Removes the cgroup with everything in it.
fn remove(cgroup: &str) {
    let deadline = Instant::now() + SOON;
    loop {
        let mut left = Vec::new();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let top = hierarchy.path().join(cgroup.trim_start_matches('/'));
            let below = fs::read_dir(&top).into_iter().flatten().flatten().map(|it| it.path());
            left.extend(
                below.filter(|path| path.is_dir()).chain(top.is_dir().then(|| top.clone())),
            );
        }
        if left.is_empty() || Instant::now() > deadline {
            assert!(left.is_empty() || thread::panicking(), "{left:?}");
            return;
        }
        for dir in left {
            let _ = fs::write(dir.join("freezer.state"), "THAWED");
            for pid in pids(&dir) {
                let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = fs::remove_dir(&dir);
        }
        thread::sleep(Duration::from_millis(5));
    }
}
