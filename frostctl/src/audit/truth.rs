//! What the kernel says of a container: its first process, its cgroup, its freezer.

use std::cell::LazyCell;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use cgroup::process::{self, Process};
use cgroup::{Freezer, Hierarchies, Identity, Membership, Proc, Reader};
use rustix::io::Errno;
use state::state_dir::StateDir;

use super::claim::{Container, Fate, Init, Seen, Status, Truth};
use super::fate;
use super::supervisor::{self, Shims};

/// The rest are not read; a fork bomb must not hold us up.
const MOST_MEMBERS: usize = 4096;
/// Nor one that makes cgroups: a container with a delegated cgroup can make very many.
const MOST_CGROUPS: usize = 4096;

/// Fills in the truth of every container.
pub(crate) fn establish(seen: &mut Seen, mounts: &Hierarchies, ours: &StateDir) {
    let cgroups = seen.containers.iter().filter_map(|container| container.cgroup.as_ref());
    let mut taken: Vec<PathBuf> = cgroups.map(|cgroup| cgroup.as_path().to_owned()).collect();
    // A delete must not end frostctl and what has called it.
    let own = cgroup_of("self", mounts);
    taken.sort();
    let shims: LazyCell<Shims> = LazyCell::new(supervisor::shims);
    for container in &mut seen.containers {
        let shared = container.cgroup.as_ref().is_some_and(|cgroup| {
            let cgroup = cgroup.as_path();
            let has_us = own.as_ref().is_some_and(|own| own.as_path().starts_with(cgroup));
            has_us || is_shared(cgroup, &taken)
        });
        container.truth = of(container, shared, mounts, ours, &shims);
    }
    note_living_pods(&mut seen.containers);
}

/// Whether the cgroup or one below it is another container's. `taken` is sorted, so what is below a path
/// comes directly after it.
fn is_shared(cgroup: &Path, taken: &[PathBuf]) -> bool {
    let first = taken.partition_point(|other| other.as_path() < cgroup);
    taken.get(first + 1).is_some_and(|next| next.starts_with(cgroup))
}

/// The end of a sandbox ends its pod's other containers, which are not in its cgroup.
fn note_living_pods(containers: &mut [Container]) {
    let runs = |it: &&Container| {
        let is_claimed = it.claims.iter().any(|claim| claim.status.needs_process());
        it.is_in_use() || is_claimed && !it.truth.fate.is_dead()
    };
    let living: HashSet<String> =
        containers.iter().filter(runs).filter_map(|it| it.sandbox.clone()).collect();
    for pod in containers.iter_mut().filter(|it| it.is_sandbox) {
        pod.truth.pod_lives = living.contains(&pod.id);
    }
}

fn of(
    container: &Container,
    shared: bool,
    mounts: &Hierarchies,
    ours: &StateDir,
    shims: &LazyCell<Shims>,
) -> Truth {
    let fate = container.init.map_or(Fate::Unknown, |init| match fate::of(init) {
        Fate::Alive if init.start.is_none() && is_elsewhere(init, container, mounts) => {
            Fate::Reused
        }
        fate => fate,
    });
    let supervisor = supervisor::of_container(container, fate, shims);
    let mut truth = Truth { fate, supervisor, ..Truth::default() };
    let Some(cgroup) = container.cgroup.as_ref().filter(|cgroup| !cgroup.is_root()) else {
        return truth;
    };
    let reader = Reader::new(mounts, cgroup);
    truth.freezer = reader.freezer();
    if matches!(truth.freezer, Freezer::Frozen | Freezer::Freezing) {
        truth.frozen_itself = reader.is_told_to_freeze();
        let own = reader.freezer_dir().map(|(_, dir)| dir.to_owned());
        let own = own.filter(|_| truth.frozen_itself);
        truth.frozen_at = own.or_else(|| reader.frozen_ancestor());
        truth.paused_on_record =
            state::record::is_paused_on_record(ours, OsStr::new(&container.id));
    }
    truth.shared = shared;
    // Not for a container that runs: nobody needs it there, and a look comes every 300 ms.
    let has_ended = container.claims.iter().any(|claim| claim.status == Status::Stopped);
    if has_ended || truth.fate.is_dead() {
        Population { processes: truth.inhabitants, units: truth.units, is_cut: truth.is_cut } =
            inhabitants(mounts, cgroup);
    }
    if !shared {
        let members = members(mounts, cgroup);
        truth.members = members.processes;
        truth.is_cut |= members.is_cut;
    }
    truth
}

/// Whether the process is in a cgroup that is not the container's.
fn is_elsewhere(init: Init, container: &Container, mounts: &Hierarchies) -> bool {
    let Some(cgroup) = &container.cgroup else { return false };
    let there = cgroup_of(&init.pid.to_string(), mounts);
    there.is_some_and(|there| !there.as_path().starts_with(cgroup.as_path()))
}

fn cgroup_of(who: &str, mounts: &Hierarchies) -> Option<Identity> {
    Membership::of(&Proc::default(), who).ok()?.identity(mounts)
}

/// What lives in a cgroup and below it.
#[derive(Debug, Default)]
pub(crate) struct Population {
    pub(crate) processes: Vec<Process>,
    units: Vec<String>,
    pub(crate) is_cut: bool,
}

/// The living processes in a cgroup and below it. A zombie stays in its cgroup until it is reaped.
pub(crate) fn members(mounts: &Hierarchies, cgroup: &Identity) -> Population {
    let dirs = naming_dir(mounts, cgroup);
    Population::below(dirs.as_slice())
}

/// The living processes in a cgroup or below it, in all hierarchies, and the systemd units that
/// they are in. On v1 systemd keeps a unit's processes in its own hierarchy, and the runtime's
/// freezer does not show them. Units are recognized by name: systemd names no other cgroup like
/// that.
fn inhabitants(mounts: &Hierarchies, cgroup: &Identity) -> Population {
    Population::below(&mounts.dirs(cgroup))
}

impl Population {
    fn below(tops: &[PathBuf]) -> Population {
        let mut all = Population::default();
        for top in tops {
            all.walk(top);
        }
        all.processes.sort_by_key(|process| process.pid);
        all.processes.dedup();
        all.units.sort();
        all.units.dedup();
        all
    }

    /// The upper cgroups first.
    fn walk(&mut self, top: &Path) {
        let (mut dirs, mut next, before) = (vec![top.to_owned()], 0, self.processes.len());
        while let Some(dir) = dirs.get(next).cloned() {
            next += 1;
            let room = (before + MOST_MEMBERS).saturating_sub(self.processes.len());
            if self.read(&dir, room) {
                let names = dir.ancestors().take_while(|dir| dir.starts_with(top));
                let names = names.filter_map(|dir| dir.file_name()?.to_str());
                self.units.extend(names.filter(|name| is_unit(name)).map(str::to_owned));
            }
            let mut below = cgroup::read::children(&dir);
            dirs.extend(below.by_ref().take(MOST_CGROUPS.saturating_sub(dirs.len())));
            self.is_cut |= below.next().is_some();
        }
    }

    /// The processes in the cgroup itself. Gives whether there are any.
    fn read(&mut self, dir: &Path, room: usize) -> bool {
        let procs = fs::read_to_string(dir.join("cgroup.procs"));
        let procs = procs.unwrap_or_else(|error| {
            // Gone meanwhile, or threaded: then the cgroup above lists its processes.
            let is_empty = [Errno::NOENT, Errno::NODEV, Errno::OPNOTSUPP];
            self.is_cut |= Errno::from_io_error(&error).is_none_or(|it| !is_empty.contains(&it));
            String::new()
        });
        let pids = procs.lines().filter_map(|line| line.parse().ok());
        // Processes of another pid namespace appear as 0.
        let alive = pids.filter(|pid| *pid > 0).filter_map(Process::of);
        let mut alive = alive.filter(|process| fate::of(known(*process)) == Fate::Alive);
        let before = self.processes.len();
        self.processes.extend(alive.by_ref().take(room));
        self.is_cut |= alive.next().is_some();
        self.processes.len() > before
    }
}

fn is_unit(name: &str) -> bool {
    [".service", ".scope"].iter().any(|suffix| name.ends_with(suffix))
}

/// The directory in the hierarchy that names containers.
pub(crate) fn naming_dir(mounts: &Hierarchies, cgroup: &Identity) -> Option<PathBuf> {
    let reader = Reader::new(mounts, cgroup);
    let dir = reader.freezer_dir().or(reader.cpu_dir()).map(|(_, dir)| dir.to_owned());
    dir.filter(|dir| dir.is_dir())
}

fn known(process: Process) -> Init {
    Init { pid: process.pid, start: Some(process.start) }
}

/// For a person: `sleep (4711)`.
pub(crate) fn named(pid: i32) -> String {
    let name = process::comm(pid).unwrap_or_else(|| "?".to_owned());
    let name = cgroup::text::one_line(OsStr::new(&name), 32);
    format!("{name} ({pid})")
}

#[cfg(test)]
mod tests {
    use super::super::claim::{Claim, Owner, Source};
    use super::*;

    #[test]
    fn a_cgroup_above_another_containers_is_shared() {
        let mut taken = ["/a", "/a/b/c", "/a.b", "/d", "/d"].map(PathBuf::from);
        taken.sort();
        for (cgroup, shared) in [("/a", true), ("/a/b/c", false), ("/a.b", false), ("/d", true)] {
            assert_eq!(is_shared(Path::new(cgroup), &taken), shared, "{cgroup}");
        }
    }

    #[test]
    fn a_walk_ends_after_so_many_cgroups_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("sshd.service/below");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        let below = || Population::below(&[dir.path().to_owned(), dir.path().to_owned()]);
        let found = below();
        assert_eq!((found.processes.len(), found.is_cut), (1, false));
        assert_eq!(found.units, ["sshd.service"]);
        (0..MOST_CGROUPS).for_each(|n| fs::create_dir(dir.path().join(n.to_string())).unwrap());
        assert!(below().is_cut);
        let unread = tempfile::tempdir().unwrap();
        fs::create_dir(unread.path().join("cgroup.procs")).unwrap();
        assert!(Population::below(&[unread.path().to_owned()]).is_cut);
    }

    #[test]
    fn a_pod_lives_as_long_as_one_of_its_containers_runs() {
        let container = |id: &str| Container::new(Owner::Crio, id.to_owned());
        let mut pod = container("pod");
        pod.is_sandbox = true;
        let mut web = container("web");
        web.sandbox = Some("pod".to_owned());
        let (said, place) = (String::new(), String::new());
        web.claims.push(Claim { source: Source::Cri, status: Status::Running, said, place });
        let lives = |fate| {
            let mut web = web.clone();
            web.truth.fate = fate;
            let mut both = [pod.clone(), web];
            note_living_pods(&mut both);
            both[0].truth.pod_lives
        };
        assert!(lives(Fate::Alive) && lives(Fate::Unknown));
        assert!(!lives(Fate::Gone), "the control");
    }
}
