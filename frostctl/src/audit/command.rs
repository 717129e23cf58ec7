//! Commands of others, in bounded time.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Its output. It goes by way of a file, so that nobody who inherits it holds us.
pub(crate) fn run(program: &Path, words: &[&str], limit: Duration) -> anyhow::Result<Vec<u8>> {
    let (out, err) = (anonymous()?, anonymous()?);
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        // A terminal's ^C is for us, who end after the step at hand.
        .process_group(0)
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .spawn()
        .with_context(|| program.display().to_string())?;
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{}: no end within {} s", program.display(), limit.as_secs_f32());
            }
        }
    };
    if !status.success() {
        let said = contents(err).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let last = said.trim().lines().last().unwrap_or_default();
        bail!("{}: {status}: {last}", program.display());
    }
    contents(out)
}

fn anonymous() -> anyhow::Result<std::fs::File> {
    let fd = rustix::fs::memfd_create("frostctl", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(fd.into())
}

fn contents(mut file: std::fs::File) -> anyhow::Result<Vec<u8>> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
