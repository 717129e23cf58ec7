//! Processes in a cgroup that is named like a container's, of a container that no source knows.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::PathBuf;

use cgroup::{Hierarchies, Identity};
use state::remains::Known;

use super::claim::{Container, Owner, Seen, Truth, counted};
use super::naming::container_id;
use super::truth::Population;
use super::{supervisor, truth};

/// A node with 500 pods has a few thousand; a tree with more has another kind of leak.
const MOST_DIRS: usize = 100_000;

pub(crate) fn look(seen: &mut Seen, mounts: &Hierarchies, recorded: &[Known]) {
    let known: HashSet<PathBuf> = seen
        .containers
        .iter()
        .filter_map(|container| truth::naming_dir(mounts, container.cgroup.as_ref()?))
        .collect();
    let ids = seen.containers.iter().map(|known| known.id.as_str()).collect();
    let Some((root, controller)) = tree(mounts) else { return };
    let (found, is_cut) = unknown_below(root, &known, &ids, MOST_DIRS);
    if is_cut {
        seen.notes.push(format!(
            "more than {MOST_DIRS} cgroups: orphans in the rest were not looked for"
        ));
    }
    let found =
        found.into_iter().filter_map(|(id, dir)| Some((id, mounts.identify(controller, &dir)?)));
    let mut strays: Vec<_> = found.filter_map(|(id, cgroup)| stray(id, cgroup, mounts)).collect();
    for stray in &mut strays {
        stray.name = name(stray, &seen.containers, recorded);
    }
    seen.notes.extend(of_strangers(&strays));
    seen.strays = strays;
}

/// An engine that frostctl does not know may have hundreds of containers.
fn of_strangers(strays: &[Container]) -> Vec<String> {
    let mut below: BTreeMap<&str, (i32, usize)> = BTreeMap::new();
    for above in strays.iter().filter_map(|it| it.truth.supervisor.as_ref()) {
        if above.is_a_stranger() {
            below.entry(&above.name).or_insert((above.process.pid, 0)).1 += 1;
        }
    }
    let told = |(name, (pid, count))| {
        let of = counted(count);
        format!(
            "{of} below {name} (pid {pid}): no engine that frostctl knows, so it does not judge them"
        )
    };
    below.into_iter().map(told).collect()
}

/// From frostlock's own record, or from the pod whose cgroup it is in.
fn name(stray: &Container, containers: &[Container], recorded: &[Known]) -> Option<String> {
    let recorded = recorded.iter().find(|it| it.id == stray.id);
    if let Some(name) = recorded.and_then(|it| it.pod.path()) {
        return Some(name);
    }
    let pod = stray.cgroup.as_ref()?.pod()?;
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

/// The cgroups below `top` that are named as a container's and are not known, and whether the walk was cut.
/// It does not descend into known containers: what they create in their own cgroup is their business.
fn unknown_below(
    top: PathBuf,
    known: &HashSet<PathBuf>,
    ids: &HashSet<&str>,
    most: usize,
) -> (Vec<(String, PathBuf)>, bool) {
    let (mut dirs, mut left, mut found) =
        (std::collections::VecDeque::from([top]), most, Vec::new());
    while let Some(dir) = dirs.pop_front() {
        for path in cgroup::read::children(&dir) {
            if left == 0 {
                return (found, true);
            }
            left -= 1;
            let id = path.file_name().and_then(OsStr::to_str).and_then(container_id);
            match id.map(str::to_owned) {
                _ if known.contains(&path) => {}
                Some(id) if ids.contains(id.as_str()) => {}
                Some(id) => found.push((id, path)),
                None => dirs.push_back(path),
            }
        }
    }
    (found, false)
}

fn stray(id: String, cgroup: Identity, mounts: &Hierarchies) -> Option<Container> {
    let Population { processes: members, is_cut, .. } = truth::members(mounts, &cgroup);
    let pids: Vec<i32> = members.iter().map(|member| member.pid).collect();
    let supervisor = supervisor::above(*pids.first()?).or_else(|| supervisor::stranger(&pids));
    let mut stray = Container::new(Owner::Nobody, id);
    stray.cgroup = Some(cgroup);
    stray.truth = Truth { members, is_cut, supervisor, ..Truth::default() };
    Some(stray)
}

#[cfg(test)]
mod tests {
    use cgroup::bundle::PodNames;

    use super::*;

    #[test]
    fn a_stray_is_named_by_our_record_or_by_its_pod() {
        let uid = "0c8a6a44-6f0b-4a54-9f3e-61d2f6a0b7aa";
        let slice = format!("/kubepods.slice/kubepods-pod{}.slice", uid.replace('-', "_"));
        let stray = |id: &str, at: &str| {
            let mut stray = Container::new(Owner::Nobody, id.to_owned());
            stray.cgroup = Identity::new(at);
            stray
        };
        let pod = format!("{slice}/cri-containerd-x.scope");
        let mut sandbox = Container::new(Owner::Nobody, "s".to_owned());
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
        let of = |stray: &Container| {
            name(stray, std::slice::from_ref(&sandbox), std::slice::from_ref(&recorded))
        };
        assert_eq!(of(&stray("x", &pod)), names("shop/db-0/c"));
        assert_eq!(of(&stray("y", &pod)), names("shop/web-0"));
        assert_eq!(of(&stray("y", "/docker/y")), None);
        assert_eq!(name(&stray("y", &pod), &[], &[]), names(&format!("pod {uid}")));
    }

    #[test]
    fn containers_of_an_engine_that_is_not_known_are_noted() {
        let below = |name: &str| {
            let mut stray = Container::default();
            stray.truth.supervisor = Some(super::super::claim::Supervisor {
                process: cgroup::process::Process { pid: 7, start: 7 },
                name: name.to_owned(),
                address: None,
                stopped: false,
                foreign: true,
            });
            stray
        };
        assert!(of_strangers(&[below("conmon")]).is_empty());
        let notes = of_strangers(&[below("balena"), below("conmon"), below("balena")]);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].starts_with("2 containers below balena (pid 7): "), "{}", notes[0]);
    }

    #[test]
    fn the_walk_finds_what_is_not_known_and_ends_after_so_many_cgroups() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().to_owned();
        let [stray, known, named] = ["a", "b", "c"].map(|digit| digit.repeat(64));
        let below = top.join(&known).join(&stray);
        std::fs::create_dir_all(below).unwrap();
        std::fs::create_dir_all(top.join("pod").join(&stray)).unwrap();
        std::fs::create_dir_all(top.join(&named)).unwrap();
        let (dirs, ids) = (HashSet::from([top.join(&known)]), HashSet::from([named.as_str()]));
        let at = top.join("pod").join(&stray);
        let walk = |most| unknown_below(top.clone(), &dirs, &ids, most);
        assert_eq!(walk(MOST_DIRS), (vec![(stray, at)], false));
        assert!(walk(1).1);
    }
}
