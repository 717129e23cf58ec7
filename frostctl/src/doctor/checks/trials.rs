use cgroup::read::Version as Cgroup;

use super::super::finding::Finding;
use super::super::node::Node;
use super::super::trial::{Froze, Lifted, Refused};
use crate::version::Version;

const NOT_TRIED: &str = "run doctor as root on the node itself, with its cgroups writable";

pub(super) fn freezer(node: &Node) -> Vec<Finding> {
    let Some(trials) = &node.trials else { return Vec::new() };
    match &trials.freezer {
        Ok(Froze::Yes) => Vec::new(),
        Ok(Froze::No(dir, state)) => vec![
            Finding::error("a process of doctor's own did not freeze within 1 s")
                .seen(dir, format!("{state:?}"))
                .so("pause fails, on v1 every update by runc, too: `unable to freeze`")
                .remedy(
                    "if the machine has no CPU time left, try again; else this kernel's freezer does not \
                     work: see dmesg, and update the kernel",
                ),
        ],
        Err(why) => vec![
            Finding::not_checked("whether the freezer works was not tried")
                .seen("/sys/fs/cgroup", why)
                .remedy(NOT_TRIED),
        ],
    }
}

pub(super) fn lift(node: &Node) -> Vec<Finding> {
    node.trials.as_ref().and_then(|trials| of_lift(&trials.lift)).into_iter().collect()
}

fn of_lift(lifted: &Result<Lifted, String>) -> Option<Finding> {
    match lifted {
        Ok(Lifted::Yes) => None,
        Ok(Lifted::Refused(refused)) => Some(refused_by_kernel(refused)),
        Ok(Lifted::NotAllowed) => Some(
            Finding::not_checked("whether the kernel lets frostlock lift was not tried: no CAP_SYS_NICE")
                .seen("/proc/self/status", "no CAP_SYS_NICE in the first user namespace")
                .so("a frostlock without it, as a rootless one, locks and retries but cannot lift")
                .remedy("run doctor with CAP_SYS_NICE, as root on the node itself; give it to frostlock's caller"),
        ),
        Err(why) => Some(
            Finding::not_checked("whether the kernel lets frostlock lift was not tried")
                .seen("/sys/fs/cgroup", why)
                .remedy(NOT_TRIED),
        ),
    }
}

/// No automatic fix: each way out concerns the whole node.
fn refused_by_kernel(refused: &Refused) -> Finding {
    let finding =
        Finding::warning("this kernel lets no thread in a cgroup be lifted (RT_GROUP_SCHED)");
    let finding = match &refused.of_cgroup {
        Some(us) => finding.seen(refused.dir.join("cpu.rt_runtime_us"), us),
        None => finding.seen(&refused.dir, "EPERM for SCHED_RR, with CAP_SYS_NICE"),
    };
    finding
        .seen("/proc/sys/kernel/sched_rt_runtime_us", &refused.of_node)
        .so("frostlock locks, retries and records, and cannot help what waits for a CPU: freezes, \
             starts, probes and kills of starved containers fail or crawl as without it")
        .remedy(numbered(&ways_out(refused)))
}

fn numbered(ways: &[String]) -> String {
    let numbered = ways.iter().enumerate().map(|(at, way)| format!("({}) {way}", at + 1));
    format!("one of {}", numbered.collect::<Vec<_>>().join("; "))
}

/// Each says what it means.
fn ways_out(refused: &Refused) -> Vec<String> {
    let kernel = Version::find(&refused.kernel);
    let is_at_least = |major, minor| kernel.is_none_or(|it| it >= Version::new(major, minor, 0));
    let release = &refused.kernel;
    let newer = match is_at_least(6, 16) {
        true => "rt_group_sched=0 on the kernel command line, which switches it off".to_owned(),
        false => format!(
            "a kernel without it, or of 6.16 and newer (this is {release}) with rt_group_sched=0 on \
             its command line"
        ),
    };
    let unthrottled = match is_at_least(6, 12) {
        true => "the kernel's fair server still keeps 5 % of each CPU for everybody else",
        false => "a spinning real-time thread then keeps its CPU for ever",
    };
    let sysctl = format!(
        "sysctl kernel.sched_rt_runtime_us=-1, after which nothing throttles real-time threads: \
         {unthrottled}"
    );
    let cgroups = "cpu.rt_runtime_us of every cgroup from the root down to the containers', for those \
                   alone; the sum below a cgroup cannot exceed its own, and new ones begin with 0";
    let mut ways = vec![newer, sysctl];
    ways.extend((refused.version == Cgroup::V1).then(|| cgroups.to_owned()));
    ways
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Severity;
    use super::*;

    fn refused(version: Cgroup, kernel: &str) -> Refused {
        Refused {
            version,
            dir: "/sys/fs/cgroup/cpu/frostlock-doctor-1-2".into(),
            of_cgroup: (version == Cgroup::V1).then(|| "0".to_owned()),
            of_node: "950000".to_owned(),
            kernel: kernel.to_owned(),
        }
    }

    #[test]
    fn a_kernel_that_lets_us_is_no_finding_and_one_that_does_not_a_warning() {
        let is = |lifted| of_lift(&lifted).map(|it| (it.severity, it.fix.is_some()));
        let kernel = refused(Cgroup::V1, "6.18.44");
        assert_eq!(is(Ok(Lifted::Yes)), None);
        assert_eq!(is(Ok(Lifted::Refused(kernel))), Some((Severity::Warning, false)));
        assert_eq!(is(Ok(Lifted::NotAllowed)), Some((Severity::NotChecked, false)));
        assert_eq!(is(Err("no cgroup".to_owned())), Some((Severity::NotChecked, false)));
        let without = of_lift(&Ok(Lifted::NotAllowed)).unwrap();
        assert!(without.what.contains("CAP_SYS_NICE"), "{without:?}");
    }

    #[test]
    fn the_ways_out_are_those_of_the_kernel() {
        const SYSCTL: &str = "sysctl kernel.sched_rt_runtime_us=-1";
        const CGROUPS: &str = "cpu.rt_runtime_us of every cgroup";
        for (version, kernel, has, lacks) in [
            (
                Cgroup::V1,
                "6.18.44",
                &["one of (1) rt_group_sched=0 on", "fair server", CGROUPS][..],
                "this is",
            ),
            (Cgroup::V2, "6.12.9-flatcar", &["(this is 6.12.9-flatcar)", "fair server"], CGROUPS),
            (
                Cgroup::V2,
                "6.1.0-18-amd64",
                &["(this is 6.1.0-18-amd64)", "for ever"],
                "fair server",
            ),
            (
                Cgroup::V1,
                "4.18.0-553.el8",
                &["(this is 4.18.0-553.el8)", "for ever", CGROUPS],
                "fair server",
            ),
            (Cgroup::V2, "", &["rt_group_sched=0", "fair server"], CGROUPS),
        ] {
            let ways = numbered(&ways_out(&refused(version, kernel)));
            let missing: Vec<_> =
                has.iter().chain(&[SYSCTL]).filter(|it| !ways.contains(*it)).collect();
            assert!(missing.is_empty() && !ways.contains(lacks), "{kernel}: {missing:?} in {ways}");
        }
    }
}
