//! The steps that change a node, in a node (scripts/node): its containerd is restarted where something
//! changes, and after a restart that failed only when a person says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const CONFIG: &str = "/etc/containerd/config.toml";
const FAILED: &str = "/run/frostlock-restart-failed";
const PROGRAMS: [&str; 3] = ["frostlock", "frostctl", "frostlock-installer"];

struct Node {
    dir: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.script(&["down"]);
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

impl Node {
    fn up() -> Node {
        let dir =
            tempfile::Builder::new().prefix("frostlock-node-").tempdir_in("/dev/shm").unwrap();
        let node = Node { dir };
        let image = node.image();
        std::fs::create_dir(&image).unwrap();
        let wrapper = PathBuf::from(std::env::var("FROSTLOCK_BIN").expect("FROSTLOCK_BIN"));
        let installer = PathBuf::from(env!("CARGO_BIN_EXE_frostlock-installer"));
        let frostctl = installer.with_file_name("frostctl");
        for (name, from) in PROGRAMS.iter().zip([wrapper, frostctl, installer]) {
            std::fs::copy(&from, image.join(name)).unwrap_or_else(|error| {
                panic!("{}: {error}; try: cargo build -p frostctl", from.display())
            });
        }
        let owner = std::process::id().to_string();
        let image = image.to_str().unwrap();
        let words = ["up", "--containerd", "1.7.24", "--runtime", "runc-1.3.6", "--owner", &owner];
        let up = node.script(&[&words[..], &["--show", image]].concat());
        assert!(up.status.success(), "{}", said(&up));
        node
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn script(&self, words: &[&str]) -> Output {
        // Files: the node goes on after the script, and holds what it has inherited.
        let [out, err] = ["out", "err"].map(|name| self.dir.path().join(name));
        let open = |path: &Path| std::fs::File::create(path).unwrap();
        let status = Command::new(repository().join("scripts/node"))
            .env("FROSTLOCK_NODE", self.dir.path().join("node"))
            .args(words)
            .stdin(Stdio::null())
            .stdout(open(&out))
            .stderr(open(&err))
            .status()
            .unwrap();
        let [stdout, stderr] = [out, err].map(|path| std::fs::read(path).unwrap());
        Output { status, stdout, stderr }
    }

    fn exec(&self, words: &[&str]) -> Output {
        self.script(&[&["exec"], words].concat())
    }

    fn sh(&self, script: &str) -> String {
        let output = self.exec(&["sh", "-ec", script]);
        assert!(output.status.success(), "{script}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn step(&self, words: &[&str]) -> Output {
        let installer = self.image().join("frostlock-installer");
        self.exec(&[&[installer.to_str().unwrap()], words].concat())
    }

    fn done(&self, words: &[&str]) {
        let output = self.step(words);
        assert!(output.status.success(), "{words:?}: {}", said(&output));
    }

    /// Of containerd, another one after each restart.
    fn start(&self) -> String {
        self.sh("systemctl is-active containerd && systemctl show -p MainPID --value containerd")
    }
}

#[test]
fn containerd_is_restarted_only_where_something_changes() {
    let node = Node::up();
    // More restarts than systemd takes in ten seconds; and for a while it does not start with frostlock.
    node.sh(&format!(
        "mkdir /run/systemd/system/containerd.service.d
         printf '%s\n' [Unit] StartLimitIntervalSec=0 [Service] \
             \"ExecStartPre=sh -c '! test -e /run/refuse || ! grep -q frostlock {CONFIG}'\" \
             >/run/systemd/system/containerd.service.d/test.conf
         systemctl daemon-reload"
    ));
    let before = node.sh(&format!("cat {CONFIG}"));

    let first = node.start();
    node.done(&["install"]);
    let installed = node.start();
    assert_ne!(installed, first, "the control");
    node.sh("frostctl status && test -d /run/frostlock-metrics");
    node.done(&["install"]);
    assert_eq!(node.start(), installed, "nothing has changed");

    // On the timer of the container `metrics`; the audit asks the node's containerd.
    node.sh(&format!(
        "timeout 3 {}/frostlock-installer watch --every 1h -- /usr/local/bin/frostctl metrics --audit \
         --textfile /run/frostlock-metrics/frostlock.prom || test $? = 124
         grep -q '^frostlock_divergences' /run/frostlock-metrics/frostlock.prom",
        node.image().display()
    ));

    // What a shim leaves in the bundle of each of its containers.
    let bundle = "/run/containerd/io.containerd.runtime.v2.task/k8s.io/busy";
    node.sh(&format!("mkdir -p {bundle} && printf /usr/local/bin/frostlock >{bundle}/runtime"));
    let installer = node.image().join("frostlock-installer");
    let waits = node.exec(&["timeout", "15", installer.to_str().unwrap(), "await-idle"]);
    assert_eq!(waits.status.code(), Some(124), "it waits: {}", said(&waits));
    assert!(said(&waits).contains("k8s.io/busy"), "{}", said(&waits));
    node.sh(&format!("rm -r {bundle}"));
    node.done(&["await-idle"]);
    node.done(&["remove"]);
    assert_ne!(node.start(), installed);
    assert_eq!(node.sh(&format!("cat {CONFIG}")), before);
    node.sh("! ls -A /usr/local/bin | grep frost && test ! -e /run/frostlock-metrics");
    // Again, as after a restart of the pod.
    node.done(&["await-idle"]);
    node.done(&["remove"]);

    node.sh("touch /run/refuse");
    let bare = node.start();
    let failed = node.step(&["install"]);
    assert!(!failed.status.success());
    assert!(
        said(&failed).contains("was restarted with its files as they were"),
        "{}",
        said(&failed)
    );
    let back = node.start();
    assert_ne!(back, bare, "it was restarted, and goes on without frostlock");
    assert_eq!(node.sh(&format!("cat {CONFIG}")), before);

    node.sh("rm /run/refuse");
    let kept = node.step(&["install"]);
    assert!(
        !kept.status.success() && said(&kept).contains("is not restarted again"),
        "{}",
        said(&kept)
    );
    assert!(said(&kept).contains(FAILED), "{}", said(&kept));
    assert_eq!(node.start(), back, "nobody has said so");

    node.sh(&format!("rm {FAILED}"));
    node.done(&["install"]);
    assert_ne!(node.start(), back);
    node.sh("frostctl status");
}
