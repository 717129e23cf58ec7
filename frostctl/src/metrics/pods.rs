//! What single pods were helped with: few, and only for a while, as every pod is a series.

use std::collections::BTreeMap;

use frostlock::journal::reader::Record;
use serde::{Deserialize, Serialize};

use super::counters::{gained_us, retries};

/// A node has 110 pods by default; of more, those that were helped last.
pub(crate) const MOST: usize = 200;

/// Kubernetes allows 63 and 253; a foreign record must not carry more into every scrape.
const NAME_CHARS: usize = 253;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) retries: u64,
    pub(crate) refills: u64,
    pub(crate) refill_us: u64,
    /// When we last counted something, on CLOCK_BOOTTIME of the checkpoint's boot.
    counted_ns: u64,
}

/// By namespace, then name: a pod that comes back under its name goes on counting.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Pods(BTreeMap<String, BTreeMap<String, Pod>>);

impl Pods {
    pub(crate) fn add(&mut self, record: &Record, now_ns: u64) {
        let (retries, refills) = (retries(record), record.refills.len() as u64);
        let names = record.pod.as_ref().map(|pod| (&pod.namespace, &pod.name));
        let Some((Some(namespace), Some(name))) = names else { return };
        if retries + refills == 0 {
            return;
        }
        let short = |name: &str| name.chars().take(NAME_CHARS).collect::<String>();
        let pod = self.0.entry(short(namespace)).or_default().entry(short(name)).or_default();
        pod.retries += retries;
        pod.refills += refills;
        pod.refill_us += gained_us(record);
        pod.counted_ns = now_ns;
        // A first reading of a long journal may bring thousands.
        if self.iter().count() > 2 * MOST {
            self.keep_latest();
        }
    }

    /// After a reboot the clock of `counted_ns` begins anew.
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
        // Of those counted in one reading, as many as there is room for.
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

    fn record(pod: &str) -> Record {
        serde_json::from_str(&format!(
            r#"{{"v":1,"attempts":2,"pod":{{"namespace":"n","name":"{pod}"}},
            "refills":[{{"gained_ms":10}}]}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_pod_that_needed_nothing_is_no_series() {
        let mut pods = Pods::default();
        let quiet = r#"{"v":1,"attempts":1,"pod":{"namespace":"n","name":"p"}}"#;
        pods.add(&serde_json::from_str(quiet).unwrap(), 1);
        assert_eq!(pods.iter().count(), 0);
    }

    #[test]
    fn the_last_ones_stay() {
        let mut pods = Pods::default();
        for n in 0..1000 {
            pods.add(&record(&format!("p{n}")), n);
        }
        pods.forget(1000, u64::MAX);
        assert_eq!(pods.iter().count(), MOST);
        assert!(pods.iter().all(|(_, _, pod)| pod.counted_ns >= 800));
        for n in 0..1000 {
            pods.add(&record(&format!("q{n}")), 2000);
        }
        pods.forget(2000, u64::MAX);
        assert_eq!(pods.iter().count(), MOST, "all of one reading");
    }

    #[test]
    fn a_pod_is_forgotten_in_time() {
        let mut pods = Pods::default();
        pods.add(&record("old"), 100);
        pods.add(&record("new"), 200);
        pods.forget(301, 200);
        assert_eq!(pods.iter().map(|(_, name, _)| name).collect::<Vec<_>>(), ["new"]);
        pods.rebooted();
        pods.forget(150, 200);
        assert_eq!(pods.iter().count(), 1, "it has the time from the boot on");
    }
}
