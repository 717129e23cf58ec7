//! CRI-O cannot be asked here. What can be known is whether the runtime's state of its containers was
//! read: without it each of its containers looks like one of nobody's.

use std::path::{Path, PathBuf};

use toml::Table;

use super::claim::{Asked, Missed, Source};
use super::supervisor;
use crate::doctor::root;

const CONFIG: &str = "/etc/crio/crio.conf";
const DROP_INS: &str = "/etc/crio/crio.conf.d";

/// Where its runtimes keep their state, if its configuration does not say (`RuntimeRoot` of CRI-O, and
/// what its packages set for crun).
const USUAL: [&str; 2] = ["/run/runc", "/run/crun"];

/// One that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crio {
    pid: i32,
    /// `None` if its files are not to be seen from here.
    roots: Option<Vec<PathBuf>>,
}

pub(crate) fn running() -> Vec<Crio> {
    let is_crio = |pid: &i32| cgroup::process::comm(*pid).is_some_and(|name| name == "crio");
    let all = supervisor::pids().filter(is_crio);
    all.map(|pid| Crio { pid, roots: (!supervisor::is_elsewhere(pid)).then(configured) }).collect()
}

fn configured() -> Vec<PathBuf> {
    let drop_ins = std::fs::read_dir(DROP_INS).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = drop_ins.map(|it| it.path()).collect();
    files.sort();
    files.insert(0, PathBuf::from(CONFIG));
    let texts: Vec<String> = files.iter().filter_map(|it| root::read(it).ok()).collect();
    roots_in(&texts)
}

fn roots_in(texts: &[String]) -> Vec<PathBuf> {
    let tables = texts.iter().filter_map(|text| text.parse::<Table>().ok());
    let mut roots: Vec<PathBuf> = USUAL.map(PathBuf::from).to_vec();
    for table in tables {
        let runtimes = table.get("crio").and_then(|it| it.get("runtime")?.get("runtimes"));
        let runtimes = runtimes.and_then(toml::Value::as_table).into_iter().flatten();
        let named = runtimes.filter_map(|(_, it)| it.get("runtime_root")?.as_str());
        roots.extend(named.filter(|it| !it.is_empty()).map(PathBuf::from));
    }
    roots.sort();
    roots.dedup();
    roots
}

impl Crio {
    /// Those that are to be read, too.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.roots.iter().flatten().map(PathBuf::as_path).filter(|it| it.is_dir())
    }

    /// What is said of it, and whether all that it runs is known by what was read.
    pub(crate) fn judged(&self, asked: &[Asked]) -> (Asked, bool) {
        let was_read = |root: &Path| {
            let place = root.display().to_string();
            asked
                .iter()
                .any(|it| it.source == Source::Runtime && it.place == place && it.answer.is_ok())
        };
        let all: Vec<&Path> = self.roots().collect();
        let is_known = !all.is_empty() && all.iter().all(|root| was_read(root));
        let why = match (is_known, &self.roots) {
            (true, _) => {
                "it has no API that is asked; its containers are known by their runtime's state"
            }
            (false, Some(_)) => {
                "the state of its runtime was not read, so no cgroup is called an orphan's: --root DIR"
            }
            (false, None) => {
                "it runs in another mount namespace, so no cgroup is called an orphan's"
            }
        };
        let place = format!("pid {}", self.pid);
        (Asked::missed(Source::Crio, place, Missed::NotAsked, why), is_known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_configuration_names_roots_beside_the_usual_ones() {
        let main = "[crio.runtime]\ndefault_runtime='crun'\n[crio.runtime.runtimes.crun]\nruntime_root='/run/x'\n";
        let drop_in = "[crio.runtime.runtimes.runc]\nruntime_root='/run/runc'\n[crio.runtime.runtimes.y]\nruntime_root=''\n";
        let texts = [main, drop_in, "[torn"].map(str::to_owned);
        let expected = ["/run/crun", "/run/runc", "/run/x"].map(PathBuf::from);
        assert_eq!(roots_in(&texts), expected);
    }

    #[test]
    fn what_it_runs_is_known_only_if_every_root_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        std::fs::create_dir(&one).unwrap();
        let read = |root: &Path, answer: Result<String, &str>| match answer {
            Ok(what) => Asked {
                source: Source::Runtime,
                place: root.display().to_string(),
                answer: Ok(what),
            },
            Err(why) => {
                Asked::missed(Source::Runtime, root.display().to_string(), Missed::Denied, why)
            }
        };
        let crio = |roots| Crio { pid: 7, roots };
        let both = || crio(Some(vec![one.clone(), two.clone()]));
        let was_read = [read(&one, Ok("1 container".to_owned()))];
        assert!(both().judged(&was_read).1, "the other is not there");
        assert!(!both().judged(&[]).1);
        assert!(!both().judged(&[read(&one, Err("Permission denied"))]).1);
        std::fs::create_dir(&two).unwrap();
        assert!(!both().judged(&was_read).1);
        assert!(!crio(Some(vec![])).judged(&was_read).1);
        assert!(!crio(None).judged(&was_read).1);
    }
}
