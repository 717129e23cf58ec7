//! The cgroups below kubelet's roots, and all frozen cgroups.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cgroup::freeze::Tasks;
use cgroup::read::{self, Version};
use cgroup::{Freezer, Identity, Reader};

use super::hierarchy::Cgroups;
use super::root::{self, Root};

/// kind has kubelet's root in `/kubelet.slice`, microk8s and others in `/`; none is deeper than
/// this.
const ROOT_DEPTH: usize = 4;

/// The kernel's own limit is far above; a walk ends at this number.
const MOST_CGROUPS: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Driver {
    Cgroupfs,
    Systemd,
}

impl std::fmt::Display for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Driver::Cgroupfs => "cgroupfs",
            Driver::Systemd => "systemd",
        })
    }
}

/// kubelet's root of all pods.
#[derive(Debug)]
pub(crate) struct KubeRoot {
    pub(crate) path: Identity,
    pub(crate) driver: Driver,
    /// Every directory of the root, its QoS levels and pods: for each cgroup, the hierarchies that
    /// have it.
    pub(crate) present: BTreeMap<Identity, BTreeSet<usize>>,
    /// By cgroup: a node has hundreds of pods, in a dozen hierarchies.
    pub(crate) pods: BTreeMap<Identity, Pod>,
}

#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) uid: String,
    pub(crate) path: Identity,
    pub(crate) containers: BTreeSet<String>,
    /// Its directories and those below, deepest first, as paths on the node.
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) populated: bool,
    /// The time since something was created or removed in the most recently changed one.
    pub(crate) age: Option<Duration>,
}

/// A cgroup that was itself told to freeze, frozen or not yet.
#[derive(Debug, Clone)]
pub(crate) struct Frozen {
    pub(crate) path: Identity,
    pub(crate) dir: PathBuf,
    pub(crate) version: Version,
    pub(crate) state: Freezer,
    pub(crate) tasks: String,
    pub(crate) count: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) roots: Vec<KubeRoot>,
    pub(crate) frozen: Vec<Frozen>,
    /// The cgroups in the hierarchies that name cgroups.
    pub(crate) all: Vec<Identity>,
    pub(crate) cut: bool,
}

impl KubeRoot {
    /// `burstable` or `besteffort`. There is no other: guaranteed pods are directly below the root.
    pub(crate) fn level(&self, qos: &str) -> Option<Identity> {
        level_of(&self.path, qos)
    }

    pub(crate) fn qos(&self, pod: &Pod) -> &'static str {
        let level = |qos| self.level(qos).filter(|it| pod.path.as_path().starts_with(it.as_path()));
        if level("burstable").is_some() {
            "burstable"
        } else if level("besteffort").is_some() {
            "besteffort"
        } else {
            "guaranteed"
        }
    }
}

pub(crate) fn level_of(root: &Identity, qos: &str) -> Option<Identity> {
    let name = root.as_path().file_name()?.to_str()?;
    match name.strip_suffix(".slice") {
        Some(unit) => root.join(format!("{unit}-{qos}.slice")),
        None => root.join(qos),
    }
}

impl Tree {
    pub(crate) fn read(node: &Root, cgroups: &Cgroups) -> Tree {
        let mut tree = Tree::default();
        let freezer = cgroups.with("freezer").or_else(|| cgroups.all.last());
        for (number, hierarchy) in cgroups.all.iter().enumerate() {
            let names = number == 0
                || hierarchy.has("name=systemd")
                || freezer.is_some_and(|it| std::ptr::eq(it, hierarchy));
            let mut walk = Walk { node, number, names, tree: &mut tree, left: MOST_CGROUPS };
            if let Some(top) = Identity::new(&hierarchy.root) {
                walk.descend(&top, &hierarchy.mountpoint, 0, None);
            }
        }
        tree.all.sort();
        tree.all.dedup();
        tree.find_frozen(node, cgroups);
        for root in &mut tree.roots {
            for pod in root.pods.values_mut() {
                pod.dirs.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
            }
        }
        tree
    }

    fn find_frozen(&mut self, node: &Root, cgroups: &Cgroups) {
        for path in &self.all {
            let files = Reader::new(&cgroups.readable, path);
            let Some((version, dir)) = files.freezer_dir() else { continue };
            let wish = match version {
                Version::V1 => dir.join("freezer.self_freezing"),
                Version::V2 => dir.join("cgroup.freeze"),
            };
            if root::read(&wish).is_ok_and(|wish| wish.trim() == "1") {
                let states: &[u8] = if version == Version::V1 { b"RD" } else { b"RDS" };
                let tasks = node.is_live().then(|| Tasks::in_state(&files, states).to_string());
                let count = root::read(&dir.join("cgroup.procs")).unwrap_or_default();
                self.frozen.push(Frozen {
                    path: path.clone(),
                    dir: dir.to_owned(),
                    version,
                    state: files.freezer(),
                    tasks: tasks.unwrap_or_default(),
                    count: count.lines().count(),
                });
            }
        }
    }
}

/// The walk over one hierarchy.
struct Walk<'a> {
    node: &'a Root,
    number: usize,
    /// Whether all its cgroups matter, not only those below a kubepods root.
    names: bool,
    tree: &'a mut Tree,
    left: usize,
}

impl Walk<'_> {
    fn descend(&mut self, path: &Identity, dir: &Path, depth: usize, root: Option<usize>) {
        if self.left == 0 {
            self.tree.cut = true;
            return;
        }
        self.left -= 1;
        let root = root.or_else(|| path.is_kubepods_root().then(|| self.root(path)));
        if let Some(root) = root {
            self.place(root, path, dir);
        }
        // systemd puts a unit without accounting into few hierarchies.
        if (self.names || root.is_some()) && !path.is_root() {
            self.tree.all.push(path.clone());
        }
        if root.is_some() || self.names || depth < ROOT_DEPTH {
            for (name, below) in children(&self.node.path(dir), dir) {
                if let Some(path) = path.join(&name) {
                    self.descend(&path, &below, depth + 1, root);
                }
            }
        }
    }

    fn root(&mut self, path: &Identity) -> usize {
        let roots = &mut self.tree.roots;
        roots.iter().position(|root| root.path == *path).unwrap_or_else(|| {
            let is_slice = path.as_path().extension() == Some(OsStr::new("slice"));
            let driver = if is_slice { Driver::Systemd } else { Driver::Cgroupfs };
            let (present, pods) = (BTreeMap::new(), BTreeMap::new());
            roots.push(KubeRoot { path: path.clone(), driver, present, pods });
            roots.len() - 1
        })
    }

    fn place(&mut self, root: usize, path: &Identity, dir: &Path) {
        let pod = if path.pod_uid().is_some() { Some(path.clone()) } else { path.pod() };
        let root = &mut self.tree.roots[root];
        let Some(pod) = pod else {
            root.present.entry(path.clone()).or_default().insert(self.number);
            return;
        };
        let known = root.pods.entry(pod.clone()).or_insert_with(|| Pod {
            uid: pod.pod_uid().unwrap_or_default().replace('_', "-"),
            path: pod.clone(),
            containers: BTreeSet::new(),
            dirs: Vec::new(),
            populated: false,
            age: None,
        });
        let here = self.node.path(dir);
        known.dirs.push(dir.to_owned());
        known.populated = known.populated || is_populated(&here);
        // In a recorded tree, the age would be that of the copy.
        let age = if self.node.is_live() { age(&here) } else { None };
        known.age = if known.dirs.len() == 1 { age } else { known.age.min(age) };
        let below = path.as_path().strip_prefix(pod.as_path()).ok();
        if let Some(container) = below.and_then(|below| below.iter().next()) {
            known.containers.insert(container.to_string_lossy().into_owned());
        }
    }
}

/// An unreadable `cgroup.procs`, as in a threaded cgroup, counts as populated.
fn is_populated(dir: &Path) -> bool {
    match root::read(&dir.join("cgroup.procs")) {
        Ok(procs) => !procs.trim().is_empty(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

fn age(dir: &Path) -> Option<Duration> {
    let changed = std::fs::symlink_metadata(dir).ok()?.modified().ok()?;
    SystemTime::now().duration_since(changed).ok()
}

/// Names and directories of a cgroup's children.
fn children(here: &Path, dir: &Path) -> Vec<(PathBuf, PathBuf)> {
    let names = read::children(here).filter_map(|it| Some(PathBuf::from(it.file_name()?)));
    let mut all: Vec<_> = names.map(|name| (name.clone(), dir.join(&name))).collect();
    all.sort();
    all
}
