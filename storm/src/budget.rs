//! What frostlock's journal says about the budget.

use std::collections::BTreeMap;

use journal::reader::history;
use journal::record::Record;
use serde::{Deserialize, Serialize};

use crate::options::Options;
use crate::plan::{Plan, Weather};

/// The end of a lift whose pod's account was spent (src/lift/report.rs).
const SPENT: &str = "pod limit";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Budget {
    pub(crate) operations: u64,
    /// By verb, how lifts ended and in how many operations.
    pub(crate) endings: BTreeMap<String, BTreeMap<String, u64>>,
    /// Retries, by failure.
    pub(crate) retried: BTreeMap<String, u64>,
    /// By slot, with `--sweep`.
    pub(crate) pods: Vec<PodBudget>,
}

/// What one slot's pods have used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodBudget {
    pub(crate) threads: u32,
    pub(crate) probe_period: f64,
    pub(crate) execs: u64,
    pub(crate) execs_spent: u64,
    pub(crate) updates: u64,
    pub(crate) updates_spent: u64,
    /// The CPU time of lifted commands, over all operations.
    pub(crate) gained_ms: f64,
    pub(crate) exec_gained_ms: f64,
}

impl Budget {
    pub(crate) fn spent(&self, verb: &str) -> u64 {
        self.endings.get(verb).and_then(|endings| endings.get(SPENT)).copied().unwrap_or(0)
    }
}

pub(crate) fn read(options: &Options) -> anyhow::Result<Option<Budget>> {
    if !options.journal.exists() {
        return Ok(None);
    }
    let mut budget = Budget { pods: pods(options), ..Budget::default() };
    let uids = uids(options);
    for record in history(&options.journal) {
        // A line torn by a kill is not a record.
        let Ok(record) = record else { continue };
        let verb = record.verb.clone().unwrap_or_default();
        budget.operations += 1;
        for attempt in &record.tries {
            if let (Some(failure), Some(_)) = (&attempt.failure, attempt.delay_ms) {
                *budget.retried.entry(format!("{verb}: {failure}")).or_default() += 1;
            }
        }
        let endings = budget.endings.entry(verb.clone()).or_default();
        for ending in ended(&record) {
            *endings.entry(ending).or_default() += 1;
        }
        let cgroup = record.cgroup.as_deref().unwrap_or_default();
        if let Some(slot) = uids.iter().position(|uid| cgroup.contains(uid.as_str())) {
            budget.pods[slot].add(&verb, &record);
        }
    }
    Ok(Some(budget))
}

/// How the lifts of one operation ended, each way once.
fn ended(record: &Record) -> Vec<String> {
    let mut all: Vec<_> = record.lifts.iter().filter_map(|lift| lift.ended.clone()).collect();
    all.sort();
    all.dedup();
    all
}

impl PodBudget {
    fn add(&mut self, verb: &str, record: &Record) {
        let spent = u64::from(ended(record).iter().any(|ending| ending == SPENT));
        let programs = record.lifts.iter().filter(|lift| lift.whose.as_deref() == Some("program"));
        let gained: f64 = programs.filter_map(|lift| lift.cpu_ms).sum();
        self.gained_ms += gained;
        match verb {
            "exec" => {
                self.execs += 1;
                self.execs_spent += spent;
                self.exec_gained_ms += gained;
            }
            "update" => {
                self.updates += 1;
                self.updates_spent += spent;
            }
            _ => {}
        }
    }
}

fn pods(options: &Options) -> Vec<PodBudget> {
    let slots = if options.sweep.is_some() { options.pods } else { 0 };
    let of = |slot| PodBudget {
        threads: options.threads_of(slot),
        probe_period: options.probe_period_of(slot),
        ..PodBudget::default()
    };
    (0..slots).map(of).collect()
}

/// As written in the slice's name.
fn uids(options: &Options) -> Vec<String> {
    let weather: Weather = options.weather();
    let slots = if options.sweep.is_some() { options.pods } else { 0 };
    (0..slots).map(|slot| Plan::of(weather, slot, 0).uid.replace('-', "_")).collect()
}
