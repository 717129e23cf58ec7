//! Which versions of containerd and of the runtimes are in use.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::containerd::Containerd;
use super::root::Root;

/// A program that does not say its version in this time is not waited for.
const SAYS_WITHIN: Duration = Duration::from_secs(2);

/// In a recorded tree: what `NAME --version` printed.
const RECORDED: &str = "/versions";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) numbers: [u32; 3],
    /// A release comes after its candidates.
    pub(crate) is_release: bool,
}

impl Version {
    pub(crate) const fn new(major: u32, minor: u32, patch: u32) -> Version {
        Version { numbers: [major, minor, patch], is_release: true }
    }

    /// The first that looks like one: `v1.7.24~ds1`, `1.1.5+ds1`, `1.0.0-rc93`.
    pub(crate) fn find(text: &str) -> Option<Version> {
        text.split_whitespace().find_map(Version::parse)
    }

    fn parse(word: &str) -> Option<Version> {
        let word = word.strip_prefix('v').unwrap_or(word);
        let end = word.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(word.len());
        let (digits, rest) = word.split_at(end);
        let mut parts = digits.trim_end_matches('.').split('.');
        let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let patch = parts.next().and_then(|it| it.parse().ok()).unwrap_or(0);
        let rest = rest.trim_start_matches(['-', '~', '.']);
        let is_release = !["rc", "alpha", "beta"].iter().any(|it| rest.starts_with(it));
        Some(Version { numbers: [major, minor, patch], is_release })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if self.is_release { Ok(()) } else { f.write_str(" (a release candidate)") }
    }
}

#[derive(Debug)]
pub(crate) struct Program {
    /// `containerd`, `runc` or `crun`, by what it says of itself.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) said: String,
    pub(crate) version: Option<Version>,
}

/// containerd and the runtimes of its entries; `runtime` is the one that frostlock runs.
pub(crate) fn read(
    node: &Root,
    containerds: &[Containerd],
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
    let mut programs: Vec<Program> = Vec::new();
    let mut seen = Vec::new();
    for path in paths {
        // frostlock says the version of the runtime behind it.
        let real = which(&path).and_then(|it| std::fs::canonicalize(it).ok());
        let Some(real) = real.filter(|it| !seen.contains(it)) else { continue };
        if let Some(said) = ask(&real) {
            programs.push(Program::of(real.clone(), &said));
        }
        seen.push(real);
    }
    programs.dedup_by(|one, other| one.said == other.said);
    programs
}

impl Program {
    fn of(path: PathBuf, said: &str) -> Program {
        let said = said.lines().next().unwrap_or_default().to_owned();
        let name = said.split_whitespace().next().unwrap_or_default().to_owned();
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

/// The first of what `--version` prints.
fn ask(program: &Path) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let deadline = Instant::now() + SAYS_WITHIN;
    // It is less than a pipe holds, so it can end before we read.
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut said = String::new();
    child.stdout.take()?.take(4096).read_to_string(&mut said).ok()?;
    Some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_the_programs_say_them() {
        let cases = [
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1", "1.6.20"),
            ("containerd github.com/containerd/containerd/v2 v2.1.9 ", "2.1.9"),
            ("runc version 1.1.15+ds1", "1.1.15"),
            ("crun version 1.8.1", "1.8.1"),
            ("crun version 1.21", "1.21.0"),
        ];
        for (said, version) in cases {
            assert_eq!(Version::find(said).unwrap().to_string(), version, "{said}");
        }
    }

    #[test]
    fn a_release_comes_after_its_candidates() {
        assert!(Version::find("runc version 1.0.0-rc93").unwrap() < Version::new(1, 0, 0));
        assert!(Version::find("runc version 1.0.0-rc93").unwrap() > Version::new(0, 9, 9));
    }
}
