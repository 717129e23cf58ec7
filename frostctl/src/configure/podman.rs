//! What podman must know of a runtime besides its path.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use toml_edit::{Array, DocumentMut, Item, Value, value};

use super::edit::{Edited, Wish};
use super::engine::{ANSWERS_WITHIN, Engine};
use super::record::Previous;
use super::{file, toml_file};
use crate::program;

/// Features that podman knows of a runtime only by its name, and the names that are built in (4.3
/// to 5.8); a list in a file replaces those.
struct List {
    key: &'static str,
    built_in: &'static [&'static str],
    /// Our name is always in the list; otherwise only if the wrapped runtime is.
    is_ours: bool,
}

const LISTS: [List; 3] = [
    // These get a log, from which podman takes the error of a failed create. Without a log,
    // frostlock retries no create.
    List {
        key: "runtime_supports_json",
        built_in: &["crun", "runc", "kata", "runsc", "youki", "krun", "ocijail"],
        is_ours: true,
    },
    // Others are refused with --cgroups=disabled. containers.conf(5) calls the key "..._nocgroups",
    // which no podman knows (seen with 4.3; later versions have the same name in their source).
    List { key: "runtime_supports_nocgroup", built_in: &["crun", "krun"], is_ours: false },
    List { key: "runtime_supports_kvm", built_in: &["kata", "krun"], is_ours: false },
];

/// In the order in which podman reads them; the last list wins.
pub(crate) const FILES: [&str; 2] =
    ["/usr/share/containers/containers.conf", "/etc/containers/containers.conf"];
pub(crate) const DROP_INS: &str = "/etc/containers/containers.conf.d";

/// podman's default runtime; `None` without a podman. Most nodes have crun and runc; then it is
/// crun.
pub(crate) fn effective() -> anyhow::Result<Option<DocumentMut>> {
    let Some(podman) = program::find("podman") else { return Ok(None) };
    let mut info = Command::new(podman);
    info.args(["info", "--format", "{{json .Host.OCIRuntime}}"]);
    let said = program::run(&mut info, ANSWERS_WITHIN)?;
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
    let others: Vec<&DocumentMut> = effective.into_iter().collect();
    let mut edited = toml_file::configure(Engine::Podman, text, wish, &others)?;
    let wrapped = edited.wrapped.as_ref().map(|it| it.name.as_str());
    for list in &LISTS {
        edited.text = listed(&edited.text, wish.name, wrapped, list, || elsewhere(ours, list))?;
    }
    Ok(edited)
}

pub(crate) fn unconfigure(
    text: &str,
    name: &str,
    before: Option<&Previous>,
) -> anyhow::Result<Option<String>> {
    let taken = toml_file::unconfigure(Engine::Podman, text, name, before)?;
    let unlist =
        |text: String| LISTS.iter().try_fold(text, |text, list| unlisted(&text, name, list));
    taken.map(unlist).transpose()
}

/// Adds the name to the list if it belongs there; a new list starts from the other files' list.
fn listed(
    text: &str,
    name: &str,
    wrapped: Option<&str>,
    list: &List,
    others: impl FnOnce() -> anyhow::Result<Array>,
) -> anyhow::Result<String> {
    let mut document = toml_file::parse(text)?;
    let engine = document.get_mut("engine").and_then(Item::as_table_like_mut);
    let engine = engine.context("has an engine that is not a table")?;
    let mut names = match engine.get(list.key) {
        Some(item) => {
            let names = item.as_array().cloned();
            names.with_context(|| format!("has a {} that is not a list", list.key))?
        }
        None => others()?,
    };
    let has = |names: &Array, it: &str| names.iter().any(|known| known.as_str() == Some(it));
    if has(&names, name) || !(list.is_ours || wrapped.is_some_and(|it| has(&names, it))) {
        return Ok(text.to_owned());
    }
    names.push(name);
    // Replaced in place: an insert would lose the text around the key.
    *engine.entry(list.key).or_insert(Item::None) = Item::Value(names.into());
    Ok(document.to_string())
}

fn unlisted(text: &str, name: &str, list: &List) -> anyhow::Result<String> {
    let mut document = toml_file::parse(text)?;
    let Some(engine) = document.get_mut("engine").and_then(Item::as_table_like_mut) else {
        return Ok(text.to_owned());
    };
    if let Some(names) = engine.get_mut(list.key).and_then(Item::as_array_mut) {
        names.retain(|known| known.as_str() != Some(name));
        if names.iter().filter_map(Value::as_str).eq(list.built_in.iter().copied()) {
            engine.remove(list.key);
        }
    }
    Ok(document.to_string())
}

/// What podman would have without our file.
fn elsewhere(ours: &Path, list: &List) -> anyhow::Result<Array> {
    let is_read = |path: &PathBuf| path.extension().is_some_and(|it| it == "conf") && path != ours;
    let drop_ins = file::entries(Path::new(DROP_INS)).into_iter().filter(is_read);
    let mut last = Array::from_iter(list.built_in.iter().copied());
    for path in FILES.into_iter().map(PathBuf::from).chain(drop_ins) {
        let Some(text) = file::read(&path)? else { continue };
        let document = toml_file::parse(&text).with_context(|| format!("{path:?}"))?;
        last = list_of(&document, list).cloned().unwrap_or(last);
    }
    Ok(last)
}

fn list_of<'a>(document: &'a DocumentMut, list: &List) -> Option<&'a Array> {
    document.get("engine")?.get(list.key)?.as_array()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "[engine.runtimes]\nfrostlock = [\"/usr/local/bin/frostlock\"]\n";
    const JSON: &List = &LISTS[0];
    const NO_CGROUPS: &List = &LISTS[1];
    const KVM: &List = &LISTS[2];

    fn built_in(list: &List) -> anyhow::Result<Array> {
        Ok(Array::from_iter(list.built_in.iter().copied()))
    }

    #[test]
    fn the_name_joins_the_list_that_is_there_and_leaves_it_again() {
        let own = format!("[engine]\n{} = [\"runc\"] # mine\n\n{OURS}", JSON.key);
        let there = listed(&own, "frostlock", Some("runc"), JSON, || unreachable!()).unwrap();
        assert!(there.contains("[\"runc\", \"frostlock\"] # mine"), "{there}");
        let again = listed(&there, "frostlock", Some("runc"), JSON, || unreachable!());
        assert_eq!(again.unwrap(), there);
        assert_eq!(unlisted(&there, "frostlock", JSON).unwrap(), own);
    }

    #[test]
    fn without_a_list_it_is_that_of_the_other_files_and_goes_with_the_name() {
        for (list, wrapped, is_in) in [
            (JSON, "runc", true),
            (JSON, "mine", true),
            (NO_CGROUPS, "crun", true),
            (NO_CGROUPS, "runc", false),
            (KVM, "krun", true),
            (KVM, "crun", false),
        ] {
            let there = listed(OURS, "frostlock", Some(wrapped), list, || built_in(list)).unwrap();
            let document = toml_file::parse(&there).unwrap();
            let names = list_of(&document, list).into_iter().flatten().filter_map(Value::as_str);
            let names: Vec<_> = names.collect();
            assert_eq!(names.contains(&"frostlock"), is_in, "{} {wrapped}: {there}", list.key);
            assert!(!is_in || names.starts_with(list.built_in), "{there}");
            assert!(!unlisted(&there, "frostlock", list).unwrap().contains(list.key));
        }
    }
}
