//! The runtime inside a Kubernetes node: systemd as the cgroup driver, cgroup v1, pods as slices.
//! Every claim has its control in the same run: if the bare runtime does not fail, the claim is
//! "not shown".
//!
//! Each test starts a node (`scripts/node`) and runs its ignored namesake inside. Needs root and
//! the lab (`make lab`). Short counts by default, all of them with FROSTLOCK_PROOF.

// clippy.toml allows these in tests, but helpers of a test are not #[test].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// The tables belong to the result.
#![allow(clippy::print_stdout)]

mod create;
mod details;
mod interchange;
mod pod;
mod probe;
mod shares;
mod update;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use testkit::{run, succeed, text};

/// The failed freeze is an error since 1.1.8.
const RUNTIMES: [&str; 2] = ["runc-1.1.15", "runc-1.5.3"];

/// A node without containerd; it ends with this value, or with our process.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn up() -> Node {
        Node::up_with(|up| {
            for file in [std::env::current_exe().unwrap(), testkit::frostlock()] {
                up.arg("--show").arg(file);
            }
        })
    }

    fn up_with(more: impl FnOnce(&mut Command)) -> Node {
        assert!(nix::unistd::geteuid().is_root(), "the kernel suites need root");
        let dir = tempfile::Builder::new().prefix("frostlock-node-").tempdir_in("/dev/shm");
        let node = Node { dir: dir.unwrap() };
        let mut up = node.script("up");
        up.args(["--containerd", "none", "--owner", &std::process::id().to_string()]);
        more(&mut up);
        succeed(&mut up);
        node
    }

    fn script(&self, action: &str) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/node"));
        command.env("FROSTLOCK_NODE", self.dir.path().join("node")).arg(action);
        command.env("FROSTLOCK_BIN", testkit::frostlock());
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let down = run(&mut self.script("down"));
        if !std::thread::panicking() {
            assert!(down.status.success(), "{}", text(&down.stderr));
        }
    }
}

/// Runs an ignored test inside a separate node. One at a time: they measure.
fn in_a_node(test: &str) {
    static ONE: Mutex<()> = Mutex::new(());
    let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let node = Node::up();
    // The node's C library is not the one that cargo linked us to.
    let libraries = PathBuf::from(format!("/host/usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let mut inner = node.script("exec");
    inner
        .arg(libraries.join("ld-linux-x86-64.so.2"))
        .arg("--library-path")
        .arg(&libraries)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"]);
    let output = run(&mut inner);
    let text = text(&[output.stdout, output.stderr].concat());
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{test} failed inside");
}
