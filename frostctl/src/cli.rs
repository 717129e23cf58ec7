//! The command line. Most people learn from its help what frostctl can do.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::audit;
use crate::config;
use crate::configure::{self, uninstall};
use crate::doctor;
use crate::exit::{self, Exit};
use crate::history;
use crate::metrics;
use crate::output::{self, Color, Output};
use crate::pages;
use crate::paths;
use crate::record;
use crate::report;
use crate::selftest;
use crate::serve;
use crate::status;
use crate::switch;

/// Put frostlock on a node, find out what is wrong with the node, repair the node
#[derive(Debug, Parser)]
#[command(name = "frostctl", version, after_help = exit::HELP, max_term_width = 100)]
pub(crate) struct Cli {
    /// Print JSON, for programs; its keys are stable
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// When to colour: on a terminal, always, never
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN", hide_possible_values = true)]
    pub(crate) color: Color,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Status(status::Status),
    /// Find containers whose state differs from what a runtime or an engine says
    Audit(audit::Audit),
    Configure(configure::Configure),
    Unconfigure(configure::Unconfigure),
    Uninstall(uninstall::Uninstall),
    Doctor(doctor::Doctor),
    Off(switch::Off),
    On(switch::On),
    /// Check the wrapper's configuration, or show the values in effect
    #[command(subcommand)]
    Config(config::Command),
    Selftest(selftest::Selftest),
    Paths(paths::Paths),
    /// Show a container's life from the journal
    History(history::History),
    /// Record in the journal how containers and execs end; runs as a service
    Record(record::Record),
    /// Sum up the operations in the journal, and say what is wrong
    Report(report::Command),
    /// Print the numbers of the journal for Prometheus
    Metrics(metrics::Metrics),
    /// Answer Prometheus over HTTP, at /metrics
    Serve(serve::Serve),
    /// Print a completion script for a shell
    Completions(pages::Completions),
    /// Write the manual pages of frostctl and frostlock below a directory
    Man(pages::Man),
    #[command(hide = true)]
    Sleep(doctor::Sleep),
}

/// Prints help and version, which clap treats as errors, and errors of the command line.
pub(crate) fn print(said: &clap::Error) -> ExitCode {
    if said.use_stderr() {
        // If that fails, there is nobody to tell.
        let _ = said.print();
        return ExitCode::from(2);
    }
    match output::print(|out| write!(out, "{}", said.render().ansi())) {
        Ok(()) => Exit::Clean.into(),
        Err(error) => {
            output::complain(&error);
            Exit::Failed.into()
        }
    }
}

impl Command {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        match self {
            Command::Status(it) => it.run(output),
            Command::Audit(it) => it.run(output),
            Command::Configure(it) => it.run(output),
            Command::Unconfigure(it) => it.run(output),
            Command::Uninstall(it) => it.run(output),
            Command::Doctor(it) => it.run(output),
            Command::Off(it) => it.run(output),
            Command::On(it) => it.run(output),
            Command::Config(it) => it.run(output),
            Command::Selftest(it) => it.run(output),
            Command::Paths(it) => it.run(output),
            Command::History(it) => it.run(output),
            Command::Record(it) => it.run(),
            Command::Report(it) => it.run(output),
            Command::Metrics(it) => it.run(output),
            Command::Serve(it) => it.run(),
            Command::Completions(it) => it.run(Cli::command()),
            Command::Man(it) => it.run(Cli::command()),
            Command::Sleep(it) => it.run(),
        }
    }
}
