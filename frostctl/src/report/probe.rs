//! The probe settings that would have been enough, with their arithmetic.

use serde::Serialize;

use super::tally::percentile;
use crate::output::count;

/// A start takes longer on a busy node.
const MARGIN: f64 = 1.5;

/// If no start ever finished, only one thing is known: the kill came too early.
const BEYOND_THE_KILL: f64 = 3.0;

/// A probe runs at least this often within the time, so that a finished start is seen soon.
const ASKS: f64 = 6.0;

const PERIODS_S: [u64; 4] = [10, 5, 2, 1];

/// The time to give a container for its start.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Budget {
    pub(crate) seconds: u64,
    /// No start was seen to finish.
    pub(crate) is_lower_bound: bool,
    pub(crate) arithmetic: Vec<String>,
    pub(crate) yaml: String,
}

/// From the seconds to readiness of starts that finished, and the ages at the kill of those that
/// did not.
pub(crate) fn budget(ready_s: &[f64], kills_s: &[f64], slowest_exec_ms: f64) -> Option<Budget> {
    let mut ready = ready_s.to_vec();
    ready.sort_by(f64::total_cmp);
    let oldest = kills_s.iter().copied().fold(0.0, f64::max);
    let (needed, basis, is_lower_bound) = match percentile(&ready, 0.99) {
        // Killed starts had already taken longer than any that finished, and nobody knows how much
        // longer.
        Some(p99) if oldest > p99 => {
            let basis = format!(
                "{} measured, {p99:.1} s at most, but others were killed unready at {oldest:.1} s: a \
                 lower bound, {oldest:.1} s x {MARGIN} (margin) = {:.1} s",
                count(ready.len() as u64, "start", "starts"),
                oldest * MARGIN
            );
            (oldest * MARGIN, basis, true)
        }
        Some(p99) => {
            let which = if ready.len() < 100 { "longest" } else { "p99" };
            let basis = format!(
                "{which} of {} measured: {p99:.1} s x {MARGIN} (margin) = {:.1} s",
                count(ready.len() as u64, "start", "starts"),
                p99 * MARGIN
            );
            (p99 * MARGIN, basis, false)
        }
        None if oldest > 0.0 => {
            let needed = oldest * BEYOND_THE_KILL;
            let basis = format!(
                "no start has finished: a lower bound, greatest age at the kill {oldest:.1} s x \
                 {BEYOND_THE_KILL} = {needed:.1} s; run report again after a start that finished"
            );
            (needed, basis, true)
        }
        None => return None,
    };
    let period = PERIODS_S.into_iter().find(|period| *period as f64 * ASKS <= needed).unwrap_or(1);
    let failures = ((needed / period as f64).ceil() as u64).max(1);
    let seconds = period * failures;
    let mut arithmetic = vec![
        basis,
        format!(
            "periodSeconds {period} x failureThreshold {failures} = {seconds} s >= {needed:.1} s"
        ),
    ];
    let timeout = (slowest_exec_ms > 0.0).then(|| {
        let timeout = ((slowest_exec_ms * 2.0 / 1000.0).ceil() as u64).max(1);
        arithmetic.push(format!(
            "timeoutSeconds {timeout}: an exec took {slowest_exec_ms:.0} ms to start its command at \
             most, x 2, in whole seconds; add what the command itself needs"
        ));
        timeout
    });
    let yaml = yaml(period, failures, timeout, is_lower_bound, seconds);
    Some(Budget { seconds, is_lower_bound, arithmetic, yaml })
}

fn yaml(period: u64, failures: u64, timeout: Option<u64>, is_bound: bool, seconds: u64) -> String {
    let timeout = timeout.map_or_else(String::new, |s| format!("  timeoutSeconds: {s}\n"));
    let bound = if is_bound { ", a lower bound" } else { "" };
    format!(
        "startupProbe:\n  # the check of the livenessProbe: exec, httpGet, tcpSocket or grpc\n  \
         periodSeconds: {period}\n  failureThreshold: {failures}  # {period} s x {failures} = \
         {seconds} s{bound}\n{timeout}livenessProbe:\n  # asked only after the startupProbe has \
         succeeded; without one: initialDelaySeconds: {seconds}\n  periodSeconds: 10\n  \
         failureThreshold: 3\n{timeout}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_measured_starts() {
        let budget = budget(&[19.0, 21.3, 20.0], &[10.0, 10.2], 80.0).unwrap();
        // 21.3 x 1.5 = 31.95
        assert_eq!((budget.seconds, budget.is_lower_bound), (35, false));
        assert!(budget.yaml.contains("periodSeconds: 5\n  failureThreshold: 7"), "{}", budget.yaml);
        assert!(budget.yaml.contains("timeoutSeconds: 1\n"));
        assert!(
            budget.arithmetic[0].contains("21.3 s x 1.5 (margin) = 31.9 s")
                || budget.arithmetic[0].contains("21.3 s x 1.5 (margin) = 32.0 s"),
            "{budget:?}"
        );
    }

    #[test]
    fn without_one_three_times_the_age_at_the_kill() {
        let budget = budget(&[], &[300.0, 302.0], 0.0).unwrap();
        assert_eq!((budget.seconds, budget.is_lower_bound), (910, true));
        assert!(budget.yaml.contains("a lower bound") && !budget.yaml.contains("timeout"));
        assert!(budget.arithmetic[0].contains("302.0 s x 3 = 906.0 s"), "{budget:?}");
    }

    #[test]
    fn a_kill_later_than_every_start_that_finished() {
        let budget = budget(&[172.0], &[300.0, 302.0], 0.0).unwrap();
        assert!(budget.seconds >= 453 && budget.is_lower_bound, "{budget:?}");
    }

    #[test]
    fn nothing_is_made_up() {
        assert!(budget(&[], &[], 50.0).is_none());
    }

    #[test]
    fn what_is_given_holds_what_is_needed() {
        for tenths in 1..5000 {
            let needed = f64::from(tenths) / 10.0;
            let budget = budget(&[needed], &[], 0.0).unwrap();
            assert!(budget.seconds as f64 >= needed * 1.5 - 1e-9, "{needed} {budget:?}");
            assert!(budget.seconds as f64 <= needed * 1.5 * 1.2 + 1.0, "{needed} {budget:?}");
        }
    }
}
