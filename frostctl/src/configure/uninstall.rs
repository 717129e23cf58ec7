//! `frostctl uninstall`: the binary goes only when nobody calls it any more.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::exit::Exit;
use crate::output::Output;

use super::engine::Engine;
use super::layout::Layout;
use super::record::Record;
use super::report::Report;
use super::{Target, binary, file, live, remove, toml_file};

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
    /// Links to the binary that are called, each of which is one to its own runtime now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    other_links: Vec<Link>,
    removed: bool,
    called_by: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Link {
    path: PathBuf,
    to: PathBuf,
}

/// Who calls the binary, for a person, and by which path.
struct Caller {
    who: String,
    named: PathBuf,
}

impl Uninstall {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let records = Record::all()?;
        let path = self.path(&records)?;
        let configurations: Vec<Report> =
            records.iter().map(|record| self.unconfigure(record)).collect::<anyhow::Result<_>>()?;
        let callers = self.callers(&path, &records);
        // frostlock-crun runs crun: what is left in its place must lead there, too.
        let (directly, by_links): (Vec<&Caller>, Vec<&Caller>) =
            callers.iter().partition(|caller| is_direct(&caller.named, &path));
        let mut aliases: Vec<&Path> = by_links.iter().map(|it| it.named.as_path()).collect();
        aliases.sort();
        aliases.dedup();
        let other_links = aliases.into_iter().map(link).collect::<anyhow::Result<Vec<Link>>>()?;
        let runtime = if directly.is_empty() { None } else { Some(runtime(&path)?) };
        if !self.dry_run {
            other_links.iter().try_for_each(|link| replace_by_link(&link.path, &link.to))?;
            match &runtime {
                Some(runtime) => replace_by_link(&path, runtime)?,
                None => file::remove(&path)?,
            }
        }
        let is_called = !callers.is_empty();
        let done = Done {
            dry_run: self.dry_run,
            configurations,
            binary: path,
            removed: runtime.is_none(),
            link_to: runtime,
            other_links,
            called_by: callers.into_iter().map(|caller| caller.who).collect(),
        };
        output.print(&done, |out| done.write(out))?;
        Ok(if self.dry_run || is_called { Exit::Found } else { Exit::Clean })
    }

    fn callers(&self, path: &Path, records: &[Record]) -> Vec<Caller> {
        let mut callers: Vec<Caller> = live::uses(path)
            .into_iter()
            .map(|found| Caller {
                who: format!("{} {}", found.of.name(), found.container),
                named: found.named,
            })
            .collect();
        // Ours is still in those that are only looked at.
        let ours: &[Record] = if self.dry_run { records } else { &[] };
        callers.extend(by_hand(path, ours));
        callers
    }

    /// A link of ours to the runtime may be all that is left of it.
    fn path(&self, records: &[Record]) -> anyhow::Result<PathBuf> {
        let is_left = |path: &PathBuf| path.is_symlink() && !config::locate::is_frostlock(path);
        if let Some(given) = self.binary.as_ref().filter(|path| path.is_symlink()) {
            return Ok(std::path::absolute(given)?);
        }
        let recorded = records.first().map(|record| PathBuf::from(&record.binary));
        let recorded = recorded.filter(|path| path.exists());
        match self.binary.clone().or(recorded) {
            Some(path) => Ok(binary::find(Some(&path))?.into()),
            None => match binary::usual().into_iter().find(is_left) {
                Some(left) => Ok(left),
                None => Ok(binary::find(None)?.into()),
            },
        }
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
fn by_hand(binary: &Path, records: &[Record]) -> Vec<Caller> {
    let mut found = Vec::new();
    for &engine in <Engine as clap::ValueEnum>::value_variants() {
        let path = engine.default_path("frostlock");
        if records.iter().any(|record| record.path == path) {
            continue;
        }
        let text = file::read(&path).ok().flatten().unwrap_or_default();
        let named = programs(engine, &text).into_iter().map(PathBuf::from);
        let who = format!("the configuration {}, which was edited by hand", path.display());
        let ours = named.filter(|named| live::leads_over(named, binary));
        found.extend(ours.map(|named| Caller { who: who.clone(), named }));
    }
    found
}

/// The program of every runtime in it.
fn programs(engine: Engine, text: &str) -> Vec<String> {
    if engine == Engine::Docker {
        let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let runtimes = value["runtimes"].as_object().into_iter().flatten();
        return runtimes.filter_map(|(_, it)| Some(it["path"].as_str()?.to_owned())).collect();
    }
    let Ok(document) = toml_file::parse(text) else { return Vec::new() };
    let Ok(layout) = Layout::of(engine, &document) else { return Vec::new() };
    let entries = layout.names(&document);
    let entries = entries.iter().filter_map(|name| layout.entry(&document, name));
    entries.filter_map(|entry| Some(layout.binary_of(entry)?.to_owned())).collect()
}

/// By its own path, or by its bare name.
fn is_direct(named: &Path, binary: &Path) -> bool {
    !named.is_absolute() || !named.is_symlink() || live::leads_over(binary, named)
}

fn link(path: &Path) -> anyhow::Result<Link> {
    Ok(Link { path: path.to_owned(), to: runtime(path)? })
}

/// What stands for the wrapper in the link that is left.
fn runtime(path: &Path) -> anyhow::Result<PathBuf> {
    if path.is_symlink() && !config::locate::is_frostlock(path) {
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
        if self.link_to.is_none() {
            writeln!(out, "{path}: {would}removed, nothing calls it by this name any more")?;
        }
        let own = self.link_to.iter().map(|to| (&self.binary, to));
        let links: Vec<_> =
            own.chain(self.other_links.iter().map(|it| (&it.path, &it.to))).collect();
        for (path, to) in &links {
            writeln!(out, "{}: {would}a link to {}", path.display(), to.display())?;
        }
        if !links.is_empty() {
            writeln!(out, "it is still called by")?;
            self.called_by.iter().try_for_each(|user| writeln!(out, "  {user}"))?;
        }
        for (path, _) in &links {
            let path = path.display();
            writeln!(out, "next: frostctl uninstall --binary {path}, when these are gone")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_of_a_configuration_are_found_whatever_its_quotes() {
        let runtime = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.x.options]";
        let text = format!("version = 3\n{runtime}\nBinaryName = '/x/frostlock'\n");
        assert_eq!(programs(Engine::Containerd, &text), ["/x/frostlock"]);
        let text = r#"{"runtimes": {"x": {"path": "frostlock"}}}"#;
        assert_eq!(programs(Engine::Docker, text), ["frostlock"]);
    }

    #[test]
    fn a_link_to_the_binary_is_a_name_of_its_own() {
        let scratch = tempfile::tempdir().unwrap();
        let [binary, alias] = ["frostlock", "frostlock-crun"].map(|it| scratch.path().join(it));
        std::fs::write(&binary, "").unwrap();
        std::os::unix::fs::symlink("frostlock", &alias).unwrap();
        assert!(is_direct(&binary, &binary) && is_direct(Path::new("frostlock"), &binary));
        assert!(!is_direct(&alias, &binary));
    }
}
