//! The container that an operation is about: its cgroup, its names, our record of it.
//!
//! Before `create` the bundle says where it is going to be; afterwards a small record of ours does,
//! or the runtime's own state file. The record is believed only while the runtime's state directory
//! is the very one it was written for: a container that was deleted and made again without us may
//! be in another cgroup.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, PodNames};
use crate::cgroup::predict::Plan;
use crate::cgroup::state_file::{self, Surroundings};
use crate::cgroup::{Freezer, Hierarchies, Identity, Places, Proc, Reader};
use crate::freeze;
use crate::invocation::{CgroupManager, Globals, Grammar, Invocation, Verb};
use crate::outcome::{LastFigures, Quotas};
use crate::process::{self, Process};
use crate::state_dir::{self, StateDir};

/// What we know of a container, between two operations on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    /// As it was given to the runtime: the file's name has only what a person can recognise.
    #[serde(default)]
    id: String,
    cgroup: PathBuf,
    /// Where its figures and its pod's are; finding out anew would mean to parse mountinfo, which
    /// takes 3 ms on a node with 5000 mounts.
    files: Reader,
    pod_files: Option<Reader>,
    /// Where its limits are, if not in the cgroup that its processes are in: crun can put them into
    /// one below (`run.oci.systemd.subgroup`).
    #[serde(default)]
    limits_files: Option<Reader>,
    /// Its directories in all hierarchies.
    #[serde(default)]
    dirs: Vec<PathBuf>,
    pod: PodNames,
    init: Option<Process>,
    /// The runtime's state directory of this container; none while it is being created.
    made_as: Option<Inode>,
    /// That it was paused through us, and not resumed since: its freeze is one that was asked for.
    #[serde(default)]
    paused: bool,
    /// Who is creating or has created it.
    creator: Option<Process>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Inode {
    dev: u64,
    ino: u64,
    /// ext4 gives the number of a removed directory to the next one.
    born: Option<SystemTime>,
}

/// The container of one operation.
#[derive(Debug)]
pub(crate) struct Container {
    record: Option<Record>,
    /// Where our record of it is.
    path: PathBuf,
    /// Where the runtime keeps its state.
    runtime_state: PathBuf,
    /// That this operation has written the record, of a container that was not there before.
    announced: bool,
    lookup: Lookup,
    /// Why its cgroup is not known, if somebody should hear of it.
    pub(crate) unknown: Option<String>,
}

/// Where to look things up.
#[derive(Debug)]
struct Lookup {
    grammar: Grammar,
    roots: Vec<PathBuf>,
    proc: Proc,
    /// Where cgroups are mounted, once somebody had to know: mountinfo grows with the node.
    mounts: OnceCell<Hierarchies>,
}

impl Container {
    /// Finds out what can be known before the operation runs.
    pub(crate) fn find(
        grammar: Grammar,
        globals: &Globals,
        invocation: &Invocation,
        state: &StateDir,
    ) -> Container {
        let proc = Proc::default();
        // Reading the map of users costs as much as reading our record.
        let surroundings = match globals.root {
            Some(_) if !invocation.verb.makes_a_container() => Surroundings::default(),
            _ => Surroundings::ours(&proc),
        };
        let roots = state_file::locate(globals.root.as_deref(), grammar, &surroundings);
        let lookup = Lookup { grammar, roots, proc, mounts: OnceCell::new() };
        let runtime_state = lookup.runtime_state(&invocation.id);
        let mut container = Container {
            record: None,
            path: record_path(state, &runtime_state),
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
            // That there is no such container is for the runtime to say; a container's second
            // `delete` is nothing to warn of.
            Err(why) => {
                let expected = !invocation.verb.makes_a_container() && container.is_gone();
                container.unknown = (!expected).then_some(why);
            }
        }
        container
    }

    /// Our record, if it is of this container; else the runtime's state; else a record without a
    /// state, which is one of a container that is being made or whose creation was cut short.
    fn recorded(&self, id: &OsStr) -> Result<Record, String> {
        let record = read_record(&self.path);
        let now = inode(&self.runtime_state);
        let is_of_this = |record: &&Record| record.made_as.is_some() && record.made_as == now;
        if let Some(record) = record.as_ref().filter(is_of_this) {
            return Ok(record.clone());
        }
        match self.lookup.runtimes_own(id, now) {
            Ok(record) => Ok(record),
            // Also one that a delete of ours was killed over, when the runtime had removed it already:
            // the next one clears away what is left of it.
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

    /// The cgroups whose quotas hold for it, outermost first.
    pub(crate) fn levels(&self) -> Vec<&Reader> {
        let Some(record) = &self.record else { return Vec::new() };
        let above = record.pod_files.iter().chain(&record.limits_files);
        above.chain([&record.files]).collect()
    }

    pub(crate) fn files(&self) -> Option<&Reader> {
        self.record.as_ref().map(|record| &record.files)
    }

    /// Its directories in all hierarchies; none where another container shares them, or sits below.
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
                && read_record(&path).is_some_and(|other| other.is_in(record))
        })
    }

    pub(crate) fn figures(&self) -> Option<LastFigures> {
        let files = &self.record.as_ref()?.files;
        Some(LastFigures { throttled: files.throttled(), oom_kill: files.oom_kill() })
    }

    /// As it is written down now: what was read before we had the lock is older than a pause that we
    /// waited for.
    pub(crate) fn is_paused(&self) -> bool {
        let Some(known) = &self.record else { return false };
        let now = read_record(&self.path).filter(|now| now.made_as == known.made_as);
        now.as_ref().unwrap_or(known).paused
    }

    /// Keeps what was learnt of a container that was made without us: should we be killed, the next
    /// operation finds by it what is to be undone, also when the runtime knows it no more.
    pub(crate) fn remember(&self) {
        if let Some(record) = self.record.as_ref().filter(|_| !self.path.exists()) {
            let _ = write_record(&self.path, record);
        }
    }

    /// After a pause or a resume that succeeded.
    pub(crate) fn set_paused(&mut self, paused: bool) {
        let Some(record) = &mut self.record else { return };
        // One that was learnt from the runtime just now is worth keeping.
        record.paused = paused;
        // Where there is no room for the new one the old one is not to stand: while it says "paused",
        // no freeze that is left behind would be undone. The runtime's own state is read instead.
        if write_record(&self.path, record).is_err() && !paused {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    pub(crate) fn freezer(&self) -> Freezer {
        self.record.as_ref().map_or(Freezer::Unknown, |record| record.files.freezer())
    }

    /// Itself, and not by way of an ancestor.
    pub(crate) fn is_told_to_freeze(&self) -> bool {
        self.files().is_some_and(Reader::is_told_to_freeze)
    }

    /// Takes back what a freeze that failed has left.
    pub(crate) fn thaw(&self) {
        if let Some(record) = &self.record {
            freeze::thaw(&record.files);
        }
    }

    /// Before `create`: writes down where the container is going to be, so that whoever comes
    /// meanwhile, or after a create that was cut short, finds its lock. A container that is there
    /// already keeps its record.
    pub(crate) fn announce(&mut self) {
        let Some(record) = &mut self.record else { return };
        let somebody_is_at_it = read_record(&self.path)
            .is_some_and(|record| record.creator.is_some_and(Process::is_alive));
        if inode(&self.runtime_state).is_some() || somebody_is_at_it {
            return;
        }
        record.creator = Process::ourselves();
        self.announced = write_record(&self.path, record).is_ok();
    }

    /// After the container was made: the runtime's own word on where it is replaces the plan.
    pub(crate) fn made(&mut self, id: &OsStr) {
        let now = inode(&self.runtime_state);
        if now.is_none() {
            return;
        }
        match (self.lookup.runtimes_own(id, now), &mut self.record) {
            (Ok(actual), Some(planned)) => {
                let pod = std::mem::take(&mut planned.pod);
                *planned = Record { pod, creator: planned.creator, ..actual };
            }
            (Ok(actual), None) => self.record = Some(actual),
            // The plan stands, without an inode, until somebody can read the state.
            (Err(_), _) => return,
        }
        if let Some(record) = &self.record {
            let _ = write_record(&self.path, record);
        }
    }

    /// Whether the runtime has no state of it any more.
    pub(crate) fn is_gone(&self) -> bool {
        inode(&self.runtime_state).is_none()
    }

    /// Removes our record of a container that is gone, but not that of one of the same name which
    /// another is making: until its runtime has got so far, nothing else tells where that will be.
    pub(crate) fn forget(&self) {
        let is_anothers = |record: Record| {
            let creator = record.creator.filter(|_| record.made_as.is_none());
            creator.is_some_and(|it| it.pid != process::own_pid() && it.is_alive())
        };
        if read_record(&self.path).is_some_and(is_anothers) {
            return;
        }
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(unfinished(&self.path));
    }

    /// That a failed create of ours has left nothing of the runtime's behind, and that nobody was
    /// there before.
    pub(crate) fn came_to_nothing(&self) -> bool {
        self.announced && self.is_gone()
    }
}

impl Lookup {
    fn runtime_state(&self, id: &OsStr) -> PathBuf {
        let mut states = self.roots.iter().map(|root| root.join(plain(id)));
        let first = states.next().unwrap_or_default();
        if first.is_dir() { first } else { states.find(|state| state.is_dir()).unwrap_or(first) }
    }

    fn planned(
        &self,
        globals: &Globals,
        invocation: &Invocation,
        rootless: Option<u32>,
    ) -> Result<Record, String> {
        let bundle = match (&invocation.config, &invocation.bundle) {
            // Not below the bundle, unless it has the usual name (crun's create.c).
            (Some(config), _) if config != "config.json" => Bundle::read_file(config),
            (_, Some(bundle)) => Bundle::read(bundle),
            (_, None) => Bundle::read(Path::new(".")),
        };
        let bundle = bundle.map_err(|why| why.to_string())?;
        let plan = Plan {
            grammar: self.grammar,
            id: &invocation.id,
            systemd: match globals.cgroup_manager {
                Some(manager) => manager == CgroupManager::Systemd,
                None => globals.systemd_cgroup,
            },
            cgroups_path: bundle.cgroups_path.as_deref(),
            rootless,
        };
        let mounts = self.mounts()?;
        let places = plan.places(mounts, &self.proc).map_err(|why| why.to_string())?;
        let mut record = Record::new(&places, None, mounts, bundle.pod);
        record.id = known_as(&invocation.id);
        Ok(record)
    }

    fn runtimes_own(&self, id: &OsStr, made_as: Option<Inode>) -> Result<Record, String> {
        if made_as.is_none() {
            return Err("the runtime has no such container".to_owned());
        }
        let mounts = self.mounts()?;
        let state = state_file::read(&self.roots, self.grammar, id, mounts, &self.proc)
            .map_err(|why| why.to_string())?;
        let places = state.places.ok_or("the runtime's state names no cgroup")?;
        let bundle = state.bundle.as_deref().and_then(|bundle| Bundle::read(bundle).ok());
        let pod = bundle.map(|b| b.pod).unwrap_or_default();
        let mut record = Record::new(&places, state.leaf, mounts, pod);
        record.id = known_as(id);
        record.made_as = made_as;
        record.init = match (state.init_pid, state.init_start) {
            (Some(pid), Some(start)) => Some(Process { pid, start }),
            (Some(pid), None) => Process::of(pid),
            (None, _) => None,
        };
        Ok(record)
    }

    fn mounts(&self) -> Result<&Hierarchies, String> {
        if let Some(known) = self.mounts.get() {
            return Ok(known);
        }
        let read = Hierarchies::read(&self.proc);
        let read = read.map_err(|error| format!("cannot read mountinfo: {error}"))?;
        Ok(self.mounts.get_or_init(|| read))
    }
}

impl Record {
    /// Whether it is the same cgroup or one below it, in any hierarchy.
    fn is_in(&self, outer: &Record) -> bool {
        self.cgroup.starts_with(&outer.cgroup)
            || self.dirs.iter().any(|dir| outer.dirs.iter().any(|outer| dir.starts_with(outer)))
    }

    fn new(places: &Places, leaf: Option<Identity>, mounts: &Hierarchies, pod: PodNames) -> Record {
        let files = Reader::at(mounts, places);
        let of_leaf = leaf.map(|leaf| Reader::new(mounts, &leaf));
        let (files, limits_files) = match of_leaf {
            Some(of_leaf) => (of_leaf, Some(files)),
            None => (files, None),
        };
        Record {
            id: String::new(),
            cgroup: places.named().as_path().to_owned(),
            files,
            pod_files: places.pod().map(|pod| Reader::at(mounts, &pod)),
            limits_files,
            dirs: mounts.dirs_at(places),
            pod,
            init: None,
            made_as: None,
            paused: false,
            creator: None,
        }
    }
}

/// Our record of some container, found without the runtime's root: a hook is told only the id.
#[derive(Debug)]
pub(crate) struct Recorded {
    record: Record,
    path: PathBuf,
}

impl Recorded {
    /// Under whatever roots there are containers of this id.
    pub(crate) fn of_id(state: &StateDir, id: &OsStr) -> Vec<Recorded> {
        if id.is_empty() {
            return Vec::new();
        }
        let begins = format!("{}-", state_dir::readable(id));
        let files = std::fs::read_dir(state.containers()).into_iter().flatten().flatten();
        let named = files.filter(|file| file.file_name().as_bytes().starts_with(begins.as_bytes()));
        let paths = named.map(|file| file.path());
        let paths = paths.filter(|path| path.extension() == Some(OsStr::new("json")));
        paths
            .filter_map(|path| Some(Recorded { record: read_record(&path)?, path }))
            .filter(|recorded| recorded.record.id == known_as(id))
            .collect()
    }

    /// All that there are.
    pub(crate) fn all(state: &StateDir) -> Vec<Recorded> {
        let files = std::fs::read_dir(state.containers()).into_iter().flatten().flatten();
        let paths = files.map(|file| file.path());
        let paths = paths.filter(|path| path.extension() == Some(OsStr::new("json")));
        paths.filter_map(|path| Some(Recorded { record: read_record(&path)?, path })).collect()
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    pub(crate) fn init(&self) -> Option<Process> {
        self.record.init
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a directory of its cgroup's is there.
    pub(crate) fn has_a_cgroup(&self) -> bool {
        self.record.dirs.iter().any(|dir| dir.is_dir())
    }

    pub(crate) fn cgroup(&self) -> Option<Identity> {
        Identity::new(&self.record.cgroup)
    }

    pub(crate) fn pod(&self) -> &PodNames {
        &self.record.pod
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.record.paused
    }

    /// Whether the container runs, or is being made.
    pub(crate) fn is_in_use(&self) -> bool {
        let Record { init, creator, .. } = self.record;
        [init, creator].into_iter().flatten().any(Process::is_alive)
    }

    pub(crate) fn forget(&self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(unfinished(&self.path));
    }
}

/// Whether a container of this id was paused through us, and not resumed since.
pub fn is_paused_on_record(state: &StateDir, id: &OsStr) -> bool {
    Recorded::of_id(state, id).iter().any(|recorded| recorded.is_paused() && recorded.is_in_use())
}

/// An id in a record. Runtimes take only plain ones.
fn known_as(id: &OsStr) -> String {
    id.to_string_lossy().into_owned()
}

/// An id that is not one name would lead out of the root; no runtime accepts it.
fn plain(id: &OsStr) -> &OsStr {
    let is_one_name = Path::new(id).file_name() == Some(id);
    if is_one_name { id } else { OsStr::new("-") }
}

/// The root is part of it, resolved: docker names its own through /var/run, which is a link.
fn record_path(state: &StateDir, runtime_state: &Path) -> PathBuf {
    let resolved = runtime_state.parent().and_then(resolve);
    let path = match (resolved, runtime_state.file_name()) {
        (Some(root), Some(id)) => root.join(id),
        _ => runtime_state.to_owned(),
    };
    state.containers().join(format!("{}.json", state_dir::file_name(path.as_os_str())))
}

/// As far as it is there: the first `create` makes the root, and those after it must come to the same.
fn resolve(root: &Path) -> Option<PathBuf> {
    let root = std::path::absolute(root).ok()?;
    root.ancestors().find_map(|there| {
        let rest = root.strip_prefix(there).ok()?;
        Some(std::fs::canonicalize(there).ok()?.join(rest))
    })
}

fn inode(path: &Path) -> Option<Inode> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Inode { dev: metadata.dev(), ino: metadata.ino(), born: metadata.created().ok() })
}

fn read_record(path: &Path) -> Option<Record> {
    serde_json::from_str(&crate::json::read_text(path).ok()?).ok()
}

/// One name per container, so that of many writers that were killed one file is left and not many.
/// Two at once, which only a lock that timed out allows, can spoil a record, no more: the runtime's
/// own state is read instead.
fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Whole or not at all: readers take no lock.
fn write_record(path: &Path, record: &Record) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    if let Some(state) = directory.parent() {
        state_dir::make_private(state)?;
    }
    state_dir::make_private(directory)?;
    let next = unfinished(path);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        // A FIFO in its place must not block us.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(&next)
        .and_then(|mut file| file.write_all(&serde_json::to_vec(record)?))
        .and_then(|()| std::fs::rename(&next, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&next);
    }
    written
}

#[cfg(test)]
mod tests {
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
                grammar: Grammar::Runc,
                roots: Vec::new(),
                proc,
                mounts: OnceCell::new(),
            },
            unknown: None,
        };
        container.set_paused(true);
        assert!(container.is_paused() && read_record(&container.path).is_some());
        // As on a full /run: the next record cannot be begun.
        std::fs::create_dir(unfinished(&container.path)).unwrap();
        container.set_paused(false);
        assert!(!container.is_paused() && read_record(&container.path).is_none());
    }

    #[test]
    fn a_root_behind_a_link_is_the_same_before_and_after_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        let link = dir.path().join("link");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let before = resolve(&link.join("a/b"));
        std::fs::create_dir_all(real.join("a/b")).unwrap();
        assert_eq!(before, resolve(&link.join("a/b")));
        assert_eq!(before, std::fs::canonicalize(real.join("a/b")).ok());
    }
}
