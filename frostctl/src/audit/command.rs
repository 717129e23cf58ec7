//! Commands of others, in bounded time.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::configure::program;

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Its output. It goes by way of a file, so that nobody who inherits it holds us.
pub(crate) fn run(path: &Path, words: &[&str], limit: Duration) -> anyhow::Result<Vec<u8>> {
    let (out, err) = (program::anonymous()?, program::anonymous()?);
    let mut child = Command::new(path)
        .args(words)
        .stdin(Stdio::null())
        // A terminal's ^C is for us, who end after the step at hand.
        .process_group(0)
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .spawn()
        .with_context(|| path.display().to_string())?;
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            None => {
                program::end(&mut child);
                bail!("{}: no end within {} s", path.display(), limit.as_secs_f32());
            }
        }
    };
    if !status.success() {
        let said = contents(err).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let last = said.trim().lines().last().unwrap_or_default();
        bail!("{}: {status}: {last}", path.display());
    }
    contents(out)
}

fn contents(mut file: std::fs::File) -> anyhow::Result<Vec<u8>> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
