//! Where the cgroup hierarchies are mounted: a tolerant reader of `/proc/self/mountinfo`.
//!
//! A line that cannot be read is skipped, never an error. Format: proc_pid_mountinfo(5).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::identity::clean;
use super::places::NAMING_ORDER;
use super::{Identity, Places};

/// The only place where runc, crun and youki look for a pure v2 system.
const UNIFIED: &str = "/sys/fs/cgroup";

/// procfs, or a recorded tree in its place.
#[derive(Clone, Debug)]
pub struct Proc(PathBuf);

impl Default for Proc {
    fn default() -> Self {
        Proc::at("/proc")
    }
}

impl Proc {
    pub fn at(root: impl Into<PathBuf>) -> Proc {
        Proc(root.into())
    }

    /// A node with thousands of mounts has a mountinfo of some MB; more than 64 MiB is not a mountinfo.
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        // Each read makes the kernel start again with the first mount that does not fit, so read a lot
        // at once.
        let mut bytes = Vec::with_capacity(32 * 1024);
        File::open(self.0.join(name))?.take(64 << 20).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// A mounted v1 hierarchy: co-mounted controllers, or a named one (`name=systemd`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V1 {
    pub controllers: Vec<String>,
    pub mountpoint: PathBuf,
    /// The cgroup that the mountpoint shows; not `/` if a part of the tree is bind-mounted.
    pub root: PathBuf,
}

/// The mounted v2 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V2 {
    pub mountpoint: PathBuf,
    pub root: PathBuf,
}

/// All cgroup mounts that can be reached by their path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// Best first: below /sys/fs/cgroup, and showing the whole tree.
    pub v1: Vec<V1>,
    pub v2: Option<V2>,
}

impl Hierarchies {
    pub fn read(proc: &Proc) -> io::Result<Hierarchies> {
        Ok(Hierarchies::parse(&proc.read("self/mountinfo")?))
    }

    pub fn parse(mountinfo: &[u8]) -> Hierarchies {
        let mounts = cgroup_mounts(mountinfo);
        let v1 = mounts.iter().filter(|m| m.kind == Kind::V1).map(|m| V1 {
            controllers: m.controllers(),
            mountpoint: m.mountpoint.clone(),
            root: m.root.clone(),
        });
        let mut v2 = mounts.iter().filter(|m| m.kind == Kind::V2);
        Hierarchies {
            v1: v1.filter(|v1| !v1.controllers.is_empty()).collect(),
            v2: v2.next().map(|m| V2 { mountpoint: m.mountpoint.clone(), root: m.root.clone() }),
        }
    }

    /// Runtimes take the v2 path only if v2 is mounted at /sys/fs/cgroup (runc's IsCgroup2UnifiedMode).
    /// A v2 tree beside v1 is "hybrid", and v1 to them.
    pub fn unified(&self) -> bool {
        self.v2.as_ref().is_some_and(|v2| v2.mountpoint == Path::new(UNIFIED) || self.v1.is_empty())
    }

    /// The cgroup that runtimes take for the root: the one that their mountpoint shows.
    pub fn naming_root(&self) -> &Path {
        let v1 = NAMING_ORDER.iter().find_map(|c| self.v1(c)).map(|v1| &v1.root);
        let v2 = self.v2.as_ref().map(|v2| &v2.root);
        let root = if self.unified() { v2 } else { v1 };
        root.map_or(Path::new("/"), PathBuf::as_path)
    }

    pub fn v1(&self, controller: &str) -> Option<&V1> {
        self.mounts_of(controller).next()
    }

    fn mounts_of(&self, controller: &str) -> impl Iterator<Item = &V1> {
        self.v1.iter().filter(move |v1| v1.controllers.iter().any(|c| c == controller))
    }

    /// Identity of the cgroup whose directory is `dir`; `""` is v2.
    pub fn identify(&self, controller: &str, dir: &Path) -> Option<Identity> {
        let v1 = self.mounts_of(controller).map(|v1| (&v1.mountpoint, &v1.root));
        let v2 =
            self.v2.iter().filter(|_| controller.is_empty()).map(|v2| (&v2.mountpoint, &v2.root));
        let dir = clean(dir);
        let (below, root) = v1
            .chain(v2)
            .filter_map(|(mountpoint, root)| Some((dir.strip_prefix(mountpoint).ok()?, root)))
            .min_by_key(|(below, _)| below.as_os_str().len())?;
        Identity::new(root.join(below))
    }

    /// Directory of a cgroup in the controller's v1 hierarchy.
    pub fn v1_dir(&self, controller: &str, id: &Identity) -> Option<PathBuf> {
        self.mounts_of(controller).find_map(|v1| directory(&v1.mountpoint, &v1.root, id))
    }

    /// Directory of a cgroup in the v2 hierarchy.
    pub fn v2_dir(&self, id: &Identity) -> Option<PathBuf> {
        self.v2.as_ref().and_then(|v2| directory(&v2.mountpoint, &v2.root, id))
    }

    /// The cgroup's directories in all hierarchies, each once.
    pub fn dirs(&self, id: &Identity) -> Vec<PathBuf> {
        self.dirs_at(&Places::of(id.clone()))
    }

    /// The same for a cgroup whose path differs between hierarchies; leaves out a root that it shares
    /// with others.
    pub fn dirs_at(&self, places: &Places) -> Vec<PathBuf> {
        let own =
            |place| Option::filter(place, |id: &&Identity| *id == places.named() || !id.is_root());
        // Runtimes ignore the v1 hierarchies of a unified host.
        let v1 = self.v1.iter().filter(|_| !self.unified()).filter_map(|v1| {
            let id = own(places.of_any(v1.controllers.iter().map(String::as_str)))?;
            directory(&v1.mountpoint, &v1.root, id)
        });
        let v2 = own(places.of_any([""])).and_then(|id| self.v2_dir(id));
        let mut dirs: Vec<_> = v1.chain(v2).collect();
        dirs.sort();
        dirs.dedup();
        dirs
    }
}

/// The mountpoints of reachable cgroup mounts that are read-only, by the mount or by its superblock.
pub fn read_only(mountinfo: &[u8]) -> Vec<PathBuf> {
    let mounts = cgroup_mounts(mountinfo).into_iter();
    mounts.filter(|mount| mount.read_only).map(|mount| mount.mountpoint).collect()
}

fn directory(mountpoint: &Path, root: &Path, id: &Identity) -> Option<PathBuf> {
    Some(clean(&mountpoint.join(id.as_path().strip_prefix(root).ok()?)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    V1,
    V2,
    Other,
}

struct Mount {
    id: u64,
    parent: u64,
    root: PathBuf,
    mountpoint: PathBuf,
    kind: Kind,
    options: Vec<u8>,
    read_only: bool,
}

impl Mount {
    /// `36 35 98:0 /root /mountpoint rw,noatime master:1 - cgroup cgroup rw,cpu,cpuacct`, with any
    /// number of optional fields before the dash.
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|&b| b == b' ').filter(|f| !f.is_empty());
        let id = number(fields.next()?)?;
        let parent = number(fields.next()?)?;
        let (root, mountpoint) = (fields.nth(1)?, fields.next()?);
        let is_ro = |options: &[u8]| options.split(|&b| b == b',').any(|option| option == b"ro");
        let here = fields.next().unwrap_or_default();
        let mut tail = fields.skip_while(|f| *f != b"-").skip(1);
        let kind = match tail.next()? {
            b"cgroup" => Kind::V1,
            b"cgroup2" => Kind::V2,
            _ => Kind::Other,
        };
        let (_source, options) = (tail.next(), tail.next().unwrap_or_default());
        let absolute = root.starts_with(b"/") && mountpoint.starts_with(b"/");
        (absolute || kind == Kind::Other).then(|| Mount {
            id,
            parent,
            root: clean(&unescape(root)),
            mountpoint: clean(&unescape(mountpoint)),
            kind,
            read_only: is_ro(here) || is_ro(options),
            options: options.to_vec(),
        })
    }

    /// A v1 mount names its controllers among the options of the superblock.
    fn controllers(&self) -> Vec<String> {
        let options = unescape(&self.options);
        let options = options.to_string_lossy();
        options.split(',').filter(|o| !is_mount_option(o)).map(str::to_owned).collect()
    }

    fn preference(&self) -> (bool, bool, bool) {
        let unified = self.mountpoint == Path::new(UNIFIED);
        (!unified, !self.mountpoint.starts_with(UNIFIED), self.root != Path::new("/"))
    }
}

/// See cgroup1_show_options() of kernel 6.18, and the flags common to all file systems.
fn is_mount_option(option: &str) -> bool {
    let flags =
        ["", "rw", "ro", "sync", "dirsync", "mand", "lazytime", "seclabel", "noprefix", "none"];
    let more = ["xattr", "cpuset_v2_mode", "clone_children", "favordynmods", "all"];
    flags.contains(&option) || more.contains(&option) || option.starts_with("release_agent=")
}

/// The reachable cgroup mounts, best first. A mount that another covers is left out: after
/// `unshare -m; mount -t cgroup2 none /sys/fs/cgroup` the v1 lines are all still in the file.
fn cgroup_mounts(mountinfo: &[u8]) -> Vec<Mount> {
    let lines: Vec<&[u8]> = mountinfo.split(|&b| b == b'\n').collect();
    // A node has thousands of mounts: only cgroup mounts, and those at or above one, are parsed in
    // full.
    let maybe_cgroup = |line: &&[u8]| {
        line.rsplit(|&b| b == b' ').nth(2).is_some_and(|fs_type| fs_type.starts_with(b"cgroup"))
    };
    let mut cgroups: Vec<Mount> =
        lines.iter().copied().filter(maybe_cgroup).filter_map(Mount::parse).collect();
    cgroups.retain(|m| m.kind != Kind::Other);
    let at_or_above = |line: &&[u8]| {
        let at = line.split(|&b| b == b' ').nth(4).unwrap_or_default();
        let at = if at.contains(&b'\\') { unescape(at) } else { OsStr::from_bytes(at).into() };
        cgroups.iter().any(|c| is_at_or_below(&c.mountpoint, Path::new(&at)))
    };
    let above: Vec<Mount> =
        lines.iter().copied().filter(at_or_above).filter_map(Mount::parse).collect();
    cgroups.retain(|m| !above.iter().any(|a| covers(a, m, &above)));
    cgroups.sort_by_key(Mount::preference);
    cgroups
}

/// Like `Path::starts_with`, for paths as the kernel writes them, and without splitting them. Splitting
/// was a quarter of a command's computing time, because every mount of the node is compared.
fn is_at_or_below(path: &Path, top: &Path) -> bool {
    let (path, top) = (path.as_os_str().as_bytes(), top.as_os_str().as_bytes());
    let rest = path.strip_prefix(top);
    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || top.ends_with(b"/"))
}

/// Whether `over` lies at or above `mount`'s mountpoint, on a mount that `mount` belongs to, and
/// `mount` is not within `over`. The order of lines does not tell: mount --move and kernel 6.8 (sorted
/// by mount id) change it.
fn covers(over: &Mount, mount: &Mount, above: &[Mount]) -> bool {
    over.id != mount.id
        && is_at_or_below(&mount.mountpoint, &over.mountpoint)
        && !is_within(mount, over.id, above)
        && (mount.id == over.parent || is_within(mount, over.parent, above))
}

fn is_within(mount: &Mount, ancestor: u64, above: &[Mount]) -> bool {
    let mut parent = mount.parent;
    // Bounded: a torn or made-up file may have a cycle.
    for _ in 0..above.len() + 1 {
        if parent == ancestor {
            return true;
        }
        match above.iter().find(|a| a.id == parent) {
            Some(next) if next.parent != parent => parent = next.parent,
            _ => return false,
        }
    }
    false
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The kernel writes space, tab, newline and backslash as `\040`, `\011`, `\012`, `\134`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let (byte, tail) = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), tail)
            }
            _ => (*first, tail),
        };
        out.push(byte);
        rest = tail;
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By whole names, and not by their first letters.
    #[test]
    fn a_path_is_below_another_as_the_standard_library_has_it() {
        let paths = ["/", "/sys", "/sys/fs", "/sys/fs/cgroup", "/sys/fs/cgroup2", "/sysfs", "/s"];
        for (path, top) in paths.iter().flat_map(|path| paths.iter().map(move |top| (path, top))) {
            let (path, top) = (Path::new(path), Path::new(top));
            assert_eq!(is_at_or_below(path, top), path.starts_with(top), "{path:?} {top:?}");
        }
    }
}
