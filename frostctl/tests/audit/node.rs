//! Pods in a node (`scripts/node`).

use std::path::PathBuf;
use std::process::Command;

use frostlock_cri::{Client, v1};
use serde_json::Value;
use testkit::{repository, text};

use super::scene::{self, report, run};

const IMAGE: &str = "docker.io/library/frostlock-busybox:test";

/// A node with containerd; it ends with this value, or with our process.
pub struct Node {
    dir: tempfile::TempDir,
    prefix: String,
    client: Client,
}

impl Node {
    pub fn up(containerd: &str) -> Node {
        let dir =
            tempfile::Builder::new().prefix("frostlock-node-").tempdir_in("/dev/shm").unwrap();
        let owner = std::process::id().to_string();
        let mut up = Command::new(repository().join("scripts/node"));
        up.env("FROSTLOCK_NODE", dir.path().join("node")).args(["up", "--containerd", containerd]);
        let up = run(up.args(["--runtime", "runc-1.5.3", "--owner", &owner]));
        assert!(up.status.success(), "{}", text(&up.stderr));
        let said = text(&up.stdout);
        let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        let client = Client::connect(&PathBuf::from(value("socket="))).unwrap();
        Node { prefix: value("prefix=").to_owned(), dir, client }
    }

    fn script(&self, words: &[&str]) -> Command {
        let mut command = Command::new(repository().join("scripts/node"));
        command.env("FROSTLOCK_NODE", self.dir.path().join("node")).args(words);
        command
    }

    /// Returns the sandbox and the container.
    pub fn pod(&self, name: &str) -> (String, String) {
        let pod = config(name);
        let sandbox = self.client.run_pod_sandbox(&pod).unwrap();
        let container = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
            command: ["sleep", "1000"].map(str::to_owned).to_vec(),
            labels: labels(name, Some("c")),
            ..Default::default()
        };
        let id = self.client.create_container(&sandbox, &container, &pod).unwrap();
        self.client.start_container(&id).unwrap();
        (sandbox, id)
    }

    /// Finds the processes as the host sees them.
    pub fn lose_exit_of(&self, id: &str) {
        let unit = format!("/sys/fs/cgroup/freezer{}/", self.prefix);
        let found =
            run(Command::new("find").args([&unit, "-type", "d", "-name"]).arg(format!("*{id}*")));
        let found = text(&found.stdout);
        let dir = found.lines().next().unwrap_or_else(|| panic!("no cgroup of {id}"));
        scene::lose_exit(scene::pids(dir.as_ref())[0]);
    }

    pub fn cri_state(&self, id: &str) -> String {
        let status = self.client.container_status(id, false).unwrap().status.unwrap();
        status.state().as_str_name().to_owned()
    }

    /// As kubelet finally does it.
    pub fn remove_pod(&self, sandbox: &str) {
        self.client.stop_pod_sandbox(sandbox).unwrap();
        self.client.remove_pod_sandbox(sandbox).unwrap();
        let left = self.client.list_pod_sandboxes().unwrap();
        assert!(left.iter().all(|pod| pod.id != sandbox));
    }

    pub fn audit(&self, words: &[&str]) -> (Value, i32) {
        let words = [&["exec", env!("CARGO_BIN_EXE_frostctl"), "audit", "--json"], words].concat();
        report(&run(&mut self.script(&words)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let down = run(&mut self.script(&["down"]));
        assert!(down.status.success() || std::thread::panicking(), "{}", text(&down.stderr));
    }
}

fn config(name: &str) -> v1::PodSandboxConfig {
    let namespaces =
        v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..Default::default() };
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        labels: labels(name, None),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: format!("kubepods-besteffort-pod{name}.slice"),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The labels that kubelet sets.
fn labels(pod: &str, container: Option<&str>) -> std::collections::HashMap<String, String> {
    let pod = [("io.kubernetes.pod.name", pod), ("io.kubernetes.pod.namespace", "default")];
    let container = container.map(|name| ("io.kubernetes.container.name", name));
    let all = pod.into_iter().chain(container);
    all.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
