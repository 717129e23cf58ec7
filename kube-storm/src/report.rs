//! The table of both sides, with a pair of columns for each load, and its result.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::plan::{BUSY, ENDING, IDLE};
use crate::pod::{Done, Step};
use crate::side::{Kind, Load, Side, by_label};

const NAME_CHARS: usize = 44;
const CELL_CHARS: usize = 13;
/// How many failure texts to show for each load and side.
const MOST_TEXTS: usize = 12;
/// The length of a text's beginning, and of its end, which has the cause.
const TEXT_CHARS: usize = 160;

/// A failed probe, by kubelet's names.
const FAILED: [&str; 2] = ["Readiness failed", "Liveness failed"];

pub(crate) fn table(sides: &[Side; 2]) -> String {
    let mut table = Table { text: String::new(), sides };
    table.head();
    for (kind, what) in [
        (IDLE, "idle pods"),
        (BUSY, "pods with busy loops"),
        (ENDING, "pods that end by themselves"),
    ] {
        table.of_kind(what, kind, |kind| kind.pods.to_string());
        table.of_kind("  probes", kind, |kind| kind.probes.values().sum::<u64>().to_string());
        table.of_kind("  failed readiness probes", kind, |kind| failed(kind, "Readiness"));
        table.of_kind("  failed liveness probes", kind, |kind| failed(kind, "Liveness"));
        table.of_kind("  readiness flaps", kind, |kind| kind.flaps.to_string());
        table.of_kind("  restarts, unplanned", kind, |kind| kind.restarts.to_string());
        table.of_kind("  restarts, planned", kind, |kind| kind.planned_restarts.to_string());
    }
    for (step, what) in [
        (Step::Start, "pod start until Ready"),
        (Step::Resize, "resize until in force"),
        (Step::Delete, "delete until gone"),
    ] {
        table.row(what, |load| {
            load.done.iter().filter(|done| done.step == step).count().to_string()
        });
        table.row("  not within 60 s", |load| late(load, step).to_string());
        table.row("  p50, p95 s", |load| {
            let times = times(&load.done, step);
            format!("{:.1} {:.1}", quantile(&times, 0.5), quantile(&times, 0.95))
        });
    }
    table.row("CPU, each in cores", |_| String::new());
    for group in groups(sides) {
        table.row(&format!("  {group}"), |load| {
            format!("{:.3}", load.cpu.get(&group).copied().unwrap_or_default() / load.seconds)
        });
    }
    table.row("kubelet's own metrics", |_| String::new());
    table
        .mean("  kubelet_pod_start_sli_duration_seconds", "kubelet_pod_start_sli_duration_seconds");
    table.mean("  kubelet_pod_start_duration_seconds", "kubelet_pod_start_duration_seconds");
    table.sum(
        "  kubelet_started_containers_errors_total",
        "kubelet_started_containers_errors_total",
    );
    table.sum("  kubelet_started_pods_errors_total", "kubelet_started_pods_errors_total");
    table.operations();
    table.texts();
    table.text
}

#[derive(Debug)]
struct Table<'a> {
    text: String,
    sides: &'a [Side; 2],
}

impl Table<'_> {
    fn head(&mut self) {
        let first = &self.sides[0];
        self.line(&format!(
            "{} pods at a time, {} s a load, seed {}",
            first.pods, first.seconds, first.seed
        ));
        self.row("", |load| format!("load {}", load.threads));
        let labels = self.sides.each_ref().map(|side| side.label.clone());
        let mut line = format!("{:NAME_CHARS$}", "");
        for _ in &first.loads {
            for label in &labels {
                let _ = write!(line, "{label:>CELL_CHARS$}");
            }
        }
        self.line(&line);
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// Bare and wrapped beside each other, one load after the other.
    fn row(&mut self, name: &str, cell: impl Fn(&Load) -> String) {
        let mut line = format!("{name:NAME_CHARS$}");
        for (bare, wrapped) in self.sides[0].loads.iter().zip(&self.sides[1].loads) {
            for load in [bare, wrapped] {
                let _ = write!(line, "{:>CELL_CHARS$}", cell(load));
            }
        }
        self.line(&line);
    }

    fn of_kind(&mut self, name: &str, kind: &str, cell: impl Fn(&Kind) -> String) {
        self.row(name, |load| load.kinds.get(kind).map_or("-".to_owned(), &cell));
    }

    fn sum(&mut self, name: &str, metric: &str) {
        self.row(name, |load| sum(load, metric).to_string());
    }

    fn mean(&mut self, name: &str, metric: &str) {
        self.row(&format!("{name}, mean"), |load| {
            let count = sum(load, &format!("{metric}_count"));
            let all = sum(load, &format!("{metric}_sum"));
            if count > 0.0 { format!("{:.2}", all / count) } else { "-".to_owned() }
        });
    }

    /// Each operation that kubelet asked of the runtime: its count, its errors, the mean time.
    fn operations(&mut self) {
        const TOTAL: &str = "kubelet_runtime_operations_total";
        const ERRORS: &str = "kubelet_runtime_operations_errors_total";
        const SUM: &str = "kubelet_runtime_operations_duration_seconds_sum";
        const COUNT: &str = "kubelet_runtime_operations_duration_seconds_count";
        self.row("  kubelet_runtime_operations, errors, mean s", |_| String::new());
        for operation in [
            "run_podsandbox",
            "start_container",
            "exec_sync",
            "update_container",
            "stop_container",
            "stop_podsandbox",
        ] {
            self.row(&format!("    {operation}"), |load| {
                let of = |metric| {
                    let sums = by_label(&load.kubelet, metric, "operation_type");
                    sums.get(operation).copied().unwrap_or_default()
                };
                let mean = if of(COUNT) > 0.0 { of(SUM) / of(COUNT) } else { 0.0 };
                format!("{} {} {mean:.2}", of(TOTAL), of(ERRORS))
            });
        }
    }

    fn texts(&mut self) {
        for side in self.sides {
            for load in &side.loads {
                let mut texts: Vec<_> = load.warnings.iter().collect();
                texts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
                self.line(&format!(
                    "\n{}, load {}: {} warnings",
                    side.label,
                    load.threads,
                    texts.len()
                ));
                for (text, count) in texts.into_iter().take(MOST_TEXTS) {
                    self.line(&format!("{count:6}  {}", shortened(text)));
                }
            }
        }
    }
}

fn shortened(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= 2 * TEXT_CHARS {
        return text.to_owned();
    }
    let (head, tail) = (&chars[..TEXT_CHARS], &chars[chars.len() - TEXT_CHARS..]);
    format!("{} ... {}", head.iter().collect::<String>(), tail.iter().collect::<String>())
}

fn groups(sides: &[Side; 2]) -> Vec<String> {
    let all: BTreeMap<_, _> =
        sides.iter().flat_map(|side| &side.loads).flat_map(|load| &load.cpu).collect();
    all.into_keys().cloned().collect()
}

fn sum(load: &Load, metric: &str) -> f64 {
    // The sum of nothing is -0.
    0.0 + by_label(&load.kubelet, metric, "").values().sum::<f64>()
}

fn failed(kind: &Kind, probe: &str) -> String {
    kind.probes.get(&format!("{probe} failed")).copied().unwrap_or_default().to_string()
}

fn failures(load: &Load) -> u64 {
    // A container that ends also ends its probe's command, and kubelet counts a failure.
    let of_kind = |(name, kind): (&String, &Kind)| {
        let probes: u64 = FAILED.iter().filter_map(|what| kind.probes.get(*what)).sum();
        kind.flaps + kind.restarts + if name == ENDING { 0 } else { probes }
    };
    let of_kinds: u64 = load.kinds.iter().map(of_kind).sum();
    let steps = [Step::Start, Step::Resize, Step::Delete];
    let late: usize = steps.iter().map(|step| late(load, *step)).sum();
    of_kinds + late as u64
}

fn late(load: &Load, step: Step) -> usize {
    load.done.iter().filter(|done| done.step == step && done.seconds.is_none()).count()
}

/// A step that was not done counts as infinitely long.
fn times(done: &[Done], step: Step) -> Vec<f64> {
    let of_step = done.iter().filter(|done| done.step == step);
    let mut times: Vec<f64> = of_step.map(|done| done.seconds.unwrap_or(f64::INFINITY)).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// By nearest rank.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    // A rank is small and not negative.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

pub(crate) fn verdict(bare: &Side, wrapped: &Side) -> (String, bool) {
    let count = |side: &Side| side.loads.iter().map(failures).sum::<u64>();
    let text =
        format!("failures: {} {}, {} {}", bare.label, count(bare), wrapped.label, count(wrapped));
    if count(bare) == 0 {
        return (format!("{text}\nnot shown: nothing failed on the first side"), false);
    }
    (text, count(wrapped) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(label: &str, failed: u64) -> Side {
        let probes = BTreeMap::from([("Readiness failed".to_owned(), failed)]);
        let kind = Kind { pods: 1, probes, ..Kind::default() };
        let done = vec![
            Done { step: Step::Start, seconds: Some(1.0) },
            Done { step: Step::Start, seconds: Some(3.0) },
        ];
        let load = Load {
            threads: 2,
            seconds: 10.0,
            done,
            kinds: BTreeMap::from([("idle".to_owned(), kind)]),
            cpu: BTreeMap::from([("node".to_owned(), 5.0)]),
            kubelet: BTreeMap::new(),
            warnings: BTreeMap::new(),
        };
        Side { label: label.to_owned(), seconds: 10, pods: 1, seed: 1, loads: vec![load] }
    }

    #[test]
    fn the_second_side_must_not_fail_and_the_first_must() {
        assert!(verdict(&side("bare", 3), &side("frostlock", 0)).1);
        assert!(!verdict(&side("bare", 3), &side("frostlock", 1)).1);
        let (text, holds) = verdict(&side("bare", 0), &side("frostlock", 0));
        assert!(!holds && text.contains("not shown"), "{text}");
    }

    #[test]
    fn the_table_has_both_sides() {
        let text = table(&[side("bare", 3), side("frostlock", 0)]);
        let row = text.lines().find(|line| line.contains("failed readiness")).unwrap();
        assert_eq!(row.split_whitespace().rev().take(2).collect::<Vec<_>>(), ["0", "3"], "{text}");
        assert!(text.contains("1.0 3.0") && text.contains("0.500"), "{text}");
    }
}
