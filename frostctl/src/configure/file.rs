//! Files of other programs: read up to a limit, and replaced as a whole or not at all.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// No engine's configuration comes near this size.
pub(crate) const MAX_BYTES: u64 = 4 << 20;

const DEFAULT_MODE: u32 = 0o644;

/// The text of the file; `None` if there is no file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {path:?}")),
    };
    // Opening a FIFO would block.
    if !metadata.is_file() {
        bail!("{path:?} is not a regular file; nothing was changed");
    }
    let mut bytes = Vec::new();
    let limit = MAX_BYTES + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {path:?}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!(
            "{path:?} is larger than {MAX_BYTES} bytes, too large for a configuration; nothing was \
             changed"
        );
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => bail!("{path:?} is not UTF-8 text; nothing was changed"),
    }
}

/// Replaces what was read before with `text`, in one step. A symlink stays and its target is
/// replaced; mode and owner stay as they were.
pub(crate) fn replace(path: &Path, before: Option<&str>, text: &str) -> anyhow::Result<()> {
    let target = resolve(path)?;
    let directory = target.parent().with_context(|| format!("{target:?} has no directory"))?;
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {directory:?}"))?;
    let beside = not_read_by_an_engine(directory);
    let mut temporary = tempfile::Builder::new()
        .prefix(".frostctl-")
        .tempfile_in(beside)
        .with_context(|| format!("cannot write in {beside:?}"))?;
    let old = std::fs::metadata(&target).ok();
    temporary
        .write_all(text.as_bytes())
        .and_then(|()| take_over(temporary.as_file(), old.as_ref()))
        .and_then(|()| temporary.as_file().sync_all())
        .with_context(|| format!("cannot write {:?}", temporary.path()))?;
    if read(&target)?.as_deref() != before {
        bail!("{target:?} was changed by somebody else just now; nothing was changed, try again");
    }
    temporary.persist(&target).with_context(|| format!("cannot replace {target:?}"))?;
    sync_directory(directory)
}

/// The directory for the temporary file. CRI-O reads every file in its drop-in directory, whatever
/// its name: it would apply a file that a killed frostctl left there, or fail to start because of
/// half of one.
fn not_read_by_an_engine(directory: &Path) -> &Path {
    let device = |path: &Path| std::fs::metadata(path).ok().map(|it| it.dev());
    let parent = directory.parent().filter(|_| directory.extension().is_some_and(|it| it == "d"));
    parent.filter(|parent| device(parent) == device(directory)).unwrap_or(directory)
}

/// Removes only the file: its directory may not have been created by us.
pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {path:?}"))
        }
        _ => Ok(()),
    }
}

/// The same for a file that there may not be before, or after.
pub(crate) fn set(path: &Path, before: Option<&str>, after: Option<&str>) -> anyhow::Result<()> {
    let Some(text) = after else {
        let target = resolve(path)?;
        let found = read(&target)?;
        if found.is_some() && found.as_deref() != before {
            bail!("{target:?} was changed by somebody else meanwhile; it stays");
        }
        return remove(&target);
    };
    replace(path, before, text)
}

fn take_over(file: &File, old: Option<&Metadata>) -> std::io::Result<()> {
    let mode = old.map_or(DEFAULT_MODE, |old| old.permissions().mode() & 0o7777);
    if let Some(old) = old {
        std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()))?;
    }
    // After the owner: changing the owner clears set-id bits.
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

/// What is in the directory, in the order of the names; nothing if it cannot be read.
pub(super) fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Where a symlink leads, even if its target does not exist yet.
fn resolve(path: &Path) -> anyhow::Result<PathBuf> {
    match path.canonicalize() {
        Ok(target) => Ok(target),
        Err(error) if error.kind() == ErrorKind::NotFound => match std::fs::read_link(path) {
            Ok(link) => resolve(&path.parent().unwrap_or(Path::new("/")).join(link)),
            Err(_) => Ok(path.to_owned()),
        },
        Err(error) => Err(error).with_context(|| format!("cannot read {path:?}")),
    }
}

pub(crate) fn sync_directory(directory: &Path) -> anyhow::Result<()> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("cannot sync {directory:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_and_the_mode_of_what_it_points_to_stay() {
        let scratch = tempfile::tempdir().unwrap();
        let [file, link] = ["a \n file", "link"].map(|name| scratch.path().join(name));
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("a \n file", &link).unwrap();
        replace(&link, Some("old"), "new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 2, "nothing is left");
    }

    #[test]
    fn a_link_that_led_nowhere_does_so_again() {
        let scratch = tempfile::tempdir().unwrap();
        let [file, link, links] = ["file", "link", "links"].map(|name| scratch.path().join(name));
        std::os::unix::fs::symlink("file", &link).unwrap();
        std::os::unix::fs::symlink("link", &links).unwrap();
        replace(&links, None, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        set(&links, Some("new"), None).unwrap();
        assert!(link.is_symlink() && links.is_symlink() && !file.exists());
    }

    #[test]
    fn what_somebody_else_wrote_meanwhile_is_not_lost() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        std::fs::write(&file, "theirs").unwrap();
        let error = replace(&file, Some("old"), "new").unwrap_err();
        assert!(error.to_string().contains("by somebody else"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "theirs");
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        std::fs::write(&file, b"\xff\xfe").unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("UTF-8"));
        File::create(&file).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("larger"));
        assert!(read(scratch.path()).unwrap_err().to_string().contains("not a regular file"));
        assert_eq!(read(&scratch.path().join("none")).unwrap(), None);
    }
}
