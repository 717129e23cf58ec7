//! Finds the runtime that does the work, which is never frostlock.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// podman calls `state` with only XDG_RUNTIME_DIR in the environment. Others have a PATH without the
/// sbin directories in which Debian keeps runc.
const FALLBACK_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const DEFAULT_RUNTIMES: &[&str] = &["runc", "crun"];

/// Runtimes of which any other program of the same name can manage the containers.
const KINDS: &[&str] = &["runc", "crun", "youki"];

const LINK_PREFIX: &str = "frostlock-";

/// The name of a section in every binary of ours (src/main.rs). A copy of another version that is
/// installed as `runc` has another inode and other contents; without this mark two copies could execute
/// each other for ever.
const MARK: &str = ".frostlock";

/// Why there is no runtime to run.
#[derive(Debug, PartialEq, Eq)]
pub struct NoRuntime {
    tried: Vec<String>,
    /// One of the runtimes found is one that has called us.
    is_a_loop: bool,
}

impl NoRuntime {
    fn and(mut self, other: NoRuntime) -> NoRuntime {
        self.tried.extend(other.tried);
        self.is_a_loop |= other.is_a_loop;
        self
    }
}

impl std::error::Error for NoRuntime {}

impl fmt::Display for NoRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot find the runtime: {}", self.tried.join("; "))
    }
}

/// The runtime to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub path: PathBuf,
    /// Why it is not the one that the configuration names; for the log.
    pub fell_back: Option<String>,
}

/// What can name the runtime, strongest first.
#[derive(Debug)]
pub struct Choice<'a> {
    /// The variable FROSTLOCK_RUNTIME.
    pub env: Option<OsString>,
    /// The name by which we were called: a link `frostlock-crun` runs crun.
    pub argv0: &'a OsStr,
    pub config: Option<&'a OsStr>,
    /// The variable PATH.
    pub path: Option<OsString>,
    /// The variable [`ABOVE`].
    pub above: Option<OsString>,
}

/// The scripts that a frostlock above us has run as its runtime, by device and inode. If such a script
/// calls `runc` and finds us, we would call it again, and so on without end.
pub const ABOVE: &str = "FROSTLOCK_RUN_BY";

impl Choice<'_> {
    /// The runtime named for this one process, by its environment or by the link that called it.
    fn asked_for(&self) -> Option<OsString> {
        let by_name = Path::new(self.argv0)
            .file_name()
            .and_then(OsStr::to_str)
            .and_then(|name| name.strip_prefix(LINK_PREFIX))
            .filter(|name| !name.is_empty())
            .map(OsString::from);
        self.env.clone().filter(|name| !name.is_empty()).or(by_name)
    }

    /// The path of the runtime, as found. A link keeps its name, because crun picks its handler by
    /// that.
    pub fn find(&self) -> Result<PathBuf, NoRuntime> {
        match self.asked_for().or_else(|| self.config.map(OsString::from)) {
            Some(name) => self.first_of([name]),
            None => self.first_of(DEFAULT_RUNTIMES.iter().map(OsString::from)),
        }
    }

    /// The same, but a missing runtime from the configuration costs the node nothing: another of its
    /// kind is looked for. Not so for a runtime that a single caller asked for.
    pub fn find_or_fall_back(&self) -> Result<Found, NoRuntime> {
        let error = match self.find() {
            Ok(path) => return Ok(Found { path, fell_back: None }),
            Err(error) => error,
        };
        let Some(config) = self.config.filter(|_| self.asked_for().is_none()) else {
            return Err(error);
        };
        // That runtime exists, and another would not end the loop that it has made.
        if error.is_a_loop {
            return Err(error);
        }
        let path = match self.first_of(substitutes(config)) {
            Ok(path) => path,
            Err(other) => return Err(error.and(other)),
        };
        let why = error.tried.join("; ");
        let config = config.to_string_lossy();
        let fell_back =
            format!("runtime = {config:?} cannot be used ({why}): fell back to {}", path.display());
        Ok(Found { path, fell_back: Some(fell_back) })
    }

    /// The first of these names that exists.
    fn first_of(&self, names: impl IntoIterator<Item = OsString>) -> Result<PathBuf, NoRuntime> {
        let mut tried = Vec::new();
        let mut is_a_loop = false;
        for name in names {
            let before = tried.len();
            let candidates = self.candidates(&name);
            for candidate in &candidates {
                match examine(candidate) {
                    Candidate::Runtime if self.has_called_us(candidate) => {
                        is_a_loop = true;
                        let who = candidate.display();
                        tried.push(format!("{who} has called frostlock, and would again: in it, name the runtime by its path"));
                    }
                    Candidate::Runtime => return Ok(candidate.clone()),
                    Candidate::Absent => {}
                    Candidate::Unusable(why) => {
                        tried.push(format!("{} {why}", candidate.display()));
                    }
                }
            }
            tried.push(match candidates.as_slice() {
                [] => format!("{} is neither a name nor an absolute path", name.to_string_lossy()),
                // A reason is given already.
                [_] if tried.len() > before => continue,
                [one] if one.as_os_str() == name => {
                    format!("{} is not there", name.to_string_lossy())
                }
                _ => format!("no other {} in PATH", name.to_string_lossy()),
            });
        }
        Err(NoRuntime { tried, is_a_loop })
    }

    fn has_called_us(&self, candidate: &Path) -> bool {
        let above = self.above.as_ref().map(|above| above.to_string_lossy());
        above
            .zip(number(candidate))
            .is_some_and(|(above, one)| above.split(' ').any(|it| it == one))
    }

    /// The value of [`ABOVE`] for a runtime that is a script.
    pub fn above_next(&self, runtime: &Path) -> Option<OsString> {
        let number = is_script(runtime).then(|| number(runtime))??;
        Some(match &self.above {
            Some(above) => [above.as_os_str(), OsStr::new(&number)].join(OsStr::new(" ")),
            None => number.into(),
        })
    }

    fn candidates(&self, name: &OsStr) -> Vec<PathBuf> {
        let as_path = Path::new(name);
        if as_path.is_absolute() {
            return vec![as_path.to_owned()];
        }
        if as_path.components().count() != 1 || as_path.file_name().is_none() {
            return Vec::new();
        }
        let path = self.path.clone().unwrap_or_default();
        std::env::split_paths(&path)
            .chain(std::env::split_paths(FALLBACK_PATH))
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(name))
            .collect()
    }
}

/// What to look for instead of a missing runtime: one of its name elsewhere, then one whose name lacks
/// the version. None for any other name, which may belong to a sandbox with no substitute. A container
/// that a runtime of another kind made is lost when the right one is back: neither knows the other's
/// containers, and each deletes what it does not know.
fn substitutes(named: &OsStr) -> Vec<OsString> {
    let name = Path::new(named).file_name().and_then(OsStr::to_str).unwrap_or_default();
    let is_version = |rest: &str| rest.chars().all(|c| c.is_ascii_digit() || "-._v".contains(c));
    let plain = KINDS.iter().find(|kind| name.strip_prefix(**kind).is_some_and(is_version));
    let mut names: Vec<OsString> =
        plain.iter().flat_map(|kind| [name.into(), kind.into()]).collect();
    names.dedup();
    names
}

enum Candidate {
    Runtime,
    Absent,
    Unusable(String),
}

fn examine(path: &Path) -> Candidate {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Candidate::Absent,
        // A file that may be executed but not read is not recognised as a copy of ours.
        Err(error) => {
            return match nix::unistd::access(path, nix::unistd::AccessFlags::X_OK) {
                Ok(()) => Candidate::Runtime,
                Err(_) => Candidate::Unusable(format!("cannot be used: {error}")),
            };
        }
    };
    let Ok(metadata) = file.metadata() else { return Candidate::Absent };
    if !metadata.is_file() {
        return Candidate::Unusable("is not a regular file".to_owned());
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Candidate::Unusable("is not executable".to_owned());
    }
    // Every file of ours has the mark, unless it has been stripped of all sections.
    if carries_mark(&file).unwrap_or_else(|| is_this_process(&metadata)) {
        return Candidate::Unusable("is frostlock itself".to_owned());
    }
    Candidate::Runtime
}

/// Whether this file is frostlock, also by a link.
pub fn is_frostlock(path: &Path) -> bool {
    open(path).is_ok_and(|file| carries_mark(&file) == Some(true))
}

/// The version in the mark of a binary of ours; none if the mark is from before it had one.
pub fn version_of(path: &Path) -> Option<String> {
    const MOST: usize = 64;
    let file = open(path).ok().filter(|file| carries_mark(file) == Some(true))?;
    let mut header = [0u8; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    let half = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let first = u64::from_le_bytes(header[0x28..0x30].try_into().ok()?);
    let section = |number: u64| {
        let mut section = [0u8; 64];
        let at = first.checked_add(half(0x3a) * number)?;
        file.read_exact_at(&mut section, at).ok()?;
        let word = |at: usize| section[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        Some((u32::from_le_bytes(section[..4].try_into().ok()?), word(0x18)?, word(0x20)?))
    };
    let (_, names, _) = section(half(0x3e))?;
    let is_the_mark = |name: u32| {
        let mut found = [0u8; MARK.len() + 1];
        let read = names.checked_add(u64::from(name)).map(|at| file.read_exact_at(&mut found, at));
        read.is_some_and(|it| it.is_ok()) && found.strip_suffix(&[0]) == Some(MARK.as_bytes())
    };
    let sections = (0..half(0x3c)).filter_map(section);
    let (_, offset, size) = sections.into_iter().find(|(name, ..)| is_the_mark(*name))?;
    let mut text = vec![0u8; MOST.min(usize::try_from(size).ok()?)];
    file.read_exact_at(&mut text, offset).ok()?;
    let text = String::from_utf8(text).ok()?;
    text.trim_end_matches('\0').strip_prefix("frostlock ").map(str::to_owned)
}

/// Identifies a file that may have several names.
fn number(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(format!("{}:{}", metadata.dev(), metadata.ino()))
}

/// Whether it is a script, run by a program that it names.
fn is_script(path: &Path) -> bool {
    let mut start = [0u8; 2];
    open(path).and_then(|file| file.read_exact_at(&mut start, 0)).is_ok() && start == *b"#!"
}

/// If a FIFO is in its place, the open must not block.
pub(crate) fn open(path: &Path) -> std::io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn is_this_process(metadata: &std::fs::Metadata) -> bool {
    std::fs::metadata("/proc/self/exe")
        .is_ok_and(|own| (own.dev(), own.ino()) == (metadata.dev(), metadata.ino()))
}

/// Whether an ELF file has a section with our name; none if it is not an ELF file or has no sections.
/// Three short reads: the file header, the header of the section that holds the names, the names.
fn carries_mark(file: &File) -> Option<bool> {
    const NAMES_MAX: usize = 4096;
    let mut header = [0u8; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]) as u64;
    let sections = u64::from_le_bytes(header[0x28..0x30].try_into().ok()?);
    if sections == 0 || word(0x3c) == 0 {
        return None;
    }
    let names_header = sections.checked_add(word(0x3a) * word(0x3e))?;
    let mut section = [0u8; 64];
    file.read_exact_at(&mut section, names_header).ok()?;
    let offset = u64::from_le_bytes(section[0x18..0x20].try_into().ok()?);
    let size = u64::from_le_bytes(section[0x20..0x28].try_into().ok()?);
    let mut names = [0u8; NAMES_MAX];
    let names = &mut names[..NAMES_MAX.min(size as usize)];
    let length = file.read_at(names, offset).ok()?;
    // As text: std searches text by machine words, and bytes one by one.
    let names = String::from_utf8_lossy(&names[..length]);
    Some(names.contains(&format!("\0{}\0", MARK)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn program(path: &Path) -> PathBuf {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_owned()
    }

    fn choice<'a>(path: &Path, argv0: &'a str) -> Choice<'a> {
        let (path, argv0) = (Some(path.into()), OsStr::new(argv0));
        Choice { env: None, argv0, config: None, path, above: None }
    }

    #[test]
    fn env_beats_the_link_name_beats_the_config() {
        let bin = tempfile::tempdir().unwrap();
        let [one, two, three] =
            ["zrunc", "zcrun", "zyouki"].map(|name| program(&bin.path().join(name)));
        let all = Choice {
            env: Some("zrunc".into()),
            config: Some(OsStr::new("zyouki")),
            ..choice(bin.path(), "/x/frostlock-zcrun")
        };
        assert_eq!(all.find(), Ok(one));
        let link = Choice { env: None, ..all };
        assert_eq!(link.find(), Ok(two));
        assert_eq!(Choice { argv0: OsStr::new("frostlock"), ..link }.find(), Ok(three));
    }

    /// The shortest ELF file with a section of our name: a header, the headers of the section of names
    /// and of our section, the names, and the contents of our section.
    fn marked(path: &Path, says: &str) -> PathBuf {
        const HEADER: usize = 0x40;
        let names = format!("\0{MARK}\0");
        let mut file = vec![0_u8; 3 * HEADER];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01");
        put(0x28, &(HEADER as u64).to_le_bytes());
        put(0x3a, &(HEADER as u16).to_le_bytes());
        put(0x3c, &2_u16.to_le_bytes());
        let (names_at, says_at) = (3 * HEADER, 3 * HEADER + names.len());
        for (section, name, at, size) in
            [(1, 0_u32, names_at, names.len()), (2, 1, says_at, says.len())]
        {
            put(section * HEADER, &name.to_le_bytes());
            put(section * HEADER + 0x18, &(at as u64).to_le_bytes());
            put(section * HEADER + 0x20, &(size as u64).to_le_bytes());
        }
        file.extend_from_slice(names.as_bytes());
        file.extend_from_slice(says.as_bytes());
        std::fs::write(path, file).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_owned()
    }

    #[test]
    fn ourselves_under_the_runtimes_name_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second, third) =
            (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        std::fs::create_dir(&first).unwrap();
        std::fs::create_dir(&second).unwrap();
        let own = marked(&dir.path().join("frostlock"), "frostlock");
        symlink(&own, first.join("zrunc")).unwrap();
        std::fs::copy(&own, second.join("zrunc")).unwrap();
        let real = program(&third.join("zrunc"));
        let path = std::env::join_paths([&first, &second, &third]).unwrap();
        let choice = Choice { path: Some(path), ..choice(dir.path(), "frostlock-zrunc") };
        assert_eq!(choice.find(), Ok(real.clone()));
        std::fs::remove_file(real).unwrap();
        let error = choice.find().unwrap_err().to_string();
        assert_eq!(error.matches("is frostlock itself").count(), 2, "{error}");
    }

    #[test]
    fn a_binary_of_ours_says_its_version_without_being_run() {
        let dir = tempfile::tempdir().unwrap();
        let own = marked(&dir.path().join("frostlock"), "frostlock 1.2.3");
        assert_eq!(version_of(&own).as_deref(), Some("1.2.3"));
        let before = marked(&dir.path().join("before"), "frostlock");
        assert!(is_frostlock(&before) && version_of(&before).is_none());
        let script = program(&dir.path().join("zrunc"));
        let torn = dir.path().join("torn");
        let whole = std::fs::read(&own).unwrap();
        std::fs::write(&torn, &whole[..whole.len() / 2]).unwrap();
        for other in [&script, &torn, &dir.path().join("none"), &PathBuf::from("/bin/sh")] {
            assert_eq!(version_of(other), None, "{}", other.display());
        }
    }

    #[test]
    fn an_absent_runtime_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("nope");
        let named = Choice { env: Some(missing.clone().into()), ..choice(dir.path(), "frostlock") };
        let error = named.find().unwrap_err().to_string();
        assert_eq!(error, format!("cannot find the runtime: {} is not there", missing.display()));
    }

    #[test]
    fn only_a_runtime_of_the_configuration_is_replaced() {
        let [bin, none] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let runc = program(&bin.path().join("runc"));
        let missing = none.path().join("runc-1.3");
        let config = Some(missing.as_os_str());
        let typo = Choice { config, ..choice(bin.path(), "frostlock") };
        let found = typo.find_or_fall_back().unwrap();
        assert_eq!(found.path, runc);
        let said = format!(
            "runtime = {missing:?} cannot be used ({0} is not there): fell back to {1}",
            missing.display(),
            runc.display()
        );
        assert_eq!(found.fell_back.as_deref(), Some(&*said));
        let sandbox = none.path().join("runsc");
        let sandbox =
            Choice { config: Some(sandbox.as_os_str()), ..choice(bin.path(), "frostlock") };
        assert!(sandbox.find_or_fall_back().is_err());
        let env = Choice { env: Some("znone".into()), ..typo };
        assert!(env.find_or_fall_back().is_err());
        let link = Choice { env: None, argv0: OsStr::new("frostlock-znone"), ..env };
        assert!(link.find_or_fall_back().is_err());
        let good = Choice { config: Some(runc.as_os_str()), ..choice(bin.path(), "frostlock") };
        assert_eq!(good.find_or_fall_back().unwrap().fell_back, None);
    }

    #[test]
    fn what_takes_the_place_of_a_missing_runtime() {
        for (named, expected) in [
            ("runc", &["runc"] as &[&str]),
            ("/x/runc", &["runc"]),
            ("/x/runc-1.3.6", &["runc-1.3.6", "runc"]),
            ("crun-1.21", &["crun-1.21", "crun"]),
            ("/x/youki", &["youki"]),
            ("/x/runsc", &[]),
            ("/x/rnuc", &[]),
            ("krun", &[]),
            ("crun-wasm", &[]),
            ("/opt/kata/bin/kata-runtime", &[]),
            ("nvidia-container-runtime", &[]),
            ("sysbox-runc", &[]),
            ("/", &[]),
            ("", &[]),
        ] {
            assert_eq!(substitutes(OsStr::new(named)), expected, "{named}");
        }
    }

    #[test]
    fn a_script_that_has_called_us_is_not_called() {
        let [one, two] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let script = program(&one.path().join("zrunc"));
        assert!(is_script(&script) && !is_script(&std::env::current_exe().unwrap()));
        let path = std::env::join_paths([one.path(), two.path()]).unwrap();
        let above = choice(one.path(), "frostlock-zrunc").above_next(&script);
        // The same script under two names.
        symlink(&script, one.path().join("zcrun")).unwrap();
        let choice = Choice { path: Some(path), above, ..choice(one.path(), "frostlock-zrunc") };
        let link = Choice { argv0: OsStr::new("frostlock-zcrun"), ..choice };
        let error = link.find().unwrap_err().to_string();
        assert!(error.contains("has called frostlock"), "{error}");
        let choice = Choice { argv0: OsStr::new("frostlock-zrunc"), ..link };
        let error = choice.find().unwrap_err().to_string();
        assert!(error.contains("has called frostlock"), "{error}");
        let other = program(&two.path().join("zrunc"));
        assert_eq!(choice.find(), Ok(other.clone()));
        let both = Choice { above: choice.above_next(&other), ..choice };
        assert!(both.find().is_err(), "two that call us in turn");
    }

    #[test]
    fn something_not_executable_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("zrunc"), "").unwrap();
        let error = choice(dir.path(), "frostlock-zrunc").find().unwrap_err().to_string();
        assert!(error.contains("is not executable; no other zrunc in PATH"), "{error}");
    }
}
