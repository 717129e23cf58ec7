//! `metrics`: the journal as counters for Prometheus.
//!
//! Each reading adds the journal's new records to a checkpoint, under its lock, and prints the sum.

mod checkpoint;
mod counters;
mod families;
mod frozen;
mod pods;
mod position;
mod snapshot;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use cgroup::process;
use state::state_dir::StateDir;

use crate::audit;
use crate::exit::Exit;
use crate::output::{self, Output};
use checkpoint::{Checkpoint, Store};
pub(crate) use counters::known_verb;
use snapshot::Snapshot;

/// A place that outlives a reboot; /run does not.
const DEFAULT_STATE: &str = "/var/lib/frostlock/metrics.json";

const NS_PER_HOUR: u64 = 3_600_000_000_000;

/// Where the numbers come from, the same for `metrics` and `serve`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Source {
    /// Read this journal; without --state it is counted from its beginning and nothing is kept
    /// [default: the node's]
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,

    /// Keep the counters in this file [default: /var/lib/frostlock/metrics.json]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    /// Series of a pod end this many hours after the last retry or lift of its programs
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=168))]
    pod_hours: u64,

    /// Count what `frostctl audit` finds, too; asks runtimes, containerd, CRI-O and podman each time
    #[arg(long)]
    audit: bool,
}

/// Print the numbers of the journal for Prometheus
#[derive(Debug, clap::Args)]
pub(crate) struct Metrics {
    #[command(flatten)]
    source: Source,

    /// Write them to FILE, for node_exporter's textfile collector; it is replaced as a whole
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    textfile: Option<PathBuf>,
}

impl Metrics {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        if let Some(path) = &self.textfile {
            anyhow::ensure!(
                path.extension().is_some_and(|it| it == "prom"),
                "{}: node_exporter reads files that end in .prom, and no other",
                path.display()
            );
        }
        let snapshot = self.source.read()?;
        if snapshot.journal_files == 0 {
            output::note(&format!(
                "there is no journal at {}: the wrapper writes it with its first operation, once \
                 containerd or another manager runs it in place of the runtime",
                snapshot.journal.display()
            ));
        }
        let text = families::text(&snapshot)?;
        match &self.textfile {
            // node_exporter seldom runs as root.
            Some(path) => checkpoint::replace(path, text.as_bytes(), 0o644)?,
            None => output.print(&snapshot, |to: &mut dyn Write| to.write_all(text.as_bytes()))?,
        }
        Ok(Exit::Clean)
    }
}

impl Source {
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        families::text(&self.read()?)
    }

    fn read(&self) -> anyhow::Result<Snapshot> {
        let state = StateDir::from_env();
        let journal = self.journal.clone().unwrap_or_else(|| state.journal());
        let store = self.checkpoint(&state).map(|path| Store::open(&path)).transpose()?;
        let (mut checkpoint, note) = match &store {
            Some(store) => store.load()?,
            None => Default::default(),
        };
        note.iter().for_each(|note| output::note(note));
        let files = self.advance(&journal, &mut checkpoint)?;
        // Before anybody sees a number: a counter that was shown is never taken back.
        if let Some(store) = store {
            store.save(&mut checkpoint)?;
        }
        checkpoint.counters.announce();
        let frozen = frozen::count();
        if frozen.is_some_and(|it| it.is_cut) {
            output::note(&format!("only {} cgroups were looked at for frozen ones", frozen::MOST));
        }
        Ok(Snapshot {
            journal,
            journal_files: files,
            counters: checkpoint.counters,
            pods: checkpoint.pods,
            frozen,
            divergences: self.audit.then(audit::count).transpose().unwrap_or_else(|error| {
                output::note(&format!("no audit: {error:#}"));
                None
            }),
            off: state.kill_switch().exists(),
        })
    }

    /// A journal named on the command line is not the node's, and must not go into the node's
    /// counters.
    fn checkpoint(&self, state: &StateDir) -> Option<PathBuf> {
        let default = || match std::env::var_os("FROSTLOCK_STATE_DIR") {
            None if state.path() == Path::new("/run/frostlock") => PathBuf::from(DEFAULT_STATE),
            _ => state.path().join("metrics.json"),
        };
        let own = self.journal.is_none();
        self.state.clone().or_else(|| own.then(default))
    }

    fn advance(&self, journal: &Path, checkpoint: &mut Checkpoint) -> anyhow::Result<usize> {
        let now_ns = process::since_boot_ns();
        let boot_id = process::boot_id().context("no boot_id in /proc: is it mounted?")?;
        if checkpoint.boot_id != boot_id {
            checkpoint.pods.rebooted();
            checkpoint.boot_id = boot_id;
        }
        let Checkpoint { positions, counters, pods, .. } = checkpoint;
        let reading = position::advance(journal, positions, |record| {
            counters.add(record);
            pods.add(record, now_ns);
        })?;
        counters.skipped_lines += reading.skipped;
        counters.journal_gaps += u64::from(reading.gap);
        pods.forget(now_ns, self.pod_hours * NS_PER_HOUR);
        Ok(reading.files)
    }
}
