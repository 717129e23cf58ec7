//! The container of an operation: its cgroup, its names, our record of it.
//!
//! Before `create` the bundle says where the container will be; afterwards a small record of ours does,
//! or the runtime's own state file. The record is valid only while the runtime's state directory is the
//! one it was written for: a container that was deleted and made again without us may be in another
//! cgroup.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::invocation::{Globals, Invocation, Verb};
use crate::outcome::{LastFigures, Quotas};
use cgroup::RuntimeKind;
use cgroup::bundle::{Bundle, PodNames};
use cgroup::freeze;
use cgroup::predict::Plan;
use cgroup::process::{self, Process};
use cgroup::state_file::{self, Surroundings};
use cgroup::{Freezer, Hierarchies, Identity, Proc, Reader, Unknown};
use state::StateDir;
use state::record::{self, Inode, Record};

/// The container of one operation.
#[derive(Debug)]
pub(crate) struct Container {
    record: Option<Record>,
    /// The path of our record.
    path: PathBuf,
    /// The directory of the runtime's state.
    runtime_state: PathBuf,
    /// Whether this operation has written the record of a container that did not exist before.
    announced: bool,
    lookup: Lookup,
    /// Why its cgroup is not known, if that should be reported.
    pub(crate) unknown: Option<Unknown>,
}

/// Where to look things up.
#[derive(Debug)]
struct Lookup {
    kind: RuntimeKind,
    roots: Vec<PathBuf>,
    proc: Proc,
    /// The mounted hierarchies, read on first use: mountinfo grows with the node.
    mounts: OnceCell<Hierarchies>,
}

impl Container {
    /// Finds out what can be known before the operation runs.
    pub(crate) fn find(
        kind: RuntimeKind,
        globals: &Globals,
        invocation: &Invocation,
        state: &StateDir,
    ) -> Container {
        let proc = Proc::default();
        // Reading the uid map costs as much as reading our record.
        let surroundings = match globals.root {
            Some(_) if !invocation.verb.makes_a_container() => Surroundings::default(),
            _ => Surroundings::ours(&proc),
        };
        let roots = state_file::locate(globals.root.as_deref(), kind, &surroundings);
        let lookup = Lookup { kind, roots, proc, mounts: OnceCell::new() };
        let plain = record::plain(&invocation.id);
        let runtime_state = state_file::directory(&lookup.roots, plain).unwrap_or_default();
        let mut container = Container {
            record: None,
            path: record::path(state, &runtime_state),
            runtime_state,
            announced: false,
            lookup,
            unknown: None,
        };
        let found = match invocation.verb {
            Verb::Create | Verb::Run | Verb::Restore => container.lookup.planned(
                globals,
                invocation,
                surroundings.rootless().then_some(surroundings.euid),
            ),
            _ => container.recorded(&invocation.id),
        };
        match found {
            Ok(record) => container.record = Some(record),
            // The runtime itself reports that there is no such container, and a second `delete` of a
            // container is not worth a warning.
            Err(why) => {
                let expected = !invocation.verb.makes_a_container() && container.is_gone();
                container.unknown = (!expected).then_some(why);
            }
        }
        container
    }

    /// Our record, if it belongs to this container; else the runtime's state; else a record without a
    /// state, of a container that is being made or whose creation was cut short.
    fn recorded(&self, id: &OsStr) -> Result<Record, Unknown> {
        let record = Record::read(&self.path);
        let now = Inode::of(&self.runtime_state);
        let is_of_this = |record: &&Record| record.made_as.is_some() && record.made_as == now;
        if let Some(record) = record.as_ref().filter(is_of_this) {
            return Ok(record.clone());
        }
        match self.lookup.runtimes_own(id, now) {
            Ok(record) => Ok(record),
            // Also the record of a container whose `delete` through us was killed after the runtime had
            // removed it: the next `delete` clears away what is left.
            Err(why) => {
                record.filter(|record| record.made_as.is_none() || now.is_none()).ok_or(why)
            }
        }
    }

    pub(crate) fn identity(&self) -> Option<Identity> {
        self.record.as_ref().and_then(|record| Identity::new(&record.cgroup))
    }

    pub(crate) fn pod(&self) -> PodNames {
        self.record.as_ref().map(|record| record.pod.clone()).unwrap_or_default()
    }

    pub(crate) fn init(&self) -> Option<Process> {
        self.record.as_ref().and_then(|record| record.init)
    }

    /// The CPU limits of the container and its pod as they are now.
    pub(crate) fn quotas(&self) -> Quotas {
        let Some(record) = &self.record else { return Quotas::default() };
        Quotas {
            container: record.files.cpu_quota(),
            pod: record.pod_files.as_ref().and_then(Reader::cpu_quota),
        }
    }

    /// The cgroups whose quotas apply to it, outermost first.
    pub(crate) fn levels(&self) -> Vec<&Reader> {
        let Some(record) = &self.record else { return Vec::new() };
        let above = record.pod_files.iter().chain(&record.limits_files);
        above.chain([&record.files]).collect()
    }

    pub(crate) fn files(&self) -> Option<&Reader> {
        self.record.as_ref().map(|record| &record.files)
    }

    /// Its directories in all hierarchies; none if another container shares them or lies below.
    pub(crate) fn own_dirs(&self) -> Vec<PathBuf> {
        let Some((record, cgroup)) = self.record.as_ref().zip(self.identity()) else {
            return Vec::new();
        };
        if cgroup.is_root() || !record.dirs.iter().any(|dir| dir.is_dir()) || self.is_shared() {
            return Vec::new();
        }
        record.dirs.clone()
    }

    fn is_shared(&self) -> bool {
        let Some(record) = &self.record else { return false };
        let records = self.path.parent().and_then(|dir| std::fs::read_dir(dir).ok());
        records.into_iter().flatten().flatten().map(|entry| entry.path()).any(|path| {
            path != self.path
                && path.extension() == Some(OsStr::new("json"))
                && Record::read(&path).is_some_and(|other| other.is_in(record))
        })
    }

    pub(crate) fn figures(&self) -> Option<LastFigures> {
        let files = &self.record.as_ref()?.files;
        Some(LastFigures { throttled: files.throttled(), oom_kill: files.oom_kill() })
    }

    /// As recorded now: a pause that we waited for is newer than what we read before we had the lock.
    pub(crate) fn is_paused(&self) -> bool {
        let Some(known) = &self.record else { return false };
        let now = Record::read(&self.path).filter(|now| now.made_as == known.made_as);
        now.as_ref().unwrap_or(known).paused
    }

    /// Keeps what we found out about a container that was made without us. If we are killed, the next
    /// operation finds what to undo, even if the runtime no longer knows the container.
    pub(crate) fn remember(&self) {
        if let Some(record) = self.record.as_ref().filter(|_| !self.path.exists()) {
            let _ = record.write(&self.path);
        }
    }

    /// After a pause or a resume that succeeded.
    pub(crate) fn set_paused(&mut self, paused: bool) {
        let Some(record) = &mut self.record else { return };
        // What was just read from the runtime is worth keeping.
        record.paused = paused;
        // If there is no room for the new record, the old one must not stand: while it says "paused",
        // no freeze that is left behind would be undone. Without it the runtime's own state is read.
        if record.write(&self.path).is_err() && !paused {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    pub(crate) fn freezer(&self) -> Freezer {
        self.record.as_ref().map_or(Freezer::Unknown, |record| record.files.freezer())
    }

    /// Whether the cgroup itself was told to freeze, and not an ancestor.
    pub(crate) fn is_told_to_freeze(&self) -> bool {
        self.files().is_some_and(Reader::is_told_to_freeze)
    }

    /// Undoes what a failed freeze has left.
    pub(crate) fn thaw(&self) {
        if let Some(record) = &self.record {
            freeze::thaw(&record.files);
        }
    }

    /// Before `create`: records where the container will be. So an operation that comes meanwhile, or
    /// after a create that was cut short, finds its lock. An existing container keeps its record.
    pub(crate) fn announce(&mut self) {
        let Some(record) = &mut self.record else { return };
        let somebody_is_at_it = Record::read(&self.path)
            .is_some_and(|record| record.creator.is_some_and(Process::is_alive));
        if Inode::of(&self.runtime_state).is_some() || somebody_is_at_it {
            return;
        }
        record.creator = Process::ourselves();
        self.announced = record.write(&self.path).is_ok();
    }

    /// After the container was made: the runtime's own information on where it is replaces the plan.
    pub(crate) fn made(&mut self, id: &OsStr) {
        let now = Inode::of(&self.runtime_state);
        if now.is_none() {
            return;
        }
        match (self.lookup.runtimes_own(id, now), &mut self.record) {
            (Ok(actual), Some(planned)) => {
                let pod = std::mem::take(&mut planned.pod);
                *planned = Record { pod, creator: planned.creator, ..actual };
            }
            (Ok(actual), None) => self.record = Some(actual),
            // The plan stands, without an inode, until an operation can read the state.
            (Err(_), _) => return,
        }
        if let Some(record) = &self.record {
            let _ = record.write(&self.path);
        }
    }

    /// Whether the runtime no longer has a state of it.
    pub(crate) fn is_gone(&self) -> bool {
        Inode::of(&self.runtime_state).is_none()
    }

    /// Removes our record of a container that is gone. Keeps the record of one with the same name that
    /// another operation is making: until its runtime has got that far, nothing else tells where that
    /// will be.
    pub(crate) fn forget(&self) {
        let is_anothers = |record: Record| {
            let creator = record.creator.filter(|_| record.made_as.is_none());
            creator.is_some_and(|it| it.pid != process::own_pid() && it.is_alive())
        };
        if Record::read(&self.path).is_some_and(is_anothers) {
            return;
        }
        record::remove(&self.path);
    }

    /// Whether a failed create of ours has left nothing of the runtime's, and there was no such
    /// container before.
    pub(crate) fn came_to_nothing(&self) -> bool {
        self.announced && self.is_gone()
    }
}

impl Lookup {
    fn planned(
        &self,
        globals: &Globals,
        invocation: &Invocation,
        rootless: Option<u32>,
    ) -> Result<Record, Unknown> {
        let bundle = match (&invocation.config, &invocation.bundle) {
            // The file is not below the bundle, unless it has the usual name (crun's create.c).
            (Some(config), _) if config != "config.json" => Bundle::read_file(config),
            (_, Some(bundle)) => Bundle::read(bundle),
            (_, None) => Bundle::read(Path::new(".")),
        };
        let bundle = bundle?;
        let plan = Plan {
            kind: self.kind,
            id: &invocation.id,
            systemd: globals.systemd_cgroup,
            cgroups_path: bundle.cgroups_path.as_deref(),
            rootless,
        };
        let mounts = self.mounts()?;
        let places = plan.places(mounts, &self.proc)?;
        let mut record = Record::new(&places, None, mounts, bundle.pod);
        record.id = record::known_as(&invocation.id);
        Ok(record)
    }

    fn runtimes_own(&self, id: &OsStr, made_as: Option<Inode>) -> Result<Record, Unknown> {
        if made_as.is_none() {
            return Err(Unknown::new("the runtime has no such container"));
        }
        let mounts = self.mounts()?;
        let state = state_file::read(&self.roots, self.kind, id, mounts, &self.proc)?;
        let places =
            state.places.ok_or_else(|| Unknown::new("the runtime's state names no cgroup"))?;
        let bundle = state.bundle.as_deref().and_then(|bundle| Bundle::read(bundle).ok());
        let pod = bundle.map(|b| b.pod).unwrap_or_default();
        let mut record = Record::new(&places, state.leaf, mounts, pod);
        record.id = record::known_as(id);
        record.made_as = made_as;
        record.init = match (state.init_pid, state.init_start) {
            (Some(pid), Some(start)) => Some(Process { pid, start }),
            (Some(pid), None) => Process::of(pid),
            (None, _) => None,
        };
        Ok(record)
    }

    fn mounts(&self) -> Result<&Hierarchies, Unknown> {
        if let Some(known) = self.mounts.get() {
            return Ok(known);
        }
        let read = Hierarchies::read(&self.proc)
            .map_err(|error| Unknown::because("cannot read mountinfo", error))?;
        Ok(self.mounts.get_or_init(|| read))
    }
}

#[cfg(test)]
mod tests {
    use cgroup::Places;

    use super::*;

    #[test]
    fn where_nothing_can_be_written_nothing_says_paused() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::of(Identity::new("/c").unwrap());
        let record = Record::new(&places, None, &Hierarchies::default(), PodNames::default());
        let proc = Proc::default();
        let mut container = Container {
            record: Some(record),
            path: dir.path().join("containers/c.json"),
            runtime_state: dir.path().join("c"),
            announced: false,
            lookup: Lookup {
                kind: RuntimeKind::Runc,
                roots: Vec::new(),
                proc,
                mounts: OnceCell::new(),
            },
            unknown: None,
        };
        container.set_paused(true);
        assert!(container.is_paused() && Record::read(&container.path).is_some());
        // As on a full /run, the next record cannot be begun.
        std::fs::create_dir(record::unfinished(&container.path)).unwrap();
        container.set_paused(false);
        assert!(!container.is_paused() && Record::read(&container.path).is_none());
    }
}
