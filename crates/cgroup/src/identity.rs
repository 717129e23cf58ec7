//! A cgroup's path in the tree, and what its name tells.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Canonical path of a cgroup in the tree: absolute, cleaned, no trailing slash; bytes are kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(PathBuf);

impl Identity {
    /// `None` if it cannot be a path in the kernel: it contains a NUL or is longer than PATH_MAX.
    pub fn new(path: impl AsRef<Path>) -> Option<Identity> {
        let bytes = path.as_ref().as_os_str().as_bytes();
        let usable = !bytes.contains(&0) && bytes.len() <= 4096;
        usable.then(|| Identity(clean(path.as_ref())))
    }

    pub fn as_path(&self) -> &Path {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// kubelet's root of all pods, with either driver and at any depth.
    pub fn is_kubepods_root(&self) -> bool {
        is_kubepods_root(&self.0)
    }

    /// The uid of the pod whose cgroup this is, as kubelet writes it in the name: with `_` for `-`
    /// under systemd.
    pub fn pod_uid(&self) -> Option<&str> {
        if !is_kube_pod(&self.0) {
            return None;
        }
        let name = self.0.file_name()?.to_str()?;
        let unit = name.strip_suffix(".slice").unwrap_or(name);
        let pod = if unit.len() < name.len() { unit.rsplit('-').next()? } else { unit };
        pod.strip_prefix("pod")
    }

    /// A cgroup below this one.
    pub fn join(&self, below: impl AsRef<Path>) -> Option<Identity> {
        Identity::new(self.0.join(clean(below.as_ref()).strip_prefix("/").unwrap_or(Path::new(""))))
    }

    /// The pod: nearest ancestor named `pod<uid>` or `*-pod<uid>.slice` below a kubepods root at any
    /// depth (kind nests it in `kubelet`), or podman's. Never a QoS level, `system.slice` or
    /// `machine.slice`: their quota belongs to others too.
    pub fn pod(&self) -> Option<Identity> {
        self.0
            .ancestors()
            .skip(1)
            .find(|a| is_kube_pod(a) || is_podman_pod(a))
            .map(|a| Identity(a.into()))
    }
}

impl fmt::Display for Identity {
    /// Control characters and bytes that are not UTF-8 are escaped: this ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_os_str().as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() || c == '\\' {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    write!(f, "{c}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Lexical cleaning as Go's `filepath.Join("/", path)`; a `..` at the root stays at the root.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

fn is_kube_pod(path: &Path) -> bool {
    let Some(name) = path.file_name().map(OsStr::as_bytes) else { return false };
    let pod = match name.strip_suffix(b".slice") {
        // systemd's names: kubelet writes the uid with `_`, so the last `-` ends the parent's name.
        Some(unit) => match unit.iter().rposition(|&b| b == b'-') {
            Some(dash) => &unit[dash + 1..],
            None => return false,
        },
        None => name,
    };
    let uid = pod.strip_prefix(b"pod").unwrap_or_default();
    // `\x2d` is how systemd escapes a `-`; kubelet does not, others do.
    let plain =
        uid.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'\\'));
    plain && !uid.is_empty() && path.ancestors().skip(1).any(is_kubepods_root)
}

fn is_kubepods_root(path: &Path) -> bool {
    let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
    name == b"kubepods" || name == b"kubepods.slice" || name.ends_with(b"-kubepods.slice")
}

/// podman 4: `machine.slice/machine-libpod_pod_<id>.slice` (systemd) or `/libpod_parent/<podid>`
/// (cgroupfs); a container outside any pod is `/libpod_parent/libpod-<id>`.
fn is_podman_pod(path: &Path) -> bool {
    let Some(name) = path.file_name().map(OsStr::as_bytes) else { return false };
    if let Some(unit) = name.strip_suffix(b".slice") {
        let last = unit.rsplit(|&b| b == b'-').next().unwrap_or_default();
        return last.strip_prefix(b"libpod_pod_").is_some_and(|id| !id.is_empty());
    }
    let parent = path.parent().and_then(Path::file_name);
    parent == Some(OsStr::new("libpod_parent"))
        && !name.starts_with(b"libpod-")
        && name != b"conmon"
}
