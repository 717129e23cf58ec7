//! Which cgroup a process is in: `/proc/PID/cgroup`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Identity;
use super::mounts::{Hierarchies, Proc};
use super::places::NAMING_ORDER;

/// The lines of one `/proc/PID/cgroup`; unreadable ones are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership(Vec<(Vec<String>, PathBuf)>);

impl Membership {
    /// Of the process `who`: `self` or a pid.
    pub fn of(proc: &Proc, who: &str) -> io::Result<Membership> {
        Ok(Membership::parse(&proc.read(&format!("{who}/cgroup"))?))
    }

    pub fn parse(bytes: &[u8]) -> Membership {
        Membership(bytes.split(|&b| b == b'\n').filter_map(line).collect())
    }

    /// The path in a v1 hierarchy, `""` for v2. It may lead out of our cgroup namespace (`/../x`).
    pub fn path(&self, controller: &str) -> Option<&Path> {
        self.0.iter().find(|(all, _)| all.iter().any(|c| c == controller)).map(|(_, p)| p.as_path())
    }

    /// The identity as the runtimes would name it. `None` if the cgroup lies outside our cgroup
    /// namespace, where the kernel shows only how many levels up (cgroup_namespaces(7)).
    ///
    /// The file lists every hierarchy of the kernel, including those that are not mounted here: hence
    /// `mounts`.
    pub fn identity(&self, mounts: &Hierarchies) -> Option<Identity> {
        let v1 = NAMING_ORDER.iter().find_map(|c| mounts.v1(c).and(self.path(c)));
        let path = if mounts.unified() { self.path("") } else { v1 }?;
        if path.starts_with("/..") { None } else { Identity::new(path) }
    }
}

/// `12:cpu,cpuacct:/path`. The path may contain colons, and ends in " (deleted)" for a zombie whose
/// cgroup is gone.
fn line(bytes: &[u8]) -> Option<(Vec<String>, PathBuf)> {
    let mut parts = bytes.splitn(3, |&b| b == b':');
    let number = parts.next()?;
    let controllers = String::from_utf8_lossy(parts.next()?).into_owned();
    let path = parts.next()?;
    let sane =
        !number.is_empty() && number.iter().all(u8::is_ascii_digit) && path.starts_with(b"/");
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    sane.then(|| {
        (controllers.split(',').map(str::to_owned).collect(), OsStr::from_bytes(path).into())
    })
}
