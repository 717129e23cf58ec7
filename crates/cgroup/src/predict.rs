//! Where a runtime is going to put a container, from `linux.cgroupsPath`, the driver and the runtime's
//! own kind, before anything exists.
//!
//! The sources, by commit: runc libcontainer/cgroups/fs/paths.go (1441fb88), fs2/defaultpath.go
//! (037668e5), systemd/common.go (006ce465), systemd/{v1,v2}.go (001e0405), specconv/spec_linux.go
//! (00168668); crun src/libcrun/cgroup-cgroupfs.c (05926f5f), cgroup-systemd.c (016329d7); youki
//! crates/libcgroups/src/common.rs (0958ddc8), v1/manager.rs (4e862a2a), v2/manager.rs (2eb44fe9),
//! systemd/manager.rs (0598fa65), crates/libcontainer/src/utils.rs (00850ded).
//! tests/identity/kernel_identity.rs compares the result with real runc 1.1.5 (v1 hybrid and v2) and
//! crun 1.8.1 (v2), both cgroupfs. What a runtime refuses is [`Unknown`] here, because it makes no
//! cgroup.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::identity::clean;
use super::places::NAMING_ORDER;
use super::{Hierarchies, Identity, Membership, Places, Proc, RuntimeKind, Unknown};

/// What is known before `create`.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    pub kind: RuntimeKind,
    pub id: &'a OsStr,
    /// `--systemd-cgroup`.
    pub systemd: bool,
    pub cgroups_path: Option<&'a Path>,
    /// The caller's uid if it is not real root: its containers belong to its own systemd.
    pub rootless: Option<u32>,
}

impl Plan<'_> {
    /// Predicts the path. For crun with systemd it is the scope. Whether the container is in it or in a
    /// child (`run.oci.systemd.subgroup`, by default `container` on v2 in some versions) cannot be
    /// known yet, and the lock must not depend on it.
    pub fn predict(&self, mounts: &Hierarchies, proc: &Proc) -> Result<Identity, Unknown> {
        let place = Place { plan: self, mounts, proc };
        let path = match self.kind {
            RuntimeKind::Runc if self.systemd => place.runc_systemd(),
            RuntimeKind::Runc => place.runc_cgroupfs(),
            RuntimeKind::Crun if self.systemd => place.crun_systemd(),
            RuntimeKind::Crun => Ok(place.crun_cgroupfs()),
            RuntimeKind::Youki => place.youki(),
        };
        Identity::new(path?).ok_or_else(|| refused("cgroupsPath is not a path"))
    }

    /// Predicts the path in each hierarchy.
    pub fn places(&self, mounts: &Hierarchies, proc: &Proc) -> Result<Places, Unknown> {
        let named = self.predict(mounts, proc)?;
        let place = Place { plan: self, mounts, proc };
        let is_below_the_caller = self.kind == RuntimeKind::Runc
            && !self.systemd
            && !mounts.unified()
            && !place.inner().is_absolute();
        if !is_below_the_caller {
            return Ok(Places::of(named));
        }
        Ok(Places::listed(named, place.below_the_caller()?))
    }

    fn given(&self) -> Option<&Path> {
        self.cgroups_path.filter(|p| !p.as_os_str().is_empty())
    }
}

struct Place<'a> {
    plan: &'a Plan<'a>,
    mounts: &'a Hierarchies,
    proc: &'a Proc,
}

impl Place<'_> {
    /// fs/paths.go: an absolute path is below the mountpoint, a relative one below runc's own cgroup.
    /// fs2/defaultpath.go: a relative one is below the *parent* of runc's own cgroup.
    fn runc_cgroupfs(&self) -> Result<PathBuf, Unknown> {
        let inner = self.inner();
        if inner.is_absolute() {
            return Ok(self.below_mount(inner));
        }
        let own = self.own()?;
        let inner = cannot_climb(inner);
        if self.mounts.unified() {
            let own = own.path("").ok_or_else(|| refused("no v2 line in /proc/self/cgroup"))?;
            return Ok(self.below_mount(&clean(own).parent().unwrap_or(Path::new("/")).join(inner)));
        }
        let own = NAMING_ORDER.iter().find_map(|c| self.mounts.v1(c).and(own.path(c)));
        own.map(|own| own.join(inner)).ok_or_else(|| refused("no usable line in /proc/self/cgroup"))
    }

    /// For v1 and a relative path: GetOwnCgroupPath() has no place for the v2 tree of a hybrid host,
    /// where the container lies at the top.
    fn below_the_caller(&self) -> Result<Vec<(String, Identity)>, Unknown> {
        let own = self.own()?;
        let inner = cannot_climb(self.inner());
        let controllers = self.mounts.v1.iter().flat_map(|v1| &v1.controllers);
        let v1 = controllers.filter_map(|controller| {
            let place = Identity::new(own.path(controller)?.join(&inner))?;
            Some((controller.clone(), place))
        });
        let v2 = Identity::new(self.below_mount(&inner)).map(|place| (String::new(), place));
        Ok(v1.chain(v2).collect())
    }

    fn inner(&self) -> &Path {
        self.plan.given().unwrap_or(Path::new(self.plan.id))
    }

    fn own(&self) -> Result<Membership, Unknown> {
        Membership::of(self.proc, "self")
            .map_err(|e| Unknown::file(Path::new("/proc/self/cgroup"), e))
    }

    /// specconv: exactly `slice:prefix:name`, or nothing. systemd/common.go getUnitName: a name that
    /// ends in .slice is the unit itself.
    fn runc_systemd(&self) -> Result<PathBuf, Unknown> {
        let (slice, unit) = match self.plan.given() {
            None => (&b""[..], scope(b"runc", self.plan.id.as_bytes())),
            Some(path) => match fields(path)[..] {
                [slice, prefix, name] => (slice, unit(prefix, name)),
                _ => return Err(refused("expected slice:prefix:name")),
            },
        };
        self.in_slice(slice, &unit)
    }

    /// make_cgroup_path(): an empty path is the root, unlike with runc.
    fn crun_cgroupfs(&self) -> PathBuf {
        self.below_mount(self.plan.cgroups_path.unwrap_or(Path::new(self.plan.id)))
    }

    /// get_systemd_scope_and_slice(): the part after the first colon names the scope, and its own first
    /// colon becomes a dash. Without a colon the path is slice and scope at once.
    fn crun_systemd(&self) -> Result<PathBuf, Unknown> {
        let Some(path) = self.plan.given() else {
            return self.in_slice(b"", &scope(b"crun", self.plan.id.as_bytes()));
        };
        let bytes = path.as_os_str().as_bytes();
        let mut parts = bytes.splitn(2, |&b| b == b':');
        let slice = parts.next().unwrap_or_default();
        let mut name = parts.next().unwrap_or(slice).to_vec();
        if let Some(colon) = name.iter().position(|&b| b == b':') {
            name[colon] = b'-';
        }
        name.extend_from_slice(b".scope");
        self.in_slice(slice, &os(&name))
    }

    /// common.rs: on v1 always cgroupfs, whatever the flag says. On v2 systemd only for a path that is
    /// not absolute. No path means `:youki:ID` with either driver.
    fn youki(&self) -> Result<PathBuf, Unknown> {
        let mut default = OsString::from(":youki:");
        default.push(self.plan.id);
        let path = self.plan.cgroups_path.unwrap_or(Path::new(&default));
        if !self.plan.systemd || path.is_absolute() || !self.mounts.unified() {
            return Ok(self.below_mount(path));
        }
        let (slice, prefix, name) = match fields(path)[..] {
            [prefix, name] => (&b""[..], prefix, name),
            [slice, prefix, name] => (slice, prefix, name),
            _ => return Err(refused("expected [slice:]prefix:name")),
        };
        // extract_sub_cgroup(): `id/sub/init` is the unit `id` and a cgroup below it.
        let cut = name.iter().position(|&b| b == b'/').unwrap_or(name.len());
        let unit = self.in_slice(slice, &unit(prefix, &name[..cut]))?;
        Ok(unit.join(os(&name[cut..]).to_string_lossy().trim_start_matches('/')))
    }

    fn in_slice(&self, slice: &[u8], unit: &OsStr) -> Result<PathBuf, Unknown> {
        let slice: &[u8] = match slice {
            b"" if self.plan.rootless.is_some() => b"user.slice",
            b"" => b"system.slice",
            slice => slice,
        };
        Ok(self.systemd_root().join(expand_slice(slice)?).join(unit))
    }

    /// The mountpoint need not show the root of the tree (in a container without a cgroup namespace).
    fn below_mount(&self, path: &Path) -> PathBuf {
        let below = clean(path);
        self.mounts.naming_root().join(below.strip_prefix("/").unwrap_or(&below))
    }

    /// The cgroup that has systemd's slices. v1: pid 1's cgroup in the hierarchy that names the
    /// container, without init.scope (systemd 226 and newer). A user's own systemd: runc asks it for
    /// ControlGroup; we read it from our own cgroup.
    fn systemd_root(&self) -> PathBuf {
        if let Some(uid) = self.plan.rootless {
            let service = format!("user@{uid}.service");
            let own = Membership::of(self.proc, "self").ok();
            let own = own.as_ref().and_then(|m| m.path("").or_else(|| m.path("name=systemd")));
            let manager = own.and_then(|o| o.ancestors().find(|a| a.ends_with(&service)));
            return self.below_mount(&manager.map(Path::to_path_buf).unwrap_or_else(|| {
                PathBuf::from(format!("/user.slice/user-{uid}.slice/{service}"))
            }));
        }
        if self.mounts.unified() {
            return self.below_mount(Path::new("/"));
        }
        let init = Membership::of(self.proc, "1").unwrap_or_default();
        let init = NAMING_ORDER.iter().find_map(|c| init.path(c)).unwrap_or(Path::new("/"));
        let init = if init.ends_with("init.scope") { init.parent().unwrap_or(init) } else { init };
        self.below_mount(init)
    }
}

/// CleanPath: a relative path cannot climb out.
fn cannot_climb(path: &Path) -> PathBuf {
    let cleaned = clean(path);
    cleaned.strip_prefix("/").map(Path::to_owned).unwrap_or(cleaned)
}

fn refused(why: &str) -> Unknown {
    Unknown::new(format!("the runtime will refuse this: {why}"))
}

fn os(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}

fn fields(path: &Path) -> Vec<&[u8]> {
    path.as_os_str().as_bytes().split(|&b| b == b':').collect()
}

fn scope(prefix: &[u8], name: &[u8]) -> OsString {
    os(&[prefix, b"-", name, b".scope"].concat())
}

fn unit(prefix: &[u8], name: &[u8]) -> OsString {
    if name.ends_with(b".slice") { os(name) } else { scope(prefix, name) }
}

/// `a-b-c.slice` is `a.slice/a-b.slice/a-b-c.slice`; `-.slice` is the root (systemd.slice(5)).
fn expand_slice(slice: &[u8]) -> Result<PathBuf, Unknown> {
    let invalid = || refused("not the name of a slice");
    let name = slice.strip_suffix(b".slice").ok_or_else(invalid)?;
    if name == b"-" {
        return Ok(PathBuf::new());
    }
    if name.contains(&b'/') || name.split(|&b| b == b'-').any(<[u8]>::is_empty) {
        return Err(invalid());
    }
    let ends = name.iter().enumerate().filter(|(_, b)| **b == b'-').map(|(at, _)| at);
    Ok(ends.chain([name.len()]).map(|end| os(&[&name[..end], b".slice"].concat())).collect())
}
