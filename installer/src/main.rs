//! The steps of the Helm chart's pods. Each is one command, so that a container has only the rights of
//! its step: a step that may change the node has no token for the API server, and one that has a token
//! may not.

mod api;
mod install;
mod node;
mod removed;
mod turn;
mod watch;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Put frostlock on a node of a Kubernetes cluster, from within a pod
#[derive(Debug, Parser)]
#[command(name = "frostlock-installer", version)]
struct Cli {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Wait until this node has the Lease: one node at a time changes its engine
    TakeTurn {
        #[command(flatten)]
        place: api::Place,
        #[arg(long)]
        lease: String,
        /// Exit with 1 while this DaemonSet is there, which takes frostlock off the nodes
        #[arg(long)]
        unless_daemonset: Option<String>,
        /// Exit with 1 after this time; kubelet starts the container again
        #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
        wait: Duration,
    },
    /// Give the Lease back
    GiveTurn {
        #[command(flatten)]
        place: api::Place,
        #[arg(long)]
        lease: String,
    },
    /// Copy the programs onto the node and configure its engine
    Install(install::Install),
    /// Wait until no container of the node runs through frostlock
    AwaitIdle(install::Install),
    /// Take frostlock out of the engine's configuration and off the node
    Remove(install::Install),
    /// Set a label of this node to `true`
    Label {
        #[command(flatten)]
        place: api::Place,
        label: String,
    },
    /// Take a label of this node away
    Unlabel {
        #[command(flatten)]
        place: api::Place,
        label: String,
    },
    /// Run a command on the node again and again
    Watch {
        #[arg(long, default_value = "1m", value_parser = humantime::parse_duration)]
        every: Duration,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Run a command on the node in place of this one
    OnNode {
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Do nothing until the pod ends: a DaemonSet has no end
    Rest,
    /// Wait until each pod of a DaemonSet is ready, and delete it
    AwaitDaemonset {
        #[command(flatten)]
        place: api::Place,
        name: String,
        #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
        wait: Duration,
    },
}

impl Step {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Step::TakeTurn { place, lease, unless_daemonset, wait } => {
                let api = place.open()?;
                let may_go_on = || match &unless_daemonset {
                    Some(name) => removed::is_not_under_way(&api, name),
                    None => Ok(()),
                };
                turn::take(&api, &lease, wait, &may_go_on)
            }
            Step::GiveTurn { place, lease } => turn::give(&place.open()?, &lease),
            Step::Install(it) => it.install(),
            Step::AwaitIdle(it) => it.await_idle(),
            Step::Remove(it) => it.remove(),
            Step::Label { place, label } => place.open()?.label(&label, Some("true")),
            Step::Unlabel { place, label } => place.open()?.label(&label, None),
            Step::Watch { every, command } => watch::watch(every, &command),
            Step::OnNode { command } => node::become_command(&command),
            Step::Rest => loop {
                std::thread::park();
            },
            Step::AwaitDaemonset { place, name, wait } => {
                removed::wait(&place.open()?, &name, wait)
            }
        }
    }
}

fn main() -> ExitCode {
    match Cli::parse().step.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes to the log of the container; that of a failed container goes into the status of the pod
/// (`terminationMessagePolicy: FallbackToLogsOnError`).
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "frostlock-installer: {line}");
}

/// The directory of the programs in the image.
fn image() -> PathBuf {
    let own = std::env::current_exe().ok();
    own.and_then(|it| it.parent().map(PathBuf::from)).unwrap_or_else(|| "/usr/bin".into())
}
