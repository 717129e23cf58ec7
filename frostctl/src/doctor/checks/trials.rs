use frostlock::refill::trial::{Trial, Verdict};

use super::super::finding::Finding;
use super::super::node::Node;
use super::super::trial::Froze;

const NOT_TRIED: &str = "run doctor as root on the node itself, with its cgroups writable";

pub(super) fn freezer(node: &Node) -> Vec<Finding> {
    const NAME: &str = "freezer";
    let Some(trials) = &node.trials else { return Vec::new() };
    match &trials.freezer {
        Ok(Froze::Yes) => Vec::new(),
        Ok(Froze::No(dir, state)) => vec![
            Finding::error(NAME, "a process of doctor's own did not freeze within 1 s")
                .seen(dir, format!("{state:?}"))
                .so("pause fails, on v1 every update by runc, too: `unable to freeze`")
                .remedy(
                    "if the machine has no CPU time left, try again; else this kernel's freezer does not \
                     work: see dmesg, and update the kernel",
                ),
        ],
        Err(why) => vec![
            Finding::untried(NAME, "whether the freezer works was not tried")
                .seen("/sys/fs/cgroup", why)
                .remedy(NOT_TRIED),
        ],
    }
}

pub(super) fn refill(node: &Node) -> Vec<Finding> {
    const NAME: &str = "refill";
    let Some(trials) = &node.trials else { return Vec::new() };
    match &trials.refill {
        Ok(trial) => found(trial),
        Err(why) => vec![
            Finding::untried(NAME, "whether a refill works was not tried")
                .seen("/sys/fs/cgroup", why)
                .remedy(NOT_TRIED),
        ],
    }
}

fn found(trial: &Trial) -> Vec<Finding> {
    const NAME: &str = "refill";
    let seen = format!(
        "a throttled process had {} us of CPU time without, {} us with {} writes",
        trial.without_us, trial.with_us, trial.writes
    );
    match trial.verdict {
        Verdict::Works => Vec::new(),
        Verdict::HasNoEffect => vec![
            Finding::warning(NAME, "rewriting a CPU quota does not refill it on this kernel")
                .seen("/sys/fs/cgroup", seen)
                .so("frostlock locks and retries, and cannot help what is throttled: freezes of busy pods \
                     with a small quota fail more often")
                .remedy("give such pods a larger quota, or use a kernel on which it does"),
        ],
        Verdict::CannotTell => vec![
            Finding::note(NAME, "the machine is too busy to tell whether a refill works")
                .seen("/sys/fs/cgroup", seen)
                .remedy("frostctl doctor --check refill, when there is CPU time left"),
        ],
    }
}
