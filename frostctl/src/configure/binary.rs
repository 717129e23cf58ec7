//! The installed frostlock, and the runtime that it would run.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use config::Config;
use config::locate::{Choice, is_frostlock};

use super::edit::{Wrapped, is_ours};
use crate::program;

const USUAL: &str = "/usr/local/bin/frostlock";

/// Where it is usually installed.
pub(crate) fn usual() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("frostlock"));
    beside.into_iter().chain([PathBuf::from(USUAL)]).collect()
}

pub(crate) fn usual_place() -> PathBuf {
    USUAL.into()
}

/// Its absolute path. Symlinks are not followed: their name says which runtime frostlock runs.
pub(crate) fn find(given: Option<&Path>) -> anyhow::Result<String> {
    let found = match given {
        Some(given) => given.to_owned(),
        None => usual()
            .into_iter()
            .find(|path| program::is_executable(path))
            .or_else(|| program::find("frostlock"))
            .context(
                "no frostlock beside frostctl, in /usr/local/bin or in PATH; name it with --binary",
            )?,
    };
    let path =
        std::path::absolute(&found).with_context(|| format!("cannot tell where {found:?} is"))?;
    if !program::is_executable(&path) {
        bail!("{path:?} is not an executable program");
    }
    if !is_frostlock(&path) {
        bail!("{path:?} is not frostlock");
    }
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!("{path:?} is not UTF-8, which a configuration has to be"),
    }
}

/// The runtime that this frostlock would run. `engine`: a distribution that ships an engine has a
/// runtime beside the engine, and that directory is in the engine's PATH.
pub(crate) fn runtime_of(binary: &str, engine: Option<&Path>) -> anyhow::Result<PathBuf> {
    let (config, _) = Config::load();
    let choice = Choice {
        env: None,
        argv0: OsStr::new(binary),
        config: config.runtime.as_deref(),
        path: Some(search_path(std::env::var_os("PATH").unwrap_or_default(), engine)),
        above: None,
    };
    let found = choice.find_or_fall_back().map(|it| it.path);
    found.context("frostlock would have no runtime to run")
}

fn search_path(path: OsString, engine: Option<&Path>) -> OsString {
    let beside = engine.and_then(Path::parent).map(Path::to_owned);
    let joined = std::env::join_paths(std::env::split_paths(&path).chain(beside));
    // A directory with a colon in its name cannot be in PATH.
    joined.unwrap_or(path)
}

/// If frostlock would run another program than the wrapped entry does: why.
pub(crate) fn mismatch(
    binary: &str,
    wrapped: &Wrapped,
    engine: Option<&Path>,
) -> anyhow::Result<Option<String>> {
    let runs = runtime_of(binary, engine)?;
    let named = match &wrapped.binary {
        Some(program) if is_ours(program) => return Ok(None),
        Some(program) => program.as_str(),
        None if ["runc", "crun", "youki"].contains(&wrapped.name.as_str()) => &wrapped.name,
        None => return Ok(None),
    };
    let path = Path::new(named);
    let same = if path.is_absolute() {
        path.canonicalize().ok() == runs.canonicalize().ok()
    } else {
        // The daemon looks up a bare name in its own PATH, which we do not know.
        runs.file_name() == Some(OsStr::new(named))
    };
    Ok((!same).then(|| {
        format!(
            "the runtime {:?} runs {named}, but frostlock would run {}: set `runtime = {named:?}` \
             in /etc/frostlock/config.toml, wrap another with --wrap, or add --force",
            wrapped.name,
            runs.display()
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_of_a_distribution_is_beside_its_engine_and_comes_last() {
        let engine = Path::new("/var/lib/rancher/k3s/data/x/bin/containerd");
        let path = |engine| search_path("/usr/bin:/bin".into(), engine);
        assert_eq!(path(Some(engine)), "/usr/bin:/bin:/var/lib/rancher/k3s/data/x/bin");
        assert_eq!(path(None), "/usr/bin:/bin");
        assert_eq!(path(Some(Path::new("/a:b/containerd"))), "/usr/bin:/bin");
    }
}
