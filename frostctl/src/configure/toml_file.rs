//! Edits of TOML files: our part goes in and out, all else stays as it is, with comments and order.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value, value};

use super::edit::{Edited, Wish, Wrapped, must_be_ours};
use super::engine::Engine;
use super::layout::{Layout, RUNTIMES};
use super::record::{Ours, Previous};

/// CRI-O must be told where the runtime keeps its state.
const CRIO_ROOT: &str = "/run/runc";

/// The keys that a runtime of CRI-O can have (1.34).
const CRIO_KEYS: [&str; 15] = [
    "runtime_path",
    "runtime_type",
    "runtime_root",
    "runtime_config_path",
    "platform_runtime_paths",
    "inherit_default_runtime",
    "container_min_memory",
    "monitor_path",
    "monitor_cgroup",
    "monitor_exec_cgroup",
    "monitor_env",
    "allowed_annotations",
    "default_annotations",
    "privileged_without_host_devices",
    "no_sync_log",
];

pub(crate) fn parse(text: &str) -> anyhow::Result<DocumentMut> {
    text.parse::<DocumentMut>().map_err(|error| {
        let line =
            error.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        anyhow!("is not TOML: {place}{}; nothing was changed", error.message())
    })
}

/// Adds our entry. The wrapped entry is in this text or in one of `others`; the last of these is
/// what the engine reads from all its files together.
pub(crate) fn configure(
    engine: Engine,
    text: &str,
    wish: &Wish<'_>,
    others: &[&DocumentMut],
) -> anyhow::Result<Edited> {
    let mut document = parse(text)?;
    let layout = Layout::of(engine, &document)?;
    let wrapped = match layout.entry(&document, wish.name) {
        Some(entry) if layout.binary_of(entry) == Some(wish.binary) => None,
        Some(entry) => {
            must_be_ours(wish.name, layout.binary_of(entry))?;
            set_binary(&mut document, layout, wish)?;
            None
        }
        None => Some(add(&mut document, engine, layout, wish, others)?),
    };
    let default =
        if wish.set_as_default { set_default(&mut document, layout, wish.name)? } else { None };
    let text = document.to_string();
    // toml_edit can be made to print tables that contradict dotted keys.
    let again = parse(&text).context("cannot be edited by frostctl: edit it by hand")?;
    let said = layout.entry(&again, wish.name).and_then(|entry| layout.binary_of(entry));
    if said != Some(wish.binary) {
        bail!("cannot be edited by frostctl: edit it by hand; nothing was changed");
    }
    Ok(Edited { text, ours: Ours::Entry { default }, wrapped })
}

fn add(
    document: &mut DocumentMut,
    engine: Engine,
    layout: &Layout,
    wish: &Wish<'_>,
    others: &[&DocumentMut],
) -> anyhow::Result<Wrapped> {
    let others: Vec<(&Layout, &DocumentMut)> =
        others.iter().filter_map(|it| Some((Layout::of(engine, it).ok()?, *it))).collect();
    let mut defaults = others.iter().filter_map(|(layout, it)| layout.default_of(it));
    let default = layout
        .default_of(document)
        .or_else(|| defaults.next())
        // microk8s fills in the variable when it generates its file: runc, or a copy of it.
        .filter(|it| *it != wish.name && !it.contains("${"))
        .unwrap_or("runc");
    let wrap = wish.wrap.unwrap_or(default).to_owned();
    if wrap == wish.name {
        bail!("the runtime {wrap:?} cannot wrap itself; name another with --wrap");
    }
    let mut model = layout.entry(document, &wrap).cloned();
    if model.is_none() {
        model = others.iter().find_map(|(layout, it)| layout.entry(it, &wrap)).cloned();
        // In containerd, one configured runtime replaces the built-in ones.
        if let (Engine::Containerd, true, false, Some(model)) =
            (engine, layout.names(document).is_empty(), wish.is_merged, &model)
        {
            runtimes(document, layout)?.insert(&wrap, unplaced(model.clone()));
        }
    }
    let wrapped = Wrapped {
        binary: model.as_ref().and_then(|model| layout.binary_of(model)).map(str::to_owned),
        name: wrap,
    };
    let entry = match (engine, model) {
        (Engine::Podman, _) => Item::Value(Array::new().into()),
        (_, Some(model)) => unplaced(model),
        (Engine::Crio, None) if wish.wrap.is_none() => crio_entry(),
        (_, None) => {
            let names = others
                .last()
                .map_or_else(|| layout.names(document), |(layout, it)| layout.names(it));
            bail!(
                "has no runtime {:?} to wrap, nor do its imports (there is: {}); name one with --wrap",
                wrapped.name,
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            )
        }
    };
    runtimes(document, layout)?.insert(wish.name, commented(entry, &wrapped.name));
    set_binary(document, layout, wish)?;
    Ok(wrapped)
}

/// Merges the runtimes and the default of a file of CRI-O that is read later.
pub(super) fn merge(into: &mut DocumentMut, later: &DocumentMut) -> anyhow::Result<()> {
    merge_entries(into, later, |entry| unplaced(entry.clone()))
}

/// The runtimes from the output of `crio config`. It prints settings of [crio.runtime] after the
/// last runtime, where TOML counts them as that runtime's.
pub(super) fn of_crio(printed: &DocumentMut) -> anyhow::Result<DocumentMut> {
    let mut all = DocumentMut::new();
    merge_entries(&mut all, printed, |printed| {
        let said = CRIO_KEYS.iter().filter_map(|key| Some((key, printed.get(key)?.as_value()?)));
        let mut entry = Table::new();
        for (key, value) in said.filter(|(_, value)| value.as_str() != Some("")) {
            let mut value = value.clone();
            value.decor_mut().clear();
            entry.insert(key, Item::Value(value));
        }
        Item::Table(entry)
    })?;
    Ok(all)
}

fn merge_entries(
    into: &mut DocumentMut,
    later: &DocumentMut,
    entry: impl Fn(&Item) -> Item,
) -> anyhow::Result<()> {
    let layout = Layout::of(Engine::Crio, later)?;
    for name in layout.names(later) {
        let later = layout.entry(later, &name).map(&entry).unwrap_or_default();
        runtimes(into, layout)?.insert(&name, later);
    }
    if let Some(default) = layout.default_of(later) {
        set_default(into, layout, default)?;
    }
    Ok(())
}

fn crio_entry() -> Item {
    let mut entry = Table::new();
    entry.insert("runtime_type", value("oci"));
    entry.insert("runtime_root", value(CRIO_ROOT));
    Item::Table(entry)
}

/// The table of all runtimes, created if there is none.
fn runtimes<'a>(
    document: &'a mut DocumentMut,
    layout: &Layout,
) -> anyhow::Result<&'a mut dyn TableLike> {
    let runtimes = make(make(document.as_item_mut(), layout.table)?, &[RUNTIMES])?;
    runtimes.as_table_like_mut().context("has runtimes that are not a table")
}

fn set_binary(document: &mut DocumentMut, layout: &Layout, wish: &Wish<'_>) -> anyhow::Result<()> {
    let entry = runtimes(document, layout)?.get_mut(wish.name).context("has no entry of ours")?;
    if let Some((key, tables)) = layout.binary.split_last() {
        return set_string(make(entry, tables)?, key, wish.binary);
    }
    let mut list = Value::from(Array::from_iter([wish.binary]));
    if let Some(old) = entry.as_value() {
        *list.decor_mut() = old.decor().clone();
    }
    *entry = Item::Value(list);
    Ok(())
}

fn set_default(
    document: &mut DocumentMut,
    layout: &Layout,
    name: &str,
) -> anyhow::Result<Option<Previous>> {
    let before = layout.default_of(document).map(str::to_owned);
    if before.as_deref() == Some(name) {
        return Ok(None);
    }
    set_string(make(document.as_item_mut(), layout.table)?, layout.default, name)?;
    Ok(Some(Previous { name: before }))
}

/// Keeps the text around the value.
fn set_string(table: &mut Item, key: &str, text: &str) -> anyhow::Result<()> {
    let table = table.as_table_like_mut().with_context(|| format!("{key}: not in a table"))?;
    let mut new = Value::from(text);
    // Replaced in place: an insert would lose the key's indentation.
    match table.get_mut(key) {
        Some(item) => {
            if let Some(old) = item.as_value() {
                new = quoted_like(old, text).unwrap_or(new);
                *new.decor_mut() = old.decor().clone();
            }
            *item = Item::Value(new);
        }
        None => {
            let indent = indentation(table);
            table.insert(key, Item::Value(new));
            if let (Some(indent), Some(mut key)) = (indent, table.key_mut(key)) {
                key.leaf_decor_mut().set_prefix(indent);
            }
        }
    }
    Ok(())
}

/// The indentation of the first key.
fn indentation(table: &dyn TableLike) -> Option<String> {
    let (first, _) = table.iter().next()?;
    let prefix = table.key(first)?.leaf_decor().prefix()?.as_str()?;
    let indent = prefix.rsplit('\n').next().unwrap_or_default();
    (!indent.is_empty()).then(|| indent.to_owned())
}

/// containerd 2 prints strings in single quotes.
fn quoted_like(old: &Value, text: &str) -> Option<Value> {
    let Value::String(old) = old else { return None };
    let repr = old.as_repr()?.as_raw().as_str()?;
    (repr.starts_with('\'') && !repr.starts_with("'''"))
        .then(|| format!("'{text}'").parse().ok())?
}

/// The table at a path, created if there is none.
fn make<'a>(mut item: &'a mut Item, path: &[&str]) -> anyhow::Result<&'a mut Item> {
    for key in path {
        let inline = item.is_inline_table();
        let table = item
            .as_table_like_mut()
            .with_context(|| format!("the parent of {key} is not a table"))?;
        if !table.contains_key(key) {
            let mut new = Table::new();
            new.set_implicit(true);
            let inline_new = Item::Value(InlineTable::new().into());
            table.insert(key, if inline { inline_new } else { Item::Table(new) });
        }
        item = table.get_mut(key).with_context(|| format!("{key} is gone"))?;
    }
    Ok(item)
}

/// A copy must be printed at its new position, not at that of its model.
fn unplaced(mut item: Item) -> Item {
    if let Item::Table(table) = &mut item {
        table.set_position(None);
        for (_, item) in table.iter_mut() {
            *item = unplaced(std::mem::take(item));
        }
    }
    item
}

/// Adds a comment that says who wrote the entry, with the indentation of its model.
fn commented(mut entry: Item, wrapped: &str) -> Item {
    if let Item::Table(table) = &mut entry {
        let prefix = table.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default();
        let indent: String = prefix.rsplit('\n').next().unwrap_or_default().to_owned();
        let comment = format!(
            "\n{indent}# By `frostctl configure`, in front of {wrapped}; `frostctl unconfigure` removes it.\n{indent}"
        );
        table.decor_mut().set_prefix(comment);
    }
    entry
}

/// Removes the entry; `None` if the text has nothing of ours.
pub(crate) fn unconfigure(
    engine: Engine,
    text: &str,
    name: &str,
    before: Option<&Previous>,
) -> anyhow::Result<Option<String>> {
    let mut document = parse(text)?;
    let layout = Layout::of(engine, &document)?;
    let Some(entry) = layout.entry(&document, name) else { return Ok(None) };
    must_be_ours(name, layout.binary_of(entry))?;
    let is_default = layout.default_of(&document) == Some(name);
    runtimes(&mut document, layout)?.remove(name);
    if is_default {
        let table = make(document.as_item_mut(), layout.table)?;
        match before.and_then(|before| before.name.as_deref()) {
            Some(name) => set_string(table, layout.default, name)?,
            // The engine's own default, which it has without the key.
            None => {
                table.as_table_like_mut().map(|table| table.remove(layout.default));
            }
        }
    }
    Ok(Some(document.to_string()))
}

/// Adds an import to the file at `main`; `None` if it is already there.
pub(crate) fn import(text: &str, main: &Path, path: &Path) -> anyhow::Result<Option<String>> {
    let mut document = parse(text)?;
    Layout::of(Engine::Containerd, &document)?;
    let imports = document.entry("imports").or_insert(value(Array::new()));
    let imports = imports.as_array_mut().context("has imports that are not a list")?;
    let [beside, directory] = [main, path].map(|it| it.parent().unwrap_or(Path::new("/")));
    let covers = |import: &str| {
        let import = beside.join(import);
        import == path || import == directory.join("*.toml")
    };
    if imports.iter().filter_map(Value::as_str).any(covers) {
        return Ok(None);
    }
    imports.push(path.to_str().with_context(|| format!("{path:?} is not UTF-8"))?);
    Ok(Some(document.to_string()))
}

/// `is_ours`: also removes the list if it is then empty.
pub(crate) fn unimport(text: &str, path: &str, is_ours: bool) -> anyhow::Result<Option<String>> {
    let mut document = parse(text)?;
    let Some(imports) = document.get_mut("imports").and_then(Item::as_array_mut) else {
        return Ok(None);
    };
    let Some(at) = imports.iter().position(|import| import.as_str() == Some(path)) else {
        return Ok(None);
    };
    imports.remove(at);
    if is_ours && imports.is_empty() {
        document.remove("imports");
    }
    Ok(Some(document.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINARY: &str = "/usr/local/bin/frostlock";

    /// The output of `containerd config default`.
    const DEFAULTS: [&str; 4] = [
        include_str!("../../tests/fixtures/containerd-1.6.20-default.toml"),
        include_str!("../../tests/fixtures/containerd-1.7.24-default.toml"),
        include_str!("../../tests/fixtures/containerd-2.1.9-default.toml"),
        include_str!("../../tests/fixtures/containerd-2.4.2-default.toml"),
    ];

    fn wish(set_as_default: bool) -> Wish<'static> {
        Wish { name: "frostlock", binary: BINARY, wrap: None, set_as_default, is_merged: false }
    }

    fn default_of(edited: &Edited) -> Option<&Previous> {
        match &edited.ours {
            Ours::Entry { default } => default.as_ref(),
            _ => None,
        }
    }

    #[test]
    fn the_defaults_of_every_containerd_are_added_to_and_come_back_byte_for_byte() {
        for text in DEFAULTS {
            let text = text.replace("SystemdCgroup = false", "SystemdCgroup = true # kubelet's");
            let edited = configure(Engine::Containerd, &text, &wish(true), &[]).unwrap();
            let diff = similar::TextDiff::from_lines(text.as_str(), &edited.text);
            let removed: Vec<_> = diff
                .iter_all_changes()
                .filter(|change| change.tag() == similar::ChangeTag::Delete)
                .map(|change| change.value().to_owned())
                .collect();
            assert_eq!(removed.len(), 1, "only the line of the default runtime: {removed:?}");
            assert_eq!(edited.text.matches("SystemdCgroup = true # kubelet's").count(), 2);
            assert_eq!(edited.text.matches(BINARY).count(), 1);
            let again = configure(Engine::Containerd, &edited.text, &wish(true), &[]).unwrap();
            assert_eq!(again.text, edited.text);
            let back =
                unconfigure(Engine::Containerd, &edited.text, "frostlock", default_of(&edited));
            assert_eq!(back.unwrap().unwrap(), text);
        }
    }

    #[test]
    fn the_entry_stands_beside_the_one_that_it_was_made_from() {
        let edited = configure(Engine::Containerd, DEFAULTS[0], &wish(false), &[]).unwrap();
        let at = |text: &str| edited.text.find(text).unwrap();
        assert!(at("runtimes.runc.options]") < at("runtimes.frostlock]"));
        assert!(at("runtimes.frostlock.options]") < at("untrusted_workload_runtime]"));
        assert_eq!(edited.wrapped.unwrap().name, "runc");
    }

    #[test]
    fn options_that_no_file_names_come_from_what_containerd_says() {
        let effective = parse(DEFAULTS[2]).unwrap();
        let edited =
            configure(Engine::Containerd, "version = 2\n", &wish(false), &[&effective]).unwrap();
        // In version 2, like the file, although `effective` has version 3.
        let names = ["runc", "frostlock"].map(|name| {
            format!("[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}.options]")
        });
        assert!(names.iter().all(|name| edited.text.contains(name)), "{}", edited.text);
    }

    #[test]
    fn inline_and_dotted_tables_are_edited_or_refused_and_never_broken() {
        let inline = "version = 3\nplugins.\"io.containerd.cri.v1.runtime\".containerd = { runtimes = { runc = { runtime_type = \"io.containerd.runc.v2\", options = { SystemdCgroup = true } } } }\n";
        match configure(Engine::Containerd, inline, &wish(true), &[]) {
            Ok(edited) => {
                assert_eq!(edited.text.matches("SystemdCgroup = true").count(), 2);
                let back =
                    unconfigure(Engine::Containerd, &edited.text, "frostlock", default_of(&edited));
                assert!(parse(&back.unwrap().unwrap()).is_ok());
            }
            Err(error) => assert!(format!("{error:#}").contains("by hand"), "{error:#}"),
        }
    }

    #[test]
    fn what_cannot_be_understood_is_left_alone() {
        let taken = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.frostlock.options]\nBinaryName = \"/opt/other\"\n";
        for (text, why) in [
            ("version = 5\n", "version 5"),
            ("[plugins]\n", "version 1"),
            ("version = 2\n[plugins.", "line 2"),
            (taken, "is not frostlock"),
        ] {
            let error = configure(Engine::Containerd, text, &wish(false), &[]).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(why) && error.contains("changed"), "{error}");
        }
    }

    #[test]
    fn an_edit_made_in_between_is_kept() {
        let edited = configure(Engine::Containerd, DEFAULTS[1], &wish(true), &[]).unwrap();
        let by_hand = edited.text.replace("oom_score = 0", "oom_score = -999 # by hand");
        let back =
            unconfigure(Engine::Containerd, &by_hand, "frostlock", default_of(&edited)).unwrap();
        assert_eq!(
            back.unwrap(),
            DEFAULTS[1].replace("oom_score = 0", "oom_score = -999 # by hand")
        );
    }

    #[test]
    fn an_import_is_added_once_and_taken_out() {
        let (main, path) = (Path::new("/etc/main.toml"), "/etc/conf d/99.toml");
        let import = |text: &str| import(text, main, Path::new(path)).unwrap();
        let text = "imports = [\"/etc/a.toml\"] # theirs\nversion = 3\n";
        let with = import(text).unwrap();
        assert_eq!(import(&with), None);
        assert_eq!(unimport(&with, path, true).unwrap().unwrap(), text);
        let none = "version = 3\n";
        let with = import(none).unwrap();
        assert_eq!(unimport(&with, path, true).unwrap().unwrap(), none);
        assert!(unimport(&with, path, false).unwrap().unwrap().contains("imports = []"));
        for glob in ["/etc/conf d/*.toml", "conf d/*.toml", "conf d/99.toml"] {
            assert_eq!(import(&format!("imports = [\"{glob}\"]\nversion = 3\n")), None, "{glob}");
        }
    }

    #[test]
    fn a_later_file_of_crio_adds_runtimes_and_replaces_those_that_it_names_again() {
        let texts = [
            "[crio.runtime]\ndefault_runtime = \"crun\"\n[crio.runtime.runtimes.crun]\nruntime_root = \"/a\"\nmonitor_path = \"/x\"\n",
            "[crio.runtime.runtimes.crun]\nruntime_root = \"/b\"\n[crio.runtime.runtimes.runc]\n",
            "[crio.api]\n",
        ];
        let mut all = DocumentMut::new();
        for text in texts {
            merge(&mut all, &parse(text).unwrap()).unwrap();
        }
        let layout = Layout::of(Engine::Crio, &all).unwrap();
        assert_eq!((layout.default_of(&all), layout.names(&all).len()), (Some("crun"), 2));
        let crun = layout.entry(&all, "crun").unwrap().to_string();
        assert!(crun.contains("/b") && !crun.contains("monitor_path"), "{crun}");
        let edited = configure(Engine::Crio, "", &wish(false), &[&all]).unwrap();
        assert_eq!(edited.wrapped.unwrap().name, "crun");
        assert!(edited.text.contains("runtime_root = \"/b\""), "{}", edited.text);
    }

    #[test]
    fn drop_ins_of_podman_and_crio_hold_what_is_ours_alone() {
        let podman = configure(Engine::Podman, "", &wish(true), &[]).unwrap().text;
        assert!(podman.contains("runtime = \"frostlock\""), "{podman}");
        assert!(podman.contains(&format!("frostlock = [\"{BINARY}\"]")), "{podman}");
        let crio = configure(Engine::Crio, "", &wish(false), &[]).unwrap().text;
        assert!(crio.contains("[crio.runtime.runtimes.frostlock]"), "{crio}");
        assert!(crio.contains(&format!("runtime_path = \"{BINARY}\"")), "{crio}");
        assert_eq!(configure(Engine::Crio, &crio, &wish(false), &[]).unwrap().text, crio);
    }
}
