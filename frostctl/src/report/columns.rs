//! The tables of a report, the same for a terminal and for the page.

use super::tally::{Pod, Verb};

/// A head, and what a row has below it.
pub(super) type Column<T> = (&'static str, fn(&T) -> String);

pub(super) const VERBS: [Column<Verb>; 12] = [
    ("VERB", |it| it.verb.clone()),
    ("COUNT", |it| it.count.to_string()),
    ("FAILED", |it| it.failed().to_string()),
    ("RETRIES", |it| it.retries.to_string()),
    ("LIFTS", |it| it.lifts.to_string()),
    ("LIFTED/ms", |it| ms(it.lifted_ms)),
    ("PROGRAM/ms", |it| ms(it.program_ms)),
    ("P50/ms", |it| ms(it.p50_ms)),
    ("P95/ms", |it| ms(it.p95_ms)),
    ("P99/ms", |it| ms(it.p99_ms)),
    ("MAX/ms", |it| ms(it.max_ms)),
    ("FAILURES", causes),
];

pub(super) const PODS: [Column<Pod>; 9] = [
    ("POD", |it| it.pod.clone()),
    ("OPERATIONS", |it| it.operations.to_string()),
    ("FAILED", |it| it.failed.to_string()),
    ("RETRIES", |it| it.retries.to_string()),
    ("LIFTED/ms", |it| ms(it.lifted_ms)),
    ("PROGRAM/ms", |it| ms(it.program_ms)),
    ("MEAN/ms", |it| ms(it.mean_ms)),
    ("MAX/ms", |it| ms(it.max_ms)),
    ("SLOWEST", |it| it.slowest.clone()),
];

fn ms(ms: f64) -> String {
    format!("{ms:.1}")
}

fn causes(verb: &Verb) -> String {
    let causes = verb.failures.iter().map(|(cause, count)| format!("{cause} {count}"));
    causes.collect::<Vec<_>>().join(", ")
}
