//! The node as it was read, once; the checks use only this.

use std::path::{Path, PathBuf};

use cgroup::Identity;

use super::ask::Ask;
use super::inotify::{self, Inotify};
use super::kubelet::Kubelet;
use super::ours::Ours;
use super::programs::{self, Program};
use super::trial::{self, Trials};
use crate::node::containerd::{self, Containerd};
use crate::node::hierarchy::Cgroups;
use crate::node::processes;
use crate::node::tree::{Driver, KubeRoot, Tree, level_of};

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) ask: Ask,
    pub(crate) is_root: bool,
    pub(crate) sees_processes: bool,
    /// `None` if that cannot be seen, as in a container.
    pub(crate) has_systemd: Option<bool>,
    pub(crate) cgroups: Cgroups,
    pub(crate) tree: Tree,
    pub(crate) kubelet: Kubelet,
    pub(crate) containerds: Vec<Containerd>,
    pub(crate) programs: Vec<Program>,
    pub(crate) ours: Ours,
    pub(crate) trials: Option<Trials>,
    pub(crate) inotify: Option<Inotify>,
}

impl Node {
    pub(crate) fn read(ask: &Ask) -> Node {
        let root = &ask.root;
        let running = processes::read(root);
        let cgroups = Cgroups::read(root);
        let mut tree = Tree::read(root, &cgroups);
        if let Some(below) = &ask.cgroup_root {
            // The nodes of kind share the host's tree; each looks after its own part.
            tree.roots.retain(|it| it.path.as_path().starts_with(below));
        }
        let containerds = containerd::read(root, &running);
        let is_any_frozen = !tree.frozen.is_empty();
        let ours = Ours::read(ask, &tree.all, &containerds, is_any_frozen, &running);
        let runtime = ours.runtime.as_deref().ok();
        let programs = match ask.wants("versions") {
            true => programs::read(root, &containerds, &running, runtime),
            false => Vec::new(),
        };
        let is_tried = root.is_live() && (ask.wants("freezer") || ask.wants("lift"));
        let trials = is_tried.then(|| trial::run(&cgroups));
        Node {
            has_systemd: processes::systemd(root, &running),
            kubelet: Kubelet::read(root, &running),
            is_root: nix::unistd::geteuid().is_root(),
            sees_processes: processes::are_seen(root, &running),
            ask: ask.clone(),
            cgroups,
            tree,
            containerds,
            programs,
            ours,
            trials,
            inotify: ask.wants("inotify").then(|| inotify::read(root)).flatten(),
        }
    }

    /// kubelet's `--cgroup-root`.
    fn cgroup_root(&self) -> PathBuf {
        let told = self.kubelet.cgroup_root.as_deref().filter(|root| !root.is_empty());
        let asked = self.ask.cgroup_root.clone();
        asked.or_else(|| told.map(PathBuf::from)).unwrap_or_else(|| "/".into())
    }

    fn root_below(&self, at: &Path) -> Option<&KubeRoot> {
        self.tree.roots.iter().find(|it| it.path.as_path().starts_with(at))
    }

    /// kubelet's driver: as it was told, else from the kubepods in the tree, else from the cgroup
    /// root's name.
    pub(crate) fn driver(&self) -> Driver {
        let told = self.kubelet.driver.as_ref().map(|it| it.value);
        let at = self.cgroup_root();
        let seen = || self.root_below(&at).map(|root| root.driver);
        let is_unit = at.extension().is_some_and(|it| it == "slice");
        told.or_else(seen).unwrap_or(if is_unit { Driver::Systemd } else { Driver::Cgroupfs })
    }

    /// Whether [`Node::driver`] may be wrong: no setting and no tree shows it, and containerd may
    /// tell kubelet another driver than kubelet's default (from 1.31 on, with containerd 2.0).
    pub(crate) fn is_driver_a_guess(&self) -> bool {
        let kubelet = &self.kubelet;
        if kubelet.complaint.is_some() {
            return true;
        }
        let is_seen = self.root_below(&self.cgroup_root()).is_some();
        let mut entries = self.containerds.iter().flat_map(|it| &it.entries);
        let is_contested = entries.any(|it| it.is_default && it.driver() == Driver::Systemd);
        kubelet.driver.is_none() && !is_seen && (kubelet.unseen.is_some() || is_contested)
    }

    /// Where kubelet's root must be. `None` if there is no kubelet and no `--cgroup-root`, or if
    /// kubelet was told to have none.
    pub(crate) fn expected_root(&self) -> Option<Identity> {
        if self.kubelet.has_no_root() {
            return None;
        }
        if !self.kubelet.is_expected() && self.ask.cgroup_root.is_none() {
            return None;
        }
        let parent = Identity::new(self.cgroup_root())?;
        match self.driver() {
            Driver::Cgroupfs => parent.join("kubepods"),
            // With the cgroup root `/kubelet`, systemd has `/kubelet.slice/kubelet-kubepods.slice`.
            Driver::Systemd if parent.is_root() => parent.join("kubepods.slice"),
            Driver::Systemd => {
                let is_slice = parent.as_path().extension().is_some();
                let slice = if is_slice {
                    parent
                } else {
                    Identity::new(parent.as_path().with_extension("slice"))?
                };
                level_of(&slice, "kubepods")
            }
        }
    }
}
