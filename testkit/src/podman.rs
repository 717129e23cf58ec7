//! podman at its usual paths, which are in its own mount namespace: nothing of this machine is seen
//! or changed. Needs root and the lab (`make lab`).

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::command::{self, text};
use crate::runtime::lab;

/// Far longer than any command here takes.
const LIMIT: &str = "60";
const SOON: Duration = Duration::from_secs(10);

/// /dev/shm has podman's locks. Nothing in the namespace outlives its standard input.
const SET_UP: &str = r#"
    mount -t tmpfs none /run && mount -t tmpfs none /dev/shm && mount -t tmpfs none /var/lib &&
    cp -a /etc/containers /run/etc && rm -rf /run/etc/containers.conf* &&
    printf '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n' >/run/etc/storage.conf &&
    printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n' >/run/etc/containers.conf &&
    mount --bind /run/etc /etc/containers && cp -a "$1" /run/rootfs && echo ready && exec cat"#;

static COUNT: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
pub struct Podman {
    /// Keeps the namespace alive.
    namespace: Child,
    cgroup: String,
}

impl Podman {
    pub fn up() -> Podman {
        let rootfs = lab().join("rootfs");
        let mut namespace = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", SET_UP, "sh"])
            .arg(rootfs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let output = namespace.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/frostlock-test-podman-{}-{number}", std::process::id());
        Podman { namespace, cgroup }
    }

    /// With the environment that root has after a login.
    pub fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after", "5", LIMIT, "nsenter"]);
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.namespace.id())).arg(program);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// A path in the namespace, as we reach it.
    pub fn path(&self, theirs: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{theirs}", self.namespace.id()))
    }

    pub fn does(&self, words: &[&str]) -> Output {
        run(self.inside("podman").args(words))
    }

    #[track_caller]
    pub fn says(&self, words: &[&str]) -> String {
        let output = self.does(words);
        assert!(output.status.success(), "podman {words:?}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    /// `run --detach` with these options; returns podman's output.
    pub fn try_run(&self, name: &str, options: &[&str], command: &[&str]) -> Output {
        let mut podman = self.inside("podman");
        podman.args(["run", "--detach", "--network", "none", "--name", name]);
        podman.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        podman.args(["--cgroup-parent", &self.cgroup]).args(options);
        run(podman.args(["--rootfs", "/run/rootfs"]).args(command))
    }

    /// The id of a running container.
    #[track_caller]
    pub fn run(&self, name: &str, options: &[&str]) -> String {
        let output = self.try_run(name, options, &["sleep", "1000"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let removed = self.does(&["rm", "--force", "--all", "--time", "0"]);
        drop(self.namespace.stdin.take());
        let _ = self.namespace.wait();
        let left = remove(&self.cgroup);
        if !std::thread::panicking() {
            assert!(removed.status.success(), "{}", text(&removed.stderr));
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

/// Removes the cgroup with everything in it; returns what is still there.
fn remove(cgroup: &str) -> Vec<PathBuf> {
    let deadline = Instant::now() + SOON;
    loop {
        let mut left = Vec::new();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let top = hierarchy.path().join(cgroup.trim_start_matches('/'));
            let below = std::fs::read_dir(&top).into_iter().flatten().flatten();
            left.extend(below.map(|it| it.path()).filter(|path| path.is_dir()));
            left.extend(top.is_dir().then_some(top));
        }
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        for dir in &left {
            let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            for pid in procs.lines() {
                let _ = Command::new("kill").args(["-KILL", pid]).status();
            }
            let _ = std::fs::remove_dir(dir);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Captures the output in files: conmon would keep a pipe open.
pub fn run(command: &mut Command) -> Output {
    command::run(command.stdin(Stdio::null()))
}
