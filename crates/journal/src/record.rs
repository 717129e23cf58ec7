//! What a record is, for its writer and for readers of any version.

use cgroup::bundle::PodNames;
use serde::{Deserialize, Serialize};

/// One line of the journal; docs/journal.md has the keys. A key that a version does not write is
/// absent, and unknown keys are ignored. Some keys are always written, `null` if nothing is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub v: u32,
    pub boot_id: Option<String>,
    pub time: Option<String>,
    pub mono_ns: Option<u64>,
    pub verb: Option<String>,
    pub id: Option<String>,
    pub cgroup: Option<String>,
    pub runtime: Option<String>,
    pub pid: Option<u32>,
    pub requested_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    pub stages: Option<Stages>,
    pub attempts: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tries: Vec<Try>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gave_up: Option<String>,
    pub lock: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<String>,
    pub lock_wait_ms: Option<f64>,
    pub run_ms: Option<f64>,
    pub exit: Option<Exit>,
    pub verdict: Option<String>,
    pub quota: Option<Quotas>,
    /// In a record `lift`: the verb for which it was lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lifts: Vec<Lift>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lift_refused: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovered: Vec<String>,
    pub init_pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nr_throttled: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_us: Option<u64>,
    /// In mode "observe".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttling: Option<Throttling>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodNames>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<Hook>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// In ms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stages {
    pub prepare: Option<f64>,
    pub lock: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<f64>,
    pub run: Option<f64>,
}

/// One attempt of several, or one that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Try {
    pub ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<f64>,
}

/// What was lifted above the fair scheduling class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lift {
    pub whose: Option<String>,
    pub threads: Option<u64>,
    pub cpu_ms: Option<f64>,
    pub ms: Option<f64>,
    pub ended: Option<String>,
}

/// What throttling has cost an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Throttling {
    pub throttled_ms: Option<f64>,
    pub nr_periods: Option<u64>,
    pub nr_throttled: Option<u64>,
    pub cpu_ms: Option<f64>,
    pub explained_ms: Option<f64>,
}

/// What frostlock did as a hook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hook {
    pub stage: Option<String>,
    pub found: Option<String>,
    pub wait_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quotas {
    pub container: Option<Quota>,
    pub pod: Option<Quota>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// `None` means no limit.
    pub quota_us: Option<i64>,
    pub period_us: Option<u64>,
}
