//! containerd in a node (`scripts/node`): a pod through frostlock, by its handler.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use frostlock_cri::{Client, v1};

use super::{NAME, frostctl, frostlock, repository, text};

pub const CRI_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// A node with containerd and the bare runtime; it ends with this value, or with our process.
pub struct Node {
    dir: tempfile::TempDir,
    pub path: String,
}

impl Node {
    pub fn up(containerd: &str) -> Node {
        Node::with(containerd, &[])
    }

    /// `shares`: further directories that it sees. "none" means no containerd.
    pub fn with(containerd: &str, shares: &[&Path]) -> Node {
        let dir = tempfile::Builder::new().prefix("frostlock-node-").tempdir_in("/dev/shm");
        let programs = repository().join(format!("target/lab/containerd-{containerd}"));
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
        let node = Node { dir: dir.unwrap(), path };
        let owner = std::process::id().to_string();
        let mut words =
            vec!["up", "--containerd", containerd, "--runtime", "runc-1.5.3", "--owner", &owner];
        // The binary may be where the node does not see it.
        let binary = frostlock();
        words.extend(["--show", binary.to_str().unwrap()]);
        for path in shares {
            words.extend(["--share", path.to_str().unwrap()]);
        }
        let up = node.script(&words);
        assert!(up.status.success(), "node up: {}", text(&up.stderr));
        node
    }

    /// The node's files, as the host sees them.
    pub fn root(&self) -> PathBuf {
        let pid = std::fs::read_to_string(self.dir.path().join("node/pid")).unwrap();
        Path::new("/proc").join(pid.trim()).join("root")
    }

    /// Its own cgroup in each hierarchy of the host.
    pub fn prefix(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("node/prefix")).unwrap();
        text.trim().to_owned()
    }

    pub fn script(&self, words: &[&str]) -> Output {
        let mut command = Command::new(repository().join("scripts/node"));
        command.env("FROSTLOCK_NODE", self.dir.path().join("node")).args(words);
        // Files: the node outlives the script, and keeps inherited descriptors open.
        let [out, err] = ["out", "err"].map(|name| self.dir.path().join(name));
        let open = |path: &Path| std::fs::File::create(path).unwrap();
        let status =
            command.stdin(Stdio::null()).stdout(open(&out)).stderr(open(&err)).status().unwrap();
        let [stdout, stderr] = [out, err].map(|path| std::fs::read(path).unwrap());
        Output { status, stdout, stderr }
    }

    /// `frostctl` in the node: exit status, standard output and standard error.
    fn frostctl(&self, words: &[&str]) -> (i32, String, String) {
        let program = frostctl();
        let path = format!("PATH={}", self.path);
        let all = [&["exec", "env", &path, program.to_str().unwrap()], words].concat();
        let output = self.script(&all);
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    pub fn restart(&self) {
        let output = self.script(&["exec", "systemctl", "restart", "containerd"]);
        assert!(output.status.success(), "restart: {}", text(&output.stderr));
    }

    fn config(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("node/upper/etc/containerd/config.toml"))
            .unwrap()
    }

    /// containerd tells systemd that it is up before its CRI is.
    pub fn client(&self) -> Client {
        self.client_at(&self.dir.path().join("node/run/containerd.sock"))
    }

    pub fn client_at(&self, socket: &Path) -> Client {
        let began = std::time::Instant::now();
        loop {
            match Client::connect(socket) {
                Ok(client) => return client,
                Err(error) => assert!(began.elapsed() < CRI_LIMIT, "{error}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// The runtime in the files of a sandbox's shim.
    fn runtime_of(&self, sandbox: &str) -> String {
        let task = "node/run/io.containerd.runtime.v2.task/k8s.io";
        std::fs::read_to_string(self.dir.path().join(task).join(sandbox).join("runtime")).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let ended = self.script(&["down"]);
        assert!(ended.status.success() || std::thread::panicking(), "node down: {ended:?}");
    }
}

pub fn pod(uid: &str) -> v1::PodSandboxConfig {
    let network = v1::NamespaceMode::Node.into();
    pod_with(uid, v1::NamespaceOption { network, ..Default::default() })
}

pub fn pod_with(uid: &str, namespaces: v1::NamespaceOption) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "pod".to_owned(),
            uid: uid.to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: format!("kubepods-pod{uid}.slice"),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn no_handler(node: &Node) {
    let error = node.client().run_pod_sandbox_by(NAME, &pod("none")).unwrap_err().to_string();
    assert!(error.contains("no runtime for \"frostlock\""), "{error}");
}

/// Configured, with a pod, unconfigured, and the file as before; then the handler is gone.
fn a_round(containerd: &str) {
    let began = std::time::Instant::now();
    let node = Node::up(containerd);
    let binary = frostlock();
    let binary = binary.to_str().unwrap();
    let before = node.config();
    no_handler(&node);

    let words = ["configure", "--runtime", "containerd", "--binary", binary];
    let (status, said, errors) = node.frostctl(&[&words[..], &["--dry-run"]].concat());
    assert_eq!(status, 1, "{said}{errors}");
    assert!(said.contains("+        SystemdCgroup = true"), "{said}");
    assert_eq!(node.config(), before, "--dry-run");
    let (status, said, errors) = node.frostctl(&words);
    assert_eq!(status, 0, "{said}{errors}");
    assert!(said.contains("checked by: containerd config dump"), "{said}");
    println!("containerd {containerd}:\n{said}");
    let configured = node.config();
    let (status, said, _) = node.frostctl(&words);
    assert!(status == 0 && said.contains("nothing to change"), "{said}");
    assert_eq!(node.config(), configured);

    node.restart();
    let sandbox = node.client().run_pod_sandbox_by(NAME, &pod("through")).unwrap();
    assert_eq!(node.runtime_of(&sandbox), binary);
    let journal = node.script(&["exec", "cat", "/run/frostlock/journal.jsonl"]);
    assert!(text(&journal.stdout).contains(&sandbox), "{}", text(&journal.stderr));
    let out = ["unconfigure", "--runtime", "containerd"];
    let (status, _, errors) = node.frostctl(&out);
    assert!(status == 3 && errors.contains(&sandbox) && errors.contains("--force"), "{errors}");
    assert_eq!(node.config(), configured);
    node.client().stop_pod_sandbox(&sandbox).unwrap();
    node.client().remove_pod_sandbox(&sandbox).unwrap();

    let (status, said, errors) = node.frostctl(&[&out[..], &["--restart"]].concat());
    assert_eq!(status, 0, "{said}{errors}");
    assert_eq!(node.config(), before);
    let (status, said, _) = node.frostctl(&out);
    assert!(status == 0 && said.contains("nothing to change"), "{said}");
    no_handler(&node);
    println!("containerd {containerd}: {said}in all {:.1?}", began.elapsed());
}

/// Our files on the node.
pub fn ours(node: &Node) -> Vec<String> {
    let find = "find / -xdev \\( -path /proc -o -path /sys -o -path /dev \\) -prune -o -iname '*frost*' -print; ls -d /run/frostlock";
    let output = node.script(&["exec", "sh", "-c", find]);
    let mut all: Vec<_> = text(&output.stdout).lines().map(str::to_owned).collect();
    // The directories of the node itself and of the lab are below it.
    all.retain(|path| !path.starts_with("/dev/shm") && !path.starts_with("/tmp"));
    all
}

/// From nothing to a pod by one command, and off again; `uninstall` waits for the pod.
fn in_and_off(containerd: &str) {
    let node = Node::up(containerd);
    let before = (node.config(), ours(&node));
    let place = "/usr/local/bin";
    for program in [frostctl(), frostlock()] {
        let name = if program == frostctl() { "frostctl" } else { "frostlock" };
        let words =
            ["exec", "install", "-D", program.to_str().unwrap(), &format!("{place}/{name}")];
        let output = node.script(&words);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let path = format!("PATH={}", node.path);
    let run = |words: &[&str]| {
        let frostctl = format!("{place}/frostctl");
        let output = node.script(&[&["exec", "env", &path, &frostctl], words].concat());
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };

    // A restart command that restarts nothing: the handler never appears, and everything is put
    // back.
    let broken =
        ["configure", "--runtime", "containerd", "--restart", "--restart-command", "exit 3"];
    let (status, _, errors) = run(&broken);
    assert!(status == 3 && errors.contains("put back"), "{errors}");
    assert_eq!(node.config(), before.0);

    let (status, said, errors) = run(&["configure", "--runtime", "containerd", "--restart"]);
    assert_eq!(status, 0, "{said}{errors}");
    assert!(
        said.contains("containerd has loaded it, after: systemctl restart containerd"),
        "{said}"
    );
    assert!(!said.contains("next: systemctl"), "{said}");
    println!("containerd {containerd}:\n{said}");
    let sandbox = node.client().run_pod_sandbox_by(NAME, &pod("kept")).unwrap();

    let configured = node.config();
    let (status, _, errors) = run(&["uninstall"]);
    assert!(
        status == 3 && errors.contains(&sandbox) && errors.contains("nothing was changed"),
        "{errors}"
    );
    assert_eq!(node.config(), configured, "a pod of it could not be made anew");
    node.client()
        .run_pod_sandbox_by(NAME, &pod("still"))
        .map(|id| {
            node.client().stop_pod_sandbox(&id).unwrap();
            node.client().remove_pod_sandbox(&id).unwrap();
        })
        .unwrap();
    node.client().stop_pod_sandbox(&sandbox).unwrap();
    node.client().remove_pod_sandbox(&sandbox).unwrap();

    let (status, said, errors) = run(&["uninstall", "--purge", "--dry-run"]);
    let loaded = "loaded until it is restarted";
    assert!(status == 1 && said.contains(loaded), "{said}{errors}");
    assert_eq!(node.config(), configured);
    // Without the binary, no pod would start that the running containerd gives to it.
    let (status, said, errors) = run(&["uninstall"]);
    assert!(status == 1 && said.contains(loaded), "{said}{errors}");
    assert_eq!(node.config(), before.0);
    // A containerd that does not answer may still have it loaded.
    let signal = |name| {
        let words = ["systemctl", "kill", "--kill-whom=main", "-s", name, "containerd"];
        super::status::must(&node, &words);
    };
    signal("STOP");
    let (status, said, errors) = run(&["uninstall"]);
    signal("CONT");
    let untold = "does not say what it has loaded";
    assert!(status == 1 && said.contains(untold), "{said}{errors}");
    let left = node.client().run_pod_sandbox_by(NAME, &pod("left")).unwrap();
    node.client().stop_pod_sandbox(&left).unwrap();
    node.client().remove_pod_sandbox(&left).unwrap();
    super::status::must(&node, &["systemctl", "restart", "containerd"]);
    let (status, said, errors) = run(&["uninstall"]);
    assert_eq!(status, 0, "{said}{errors}");
    assert!(
        said.contains("/run/frostlock/journal.jsonl: stays") && said.contains("--purge"),
        "{said}"
    );
    println!("{said}");
    let (status, said, errors) = run(&["uninstall", "--purge"]);
    assert_eq!(status, 0, "{said}{errors}");
    println!("{said}");
    assert_eq!((node.config(), ours(&node)), before);
}

#[test]
fn one_command_puts_it_in_and_one_takes_everything_away() {
    let all = std::env::var_os("FROSTLOCK_PROOF").is_some();
    for containerd in if all { &["1.6.20", "1.7.24", "2.1.9"][..] } else { &["1.7.24", "2.1.9"] } {
        in_and_off(containerd);
    }
}

#[test]
fn containerd_runs_a_pod_through_it_and_the_file_comes_back() {
    let all = std::env::var_os("FROSTLOCK_PROOF").is_some();
    for containerd in if all { &["1.6.20", "1.7.24", "2.1.9"][..] } else { &["2.1.9"] } {
        a_round(containerd);
    }
}
