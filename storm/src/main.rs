//! Pods with small CPU limits, resized in place and probed throughout, with the bare runtime and
//! with frostlock in front of it.

// The table is this program's output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use clap::Parser;

mod allowed;
mod budget;
mod cli;
mod config;
mod delivery;
mod kills;
mod node;
mod options;
mod plan;
mod plot;
mod pod;
mod probe;
mod progress;
mod report;
mod settings;
mod shape;
mod side;
mod slice;
mod storm;
mod table;
mod tally;
mod words;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("resize-storm: {error:#}");
            ExitCode::from(3)
        }
    }
}
