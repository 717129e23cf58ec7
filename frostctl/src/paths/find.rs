//! Finds containers and pods in our records, the runtimes' states and the cgroup tree.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use cgroup::bundle::{Bundle, PodNames};
use cgroup::process::Process;
use cgroup::state_file::{self, Surroundings};
use cgroup::{Identity, Proc, RuntimeKind};
use state::remains;
use state::state_dir::StateDir;

use crate::node::hierarchy::Cgroups;
use crate::node::root::Root;
use crate::node::tree::Tree;

/// The source of a container that is known only from its cgroup's name.
const TREE: &str = "cgroup tree";

#[derive(Debug)]
pub(super) enum Query {
    Container(String),
    /// NAMESPACE/NAME
    Pod(String, String),
    Uid(String),
}

impl Query {
    pub(super) fn of(text: &str) -> Query {
        // systemd's names have `_` for `-`, and people copy uids from paths.
        let uid = text.strip_prefix("pod").unwrap_or(text).replace('_', "-");
        let parts: Vec<usize> = uid.split('-').map(str::len).collect();
        match text.split_once('/') {
            Some((namespace, name)) => Query::Pod(namespace.to_owned(), name.to_owned()),
            None if parts == [8, 4, 4, 4, 12] => Query::Uid(uid),
            None => Query::Container(text.to_owned()),
        }
    }

    fn is_of(&self, found: &Found) -> bool {
        let pod = &found.pod;
        match self {
            Query::Container(id) => !found.is_pod && found.id.starts_with(id),
            Query::Pod(namespace, name) => {
                pod.namespace.as_ref() == Some(namespace) && pod.name.as_ref() == Some(name)
            }
            Query::Uid(uid) => pod.uid.as_ref() == Some(uid),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) is_pod: bool,
    pub(super) id: String,
    pub(super) cgroup: Identity,
    pub(super) pod: PodNames,
    pub(super) pid: Option<i32>,
    pub(super) sources: BTreeSet<String>,
}

impl Found {
    fn absorb(&mut self, same: Found) {
        self.pid = self.pid.or(same.pid);
        self.sources.extend(same.sources);
    }
}

/// Where runtimes keep their state: for containerd and docker, by namespace.
pub(super) fn roots(more: &[PathBuf]) -> Vec<PathBuf> {
    let ours = Surroundings::ours(&Proc::default());
    let mut roots = more.to_vec();
    for kind in [RuntimeKind::Runc, RuntimeKind::Crun, RuntimeKind::Youki] {
        roots.extend(state_file::locate(None, kind, &ours));
    }
    for parent in ["/run/containerd/runc", "/run/docker/runtime-runc", "/run/docker/runtime-crun"] {
        let namespaces = std::fs::read_dir(parent).into_iter().flatten().flatten();
        roots.extend(namespaces.map(|it| it.path()));
    }
    roots
}

pub(super) fn find(query: &Query, cgroups: &Cgroups, more: &[PathBuf]) -> Vec<Found> {
    let mut found: BTreeMap<Identity, Found> = BTreeMap::new();
    let tree = || of_tree(&Tree::read(&Root::default(), cgroups));
    for it in [recorded(), of_runtimes(cgroups, more), tree()].into_iter().flatten() {
        merge(&mut found, it);
    }
    // A pod's name is known only from its containers.
    let pods: Vec<Found> = found.values().filter_map(|it| pod_of(it, &found)).collect();
    for pod in pods {
        merge(&mut found, pod);
    }
    let found = found.into_values().filter(|it| query.is_of(it));
    chosen(query, found.filter(|it| is_there(it, cgroups)).collect())
}

/// Each result once. An exact id excludes longer ids that begin with it.
fn chosen(query: &Query, found: Vec<Found>) -> Vec<Found> {
    let mut chosen: Vec<Found> = Vec::new();
    for it in found {
        match chosen.iter_mut().find(|known| is_same(known, &it)) {
            Some(known) => {
                let mut other = it;
                if known.sources.iter().all(|source| source == TREE) {
                    std::mem::swap(known, &mut other);
                }
                known.absorb(other);
            }
            None => chosen.push(it),
        }
    }
    let is_exact = |it: &Found| matches!(query, Query::Container(id) if *id == it.id);
    if chosen.iter().any(is_exact) {
        chosen.retain(is_exact);
    }
    chosen
}

/// crun's container is in `libpod-ID.scope/container`; the tree has the scope under the same id.
fn is_same(one: &Found, other: &Found) -> bool {
    let (above, below) = (one.cgroup.as_path(), other.cgroup.as_path());
    let in_line = above.starts_with(below) || below.starts_with(above);
    one.is_pod == other.is_pod && one.id == other.id && in_line
}

fn is_there(found: &Found, cgroups: &Cgroups) -> bool {
    cgroups.mounts.dirs(&found.cgroup).iter().any(|dir| dir.is_dir())
}

fn merge(all: &mut BTreeMap<Identity, Found>, more: Found) {
    match all.get_mut(&more.cgroup) {
        Some(known) => {
            if known.pod.name.is_none() {
                let uid = more.pod.uid.clone().or_else(|| known.pod.uid.take());
                known.pod = PodNames { uid, ..more.pod.clone() };
            }
            known.absorb(more);
        }
        None => drop(all.insert(more.cgroup.clone(), more)),
    }
}

fn pod_of(container: &Found, all: &BTreeMap<Identity, Found>) -> Option<Found> {
    let cgroup = container.cgroup.pod().filter(|_| !container.is_pod)?;
    let uid = container.pod.uid.clone();
    let uid = uid.or_else(|| Some(cgroup.pod_uid()?.replace('_', "-")))?;
    let pod = PodNames { uid: Some(uid.clone()), container: None, ..container.pod.clone() };
    let sources = all.get(&cgroup).map(|it| it.sources.clone()).unwrap_or_default();
    Some(Found { is_pod: true, id: uid, cgroup, pod, pid: None, sources })
}

fn recorded() -> Vec<Found> {
    let known = remains::known(&StateDir::from_env()).into_iter();
    known
        .filter_map(|it| {
            let pid = it.init.filter(|init| init.is_alive()).map(|init| init.pid);
            let sources = BTreeSet::from(["frostlock".to_owned()]);
            Some(Found { is_pod: false, id: it.id, cgroup: it.cgroup?, pod: it.pod, pid, sources })
        })
        .collect()
}

fn of_runtimes(cgroups: &Cgroups, more: &[PathBuf]) -> Vec<Found> {
    let mut found = Vec::new();
    for root in roots(more) {
        let containers = std::fs::read_dir(&root).into_iter().flatten().flatten();
        found.extend(containers.filter_map(|it| of_runtime(cgroups, &root, &it.file_name())));
    }
    found
}

/// `None` also if the container vanishes while we look.
fn of_runtime(cgroups: &Cgroups, root: &Path, id: &OsStr) -> Option<Found> {
    let directory = root.join(id);
    let kind = if directory.join("status").is_file() {
        RuntimeKind::Crun
    } else if directory.join("youki_config.json").is_file() {
        RuntimeKind::Youki
    } else {
        RuntimeKind::Runc
    };
    let roots = [root.to_owned()];
    let state = state_file::read(&roots, kind, id, &cgroups.mounts, &Proc::default()).ok()?;
    let cgroup = state.leaf.clone().or_else(|| state.identity().cloned())?;
    let pod = state.bundle.and_then(|bundle| Bundle::read(&bundle).ok()).map(|it| it.pod);
    let init = state.init_pid.zip(state.init_start);
    let pid = init.filter(|&(pid, start)| Process { pid, start }.is_alive()).map(|(pid, _)| pid);
    let sources = BTreeSet::from([directory.display().to_string()]);
    let (id, pod) = (id.to_string_lossy().into_owned(), pod.unwrap_or_default());
    Some(Found { is_pod: false, id, cgroup, pod, pid, sources })
}

/// For runtimes whose state directory we do not know: by the names in the tree.
fn of_tree(tree: &Tree) -> Vec<Found> {
    let sources = || BTreeSet::from([TREE.to_owned()]);
    let in_tree = tree.all.iter().filter_map(|cgroup| {
        let pod = cgroup.pod();
        let uid = pod.as_ref().and_then(Identity::pod_uid).map(|it| it.replace('_', "-"));
        let pod = PodNames { uid, ..PodNames::default() };
        let id = id_in(cgroup)?;
        let cgroup = cgroup.clone();
        Some(Found { is_pod: false, id, cgroup, pod, pid: None, sources: sources() })
    });
    let pods = tree.roots.iter().flat_map(|root| root.pods.values()).map(|pod| Found {
        is_pod: true,
        id: pod.uid.clone(),
        cgroup: pod.path.clone(),
        pod: PodNames { uid: Some(pod.uid.clone()), ..PodNames::default() },
        pid: None,
        sources: sources(),
    });
    in_tree.chain(pods).collect()
}

/// `cri-containerd-ID.scope`, `docker-ID.scope`, `libpod-ID.scope`, or the id alone. Engines
/// generate ids of 64 hexadecimal digits.
fn id_in(cgroup: &Identity) -> Option<String> {
    let name = cgroup.as_path().file_name()?.to_str()?;
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.rsplit(['-', ':']).next()?;
    (id.len() == 64 && id.bytes().all(|it| it.is_ascii_hexdigit())).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let uid = "8b9b5a3e-2a53-4a6e-9f0e-3a2b7f1c5d11";
        assert!(matches!(Query::of("default/web-0"), Query::Pod(..)));
        assert!(matches!(Query::of(uid), Query::Uid(it) if it == uid));
        let systemd = format!("pod{}", uid.replace('-', "_"));
        assert!(matches!(Query::of(&systemd), Query::Uid(it) if it == uid));
        assert!(matches!(Query::of("8b9b5a3e"), Query::Container(_)));
    }

    fn found(id: &str, cgroup: &str, source: &str) -> Found {
        let (id, cgroup) = (id.to_owned(), Identity::new(cgroup).unwrap());
        let (pod, sources) = (PodNames::default(), BTreeSet::from([source.to_owned()]));
        Found { is_pod: false, id, cgroup, pod, pid: None, sources }
    }

    #[test]
    fn a_leaf_is_the_same_container_and_an_exact_id_wins() {
        let all = vec![
            found("web", "/libpod-web.scope", TREE),
            found("web", "/libpod-web.scope/container", "/run/crun/web"),
            found("web-1", "/web-1", "/run/crun/web-1"),
        ];
        let exact = chosen(&Query::of("web"), all.clone());
        assert_eq!(exact.len(), 1, "{exact:?}");
        assert_eq!(exact[0].cgroup.as_path(), Path::new("/libpod-web.scope/container"));
        assert_eq!(exact[0].sources.len(), 2);
        assert_eq!(chosen(&Query::of("we"), all).len(), 2);
    }

    #[test]
    fn ids_in_the_names_of_cgroups() {
        let id = "c".repeat(64);
        let paths = [
            format!("/kubepods.slice/kubepods-podx.slice/cri-containerd-{id}.scope"),
            format!("/system.slice/docker-{id}.scope"),
            format!("/docker/{id}"),
        ];
        for path in paths {
            assert_eq!(id_in(&Identity::new(&path).unwrap()).as_ref(), Some(&id), "{path}");
        }
        assert_eq!(id_in(&Identity::new("/system.slice/cron.service").unwrap()), None);
    }
}
