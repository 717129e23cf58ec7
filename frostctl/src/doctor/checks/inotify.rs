use super::super::finding::Finding;
use super::super::inotify::{Holder, Inotify, LIMIT};
use super::super::node::Node;

/// In percent of the limit: starting a few pods may use up the rest.
const NEARLY_ALL: u64 = 75;

const MOST_SHOWN: usize = 5;

pub(super) fn check(node: &Node) -> Vec<Finding> {
    match &node.inotify {
        Some(inotify) => judge(inotify).into_iter().collect(),
        None => vec![
            Finding::not_checked("how many inotify instances there may be cannot be read")
                .seen(LIMIT, "is not there, or cannot be read")
                .remedy("run doctor as root on the node, with proc mounted at /proc"),
        ],
    }
}

fn judge(inotify: &Inotify) -> Option<Finding> {
    let (used, limit) = (inotify.used(), inotify.limit);
    if used.saturating_mul(100) < limit.saturating_mul(NEARLY_ALL) {
        return None;
    }
    let what = format!("{used} of root's {limit} inotify instances are in use");
    let finding = if used < limit { Finding::warning(what) } else { Finding::error(what) };
    let seen = |holder: &Holder| {
        (format!("/proc/{}/fd", holder.pid), format!("{}: {}", holder.comm, holder.instances))
    };
    Some(
        finding
            .seen(LIMIT, limit.to_string())
            .seen_all(inotify.holders.iter().take(MOST_SHOWN).map(seen))
            .so("whoever asks for one more gets `too many open files`: kubelet and containerd do not \
                 start or miss changes of their files, and on v2 a containerd-shim, which takes one for \
                 each container, does not see its OOM kills. frostlock and frostctl use none")
            .remedy(format!(
                "sysctl -w {}={}, and the same line in a file of /etc/sysctl.d; a process that has \
                 far more than the others leaks them: restart it",
                "fs.inotify.max_user_instances",
                recommended(limit)
            )),
    )
}

/// What Kubernetes distributions set, or twice the current limit.
fn recommended(limit: u64) -> u64 {
    limit.saturating_mul(2).max(8192)
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Severity;
    use super::*;

    fn judged(limit: u64, instances: &[u64]) -> Option<Finding> {
        let holder = |(&instances, pid)| Holder { pid, comm: "shim".to_owned(), instances };
        let holders = instances.iter().zip(100..).map(holder).collect();
        judge(&Inotify { limit, holders })
    }

    #[test]
    fn what_is_nearly_used_up_is_said_before_it_is() {
        for (limit, instances, severity) in [
            (128, &[][..], None),
            (128, &[90, 5], None),
            (128, &[90, 6], Some(Severity::Warning)),
            (128, &[127], Some(Severity::Warning)),
            (128, &[100, 28], Some(Severity::Error)),
            (128, &[200], Some(Severity::Error)),
            (0, &[], Some(Severity::Error)),
            (u64::MAX, &[1], None),
        ] {
            let finding = judged(limit, instances);
            assert_eq!(finding.map(|it| it.severity), severity, "{limit} {instances:?}");
        }
    }

    #[test]
    fn it_says_who_has_them_and_what_to_set() {
        let finding = judged(128, &[100, 9, 8, 7, 6, 5]).unwrap();
        assert_eq!(finding.what, "135 of root's 128 inotify instances are in use");
        let seen: Vec<_> = finding.evidence.iter().map(|it| it.content.as_str()).collect();
        assert_eq!(seen, ["128", "shim: 100", "shim: 9", "shim: 8", "shim: 7", "shim: 6"]);
        assert_eq!(finding.evidence[1].path, "/proc/100/fd");
        assert!(finding.remedy.contains("fs.inotify.max_user_instances=8192"));
        assert!(judged(8192, &[8000]).unwrap().remedy.contains("=16384"));
    }
}
