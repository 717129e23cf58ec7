//! Commands of others, in bounded time.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::program;

/// Its output. A terminal's ^C is for us, who end after the step at hand.
pub(crate) fn run(path: &Path, words: &[&str], limit: Duration) -> anyhow::Result<Vec<u8>> {
    program::output(Command::new(path).args(words).process_group(0), limit)
}
