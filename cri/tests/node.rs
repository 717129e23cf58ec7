//! The client against each containerd of the lab, in a node (`scripts/node`) whose runtime is
//! frostlock: the way of a pod from its sandbox to its end, resized up and down in between.
//!
//! Needs root and the lab (`make lab`).

// clippy.toml allows these in tests, but helpers of a test are not #[test].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use frostlock_cri::{Client, Code, Error, v1};

const IMAGE: &str = "docker.io/library/frostlock-busybox:test";
const SLICE: &str = "kubepods-burstable-pod8f0c2b1e_5d1a.slice";
const PROBE: Duration = Duration::from_secs(1);

/// A node with containerd; it ends with this, or with our process.
struct Node {
    dir: tempfile::TempDir,
    socket: PathBuf,
    prefix: String,
}

impl Node {
    fn up(containerd: &str, runtime: &str) -> Node {
        let dir = tempfile::Builder::new().prefix("frostlock-node-").tempdir_in("/dev/shm");
        let mut node = Node { dir: dir.unwrap(), socket: PathBuf::new(), prefix: String::new() };
        let owner = std::process::id().to_string();
        let said = node.script(&[
            "up",
            "--containerd",
            containerd,
            "--runtime",
            runtime,
            "--wrapped",
            "--owner",
            &owner,
        ]);
        let value = |key: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_else(|| panic!("no {key} in {said}")).to_owned()
        };
        node.socket = value("socket=").into();
        node.prefix = value("prefix=");
        node
    }

    /// Its output; it must succeed.
    fn script(&self, words: &[&str]) -> String {
        let mut command =
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/node"));
        command.env("FROSTLOCK_NODE", self.dir.path().join("node")).args(words);
        // The node goes on after the script, and holds what it has inherited.
        let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let status = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(err.try_clone().unwrap())
            .status()
            .unwrap();
        let (out, err) = (contents(out), contents(err));
        assert!(status.success(), "{words:?}: {status}\n{out}{err}");
        out
    }

    fn systemctl(&self, words: &[&str]) {
        self.script(&[&["exec", "systemctl"], words].concat());
    }

    /// Of the pod, or of something in it.
    fn cpu_file(&self, below: &str, file: &str) -> i64 {
        let pod = "kubepods.slice/kubepods-burstable.slice";
        let path = format!("/sys/fs/cgroup/cpu{}/{pod}/{SLICE}/{below}/{file}", self.prefix);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        text.trim().parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/node");
        let mut down = Command::new(script);
        down.env("FROSTLOCK_NODE", self.dir.path().join("node")).arg("down");
        let ended = down.status().unwrap();
        assert!(ended.success() || std::thread::panicking(), "node down: {ended}");
    }
}

fn contents(mut file: std::fs::File) -> String {
    use std::io::{Read, Seek};
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

fn pod() -> v1::PodSandboxConfig {
    let namespaces =
        v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..Default::default() };
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "busy".to_owned(),
            uid: "8f0c2b1e-5d1a".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: SLICE.to_owned(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container() -> v1::ContainerConfig {
    let script = "while :; do :; done & while :; do :; done";
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        linux: Some(v1::LinuxContainerConfig { resources: Some(cpu(1000)), ..Default::default() }),
        ..Default::default()
    }
}

fn cpu(quota_us: i64) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: quota_us,
        cpu_shares: quota_us / 100,
        ..Default::default()
    }
}

#[test]
fn a_pod_from_its_sandbox_to_its_end() {
    for (containerd, runtime) in
        [("1.6.20", "runc-1.1.15"), ("1.7.24", "runc-1.3.6"), ("2.1.9", "runc-1.3.6")]
    {
        let began = Instant::now();
        let node = Node::up(containerd, runtime);
        let up = began.elapsed();
        one_pod(&node, containerd);
        println!("containerd {containerd}: node up {up:.1?}, in all {:.1?}", began.elapsed());
    }
}

fn one_pod(node: &Node, containerd: &str) {
    let client = Client::connect(&node.socket).unwrap();
    let version = client.version().unwrap();
    assert_eq!(version.runtime_name, "containerd");
    assert!(version.runtime_version.contains(containerd), "{version:?}");
    // The same client goes on with the next server.
    node.systemctl(&["restart", "containerd"]);
    // Its socket is there before its services are.
    let began = Instant::now();
    while let Err(error) = client.version() {
        assert!(began.elapsed() < Duration::from_secs(20), "{error}");
        std::thread::sleep(Duration::from_millis(100));
    }

    node.systemctl(&["start", SLICE]);
    let limit = |percent: i64| {
        let quota = format!("CPUQuota={percent}%");
        node.systemctl(&["set-property", "--runtime", SLICE, &quota]);
        assert_eq!(node.cpu_file("", "cpu.cfs_quota_us"), percent * 1000);
    };
    limit(1);
    let sandbox = client.run_pod_sandbox(&pod()).unwrap();
    let busy = client.create_container(&sandbox, &container(), &pod()).unwrap();
    client.start_container(&busy).unwrap();
    let scope = format!("cri-containerd-{busy}.scope");
    let stands = |quota_us| {
        assert_eq!(node.cpu_file(&scope, "cpu.cfs_quota_us"), quota_us);
        assert_eq!(node.cpu_file(&scope, "cpu.shares"), quota_us / 100);
    };
    stands(1000);

    // As a kubelet does it: the pod first on the way up, the container first on the way down.
    limit(5);
    client.update_container_resources(&busy, cpu(5000)).unwrap();
    stands(5000);
    client.update_container_resources(&busy, cpu(1000)).unwrap();
    limit(1);
    stands(1000);

    let probed = client.exec_sync(&busy, &["sh", "-c", "echo ok; exit 3"], PROBE).unwrap();
    assert_eq!((probed.exit_code, probed.stdout.as_slice()), (3, &b"ok\n"[..]));
    let late = client.exec_sync(&busy, &["sleep", "9"], PROBE).unwrap_err();
    assert_eq!(late.code(), Some(Code::DeadlineExceeded), "{late}");
    // An answer that does not come in time is our own error.
    let hasty = Client::lazy(&node.socket).unwrap().at_most(Duration::from_millis(300));
    let late = hasty.exec_sync(&busy, &["sleep", "9"], Duration::from_secs(9)).unwrap_err();
    assert!(late.to_string().contains("ExecSync"), "{late}");

    let status = client.container_status(&busy, true).unwrap();
    assert_eq!(status.status.unwrap().state(), v1::ContainerState::ContainerRunning);
    assert!(status.info["info"].contains("pid"), "{:?}", status.info);
    assert_eq!(client.list_containers().unwrap().len(), 1);
    assert_eq!(client.list_pod_sandboxes().unwrap().len(), 1);

    client.stop_container(&busy, Duration::from_secs(1)).unwrap();
    client.remove_container(&busy).unwrap();
    client.stop_pod_sandbox(&sandbox).unwrap();
    client.remove_pod_sandbox(&sandbox).unwrap();
    nothing_is_left(node, &client, &busy);
}

fn nothing_is_left(node: &Node, client: &Client, container: &str) {
    assert_eq!(client.list_containers().unwrap(), []);
    assert_eq!(client.list_pod_sandboxes().unwrap(), []);
    let gone = client.container_status(container, false).unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    let left = node.script(&["exec", "find", "/sys/fs/cgroup", "-name", "cri-containerd-*"]);
    assert_eq!(left, "");
    assert_eq!(node.script(&["exec", "find", "/run/frostlock/locks", "-type", "f"]), "");
    node.systemctl(&["stop", SLICE]);
}

#[test]
fn nobody_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("containerd.sock");
    let error = Client::connect(&socket).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("No such file") && said.contains("containerd.sock"), "{said}");
}
