//! The node's CRI-O: what it says over CRI, and whether the state of its runtime was read. Without
//! that state, every container that CRI-O is creating looks like a stray.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use frostlock_cri::Client;

use super::claim::{Asked, Container, Missed, NoAnswer, Owner, Seen, Source};
use super::{fate, kubernetes, naming, supervisor};
use crate::node::crio::{Configured, configured};

/// A CRI-O that runs, or that has left containers behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Crio {
    Here(Configured),
    /// Its files and its socket cannot be seen from here.
    Elsewhere {
        pid: i32,
    },
}

/// `crio config` also runs as `crio` for a moment and is counted here.
pub(crate) fn running() -> Vec<Crio> {
    let is_crio = |pid: &i32| cgroup::process::comm(*pid).is_some_and(|name| name == "crio");
    // A process of a pod or of a user can have that name, too. What a CRI-O in a container runs is below
    // that container's cgroup.
    let is_the_nodes =
        |pid: &i32| cgroup::process::is_trusted(*pid) && !naming::is_in_container(*pid);
    let crios = supervisor::pids().filter(is_crio).filter(is_the_nodes);
    let (elsewhere, here): (Vec<i32>, Vec<i32>) =
        crios.partition(|pid| supervisor::is_elsewhere(*pid));
    let elsewhere = elsewhere.into_iter().map(|pid| Crio::Elsewhere { pid });
    let here = (!here.is_empty()).then(|| Crio::Here(configured()));
    here.into_iter().chain(elsewhere).collect()
}

/// CRI-O is expected if a container of it lives but no CRI-O runs.
pub(crate) fn missing(crios: &[Crio], containers: &[Container]) -> Option<Crio> {
    let runs = crios.iter().any(|it| matches!(it, Crio::Here(_)));
    let is_left = |it: &Container| {
        let is_alive = || it.init.is_some_and(|init| !fate::of(init).is_dead());
        it.owner == Owner::Crio && is_alive()
    };
    (!runs && containers.iter().any(is_left)).then(|| Crio::Here(configured()))
}

impl Crio {
    /// Its runtime's roots, to be read like the others.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        let roots = match self {
            Crio::Here(it) => it.roots.as_slice(),
            Crio::Elsewhere { .. } => &[],
        };
        roots.iter().map(PathBuf::as_path).filter(|it| it.is_dir())
    }

    pub(crate) fn ask(&self, limit: Duration) -> Seen {
        match self {
            Crio::Here(Configured { socket, .. }) => {
                let no = |error: frostlock_cri::Error| NoAnswer::of(socket, error.to_string());
                Seen::of(Source::Crio, text(socket), list(socket, limit).map_err(no))
            }
            Crio::Elsewhere { pid } => {
                let why = "it runs in another mount namespace".to_owned();
                let no = NoAnswer { how: Missed::NotAsked, why };
                Seen::of(Source::Crio, format!("pid {pid}"), Err(no))
            }
        }
    }

    /// Why a cgroup may belong to one of CRI-O's containers that is not known here. `None` if its
    /// runtime's state was read: CRI does not list a container before it is created.
    pub(crate) fn unread(&self, asked: &[Asked], containers: &[Container]) -> Option<String> {
        if let Crio::Elsewhere { pid } = self {
            return Some(format!("CRI-O (pid {pid}) runs in another mount namespace"));
        }
        let was_read = |root: &Path| {
            let is_it = |it: &&Asked| it.source == Source::Runtime && it.place == text(root);
            asked.iter().find(is_it).is_some_and(|it| it.answered)
        };
        let mut roots = self.roots().peekable();
        // A runtime creates its root with its first container.
        let has_none = || !containers.iter().any(|it| it.owner == Owner::Crio);
        let is_known = if roots.peek().is_some() { roots.all(was_read) } else { has_none() };
        (!is_known).then(|| "the state of CRI-O's runtime was not read (--root DIR)".to_owned())
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn list(socket: &Path, limit: Duration) -> Result<(String, Seen), frostlock_cri::Error> {
    let client = Client::lazy(socket)?.at_most(limit);
    let version = client.version()?.runtime_version;
    let version = cgroup::text::one_line(OsStr::new(&version), 64);
    let (pods, mut seen) = kubernetes::look(&client, &Owner::Crio)?.unwrap_or_default();
    seen.complete.push(Owner::Crio);
    Ok((format!("{version}, {pods}"), seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_runs_is_known_only_if_every_root_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        std::fs::create_dir(&one).unwrap();
        let read = |root: &Path, answer: Result<String, &str>| {
            let how = Missed::Denied;
            let answer = answer.map(|what| (what, Seen::default()));
            let answer = answer.map_err(|why| NoAnswer { how, why: why.to_owned() });
            Seen::of(Source::Runtime, text(root), answer).asked.remove(0)
        };
        let crio = |roots| Crio::Here(Configured { socket: PathBuf::new(), roots });
        let both = || crio(vec![one.clone(), two.clone()]);
        let is_known = |it: &Crio, asked: &[Asked]| it.unread(asked, &[]).is_none();
        let was_read = [read(&one, Ok("1 container".to_owned()))];
        assert!(is_known(&both(), &was_read), "the other is not there");
        assert!(!is_known(&both(), &[]));
        assert!(!is_known(&both(), &[read(&one, Err("Permission denied"))]));
        std::fs::create_dir(&two).unwrap();
        assert!(!is_known(&both(), &was_read));
        assert!(!is_known(&Crio::Elsewhere { pid: 7 }, &was_read));
        assert!(is_known(&crio(vec![]), &was_read), "it has not made one yet");
        let its = [Container::new(Owner::Crio, "web".to_owned())];
        assert!(crio(vec![]).unread(&was_read, &its).is_some());
    }

    #[test]
    fn one_that_has_gone_and_left_containers_has_to_be_asked() {
        let alive = super::super::claim::Init { pid: std::process::id() as i32, start: None };
        let mut left = Container::new(Owner::Crio, "web".to_owned());
        assert_eq!(missing(&[], std::slice::from_ref(&left)), None, "it has ended");
        left.init = Some(alive);
        let mut podmans = left.clone();
        podmans.owner = Owner::Podman;
        assert_eq!(missing(&[], &[podmans]), None);
        let left = [left];
        assert!(missing(&[], &left).is_some());
        assert!(missing(&[Crio::Elsewhere { pid: 7 }], &left).is_some());
        let here = Crio::Here(configured());
        assert_eq!(missing(std::slice::from_ref(&here), &left), None);
    }
}
