//! Who must not be lifted with the workload: ourselves, and those who called us.
//!
//! A container may be in a cgroup with its engine, that of an engine inside a container or of a runtime
//! without cgroups of its own, and a monitor in one with its pod. A freeze of such a cgroup is the
//! runtime's to make; but the lift is not to push an engine, a shim or a conmon into it ahead of the
//! others, nor to leave them above the fair class when the freeze is called off.

use std::path::Path;

use cgroup::process;

/// Those of our ancestors, and ourselves, that are in the container's cgroup; most often none.
#[derive(Debug, Default)]
pub(super) struct Kin(Vec<i32>);

impl Kin {
    /// Among these threads, every process's first one being among them.
    pub(super) fn among(tids: &[i32]) -> Kin {
        let mut family = process::ancestors(process::own_pid());
        family.retain(|pid| tids.contains(pid));
        Kin(family)
    }

    /// Whether a thread is one of theirs, the first or a later one.
    pub(super) fn has(&self, tid: i32) -> bool {
        let is_of = |pid: &i32| Path::new(&format!("/proc/{pid}/task/{tid}")).exists();
        self.0.iter().any(is_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_our_threads_and_our_callers_are_kin_and_a_child_is_not() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let (own, caller) = (process::own_pid(), process::parent());
        let kin = Kin::among(&[pid, own, caller]);
        // A test is a thread of its own.
        let thread = nix::unistd::gettid().as_raw();
        assert!(kin.has(own) && kin.has(caller) && kin.has(thread) && !kin.has(pid));
        assert!(!Kin::among(&[pid]).has(own), "it is elsewhere");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
