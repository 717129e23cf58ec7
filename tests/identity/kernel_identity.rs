//! Prediction, state file and kernel name the same cgroup: real runc and crun, v1 (or whatever the
//! host has) and v2. Needs root, runc, crun and a static busybox; without them it fails, and does
//! not skip.

// clippy.toml allows these in tests, but helpers of a test are not #[test].
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cgroup::bundle::Bundle;
use cgroup::predict::Plan;
use cgroup::{Freezer, Hierarchies, Membership, Proc, Reader, RuntimeKind, state_file};

/// Absolute, relative to runc's own cgroup, with `..`, and none; `@` is a name of this process.
const PATHS: [Option<&str>; 5] =
    [Some("/@/x"), Some("@-rel/../@/y"), Some("/../@/z"), Some("../../@/w"), None];

#[test]
fn runc_on_the_host() {
    agree("runc", RuntimeKind::Runc, &PATHS);
}

#[test]
fn runc_and_crun_on_v2() {
    assert!(nix::unistd::geteuid().is_root(), "needs root");
    // In a separate mount namespace: crun 1.8 refuses a hybrid host, and the host's mounts stay. In
    // a separate cgroup: otherwise "relative to my cgroup" and "relative to its parent" would both
    // be the root.
    let inner = r#"[ -e /sys/fs/cgroup/cgroup.controllers ] || mount -t cgroup2 none /sys/fs/cgroup || exit
        own=/sys/fs/cgroup/frostlock-test-cg-own-$$; mkdir -p $own/caller; echo $$ > $own/caller/cgroup.procs
        "$0" --exact inner_v2 --ignored --nocapture; status=$?
        echo $$ > /sys/fs/cgroup/cgroup.procs; rmdir $own/caller $own; exit $status"#;
    let exe = std::env::current_exe().expect("own path");
    let out =
        Command::new("unshare").args(["-m", "sh", "-c", inner]).arg(exe).output().expect("unshare");
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by runc_and_crun_on_v2 in its mount namespace"]
fn inner_v2() {
    let mounts = Hierarchies::read(&Proc::default()).expect("mountinfo");
    assert!(mounts.unified() && mounts.v1.is_empty(), "{mounts:?}");
    agree("runc", RuntimeKind::Runc, &PATHS);
    agree("crun", RuntimeKind::Crun, &[PATHS[0], Some("@/y"), None]);
}

fn agree(runtime: &str, kind: RuntimeKind, paths: &[Option<&str>]) {
    assert!(nix::unistd::geteuid().is_root(), "needs root");
    let dir = tempfile::tempdir().expect("temporary directory");
    make_rootfs(dir.path());
    for (number, path) in paths.iter().enumerate() {
        let name = format!("frostlock-test-cg-{}", std::process::id());
        let path = path.map(|p| p.replace('@', &name));
        let id = format!("{name}-{number}");
        write_config(dir.path(), path.as_deref());
        let bundle = Bundle::read(dir.path()).expect("our config.json");
        assert_eq!(bundle.cgroups_path.as_deref(), path.as_deref().map(Path::new));
        let mounts = Hierarchies::read(&Proc::default()).expect("mountinfo");
        let cgroups_path = bundle.cgroups_path.as_deref();
        let plan = Plan { kind, id: OsStr::new(&id), systemd: false, cgroups_path, rootless: None };
        let predicted = plan.predict(&mounts, &Proc::default()).expect("a prediction");
        // Deleted, and its cgroups removed, however this ends.
        let container = Container::create(runtime, dir.path(), id, mounts.dirs(&predicted));

        let roots = [dir.path().join("state")];
        let state =
            state_file::read(&roots, kind, OsStr::new(&container.id), &mounts, &Proc::default());
        let state = state.expect("the runtime's state");
        assert_eq!(state.identity(), Some(&predicted), "{runtime} {path:?}");
        let pid = state.init_pid.expect("init's pid").to_string();
        let seen = Membership::of(&Proc::default(), &pid).expect("init's cgroup");
        assert_eq!(seen.identity(&mounts).as_ref(), Some(&predicted), "{runtime} {path:?}");
        assert_eq!(state.init_start, start_time(&pid));
        assert_eq!(state.bundle.as_deref(), Some(dir.path()));
        assert_eq!(Reader::new(&mounts, &predicted).freezer(), Freezer::Thawed);
        container.run("pause");
        let freezer = || Reader::new(&mounts, &predicted).freezer();
        // runc waits for the freeze; crun has only written `1` to cgroup.freeze (1.8.1).
        if kind == RuntimeKind::Crun {
            wait_while_freezing(freezer);
        }
        assert_eq!(freezer(), Freezer::Frozen, "{runtime} {path:?}");
        container.run("resume");
    }
}

/// How long a task on a busy machine may take to freeze.
const FREEZES_WITHIN: Duration = Duration::from_secs(10);

/// Waits until the kernel is done. Does not wait for a cgroup that is not freezing.
fn wait_while_freezing(freezer: impl Fn() -> Freezer) {
    let deadline = Instant::now() + FREEZES_WITHIN;
    while freezer() == Freezer::Freezing {
        assert!(Instant::now() < deadline, "still freezing after {FREEZES_WITHIN:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn make_rootfs(bundle: &Path) {
    std::fs::create_dir_all(bundle.join("rootfs/bin")).expect("rootfs");
    std::fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox")).expect("busybox-static");
}

fn write_config(bundle: &Path, cgroups_path: Option<&str>) {
    let config = bundle.join("config.json");
    let _ = std::fs::remove_file(&config);
    let made = Command::new("runc").arg("spec").current_dir(bundle).status().expect("runc");
    assert!(made.success(), "runc spec");
    let text = std::fs::read_to_string(&config).expect("config.json");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["process"]["terminal"] = false.into();
    json["process"]["args"] = serde_json::json!(["/bin/busybox", "sleep", "60"]);
    // The default devices need a controller that the v2 tree of a hybrid host lacks.
    json["linux"]["resources"] = serde_json::json!({});
    if let Some(path) = cgroups_path {
        json["linux"]["cgroupsPath"] = path.into();
    }
    std::fs::write(&config, json.to_string()).expect("config.json");
}

fn start_time(pid: &str) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

struct Container {
    runtime: String,
    root: PathBuf,
    id: String,
    dirs: Vec<PathBuf>,
}

impl Container {
    fn create(runtime: &str, bundle: &Path, id: String, dirs: Vec<PathBuf>) -> Container {
        let made = Container { runtime: runtime.into(), root: bundle.join("state"), id, dirs };
        let bundle = bundle.to_string_lossy();
        made.call(&["create", "--bundle", &bundle, &made.id]);
        made
    }

    fn run(&self, verb: &str) {
        self.call(&[verb, &self.id]);
    }

    /// Not through pipes: the container would hold them open for its whole life.
    fn call(&self, args: &[&str]) {
        let log = self.root.with_extension("log");
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(&self.root).arg("--log").arg(&log).args(args);
        let status =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let status = status.unwrap_or_else(|e| panic!("cannot run {}: {e}", self.runtime));
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(
            status.success() || std::thread::panicking(),
            "{} {args:?}: {}",
            self.runtime,
            log()
        );
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.call(&["delete", "--force", &self.id]);
        // The memory hierarchy may differ: a relative path is below our own cgroup in each.
        let own = Membership::of(&Proc::default(), "self").unwrap_or_default();
        let parent = format!("frostlock-test-cg-{}", std::process::id());
        for dir in &self.dirs {
            let below =
                own.path("memory").map_or(Path::new(""), |p| p.strip_prefix("/").unwrap_or(p));
            let mine = |d: &&Path| d.to_string_lossy().contains("/frostlock-test-cg-");
            for level in dir.ancestors().take_while(mine) {
                let _ = std::fs::remove_dir(level);
            }
            let _ =
                std::fs::remove_dir(Path::new("/sys/fs/cgroup/memory").join(below).join(&parent));
        }
    }
}
