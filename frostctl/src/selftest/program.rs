//! The only program of the container: frostctl, under another name. A node has no static busybox,
//! and a root file system would have to be found or fetched, but this executable exists. It is
//! mounted read-only with all files that it has mapped; a static build has mapped only itself.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::elf;

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
    if let Some(loader) = elf::loader(&file).flatten() {
        let maps = std::fs::read("/proc/self/maps").context("cannot read /proc/self/maps")?;
        let libraries = libraries(&maps, &files[0].from);
        let all = std::iter::once(loader).chain(libraries);
        files.extend(all.map(|path| Shared { from: path.clone(), to: path }));
        files.dedup();
    }
    Ok(files)
}

/// Where its loader finds the libraries: LD_LIBRARY_PATH.
pub(super) fn library_path(shared: &[Shared]) -> String {
    let libraries = shared.iter().skip(1).filter_map(|it| it.to.parent());
    libraries.map(Path::to_string_lossy).collect::<Vec<_>>().join(":")
}

/// The paths in proc_pid_maps(5) other than the executable.
fn libraries(maps: &[u8], executable: &Path) -> BTreeSet<PathBuf> {
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
        let is_static = elf::loader(&std::fs::File::open(&own).unwrap()) == Some(None);
        let has_libc = files.iter().any(|it| it.to.to_string_lossy().contains("libc.so"));
        assert_eq!((files.len() == 1, !has_libc), (is_static, is_static), "{files:?}");
    }

    #[test]
    fn what_is_mapped_without_a_path_is_no_library() {
        let maps = b"1-2 r-xp 00000000 fe:01 7      /bin/sh\n1-2 rw-p 0 00:00 0\n1-2 rw-p 0 00:00 0 [heap]\n1-2 r--p 0 fe:01 9 /etc/gone (deleted)\n1-2 r--p 0 fe:01 8  /etc/passwd\n1-2 r--p 0 fe:01 8  /etc/passwd";
        let expected = BTreeSet::from([PathBuf::from("/etc/passwd")]);
        assert_eq!(libraries(maps, Path::new("/bin/sh")), expected);
    }
}
