//! Which versions of containerd and of the runtimes are in use.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::containerd::Containerd;
use super::processes::Running;
use super::root::Root;
use crate::version::Version;

/// A program that does not say its version in this time is not waited for.
const SAYS_WITHIN: Duration = Duration::from_secs(2);

/// In a recorded tree: what `NAME --version` printed.
const RECORDED: &str = "/versions";

#[derive(Debug)]
pub(crate) struct Program {
    /// `containerd`, `runc` or `crun`, by what it says of itself.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Nothing, if it did not answer.
    pub(crate) said: String,
    pub(crate) version: Option<Version>,
}

/// containerd, kubelet, and the runtimes of containerd's entries; `runtime` is the one that frostlock
/// runs.
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
        let binary = |it: &super::containerd::Entry| it.binary.clone();
        paths.extend(containerd.entries.iter().map(|it| binary(it).unwrap_or("runc".into())));
    }
    paths.extend(runtime.map(Path::to_owned));
    let kubelet = running.iter().filter(|it| it.is_here && it.comm == "kubelet");
    paths.extend(kubelet.filter_map(|it| it.exe.clone()));
    let mut programs: Vec<Program> = Vec::new();
    let mut seen = Vec::new();
    for path in paths {
        // frostlock says the version of the runtime behind it.
        let real = which(&path).and_then(|it| std::fs::canonicalize(it).ok());
        let Some(real) = real.filter(|it| !seen.contains(it)) else { continue };
        programs.push(Program::of(real.clone(), &ask(&real).unwrap_or_default()));
        seen.push(real);
    }
    programs.dedup_by(|one, other| one.said == other.said && !one.said.is_empty());
    programs
}

impl Program {
    fn of(path: PathBuf, said: &str) -> Program {
        let said = said.lines().next().unwrap_or_default().to_owned();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let name = said.split_whitespace().next().unwrap_or(&file).to_owned();
        Program { version: Version::find(&said), name, path, said }
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

pub(crate) fn which(name: &Path) -> Option<PathBuf> {
    if name.is_absolute() {
        return Some(name.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"].map(PathBuf::from);
    let directories = std::env::split_paths(&path).chain(usual);
    directories.map(|directory| directory.join(name)).find(|path| path.is_file())
}

pub(crate) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

/// The first of what `--version` prints.
fn ask(program: &Path) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let deadline = Instant::now() + SAYS_WITHIN;
    // It is less than a pipe holds, so it can end before we read.
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > deadline {
            crate::configure::program::end(&mut child);
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut said = String::new();
    child.stdout.take()?.take(4096).read_to_string(&mut said).ok()?;
    Some(said)
}
