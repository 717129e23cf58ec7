//! Runs a command of the node on a timer.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::bail;

use crate::{node, say};

/// `frostctl metrics --audit` asks containerd and each runtime, within limits of its own.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A failed command is reported, and runs again at its next time.
pub(crate) fn watch(every: Duration, command: &[OsString]) -> anyhow::Result<()> {
    let Some((program, args)) = command.split_first() else { bail!("no command") };
    let name = Path::new(program);
    node::enter()?;
    loop {
        match node::run(Command::new(program).args(args), COMMAND_LIMIT) {
            Ok(said) if said.status.success() => {}
            Ok(said) => say(&format!("{}: {}", name.display(), said.status)),
            Err(error) => say(&format!("{error:#}")),
        }
        std::thread::sleep(every);
    }
}
