//! A scratch place that cleans up after itself, whatever happens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::cgroup::remove_cgroup;
use crate::command::text;
use crate::programs::{frostlock, repository};

/// A directory, a state directory, and a cgroup name; on drop, containers in it are killed and
/// removed with their cgroups.
#[derive(Debug)]
pub struct Scratch {
    dir: tempfile::TempDir,
    pub cgroup: String,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

/// As scripts/make-bundle makes it. Made once: the script takes 60 ms, and some suites make
/// thousands.
fn configuration(scene: &str) -> Value {
    static MADE: Mutex<BTreeMap<String, Value>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(scene.to_owned()).or_insert_with(|| make_configuration(scene)).clone()
}

fn make_configuration(scene: &str) -> Value {
    let dir = tempfile::Builder::new().prefix("frostlock-").tempdir_in("/dev/shm").unwrap();
    let made = Command::new(repository().join("scripts/make-bundle"))
        .arg(scene)
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "make-bundle: {}", text(&made.stderr));
    serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap()
}

impl Scratch {
    pub fn new() -> Scratch {
        assert!(nix::unistd::geteuid().is_root(), "the kernel suites need root");
        default_signals();
        // On tmpfs, like /run.
        let dir = tempfile::Builder::new().prefix("frostlock-").tempdir_in("/dev/shm").unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/frostlock-test-{}-{number}", std::process::id());
        Scratch { dir, cgroup }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// A bundle of a scene in test-bundles/, in the cgroup `CGROUP/ID`.
    pub fn bundle(&self, scene: &str, id: &str) -> PathBuf {
        let bundle = self.path(&format!("bundle-{id}"));
        let mut config = configuration(scene);
        config["linux"]["cgroupsPath"] = format!("{}/{id}", self.cgroup).into();
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        bundle
    }

    pub fn edit(&self, bundle: &Path, change: impl FnOnce(&mut Value)) {
        let path = bundle.join("config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
    }

    /// The bare runtime, with our root.
    pub fn bare(&self, runtime: &Path) -> Command {
        let mut command = Command::new(runtime);
        command.arg("--root").arg(self.root()).stdin(Stdio::null());
        command
    }

    /// The same through the wrapper.
    pub fn wrapped(&self, runtime: &Path) -> Command {
        self.wrapped_by(&frostlock(), runtime)
    }

    pub fn wrapped_by(&self, binary: &Path, runtime: &Path) -> Command {
        let mut command = Command::new(binary);
        command
            .arg("--root")
            .arg(self.root())
            .env("FROSTLOCK_RUNTIME", runtime)
            .env("FROSTLOCK_STATE_DIR", self.state())
            .env("FROSTLOCK_CONFIG", "/dev/null")
            .stdin(Stdio::null());
        command
    }

    /// The records that can be parsed, as readers must do: a writer that finds another at work
    /// takes the other's line for a torn one and starts a new one, and a killed writer leaves a
    /// partial line.
    pub fn journal(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.state().join("journal.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub fn lock_files(&self) -> Vec<PathBuf> {
        let Ok(files) = std::fs::read_dir(self.state().join("locks")) else { return Vec::new() };
        files.flatten().map(|file| file.path()).collect()
    }
}

impl Scratch {
    /// Kills what runs in our cgroups, removes them, and removes the state of runtime and wrapper.
    /// Not through the runtime: `delete --force` returns 0 and leaves processes and cgroups behind
    /// in the very cases that are tested. Returns the directories that could not be removed.
    pub fn clear(&self) -> Vec<PathBuf> {
        let left = remove_cgroup(&self.cgroup);
        for dir in [self.root(), self.state()] {
            let _ = std::fs::remove_dir_all(dir);
        }
        left
    }
}

/// In the background of a shell, or below nohup, a suite has some signals ignored, and so would its
/// children. Signals sent in the tests would do nothing, and from 1.2 on a race in runc decides
/// whether its container's process inherits an ignored SIGHUP.
fn default_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for which in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        // SAFETY: the default action is no handler of ours.
        #[allow(unsafe_code)]
        unsafe { signal(which, SigHandler::SigDfl) }.unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let left = self.clear();
        if !left.is_empty() && !std::thread::panicking() {
            panic!("cgroups left behind: {left:?}");
        }
    }
}
