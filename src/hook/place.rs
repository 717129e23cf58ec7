//! In which cgroup the hook's container is.

use std::path::Path;

use oci_spec::runtime::ContainerState;

use super::told::Told;
use cgroup::bundle::{Bundle, PodNames};
use cgroup::predict::Plan;
use cgroup::state_file::Surroundings;
use cgroup::{Hierarchies, Identity, Membership, Proc, Reader, RuntimeKind, Unknown};
use state::record::Recorded;

/// A container's cgroup, and what was found on the way to it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) identity: Identity,
    pub(crate) files: Reader,
    pub(crate) pod: PodNames,
}

impl Place {
    /// Finds it by the cgroup of its init, which is where it really is; else by our record; else by its
    /// configuration.
    pub(super) fn find(told: &Told, records: &[Recorded]) -> Result<Place, Unknown> {
        let proc = Proc::default();
        let mounts = Hierarchies::read(&proc)
            .map_err(|error| Unknown::because("cannot read mountinfo", error))?;
        let identity = of_init(told, &mounts, &proc)
            .or_else(|| records.iter().find_map(Recorded::cgroup))
            .map_or_else(|| planned(told, &mounts, &proc), Ok)?;
        let pod = records
            .iter()
            .map(|recorded| &recorded.record.pod)
            .find(|pod| **pod != PodNames::default());
        let files = Reader::new(&mounts, &identity);
        Ok(Place { identity, files, pod: pod.cloned().unwrap_or_default() })
    }
}

/// Not for a stopped container: its pid may be another process's by now.
fn of_init(told: &Told, mounts: &Hierarchies, proc: &Proc) -> Option<Identity> {
    let lives = told.state.status != Some(ContainerState::Stopped);
    let pid = told.state.pid.filter(|_| lives)?;
    Membership::of(proc, &pid.to_string()).ok()?.identity(mounts)
}

fn planned(told: &Told, mounts: &Hierarchies, proc: &Proc) -> Result<Identity, Unknown> {
    let bundle = match (&told.bundle, &told.state.bundle) {
        (Some(bundle), _) => bundle.clone(),
        (None, Some(bundle)) => Bundle::read(bundle)?,
        (None, None) => return Err(Unknown::new("neither a pid nor a bundle that could be read")),
    };
    // Only an explicit path means the same to every runtime. The default is below runc's own cgroup,
    // which may not be that of the hook's caller.
    let path = bundle.cgroups_path.filter(|path| !path.as_os_str().is_empty());
    let path = path.ok_or_else(|| Unknown::new("the configuration names no cgroup"))?;
    let surroundings = Surroundings::ours(proc);
    let plan = Plan {
        kind: RuntimeKind::Runc,
        id: told.state.id.as_ref(),
        systemd: is_of_systemd(&path),
        cgroups_path: Some(&path),
        rootless: surroundings.rootless().then_some(surroundings.euid),
    };
    plan.predict(mounts, proc)
}

/// `slice:prefix:name`. Which driver the runtime uses is on its command line, which we do not have.
fn is_of_systemd(path: &Path) -> bool {
    let text = path.to_string_lossy();
    !path.is_absolute() && text.split(':').count() == 3 && !text.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_systemds_is_told_from_a_path() {
        assert!(is_of_systemd(Path::new("kubepods-podX.slice:cri-containerd:ID")));
        assert!(is_of_systemd(Path::new(":crio:ID")));
        for path in ["/a:b:c", "a/b", "a:b", "", "a/b:c:d"] {
            assert!(!is_of_systemd(Path::new(path)), "{path}");
        }
    }
}
