//! The command line. Its help is where most people learn what a storm is.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::node;
use crate::report::Report;
use crate::side::{self, Options, Side, Sweep};

const THREADS_SWEPT: [u32; 4] = [1, 2, 4, 8];
const PERIODS_SWEPT: [f64; 5] = [10.0, 5.0, 2.0, 1.0, 0.5];

/// Shows what resizes of small pods do to a node, with the bare runtime and through frostlock
///
/// A storm is a number of pods with CPU limits of 5m to 50m and busy threads in them. Each pod is
/// resized up and down in place the way a kubelet does it, and probed by exec with a time limit of one
/// second, and is replaced by a new one when its time is over. The bare runtime and frostlock get the
/// same pods from the same seed, one after the other.
///
/// Without a command it makes a node of its own for each side, with systemd, containerd and runc, and
/// takes it down in the end; that needs root and `make lab`.
#[derive(Debug, Parser)]
#[command(
    name = "resize-storm",
    version,
    after_help = HELP,
    max_term_width = 100,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    both: Both,
}

const HELP: &str = "\
Examples:
  resize-storm --pods 6 --minutes 1            a short one
  resize-storm --containerd 2.1.9              the same with another containerd
  resize-storm --kills 50 --side wrapped       does it survive?
  resize-storm --sweep --side wrapped          which probe rate does the budget hold?
  resize-storm here --label bare --result bare.json
                                               on this machine's own containerd

In --out: storm.txt (the table), storm.json, storm.svg (the plot).

Exit status:
  0  the bare side failed somewhere and the wrapped side nowhere, with no restart
  1  a wrapped pod failed or restarted, or not shown: nothing failed bare
  2  the command line is wrong
  3  it could not be done; standard error says why";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one side on this very machine, with its containerd and its systemd
    Here(Here),
    /// Make the table and the plot of two results of `here`
    Compare(Compare),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Shape {
    /// Pods at a time
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pods: u32,
    /// Containers in each pod: the first one is busy, resized and probed; the others wait beside it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10))]
    containers: u32,
    /// How long each side takes
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    minutes: f64,
    /// What the pods, their limits and their times are made from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Busy threads in each pod
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Seconds between two exec probes of a pod
    #[arg(long, default_value_t = 5.0, value_parser = positive, value_name = "SECONDS")]
    probe_period: f64,
    /// Seconds between two resizes of a pod
    #[arg(long, default_value_t = 8.0, value_parser = positive, value_name = "SECONDS")]
    resize_period: f64,
    /// Seconds that a pod lives, on the average
    #[arg(long, default_value_t = 60.0, value_parser = positive, value_name = "SECONDS")]
    life: f64,
    /// Kill containerd, shims, wrappers and runtimes so often meanwhile
    #[arg(long, default_value_t = 0, value_name = "N")]
    kills: usize,
    /// Every pod with another number of threads and another probe period: where does the budget of
    /// frostlock end? Takes the place of --pods, --threads and --probe-period
    #[arg(long)]
    sweep: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Both {
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Which sides
    #[arg(long, value_enum, default_value_t = Sides::Both)]
    pub(crate) side: Sides,
    /// containerd's version, of those in target/lab/containerds
    #[arg(long, default_value = "1.6.20", value_name = "VERSION")]
    pub(crate) containerd: String,
    /// The runtime, of those in target/lab/runtimes [default: runc-1.1.15 with containerd 1.6, else
    /// runc-1.3.6]
    #[arg(long, value_name = "NAME")]
    pub(crate) runtime: Option<String>,
    /// Where the results go; made if need be
    #[arg(long, default_value = "resize-storm.out", value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sides {
    Bare,
    Wrapped,
    Both,
}

#[derive(Debug, Args)]
struct Here {
    #[command(flatten)]
    shape: Shape,
    /// What to call this side; "wrapped" is the one that must not fail
    #[arg(long, default_value = "bare")]
    label: String,
    /// Where its numbers go, as JSON
    #[arg(long, value_name = "FILE")]
    result: PathBuf,
    /// The CRI server's
    #[arg(long, default_value = "/run/containerd/containerd.sock", value_name = "PATH")]
    socket: PathBuf,
    /// Has a shell; must be there already
    #[arg(long, default_value = "docker.io/library/frostlock-busybox:test", value_name = "NAME")]
    image: String,
    /// frostlock's journal; none is read if there is none
    #[arg(long, default_value = "/run/frostlock/journal.jsonl", value_name = "PATH")]
    journal: PathBuf,
}

#[derive(Debug, Args)]
struct Compare {
    bare: PathBuf,
    wrapped: PathBuf,
    /// Where the results go; made if need be
    #[arg(long, default_value = "resize-storm.out", value_name = "DIR")]
    out: PathBuf,
}

impl Cli {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            None => Report::of(node::sides(&self.both)?)?.deliver(&self.both.out),
            Some(Command::Here(here)) => here.run(),
            Some(Command::Compare(it)) => {
                Report::of(vec![load(&it.bare)?, load(&it.wrapped)?])?.deliver(&it.out)
            }
        }
    }
}

impl Here {
    fn run(self) -> anyhow::Result<ExitCode> {
        let shape = self.shape;
        let sweep = shape.sweep.then(|| Sweep {
            threads: THREADS_SWEPT.to_vec(),
            probe_periods: PERIODS_SWEPT.to_vec(),
        });
        let swept = THREADS_SWEPT.len() * PERIODS_SWEPT.len();
        let side = side::run(Options {
            label: self.label,
            socket: self.socket,
            image: self.image,
            journal: self.journal,
            pods: if shape.sweep { swept } else { shape.pods as usize },
            containers: if shape.sweep { 1 } else { shape.containers as usize },
            seconds: shape.minutes * 60.0,
            seed: shape.seed,
            threads: shape.threads,
            probe_period: shape.probe_period,
            resize_period: shape.resize_period,
            life: shape.life,
            kills: shape.kills,
            sweep,
        })?;
        let path = &self.result;
        let json = serde_json::to_vec_pretty(&side)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
        if side.budget.is_some() {
            // A node in a box takes its own with it.
            let copy = path.with_extension("journal.jsonl");
            std::fs::copy(&side.options.journal, &copy)
                .with_context(|| format!("cannot write {}", copy.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Shape {
    /// For a `here` of another process.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = vec![
            format!("--pods={}", self.pods),
            format!("--containers={}", self.containers),
            format!("--minutes={}", self.minutes),
            format!("--seed={}", self.seed),
            format!("--threads={}", self.threads),
            format!("--probe-period={}", self.probe_period),
            format!("--resize-period={}", self.resize_period),
            format!("--life={}", self.life),
            format!("--kills={}", self.kills),
        ];
        words.extend(self.sweep.then(|| "--sweep".to_owned()));
        words
    }
}

pub(crate) fn load(path: &std::path::Path) -> anyhow::Result<Side> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("not a result: {}", path.display()))
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.05..=100_000.0).contains(&number) => Ok(number),
        _ => Err("want a number from 0.05 to 100000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_its_shape_survives_the_way_into_a_node() {
        Cli::command().debug_assert();
        let words = ["resize-storm", "--pods=7", "--minutes=0.5", "--kills=3", "--sweep"];
        let outer = Cli::try_parse_from(words).unwrap().both.shape;
        let mut inner = vec!["resize-storm".to_owned(), "here".to_owned()];
        inner.push("--result=x".to_owned());
        inner.extend(outer.words());
        let Some(Command::Here(here)) = Cli::try_parse_from(inner).unwrap().command else {
            panic!("not here");
        };
        assert_eq!(here.shape.words(), outer.words());
    }
}
