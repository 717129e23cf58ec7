//! The cgroup mounts of the node, and their controllers.

use std::path::{Path, PathBuf};

use cgroup::read::Version;
use cgroup::{Hierarchies, Identity, mounts};

use super::root::{self, Root};

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layout {
    V1,
    V2,
    /// v1, with a v2 tree beside it. Runtimes and kubelet treat it as v1.
    Hybrid,
    None,
}

/// One mounted tree of cgroups.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    pub(crate) version: Version,
    pub(crate) controllers: Vec<String>,
    /// The path on the node.
    pub(crate) mountpoint: PathBuf,
    /// The cgroup that is mounted there.
    pub(crate) root: PathBuf,
    pub(crate) read_only: bool,
}

impl Hierarchy {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|it| it == controller)
    }

    /// The directory of a cgroup, as a path on the node.
    pub(crate) fn dir(&self, cgroup: &Identity) -> Option<PathBuf> {
        Some(self.mountpoint.join(cgroup.as_path().strip_prefix(&self.root).ok()?))
    }

    pub(crate) fn name(&self) -> String {
        match self.version {
            Version::V1 => self.controllers.join(","),
            Version::V2 => "cgroup2".to_owned(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Cgroups {
    pub(crate) layout: Layout,
    /// v1 first, each hierarchy once.
    pub(crate) all: Vec<Hierarchy>,
    pub(crate) mounts: Hierarchies,
    /// The same, with the mountpoints where frostctl reads them.
    pub(crate) readable: Hierarchies,
    /// The kernel's controllers from /proc/cgroups, and whether they are enabled.
    pub(crate) kernel: Vec<(String, bool)>,
    pub(crate) complaint: Option<String>,
}

impl Cgroups {
    pub(crate) fn read(node: &Root) -> Cgroups {
        let (mountinfo, complaint) = match node.read("/proc/self/mountinfo") {
            Ok(text) => (text, None),
            Err(error) => (String::new(), Some(error.to_string())),
        };
        let mounts = Hierarchies::parse(mountinfo.as_bytes());
        let read_only = mounts::read_only(mountinfo.as_bytes());
        let all = hierarchies(node, &mounts, &read_only);
        let layout = match (&mounts.v2, mounts.v1.is_empty()) {
            (None, true) => Layout::None,
            (Some(_), true) => Layout::V2,
            (None, false) => Layout::V1,
            (Some(_), false) if mounts.unified() => Layout::V2,
            (Some(_), false) => Layout::Hybrid,
        };
        let mut readable = mounts.clone();
        for v1 in &mut readable.v1 {
            v1.mountpoint = node.path(&v1.mountpoint);
        }
        if let Some(v2) = &mut readable.v2 {
            v2.mountpoint = node.path(&v2.mountpoint);
        }
        let kernel = kernel_controllers(&node.read("/proc/cgroups").unwrap_or_default());
        Cgroups { layout, all, mounts, readable, kernel, complaint }
    }

    /// The hierarchies that runtimes and kubelet use.
    pub(crate) fn used(&self) -> impl Iterator<Item = &Hierarchy> {
        let version = if self.layout == Layout::V2 { Version::V2 } else { Version::V1 };
        self.all.iter().filter(move |it| it.version == version)
    }

    pub(crate) fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.used().find(|it| it.has(controller))
    }

    /// Whether the kernel has it, and it was not disabled at boot.
    pub(crate) fn is_enabled(&self, controller: &str) -> Option<bool> {
        self.kernel.iter().find(|(name, _)| name == controller).map(|(_, enabled)| *enabled)
    }
}

fn hierarchies(node: &Root, mounts: &Hierarchies, read_only: &[PathBuf]) -> Vec<Hierarchy> {
    let mut all: Vec<Hierarchy> = Vec::new();
    for v1 in &mounts.v1 {
        if !all.iter().any(|it| it.controllers == v1.controllers) {
            all.push(Hierarchy {
                version: Version::V1,
                controllers: v1.controllers.clone(),
                mountpoint: v1.mountpoint.clone(),
                root: v1.root.clone(),
                read_only: read_only.contains(&v1.mountpoint),
            });
        }
    }
    let v2 = mounts.v2.iter().map(|v2| Hierarchy {
        version: Version::V2,
        controllers: words(&node.path(&v2.mountpoint).join("cgroup.controllers")),
        mountpoint: v2.mountpoint.clone(),
        root: v2.root.clone(),
        read_only: read_only.contains(&v2.mountpoint),
    });
    all.extend(v2);
    all
}

/// `#subsys_name hierarchy num_cgroups enabled`
fn kernel_controllers(text: &str) -> Vec<(String, bool)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.to_owned(), fields.nth(2)? == "1"))
        })
        .collect()
}

/// The words of a file such as `cgroup.controllers`; empty if it cannot be read.
pub(crate) fn words(file: &Path) -> Vec<String> {
    let text = root::read(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}
