//! The checks: each takes the node as it was read and returns its findings.

use serde::Serialize;

use super::blind::Need;
use super::finding::Finding;
use super::node::Node;

mod accounts;
mod controllers;
mod drivers;
mod frozen;
mod inotify;
mod installation;
pub(crate) mod kubepods;
mod leftovers;
mod lifted;
mod mounts;
mod own_state;
mod trials;
mod versions;

#[derive(Serialize)]
pub(crate) struct Check {
    /// Stable: monitoring uses it.
    #[serde(rename = "check")]
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Without these, the check reports "not checked".
    #[serde(skip)]
    pub(crate) needs: &'static [Need],
    #[serde(skip)]
    pub(crate) run: fn(&Node) -> Vec<Finding>,
}

pub(crate) const ALL: &[Check] = &[
    Check {
        name: "cgroup-mounts",
        about: "Which cgroup version there is and where it is mounted: v1, v2, both (hybrid) or none; \
                read-only mounts, and places other than /sys/fs/cgroup. From /proc/self/mountinfo.",
        needs: &[Need::Mounts],
        run: mounts::check,
    },
    Check {
        name: "controllers",
        about: "Whether the controllers that kubelet and the runtimes need are in the kernel, enabled at \
                boot and mounted: cpu, cpuacct, cpuset, memory, pids, and on v1 devices and freezer.",
        needs: &[Need::Mounts],
        run: controllers::check,
    },
    Check {
        name: "freezer",
        about: "Freezes a process of its own in a cgroup of its own, and thaws it. Pause, and on v1 every \
                update by runc, need it.",
        needs: &[Need::Live],
        run: trials::freezer,
    },
    Check {
        name: "lift",
        about: "Whether the kernel lets frostlock lift a thread in a cgroup above the fair ones \
                (SCHED_RR), tried with a sleeping process of its own in a cgroup of its own. With \
                the lift, frostlock helps whatever waits for a CPU: the runtime, probes, freezes \
                and kills.",
        needs: &[Need::Live],
        run: trials::lift,
    },
    Check {
        name: "lifted",
        about: "Threads that a killed lifter of frostlock's left lifted: they run before every fair \
                thread, and no CPU quota holds them.",
        needs: &[Need::Live, Need::Root],
        run: lifted::check,
    },
    Check {
        name: "accounts",
        about: "Pods whose account of lifted CPU time is spent, and lifts that were refused or ended early in \
                the last hour, by the reason in the journal, with the ways out.",
        needs: &[Need::Mounts, Need::Root],
        run: accounts::check,
    },
    Check {
        name: "kubepods",
        about: "kubelet's root of all pods, kubepods or kubepods.slice: whether it is there, with its \
                burstable and besteffort levels, in each hierarchy, with its controllers enabled on the \
                way to it. kubelet says `doesn't exist` when one single hierarchy lacks it. Pods of \
                class guaranteed are directly below the root: there is no `guaranteed` directory.",
        needs: &[Need::Mounts, Need::Kubelet],
        run: kubepods::check,
    },
    Check {
        name: "frozen",
        about: "Cgroups that are frozen, or stuck FREEZING, with the age, the pod and the tasks; \
                and which killed operation of frostlock's froze it, if one did. --fix thaws only \
                those; any other may be somebody's pause: --fix --thaw PATH is for whoever knows.",
        needs: &[Need::Mounts, Need::Root],
        run: frozen::check,
    },
    Check {
        name: "leftovers",
        about: "Cgroups without a process, of pods that kubelet no longer knows.",
        needs: &[Need::Mounts, Need::Kubelet],
        run: leftovers::check,
    },
    Check {
        name: "own-state",
        about: "Locks that nobody holds and records of containers that are gone, in frostlock's state \
                directory; locks that have been held for more than 30 s, and by whom; a trial of doctor's that was killed.",
        needs: &[Need::Mounts, Need::Root],
        run: own_state::check,
    },
    Check {
        name: "cgroup-driver",
        about: "Whether kubelet's cgroup driver is that of containerd's runtimes, whether systemd \
                is there if the driver needs it, and whether the tree shows traces of the other \
                driver.",
        needs: &[Need::Root, Need::Kubelet, Need::Containerd, Need::Processes],
        run: drivers::check,
    },
    Check {
        name: "versions",
        about: "Versions of containerd and runc with known defects around freezes and lost exits: which, \
                what they do, which version fixed them; versions of these and of kubelet that are \
                out of support. Notes only: a distribution may have fixed its package.",
        needs: &[Need::Root, Need::Containerd, Need::Processes],
        run: versions::check,
    },
    Check {
        name: "inotify",
        about: "How many of the inotify instances that root may have (fs.inotify.max_user_instances, 128 by \
                default) are in use, and by whom. frostlock and frostctl use none; kubelet, containerd, \
                its shims on v2 and agents do.",
        needs: &[Need::Root, Need::Processes],
        run: inotify::check,
    },
    Check {
        name: "installation",
        about: "frostlock itself: its configuration, its runtime, its state directory (its owner, room in it), \
                syslog; whether a runtime of containerd's goes through it, whether the programs of these \
                are there, executable and of frostctl's version, whether the running containerd has loaded \
                what its file says (asked over CRI), and whether what `frostctl configure` copied \
                from the wrapped entry still matches it.",
        needs: &[Need::Live, Need::Containerd, Need::Root],
        run: installation::check,
    },
];
