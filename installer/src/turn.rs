//! One node at a time: the Lease is a lock that never expires. Its holder gives it back once the node
//! works. So a node that fails stops the roll-out until somebody has looked at it. No clock decides
//! anything.

use std::time::{Duration, Instant, SystemTime};

use anyhow::bail;
use serde_json::{Value, json};

use crate::api::{Answer, Api};
use crate::say;

/// The time between two looks. With 1,000 nodes that is 67 looks a second, each of up to three requests.
const POLL: Duration = Duration::from_secs(15);

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Free,
    Mine,
    Other(String),
}

fn whose(lease: &Value, node: &str) -> Turn {
    match lease["spec"]["holderIdentity"].as_str() {
        None | Some("") => Turn::Free,
        Some(holder) if holder == node => Turn::Mine,
        Some(holder) => Turn::Other(holder.to_owned()),
    }
}

/// Keeps all other fields of the object, above all its `resourceVersion`.
fn held_by(mut lease: Value, node: Option<&str>, now: SystemTime) -> Value {
    let transitions = lease["spec"]["leaseTransitions"].as_u64().unwrap_or(0);
    lease["spec"] = match node {
        None => json!({ "leaseTransitions": transitions }),
        Some(node) => json!({
            "holderIdentity": node,
            "acquireTime": humantime::format_rfc3339_micros(now).to_string(),
            "leaseTransitions": transitions + 1,
        }),
    };
    lease
}

/// `may_go_on` is asked at each look, and once more with the Lease in hand: the answer may change during
/// the wait, which is long.
pub(crate) fn take(
    api: &Api,
    name: &str,
    wait: Duration,
    may_go_on: &dyn Fn() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + wait;
    let mut told = None;
    loop {
        may_go_on()?;
        let lease = look(api, name)?;
        let holder = match whose(&lease, api.node()) {
            // Not to be given back: the pod of the removal on this node may be the one that took it.
            Turn::Mine => return Ok(()),
            Turn::Free => None,
            // A node that has left the cluster gives nothing back.
            Turn::Other(holder) => api.has_node(&holder)?.then_some(holder),
        };
        match holder {
            None => {
                let mine = held_by(lease, Some(api.node()), SystemTime::now());
                if let Answer::Object(_) = api.replace(&api.lease(name), &mine)? {
                    return may_go_on().or_else(|why| give(api, name).and(Err(why)));
                }
                told = None;
            }
            Some(holder) if told.as_ref() == Some(&holder) => {}
            Some(holder) => {
                say(&format!("node {holder} is being changed; this one is next after it"));
                told = Some(holder);
            }
        }
        if Instant::now() >= deadline {
            let by = told.as_deref().unwrap_or("another");
            bail!(
                "waited for {} for the Lease {name}, which node {by} holds; if that node's installer \
                 has failed, see to it first",
                humantime::format_duration(wait)
            );
        }
        if told.is_some() {
            std::thread::sleep(POLL.min(deadline.saturating_duration_since(Instant::now())));
        }
    }
}

/// Having nothing to give back is no error: the step may run twice.
pub(crate) fn give(api: &Api, name: &str) -> anyhow::Result<()> {
    const TRIES: usize = 5;
    for _ in 0..TRIES {
        let lease = look(api, name)?;
        if whose(&lease, api.node()) != Turn::Mine {
            return Ok(());
        }
        let free = held_by(lease, None, SystemTime::now());
        if let Answer::Object(_) | Answer::NotFound = api.replace(&api.lease(name), &free)? {
            return Ok(());
        }
    }
    bail!("somebody else changed the Lease {name} {TRIES} times in a row")
}

fn look(api: &Api, name: &str) -> anyhow::Result<Value> {
    match api.get(&api.lease(name))? {
        Answer::Object(lease) => Ok(lease),
        Answer::NotFound | Answer::Conflict => {
            bail!("there is no Lease {name} in this namespace; the Helm chart makes it")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lease(spec: Value) -> Value {
        json!({ "metadata": { "name": "l", "resourceVersion": "7" }, "spec": spec })
    }

    #[test]
    fn whose_turn_it_is() {
        assert_eq!(whose(&lease(json!({})), "a"), Turn::Free);
        assert_eq!(whose(&json!({ "metadata": {} }), "a"), Turn::Free);
        assert_eq!(whose(&lease(json!({ "holderIdentity": "a" })), "a"), Turn::Mine);
        let other = whose(&lease(json!({ "holderIdentity": "b" })), "a");
        assert_eq!(other, Turn::Other("b".to_owned()));
    }

    #[test]
    fn taken_and_given_back_it_is_free_and_of_the_same_version() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(1_500_000);
        let taken = held_by(lease(json!({ "leaseTransitions": 2 })), Some("a"), now);
        assert_eq!(
            taken["spec"],
            json!({
                "holderIdentity": "a",
                "acquireTime": "1970-01-01T00:00:01.500000Z",
                "leaseTransitions": 3
            })
        );
        let given = held_by(taken, None, now);
        assert_eq!(whose(&given, "a"), Turn::Free);
        assert_eq!(given["metadata"]["resourceVersion"], "7");
        // The API server refuses an empty name.
        assert_eq!(given["spec"], json!({ "leaseTransitions": 3 }));
    }
}
