//! Lifts that were not made, or ended early, and what an operator can do about each reason.

use std::time::Duration;

use cgroup::Identity;

use super::super::finding::Finding;
use super::super::node::Node;
use super::super::operations::{Reason, Refusals};

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
    let refused = operations.refusals.iter().map(|(reason, it)| refused(node, reason, it));
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
    let mut finding = Finding::note(what);
    for (of, wait) in spent.iter().take(MOST_SHOWN) {
        let seconds = wait.as_secs_f64();
        finding = finding.seen(of.as_path(), format!("no credit for {seconds:.1} s"));
    }
    Some(
        finding
            .so("until then their probes and execs run within their own CPU limit, as without frostlock")
            .remedy(POD_WAYS),
    )
}

const POD_WAYS: &str = "one of (1) a cheaper or rarer probe; (2) a higher CPU limit of the pod; (3) a larger \
                        lift.pod_percent in /etc/frostlock/config.toml";

fn refused(node: &Node, reason: &Reason, refusals: &Refusals) -> Finding {
    let Refusals { count, whose } = refusals;
    let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
    let (how, so, remedy) = told(reason);
    let what = format!("in the last hour {how} {times}");
    let journal = node.ours.state.journal();
    // A pod that is probed more than its limits allow is meant to hit this bound.
    let finding = match reason {
        Reason::PodLimit => Finding::note(what),
        _ => Finding::warning(what),
    };
    finding.seen(journal, format!("last: {whose}, {}", key(reason))).so(so).remedy(remedy)
}

/// As the journal writes it.
fn key(reason: &Reason) -> String {
    match reason {
        Reason::RtGroupSched => "lift_refused: RT_GROUP_SCHED".to_owned(),
        Reason::NoCapability => "lift_refused: CAP_SYS_NICE".to_owned(),
        Reason::PodLimit => "ended: pod limit".to_owned(),
        Reason::NodeLimit => "ended: node limit".to_owned(),
        Reason::Other(why) => format!("lift_refused: {why}"),
    }
}

fn told(reason: &Reason) -> (&'static str, &'static str, &'static str) {
    const STARVED: &str =
        "what waited for a CPU went on waiting: probes time out, starts and kills crawl";
    match reason {
        Reason::RtGroupSched => (
            "the kernel refused a lift",
            STARVED,
            "frostctl doctor --check lift names the ways out (rt_group_sched=0, sched_rt_runtime_us=-1, on \
             v1 cpu.rt_runtime_us)",
        ),
        Reason::NoCapability => (
            "a lift was refused for want of CAP_SYS_NICE",
            STARVED,
            "give CAP_SYS_NICE to whatever calls frostlock (containerd's unit: \
             CapabilityBoundingSet); a rootless caller cannot have it",
        ),
        Reason::PodLimit => (
            "a lift ended early as the pod's account was spent",
            "the rest of the probe or exec ran within its own CPU limit",
            POD_WAYS,
        ),
        Reason::NodeLimit => (
            "a lift ended early as the node's account was spent",
            "what waited for a CPU went on waiting: more is asked of this node than it may lift",
            "one of (1) fewer pods with a tiny CPU limit and frequent probes on this node; (2) a larger \
             lift.node_percent in /etc/frostlock/config.toml",
        ),
        Reason::Other(_) => (
            "a lift was refused",
            STARVED,
            "`no note` is a state directory that cannot be written to: frostctl doctor --check installation",
        ),
    }
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
        for reason in [
            Reason::RtGroupSched,
            Reason::NoCapability,
            Reason::PodLimit,
            Reason::NodeLimit,
            Reason::Other("no note: ENOSPC".to_owned()),
        ] {
            let (how, so, remedy) = told(&reason);
            assert!(!how.is_empty() && !so.is_empty() && !remedy.is_empty(), "{reason:?}");
        }
        let of = |reason| told(&reason).2;
        assert!(of(Reason::RtGroupSched).contains("sched_rt_runtime_us=-1"));
        assert!(of(Reason::PodLimit).contains("lift.pod_percent"));
        assert!(of(Reason::NodeLimit).contains("lift.node_percent"));
    }
}
