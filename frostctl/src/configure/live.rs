//! Who still calls the binary. A shim keeps the path that it was started with, and so does conmon;
//! both are read from files, which are there when the daemon is not.

use std::path::{Path, PathBuf};

use super::engine::Engine;

/// Where the bundles of containerd are, and of the containerd that dockerd may start itself.
const STATES: &[&str] = &["/run/containerd", "/run/docker/containerd/daemon"];

const TASKS: &str = "io.containerd.runtime.v2.task";

/// dockerd's namespace in containerd.
const MOBY: &str = "moby";

/// The shim writes the path of its runtime there, for the cleanup after its own death.
const RUNTIME_FILE: &str = "runtime";

/// A container whose shim or monitor names the binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) of: Engine,
    /// As a person can look it up.
    pub(crate) container: String,
}

/// All of them.
pub(crate) fn uses(binary: &Path, states: &[PathBuf]) -> Vec<Use> {
    let known = STATES.iter().map(PathBuf::from).filter(|state| !states.contains(state));
    let mut found: Vec<Use> =
        known.chain(states.iter().cloned()).flat_map(|state| bundles(&state, binary)).collect();
    found.extend(monitors(binary));
    found
}

fn bundles(state: &Path, binary: &Path) -> Vec<Use> {
    let mut found = Vec::new();
    for namespace in entries(&state.join(TASKS)) {
        let space = last(&namespace);
        for bundle in entries(&namespace) {
            let named = std::fs::read_to_string(bundle.join(RUNTIME_FILE)).unwrap_or_default();
            if is_same(Path::new(named.trim_end_matches('\n')), binary) {
                let of = if space == MOBY { Engine::Docker } else { Engine::Containerd };
                found.push(Use { of, container: format!("{space}/{}", last(&bundle)) });
            }
        }
    }
    found
}

/// conmon of podman and of CRI-O: `conmon ... -c ID ... -r RUNTIME`.
fn monitors(binary: &Path) -> Vec<Use> {
    entries(Path::new("/proc"))
        .iter()
        .filter_map(|process| {
            let line = std::fs::read(process.join("cmdline")).ok()?;
            monitor(&String::from_utf8_lossy(&line), binary)
        })
        .collect()
}

fn monitor(line: &str, binary: &Path) -> Option<Use> {
    let arguments: Vec<&str> = line.split('\0').collect();
    if Path::new(arguments.first()?).file_name()? != "conmon" {
        return None;
    }
    let after = |names: [&str; 2]| {
        let at = arguments.iter().position(|argument| names.contains(argument))?;
        arguments.get(at + 1).copied()
    };
    if !is_same(Path::new(after(["-r", "--runtime"])?), binary) {
        return None;
    }
    let is_podman = arguments.iter().any(|argument| argument.ends_with("podman"));
    let of = if is_podman { Engine::Podman } else { Engine::Crio };
    Some(Use { of, container: after(["-c", "--cid"]).unwrap_or("?").to_owned() })
}

/// By the path as written, or by the file that both lead to.
fn is_same(named: &Path, binary: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().ok();
    named.is_absolute()
        && (named == binary || canonical(named).is_some_and(|it| Some(it) == canonical(binary)))
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
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
            std::fs::write(bundle.join(RUNTIME_FILE), runtime).unwrap();
        }
        let found = bundles(scratch.path(), binary);
        let pod = Use { of: Engine::Containerd, container: "k8s.io/pod".to_owned() };
        let boxed = Use { of: Engine::Docker, container: "moby/box".to_owned() };
        assert_eq!(found, [pod, boxed]);
    }

    #[test]
    fn a_monitor_names_its_runtime_and_its_container() {
        let binary = Path::new("/x/frostlock");
        let line = "/usr/bin/conmon\0-c\0abc\0-r\0/x/frostlock\0--exit-command\0/usr/bin/podman\0";
        let found = monitor(line, binary).unwrap();
        assert_eq!((found.of, found.container.as_str()), (Engine::Podman, "abc"));
        assert_eq!(monitor(&line.replace("/x/frostlock", "/usr/bin/crun"), binary), None);
        assert_eq!(monitor("sh\0-r\0/x/frostlock\0", binary), None);
    }
}
