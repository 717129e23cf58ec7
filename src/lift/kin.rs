//! The processes that must not be lifted with the workload: frostlock and its callers.
//!
//! A container may share a cgroup with its engine, if the engine runs inside a container or the runtime
//! makes no cgroups; a monitor may share one with its pod. Whether to freeze such a cgroup is the
//! runtime's decision. But the lift must not push an engine, a shim or a conmon into the freezer ahead
//! of the others, nor leave it above the fair class when the freeze is called off.

use std::path::Path;

use cgroup::process;

/// This process and its ancestors, as far as they are in the container's cgroup; most often none.
#[derive(Debug, Default)]
pub(super) struct Kin(Vec<i32>);

impl Kin {
    /// Among these threads, which include the first one of every process.
    pub(super) fn among(tids: &[i32]) -> Kin {
        let mut family = process::ancestors(process::own_pid());
        family.retain(|pid| tids.contains(pid));
        Kin(family)
    }

    /// Whether a thread belongs to one of them, as its first thread or a later one.
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
        // A test runs in a thread of its own.
        let thread = nix::unistd::gettid().as_raw();
        assert!(kin.has(own) && kin.has(caller) && kin.has(thread) && !kin.has(pid));
        assert!(!Kin::among(&[pid]).has(own), "it is elsewhere");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
