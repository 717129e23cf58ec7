//! The cgroup module on recorded files: mounts and memberships, prediction, state files, reading,
//! bundles.

// clippy.toml allows these in tests, but helpers of a test are not #[test].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod arbitrary;
mod bundle;
mod mounts;
mod predict;
mod read;
mod state;

use cgroup::{Hierarchies, Identity, Proc};

/// The lab's own hybrid host, kernel 6.18, shortened.
const HYBRID: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
23 22 0:21 / /sys rw - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

const UNIFIED: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
23 22 0:21 / /sys rw - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";

fn parse(mountinfo: &str) -> Hierarchies {
    Hierarchies::parse(mountinfo.as_bytes())
}

fn id(path: &str) -> Identity {
    Identity::new(path).unwrap()
}

/// A procfs in which we and pid 1 are in these cgroups.
fn procfs(own: &str, init: &str) -> (tempfile::TempDir, Proc) {
    let dir = tempfile::tempdir().unwrap();
    for (who, lines) in [("self", own), ("1", init)] {
        std::fs::create_dir(dir.path().join(who)).unwrap();
        std::fs::write(dir.path().join(who).join("cgroup"), lines).unwrap();
    }
    let proc = Proc::at(dir.path());
    (dir, proc)
}
