//! CRI-O in a node (`scripts/node`): configured, with a starved pod bare and through frostlock, and
//! unconfigured.
//!
//! Not part of `make test`, since CRI-O must be built first: `make crio-test`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use frostlock_cri::{Client, v1};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::node::{CRI_LIMIT, Node, pod_with};
use super::status::{Status, must, sh};
use super::{NAME, frostctl, frostlock, repository, text};

const IMAGE: &str = "docker.io/library/frostlock-busybox:test";
const PAUSE: &str = "registry.k8s.io/pause:3.6";
/// Where `make install` puts them.
const FROSTCTL: &str = "/usr/local/bin/frostctl";
const FROSTLOCK: &str = "/usr/local/bin/frostlock";
const DROP_IN: &str = "/etc/crio/crio.conf.d/99-frostlock.conf";
/// The name that CRI-O's packages use.
const PACKAGED: &str = "/etc/crio/crio.conf.d/10-crio.conf";

const SOCKET: &str = "/run/crio/crio.sock";

/// kubelet's default for a probe.
const PROBE: Duration = Duration::from_secs(1);
const PROBES: usize = 6;
/// 1 ms in 100 ms.
const STARVED_US: i64 = 1000;
const AMPLE_US: i64 = 100 * STARVED_US;
const GRACE: Duration = Duration::from_secs(2);
/// The time between two looks at the threads' scheduling classes: a lift lasts for milliseconds.
const LOOK: Duration = Duration::from_millis(1);

/// A node with CRI-O, whose default runtime is the bare runc.
struct Crio {
    node: Node,
    _storage: tempfile::TempDir,
}

impl Crio {
    /// `monitor_cgroup`: where conmon is put; "pod" is beside the container, under the pod's quota.
    fn up(monitor_cgroup: &str) -> Crio {
        let programs = repository().join("target/lab-crio");
        assert!(programs.join("conmon").exists(), "no CRI-O in {programs:?}, try: make crio-test");
        let storage =
            tempfile::Builder::new().prefix("frostlock-crio-").tempdir_in("/dev/shm").unwrap();
        for file in ["pause.tar", "busybox.tar"] {
            load_image(storage.path(), file);
        }
        let mut node = Node::with("none", &[storage.path()]);
        node.path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
        let runc = repository().join("target/lab/runc-1.5.3/runc").canonicalize().unwrap();
        let config = config(&programs, storage.path(), &runc, monitor_cgroup);
        write(&node, PACKAGED, &config);
        write(
            &node,
            "/etc/containers/policy.json",
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        );
        let unit = format!(
            "[Service]\nType=notify\nEnvironment=PATH={}\nExecStart={}/crio\nDelegate=yes\nKillMode=process\n",
            node.path,
            programs.display()
        );
        write(&node, "/etc/systemd/system/crio.service", &unit);
        must(&node, &["install", frostctl().to_str().unwrap(), FROSTCTL]);
        must(&node, &["install", frostlock().to_str().unwrap(), FROSTLOCK]);
        must(&node, &["systemctl", "daemon-reload"]);
        let crio = Crio { node, _storage: storage };
        crio.restart();
        crio
    }

    fn restart(&self) {
        let output = self.node.script(&["exec", "systemctl", "restart", "crio"]);
        if !output.status.success() {
            panic!(
                "{}",
                text(&self.node.script(&["exec", "journalctl", "-u", "crio", "-n", "40"]).stdout)
            );
        }
    }

    fn client(&self) -> Client {
        let socket = self.node.root().join("run/crio/crio.sock");
        let began = Instant::now();
        loop {
            match Client::connect(&socket) {
                Ok(client) => return client,
                Err(error) => assert!(began.elapsed() < CRI_LIMIT, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn frostctl(&self, words: &[&str]) -> (i32, String, String) {
        let path = format!("PATH={}", self.node.path);
        let output = self.node.script(&[&["exec", "env", &path, FROSTCTL], words].concat());
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn read(&self, path: &str) -> Option<String> {
        let output = self.node.script(&["exec", "cat", path]);
        output.status.success().then(|| text(&output.stdout))
    }

    fn status(&self) -> Status {
        Status::of(&self.node, &["env", &format!("PATH={}", self.node.path)])
    }
}

/// By the host's skopeo, whose mounts end with it.
fn load_image(storage: &Path, file: &str) {
    let name = if file == "pause.tar" { PAUSE } else { IMAGE };
    let dir = storage.display();
    let to = format!("containers-storage:[overlay@{dir}/root+{dir}/run]{name}");
    let from = format!("docker-archive:{}", repository().join("target/lab").join(file).display());
    let output = Command::new("unshare")
        .args(["--mount", "skopeo", "copy", "--quiet", "--insecure-policy", &from, &to])
        .output()
        .unwrap();
    assert!(output.status.success(), "skopeo: {}", text(&output.stderr));
}

/// As CRI-O's packages have it, with another path for each program.
fn config(programs: &Path, storage: &Path, runc: &Path, monitor_cgroup: &str) -> String {
    let (programs, storage, runc) = (programs.display(), storage.display(), runc.display());
    format!(
        r#"# The node's own.
[crio]
root = "{storage}/root"
runroot = "{storage}/run"
storage_driver = "overlay"

[crio.runtime]
cgroup_manager = "systemd"
default_runtime = "runc"
pinns_path = "{programs}/pinns"
apparmor_profile = "unconfined"
disable_hostport_mapping = true
log_level = "warn"

[crio.runtime.runtimes.runc]
runtime_path = "{runc}"
runtime_root = "/run/runc"
monitor_path = "{programs}/conmon"
monitor_cgroup = "{monitor_cgroup}"

[crio.image]
pause_image = "{PAUSE}"
"#
    )
}

fn write(node: &Node, path: &str, text: &str) {
    let script = "mkdir -p \"$(dirname \"$1\")\" && printf %s \"$2\" >\"$1\"";
    must(node, &["sh", "-c", script, "sh", path, text]);
}

/// A pod with a container that has 1 ms of CPU in 100 ms; its two loops use that up.
struct Starved<'a> {
    crio: &'a Crio,
    client: Client,
    uid: &'static str,
    sandbox: String,
    container: String,
}

impl<'a> Starved<'a> {
    /// `quota_us` is the pod's first quota.
    fn run(crio: &'a Crio, handler: &str, uid: &'static str, quota_us: i64) -> Starved<'a> {
        let client = crio.client();
        let slice = format!("kubepods-pod{uid}.slice");
        must(&crio.node, &["systemctl", "start", &slice]);
        limit_pod(&crio.node, uid, quota_us);
        let config = pod(uid);
        let began = Instant::now();
        let sandbox = client.run_pod_sandbox_by(handler, &config).unwrap();
        let script = "while :; do :; done & while :; do :; done";
        let container = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: "c.log".to_owned(),
            labels: labels(uid, Some("c")),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(cpu(STARVED_US)),
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        };
        let container = client.create_container(&sandbox, &container, &config).unwrap();
        client.start_container(&container).unwrap();
        println!("{uid}: started in {:.1?}", began.elapsed());
        Starved { crio, client, uid, sandbox, container }
    }

    /// How many probes succeeded in time, and how long each took. In CRI-O, conmon measures the
    /// time, from the start of the probe's process.
    fn probed(&self) -> (usize, Vec<Duration>) {
        let mut succeeded = 0;
        let took = (0..PROBES).map(|_| {
            let began = Instant::now();
            let ended = self.client.exec_sync(&self.container, &["true"], PROBE);
            let took = began.elapsed();
            succeeded += usize::from(took <= PROBE && ended.is_ok_and(|it| it.exit_code == 0));
            took
        });
        let mut took: Vec<Duration> = took.collect();
        took.sort();
        let (median, uid) = (took[took.len() / 2], self.uid);
        println!("{uid}: {succeeded} of {PROBES} probes succeeded within 1 s, median {median:.1?}");
        (succeeded, took)
    }

    fn quota_us(&self) -> i64 {
        let unit = format!("crio-{}.scope", self.container);
        let find =
            format!("cat $(find /sys/fs/cgroup/cpu -type d -name '{unit}')/cpu.cfs_quota_us");
        sh(&self.crio.node, &find).trim().parse().unwrap()
    }

    fn limit_pod(&self, quota_us: i64) {
        limit_pod(&self.crio.node, self.uid, quota_us);
    }

    /// In kubelet's order: the pod first on the way up, the container first on the way down.
    fn resized(&self) {
        self.limit_pod(5 * STARVED_US);
        for quota in [5 * STARVED_US, STARVED_US] {
            self.client.update_container_resources(&self.container, cpu(quota)).unwrap();
            assert_eq!(self.quota_us(), quota);
        }
        self.limit_pod(STARVED_US);
    }

    /// As kubelet does it; nothing stays.
    fn end(self) {
        let began = Instant::now();
        self.client.stop_container(&self.container, GRACE).unwrap();
        self.client.remove_container(&self.container).unwrap();
        self.client.stop_pod_sandbox(&self.sandbox).unwrap();
        self.client.remove_pod_sandbox(&self.sandbox).unwrap();
        println!("{}: ended in {:.1?}", self.uid, began.elapsed());
        assert_eq!(self.client.list_containers().unwrap(), []);
        // conmon is under the pod's quota, and ends when it gets CPU.
        let find = format!("find /sys/fs/cgroup /run/runc -name '*{}*'", self.container);
        let began = Instant::now();
        loop {
            let left = sh(&self.crio.node, &find);
            if left.is_empty() {
                break;
            }
            assert!(began.elapsed() < CRI_LIMIT, "left: {left}");
            std::thread::sleep(Duration::from_millis(50));
        }
        let slice = format!("kubepods-pod{}.slice", self.uid);
        must(&self.crio.node, &["systemctl", "stop", &slice]);
    }
}

/// The host's network, since there is no CNI. A pod's own pid namespace would need an infra
/// container, whose OOM score requires CAP_SYS_RESOURCE.
fn namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: v1::NamespaceMode::Node.into(),
        pid: v1::NamespaceMode::Container.into(),
        ..Default::default()
    }
}

fn pod(uid: &str) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        labels: labels(uid, None),
        log_directory: format!("/var/log/pods/{uid}"),
        ..pod_with(uid, namespaces())
    }
}

/// The labels that kubelet sets.
fn labels(pod: &str, container: Option<&str>) -> std::collections::HashMap<String, String> {
    let pod = [("io.kubernetes.pod.name", pod), ("io.kubernetes.pod.namespace", "default")];
    let container = container.map(|name| ("io.kubernetes.container.name", name));
    let all = pod.into_iter().chain(container);
    all.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn limit_pod(node: &Node, uid: &str, quota_us: i64) {
    let (slice, quota) =
        (format!("kubepods-pod{uid}.slice"), format!("CPUQuota={}%", quota_us / 1000));
    must(node, &["systemctl", "set-property", "--runtime", &slice, &quota]);
}

fn cpu(quota_us: i64) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: quota_us,
        cpu_shares: 2,
        ..Default::default()
    }
}

/// The scheduling policies that were seen during some work, for processes by name, and whether one
/// of conmon's cgroups was frozen.
#[derive(Debug, Default)]
struct Seen {
    policies: BTreeSet<(String, String)>,
    frozen_conmons: BTreeSet<String>,
}

/// Set even if the work panics: otherwise the watcher would never end.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Seen {
    fn while_running<T>(prefix: &str, work: impl FnOnce() -> T) -> (Seen, T) {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = Seen::default();
                while !is_over.load(Ordering::Relaxed) {
                    seen.look(prefix);
                    std::thread::sleep(LOOK);
                }
                seen
            });
            let over = Over(&is_over);
            let done = work();
            drop(over);
            (watcher.join().unwrap(), done)
        })
    }

    /// Looks at all threads of the node's runtimes and monitors.
    fn look(&mut self, prefix: &str) {
        let all = std::fs::read_dir("/proc").unwrap().flatten().map(|it| it.path());
        for process in all {
            let read = |name: &str| std::fs::read_to_string(process.join(name)).unwrap_or_default();
            let name = read("comm").trim().to_owned();
            if !["conmon", "runc", "runc:[2:INIT]", "frostlock"].contains(&name.as_str()) {
                continue;
            }
            let groups = read("cgroup");
            if !groups.contains(prefix) {
                continue;
            }
            for thread in std::fs::read_dir(process.join("task")).into_iter().flatten().flatten() {
                let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                if let Some(policy) = policy(&stat) {
                    self.policies.insert((name.clone(), policy.to_owned()));
                }
            }
            let freezer = groups.lines().find_map(|it| it.split_once(":freezer:"));
            let state =
                freezer.map(|(_, path)| format!("/sys/fs/cgroup/freezer{path}/freezer.state"));
            let state = state.and_then(|it| std::fs::read_to_string(it).ok()).unwrap_or_default();
            if name == "conmon" && !state.is_empty() && state.trim() != "THAWED" {
                self.frozen_conmons.insert(groups);
            }
        }
    }

    fn of(&self, name: &str) -> Vec<&str> {
        let all = self.policies.iter().filter(|(of, _)| of == name);
        all.map(|(_, policy)| policy.as_str()).collect()
    }
}

/// proc(5): the 41st field; the name, in parentheses, may contain blanks.
fn policy(stat: &str) -> Option<&str> {
    stat.rsplit_once(") ")?.1.split(' ').nth(41 - 3)
}

fn journal(crio: &Crio) -> Vec<Value> {
    let text = crio.read("/run/frostlock/journal.jsonl").unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn no_handler(crio: &Crio) {
    let error = crio.client().run_pod_sandbox_by(NAME, &pod("none")).unwrap_err().to_string();
    assert!(error.contains("frostlock"), "{error}");
}

/// The same pod bare and through frostlock. conmon, beside the container in the pod's slice, is
/// neither lifted nor frozen.
fn starved(crio: &Crio) {
    let bare = Starved::run(crio, "", "bare", AMPLE_US);
    bare.limit_pod(STARVED_US);
    let (succeeded, took) = bare.probed();
    assert!(succeeded * 2 < PROBES, "not shown: bare: {succeeded} of {PROBES}: {took:.1?}");
    bare.end();
    assert_eq!(journal(crio), Vec::<Value>::new());

    let (seen, ()) = Seen::while_running(&crio.node.prefix(), || {
        let through = Starved::run(crio, NAME, "through", AMPLE_US);
        through.limit_pod(STARVED_US);
        let (succeeded, took) = through.probed();
        assert_eq!(succeeded, PROBES, "{took:.1?}");
        through.resized();
        audited(crio, &through.container);
        in_use(crio, &through.container);
        let id = through.container.clone();
        through.end();
        let records: Vec<Value> =
            journal(crio).into_iter().filter(|record| record["id"] == *id).collect();
        for verb in ["create", "start", "exec", "update", "kill", "delete"] {
            let of_verb: Vec<&Value> = records.iter().filter(|it| it["verb"] == verb).collect();
            assert!(
                of_verb.iter().any(|it| it["verdict"] == "ok"),
                "no {verb} of {id}: {of_verb:?}"
            );
            let mut failed = of_verb.iter().filter(|it| it["verdict"] != "ok");
            assert!(failed.all(|it| came_too_late(it)), "{of_verb:?}");
        }
    });
    println!(
        "scheduling policies seen: conmon {:?}, runc {:?}",
        seen.of("conmon"),
        seen.of("runc")
    );
    assert_eq!(seen.of("conmon"), ["0"], "{seen:?}");
    assert!(seen.of("runc").contains(&"2"), "not shown: no lift was seen: {seen:?}");
    assert_eq!(seen.frozen_conmons, BTreeSet::new());
}

/// CRI-O repeats its SIGKILL until it sees the end. The last one can come later, and then gets the
/// runtime's own refusal, without a retry, like the bare one.
fn came_too_late(record: &Value) -> bool {
    let note = record["note"].as_str().unwrap_or_default();
    record["verb"] == "kill"
        && record["verdict"] == "failed"
        && record["attempts"] == 1
        && note.contains("container not running")
}

fn audit(crio: &Crio, words: &[&str]) -> (i32, Value) {
    let (code, said, errors) = crio.frostctl(&[&["audit", "--json"], words].concat());
    let report = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{errors}"));
    (code, report)
}

/// The only divergence that the audit found.
fn found(crio: &Crio) -> Value {
    let (code, report) = audit(crio, &[]);
    let found = report["divergences"].as_array().unwrap();
    assert!(code == 1 && found.len() == 1, "{report:#}");
    found[0].clone()
}

/// A running container is fine, and its conmon is known as its supervisor.
fn audited(crio: &Crio, container: &str) {
    let (code, report) = audit(crio, &[]);
    assert_eq!((code, &report["containers"]), (0, &1.into()), "{report:#}");
    assert_eq!(report["divergences"], serde_json::json!([]), "{report:#}");
    let looked_at = report["looked_at"].as_array().unwrap();
    let itself = looked_at.iter().find(|it| it["source"] == "crio").expect("it is named");
    assert_eq!((&itself["answered"], &itself["place"]), (&true.into(), &SOCKET.into()), "{itself}");
    let what = itself["what"].as_str().unwrap();
    assert!(what.starts_with("1.34.0, 1 pod, 1 container"), "{itself}");
    let monitor = monitor(container);
    signal(monitor, Signal::SIGSTOP);
    let found = found(crio);
    kill(monitor, Signal::SIGCONT).unwrap();
    assert_eq!(found["kind"], "stopped-supervisor", "{found:#}");
    assert!(found.to_string().contains("conmon"), "{found:#}");
    println!("audit: one container, nothing wrong; with its conmon stopped: stopped-supervisor");
}

/// Containers that CRI-O believes to run but that do not: one whose conmon could not report the
/// end, and one whose conmon was killed before it.
fn phantoms(crio: &Crio) {
    for (uid, by) in [("stopped", Signal::SIGSTOP), ("killed", Signal::SIGKILL)] {
        let pod = Starved::run(crio, "", uid, AMPLE_US);
        let id = pod.container.clone();
        if by == Signal::SIGSTOP {
            gone(crio);
        }
        signal(monitor(&id), by);
        let state: Value =
            serde_json::from_str(&crio.read(&format!("/run/runc/{id}/state.json")).unwrap())
                .unwrap();
        let init = state["init_process_pid"].to_string();
        sh(&crio.node, &format!("kill -KILL {init}"));
        let began = Instant::now();
        while is_alive(crio, &init) {
            assert!(began.elapsed() < CRI_LIMIT, "{init} does not die");
            std::thread::sleep(Duration::from_millis(50));
        }
        let found = found(crio);
        assert_eq!((&found["kind"], &found["id"]), (&"phantom".into(), &id.as_str().into()));
        assert_eq!(found["name"], format!("default/{uid}/c"), "{found:#}");
        let says = found["says"].as_array().unwrap();
        let cri = says.iter().find(|it| it["source"] == "cri").expect("CRI says so");
        assert_eq!((&cri["said"], &cri["place"]), (&"RUNNING".into(), &SOCKET.into()));
        println!("{found:#}");
        let (code, report) = audit(crio, &["--heal"]);
        assert_eq!((code, &report["healing"][0]["result"]), (0, &"healed".into()), "{report:#}");
        println!("{:#}", report["healing"]);
        let listed = pod.client.list_containers().unwrap();
        assert_eq!(listed[0].state(), v1::ContainerState::ContainerExited, "{listed:?}");
        pod.end();
    }
}

/// Whether the process exists and is not a zombie.
fn is_alive(crio: &Crio, pid: &str) -> bool {
    let stat = crio.read(&format!("/proc/{pid}/stat"));
    stat.is_some_and(|it| !it.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

/// CRI-O is stopped; its containers live on.
fn gone(crio: &Crio) {
    must(&crio.node, &["systemctl", "stop", "crio"]);
    let found = found(crio);
    assert_eq!((&found["kind"], &found["id"]), (&"unanswered".into(), &SOCKET.into()), "{found:#}");
    assert!(found["remedy"].to_string().contains("systemctl status crio"), "{found:#}");
    println!("{found:#}");
    crio.restart();
    let _ = crio.client();
}

/// Sends a signal and waits until it takes effect: a process under its pod's quota must get CPU
/// first.
fn signal(pid: Pid, signal: Signal) {
    kill(pid, signal).unwrap();
    let began = Instant::now();
    let is_on = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['T', 'Z']))
    };
    while is_on() {
        assert!(began.elapsed() < CRI_LIMIT, "{signal} does not reach {pid}");
        std::thread::sleep(LOOK);
    }
}

/// The pid as the host sees it.
fn monitor(container: &str) -> Pid {
    let is_it = |process: &Path| {
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains("conmon -b ") && line.contains(&format!(" -c {container} "))
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|it| it.path());
    let found = all.into_iter().find(|it| is_it(it)).expect("it has a monitor");
    Pid::from_raw(found.file_name().unwrap().to_str().unwrap().parse().unwrap())
}

/// As long as a container runs through it, it cannot be removed.
fn in_use(crio: &Crio, container: &str) {
    let (code, _, errors) = crio.frostctl(&["unconfigure", "--runtime", "crio"]);
    assert!(code == 3 && errors.contains(container) && errors.contains("--force"), "{errors}");
    let (code, _, errors) = crio.frostctl(&["uninstall"]);
    assert!(code == 3 && errors.contains(container), "{errors}");
}

/// Pods without a handler get frostlock, and start under conditions that starve the probes of a
/// bare pod.
fn by_default(crio: &Crio) {
    let (code, said, errors) =
        crio.frostctl(&["configure", "--runtime", "crio", "--set-as-default"]);
    assert_eq!(code, 0, "{said}{errors}");
    let now = crio.status();
    now.is("owed", 1);
    now.says("loaded", "owed", "its default is runc and not frostlock");
    crio.restart();
    let _ = crio.client();
    crio.status().is("works", 0);
    let pod = Starved::run(crio, "", "default", STARVED_US);
    let (succeeded, took) = pod.probed();
    assert_eq!(succeeded, PROBES, "{took:.1?}");
    let id = pod.container.clone();
    pod.end();
    assert!(journal(crio).iter().any(|record| record["id"] == *id));
}

#[test]
#[ignore = "needs a CRI-O, runs in make crio-test"]
fn crio_from_nothing_to_a_starved_pod_and_back() {
    let crio = Crio::up("pod");
    let before = crio.read(PACKAGED).unwrap();
    no_handler(&crio);
    crio.status().says("configured", "owed", "no engine");

    let (code, said, errors) = crio.frostctl(&["configure", "--runtime", "crio", "--dry-run"]);
    assert_eq!(code, 1, "{said}{errors}");
    assert_eq!(crio.read(DROP_IN), None, "--dry-run");
    let (code, said, errors) = crio.frostctl(&["configure", "--runtime", "crio"]);
    assert_eq!(code, 0, "{said}{errors}");
    assert!(said.contains("checked by: crio config"), "{said}");
    println!("{said}{}", crio.read(DROP_IN).unwrap());
    let now = crio.status();
    now.is("owed", 1);
    now.says("loaded", "owed", "it has no runtime frostlock yet");
    no_handler(&crio);
    let (code, said, errors) = crio.frostctl(&["configure", "--runtime", "crio", "--restart"]);
    assert_eq!(code, 0, "{said}{errors}");
    assert!(said.contains("crio has loaded it"), "{said}");
    let now = crio.status();
    now.is("works", 0);
    now.says("loaded", "good", "by the running crio");
    println!("{now}");

    starved(&crio);
    phantoms(&crio);
    by_default(&crio);

    let (code, said, errors) = crio.frostctl(&["unconfigure", "--runtime", "crio", "--restart"]);
    assert_eq!(code, 0, "{said}{errors}");
    println!("{said}");
    assert_eq!((crio.read(PACKAGED), crio.read(DROP_IN)), (Some(before.clone()), None));
    no_handler(&crio);

    // Not before the running CRI-O has forgotten it.
    let (code, said, errors) = crio.frostctl(&["configure", "--runtime", "crio", "--restart"]);
    assert_eq!(code, 0, "{said}{errors}");
    let (code, said, errors) = crio.frostctl(&["uninstall"]);
    assert!(code == 1 && said.contains("loaded until it is restarted"), "{said}{errors}");
    assert_eq!((crio.read(PACKAGED), crio.read(DROP_IN)), (Some(before), None));
    Starved::run(&crio, NAME, "left", AMPLE_US).end();
    crio.restart();
    let _ = crio.client();
    let (code, said, errors) = crio.frostctl(&["uninstall", "--purge"]);
    assert_eq!(code, 0, "{said}{errors}");
    println!("{said}");
    no_handler(&crio);
}
