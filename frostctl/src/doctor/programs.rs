//! The versions of containerd and of the runtimes in use.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::node::containerd::Containerd;
use crate::node::processes::Running;
use crate::node::root::Root;
use crate::program;
use crate::version::Version;

/// How long to wait for a program's version.
const SAYS_WITHIN: Duration = Duration::from_secs(2);

/// In a recorded tree: the output of `NAME --version`.
const RECORDED: &str = "/versions";

#[derive(Debug)]
pub(crate) struct Program {
    /// `containerd`, `runc` or `crun`, as the program calls itself.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Empty if it did not answer.
    pub(crate) said: String,
    pub(crate) version: Option<Version>,
    /// Why it was not run.
    pub(crate) refused: Option<String>,
}

/// containerd, kubelet, and the runtimes of containerd's entries; `runtime` is the one that
/// frostlock runs.
pub(crate) fn read(
    node: &Root,
    containerds: &[Containerd],
    running: &[Running],
    runtime: Option<&Path>,
) -> Vec<Program> {
    if !node.is_live() {
        return recorded(node);
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for containerd in containerds {
        paths.extend(containerd.running.as_ref().and_then(|it| it.exe.clone()));
        let binaries = containerd.entries.iter().map(|it| it.binary.clone());
        paths.extend(binaries.map(|it| it.unwrap_or("runc".into())));
    }
    paths.extend(runtime.map(Path::to_owned));
    let kubelet = running.iter().filter(|it| it.is_here && it.comm == "kubelet");
    paths.extend(kubelet.filter_map(|it| it.exe.clone()));
    let mut programs: Vec<Program> = Vec::new();
    let mut seen = HashSet::new();
    for path in paths {
        // frostlock reports the version of the runtime behind it.
        let Some(real) = program::find(&path).and_then(|it| std::fs::canonicalize(it).ok()) else {
            continue;
        };
        if !seen.insert(real.clone()) {
            continue;
        }
        programs.push(match program::trusted(&path) {
            Ok(it) => {
                let said = program::run(Command::new(it).arg("--version"), SAYS_WITHIN);
                Program::of(real, &said.unwrap_or_default())
            }
            Err(why) => Program { refused: Some(why.to_string()), ..Program::of(real, "") },
        });
    }
    programs.dedup_by(|one, other| one.said == other.said && !one.said.is_empty());
    programs
}

impl Program {
    fn of(path: PathBuf, said: &str) -> Program {
        let said = said.lines().next().unwrap_or_default().to_owned();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let name = said.split_whitespace().next().unwrap_or(&file).to_owned();
        Program { version: Version::find(&said), name, path, said, refused: None }
    }
}

fn recorded(node: &Root) -> Vec<Program> {
    let entries = std::fs::read_dir(node.path(RECORDED.as_ref())).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| Path::new(RECORDED).join(entry.file_name())).collect();
    paths.sort();
    let said = paths.into_iter().filter_map(|path| Some((node.read(&path).ok()?, path)));
    said.map(|(said, path)| Program::of(path, &said)).collect()
}
