//! A node in a box for each side: `scripts/node`.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::shape::{Both, Sides};
use crate::side::Side;

/// The default path of scripts/node.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/node");
/// The journal must still have every record at the end of a storm.
const JOURNAL: &str = "printf '[journal]\\nmax_kib = 1048576\\n' >>/etc/frostlock/config.toml";

/// The node ends with this value, or with our process.
struct Node {
    dir: tempfile::TempDir,
}

/// Runs the requested sides, one after the other.
pub(crate) fn sides(both: &Both) -> anyhow::Result<Vec<Side>> {
    std::fs::create_dir_all(&both.out)
        .with_context(|| format!("cannot make {}", both.out.display()))?;
    let out = both.out.canonicalize()?;
    let mut sides = Vec::new();
    for (label, unless) in [("bare", Sides::Wrapped), ("wrapped", Sides::Bare)] {
        if both.side == unless {
            continue;
        }
        eprintln!("resize-storm: {label}, containerd {}, {}", both.containerd, runtime(both));
        sides.push(side(both, label, &out)?);
    }
    Ok(sides)
}

fn side(both: &Both, label: &str, out: &Path) -> anyhow::Result<Side> {
    let result = out.join(format!("{label}.json"));
    let program = std::env::current_exe()?;
    let node = Node::up(both, label, &program, out)?;
    if label == "wrapped" {
        succeed(node.script("exec").args(["sh", "-c", JOURNAL]))?;
    }
    // The node's C library is not the one that we are linked to.
    let libraries = PathBuf::from(format!("/host/usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
    let mut inner = node.script("exec");
    inner.arg("env").arg(format!("TERM={term}"));
    inner
        .arg(libraries.join(format!("ld-linux-{}.so.2", std::env::consts::ARCH.replace('_', "-"))));
    inner.arg("--library-path").arg(&libraries).arg(&program);
    inner.args(["here", "--label", label, "--result"]).arg(&result).args(both.shape.words());
    let ended = inner.stdin(Stdio::null()).status().context("scripts/node")?;
    if !ended.success() {
        std::fs::write(out.join(format!("{label}.log")), node.logs()?)?;
        bail!("the {label} side has failed, see {label}.log in {}", out.display());
    }
    if std::env::var_os("RESIZE_STORM_LOGS").is_some() {
        std::fs::write(out.join(format!("{label}.log")), node.logs()?)?;
    }
    Side::load(&result)
}

fn runtime(both: &Both) -> &str {
    // The versions that Debian combines.
    let usual = if both.containerd.starts_with("1.6") { "runc-1.1.15" } else { "runc-1.3.6" };
    both.runtime.as_deref().unwrap_or(usual)
}

impl Node {
    fn up(both: &Both, label: &str, program: &Path, out: &Path) -> anyhow::Result<Node> {
        let dir = tempfile::Builder::new().prefix("frostlock-node-").tempdir_in("/dev/shm")?;
        let node = Node { dir };
        let mut up = node.script("up");
        up.args(["--containerd", &both.containerd, "--runtime", runtime(both)]);
        up.args(["--owner", &std::process::id().to_string()]);
        up.arg("--show").arg(program).arg("--share").arg(out);
        if label == "wrapped" {
            up.arg("--wrapped");
        }
        succeed(&mut up)?;
        Ok(node)
    }

    fn script(&self, action: &str) -> Command {
        let script = std::env::var_os("RESIZE_STORM_NODE").unwrap_or_else(|| SCRIPT.into());
        let mut command = Command::new(script);
        command.env("FROSTLOCK_NODE", self.dir.path().join("node")).arg(action);
        command
    }

    fn logs(&self) -> anyhow::Result<String> {
        succeed(&mut self.script("logs"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = succeed(&mut self.script("down")) {
            eprintln!("resize-storm: the node is not down: {error:#}");
        }
    }
}

/// Returns the output, by way of files: a node outlives the script that started it, and keeps
/// inherited descriptors open.
fn succeed(command: &mut Command) -> anyhow::Result<String> {
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let status = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("scripts/node: {status}: {}", contents(&mut err)?.trim());
    }
    contents(&mut out)
}

fn contents(file: &mut File) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
