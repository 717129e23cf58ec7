//! What `helm uninstall` waits for.

use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;

use crate::api::{Answer, Api};

const POLL: Duration = Duration::from_secs(5);

pub(crate) fn wait(api: &Api, name: &str, wait: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + wait;
    loop {
        let Answer::Object(daemonset) = api.get(&api.daemonset(name))? else {
            bail!("there is no DaemonSet {name}");
        };
        let Some(left) = left(&daemonset) else {
            // Helm would delete it at once, as a hook that has succeeded.
            api.delete(&api.daemonset(name))?;
            return Ok(());
        };
        if Instant::now() >= deadline {
            bail!(
                "after {} the DaemonSet {name} is not ready: {left}. End the pods that run through \
                 frostlock, or drain those nodes, and run `helm uninstall` again",
                humantime::format_duration(wait)
            );
        }
        std::thread::sleep(POLL.min(deadline.saturating_duration_since(Instant::now())));
    }
}

/// A restarted pod of the installer must not put back what was just removed from its node.
pub(crate) fn is_not_under_way(api: &Api, name: &str) -> anyhow::Result<()> {
    if let Answer::Object(_) = api.get(&api.daemonset(name))? {
        bail!(
            "the DaemonSet {name} of `helm uninstall` takes frostlock off the nodes; to keep frostlock, \
             delete that DaemonSet"
        );
    }
    Ok(())
}

/// None once it is done everywhere. A status of an earlier generation does not count.
fn left(daemonset: &Value) -> Option<String> {
    let number = |field: &str| daemonset["status"][field].as_u64();
    let seen = number("observedGeneration");
    if seen.is_none() || seen < daemonset["metadata"]["generation"].as_u64() {
        return Some("its controller has not seen it".to_owned());
    }
    let all = number("desiredNumberScheduled").unwrap_or(0);
    let ready = number("numberReady").unwrap_or(0);
    (ready < all).then(|| format!("{ready} of {all} nodes are done"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_done_when_every_node_is() {
        let daemonset = |seen: Option<u64>, all: u64, ready: u64| {
            let status = json!({
                "observedGeneration": seen, "desiredNumberScheduled": all, "numberReady": ready
            });
            left(&json!({ "metadata": { "generation": 2 }, "status": status }))
        };
        assert_eq!(daemonset(Some(2), 3, 2).as_deref(), Some("2 of 3 nodes are done"));
        assert_eq!(daemonset(Some(2), 3, 3), None);
        assert_eq!(daemonset(Some(2), 0, 0), None, "no node is to be cleared");
        assert!(daemonset(Some(1), 3, 3).is_some());
        assert!(daemonset(None, 0, 0).is_some());
    }
}
