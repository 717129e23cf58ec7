//! frostctl in a place in the live cgroup tree, which is cleaned up.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::text;
use crate::programs::{frostctl, repository};

/// The result of a command.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
    pub pid: u32,
}

impl Ended {
    pub fn of(command: &mut Command) -> Ended {
        let since = Instant::now();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("the command starts");
        let pid = child.id();
        let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
        let (stdout, stderr) = (text(&stdout), text(&stderr));
        Ended { code: status.code(), stdout, stderr, took: since.elapsed(), pid }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.stdout, self.stderr))
    }
}

pub fn succeed(command: &mut Command) -> Ended {
    let ended = Ended::of(command);
    assert_eq!(ended.code, Some(0), "{command:?}: {} {}", ended.stdout, ended.stderr);
    ended
}

/// `/frostlock-test-frostctl-...` in the live tree; on drop, its processes are ended and it is
/// removed.
#[derive(Debug)]
pub struct Scratch {
    pub dir: tempfile::TempDir,
    pub cgroup: String,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Scratch {
    pub fn new() -> Scratch {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/frostlock-test-frostctl-{}-{number}", std::process::id());
        Scratch { dir: tempfile::tempdir().unwrap(), cgroup }
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// frostctl with its own state directory, so that it sees and fixes nobody else's.
    pub fn frostctl(&self, args: &[&str]) -> Ended {
        let mut command = Command::new(frostctl());
        Ended::of(command.args(args).env("FROSTLOCK_STATE_DIR", self.state()))
    }

    /// Needs a host with v1 hierarchies; some tests break those.
    pub fn dir(&self, controller: &str, below: &str) -> PathBuf {
        let top = Path::new("/sys/fs/cgroup").join(controller);
        assert!(top.join("cgroup.procs").is_file(), "this needs v1 at {}", top.display());
        PathBuf::from(format!("{}{}{below}", top.display(), self.cgroup))
    }

    /// A process in this cgroup of the freezer hierarchy.
    pub fn sleeper(&self, dir: &Path) -> Sleeper {
        let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        std::fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        Sleeper(child)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove(Path::new(&format!("{}{}", hierarchy.path().display(), self.cgroup)));
        }
        remove(Path::new(&format!("/sys/fs/cgroup{}", self.cgroup)));
    }
}

#[derive(Debug)]
pub struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn remove(dir: &Path) {
    let below = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in below.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove(&entry.path());
    }
    let _ = std::fs::write(dir.join("freezer.state"), "THAWED");
    let _ = std::fs::write(dir.join("cgroup.freeze"), "0");
    let until = Instant::now() + Duration::from_secs(5);
    while dir.is_dir() && std::fs::remove_dir(dir).is_err() && Instant::now() < until {
        for pid in std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A bundle for a container that does nothing, with a cgroup in the scratch place.
pub fn bundle(scratch: &Scratch, name: &str, below: &str, annotations: Value) -> PathBuf {
    let bundle = scratch.dir.path().join(name);
    let mut make = Command::new(repository().join("scripts/make-bundle"));
    make.arg("idle").arg(&bundle).args(["--cgroup", &format!("{}{below}", scratch.cgroup)]);
    succeed(&mut make);
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["annotations"] = annotations;
    std::fs::write(&file, config.to_string()).unwrap();
    bundle
}

/// A container that ends with this value.
#[derive(Debug)]
pub struct Container {
    pub runtime: PathBuf,
    pub root: PathBuf,
    pub id: String,
}

impl Container {
    /// `run --detach` by this program, which is the runtime or a frostlock in front of it.
    pub fn run(
        program: &Path,
        runtime: &Path,
        scratch: &Scratch,
        id: &str,
        bundle: &Path,
    ) -> Container {
        let (root, id) = (scratch.dir.path().join("root"), id.to_owned());
        let out = std::fs::File::create(scratch.dir.path().join(format!("{id}.out"))).unwrap();
        let mut run = Command::new(program);
        run.arg("--root").arg(&root).args(["run", "--detach", "--bundle"]).arg(bundle).arg(&id);
        run.env("FROSTLOCK_RUNTIME", runtime).env("FROSTLOCK_STATE_DIR", scratch.state());
        // The container would otherwise inherit our output for its whole life.
        run.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let status = run.status().unwrap();
        let said = std::fs::read_to_string(scratch.dir.path().join(format!("{id}.out")));
        assert!(status.success(), "{run:?}: {said:?}");
        Container { runtime: runtime.to_owned(), root, id }
    }

    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(&self.root).args([verb, &self.id]);
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let mut delete = Command::new(&self.runtime);
        delete.arg("--root").arg(&self.root).args(["delete", "--force", &self.id]);
        let _ = delete.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
