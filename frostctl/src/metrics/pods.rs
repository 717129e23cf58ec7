//! Help given to single pods: few pods, and only for a while, since each pod is a series.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::counters::{program_us, retries};
use crate::journal::Record;

/// A node has 110 pods by default; of more, those that were helped last are kept.
pub(crate) const MOST: usize = 200;

/// Kubernetes allows 63 and 253 characters; a foreign record must not bring more into every scrape.
const NAME_CHARS: usize = 253;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) retries: u64,
    /// The CPU time of its own programs while they were lifted.
    pub(crate) program_us: u64,
    /// When something was last counted, on CLOCK_BOOTTIME of the checkpoint's boot.
    counted_ns: u64,
}

/// By namespace, then name: a pod that is recreated with its name continues its counters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Pods(BTreeMap<String, BTreeMap<String, Pod>>);

impl Pods {
    pub(crate) fn add(&mut self, record: &Record<'_>, now_ns: u64) {
        let (namespace, name) = (&record.pod.namespace, &record.pod.name);
        let retries = if record.is_late_lift() { 0 } else { retries(record) };
        let program_us = program_us(record);
        if namespace.is_empty() || name.is_empty() || retries + program_us == 0 {
            return;
        }
        let short = |name: &str| name.chars().take(NAME_CHARS).collect::<String>();
        let pod = self.0.entry(short(namespace)).or_default().entry(short(name)).or_default();
        pod.retries += retries;
        pod.program_us += program_us;
        pod.counted_ns = now_ns;
        // A first reading of a long journal may bring thousands.
        if self.iter().count() > 2 * MOST {
            self.keep_latest();
        }
    }

    /// After a reboot, the clock of `counted_ns` starts again.
    pub(crate) fn rebooted(&mut self) {
        self.0.values_mut().flat_map(BTreeMap::values_mut).for_each(|pod| pod.counted_ns = 0);
    }

    pub(crate) fn forget(&mut self, now_ns: u64, after_ns: u64) {
        let oldest = now_ns.saturating_sub(after_ns);
        self.retain(|pod| pod.counted_ns >= oldest);
        self.keep_latest();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str, &Pod)> {
        self.0.iter().flat_map(|(namespace, pods)| {
            pods.iter().map(move |(name, pod)| (namespace.as_str(), name.as_str(), pod))
        })
    }

    fn keep_latest(&mut self) {
        let mut times: Vec<u64> = self.iter().map(|(_, _, pod)| pod.counted_ns).collect();
        if times.len() <= MOST {
            return;
        }
        times.sort_unstable_by(|one, other| other.cmp(one));
        let last = times.get(MOST - 1).copied().unwrap_or_default();
        // Of pods with the same time, as many as fit.
        let mut room = MOST - times.iter().filter(|&&time| time > last).count();
        self.retain(|pod| {
            let equal = pod.counted_ns == last && room > 0;
            room -= usize::from(equal);
            equal || pod.counted_ns > last
        });
    }

    fn retain(&mut self, mut keep: impl FnMut(&Pod) -> bool) {
        self.0.values_mut().for_each(|pods| pods.retain(|_, pod| keep(pod)));
        self.0.retain(|_, pods| !pods.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(pods: &mut Pods, pod: &str, now_ns: u64) {
        let line = format!(
            r#"{{"v":1,"attempts":2,"pod":{{"namespace":"n","name":"{pod}"}},
            "lifts":[{{"whose":"program","cpu_ms":10}},{{"whose":"runtime","cpu_ms":5}}]}}"#
        );
        pods.add(&serde_json::from_str(&line).unwrap(), now_ns);
    }

    #[test]
    fn only_what_its_own_programs_had_is_a_pods() {
        let mut pods = Pods::default();
        add(&mut pods, "p", 1);
        let late = r#"{"v":1,"verb":"lift","of":"exec","attempts":9,"pod":{"namespace":"n","name":"p"},
            "lifts":[{"whose":"program","cpu_ms":2.5}]}"#;
        pods.add(&serde_json::from_str(late).unwrap(), 1);
        let (_, _, pod) = pods.iter().next().unwrap();
        assert_eq!((pod.retries, pod.program_us), (1, 12_500));
    }

    #[test]
    fn a_pod_that_needed_nothing_is_no_series() {
        let mut pods = Pods::default();
        let quiet = r#"{"v":1,"attempts":1,"pod":{"namespace":"n","name":"p"},
            "lifts":[{"whose":"runtime","cpu_ms":5}]}"#;
        pods.add(&serde_json::from_str(quiet).unwrap(), 1);
        assert_eq!(pods.iter().count(), 0);
    }

    #[test]
    fn the_last_ones_stay() {
        let mut pods = Pods::default();
        for n in 0..1000 {
            add(&mut pods, &format!("p{n}"), n);
        }
        pods.forget(1000, u64::MAX);
        assert_eq!(pods.iter().count(), MOST);
        assert!(pods.iter().all(|(_, _, pod)| pod.counted_ns >= 800));
        for n in 0..1000 {
            add(&mut pods, &format!("q{n}"), 2000);
        }
        pods.forget(2000, u64::MAX);
        assert_eq!(pods.iter().count(), MOST, "all of one reading");
    }

    #[test]
    fn a_pod_is_forgotten_in_time() {
        let mut pods = Pods::default();
        add(&mut pods, "old", 100);
        add(&mut pods, "new", 200);
        pods.forget(301, 200);
        assert_eq!(pods.iter().map(|(_, name, _)| name).collect::<Vec<_>>(), ["new"]);
        pods.rebooted();
        pods.forget(150, 200);
        assert_eq!(pods.iter().count(), 1, "it has the time from the boot on");
    }
}
