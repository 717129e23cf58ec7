//! What must be known of a bundle before the runtime runs: a tolerant reader of `config.json`.
//!
//! It is not a validator: the runtime reads the same file and reports what is wrong with it. Here an
//! unknown field or a wrong type loses just that one value.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Unknown;
use crate::json::{self, Object};

/// The fields of `config.json` that matter here; missing or odd ones have their default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bundle {
    /// `linux.cgroupsPath` as written. What an empty, a relative or a `slice:prefix:name` one means
    /// depends on the kind of runtime.
    pub cgroups_path: Option<PathBuf>,
    pub pod: PodNames,
}

/// Kubernetes' names for the container, from the annotations of containerd's CRI plugin or of CRI-O.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodNames {
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub uid: Option<String>,
    pub container: Option<String>,
}

/// Kubernetes allows 253 bytes for a name; anything much longer is not one. These values end up in log
/// lines of bounded length.
const MAX_NAME: usize = 512;

impl Bundle {
    /// Reads `config.json` in `bundle`.
    pub fn read(bundle: &Path) -> Result<Bundle, Unknown> {
        Self::read_file(&bundle.join("config.json"))
    }

    pub fn read_file(path: &Path) -> Result<Bundle, Unknown> {
        let text = json::read_text(path).map_err(|e| Unknown::file(path, e))?;
        Self::from_text(&text).map_err(|e| Unknown::file(path, e))
    }

    /// The same from bytes already read.
    pub fn parse(bytes: &[u8]) -> Result<Bundle, Unknown> {
        Self::from_text(&String::from_utf8_lossy(bytes))
            .map_err(|e| Unknown::because("not a JSON object", e))
    }

    fn from_text(text: &str) -> serde_json::Result<Bundle> {
        let config = Object::parse(text)?;
        let linux = config.object("linux");
        Ok(Bundle {
            cgroups_path: linux.as_ref().and_then(|l| l.get("cgroupsPath")),
            pod: config
                .object("annotations")
                .as_ref()
                .map(PodNames::from_annotations)
                .unwrap_or_default(),
        })
    }
}

impl PodNames {
    /// `namespace/pod`, and `/container` of one that is not the sandbox.
    pub fn path(&self) -> Option<String> {
        let pod = [self.namespace.as_deref()?, self.name.as_deref()?];
        Some(pod.into_iter().chain(self.container.as_deref()).collect::<Vec<_>>().join("/"))
    }

    pub fn from_annotations(all: &Object<'_>) -> PodNames {
        let first = |keys: [&str; 2]| {
            let values = keys.into_iter().filter_map(|key| all.get::<String>(key));
            values.filter(|v| !v.is_empty()).find(|v| v.len() <= MAX_NAME)
        };
        PodNames {
            namespace: first([
                "io.kubernetes.cri.sandbox-namespace",
                "io.kubernetes.pod.namespace",
            ]),
            name: first(["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]),
            uid: first(["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"]),
            container: first(["io.kubernetes.cri.container-name", "io.kubernetes.container.name"]),
        }
    }
}
