//! What is in deploy/ is what Kubernetes and systemd take.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The oldest and the newest that the schemas are known of.
const KUBERNETES: [&str; 2] = ["1.25", "1.37"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn run(program: &Path, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output();
    output.unwrap_or_else(|error| {
        panic!("{}: {error}; it comes with: scripts/setup lab", program.display())
    })
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

fn validate(version: &str, file: &Path) -> Output {
    let program = repository().join("target/python/bin/kubernetes-validate");
    run(&program, &["-k", version, "--strict", file.to_str().unwrap()])
}

#[test]
fn the_manifests_are_of_the_api() {
    let directory = tempfile::tempdir().unwrap();
    let built =
        run(Path::new("kubectl"), &["kustomize", repository().join("deploy").to_str().unwrap()]);
    assert!(built.status.success(), "{}", said(&built));
    let manifests = String::from_utf8(built.stdout).unwrap();
    for kind in ["RuntimeClass", "DaemonSet", "ConfigMap", "Namespace"] {
        assert!(manifests.contains(&format!("kind: {kind}\n")), "{manifests}");
    }
    let file = directory.path().join("all.yaml");
    std::fs::write(&file, &manifests).unwrap();
    let broken = directory.path().join("broken.yaml");
    std::fs::write(&broken, manifests.replace("hostPID:", "hostPid:")).unwrap();
    for version in KUBERNETES {
        let control = validate(version, &broken);
        assert!(
            !control.status.success() && said(&control).contains("hostPid"),
            "{}",
            said(&control)
        );
        let checked = validate(version, &file);
        assert!(checked.status.success(), "{version}: {}", said(&checked));
        assert_eq!(said(&checked).matches(" passed for ").count(), 7, "{}", said(&checked));
    }
}

#[test]
fn systemd_takes_the_units() {
    let directory = tempfile::tempdir().unwrap();
    let binary = env!("CARGO_BIN_EXE_frostctl");
    let units = ["frostctl-metrics.service", "frostctl-metrics.timer", "frostctl-serve.service"];
    let mut paths = Vec::new();
    for unit in units {
        let text = std::fs::read_to_string(repository().join("deploy/systemd").join(unit)).unwrap();
        let path = directory.path().join(unit);
        // What is to be run has to be there.
        std::fs::write(&path, text.replace("/usr/local/bin/frostctl", binary)).unwrap();
        paths.push(path);
    }
    let verify = |paths: &[PathBuf]| {
        let mut args = vec!["verify", "--man=no"];
        args.extend(paths.iter().map(|path| path.to_str().unwrap()));
        run(Path::new("systemd-analyze"), &args)
    };
    let checked = verify(&paths);
    let ours = |output: &Output| said(output).lines().filter(|it| it.contains("frostctl")).count();
    assert!(checked.status.success() && ours(&checked) == 0, "{}", said(&checked));

    let text = std::fs::read_to_string(&paths[2]).unwrap();
    std::fs::write(&paths[2], text.replace("PrivateTmp=", "PrivateTemp=")).unwrap();
    assert!(said(&verify(&paths[2..])).contains("PrivateTemp"), "the control");
}

/// A node in a directory: `nsenter` runs nothing but writes down what it is asked for, and says of
/// a --dry-run and of a change what the test wants.
struct Node(tempfile::TempDir);

impl Node {
    fn new(dry_run: i32, change: i32) -> Node {
        Node::that_answers(dry_run, change, 0)
    }

    fn that_answers(dry_run: i32, change: i32, restart: i32) -> Node {
        let node = Node(tempfile::tempdir().unwrap());
        for directory in ["bin", "opt", "path"] {
            std::fs::create_dir(node.0.path().join(directory)).unwrap();
        }
        for name in ["opt/frostlock", "opt/frostctl", "bin/frostctl"] {
            std::fs::write(node.0.path().join(name), name).unwrap();
        }
        node.answer(dry_run, change, restart);
        node
    }

    fn answer(&self, dry_run: i32, change: i32, restart: i32) {
        let node = self;
        let nsenter = format!(
            "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done; shift\necho \"$*\" >>{}\n\
             case \"$*\" in *--dry-run) exit {dry_run} ;; *frostctl*) exit {change} ;; \
             *restart*) exit {restart} ;; esac\n",
            node.0.path().join("asked").display()
        );
        // Installed by another process: what this one has open to write cannot be executed, and a
        // child of another thread may have it open a moment longer.
        let [text, path] = ["nsenter.text", "path/nsenter"].map(|name| node.0.path().join(name));
        std::fs::write(&text, nsenter).unwrap();
        let installed = Command::new("install").arg("-m755").args([text, path]).status().unwrap();
        assert!(installed.success());
    }

    /// Runs the first program of a manifest, and gives what it asked of the node.
    fn run(&self, manifest: &str) -> (bool, Vec<String>) {
        let root = self.0.path().to_str().unwrap();
        let script = first_program(manifest)
            .replace("/host/bin", &format!("{root}/bin"))
            .replace("/opt/frostlock/", &format!("{root}/opt/"));
        let path = format!("{root}/path:{}", std::env::var("PATH").unwrap());
        let status = Command::new("sh").args(["-euc", &script]).env("PATH", path).status().unwrap();
        let asked = std::fs::read_to_string(self.0.path().join("asked")).unwrap_or_default();
        (status.success(), asked.lines().map(str::to_owned).collect())
    }
}

fn first_program(manifest: &str) -> String {
    let python = repository().join("target/python/bin/python");
    let file = repository().join("deploy/kubernetes").join(manifest);
    let script = "import sys, yaml\nd = yaml.safe_load(open(sys.argv[1]))\n\
                  print(d['spec']['template']['spec']['initContainers'][0]['args'][0])";
    let output = run(&python, &["-c", script, file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

const RESTART: &str = "systemctl restart containerd";

#[test]
fn containerd_is_restarted_only_after_a_change() {
    for (manifest, verb) in [("install.yaml", "configure"), ("remove.yaml", "unconfigure")] {
        let change = format!("/usr/local/bin/frostctl {verb} --runtime containerd");
        let dry_run = format!("{change} --dry-run");

        let (ok, asked) = Node::new(0, 0).run(manifest);
        assert!(ok && asked[0] == dry_run, "{asked:?}");
        assert!(!asked.contains(&RESTART.to_owned()), "nothing differs: {asked:?}");

        let (ok, asked) = Node::new(1, 0).run(manifest);
        assert!(
            ok && asked[..3] == [dry_run.clone(), change.clone(), RESTART.to_owned()],
            "{asked:?}"
        );

        // Containers still run, or the configuration cannot be read: tried again by kubelet.
        let (ok, asked) = Node::new(3, 3).run(manifest);
        assert!(!ok && asked == [dry_run, change], "{asked:?}");
    }
}

#[test]
fn a_restart_that_failed_is_done_by_the_next_try() {
    for manifest in ["install.yaml", "remove.yaml"] {
        let node = Node::that_answers(1, 0, 1);
        assert!(!node.run(manifest).0, "the restart failed");
        // Now nothing is left to change, which --dry-run says.
        node.answer(0, 0, 0);
        let (ok, asked) = node.run(manifest);
        let restarts = asked.iter().filter(|it| *it == RESTART).count();
        assert!(ok && restarts == 2, "{asked:?}");
        let (ok, asked) = node.run(manifest);
        let restarts = asked.iter().filter(|it| *it == RESTART).count();
        assert!(ok && restarts == 2, "it is done: {asked:?}");
    }
}

#[test]
fn every_server_audits_as_there_is_an_alert_about_it() {
    for file in ["kubernetes/install.yaml", "systemd/frostctl-serve.service"] {
        let text = std::fs::read_to_string(repository().join("deploy").join(file)).unwrap();
        assert!(text.contains("/usr/local/bin/frostctl serve --audit"), "{file}");
    }
}

/// By itself it listens on loopback, which is another one in the pod than kubelet's and Prometheus'.
#[test]
fn in_a_pod_it_listens_where_it_is_asked() {
    let text =
        std::fs::read_to_string(repository().join("deploy/kubernetes/install.yaml")).unwrap();
    assert!(text.contains("serve --audit --listen 0.0.0.0:9764\n"), "{text}");
    assert!(text.contains("containerPort: 9764"), "{text}");
    assert_eq!(text.matches("httpGet: { path: /healthz, port: metrics }").count(), 2, "{text}");
}

#[test]
fn the_binaries_come_and_go() {
    let node = Node::new(0, 0);
    assert!(node.run("install.yaml").0);
    let installed = |name: &str| std::fs::read_to_string(node.0.path().join("bin").join(name));
    assert_eq!(installed("frostctl").unwrap(), "opt/frostctl");
    assert_eq!(installed("frostlock").unwrap(), "opt/frostlock");
    assert_eq!(std::fs::read_dir(node.0.path().join("bin")).unwrap().count(), 2);
    let (ok, asked) = node.run("remove.yaml");
    assert!(
        ok && asked.last().unwrap() == "/usr/local/bin/frostctl uninstall --purge",
        "{asked:?}"
    );
    // It takes away everything but the marker, which the restart has, and frostctl at the latest.
    assert!(installed("frostctl").is_err() && installed(".frostlock-restart").is_err());
}
