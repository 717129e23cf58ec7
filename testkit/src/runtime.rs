//! The real runtimes of the lab.

use std::path::PathBuf;

use crate::programs::repository;

/// A real runtime from `scripts/fetch-runtimes`.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub name: String,
    pub path: PathBuf,
    pub version: String,
}

impl Runtime {
    pub fn is_crun(&self) -> bool {
        self.name.starts_with("crun")
    }
}

pub fn lab() -> PathBuf {
    repository().join("target/lab")
}

/// All runtimes; a missing one is a failure, never a skip.
pub fn runtimes() -> Vec<Runtime> {
    let list = lab().join("runtimes");
    let text = std::fs::read_to_string(&list)
        .unwrap_or_else(|error| panic!("{}: {error}; run scripts/fetch-runtimes", list.display()));
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let mut next = || words.next().expect("name path version");
            Runtime { name: next(), path: next().into(), version: next() }
        })
        .collect()
}

pub fn runtime(name: &str) -> Runtime {
    let found = runtimes().into_iter().find(|runtime| runtime.name == name);
    found.unwrap_or_else(|| panic!("{name} is not in target/lab/runtimes"))
}
