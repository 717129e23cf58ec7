//! The hooks as they are shipped, in real podman and containerd.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Runtime, Scratch, eventually, frostlock, run, runtime, succeed, text, wait};

use crate::{Freezer, SOON, alone, hook_records, ms};

/// As in tests/transparent/podman.rs: the namespace's own /run and /dev/shm, and the wanted runc
/// over Debian's. `hooks/` is copied to /run/hooks, with the path of the tested binary.
const SET_UP: &str = r##"
    mount -t tmpfs none /run && mount -t tmpfs none /dev/shm && mount --bind "$1" /usr/sbin/runc &&
    cp -a "$2" /run/rootfs && mkdir /run/podman /run/no-hooks && cp -a "$3" /run/hooks &&
    sed -i "s#/usr/local/bin/frostlock#$4#" /run/hooks/*/*.json && : >/run/conf &&
    mkdir -p /run/strict /run/frostlock && chmod 700 /run/frostlock &&
    sed 's#"hook", #"hook", "--strict", #; s#"path"#"env": ["FROSTLOCK_CONFIG=/run/short"], "path"#' \
        /run/hooks/podman/frostlock-precreate.json >/run/strict/frostlock-precreate.json &&
    printf '[hook]\nwait_ms = 500\n' >/run/short && echo ready && exec cat"##;

struct Podman {
    scratch: Scratch,
    freezer: Freezer,
    /// Keeps the namespace alive.
    namespace: Child,
}

impl Podman {
    fn with(runc: &Runtime) -> Podman {
        let scratch = Scratch::new();
        let freezer = Freezer::of(&scratch.cgroup);
        let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("hooks");
        let mut namespace = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", SET_UP, "sh"])
            .args([&runc.path, &testkit::lab().join("rootfs"), &hooks, &frostlock()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(namespace.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Podman { scratch, freezer, namespace }
    }

    fn command(&self, hooks: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.namespace.id())).arg("podman");
        command.env("CONTAINERS_CONF", "/run/conf").stdin(Stdio::null());
        command.args(["--root", "/run/podman/root", "--runroot", "/run/podman/run"]);
        command.args(["--tmpdir", "/run/podman/tmp", "--storage-driver", "vfs"]);
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command.args(["--runtime", "/usr/sbin/runc"]);
        for dir in hooks {
            command.args(["--hooks-dir", dir]);
        }
        command
    }

    fn run(&self, hooks: &[&str]) -> Command {
        let mut podman = self.command(hooks);
        podman.args(["run", "--network", "none", "--rm", "--name", "c1"]);
        podman.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        podman.args(["--cgroup-parent", &self.scratch.cgroup]);
        podman.args(["--rootfs", "/run/rootfs", "echo", "hello"]);
        podman
    }

    /// In the background, its output in files.
    fn start(&self, hooks: &[&str]) -> (Child, PathBuf) {
        let said = self.scratch.path("said");
        let file = File::create(&said).unwrap();
        let mut podman = self.run(hooks);
        let child = podman.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        (child, said)
    }

    /// The conmon of the previous container may still exist.
    fn freeze_nobody(&self) {
        eventually(SOON, "nobody is left", || self.freezer.pids().is_empty());
        self.freezer.freeze();
    }

    /// In this namespace.
    fn hook_runs(&self, stage: &str) -> bool {
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let ours = namespace(&self.namespace.id().to_string());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().into_string().ok());
        pids.any(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
            words.contains(&b"hook".as_slice())
                && words.contains(&stage.as_bytes())
                && namespace(&pid) == ours
        })
    }

    fn state(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/frostlock", self.namespace.id()))
    }

    fn records(&self) -> Vec<Value> {
        let journal = std::fs::read_to_string(self.state().join("journal.jsonl"));
        let journal = journal.unwrap_or_default();
        journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn stages(&self) -> Vec<String> {
        let stage = |record: &Value| record["hook"]["stage"].as_str().unwrap().to_owned();
        self.records().iter().map(stage).collect()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.freezer.thaw();
        let removed = run(self.command(&[]).args(["rm", "--force", "--all", "--time", "0"]));
        drop(self.namespace.stdin.take());
        let _ = self.namespace.wait();
        if !std::thread::panicking() {
            assert!(removed.status.success(), "{}", text(&removed.stderr));
        }
    }
}

/// The files of `hooks/`, as they are.
#[test]
fn podman_runs_the_hooks_as_they_are_shipped() {
    let _alone = alone();
    let podman = Podman::with(&runtime("runc-1.1.15"));
    let all = ["/run/hooks/hooks.d", "/run/hooks/podman"];
    let output = succeed(&mut podman.run(&all));
    assert_eq!(text(&output.stdout), "hello\n");
    eventually(SOON, "three records", || podman.records().len() >= 3);
    assert_eq!(podman.stages(), ["precreate", "createRuntime", "poststop"]);
    let by: Vec<_> = podman.records().iter().map(|record| record["requested_by"].clone()).collect();
    assert_eq!(by, ["podman", "runc", "podman"]);
    for record in podman.records() {
        println!("{record}");
        assert_eq!(record["exit"]["code"], 0);
        let cgroup = record["cgroup"].as_str().unwrap();
        assert!(cgroup.starts_with(&format!("{}/libpod-", podman.scratch.cgroup)), "{record}");
    }
    let left = std::fs::read_dir(podman.state()).unwrap().flatten();
    let mut left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["journal.carried", "journal.jsonl"]);
}

/// The container's parent is frozen before podman starts. Without our hook conmon, runc and the
/// container's process stall in the frozen cgroup. With the hook at `precreate`, which podman
/// itself runs, no process is there before the thaw.
#[test]
fn podman_puts_nobody_into_a_frozen_parent_before_precreate_has_seen_it_thawed() {
    let _alone = alone();
    let podman = Podman::with(&runtime("runc-1.1.15"));
    for with_ours in [false, true] {
        let hooks = if with_ours { "/run/hooks/podman" } else { "/run/no-hooks" };
        podman.freeze_nobody();
        let (mut child, said) = podman.start(&[hooks]);
        if with_ours {
            eventually(SOON, "the hook runs", || podman.hook_runs("precreate"));
        } else {
            eventually(SOON, "somebody is frozen", || !podman.freezer.pids().is_empty());
        }
        std::thread::sleep(Duration::from_secs(1));
        let stuck = podman.freezer.pids().len();
        assert!(child.try_wait().unwrap().is_none(), "it did not wait for the thaw");
        podman.freezer.thaw();
        let status = wait(&mut child, SOON).expect("it ends after the thaw");
        println!("hook {with_ours}: {stuck} processes in the frozen cgroup, {status}");
        assert!(status.success(), "{}", std::fs::read_to_string(said).unwrap());
        assert_eq!(stuck == 0, with_ours, "{stuck} processes in the frozen cgroup");
    }
    let records = podman.records();
    let [record] = &records[..] else { panic!("{records:?}") };
    println!("{record}");
    assert_eq!(record["hook"]["found"], "thawed meanwhile");
    assert!(ms(&record["hook"]["wait_ms"]) > 500.0, "{record}");
    assert_eq!(record["hook"]["frozen"], podman.freezer.0.to_str().unwrap());
}

/// A lasting freeze: without our hook podman does not return before its end; a strict hook says
/// why, and nothing is started.
#[test]
fn podman_comes_back_from_a_frozen_parent_with_a_strict_hook() {
    let _alone = alone();
    let podman = Podman::with(&runtime("runc-1.1.15"));
    podman.freezer.freeze();
    let (mut child, said) = podman.start(&["/run/strict"]);
    let since = Instant::now();
    let status = wait(&mut child, SOON).expect("the hook is strict");
    let took = since.elapsed();
    let said = std::fs::read_to_string(said).unwrap();
    println!("with: {status} after {took:?}: {said}");
    assert!(!status.success());
    assert_eq!(podman.freezer.pids(), Vec::<i32>::new());
    assert_eq!(podman.records()[0]["hook"]["found"], "still frozen");
    assert!(podman.records()[0]["note"].as_str().unwrap().contains("was not thawed within 50"));

    let (mut child, _) = podman.start(&["/run/no-hooks"]);
    eventually(SOON, "somebody is frozen", || !podman.freezer.pids().is_empty());
    std::thread::sleep(2 * took);
    let stuck = podman.freezer.pids().len();
    println!("without: not back after twice that, {stuck} processes in the frozen cgroup");
    assert!(child.try_wait().unwrap().is_none(), "not shown: podman came back without the hook");
    assert!(stuck > 0);
    podman.freezer.thaw();
    assert!(wait(&mut child, SOON).expect("it ends after the thaw").success());
}

/// The hook's limit: podman puts conmon below the container's parent, and so the hooks that runc
/// runs. They are frozen with it, and see only the thaw.
#[test]
fn in_podman_a_hook_of_the_runtime_is_frozen_with_its_pod() {
    let _alone = alone();
    let podman = Podman::with(&runtime("runc-1.1.15"));
    for with_ours in [false, true] {
        let hooks = if with_ours { "/run/hooks/hooks.d" } else { "/run/no-hooks" };
        podman.freeze_nobody();
        let since = Instant::now();
        let (mut child, _) = podman.start(&[hooks]);
        eventually(SOON, "somebody is frozen", || !podman.freezer.pids().is_empty());
        std::thread::sleep(Duration::from_secs(1));
        assert!(podman.records().is_empty(), "no hook runs before the thaw");
        podman.freezer.thaw();
        assert!(wait(&mut child, SOON).expect("it ends after the thaw").success());
        println!("hook {with_ours}: {:?}", since.elapsed());
        assert!(since.elapsed() > Duration::from_secs(1));
    }
    eventually(SOON, "two records", || podman.records().len() >= 2);
    assert_eq!(podman.records()[0]["hook"]["found"], "thawed");
}

/// containerd with a base spec that has our hooks, made by the script in `hooks/`.
#[test]
fn containerd_runs_the_hooks_of_the_base_spec() {
    let _alone = alone();
    let scratch = Scratch::new();
    let dir = scratch.path("c");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let containerd = |action: &str| {
        let mut script = Command::new(root.join("scripts/containerd"));
        script.arg(action).arg(&dir).env("FROSTLOCK_STATE_DIR", scratch.state());
        run(script.env("FROSTLOCK_CONFIG", "/dev/null"))
    };
    let up = containerd("up");
    assert!(up.status.success(), "{}", text(&up.stderr));
    let made = succeed(Command::new(root.join("hooks/containerd-base-spec")).arg(frostlock()));
    let mut spec: Value = serde_json::from_slice(&made.stdout).unwrap();
    spec["root"] = json!({ "path": testkit::lab().join("rootfs"), "readonly": true });
    spec["process"]["args"] = json!(["/bin/echo", "hello"]);
    spec["linux"]["cgroupsPath"] = format!("{}/a", scratch.cgroup).into();
    std::fs::write(scratch.path("spec"), spec.to_string()).unwrap();
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(dir.join("containerd.sock")).args(["--namespace", "frostlock-test"]);
    ctr.args(["run", "--rm", "--runc-root"]).arg(dir.join("runc")).stdin(Stdio::null());
    let output = run(ctr.arg("--config").arg(scratch.path("spec")).arg("a"));
    let down = containerd("down");
    assert_eq!(text(&output.stdout), "hello\n", "{}", text(&output.stderr));
    assert!(down.status.success(), "{}", text(&down.stderr));
    let records = hook_records(&scratch);
    let stages: Vec<_> = records.iter().map(|record| record["hook"]["stage"].clone()).collect();
    assert_eq!(stages, ["createRuntime", "poststop"]);
    assert!(records.iter().all(|record| record["exit"]["code"] == 0), "{records:?}");
}
