//! The operator's side of frostlock: installs it on a node, finds and fixes what is wrong with the
//! node's cgroups and with the engines' view of containers, and tells what happened.

use std::process::ExitCode;

use clap::Parser;

mod audit;
mod cli;
mod config;
mod configure;
mod defects;
mod doctor;
mod elf;
mod environment;
mod exit;
mod held;
mod history;
mod journal;
mod lives;
mod loaded;
mod metrics;
mod node;
mod output;
mod pages;
mod paths;
mod program;
mod progress;
mod record;
mod report;
mod selftest;
mod serve;
mod status;
mod switch;
mod timeline;
mod version;

fn main() -> ExitCode {
    if let Some(exit) = selftest::in_container(std::env::args_os()) {
        return exit;
    }
    if let Some(exit) = configure::restart::with_signals(std::env::args_os()) {
        return exit;
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(said) => return cli::print(&said),
    };
    let output = output::Output::new(cli.json, cli.color);
    match cli.command.run(&output) {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::complain(&error);
            exit::Exit::Failed.into()
        }
    }
}
