//! `frostlock hook` in real runtimes and real podman, with a cgroup frozen by hand, compared with
//! runs without the hook; and any possible standard input.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod engines;
mod runtimes;
mod stdin;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use testkit::{Scratch, eventually, pids};

const SOON: Duration = Duration::from_secs(10);

/// One at a time: these measure.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The freezer of a cgroup of ours, in either version.
struct Freezer(PathBuf);

impl Freezer {
    fn of(cgroup: &str) -> Freezer {
        let below = cgroup.trim_start_matches('/');
        let v1 = Path::new("/sys/fs/cgroup/freezer");
        let top = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
        let dir = top.join(below);
        std::fs::create_dir_all(&dir).unwrap();
        Freezer(dir)
    }

    fn is_v1(&self) -> bool {
        self.0.join("freezer.state").exists()
    }

    fn set(&self, frozen: bool) {
        let (file, values) = match self.is_v1() {
            true => ("freezer.state", ["THAWED", "FROZEN"]),
            false => ("cgroup.freeze", ["0", "1"]),
        };
        std::fs::write(self.0.join(file), values[usize::from(frozen)]).unwrap();
    }

    fn freeze(&self) {
        self.set(true);
        eventually(SOON, "frozen", || match self.is_v1() {
            true => self.read("freezer.state").trim() == "FROZEN",
            false => self.read("cgroup.events").contains("frozen 1"),
        });
    }

    fn thaw(&self) {
        self.set(false);
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.join(file)).unwrap()
    }

    /// All processes in it and below.
    fn pids(&self) -> Vec<i32> {
        let below = std::fs::read_dir(&self.0).unwrap().flatten().map(|entry| entry.path());
        below.chain([self.0.clone()]).flat_map(|dir| pids(&dir)).collect()
    }
}

fn hook_records(scratch: &Scratch) -> Vec<Value> {
    scratch.journal().into_iter().filter(|record| record["verb"] == "hook").collect()
}

fn ms(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// Our files for containers.
fn ours_of(scratch: &Scratch) -> Vec<PathBuf> {
    let below = ["containers", "locks", "intents"].map(|name| scratch.state().join(name));
    let entries = below.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
