//! Runs other programs, for a bounded time.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::program::{self, Grace};

/// Returns the output. The command has its own process group: ^C on a terminal reaches only
/// frostctl, which ends after the current step. One that hangs gets the grace, and is killed.
pub(crate) fn run(
    path: &Path,
    words: &[&str],
    limit: Duration,
    grace: Grace,
) -> anyhow::Result<Vec<u8>> {
    let mut command = Command::new(program::trusted(path)?);
    // A link's name may choose the runtime, as frostlock-crun does.
    program::output(command.arg0(path).args(words).process_group(0), limit, grace)
}
