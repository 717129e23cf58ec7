//! Freezers, used as by a person at a shell.

// Each suite uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

/// One cgroup's freezer, in either version; `Scratch` thaws what was frozen by hand.
#[derive(Debug, Clone)]
pub struct Freezer {
    pub dir: PathBuf,
    v2: bool,
}

impl Freezer {
    pub fn of(cgroup: &str) -> Freezer {
        let top = Path::new("/sys/fs/cgroup");
        let v2 = is_v2();
        let hierarchy = if v2 { top.to_owned() } else { top.join("freezer") };
        Freezer { dir: hierarchy.join(cgroup.trim_start_matches('/')), v2 }
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.join(file)).unwrap_or_default().trim().to_owned()
    }

    /// The control file of a freeze, and the values that start and end it.
    pub fn control(&self) -> (PathBuf, &'static str, &'static str) {
        let (file, freeze, thaw) = if self.v2 {
            ("cgroup.freeze", "1", "0")
        } else {
            ("freezer.state", "FROZEN", "THAWED")
        };
        (self.dir.join(file), freeze, thaw)
    }

    pub fn freeze(&self) {
        let (file, freeze, _) = self.control();
        fs::write(file, freeze).unwrap();
    }

    pub fn thaw(&self) {
        let (file, _, thaw) = self.control();
        fs::write(file, thaw).unwrap();
    }

    /// Whether every task is frozen.
    pub fn is_frozen(&self) -> bool {
        if self.v2 {
            self.read("cgroup.events").lines().any(|line| line == "frozen 1")
        } else {
            self.read("freezer.state") == "FROZEN"
        }
    }

    /// Whether a freeze was requested in this very cgroup, even if it is not complete.
    pub fn is_asked_for(&self) -> bool {
        let file = if self.v2 { "cgroup.freeze" } else { "freezer.self_freezing" };
        self.read(file) == "1"
    }
}

pub fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}
