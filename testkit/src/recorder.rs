//! A containerd of our own whose containers run through the wrapper, with a long journal and the
//! recorder. Needs root and the lab (`make lab`).

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::text;
use crate::programs::{frostctl, frostlock, repository};
use crate::runtime::runtime;

const NAMESPACE: &str = "frostlock-test";
/// On a working machine, however busy, nothing here takes longer.
pub const SOON: Duration = Duration::from_secs(20);

#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

static COUNT: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
pub struct Lab {
    dir: tempfile::TempDir,
    cgroup: String,
    recorder: Option<Child>,
}

impl Lab {
    /// The recorder starts first, so that it must wait for containerd.
    pub fn up() -> Lab {
        // On tmpfs, like /run.
        let dir = tempfile::Builder::new().prefix("frostlock-").tempdir_in("/dev/shm").unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/frostlock-test-{}-{number}", std::process::id());
        let mut lab = Lab { dir, cgroup, recorder: None };
        let config = format!("[history]\ndirectory = '{}'\n", lab.history().display());
        std::fs::write(lab.path("config.toml"), config).unwrap();
        std::fs::create_dir(lab.exits()).unwrap();
        lab.record();
        let up = lab.containerd("up").output().unwrap();
        assert!(up.status.success(), "{}", text(&up.stderr));
        eventually("the recorder has found containerd", || lab.recorder_says("listening to"));
        lab
    }

    fn recorder_says(&self, what: &str) -> bool {
        std::fs::read_to_string(self.path("record.log")).is_ok_and(|log| log.contains(what))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn history(&self) -> PathBuf {
        self.path("history")
    }

    /// Where conmon would write exit codes.
    pub fn exits(&self) -> PathBuf {
        self.path("exits")
    }

    fn socket(&self) -> PathBuf {
        self.path("c/containerd.sock")
    }

    fn with_env<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("FROSTLOCK_RUNTIME", runtime("runc-1.1.15").path)
            .env("FROSTLOCK_STATE_DIR", self.path("state"))
            .env("FROSTLOCK_CONFIG", self.path("config.toml"))
            .stdin(Stdio::null())
    }

    fn containerd(&self, action: &str) -> Command {
        let mut command = Command::new(repository().join("scripts/containerd"));
        command.arg(action).arg(self.path("c"));
        self.with_env(&mut command);
        command
    }

    /// Kills the daemon and starts it again with the existing state; containers stay.
    pub fn restart_containerd(&self) {
        let pid_file = self.path("c/containerd.pid");
        let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        let status = Command::new("kill").args(["-s", "KILL", &pid.to_string()]).status().unwrap();
        assert!(status.success());
        eventually("containerd is gone", || !self.ctr(&["version"]).status.success());
        let log =
            std::fs::File::options().append(true).open(self.path("c/containerd.log")).unwrap();
        let mut daemon = Command::new("setsid");
        daemon.arg("containerd").arg("--config").arg(self.path("c/config.toml"));
        let daemon =
            self.with_env(&mut daemon).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        std::fs::write(pid_file, daemon.unwrap().id().to_string()).unwrap();
        eventually("containerd is back", || self.ctr(&["version"]).status.success());
    }

    pub fn record(&mut self) {
        let mut recorder = self.command(&["record"]);
        recorder.arg("--containerd").arg(self.socket()).arg("--conmon-exits").arg(self.exits());
        let log = std::fs::File::create(self.path("record.log")).unwrap();
        self.recorder = Some(recorder.stderr(log).spawn().unwrap());
    }

    pub fn stop_recorder(&mut self) {
        if let Some(mut recorder) = self.recorder.take() {
            recorder.kill().unwrap();
            recorder.wait().unwrap();
        }
    }

    /// `frostctl` for this node.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(frostctl());
        self.with_env(command.args(args));
        command
    }

    pub fn frostctl(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub fn report(&self) -> Value {
        serde_json::from_str(&self.frostctl(&["report", "--json"])).unwrap()
    }

    /// The records of the long journal.
    pub fn records(&self) -> Vec<Value> {
        let text =
            std::fs::read_to_string(self.history().join("history.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until the carrier has moved the wrappers' records there.
    pub fn carried(&self) {
        let short = std::fs::read_to_string(self.path("state/journal.jsonl")).unwrap();
        let last = short.lines().last().unwrap().to_owned();
        eventually("the last record is in the long journal", || {
            let long = std::fs::read_to_string(self.history().join("history.jsonl"));
            long.unwrap_or_default().lines().any(|line| line == last)
        });
    }

    /// The recorded exit of an exec, or with an empty `exec` of a container.
    pub fn recorded_exit(&self, id: &str, exec: &str) -> Option<i64> {
        let records = self.records();
        let mut exits =
            records.iter().filter(|record| record["verb"] == "exit" && record["id"] == id);
        let of_it = exits.find(|record| record["exec_id"].as_str().unwrap_or_default() == exec);
        of_it?["exit"]["code"].as_i64()
    }

    pub fn ctr(&self, args: &[&str]) -> Output {
        let mut ctr = Command::new("ctr");
        ctr.args(["--connect-timeout", "2s", "--namespace", NAMESPACE, "--address"]);
        ctr.arg(self.socket()).args(args).stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    fn must(&self, args: &[&str]) {
        let output = self.ctr(args);
        assert!(output.status.success(), "ctr {args:?}: {}", text(&output.stderr));
    }

    /// A container of a pod, with annotations as CRI sets them. Detached, and without descriptors
    /// of ours, which it would keep open.
    pub fn run(&self, pod: &str, id: &str, memory: Option<u64>, script: &str) {
        let cgroup = format!("{}/{id}", self.cgroup);
        let (frostlock, runc_root) = (frostlock(), self.path("c/runc"));
        let rootfs = repository().join("target/lab/rootfs");
        let annotations = [
            format!("io.kubernetes.cri.sandbox-name={pod}"),
            "io.kubernetes.cri.sandbox-namespace=default".to_owned(),
            format!("io.kubernetes.cri.sandbox-uid=uid-{pod}"),
            "io.kubernetes.cri.container-name=main".to_owned(),
        ];
        let memory = memory.map(|bytes| bytes.to_string());
        let mut args = vec!["run", "--detach", "--null-io", "--rootfs", "--read-only"];
        args.extend(["--env", "PATH=/bin", "--runc-binary", frostlock.to_str().unwrap()]);
        args.extend(["--runc-root", runc_root.to_str().unwrap(), "--cgroup", &cgroup]);
        annotations.iter().for_each(|annotation| args.extend(["--annotation", annotation]));
        memory.iter().for_each(|bytes| args.extend(["--memory-limit", bytes]));
        args.extend([rootfs.to_str().unwrap(), id, "sh", "-c", script]);
        self.must(&args);
    }

    /// Like kubelet's exec probe: whether its command ended with 0.
    pub fn probe(&self, id: &str, exec: &str) -> bool {
        let command = ["task", "exec", "--exec-id", exec, id, "test", "-e", "/dev/shm/ready"];
        self.ctr(&command).status.success()
    }

    pub fn kill(&self, id: &str, signal: &str) {
        self.must(&["task", "kill", "--signal", signal, id]);
    }

    fn has_ended(&self, id: &str) -> bool {
        let list = text(&self.ctr(&["task", "ls"]).stdout);
        list.lines().any(|line| line.starts_with(&format!("{id} ")) && line.contains("STOPPED"))
    }

    pub fn remove(&self, id: &str) {
        eventually("it has ended", || self.has_ended(id));
        // A status of 1 or more is the container's own.
        self.ctr(&["task", "delete", id]);
        self.must(&["container", "delete", id]);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop_recorder();
        let down = self.containerd("down").output().unwrap();
        for controller in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = std::fs::remove_dir(controller.path().join(&self.cgroup[1..]));
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("record.log")).unwrap_or_default();
            println!("record: {log}");
        } else {
            assert!(down.status.success(), "{}", text(&down.stderr));
        }
    }
}
