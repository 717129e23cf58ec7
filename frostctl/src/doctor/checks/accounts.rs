//! Lifts that were not made, or ended early, and what an operator can do about each reason.

use std::time::Duration;

use cgroup::Identity;

use super::super::finding::Finding;
use super::super::node::Node;
use super::super::operations::Refusals;

const MOST_SHOWN: usize = 5;

pub(super) fn check(node: &Node) -> Vec<Finding> {
    let operations = &node.ours.operations;
    let complaint = operations.complaint.as_ref().filter(|_| node.is_root);
    let unread = complaint.map(|why| {
        Finding::not_checked("the journal cannot be read")
            .seen(node.ours.state.path(), why)
            .so("whether lifts were refused in the last hour is not known")
            .remedy("move away what is at this path; the next operation begins a new journal")
    });
    let place = |reason: &&String| REASONS.iter().position(|it| it.key == *reason);
    let mut reasons: Vec<_> = operations.refusals.keys().collect();
    reasons.sort_by_key(|it| place(it).unwrap_or(REASONS.len()));
    let refused = reasons.into_iter().map(|it| refused(node, it, &operations.refusals[it]));
    unread.into_iter().chain(spent(&node.ours.spent)).chain(refused).collect()
}

/// Only a note: at the default share, a spent account is full again within 20 s.
fn spent(spent: &[(Identity, Duration)]) -> Option<Finding> {
    let (first, rest) = spent.split_first()?;
    let whose = |it: &Identity| match it.pod_uid() {
        Some(uid) => format!("pod {}", uid.replace('_', "-")),
        None => it.to_string(),
    };
    let what = match rest.len() {
        0 => format!("the account of {} is spent", whose(&first.0)),
        more => format!("the accounts of {} and {more} others are spent", whose(&first.0)),
    };
    let shown = spent.iter().take(MOST_SHOWN);
    let seen = |(of, wait): &(Identity, Duration)| {
        (of.as_path().to_owned(), format!("no credit for {:.1} s", wait.as_secs_f64()))
    };
    Some(
        Finding::note(what)
            .seen_all(shown.map(seen))
            .so("until then their probes and execs run within their own CPU limit, as without frostlock")
            .remedy(POD_WAYS),
    )
}

const POD_WAYS: &str = "one of (1) a cheaper or rarer probe; (2) a higher CPU limit of the pod; (3) a larger \
                        lift.pod_percent in /etc/frostlock/config.toml";

/// What is said of a reason.
#[derive(Debug)]
struct Reason {
    /// As the journal writes it.
    key: &'static str,
    how: &'static str,
    so: &'static str,
    remedy: &'static str,
}

const STARVED: &str =
    "what waited for a CPU went on waiting: probes time out, starts and kills crawl";

const POD_LIMIT: &str = "ended: pod limit";

const REASONS: [Reason; 4] = [
    Reason {
        key: "lift_refused: RT_GROUP_SCHED",
        how: "the kernel refused a lift",
        so: STARVED,
        remedy: "frostctl doctor --check lift names the ways out (rt_group_sched=0, sched_rt_runtime_us=-1, on \
                 v1 cpu.rt_runtime_us)",
    },
    Reason {
        key: "lift_refused: CAP_SYS_NICE",
        how: "a lift was refused for want of CAP_SYS_NICE",
        so: STARVED,
        remedy: "give CAP_SYS_NICE to whatever calls frostlock (containerd's unit: \
                 CapabilityBoundingSet); a rootless caller cannot have it",
    },
    Reason {
        key: POD_LIMIT,
        how: "a lift ended early as the pod's account was spent",
        so: "the rest of the probe or exec ran within its own CPU limit",
        remedy: POD_WAYS,
    },
    Reason {
        key: "ended: node limit",
        how: "a lift ended early as the node's account was spent",
        so: "what waited for a CPU went on waiting: more is asked of this node than it may lift",
        remedy: "one of (1) fewer pods with a tiny CPU limit and frequent probes on this node; (2) a larger \
                 lift.node_percent in /etc/frostlock/config.toml",
    },
];

const OTHER: Reason = Reason {
    key: "",
    how: "a lift was refused",
    so: STARVED,
    remedy: "`no note` is a state directory that cannot be written to: frostctl doctor --check installation",
};

fn refused(node: &Node, key: &str, Refusals { count, whose }: &Refusals) -> Finding {
    let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
    let reason = REASONS.iter().find(|it| it.key == key).unwrap_or(&OTHER);
    let what = format!("in the last hour {} {times}", reason.how);
    // A pod that is probed more than its limits allow is meant to hit this bound.
    let finding = if key == POD_LIMIT { Finding::note(what) } else { Finding::warning(what) };
    finding
        .seen(node.ours.state.journal(), format!("last: {whose}, {key}"))
        .so(reason.so)
        .remedy(reason.remedy)
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Severity;
    use super::*;

    #[test]
    fn spent_accounts_are_one_note_with_their_pods() {
        let pod = |path: &str| (Identity::new(path).unwrap(), Duration::from_millis(1500));
        assert!(spent(&[]).is_none());
        let uid = "0c8a6a44-6f0b-4a54-9f3e-61d2f6a0b7aa";
        let one = spent(&[pod(&format!("/kubepods/burstable/pod{uid}"))]).unwrap();
        assert_eq!(one.what, format!("the account of pod {uid} is spent"));
        assert_eq!(one.severity, Severity::Note);
        assert_eq!(one.evidence[0].content, "no credit for 1.5 s");
        let many: Vec<_> = (0..9).map(|number| pod(&format!("/a{number}"))).collect();
        let many = spent(&many).unwrap();
        assert_eq!(many.what, "the accounts of /a0 and 8 others are spent");
        assert_eq!(many.evidence.len(), MOST_SHOWN);
    }

    #[test]
    fn every_reason_has_a_way_out() {
        for reason in REASONS.iter().chain([&OTHER]) {
            let said = [reason.how, reason.so, reason.remedy];
            assert!(said.iter().all(|it| !it.is_empty()), "{reason:?}");
        }
        let of = |key: &str| REASONS.iter().find(|it| it.key == key).unwrap().remedy;
        assert!(of("lift_refused: RT_GROUP_SCHED").contains("sched_rt_runtime_us=-1"));
        assert!(of("ended: pod limit").contains("lift.pod_percent"));
        assert!(of("ended: node limit").contains("lift.node_percent"));
    }
}
