//! The shape of a storm, from the command line.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Clone, Args)]
pub(crate) struct Shape {
    /// Pods at a time
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) pods: u32,
    /// Containers in each pod: the first one is busy, resized and probed; the others wait beside it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10))]
    pub(crate) containers: u32,
    /// How long each side takes
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) minutes: f64,
    /// The seed of the pods, their limits and their times
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Busy threads in each pod
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: u32,
    /// Seconds between two exec probes of a pod; kubelet's default is 10
    #[arg(long, default_value_t = 10.0, value_parser = positive, value_name = "SECONDS")]
    pub(crate) probe_period: f64,
    /// Seconds between two resizes of a pod
    #[arg(long, default_value_t = 10.0, value_parser = positive, value_name = "SECONDS")]
    pub(crate) resize_period: f64,
    /// Seconds that a pod lives, on average
    #[arg(long, default_value_t = 120.0, value_parser = positive, value_name = "SECONDS")]
    pub(crate) life: f64,
    /// Kill containerd, shims, wrappers and runtimes this many times during the storm
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) kills: usize,
    /// Give every pod another number of threads and another probe period: where does the budget of
    /// frostlock end? Replaces --pods, --threads and --probe-period
    #[arg(long)]
    pub(crate) sweep: bool,
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
    /// Where the results go; created if missing
    #[arg(long, default_value = "resize-storm.out", value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sides {
    Bare,
    Wrapped,
    Both,
}

impl Shape {
    /// For a `here` in another process.
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

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.05..=100_000.0).contains(&number) => Ok(number),
        _ => Err("want a number from 0.05 to 100000".to_owned()),
    }
}
