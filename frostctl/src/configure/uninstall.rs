//! `frostctl uninstall`: the binary goes only when nobody calls it any more.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::exit::Exit;
use crate::output::Output;

use super::engine::Engine;
use super::record::Record;
use super::report::Report;
use super::{Target, binary, file, live, remove};

/// Take frostlock off this node
///
/// Takes it out of every configuration that `frostctl configure` has put it into, then removes the
/// binary. As long as a shim or a conmon still calls it by its path, a link to the runtime is left
/// in its place, so that those containers can be stopped and deleted; run it again when they are
/// gone.
#[derive(Debug, clap::Args)]
pub(crate) struct Uninstall {
    /// The installed frostlock; by default the one beside frostctl, in /usr/local/bin or in PATH
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,

    /// Change nothing, say what would be done; exits with 1 if there is something
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Done {
    dry_run: bool,
    configurations: Vec<Report>,
    binary: PathBuf,
    /// The link that is left, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    link_to: Option<PathBuf>,
    removed: bool,
    called_by: Vec<String>,
}

impl Uninstall {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let records = Record::all()?;
        let path = self.path(&records)?;
        let configurations: Vec<Report> =
            records.iter().map(|record| self.unconfigure(record)).collect::<anyhow::Result<_>>()?;
        let mut called_by: Vec<String> = live::uses(&path, &[])
            .into_iter()
            .map(|found| format!("{} {}", found.of.name(), found.container))
            .collect();
        called_by.extend(by_hand(&path, &records));
        let link = !called_by.is_empty();
        let runtime = if link { Some(runtime(&path)?) } else { None };
        if !self.dry_run {
            match &runtime {
                Some(runtime) => replace_by_link(&path, runtime)?,
                None => file::remove(&path)?,
            }
        }
        let done = Done {
            dry_run: self.dry_run,
            configurations,
            binary: path,
            link_to: runtime,
            removed: !link,
            called_by,
        };
        output.print(&done, |out| done.write(out))?;
        Ok(if self.dry_run || link { Exit::Found } else { Exit::Clean })
    }

    /// A link of ours to the runtime may be all that is left of it.
    fn path(&self, records: &[Record]) -> anyhow::Result<PathBuf> {
        let left = self.binary.as_deref().filter(|path| path.is_symlink());
        if let Some(left) = left {
            return Ok(std::path::absolute(left)?);
        }
        let recorded = records.first().map(|record| PathBuf::from(&record.binary));
        let recorded = recorded.filter(|path| path.exists());
        let given = self.binary.clone().or(recorded);
        Ok(binary::find(given.as_deref())?.into())
    }

    fn unconfigure(&self, record: &Record) -> anyhow::Result<Report> {
        let target = Target {
            runtime: record.engine,
            config: Some(record.path.clone()),
            drop_in: None,
            name: record.name.clone(),
            dry_run: self.dry_run,
        };
        remove::remove(&target, true)
            .with_context(|| format!("{:?}; the binary was left as it is", record.path))
    }
}

/// Configurations that name it and are not of our making.
fn by_hand(binary: &Path, records: &[Record]) -> Vec<String> {
    let engines = <Engine as clap::ValueEnum>::value_variants();
    let paths = engines.iter().map(|engine| engine.default_path("frostlock"));
    paths
        .filter(|path| records.iter().all(|record| record.path != *path))
        .filter(|path| {
            let text = file::read(path).ok().flatten().unwrap_or_default();
            binary.to_str().is_some_and(|binary| text.contains(&format!("\"{binary}\"")))
        })
        .map(|path| format!("the configuration {}, which was edited by hand", path.display()))
        .collect()
}

/// What stands for the wrapper in the link that is left.
fn runtime(path: &Path) -> anyhow::Result<PathBuf> {
    if path.is_symlink() && !frostlock::locate::is_frostlock(path) {
        return std::fs::read_link(path).with_context(|| format!("cannot read {path:?}"));
    }
    let text = path.to_str().with_context(|| format!("{path:?} is not UTF-8"))?;
    binary::runtime_of(text)
}

/// In one step: at every moment there is something to call.
fn replace_by_link(path: &Path, runtime: &Path) -> anyhow::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let temporary = directory.join(format!(".frostctl-link-{}", std::process::id()));
    file::remove(&temporary)?;
    std::os::unix::fs::symlink(runtime, &temporary)
        .with_context(|| format!("cannot make a link in {directory:?}"))?;
    if let Err(error) = std::fs::rename(&temporary, path) {
        file::remove(&temporary)?;
        bail!("cannot replace {path:?} by a link to {runtime:?}: {error}");
    }
    file::sync_directory(directory)
}

impl Done {
    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        for report in &self.configurations {
            report.write(out)?;
        }
        let would = if self.dry_run { "would be " } else { "" };
        let path = self.binary.display();
        match &self.link_to {
            None => writeln!(out, "{path}: {would}removed, nothing calls it any more"),
            Some(runtime) => {
                writeln!(
                    out,
                    "{path}: {would}a link to {}, since it is still called by",
                    runtime.display()
                )?;
                self.called_by.iter().try_for_each(|user| writeln!(out, "  {user}"))?;
                writeln!(out, "next: frostctl uninstall --binary {path}, when these are gone")
            }
        }
    }
}
