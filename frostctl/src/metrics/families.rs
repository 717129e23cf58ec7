//! The metrics by name, as Prometheus reads them. docs/metrics.md has the same table.

use anyhow::Context;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as HistogramValue, LabelPair, Metric, MetricFamily,
    MetricType,
};
use prometheus::{Encoder, TextEncoder};

use super::counters::{BOUNDS_S, By, Histogram};
use super::snapshot::Snapshot;

/// The values of the labels, and that of the metric.
type Row<T> = (Vec<String>, T);

/// The kind of a family, and where its rows come from.
enum Rows {
    Counts(fn(&Snapshot) -> Vec<Row<u64>>),
    /// In us.
    Seconds(fn(&Snapshot) -> Vec<Row<u64>>),
    Gauges(fn(&Snapshot) -> Vec<Row<f64>>),
    Histograms(fn(&Snapshot) -> Vec<Row<Histogram>>),
}

struct Family {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    rows: Rows,
}

const FAMILIES: &[Family] = &[
    Family {
        name: "frostlock_build_info",
        help: "1, with the version of frostctl.",
        labels: &["version"],
        rows: Rows::Gauges(|_| vec![(vec![env!("CARGO_PKG_VERSION").to_owned()], 1.0)]),
    },
    Family {
        name: "frostlock_operations_total",
        help: "Operations of the runtime that have ended.",
        labels: &["verb", "verdict"],
        rows: Rows::Counts(|it| by_two(&it.counters.operations)),
    },
    Family {
        name: "frostlock_operation_duration_seconds",
        help: "What the caller waited, lock and delays between attempts included.",
        labels: &["verb"],
        rows: Rows::Histograms(|it| by_one(&it.counters.durations)),
    },
    Family {
        name: "frostlock_lock_wait_seconds",
        help: "The wait for the lock of the cgroup, by what came of it.",
        labels: &["lock"],
        rows: Rows::Histograms(|it| by_one(&it.counters.lock_waits)),
    },
    Family {
        name: "frostlock_retries_total",
        help: "Attempts beyond the first.",
        labels: &["verb"],
        rows: Rows::Counts(|it| by_one(&it.counters.retries)),
    },
    Family {
        name: "frostlock_failed_attempts_total",
        help: "Attempts that failed, retried ones included.",
        labels: &["verb", "failure"],
        rows: Rows::Counts(|it| by_two(&it.counters.failures)),
    },
    Family {
        name: "frostlock_given_up_total",
        help: "Failures that were not retried, or not again.",
        labels: &["reason"],
        rows: Rows::Counts(|it| by_one(&it.counters.given_up)),
    },
    Family {
        name: "frostlock_lifts_total",
        help: "Lifts of threads that waited for a CPU, by the threads' owner and how the lift ended.",
        labels: &["whose", "ended"],
        rows: Rows::Counts(|it| by_two(&it.counters.lifts)),
    },
    Family {
        name: "frostlock_lifted_threads_total",
        help: "Threads that were lifted.",
        labels: &["whose"],
        rows: Rows::Counts(|it| by_one(&it.counters.lifted_threads)),
    },
    Family {
        name: "frostlock_lifted_cpu_seconds_total",
        help: "CPU time that threads had while they were lifted.",
        labels: &["whose"],
        rows: Rows::Seconds(|it| by_one(&it.counters.lifted_us)),
    },
    Family {
        name: "frostlock_lift_refused_total",
        help: "Operations in which threads waited and could not be lifted.",
        labels: &["reason"],
        rows: Rows::Counts(|it| by_one(&it.counters.lift_refused)),
    },
    Family {
        name: "frostlock_observed_throttled_seconds_total",
        help: "In mode observe: how long cgroups were throttled while their operations' runtimes worked.",
        labels: &["verb"],
        rows: Rows::Seconds(|it| by_one(&it.counters.throttled_us)),
    },
    Family {
        name: "frostlock_observed_explained_seconds_total",
        help: "In mode observe: at most this much of the operations' time is explained by throttling.",
        labels: &["verb"],
        rows: Rows::Seconds(|it| by_one(&it.counters.explained_us)),
    },
    Family {
        name: "frostlock_pod_retries_total",
        help: "Attempts beyond the first, of pods that were helped recently.",
        labels: &["namespace", "pod"],
        rows: Rows::Counts(|it| by_pod(it, |pod| pod.retries)),
    },
    Family {
        name: "frostlock_pod_lifted_program_cpu_seconds_total",
        help: "CPU time of lifted commands of the workload, of pods that were helped recently.",
        labels: &["namespace", "pod"],
        rows: Rows::Seconds(|it| by_pod(it, |pod| pod.program_us)),
    },
    Family {
        name: "frostlock_recovered_total",
        help: "Freezes and lifts that killed operations had left, and that were undone.",
        labels: &[],
        rows: Rows::Counts(|it| one(it.counters.recovered)),
    },
    Family {
        name: "frostlock_oom_kills_total",
        help: "Kills by the OOM killer in containers that were deleted since.",
        labels: &[],
        rows: Rows::Counts(|it| one(it.counters.oom_kills)),
    },
    Family {
        name: "frostlock_frozen_cgroups",
        help: "Cgroups that are frozen or to be frozen now; those below them are not counted.",
        labels: &["state"],
        rows: Rows::Gauges(frozen),
    },
    Family {
        name: "frostlock_divergences",
        help: "Containers whose state differs from what a runtime or an engine says.",
        labels: &["kind"],
        rows: Rows::Gauges(|it| {
            let kinds = it.divergences.iter().flatten();
            kinds.map(|(kind, n)| (vec![(*kind).to_owned()], *n as f64)).collect()
        }),
    },
    Family {
        name: "frostlock_off",
        help: "1 while the off switch is there and every command runs the bare runtime.",
        labels: &[],
        rows: Rows::Gauges(|it| one(f64::from(u8::from(it.off)))),
    },
    Family {
        name: "frostlock_journal_files",
        help: "Files of the journal that were there; 0 is no journal.",
        labels: &[],
        rows: Rows::Gauges(|it| one(it.journal_files as f64)),
    },
    Family {
        name: "frostlock_journal_skipped_lines_total",
        help: "Lines of the journal that are not records.",
        labels: &[],
        rows: Rows::Counts(|it| one(it.counters.skipped_lines)),
    },
    Family {
        name: "frostlock_journal_gaps_total",
        help: "Times the journal no longer had what was read last, so that records are missing.",
        labels: &[],
        rows: Rows::Counts(|it| one(it.counters.journal_gaps)),
    },
];

pub(crate) fn text(snapshot: &Snapshot) -> anyhow::Result<String> {
    let families: Vec<MetricFamily> = FAMILIES.iter().filter_map(|it| it.of(snapshot)).collect();
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text).context("cannot write the text format")?;
    Ok(String::from_utf8(text)?)
}

impl Family {
    /// `None` without rows: the format has no empty families.
    fn of(&self, snapshot: &Snapshot) -> Option<MetricFamily> {
        let metrics = match self.rows {
            Rows::Counts(rows) => self.metrics(rows(snapshot), |metric, count| {
                metric.set_counter(counter(count as f64));
            }),
            Rows::Seconds(rows) => self.metrics(rows(snapshot), |metric, us| {
                metric.set_counter(counter(seconds(us)));
            }),
            Rows::Gauges(rows) => self.metrics(rows(snapshot), |metric, number| {
                let mut gauge = Gauge::default();
                gauge.set_value(number);
                metric.set_gauge(gauge);
            }),
            Rows::Histograms(rows) => self.metrics(rows(snapshot), |metric, histogram| {
                metric.set_histogram(distribution(&histogram));
            }),
        };
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind());
        family.set_metric(metrics);
        (!family.get_metric().is_empty()).then_some(family)
    }

    fn kind(&self) -> MetricType {
        match self.rows {
            Rows::Counts(_) | Rows::Seconds(_) => MetricType::COUNTER,
            Rows::Gauges(_) => MetricType::GAUGE,
            Rows::Histograms(_) => MetricType::HISTOGRAM,
        }
    }

    fn metrics<T>(&self, rows: Vec<Row<T>>, set: impl Fn(&mut Metric, T)) -> Vec<Metric> {
        let metric = |(values, value): Row<T>| {
            let label = |(name, value): (&&str, String)| {
                let mut label = LabelPair::default();
                label.set_name((*name).to_owned());
                label.set_value(value);
                label
            };
            let mut metric =
                Metric::from_label(self.labels.iter().zip(values).map(label).collect());
            set(&mut metric, value);
            metric
        };
        rows.into_iter().map(metric).collect()
    }
}

fn counter(value: f64) -> Counter {
    let mut counter = Counter::default();
    counter.set_value(value);
    counter
}

fn distribution(histogram: &Histogram) -> HistogramValue {
    let mut below = 0;
    let buckets = BOUNDS_S.iter().zip(&histogram.buckets).map(|(bound, count)| {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(below);
        bucket
    });
    let mut value = HistogramValue::default();
    value.set_bucket(buckets.collect());
    value.set_sample_count(histogram.count);
    value.set_sample_sum(seconds(histogram.sum_us));
    value
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn one<T>(value: T) -> Vec<Row<T>> {
    vec![(Vec::new(), value)]
}

fn by_one<T: Clone>(by: &By<T>) -> Vec<Row<T>> {
    by.iter().map(|(label, value)| (vec![label.clone()], value.clone())).collect()
}

fn by_two(by: &By<By<u64>>) -> Vec<Row<u64>> {
    let rows =
        by.iter().flat_map(|(first, by)| by.iter().map(move |(second, n)| (first, second, n)));
    rows.map(|(first, second, n)| (vec![first.clone(), second.clone()], *n)).collect()
}

fn by_pod(snapshot: &Snapshot, value: fn(&super::pods::Pod) -> u64) -> Vec<Row<u64>> {
    let rows = snapshot.pods.iter();
    rows.map(|(namespace, name, pod)| (vec![namespace.to_owned(), name.to_owned()], value(pod)))
        .collect()
}

fn frozen(snapshot: &Snapshot) -> Vec<Row<f64>> {
    let Some(frozen) = snapshot.frozen else { return Vec::new() };
    let states = [("freezing", frozen.freezing), ("frozen", frozen.frozen)];
    states.map(|(state, n)| (vec![state.to_owned()], n as f64)).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn file(path: &str) -> String {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Every `frostlock_...` in a text, without a histogram's suffixes.
    fn names(text: &str) -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names = words.filter(|word| word.starts_with("frostlock_"));
        names
            .map(|name| match FAMILIES.iter().find(|it| part_of(it, name)) {
                Some(family) => family.name.to_owned(),
                None => name.to_owned(),
            })
            .collect()
    }

    fn part_of(family: &Family, name: &str) -> bool {
        family.kind() == MetricType::HISTOGRAM
            && ["_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| name.strip_suffix(suffix) == Some(family.name))
    }

    fn ours() -> BTreeSet<String> {
        FAMILIES.iter().map(|family| family.name.to_owned()).collect()
    }

    #[test]
    fn the_page_has_every_metric_and_no_other() {
        let page = file("docs/metrics.md");
        for family in FAMILIES {
            let kind = match family.kind() {
                MetricType::COUNTER => "counter",
                MetricType::HISTOGRAM => "histogram",
                _ => "gauge",
            };
            let labels: Vec<String> = family.labels.iter().map(|it| format!(" `{it}`")).collect();
            let row = format!("| `{}` | {kind} |{} |", family.name, labels.join(","));
            assert!(page.contains(&row), "docs/metrics.md lacks: {row}");
        }
        assert_eq!(names(&page), ours());
    }

    #[test]
    fn the_dashboard_and_the_rules_name_metrics_that_there_are() {
        let rules = file("deploy/prometheus/alerts.yml");
        let dashboard = file("deploy/grafana/frostlock.json");
        let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
        let mut expressions = Vec::new();
        expressions_of(&dashboard, &mut expressions);
        assert!(expressions.len() >= 8, "{expressions:?}");
        for text in expressions.iter().map(String::as_str).chain([rules.as_str()]) {
            let names = names(text);
            assert!(!names.is_empty(), "{text}");
            assert!(names.is_subset(&ours()), "{:?} in {text}", names.difference(&ours()));
        }
    }

    #[test]
    fn a_name_that_there_is_not_is_seen() {
        assert!(!names("rate(frostlock_lits_total[5m])").is_subset(&ours()));
        assert!(!names("frostlock_retries_total_bucket").is_subset(&ours()));
    }

    /// Panels have `expr`, variables `query`.
    fn expressions_of(value: &serde_json::Value, into: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => map.iter().for_each(|(key, value)| match value {
                serde_json::Value::String(text)
                    if key == "expr" || (key == "query" && text.contains('(')) =>
                {
                    into.push(text.clone());
                }
                _ => expressions_of(value, into),
            }),
            serde_json::Value::Array(list) => list.iter().for_each(|it| expressions_of(it, into)),
            _ => {}
        }
    }
}
