//! Where each engine's file has the runtimes.

use anyhow::bail;
use serde_json::Value;
use toml_edit::{DocumentMut, Item};

use super::engine::Engine;
use crate::loaded::{self, Handler};
use crate::node::containerd::LISTENER;

/// In the table, the table of all runtimes.
pub(super) const RUNTIMES: &str = "runtimes";

#[derive(Debug)]
pub(crate) struct Layout {
    /// The table that has the runtimes and names the default.
    pub(super) table: &'static [&'static str],
    /// The path to an entry's program; empty: the entry is a list of paths.
    pub(super) binary: &'static [&'static str],
    /// The key that names the default runtime.
    pub(super) default: &'static str,
}

const CONTAINERD_2: Layout = Layout {
    table: &["plugins", "io.containerd.grpc.v1.cri", "containerd"],
    binary: &["options", "BinaryName"],
    default: "default_runtime_name",
};

const CONTAINERD_3: Layout =
    Layout { table: &["plugins", "io.containerd.cri.v1.runtime", "containerd"], ..CONTAINERD_2 };

const CRIO: Layout =
    Layout { table: &["crio", "runtime"], binary: &["runtime_path"], default: "default_runtime" };

const PODMAN: Layout = Layout { table: &["engine"], binary: &[], default: "runtime" };

impl Layout {
    pub(crate) fn of(engine: Engine, document: &DocumentMut) -> anyhow::Result<&'static Layout> {
        Layout::of_version(engine, version(document))
    }

    fn of_version(engine: Engine, version: Option<i64>) -> anyhow::Result<&'static Layout> {
        match engine {
            Engine::Containerd => Layout::containerd(version),
            Engine::Crio => Ok(&CRIO),
            Engine::Podman => Ok(&PODMAN),
            Engine::Docker => bail!("docker's configuration is not TOML"),
        }
    }

    fn containerd(version: Option<i64>) -> anyhow::Result<&'static Layout> {
        match version {
            Some(2) => Ok(&CONTAINERD_2),
            // Version 4 moved only the addresses at which containerd listens.
            Some(3 | 4) => Ok(&CONTAINERD_3),
            Some(other) => {
                bail!("has version {other}; frostctl knows 2, 3 and 4; nothing was changed")
            }
            None => bail!(
                "names no version, so containerd takes it for version 1; frostctl knows 2, 3 and 4; nothing was changed. Make it version 2: write `version = 2` as its first line, `plugins.\"io.containerd.grpc.v1.cri\"` for `plugins.cri`, and `io.containerd.grpc.v1.cri` for `cri` in disabled_plugins; with containerd 1.x, `containerd --config FILE config dump` prints all of it so"
            ),
        }
    }

    pub(super) fn runtimes<'a>(&self, document: &'a DocumentMut) -> Option<&'a Item> {
        get(document.as_item(), self.table)?.get(RUNTIMES)
    }

    pub(crate) fn entry<'a>(&self, document: &'a DocumentMut, name: &str) -> Option<&'a Item> {
        self.runtimes(document)?.get(name)
    }

    pub(crate) fn names(&self, document: &DocumentMut) -> Vec<String> {
        let runtimes = self.runtimes(document).and_then(Item::as_table_like);
        runtimes.map_or_else(Vec::new, |all| all.iter().map(|(name, _)| name.to_owned()).collect())
    }

    pub(crate) fn binary_of<'a>(&self, entry: &'a Item) -> Option<&'a str> {
        let binary = if self.binary.is_empty() {
            entry.as_array()?.get(0)?.as_str()
        } else {
            get(entry, self.binary)?.as_str()
        };
        binary.filter(|binary| !binary.is_empty())
    }

    pub(crate) fn default_of<'a>(&self, document: &'a DocumentMut) -> Option<&'a str> {
        let name = get(document.as_item(), self.table)?.get(self.default)?.as_str();
        name.filter(|name| !name.is_empty())
    }
}

/// The runtimes in a text of the engine's; `None` if it has none or cannot be read.
pub(super) fn handlers(engine: Engine, text: &str) -> Option<Vec<Handler>> {
    if engine == Engine::Docker {
        let file: Value = serde_json::from_str(text).ok()?;
        return loaded::handlers(&file["runtimes"], "/path", &file["default-runtime"]);
    }
    let file: Value = toml::from_str(text).ok()?;
    let layout = Layout::of_version(engine, file["version"].as_i64()).ok()?;
    let table = layout.table.iter().fold(&file, |table, key| &table[*key]);
    let binary = match layout.binary {
        [] => "/0".to_owned(),
        path => format!("/{}", path.join("/")),
    };
    loaded::handlers(&table[RUNTIMES], &binary, &table[layout.default])
}

pub(super) fn version(document: &DocumentMut) -> Option<i64> {
    document.get("version").and_then(Item::as_integer)
}

/// The socket at which the containerd of a configuration listens.
pub(crate) fn socket(document: &DocumentMut) -> Option<&str> {
    let of_version_4 = ["plugins", LISTENER, "address"];
    let places: [&[&str]; 2] = [&of_version_4, &["grpc", "address"]];
    let address = places.iter().find_map(|path| get(document.as_item(), path));
    address?.as_str().filter(|it| !it.is_empty())
}

pub(super) fn get<'a>(item: &'a Item, path: &[&str]) -> Option<&'a Item> {
    path.iter().try_fold(item, |item, key| item.get(key))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_runtimes_of_a_text_are_found_whatever_its_quotes() {
        let cri = "plugins.'io.containerd.cri.v1.runtime'.containerd";
        let containerd = format!(
            "version = 3\n[{cri}]\ndefault_runtime_name = 'x'\n\
             [{cri}.runtimes.x.options]\nBinaryName = '/x/frostlock'\n"
        );
        let crio = "[crio.runtime]\ndefault_runtime = 'x'\n\
                    [crio.runtime.runtimes.x]\nruntime_path = '/x/frostlock'\n";
        let podman = "[engine]\nruntime = 'x'\nruntimes.x = ['/x/frostlock']\n";
        let docker = r#"{"default-runtime": "x", "runtimes": {"x": {"path": "/x/frostlock"}}}"#;
        for (engine, text) in [
            (Engine::Containerd, containerd.as_str()),
            (Engine::Crio, crio),
            (Engine::Podman, podman),
            (Engine::Docker, docker),
        ] {
            let found = handlers(engine, text).unwrap();
            assert_eq!(found.len(), 1, "{engine:?}");
            assert_eq!((found[0].name.as_str(), found[0].is_default), ("x", true), "{engine:?}");
            assert_eq!(found[0].binary.as_deref(), Some(Path::new("/x/frostlock")), "{engine:?}");
        }
        assert_eq!(handlers(Engine::Containerd, &containerd.replace('3', "5")), None);
    }
}
