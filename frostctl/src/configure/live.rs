//! Who still calls the binary. A shim keeps the path that it was started with, and so does conmon.
//! Both paths are read from files, which exist even if the daemon does not.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cgroup::process;

use super::engine::Engine;
use super::file::entries;
use crate::output;

/// Where the bundles of containerd are, and of the containerd that dockerd may start itself. For
/// others (k3s, microk8s, a custom `state`), the working directories of their shims are used.
const STATES: &[&str] = &["/run/containerd", "/run/docker/containerd/daemon"];

const TASKS: &str = "io.containerd.runtime.v2.task";

/// dockerd's namespace in containerd.
const MOBY: &str = "moby";

/// dockerd's scripts and the files of a bundle are shorter.
const MAX_BYTES: u64 = 4096;

/// The kernel cuts `containerd-shim-runc-v2` to 15 bytes.
const SHIM: &str = "containerd-shim";

/// As many symlinks as the kernel follows.
const MOST_LINKS: usize = 40;

/// A container whose shim or monitor has the path of the binary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Use {
    pub(crate) of: Engine,
    /// As a person can look it up.
    pub(crate) container: String,
    /// The path that it calls: the binary, or a symlink that leads to it.
    pub(crate) named: PathBuf,
}

/// All containers that use the binary.
pub(crate) fn uses(binary: &Path) -> Vec<Use> {
    let is_ours = |named: &Path| leads_over(named, binary);
    let states = STATES.iter().map(|state| Path::new(state).join(TASKS));
    let mut found: Vec<Use> = states
        .flat_map(|tasks| entries(&tasks))
        .flat_map(|space| bundles(&space, &last(&space), Path::new("/"), &is_ours))
        .collect();
    found.extend(shims(Path::new("/proc"), binary));
    found.extend(monitors(binary));
    found.sort();
    found.dedup();
    found
}

/// The bundles of one namespace; paths in them are below `root`.
fn bundles(
    directory: &Path,
    space: &str,
    root: &Path,
    is_ours: &dyn Fn(&Path) -> bool,
) -> Vec<Use> {
    let of = if space == MOBY { Engine::Docker } else { Engine::Containerd };
    let ours = entries(directory).into_iter().filter_map(|bundle| {
        let named = runtimes(&bundle);
        let behind: Vec<PathBuf> = named.iter().filter_map(|it| behind(root, it)).collect();
        let named = named.into_iter().chain(behind).find(|named| is_ours(named))?;
        Some(Use { of, container: format!("{space}/{}", last(&bundle)), named })
    });
    ours.collect()
}

/// The runtime's paths in the files of a bundle: `runtime`, which the shim writes for the cleanup
/// after its own death, and `options.json`.
fn runtimes(bundle: &Path) -> Vec<PathBuf> {
    let text = |name: &str| read_small(&bundle.join(name)).unwrap_or_default();
    let options: serde_json::Value =
        serde_json::from_str(&text("options.json")).unwrap_or_default();
    let named = [text("runtime"), options["binary_name"].as_str().unwrap_or_default().to_owned()];
    let named = named.iter().map(|named| named.trim_end_matches('\n'));
    named.filter(|named| !named.is_empty()).map(PathBuf::from).collect()
}

/// For a runtime with arguments, dockerd gives the shim the path of a script: `PATH ARGUMENTS $@`.
fn behind(root: &Path, script: &Path) -> Option<PathBuf> {
    let script = root.join(script.strip_prefix("/").ok()?);
    let text = read_small(&script)?;
    let mut words = text.strip_prefix("#!/bin/sh\n")?.split_whitespace();
    Some(words.next()?.into())
}

/// The directory may be a container's, with anything in it: a FIFO would hang us, and the mere opening of a
/// device can do something. So the file is looked at before it is opened to be read.
fn read_small(path: &Path) -> Option<String> {
    let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW;
    let found = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    if !found.metadata().ok()?.is_file() {
        return None;
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// A shim's working directory is one of its bundles; its pod's other containers have theirs beside
/// it.
fn shims(proc: &Path, binary: &Path) -> Vec<Use> {
    let mut found = Vec::new();
    for process in entries(proc) {
        let comm = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        if comm.trim_end() != SHIM || !is_trusted(&process) {
            continue;
        }
        let Ok(bundle) = std::fs::read_link(process.join("cwd")) else { continue };
        let space = last(bundle.parent().unwrap_or(&bundle));
        let is_ours = |named: &Path| match is_of_this_place(proc, &process) {
            true => leads_over(named, binary),
            false => is_seen_as(&process, named, binary),
        };
        let root = process.join("root");
        found.extend(bundles(&process.join("cwd/.."), &space, &root, &is_ours));
    }
    found
}

/// Only the live /proc has pids; any process can take the name of a shim.
fn is_trusted(process: &Path) -> bool {
    let pid = process.strip_prefix("/proc").ok().and_then(|it| it.to_str()?.parse().ok());
    pid.is_none_or(process::is_trusted)
}

fn is_of_this_place(proc: &Path, process: &Path) -> bool {
    let place = |process: &Path| std::fs::read_link(process.join("ns/mnt")).ok();
    place(process) == place(&proc.join("self"))
}

/// In another mount namespace, as for a node in a container, the same path may be another file.
fn is_seen_as(process: &Path, named: &Path, binary: &Path) -> bool {
    let file =
        |path: &Path| std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let theirs = process.join("root").join(named.strip_prefix("/").unwrap_or(named));
    file(&theirs).is_some_and(|it| Some(it) == file(binary))
}

/// conmon of podman and of CRI-O: `conmon ... -c ID ... -r RUNTIME`. One conmonrs of CRI-O has all
/// containers of a pod: `conmonrs --runtime RUNTIME --runtime-dir .../ID/userdata`.
fn monitors(binary: &Path) -> Vec<Use> {
    let proc = Path::new("/proc");
    entries(proc)
        .iter()
        .filter_map(|process| {
            let line = std::fs::read(process.join("cmdline")).ok()?;
            let found = monitor(&String::from_utf8_lossy(&line), binary)?;
            let is_here = is_of_this_place(proc, process);
            let is_real = is_trusted(process) || is_conmon(process);
            (is_real && (is_here || is_seen_as(process, &found.named, binary))).then_some(found)
        })
        .collect()
}

/// A user's podman runs in a mount namespace of its own and calls the binary, too. Its conmon is a file
/// that root has installed.
fn is_conmon(process: &Path) -> bool {
    let exe = process.join("exe");
    let name = std::fs::read_link(&exe).ok().map(|it| last(&it));
    name.is_some_and(|it| it.starts_with("conmon"))
        && std::fs::metadata(exe).is_ok_and(|it| it.uid() == 0)
}

fn monitor(line: &str, binary: &Path) -> Option<Use> {
    let arguments: Vec<&str> = line.split('\0').collect();
    let name = Path::new(arguments.first()?).file_name()?;
    if name != "conmon" && name != "conmonrs" {
        return None;
    }
    let after = |names: [&str; 2]| {
        let at = arguments.iter().position(|argument| names.contains(argument))?;
        arguments.get(at + 1).copied()
    };
    let named = Path::new(after(["-r", "--runtime"])?);
    if !leads_over(named, binary) {
        return None;
    }
    let is_podman = arguments.iter().any(|argument| argument.ends_with("podman"));
    let of = if is_podman { Engine::Podman } else { Engine::Crio };
    let of_pod = || Some(last(Path::new(after(["--runtime-dir"; 2])?).parent()?));
    let container = after(["-c", "--cid"]).map(str::to_owned).or_else(of_pod);
    // Any process may say anything here.
    let container = output::plain(&container.unwrap_or("?".to_owned()));
    Some(Use { of, container, named: named.to_owned() })
}

/// Whether the path is the binary, or reaches it through symlinks. That both end at the same file
/// is not enough: if we left a link to runc, a caller of runc itself does not use that link.
pub(crate) fn leads_over(named: &Path, binary: &Path) -> bool {
    // The daemon looks up a bare name in its own PATH, which we do not know.
    if named.components().count() == 1 && named.is_relative() {
        return named.file_name() == binary.file_name();
    }
    let goal = place(binary);
    let mut at = named.to_owned();
    for _ in 0..MOST_LINKS {
        if !at.is_absolute() {
            return false;
        }
        if at == binary || (goal.is_some() && place(&at) == goal) {
            return true;
        }
        let Ok(link) = std::fs::read_link(&at) else { return false };
        at = at.parent().unwrap_or(Path::new("/")).join(link);
    }
    false
}

/// The path with the symlinks of its directory resolved, but not its last part.
fn place(path: &Path) -> Option<PathBuf> {
    Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
}

fn last(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_that_name_the_binary_are_found_by_namespace() {
        let scratch = tempfile::tempdir().unwrap();
        let binary = Path::new("/opt/with space/frostlock");
        for (bundle, runtime) in [
            ("k8s.io/pod", "/opt/with space/frostlock"),
            ("k8s.io/other", "/usr/sbin/runc"),
            ("moby/box", "/opt/with space/frostlock"),
        ] {
            let bundle = scratch.path().join(TASKS).join(bundle);
            std::fs::create_dir_all(&bundle).unwrap();
            std::fs::write(bundle.join("runtime"), runtime).unwrap();
        }
        let is_ours = |named: &Path| leads_over(named, binary);
        let of = |space: &str| {
            let space_dir = scratch.path().join(TASKS).join(space);
            bundles(&space_dir, space, Path::new("/"), &is_ours)
        };
        let used = |of, container: &str| {
            vec![Use { of, container: container.to_owned(), named: binary.to_owned() }]
        };
        assert_eq!(of("k8s.io"), used(Engine::Containerd, "k8s.io/pod"));
        assert_eq!(of("moby"), used(Engine::Docker, "moby/box"));
    }

    #[test]
    fn the_script_of_a_runtime_with_arguments_leads_to_the_binary() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| std::fs::write(root.path().join(name), text).unwrap();
        write("script", b"#!/bin/sh\n/x/frostlock --debug $@\n");
        write("empty", b"#!/bin/sh\n");
        write("program", b"\x7fELF\xff");
        assert_eq!(behind(root.path(), Path::new("/script")), Some("/x/frostlock".into()));
        for other in ["/empty", "/program", "/none", "script"] {
            assert_eq!(behind(root.path(), Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn only_a_regular_file_of_a_bundle_is_read_and_not_much_of_it() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("zero")).unwrap();
        std::fs::write(at("large"), "x".repeat(10_000)).unwrap();
        std::fs::write(at("runtime"), "/x/frostlock").unwrap();
        assert_eq!(read_small(&at("runtime")).as_deref(), Some("/x/frostlock"), "the control");
        assert_eq!(read_small(&at("large")).map(|it| it.len()), Some(4096));
        assert!(read_small(&at("fifo")).is_none() && read_small(&at("zero")).is_none());
    }

    #[test]
    fn a_shim_with_a_state_of_its_own_choice_is_found_by_where_it_works() {
        let scratch = tempfile::tempdir().unwrap();
        let [proc, tasks] =
            ["proc", "x/io.containerd.runtime.v2.task/k8s.io"].map(|it| scratch.path().join(it));
        for (bundle, file, text) in [
            ("pod", "runtime", "/x/frostlock"),
            ("container", "options.json", r#"{"binary_name":"/x/frostlock"}"#),
            ("other", "runtime", "/usr/bin/runc"),
        ] {
            std::fs::create_dir_all(tasks.join(bundle)).unwrap();
            std::fs::write(tasks.join(bundle).join(file), text).unwrap();
        }
        std::fs::create_dir_all(proc.join("7")).unwrap();
        std::fs::write(proc.join("7/comm"), "containerd-shim\n").unwrap();
        std::os::unix::fs::symlink(tasks.join("pod"), proc.join("7/cwd")).unwrap();
        let found = shims(&proc, Path::new("/x/frostlock"));
        let found: Vec<&str> = found.iter().map(|it| it.container.as_str()).collect();
        assert_eq!(found, ["k8s.io/container", "k8s.io/pod"]);
    }

    #[test]
    fn a_link_is_called_by_those_who_come_over_it_and_not_by_those_who_name_its_end() {
        let scratch = tempfile::tempdir().unwrap();
        let [runc, link, alias] =
            ["runc", "frostlock", "frostlock-crun"].map(|it| scratch.path().join(it));
        std::fs::write(&runc, "").unwrap();
        std::os::unix::fs::symlink(&runc, &link).unwrap();
        std::os::unix::fs::symlink("frostlock", &alias).unwrap();
        assert!(leads_over(&link, &link) && leads_over(&alias, &link));
        assert!(!leads_over(&runc, &link) && !leads_over(&link, &alias));
        assert!(leads_over(Path::new("frostlock"), &link));
    }

    #[test]
    fn a_monitor_names_its_runtime_and_its_container() {
        let binary = Path::new("/x/frostlock");
        let line = "/usr/bin/conmon\0-c\0abc\0-r\0/x/frostlock\0--exit-command\0/usr/bin/podman\0";
        let found = monitor(line, binary).unwrap();
        assert_eq!((found.of, found.container.as_str()), (Engine::Podman, "abc"));
        assert_eq!(monitor(&line.replace("/x/frostlock", "/usr/bin/crun"), binary), None);
        let odd = monitor(&line.replace("abc", "a\x1b[2J"), binary).unwrap();
        assert!(!odd.container.contains('\x1b'), "{odd:?}");
        assert_eq!(monitor("sh\0-r\0/x/frostlock\0", binary), None);
        let line = "/usr/bin/conmonrs\0--runtime\0/x/frostlock\0--runtime-dir\0/s/overlay-containers/pod1/userdata\0";
        let found = monitor(line, binary).unwrap();
        assert_eq!((found.of, found.container.as_str()), (Engine::Crio, "pod1"));
    }
}
