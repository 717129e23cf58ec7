//! What the API server reports of a namespace's pods, as it happens.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;

use crate::api::Api;

/// The exit status of a container that has ended as planned.
const PLANNED: i64 = 0;

#[derive(Debug, Clone, Default)]
pub(crate) struct Pod {
    pub(crate) uid: String,
    pub(crate) is_ready: bool,
    pub(crate) is_gone: bool,
    /// The CPU limit that kubelet reports as in force.
    pub(crate) limit: String,
    /// How often readiness was lost while the container kept running.
    pub(crate) flaps: u64,
    pub(crate) planned_restarts: u64,
    /// Restarts of a container that had not ended by itself.
    pub(crate) restarts: u64,
    restart_count: u64,
}

#[derive(Debug, Default)]
struct Seen {
    pods: HashMap<String, Pod>,
    ended: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Watch(Arc<(Mutex<Seen>, Condvar)>);

impl Watch {
    /// Watches this long, even if the caller is done: a reading thread cannot be told to end.
    pub(crate) fn start(api: &Api, namespace: &str, limit: Duration) -> anyhow::Result<Self> {
        let path = format!(
            "/api/v1/namespaces/{namespace}/pods?watch=1&timeoutSeconds={}",
            limit.as_secs()
        );
        let lines = api.lines(&path)?;
        let watch = Self(Arc::default());
        let theirs = watch.clone();
        std::thread::spawn(move || {
            let why = match lines.map(|line| theirs.take(&line?)).find_map(Result::err) {
                Some(error) => format!("{error:#}"),
                None => "the API server has ended it".to_owned(),
            };
            theirs.seen().ended = Some(why);
            theirs.0.1.notify_all();
        });
        Ok(watch)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, line: &str) -> anyhow::Result<()> {
        let event: Value = serde_json::from_str(line)?;
        let object = &event["object"];
        let Some(name) = object["metadata"]["name"].as_str() else {
            bail!("the watch says {line}");
        };
        let mut seen = self.seen();
        let pod = seen.pods.entry(name.to_owned()).or_default();
        note(pod, object);
        pod.is_gone = event["type"] == "DELETED";
        drop(seen);
        self.0.1.notify_all();
        Ok(())
    }

    /// How long, from `since` on, until a pod met the condition; `None` if it did not within the
    /// limit.
    pub(crate) fn until(
        &self,
        name: &str,
        since: Instant,
        limit: Duration,
        is_so: impl Fn(&Pod) -> bool,
    ) -> anyhow::Result<Option<Duration>> {
        let mut seen = self.seen();
        loop {
            if seen.pods.get(name).is_some_and(&is_so) {
                return Ok(Some(since.elapsed()));
            }
            if let Some(why) = &seen.ended {
                bail!("the watch of the pods has ended: {why}");
            }
            let Some(left) = limit.checked_sub(since.elapsed()) else { return Ok(None) };
            seen = self.0.1.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(crate) fn pods(&self) -> HashMap<String, Pod> {
        self.seen().pods.clone()
    }
}

/// Each of our pods has one container.
fn note(pod: &mut Pod, object: &Value) {
    let container = &object["status"]["containerStatuses"][0];
    let is_ready = object["status"]["conditions"].as_array().is_some_and(|conditions| {
        conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
    });
    let restart_count = container["restartCount"].as_u64().unwrap_or_default();
    let more = restart_count.saturating_sub(pod.restart_count);
    if more > 0 {
        if container["lastState"]["terminated"]["exitCode"] == PLANNED {
            pod.planned_restarts += more;
        } else {
            pod.restarts += more;
        }
    }
    let runs_on = more == 0 && container["state"]["running"].is_object();
    let is_ending = object["metadata"]["deletionTimestamp"].is_string();
    if pod.is_ready && !is_ready && runs_on && !is_ending {
        pod.flaps += 1;
    }
    pod.uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    pod.limit = container["resources"]["limits"]["cpu"].as_str().unwrap_or_default().to_owned();
    pod.is_ready = is_ready;
    pod.restart_count = restart_count;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(ready: bool, restarts: u64, last: Option<i64>, running: bool) -> Value {
        let state = if running { json!({"running": {}}) } else { json!({"waiting": {}}) };
        json!({
            "metadata": {"name": "a", "uid": "u"},
            "status": {
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
                "containerStatuses": [{
                    "restartCount": restarts, "state": state,
                    "lastState": {"terminated": {"exitCode": last}},
                    "resources": {"limits": {"cpu": "10m"}},
                }],
            },
        })
    }

    #[test]
    fn a_flap_is_of_a_container_that_runs_on() {
        let mut pod = Pod::default();
        for (object, flaps) in [
            (object(true, 0, None, true), 0),
            (object(false, 0, None, true), 1),
            (object(true, 0, None, true), 1),
            // It has ended, and is restarted.
            (object(false, 0, Some(0), false), 1),
            (object(true, 1, Some(0), true), 1),
            (object(false, 2, Some(137), true), 1),
        ] {
            note(&mut pod, &object);
            assert_eq!(pod.flaps, flaps, "{object}");
        }
        assert_eq!((pod.planned_restarts, pod.restarts), (1, 1));
    }
}
