//! The measurements, in one table per test, and the claims that failed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cpu::Version;
use crate::load::Late;

#[derive(Debug, Clone)]
pub struct Took {
    pub time: Duration,
    pub failure: Option<String>,
}

impl Took {
    pub fn and(self, next: Took) -> Took {
        Took { time: self.time + next.time, failure: self.failure.or(next.failure) }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Series {
    ms: Vec<f64>,
    failures: BTreeMap<String, usize>,
}

impl Series {
    pub fn add(&mut self, took: Took) {
        self.ms.push(took.time.as_secs_f64() * 1000.0);
        if let Some(failure) = took.failure {
            *self.failures.entry(failure).or_default() += 1;
        }
    }

    pub fn append(&mut self, mut other: Series) {
        self.ms.append(&mut other.ms);
        for (failure, count) in other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
    }

    pub fn n(&self) -> usize {
        self.ms.len()
    }

    pub fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    /// Nearest rank: a value that was measured.
    fn quantile(&self, of_hundred: usize) -> f64 {
        let mut sorted = self.ms.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * of_hundred).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    pub fn p50(&self) -> f64 {
        self.quantile(50)
    }

    pub fn p90(&self) -> f64 {
        self.quantile(90)
    }

    pub fn p95(&self) -> f64 {
        self.quantile(95)
    }

    pub fn p99(&self) -> f64 {
        self.quantile(99)
    }

    pub fn max(&self) -> f64 {
        self.quantile(100)
    }

    pub fn failures(&self) -> String {
        let each: Vec<String> =
            self.failures.iter().map(|(text, count)| format!("{count} x {text}")).collect();
        each.join("; ")
    }
}

impl Extend<Took> for Series {
    fn extend<T: IntoIterator<Item = Took>>(&mut self, each: T) {
        each.into_iter().for_each(|took| self.add(took));
    }
}

impl FromIterator<Took> for Series {
    fn from_iter<T: IntoIterator<Item = Took>>(each: T) -> Series {
        let mut series = Series::default();
        series.extend(each);
        series
    }
}

/// Printed even if the test ends early: the figures say why.
#[derive(Debug)]
pub struct Table {
    title: &'static str,
    lines: Vec<String>,
    wrong: Vec<String>,
}

impl Table {
    pub fn new(title: &'static str) -> Table {
        let lines = vec![format!(
            "{:<36} {:<8} {:>4} {:>6} {:>9} {:>9} {:>9} {:>9}  failures",
            "", "", "n", "failed", "p50 ms", "p95 ms", "p99 ms", "max ms"
        )];
        Table { title, lines, wrong: Vec::new() }
    }

    /// For figures that are not times of commands.
    pub fn with_head(title: &'static str, head: String) -> Table {
        Table { title, lines: vec![head], wrong: Vec::new() }
    }

    pub fn row(&mut self, scene: &str, who: &str, series: &Series) {
        let [p50, p95, p99, max] = [50, 95, 99, 100].map(|which| series.quantile(which));
        let (n, failed) = (series.n(), series.failed());
        let line = format!(
            "{scene:<36} {who:<8} {n:>4} {failed:>6} {p50:>9.1} {p95:>9.1} {p99:>9.1} {max:>9.1}  {}",
            series.failures()
        );
        self.line(line.trim_end().to_owned());
    }

    /// With the lateness of a fair task beside it that wakes every 10 ms.
    pub fn row_beside(&mut self, scene: &str, who: &str, series: &Series, late: &Late) {
        self.row(scene, who, series);
        let (n, p99, max) = (late.n(), late.p99(), late.max());
        let beside = "a fair task beside wakes late by";
        self.line(format!("{beside:<45} {n:>4} {:>36.1} {max:>9.1}", p99));
    }

    pub fn line(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Notes a claim that does not hold. The other scenes are still measured.
    pub fn claim(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(otherwise());
        }
    }

    pub fn finish(self) {
        let wrong = self.wrong.clone();
        drop(self);
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        println!("\n{}, cgroup {}\n{}\n", self.title, Version::here(), self.lines.join("\n"));
    }
}
