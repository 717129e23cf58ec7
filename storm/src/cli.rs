//! The command line. Most people learn from its help what a storm is.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::delivery::deliver;
use crate::node;
use crate::options::{Options, Sweep};
use crate::report::Report;
use crate::shape::{Both, Shape};
use crate::side::{self, Side};

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
  3  the command failed; standard error says why";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one side on this very machine, with its containerd and its systemd
    Here(Here),
    /// Make the table and the plot of two results of `here`
    Compare(Compare),
}

#[derive(Debug, Args)]
struct Here {
    #[command(flatten)]
    shape: Shape,
    /// What to call this side; "wrapped" is the one that must not fail
    #[arg(long, default_value = "bare")]
    label: String,
    /// Where the numbers of this side go, as JSON
    #[arg(long, value_name = "FILE")]
    result: PathBuf,
    /// The socket of the CRI server
    #[arg(long, default_value = "/run/containerd/containerd.sock", value_name = "PATH")]
    socket: PathBuf,
    /// The image of the pods; it has a shell, and the node has it already
    #[arg(long, default_value = "docker.io/library/frostlock-busybox:test", value_name = "NAME")]
    image: String,
    /// frostlock's journal; may be missing
    #[arg(long, default_value = "/run/frostlock/journal.jsonl", value_name = "PATH")]
    journal: PathBuf,
}

#[derive(Debug, Args)]
struct Compare {
    bare: PathBuf,
    wrapped: PathBuf,
    /// Where the results go; created if missing
    #[arg(long, default_value = "resize-storm.out", value_name = "DIR")]
    out: PathBuf,
}

impl Cli {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            None => deliver(&Report::of(node::sides(&self.both)?)?, &self.both.out),
            Some(Command::Here(here)) => here.run(),
            Some(Command::Compare(it)) => {
                let sides = vec![Side::load(&it.bare)?, Side::load(&it.wrapped)?];
                deliver(&Report::of(sides)?, &it.out)
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
            // A node in a box takes its journal with it.
            let copy = path.with_extension("journal.jsonl");
            std::fs::copy(&side.options.journal, &copy)
                .with_context(|| format!("cannot write {}", copy.display()))?;
        }
        Ok(ExitCode::SUCCESS)
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
