//! One slot of the storm: one pod after another, each through all its steps.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::Api;
use crate::plan::{Milli, Plan};
use crate::watch::Watch;

/// The limit of one step. A step that takes longer has failed, and the storm continues.
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// The time before kubelet sends SIGKILL.
const GRACE_S: u32 = 2;
const MEMORY: &str = "64Mi";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Step {
    Start,
    Resize,
    Delete,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) step: Step,
    /// `None`: not done within the limit.
    pub(crate) seconds: Option<f64>,
}

#[derive(Debug)]
pub(crate) struct Slot<'a> {
    pub(crate) api: &'a Api,
    pub(crate) watch: &'a Watch,
    pub(crate) namespace: &'a str,
    pub(crate) image: &'a str,
    pub(crate) until: Instant,
}

impl Slot<'_> {
    pub(crate) fn run(&self, plans: impl Iterator<Item = Plan>) -> anyhow::Result<Vec<Done>> {
        let mut done = Vec::new();
        for plan in plans {
            if Instant::now() >= self.until {
                break;
            }
            self.one(&plan, &mut done)?;
        }
        Ok(done)
    }

    fn one(&self, plan: &Plan, done: &mut Vec<Done>) -> anyhow::Result<()> {
        let pods = format!("/api/v1/namespaces/{}/pods", self.namespace);
        let path = format!("{pods}/{}", plan.name);
        let began = Instant::now();
        self.api.create(&pods, &manifest(plan, self.image))?;
        let started = self.watch.until(&plan.name, began, STEP_LIMIT, |pod| pod.is_ready)?;
        done.push(Done::new(Step::Start, started));
        let ready = Instant::now();
        for resize in &plan.resizes {
            if !self.sleep_until(ready + resize.after) {
                break;
            }
            let began = Instant::now();
            self.api.patch(&format!("{path}/resize"), &resized(resize.limit))?;
            let wanted = milli(resize.limit);
            let seen =
                self.watch.until(&plan.name, began, STEP_LIMIT, |pod| pod.limit == wanted)?;
            done.push(Done::new(Step::Resize, seen));
        }
        self.sleep_until(ready + plan.life);
        let began = Instant::now();
        self.api.delete(&format!("{path}?gracePeriodSeconds={GRACE_S}"))?;
        let gone = self.watch.until(&plan.name, began, STEP_LIMIT, |pod| pod.is_gone)?;
        done.push(Done::new(Step::Delete, gone));
        Ok(())
    }

    /// Returns whether the storm still runs then.
    fn sleep_until(&self, time: Instant) -> bool {
        std::thread::sleep(time.min(self.until).saturating_duration_since(Instant::now()));
        time < self.until
    }
}

impl Done {
    fn new(step: Step, time: Option<Duration>) -> Self {
        Self { step, seconds: time.map(|time| time.as_secs_f64()) }
    }
}

fn milli(limit: Milli) -> String {
    format!("{limit}m")
}

fn resized(limit: Milli) -> Value {
    json!({"spec": {"containers": [{
        "name": "main",
        "resources": {"requests": {"cpu": milli(limit)}, "limits": {"cpu": milli(limit)}},
    }]}})
}

/// The exit status is 0 only if the container ends by itself; kubelet reports it with the restart.
fn manifest(plan: &Plan, image: &str) -> Value {
    let busy = "while :; do :; done & ".repeat(plan.busy as usize);
    let lasts = plan.ends_after_s.map_or("infinity".to_owned(), |seconds| seconds.to_string());
    let script = format!("trap 'exit 143' TERM; {busy}sleep {lasts} & wait $!; exit 0");
    let limits = json!({"cpu": milli(plan.limit), "memory": MEMORY});
    // Readiness and liveness with kubelet's defaults: a limit of 1 s, and three failures in a row.
    let probe = |period: Value| json!({"exec": {"command": ["true"]}, "periodSeconds": period});
    let mut pod =
        running(&plan.name, image, &script, json!({"requests": limits, "limits": limits}));
    let container = &mut pod["spec"]["containers"][0];
    container["readinessProbe"] = probe(json!(plan.readiness_period_s));
    container["livenessProbe"] = probe(json!(2));
    pod
}

/// The busy neighbours: one pod with this many threads, without a limit.
pub(crate) fn neighbours(threads: usize, image: &str) -> Value {
    let script = format!("{}wait", "while :; do :; done & ".repeat(threads));
    running("neighbours", image, &script, json!({"requests": {"cpu": "500m", "memory": MEMORY}}))
}

/// A pod with one container that has a shell.
fn running(name: &str, image: &str, script: &str, resources: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": GRACE_S,
            "containers": [{
                "name": "main",
                "image": image,
                "imagePullPolicy": "Never",
                "command": ["sh", "-c", script],
                "resources": resources,
            }],
        },
    })
}
