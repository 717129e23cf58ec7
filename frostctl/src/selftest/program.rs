//! The only program of the container: frostctl, under another name. A node has no static busybox,
//! and a root file system would have to be found or fetched, but this executable exists. It is
//! mounted read-only with all files that it has mapped; a static build has mapped only itself.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;

/// Its path in the container.
pub(super) const PATH: &str = "/frostlock-selftest";
pub(super) const SPIN: &str = "spin";
/// Ends at once, like a successful probe.
pub(super) const TRUE: &str = "true";

/// As few as needed to make the runtime wait for CPU.
pub(super) const THREADS: usize = 4;

/// The threads end by themselves if nobody is left to end them: soon after the longest selftest.
const LIFE: Duration = Duration::from_secs(75);

/// Runs as the container's program; checked before frostctl's own command line.
pub(crate) fn in_container(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if args.next()? != PATH {
        return None;
    }
    match args.next() {
        Some(what) if what == SPIN => spin(),
        Some(what) if what == TRUE => {}
        _ => return Some(ExitCode::FAILURE),
    }
    Some(ExitCode::SUCCESS)
}

fn spin() {
    let until = Instant::now() + LIFE;
    let one = move || while Instant::now() < until {};
    std::thread::scope(|scope| {
        for _ in 1..THREADS {
            scope.spawn(one);
        }
        one();
    });
}

/// A file of the node, and its path in the container.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) from: PathBuf,
    pub(super) to: PathBuf,
}

/// This executable, and if it is not static, its loader and libraries.
pub(super) fn files() -> anyhow::Result<Vec<Shared>> {
    let own = std::env::current_exe().context("cannot tell which file this frostctl is")?;
    let file = std::fs::File::open(&own).with_context(|| {
        format!("cannot open {}: was frostctl replaced just now?", own.display())
    })?;
    let mut files = vec![Shared { from: own, to: PATH.into() }];
    if let Some(loader) = loader(&file) {
        let maps = std::fs::read("/proc/self/maps").context("cannot read /proc/self/maps")?;
        let libraries = libraries(&maps, &files[0].from);
        let all = std::iter::once(loader).chain(libraries);
        files.extend(all.map(|path| Shared { from: path.clone(), to: path }));
        files.dedup();
    }
    Ok(files)
}

/// PT_INTERP of a 64-bit ELF file; a static one has none. See elf(5).
fn loader(file: &std::fs::File) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    const PT_INTERP: u32 = 3;
    let mut header = [0u8; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    let table = u64::from_le_bytes(header[0x20..0x28].try_into().ok()?);
    let size = u64::from(u16::from_le_bytes(header[0x36..0x38].try_into().ok()?));
    let count = u64::from(u16::from_le_bytes(header[0x38..0x3a].try_into().ok()?));
    (0..count).find_map(|number| {
        let mut entry = [0u8; 56];
        file.read_exact_at(&mut entry, table.checked_add(number * size)?).ok()?;
        let long = |at: usize| Some(u64::from_le_bytes(entry[at..at + 8].try_into().ok()?));
        if u32::from_le_bytes(entry[..4].try_into().ok()?) != PT_INTERP {
            return None;
        }
        let mut name = vec![0u8; long(0x20)?.min(libc::PATH_MAX as u64) as usize];
        file.read_exact_at(&mut name, long(0x08)?).ok()?;
        let name = name.split(|byte| *byte == 0).next()?;
        Some(PathBuf::from(OsStr::from_bytes(name)))
    })
}

/// The paths in proc_pid_maps(5) other than the executable.
fn libraries(maps: &[u8], executable: &Path) -> BTreeSet<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let lines = maps.split(|byte| *byte == b'\n');
    let paths = lines.filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b'/')?;
        Some(PathBuf::from(OsStr::from_bytes(&line[at..])))
    });
    paths.filter(|path| path != executable && path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(args: &[&str]) -> Option<ExitCode> {
        in_container(args.iter().map(OsString::from))
    }

    #[test]
    fn only_by_its_name_in_the_container_is_it_another_program() {
        assert!(called(&["frostctl", TRUE]).is_none());
        assert!(called(&["/usr/local/bin/frostctl", SPIN]).is_none());
        assert!(called(&[]).is_none());
        assert!(called(&[PATH, TRUE]).is_some());
    }

    #[test]
    fn a_dynamic_program_brings_its_loader_and_libraries() {
        let own = std::env::current_exe().unwrap();
        let files = files().unwrap();
        assert_eq!(files[0], Shared { from: own.clone(), to: PATH.into() });
        let is_static = loader(&std::fs::File::open(&own).unwrap()).is_none();
        let has_libc = files.iter().any(|it| it.to.to_string_lossy().contains("libc.so"));
        assert_eq!((files.len() == 1, !has_libc), (is_static, is_static), "{files:?}");
        assert_eq!(loader(&std::fs::File::open("/etc/passwd").unwrap()), None);
    }

    #[test]
    fn what_is_mapped_without_a_path_is_no_library() {
        let maps = b"1-2 r-xp 00000000 fe:01 7      /bin/sh\n1-2 rw-p 0 00:00 0\n1-2 rw-p 0 00:00 0 [heap]\n1-2 r--p 0 fe:01 9 /etc/gone (deleted)\n1-2 r--p 0 fe:01 8  /etc/passwd\n1-2 r--p 0 fe:01 8  /etc/passwd";
        let expected = BTreeSet::from([PathBuf::from("/etc/passwd")]);
        assert_eq!(libraries(maps, Path::new("/bin/sh")), expected);
    }
}
