//! `frostctl report`: the journal in numbers and findings. Reading, deciding and rendering are
//! separate: records go into [`Analysis`], which gives a [`Report`], which is printed.

mod columns;
mod contention;
mod estimate;
mod failed;
mod findings;
mod html;
mod over_time;
mod plot;
mod probe;
mod summary;
mod tally;
mod text;

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context;

use crate::exit::Exit;
use crate::journal::{Record, Skipped, Source, unix_ms};
use crate::lives::{Life, Lives};
use crate::output::{Output, plain, time};
use contention::Contentions;
use estimate::Observed;
use failed::Failed;
use summary::Report;
pub(crate) use tally::CLOCK_SET_MS;
use tally::Tally;

#[derive(Debug, clap::Args)]
pub(crate) struct Command {
    /// Only what ended since this time: 90m, 12h, 7d, or a time like 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<SystemTime>,

    /// Only this pod, with or without `NAMESPACE/`
    #[arg(long)]
    pod: Option<String>,

    /// Only pods of this namespace
    #[arg(long)]
    namespace: Option<String>,

    /// Estimate instead what mode "full" would have saved, from what mode "observe" has recorded
    #[arg(long, conflicts_with = "html")]
    estimate: bool,

    /// Also write an HTML page with plots, in one file that needs no other
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    #[command(flatten)]
    source: Source,
}

impl Command {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        match self.estimate {
            true => self.run_estimate(output),
            false => self.run_report(output),
        }
    }

    fn run_estimate(&self, output: &Output) -> anyhow::Result<Exit> {
        let journal = self.source.open()?;
        let mut selection = Selection { filter: self.filter(), ..Selection::default() };
        let mut observed = Observed::default();
        let skipped = journal.each(|record| {
            if let Some((unix_ms, _)) = selection.select(record) {
                observed.add(record, unix_ms);
            }
        })?;
        selection.ensure_known()?;
        let Some(estimate) = observed.finish(skipped) else {
            let since = selection.filter.since_ms.map(|ms| format!(" since {}", time(ms)));
            anyhow::bail!(
                "the journal has no operation{} that mode \"observe\" has recorded: set \
                 mode = \"observe\" in the configuration, and ask again after some hours",
                since.unwrap_or_default()
            );
        };
        output.print(&estimate, |out| estimate.write(out))?;
        Ok(Exit::Clean)
    }

    fn run_report(&self, output: &Output) -> anyhow::Result<Exit> {
        let journal = self.source.open()?;
        let mut analysis = Analysis::new(self.filter());
        let skipped = journal.each(|record| analysis.add(record))?;
        analysis.selection.ensure_known()?;
        let report = analysis.finish(skipped);
        if let Some(path) = &self.html {
            std::fs::write(path, html::page(&report))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        output.print(&report, |out| text::write(out, &report))?;
        Ok(Exit::Clean)
    }

    fn filter(&self) -> Filter {
        let since = self.since.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        Filter {
            since_ms: since.map(|since| since.as_millis() as i64),
            pod: self.pod.clone(),
            namespace: self.namespace.clone(),
        }
    }
}

fn since(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        // A time before the earliest possible one selects everything.
        return Ok(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH));
    }
    // As `date --utc --iso-8601=seconds` writes UTC.
    humantime::parse_rfc3339_weak(text.strip_suffix("+00:00").unwrap_or(text)).map_err(|_| {
        "neither a length of time such as 12h nor a time like 2026-01-31T12:00:00Z".into()
    })
}

#[derive(Debug, Default)]
struct Filter {
    since_ms: Option<i64>,
    pod: Option<String>,
    namespace: Option<String>,
}

impl Filter {
    fn is_past(&self, unix_ms: i64) -> bool {
        self.since_ms.is_some_and(|since_ms| unix_ms < since_ms)
    }

    fn takes(&self, life: Option<&Life>) -> bool {
        if self.pod.is_none() && self.namespace.is_none() {
            return true;
        }
        let Some(names) = life.map(|life| &life.names) else { return false };
        let is_pod = |pod: &String| names.pod == *pod || names.pod() == *pod;
        self.pod.as_ref().is_none_or(is_pod)
            && self.namespace.as_ref().is_none_or(|namespace| names.namespace == *namespace)
    }
}

/// Selects the records that were asked for.
#[derive(Debug, Default)]
struct Selection {
    filter: Filter,
    lives: Lives,
}

impl Selection {
    /// When a selected record was written, and the index of its life, if it has one.
    fn select(&mut self, record: &Record<'_>) -> Option<(i64, Option<usize>)> {
        let unix_ms = unix_ms(&record.time).unwrap_or(0);
        // A life is built from its beginning, even if that is before the time asked for.
        let index = self.lives.add(record, unix_ms);
        let life = index.and_then(|index| self.lives.all.get(index));
        let is_asked_for = !self.filter.is_past(unix_ms) && self.filter.takes(life);
        is_asked_for.then_some((unix_ms, index))
    }

    /// A mistyped name must not look like a pod to which nothing happened.
    fn ensure_known(&self) -> anyhow::Result<()> {
        let is_known = self.lives.all.iter().any(|life| self.filter.takes(Some(life)));
        let whom = match (&self.filter.pod, &self.filter.namespace) {
            (None, None) => return Ok(()),
            (Some(pod), None) => format!("no pod {pod}"),
            (None, Some(namespace)) => format!("no pod of namespace {namespace}"),
            (Some(pod), Some(namespace)) => format!("no pod {pod} of namespace {namespace}"),
        };
        anyhow::ensure!(
            is_known,
            "the journal has {}; `frostctl history` lists what it has",
            plain(&whom)
        );
        Ok(())
    }
}

/// Takes records one by one; its memory grows with containers, and by 8 bytes per record.
#[derive(Debug, Default)]
struct Analysis {
    selection: Selection,
    tally: Tally,
    contentions: Contentions,
    failed: Failed,
}

impl Analysis {
    fn new(filter: Filter) -> Analysis {
        let selection = Selection { filter, ..Selection::default() };
        Analysis { selection, ..Analysis::default() }
    }

    fn add(&mut self, record: &Record<'_>) {
        let Some((unix_ms, life)) = self.selection.select(record) else { return };
        self.tally.add(record, unix_ms, life);
        if let Some(life) = life {
            self.contentions.add(record, life);
            self.failed.add(record, life);
        }
    }

    fn finish(self, skipped: Skipped) -> Report {
        let Analysis { selection: Selection { filter, lives }, tally, contentions, failed } = self;
        let shown: Vec<(usize, &Life)> = lives
            .all
            .iter()
            .enumerate()
            .filter(|(_, life)| !filter.is_past(life.last_ms) && filter.takes(Some(life)))
            .collect();
        let numbers =
            tally.finish(|life| lives.all.get(life).map_or_else(String::new, Life::pod_or_id));
        let mut findings = findings::find(&shown, &contentions, &numbers.lift_refused);
        // Before the others, which concern containers that came into being.
        findings.splice(0..0, findings::failed(&failed, &lives.all));
        Report {
            since_ms: filter.since_ms,
            numbers,
            containers: shown.len() as u64,
            findings,
            skipped,
        }
    }
}

#[cfg(test)]
mod tests;
