//! kubelet's own metrics: Prometheus' text format, as far as kubelet uses it.

use std::collections::BTreeMap;

use crate::api::Api;

/// One series: its name with its labels, as in the text.
pub(crate) type Samples = BTreeMap<String, f64>;

pub(crate) fn metrics(api: &Api, node: &str) -> anyhow::Result<Samples> {
    Ok(parse(&api.text(&format!("/api/v1/nodes/{node}/proxy/metrics"))?))
}

pub(crate) fn probes(api: &Api, node: &str) -> anyhow::Result<Samples> {
    Ok(parse(&api.text(&format!("/api/v1/nodes/{node}/proxy/metrics/probes"))?))
}

fn parse(text: &str) -> Samples {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// The increase since `before`, for the series that we report.
pub(crate) fn difference(before: &Samples, after: &Samples) -> Samples {
    after
        .iter()
        .filter(|(series, _)| QUOTED.contains(&name(series)))
        .map(|(series, value)| {
            (series.clone(), value - before.get(series).copied().unwrap_or_default())
        })
        .filter(|(_, value)| *value != 0.0)
        .collect()
}

const QUOTED: [&str; 11] = [
    "kubelet_pod_start_sli_duration_seconds_sum",
    "kubelet_pod_start_sli_duration_seconds_count",
    "kubelet_pod_start_duration_seconds_sum",
    "kubelet_pod_start_duration_seconds_count",
    "kubelet_started_containers_errors_total",
    "kubelet_started_pods_errors_total",
    "kubelet_runtime_operations_errors_total",
    "kubelet_runtime_operations_total",
    "kubelet_runtime_operations_duration_seconds_sum",
    "kubelet_runtime_operations_duration_seconds_count",
    "kubelet_cgroup_manager_duration_seconds_count",
];

pub(crate) fn name(series: &str) -> &str {
    series.split_once('{').map_or(series, |(name, _)| name)
}

/// The value of a label. The values that we need from kubelet contain no quotes.
pub(crate) fn label<'a>(series: &'a str, label: &str) -> Option<&'a str> {
    let (_, labels) = series.split_once('{')?;
    labels.trim_end_matches('}').split("\",").find_map(|pair| {
        let (key, value) = pair.split_once("=\"")?;
        (key == label).then(|| value.trim_end_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP prober_probe_total x\n\
        prober_probe_total{container=\"a\",pod=\"idle-0-1\",probe_type=\"Liveness\",result=\"failed\"} 3\n\
        kubelet_started_pods_errors_total 2\n";

    #[test]
    fn a_series_has_a_name_and_labels() {
        let samples = parse(TEXT);
        let (series, value) = samples.iter().find(|(_, value)| **value == 3.0).unwrap();
        assert_eq!(name(series), "prober_probe_total");
        assert_eq!(label(series, "pod"), Some("idle-0-1"));
        assert_eq!(label(series, "result"), Some("failed"));
        assert_eq!(label(series, "none"), None);
        assert!(*value > 0.0);
    }

    #[test]
    fn what_has_not_changed_is_not_quoted() {
        let samples = parse(TEXT);
        assert_eq!(difference(&Samples::new(), &samples).len(), 1);
        assert!(difference(&samples, &samples).is_empty());
    }
}
