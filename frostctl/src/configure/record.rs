//! The state before our change, so that it can be restored byte for byte.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::file;
use super::files::Kind;

/// On disk, since a configuration outlives a reboot. `FROSTCTL_STATE_DIR` names another directory.
const DIRECTORY: &str = "/var/lib/frostlock/configured";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) engine: Engine,
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) binary: String,
    /// Earlier binaries, through which containers may still run.
    #[serde(default)]
    pub(crate) former: Vec<String>,
    /// The file that the engine reads, if it is another one.
    #[serde(default)]
    pub(crate) main: Option<PathBuf>,
    #[serde(default)]
    pub(crate) kind: Kind,
    /// The wrapped runtime.
    #[serde(default)]
    pub(crate) wrapped: Option<String>,
    /// The topmost directory that was created for the file.
    #[serde(default)]
    pub(crate) made: Option<PathBuf>,
    /// `None`: there was no file.
    pub(crate) before: Option<String>,
    pub(crate) after: String,
    pub(crate) ours: Ours,
}

/// Which part of the file is ours, in case somebody has edited the file since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ours {
    Entry {
        /// The default runtime that we replaced, if we did.
        #[serde(default)]
        default: Option<Previous>,
    },
    Import(String),
    /// A block of a Go template.
    Template,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Previous {
    /// `None`: the engine's own default.
    pub(crate) name: Option<String>,
}

pub(crate) fn directory() -> PathBuf {
    std::env::var_os("FROSTCTL_STATE_DIR").map_or_else(|| DIRECTORY.into(), PathBuf::from)
}

impl Record {
    pub(crate) fn load(path: &Path, name: &str) -> anyhow::Result<Option<Record>> {
        Record::read(&location(path, name, "json"))
    }

    /// All records.
    pub(crate) fn all() -> anyhow::Result<Vec<Record>> {
        let directory = directory();
        let files = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files.with_context(|| {
                format!("cannot read {directory:?}, where frostctl keeps what it has configured")
            })?,
        };
        let mut paths: Vec<PathBuf> = files.flatten().map(|file| file.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        let records: anyhow::Result<Vec<_>> = paths.iter().map(|path| Record::read(path)).collect();
        Ok(records?.into_iter().flatten().collect())
    }

    fn read(file: &Path) -> anyhow::Result<Option<Record>> {
        let Some(text) = file::read(file)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).with_context(|| {
            format!("{file:?}, where frostctl keeps what was there before, cannot be read; move it away to go on without it")
        })
    }

    /// All binaries through which its containers may run.
    pub(crate) fn binaries(&self) -> impl Iterator<Item = PathBuf> {
        std::iter::once(&self.binary).chain(&self.former).map(PathBuf::from)
    }

    /// The previous text as a file of its own, for people.
    pub(super) fn backup(&self) -> Option<PathBuf> {
        self.before.as_ref().map(|_| location(&self.path, &self.name, "before"))
    }

    pub(super) fn save(&self) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        if text.len() as u64 > file::MAX_BYTES {
            bail!(
                "{:?} is too large: frostctl's backup of it would exceed {} bytes; nothing was changed",
                self.path,
                file::MAX_BYTES
            );
        }
        let directory = directory();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).with_context(
            || format!("cannot make {directory:?} for the backup; nothing was changed"),
        )?;
        if let (Some(backup), Some(before)) = (self.backup(), &self.before) {
            write(&backup, before)?;
        }
        write(&location(&self.path, &self.name, "json"), &text)
    }

    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        file::remove(&location(&self.path, &self.name, "json"))?;
        file::remove(&location(&self.path, &self.name, "before"))?;
        // Others may have put files into it.
        if let Some(made) = self.made.as_ref().filter(|_| !self.path.exists()) {
            let mut ours = self.path.ancestors().skip(1).take_while(|it| it.starts_with(made));
            let _ = ours.try_for_each(std::fs::remove_dir);
        }
        Ok(())
    }
}

/// Readable by root only: a configuration may hold the passwords of registries.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let old = file::read(path)?;
    file::replace(path, old.as_deref(), text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {path:?}"))
}

/// The path as one file name, escaped as in systemd: "-" for "/", and other unusual bytes in hex.
fn location(path: &Path, name: &str, extension: &str) -> PathBuf {
    let mut flat = String::new();
    for &byte in path.as_os_str().as_encoded_bytes().strip_prefix(b"/").unwrap_or_default() {
        match byte {
            b'/' => flat.push('-'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' => flat.push(char::from(byte)),
            _ => flat.push_str(&format!("\\x{byte:02x}")),
        }
    }
    directory().join(format!("{flat}.{name}.{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_names_of_their_own() {
        let flat = |path: &str| {
            location(Path::new(path), "frostlock", "json").file_name().unwrap().to_owned()
        };
        assert_eq!(flat("/etc/docker/daemon.json"), "etc-docker-daemon.json.frostlock.json");
        assert_eq!(flat("/a-b\n c"), "a\\x2db\\x0a\\x20c.frostlock.json");
        assert_ne!(flat("/a-b"), flat("/a/b"));
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let large = "x".repeat(2 << 20) + "\n";
        let record = Record {
            engine: Engine::Docker,
            path: "/etc/docker/daemon.json".into(),
            name: "frostlock".to_owned(),
            binary: "/x/frostlock".to_owned(),
            former: vec!["/y/frostlock".to_owned()],
            main: None,
            kind: Kind::Own,
            wrapped: None,
            made: None,
            before: Some(large.clone()),
            after: large,
            ours: Ours::Entry { default: None },
        };
        let error = record.save().unwrap_err().to_string();
        assert!(error.contains("too large") && error.contains("nothing was changed"), "{error}");
        let binaries: Vec<PathBuf> = record.binaries().collect();
        assert_eq!(binaries, [Path::new("/x/frostlock"), Path::new("/y/frostlock")]);
    }
}
