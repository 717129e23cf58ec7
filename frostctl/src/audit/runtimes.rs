//! The state files of the runtimes: runc, crun and youki.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cgroup::{Freezer, Hierarchies, Proc, Reader, RuntimeKind, state_file};

use super::claim::{
    Claim, Container, Init, Missed, NoAnswer, Owner, Root, RuntimeState, Seen, Source, Status,
    counted,
};
use super::{fate, podman};

/// A larger root is some other directory; a node has some hundred containers.
const MOST_CONTAINERS: usize = 20_000;

/// Each is a root.
const ROOTS: [&str; 4] = ["/run/runc", "/run/crun", "/run/youki", "/run/crio/runc"];
/// Each has one root for each containerd namespace.
const PARENTS: [&str; 3] =
    ["/run/containerd/runc", "/run/docker/runtime-runc", "/run/docker/runtime-crun"];
/// Each has the roots of one user.
const USERS: &str = "/run/user";
/// A shim's bundle is `.../io.containerd.runtime.v2.task/NAMESPACE/ID`.
const SHIM_BUNDLES: &str = "io.containerd.runtime.v2.task";

/// The usual roots that exist, and those of users.
pub(crate) fn usual_roots() -> Vec<PathBuf> {
    let below = |parent: &Path| {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let users = below(Path::new(USERS));
    let of_users = users.iter().flat_map(|user| ["runc", "crun"].map(|name| user.join(name)));
    let namespaces = PARENTS.iter().flat_map(|parent| below(Path::new(parent)));
    let paths = ROOTS.iter().map(PathBuf::from).chain(namespaces).chain(of_users);
    paths.filter(|path| path.is_dir()).collect()
}

/// Reads every container of a root.
pub(crate) fn look(root: &Root, mounts: &Hierarchies) -> Seen {
    let answer = ids(&root.path).map(|ids| {
        let mut notes = Vec::new();
        let found = ids.iter().filter_map(|id| container(root, id, mounts, &mut notes));
        let containers: Vec<_> = found.collect();
        (counted(containers.len()), Seen { containers, notes, ..Seen::default() })
    });
    let no = |error: std::io::Error| {
        let is_denied = error.kind() == std::io::ErrorKind::PermissionDenied;
        let how = if is_denied { Missed::Denied } else { Missed::Silent };
        NoAnswer { how, why: error.to_string() }
    };
    Seen::of(Source::Runtime, root.path.display().to_string(), answer.map_err(no))
}

fn ids(root: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(root)?.flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(dirs.map(|entry| entry.file_name()).take(MOST_CONTAINERS).collect())
}

/// `None` if the container has no state, as during its creation.
fn container(
    root: &Root,
    id: &OsStr,
    mounts: &Hierarchies,
    notes: &mut Vec<String>,
) -> Option<Container> {
    let dir = root.path.join(id);
    let (grammar, file) = kind(&dir)?;
    let roots = [root.path.clone()];
    let state = match state_file::read(&roots, grammar, id, mounts, &Proc::default()) {
        Ok(state) => state,
        Err(why) => {
            // No note if it was deleted while we looked.
            if file.exists() {
                notes.push(why.to_string());
            }
            return None;
        }
    };
    let owner = owner(&root.path, state.bundle.as_deref());
    let mut container = Container::new(owner, id.to_string_lossy().into_owned());
    container.bundle.clone_from(&state.bundle);
    container.init = state.init_pid.map(|pid| Init { pid, start: state.init_start });
    container.cgroup = state.leaf.clone().or_else(|| state.identity().cloned());
    let binary = root.binary.clone().unwrap_or_else(|| default_binary(grammar));
    let has_no_cgroup = state.has_no_cgroup;
    container.state = Some(RuntimeState { root: root.path.clone(), binary, has_no_cgroup });
    let (status, said) = status(&container, &dir, mounts);
    let (said, place) = (said.to_owned(), file.display().to_string());
    container.claims.push(Claim { source: Source::Runtime, status, said, place });
    Some(container)
}

/// The first process, as recorded now.
pub(crate) fn init(root: &Path, id: &str) -> Option<Init> {
    let (grammar, _) = kind(&root.join(id))?;
    let mounts = Hierarchies::read(&Proc::default()).ok()?;
    let roots = [root.to_owned()];
    let state = state_file::read(&roots, grammar, OsStr::new(id), &mounts, &Proc::default());
    let state = state.ok()?;
    Some(Init { pid: state.init_pid?, start: state.init_start })
}

fn kind(dir: &Path) -> Option<(RuntimeKind, PathBuf)> {
    let state = dir.join("state.json");
    if state.exists() {
        let is_youki = dir.join("youki_config.json").exists();
        return Some((if is_youki { RuntimeKind::Youki } else { RuntimeKind::Runc }, state));
    }
    let status = dir.join("status");
    status.exists().then_some((RuntimeKind::Crun, status))
}

fn default_binary(grammar: RuntimeKind) -> PathBuf {
    PathBuf::from(match grammar {
        RuntimeKind::Crun => "crun",
        RuntimeKind::Youki => "youki",
        RuntimeKind::Runc => "runc",
    })
}

/// Who owns the container, by its bundle, or else by the root.
fn owner(root: &Path, bundle: Option<&Path>) -> Owner {
    // Root deletes no container by the hooks and cgroups that a user's file names.
    if is_anothers(root) {
        return Owner::User;
    }
    if let Some(bundle) = bundle {
        let mut parts = bundle.iter().skip_while(|part| *part != SHIM_BUNDLES).skip(1);
        if let Some(namespace) = parts.next() {
            return Owner::Containerd(namespace.to_string_lossy().into_owned());
        }
        let is_in_the_store =
            bundle.iter().any(|part| part == "overlay-containers" || part == "libpod")
                || bundle.ends_with("userdata");
        if is_in_the_store {
            return podman::owner(bundle);
        }
    }
    let parent = root.parent();
    let is_namespace = PARENTS.iter().any(|known| parent == Some(Path::new(known)));
    match root.file_name() {
        Some(name) if is_namespace => Owner::Containerd(name.to_string_lossy().into_owned()),
        _ => Owner::Nobody,
    }
}

/// Whether a user other than root and ourselves can write below the root.
fn is_anothers(root: &Path) -> bool {
    let ours = nix::unistd::geteuid().as_raw();
    match root.strip_prefix(USERS) {
        Ok(below) => !below.starts_with(ours.to_string()),
        Err(_) => fs::metadata(root).is_ok_and(|it| ![0, ours].contains(&it.uid())),
    }
}

/// Also in runc's word. Computed as runc does it, in the same order: paused comes first, even if the process is gone
/// (libcontainer's refreshState, 1.0 to 1.5); a frozen cgroup above does not count.
fn status(container: &Container, dir: &Path, mounts: &Hierarchies) -> (Status, &'static str) {
    let reader = container.cgroup.as_ref().map(|cgroup| Reader::new(mounts, cgroup));
    let paused = reader
        .is_some_and(|reader| reader.freezer() == Freezer::Frozen && reader.is_told_to_freeze());
    if paused {
        return (Status::Paused, "paused");
    }
    if container.init.is_none_or(|init| fate::of(init).is_dead()) {
        return (Status::Stopped, "stopped");
    }
    let waits = dir.join("exec.fifo").exists();
    if waits { (Status::Created, "created") } else { (Status::Running, "running") }
}

/// Whether a container can have this name; a directory can have any.
pub(crate) fn is_plain(id: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_+.-".contains(byte);
    !id.is_empty() && OsStr::new(id).as_bytes().iter().all(plain) && !id.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_tells_whose_it_is_and_else_the_root() {
        let shim = "/run/containerd/io.containerd.runtime.v2.task/k8s.io/abc";
        let mine = Owner::Containerd("k8s.io".to_owned());
        assert_eq!(owner(Path::new("/odd place/x"), Some(Path::new(shim))), mine);
        assert_eq!(owner(Path::new("/run/containerd/runc/k8s.io"), None), mine);
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("overlay-containers/abc/userdata");
        fs::create_dir_all(&bundle).unwrap();
        let managers =
            [("libpod", Owner::Podman), ("cri-o", Owner::Crio), ("other", Owner::Unknown)];
        for (manager, whose) in managers {
            let config = format!(r#"{{"annotations":{{"io.container.manager":"{manager}"}}}}"#);
            fs::write(bundle.join("config.json"), config).unwrap();
            assert_eq!(owner(Path::new("/run/runc"), Some(&bundle)), whose);
        }
        assert_eq!(owner(Path::new("/run/runc"), Some(Path::new("/b"))), Owner::Nobody);
        // A user's file does not choose its owner.
        assert_eq!(owner(Path::new("/run/user/4711/runc"), Some(Path::new(shim))), Owner::User);
    }

    #[test]
    fn torn_and_foreign_state_is_a_note_and_no_container() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a root\nwith lines");
        for (id, text) in [("torn", "{\"init_process_pid\":1,"), ("list", "[]")] {
            fs::create_dir_all(root.join(id)).unwrap();
            fs::write(root.join(id).join("state.json"), text).unwrap();
        }
        fs::create_dir_all(root.join("being made")).unwrap();
        fs::create_dir_all(root.join("huge")).unwrap();
        let huge = fs::File::create(root.join("huge/status")).unwrap();
        huge.set_len(1 << 30).unwrap();
        let seen = look(&Root { path: root, binary: None }, &Hierarchies::default());
        assert!(seen.containers.is_empty());
        assert_eq!(seen.notes.len(), 3, "{:?}", seen.notes);
        assert!(seen.asked[0].answered && seen.asked[0].what == "0 containers");
    }

    #[test]
    fn ids_that_a_command_line_could_misread_are_not_plain() {
        assert!(is_plain("a1_.+-b"));
        for odd in ["", "-f", "a b", "a\nb", "../x", "a'b"] {
            assert!(!is_plain(odd), "{odd:?}");
        }
    }
}
