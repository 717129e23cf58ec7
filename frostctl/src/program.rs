//! Runs other programs for a bounded time.

use std::fs::{File, Metadata};
use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

const POLL: Duration = Duration::from_millis(10);

/// Not even SIGKILL ends a process that waits for a disk or a network file system.
const DIES_WITHIN: Duration = Duration::from_secs(1);

/// sudo and cron have a short PATH; packages put daemons into these directories.
const FALLBACK_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn directories() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(std::env::split_paths(FALLBACK_PATH)).collect()
}

/// Looks up a name; a path is taken as it is.
pub(crate) fn find(name: impl AsRef<Path>) -> Option<PathBuf> {
    directories()
        .into_iter()
        .map(|directory| directory.join(&name))
        .find(|candidate| is_executable(candidate))
}

pub(crate) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The file to run where a file or an answer of others names it. A bare name is looked up in our own
/// PATH; a path is run only if none but root and ourselves can change the file or replace it.
pub(crate) fn trusted(name: &Path) -> anyhow::Result<PathBuf> {
    let found = find(name).with_context(|| format!("there is no program {}", name.display()))?;
    let real = found.canonicalize()?;
    if name.components().count() > 1 {
        let ours = [0, nix::unistd::geteuid().as_raw()];
        for path in real.ancestors() {
            if let Some(why) = distrust(&std::fs::metadata(path)?, ours) {
                bail!("{} is not run: {} {why}", name.display(), path.display());
            }
        }
    }
    Ok(real)
}

/// A directory may be writable by a group (/usr/local of Debian is staff's), and by all if it is sticky.
fn distrust(file: &Metadata, ours: [u32; 2]) -> Option<String> {
    if !ours.contains(&file.uid()) {
        return Some(format!("is owned by uid {}", file.uid()));
    }
    let group = if file.gid() == 0 || file.is_dir() { 0 } else { 0o020 };
    let is_sticky = file.is_dir() && file.mode() & 0o1000 != 0;
    let is_open = !is_sticky && file.mode() & (group | 0o002) != 0;
    is_open.then(|| "is writable by others".to_owned())
}

/// Returns the standard output. A failure is an error with the program's message; one that hangs is
/// killed.
pub(crate) fn run(command: &mut Command, limit: Duration) -> anyhow::Result<String> {
    output(command, limit, None).map(|said| String::from_utf8_lossy(&said).into_owned())
}

/// The same, with another name in errors.
pub(crate) fn run_as(name: &str, command: &mut Command, limit: Duration) -> anyhow::Result<()> {
    named(name, command, limit, None).map(drop)
}

/// A signal before SIGKILL, and how long a program then has to undo what it has begun.
pub(crate) type Grace = Option<(Signal, Duration)>;

/// The same, byte for byte, with a grace for one that hangs.
pub(crate) fn output(
    command: &mut Command,
    limit: Duration,
    grace: Grace,
) -> anyhow::Result<Vec<u8>> {
    named(&format!("{command:?}"), command, limit, grace)
}

fn named(
    name: &str,
    command: &mut Command,
    limit: Duration,
    grace: Grace,
) -> anyhow::Result<Vec<u8>> {
    // Files, not pipes: processes that it leaves running may keep them open.
    let (mut out, mut err) = (anonymous()?, anonymous()?);
    // dockerd looks for docker-proxy in PATH and stops without it.
    command.env("PATH", std::env::join_paths(directories())?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            end(&mut child, grace);
            bail!("{name} did not end within {} s", limit.as_secs());
        }
        std::thread::sleep(POLL);
    };
    if !status.success() {
        match in_one_line(&String::from_utf8_lossy(&contents(&mut err)?)).as_str() {
            "" => bail!("{name}: {status}"),
            said => bail!("{name}: {status}: {said}"),
        }
    }
    contents(&mut out)
}

/// As part of an error, which is one line.
fn in_one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

fn contents(file: &mut File) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Kills the child, but waits only as long as a normal death takes; one that cannot die is left to
/// the kernel.
fn end(child: &mut Child, grace: Grace) {
    if let Some((signal, limit)) = grace {
        let _ = rustix::process::kill_process(Pid::from_child(child), signal);
        if has_ended_after(child, limit) {
            return;
        }
    }
    let _ = child.kill();
    has_ended_after(child, DIES_WITHIN);
}

fn has_ended_after(child: &mut Child, limit: Duration) -> bool {
    let since = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if since.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// In memory: a /tmp that is not writable must not be a failure of the program.
fn anonymous() -> anyhow::Result<File> {
    let fd = rustix::fs::memfd_create("frostctl", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(fd.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A busy machine starts a shell within.
    const SHORT: Duration = Duration::from_secs(2);

    #[test]
    fn a_program_that_another_user_could_change_is_not_run() {
        let trusted = |path: &Path| trusted(path).map_err(|error| error.to_string());
        let scratch = tempfile::tempdir().unwrap();
        let (own, link) = (scratch.path().join("own"), scratch.path().join("link"));
        std::fs::write(&own, "#!/bin/sh\n").unwrap();
        std::os::unix::fs::symlink(&own, &link).unwrap();
        let allow = |path: &Path, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        allow(&own, 0o755);
        let real = own.canonicalize().unwrap();
        assert_eq!(trusted(&own), Ok(real.clone()), "the control");
        assert_eq!(trusted(&link), Ok(real));
        allow(&own, 0o757);
        assert!(trusted(&link).unwrap_err().ends_with("is writable by others"));
        allow(&own, 0o755);
        allow(scratch.path(), 0o777);
        assert!(trusted(&own).is_err(), "it could be replaced");
        allow(scratch.path(), 0o1777);
        assert!(trusted(&own).is_ok(), "only its owner can replace it");
        assert!(trusted(Path::new("sh")).is_ok(), "from our own PATH");
        let file = std::fs::metadata(&own).unwrap();
        let why = distrust(&file, [file.uid() + 1; 2]);
        assert_eq!(why, Some(format!("is owned by uid {}", file.uid())));
    }

    /// systemctl prints two lines, containerd its log and then an error.
    #[test]
    fn what_it_says_of_a_failure_is_one_line() {
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'a failed.\\n\\n  See b.\\n' >&2; exit 3"]);
        let error = run_as("x", &mut command, Duration::from_secs(10)).unwrap_err().to_string();
        assert_eq!(error, "x: exit status: 3: a failed.; See b.");
    }

    #[test]
    fn one_that_hangs_is_ended() {
        let began = Instant::now();
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn one_that_hangs_may_first_undo_what_it_has_begun() {
        let scratch = tempfile::tempdir().unwrap();
        let undone = |grace: Grace| {
            let undone = scratch.path().join(grace.is_some().to_string());
            let script = "trap 'touch \"$0\"; exit' TERM; while :; do sleep 0.05; done";
            let mut command = Command::new("sh");
            let ran = output(command.args(["-c", script]).arg(&undone), SHORT, grace);
            assert!(ran.unwrap_err().to_string().contains("did not end"));
            undone.exists()
        };
        assert!(undone(Some((Signal::TERM, Duration::from_secs(20)))));
        assert!(!undone(None), "the control");
    }

    #[test]
    fn a_failure_says_why() {
        let error =
            run(Command::new("sh").args(["-c", "echo no >&2; exit 4"]), Duration::from_secs(30));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("status: 4") && error.ends_with(": no"), "{error}");
    }
}
