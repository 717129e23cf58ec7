//! Processes in a cgroup that is named like a container's, of a container that no source knows.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use cgroup::bundle::PodNames;
use cgroup::{Hierarchies, Identity};
use state::remains::Known;

use super::claim::{Container, Seen, Stray};
use super::{supervisor, truth};

/// A node with 500 pods has a few thousand; a tree with more has another kind of leak.
const MOST_DIRS: usize = 100_000;
/// The length of the ids that containerd's CRI, docker, podman and CRI-O generate.
const ID_LENGTH: usize = 64;
const PREFIXES: [&str; 4] = ["cri-containerd-", "docker-", "libpod-", "crio-"];

pub(crate) fn look(seen: &mut Seen, mounts: &Hierarchies, recorded: &[Known]) {
    let known: HashSet<PathBuf> = seen
        .containers
        .iter()
        .filter_map(|container| truth::naming_dir(mounts, container.cgroup.as_ref()?))
        .collect();
    let ids: HashSet<String> = seen.containers.iter().map(|known| known.id.clone()).collect();
    let Some((root, controller)) = tree(mounts) else { return };
    let mut walk = Walk { known: &known, ids: &ids, left: MOST_DIRS, found: Vec::new() };
    walk.below(&root);
    let found = walk
        .found
        .into_iter()
        .filter_map(|(id, dir)| Some((id, mounts.identify(controller, &dir)?)));
    let mut strays: Vec<_> = found.filter_map(|(id, cgroup)| stray(id, cgroup, mounts)).collect();
    for stray in &mut strays {
        stray.name = name(stray, &seen.containers, recorded);
    }
    seen.strays = strays;
}

/// From frostlock's own record, or from the pod whose cgroup it is in.
fn name(stray: &Stray, containers: &[Container], recorded: &[Known]) -> Option<String> {
    let names = |pod: &PodNames| {
        let container = pod.container.as_ref().map_or_else(String::new, |it| format!("/{it}"));
        Some(format!("{}/{}{container}", pod.namespace.as_ref()?, pod.name.as_ref()?))
    };
    if let Some(name) = recorded.iter().find(|it| it.id == stray.id).and_then(|it| names(&it.pod)) {
        return Some(name);
    }
    let pod = stray.cgroup.pod()?;
    let uid = pod.pod_uid()?.replace('_', "-");
    let known = containers.iter().find(|it| it.pod_uid.as_ref() == Some(&uid));
    known.and_then(|it| it.name.clone()).or_else(|| Some(format!("pod {uid}")))
}

/// The hierarchy in which containers are named: the first that is mounted.
fn tree(mounts: &Hierarchies) -> Option<(PathBuf, &'static str)> {
    let mut names = ["freezer", "cpu"].into_iter().filter(|_| !mounts.unified());
    let v1 = names.find_map(|name| Some((mounts.v1(name)?, name)));
    match v1 {
        Some((v1, name)) => Some((v1.mountpoint.clone(), name)),
        None => mounts.v2.as_ref().map(|v2| (v2.mountpoint.clone(), "")),
    }
}

struct Walk<'a> {
    known: &'a HashSet<PathBuf>,
    ids: &'a HashSet<String>,
    left: usize,
    found: Vec<(String, PathBuf)>,
}

impl Walk<'_> {
    /// Does not descend into known containers: what they create in their own cgroup is their
    /// business.
    fn below(&mut self, dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if self.left == 0 || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            self.left -= 1;
            let path = entry.path();
            if self.known.contains(&path) {
                continue;
            }
            match entry.file_name().to_str().and_then(container_id) {
                Some(id) if self.ids.contains(id) => {}
                Some(id) => self.found.push((id.to_owned(), path)),
                None => self.below(&path),
            }
        }
    }
}

fn stray(id: String, cgroup: Identity, mounts: &Hierarchies) -> Option<Stray> {
    let members = truth::members(mounts, &cgroup);
    let first = members.first()?;
    Some(Stray { supervisor: supervisor::above(first.pid), id, name: None, cgroup, members })
}

/// Whether a process is in a cgroup that is named as a container's, or below one.
pub(crate) fn is_in_container(pid: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    names_container(&text)
}

fn names_container(cgroups: &str) -> bool {
    cgroups.split(['/', '\n']).any(|part| container_id(part).is_some())
}

/// The id in a cgroup's name, under either driver.
fn container_id(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let hex = id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (id.len() == ID_LENGTH && hex).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stray_is_named_by_our_record_or_by_its_pod() {
        let uid = "0c8a6a44-6f0b-4a54-9f3e-61d2f6a0b7aa";
        let slice = format!("/kubepods.slice/kubepods-pod{}.slice", uid.replace('-', "_"));
        let stray = |id: &str, at: &str| Stray {
            id: id.to_owned(),
            name: None,
            cgroup: Identity::new(at).unwrap(),
            members: Vec::new(),
            supervisor: None,
        };
        let pod = format!("{slice}/cri-containerd-x.scope");
        let mut sandbox = Container::new(super::super::claim::Owner::Nobody, "s".to_owned());
        sandbox.pod_uid = Some(uid.to_owned());
        sandbox.name = Some("shop/web-0".to_owned());
        let names = |name: &str| Some(name.to_owned());
        let recorded = Known {
            id: "x".to_owned(),
            cgroup: None,
            pod: PodNames {
                namespace: names("shop"),
                name: names("db-0"),
                container: names("c"),
                ..PodNames::default()
            },
            init: None,
            paused: false,
        };
        let of = |stray: &Stray| {
            name(stray, std::slice::from_ref(&sandbox), std::slice::from_ref(&recorded))
        };
        assert_eq!(of(&stray("x", &pod)), names("shop/db-0/c"));
        assert_eq!(of(&stray("y", &pod)), names("shop/web-0"));
        assert_eq!(of(&stray("y", "/docker/y")), None);
        assert_eq!(name(&stray("y", &pod), &[], &[]), names(&format!("pod {uid}")));
    }

    #[test]
    fn a_process_below_a_containers_cgroup_is_in_it() {
        let id = "0123456789abcdef".repeat(4);
        assert!(names_container(&format!(
            "2:cpu:/\n0::/kubepods/pod7/cri-containerd-{id}.scope\n"
        )));
        assert!(names_container(&format!("0::/docker/{id}/system.slice/crio.service\n")));
        assert!(!names_container("2:cpu:/\n0::/system.slice/crio.service\n"));
    }

    #[test]
    fn names_of_containers_under_either_driver() {
        let id = "0123456789abcdef".repeat(4);
        for name in [
            id.clone(),
            format!("cri-containerd-{id}.scope"),
            format!("docker-{id}.scope"),
            format!("libpod-{id}"),
            format!("crio-{id}.scope"),
        ] {
            assert_eq!(container_id(&name), Some(id.as_str()), "{name}");
        }
        for other in ["kubepods", "pod8f0c2b1e", "user.slice", "libpod-conmon-x", &id[1..]] {
            assert_eq!(container_id(other), None, "{other}");
        }
        assert_eq!(container_id(&format!("libpod-conmon-{id}.scope")), None);
    }
}
