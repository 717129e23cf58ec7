//! Where each engine's TOML has the runtimes.

use anyhow::bail;
use toml_edit::{DocumentMut, Item};

use super::engine::Engine;
use crate::node::containerd::LISTENER;

const CRI_VERSION_2: &str = "io.containerd.grpc.v1.cri";
const CRI_VERSION_3: &str = "io.containerd.cri.v1.runtime";

#[derive(Debug)]
pub(crate) struct Layout {
    /// The table of all runtimes.
    pub(crate) runtimes: Vec<&'static str>,
    /// The path to an entry's program; empty: the entry is a list of paths.
    pub(crate) binary: &'static [&'static str],
    /// The table and the key that name the default runtime.
    pub(crate) default: (Vec<&'static str>, &'static str),
}

impl Layout {
    pub(crate) fn of(engine: Engine, document: &DocumentMut) -> anyhow::Result<Layout> {
        match engine {
            Engine::Containerd => Layout::containerd(document),
            Engine::Crio => Ok(Layout {
                runtimes: vec!["crio", "runtime", "runtimes"],
                binary: &["runtime_path"],
                default: (vec!["crio", "runtime"], "default_runtime"),
            }),
            Engine::Podman => Ok(Layout {
                runtimes: vec!["engine", "runtimes"],
                binary: &[],
                default: (vec!["engine"], "runtime"),
            }),
            Engine::Docker => bail!("docker's configuration is not TOML"),
        }
    }

    fn containerd(document: &DocumentMut) -> anyhow::Result<Layout> {
        let cri = match document.get("version").and_then(Item::as_integer) {
            Some(2) => CRI_VERSION_2,
            // Version 4 moved only the addresses at which containerd listens.
            Some(3 | 4) => CRI_VERSION_3,
            Some(other) => {
                bail!("has version {other}; frostctl knows 2, 3 and 4; nothing was changed")
            }
            None => bail!(
                "names no version, so containerd takes it for version 1; frostctl knows 2, 3 and 4; nothing was changed. Make it version 2: write `version = 2` as its first line, `plugins.\"io.containerd.grpc.v1.cri\"` for `plugins.cri`, and `io.containerd.grpc.v1.cri` for `cri` in disabled_plugins; with containerd 1.x, `containerd --config FILE config dump` prints all of it so"
            ),
        };
        Ok(Layout {
            runtimes: vec!["plugins", cri, "containerd", "runtimes"],
            binary: &["options", "BinaryName"],
            default: (vec!["plugins", cri, "containerd"], "default_runtime_name"),
        })
    }

    pub(crate) fn entry<'a>(&self, document: &'a DocumentMut, name: &str) -> Option<&'a Item> {
        get(document.as_item(), &self.runtimes)?.get(name)
    }

    pub(crate) fn names(&self, document: &DocumentMut) -> Vec<String> {
        let runtimes = get(document.as_item(), &self.runtimes).and_then(Item::as_table_like);
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
        let name = get(document.as_item(), &self.default.0)?.get(self.default.1)?.as_str();
        name.filter(|name| !name.is_empty())
    }
}

/// The socket at which the containerd of a configuration listens.
pub(crate) fn socket(document: &DocumentMut) -> Option<&str> {
    let of_version_4 = ["plugins", LISTENER, "address"];
    let places: [&[&str]; 2] = [&of_version_4, &["grpc", "address"]];
    let address = places.iter().find_map(|path| get(document.as_item(), path));
    address?.as_str().filter(|it| !it.is_empty())
}

pub(crate) fn get<'a>(item: &'a Item, path: &[&str]) -> Option<&'a Item> {
    path.iter().try_fold(item, |item, key| item.get(key))
}
