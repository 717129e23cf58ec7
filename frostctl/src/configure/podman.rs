//! What podman has to be told of a runtime beside its path.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use toml_edit::{Array, DocumentMut, Item, Value, value};

use super::edit::{Edited, Wish};
use super::engine::Engine;
use super::record::Previous;
use super::{check, file, program, toml_file};

/// The runtimes that get a log. From it podman takes the error of a failed create, and without one
/// frostlock repeats none.
const WITH_LOG: &str = "runtime_supports_json";

/// podman's own, 4.3 to 5.8; a list in a file takes their place.
const BUILT_IN: [&str; 7] = ["crun", "runc", "kata", "runsc", "youki", "krun", "ocijail"];

/// In the order in which podman reads them; the last list wins.
const FILES: [&str; 2] =
    ["/usr/share/containers/containers.conf", "/etc/containers/containers.conf"];
const DROP_INS: &str = "/etc/containers/containers.conf.d";

/// The runtime that podman takes by itself; none without a podman. Most have crun and runc, and then
/// it is crun.
pub(crate) fn effective() -> anyhow::Result<Option<DocumentMut>> {
    let Some(podman) = program::find("podman") else { return Ok(None) };
    let mut info = Command::new(podman);
    info.args(["info", "--format", "{{json .Host.OCIRuntime}}"]);
    let said = program::run(&mut info, check::LIMIT)?;
    let said: Runtime = serde_json::from_str(&said).context("what `podman info` prints")?;
    let mut document = DocumentMut::new();
    document["engine"]["runtime"] = value(&said.name);
    document["engine"]["runtimes"][&said.name] = value(Array::from_iter([said.path]));
    Ok(Some(document))
}

#[derive(serde::Deserialize)]
struct Runtime {
    name: String,
    path: String,
}

pub(crate) fn configure(
    text: &str,
    wish: &Wish<'_>,
    effective: Option<&DocumentMut>,
    ours: &Path,
) -> anyhow::Result<Edited> {
    let mut edited = toml_file::configure(Engine::Podman, text, wish, effective)?;
    edited.text = listed(&edited.text, wish.name, || elsewhere(ours))?;
    Ok(edited)
}

pub(crate) fn unconfigure(
    text: &str,
    name: &str,
    before: Option<&Previous>,
) -> anyhow::Result<Option<String>> {
    let taken = toml_file::unconfigure(Engine::Podman, text, name, before)?;
    taken.map(|text| unlisted(&text, name)).transpose()
}

/// With the name in the list, which begins as that of the other files.
fn listed(
    text: &str,
    name: &str,
    others: impl FnOnce() -> anyhow::Result<Array>,
) -> anyhow::Result<String> {
    let mut document = toml_file::parse(text)?;
    let engine = document.get_mut("engine").and_then(Item::as_table_like_mut);
    let engine = engine.context("has an engine that is no table")?;
    if !engine.contains_key(WITH_LOG) {
        engine.insert(WITH_LOG, Item::Value(others()?.into()));
    }
    let list = engine.get_mut(WITH_LOG).and_then(Item::as_array_mut);
    let list = list.with_context(|| format!("has a {WITH_LOG} that is no list"))?;
    if !list.iter().any(|known| known.as_str() == Some(name)) {
        list.push(name);
    }
    Ok(document.to_string())
}

fn unlisted(text: &str, name: &str) -> anyhow::Result<String> {
    let mut document = toml_file::parse(text)?;
    let Some(engine) = document.get_mut("engine").and_then(Item::as_table_like_mut) else {
        return Ok(text.to_owned());
    };
    if let Some(list) = engine.get_mut(WITH_LOG).and_then(Item::as_array_mut) {
        list.retain(|known| known.as_str() != Some(name));
        if list.iter().filter_map(Value::as_str).eq(BUILT_IN) {
            engine.remove(WITH_LOG);
        }
    }
    Ok(document.to_string())
}

/// What podman would have without our file.
fn elsewhere(ours: &Path) -> anyhow::Result<Array> {
    let mut drop_ins: Vec<PathBuf> = std::fs::read_dir(DROP_INS)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    drop_ins.retain(|path| path.extension().is_some_and(|it| it == "conf") && path != ours);
    drop_ins.sort();
    let mut last = Array::from_iter(BUILT_IN);
    for path in FILES.into_iter().map(PathBuf::from).chain(drop_ins) {
        let Some(text) = file::read(&path)? else { continue };
        let document = toml_file::parse(&text).with_context(|| format!("{path:?}"))?;
        last = list_of(&document).cloned().unwrap_or(last);
    }
    Ok(last)
}

fn list_of(document: &DocumentMut) -> Option<&Array> {
    document.get("engine")?.get(WITH_LOG)?.as_array()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "[engine.runtimes]\nfrostlock = [\"/usr/local/bin/frostlock\"]\n";

    #[test]
    fn the_name_joins_the_list_that_is_there_and_leaves_it_again() {
        let own = format!("[engine]\n{WITH_LOG} = [\"runc\"] # mine\n\n{OURS}");
        let there = listed(&own, "frostlock", || unreachable!()).unwrap();
        assert!(there.contains("[\"runc\", \"frostlock\"] # mine"), "{there}");
        assert_eq!(listed(&there, "frostlock", || unreachable!()).unwrap(), there);
        assert_eq!(unlisted(&there, "frostlock").unwrap(), own);
    }

    #[test]
    fn without_a_list_it_is_that_of_the_other_files_and_goes_with_the_name() {
        let there = listed(OURS, "frostlock", || Ok(Array::from_iter(BUILT_IN))).unwrap();
        let document = toml_file::parse(&there).unwrap();
        let list: Vec<_> = list_of(&document).unwrap().iter().filter_map(Value::as_str).collect();
        assert!(list.starts_with(&BUILT_IN) && list.ends_with(&["frostlock"]), "{there}");
        assert!(!unlisted(&there, "frostlock").unwrap().contains(WITH_LOG));
    }
}
