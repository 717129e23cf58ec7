//! Freezers, used as by a person at a shell.

use std::fs;
use std::path::PathBuf;

use crate::cpu::Version;

/// One cgroup's freezer, in either version; `Scratch` thaws what was frozen by hand.
#[derive(Debug, Clone)]
pub struct Freezer {
    pub dir: PathBuf,
    v2: bool,
}

impl Freezer {
    pub fn of(cgroup: &str) -> Freezer {
        let version = Version::here();
        Freezer { dir: version.dir("freezer", cgroup), v2: version == Version::V2 }
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
