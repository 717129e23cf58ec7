//! `frostctl uninstall`: the binary is removed only when nobody calls it any more.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::environment::STATE_DIR;
use crate::exit::Exit;
use crate::loaded::Unasked;
use crate::node::containerd::{self, SOCKETS};
use crate::node::processes;
use crate::node::root::Root;
use crate::node::{crio, docker};
use crate::output::Output;

use super::engine::Engine;
use super::record::Ours;
use super::record::Record;
use super::remove::Removal;
use super::report::Report;
use super::{binary, file, layout, live, places, purge, restart};

/// Take frostlock off this node
///
/// Takes frostlock out of every configuration that `frostctl configure` has put it into, then
/// removes the binary. It refuses while containers run through one of these configurations: kubelet
/// cannot end pods whose handler is gone. While a shim or a conmon still calls the binary by its
/// path, a link to the runtime is left in its place, so that those containers can be stopped and
/// deleted; run uninstall again when they are gone.
#[derive(Debug, clap::Args)]
#[command(after_help = concat!(
    "Examples:\n",
    "  frostctl uninstall --dry-run\n",
    "  frostctl uninstall --purge"
))]
pub(crate) struct Uninstall {
    /// The installed frostlock; by default the one beside frostctl, in /usr/local/bin or in PATH
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,

    /// Change nothing, say what would be done; exits with 1 if anything would, and with 3 if it would
    /// be refused
    #[arg(long)]
    dry_run: bool,

    /// Also remove the journals, the state, the backups, the pages and frostctl itself; settings in
    /// /etc/frostlock and units of systemd stay
    #[arg(long)]
    purge: bool,

    /// Leave every configuration as it is, and a link to the runtime where one of them names the binary
    #[arg(long, conflicts_with = "purge")]
    keep_configurations: bool,

    /// Go ahead although containers run through frostlock, or hooks call it
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Serialize)]
struct Done {
    dry_run: bool,
    configurations: Vec<Report>,
    binary: PathBuf,
    /// The target of the link that is left in the binary's place.
    #[serde(skip_serializing_if = "Option::is_none")]
    link_to: Option<PathBuf>,
    /// Links to the binary that are still called; each now points to its own runtime.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    other_links: Vec<Link>,
    removed: bool,
    called_by: Vec<String>,
    /// With --purge, what was removed as well.
    purged: Vec<purge::Left>,
    stays: Vec<purge::Left>,
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

impl Caller {
    /// By those of the named paths that lead to the binary.
    fn of(binary: &Path, named: impl IntoIterator<Item = PathBuf>, who: String) -> Vec<Caller> {
        let leads = named.into_iter().filter(|it| live::leads_over(it, binary));
        leads.map(|named| Caller { who: who.clone(), named }).collect()
    }
}

impl Uninstall {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let is_root = nix::unistd::geteuid().is_root();
        if self.purge && !is_root && std::env::var_os(STATE_DIR).is_none() {
            bail!("--purge needs root, to see what there is on this node; nothing was changed");
        }
        let records = Record::all().context("nothing was changed")?;
        let path = self.path(&records)?;
        let taken_out = entries(&records).filter(|_| !self.keep_configurations);
        let places: Vec<_> = taken_out.map(|it| (&it.name, places::of_record(it))).collect();
        let removals: Vec<Removal> = places
            .iter()
            .map(|(name, files)| Removal {
                name,
                files,
                force: true,
                is_kept: self.force,
                dry_run: self.dry_run,
            })
            .collect();
        let refused = match self.may_go(&removals, &path) {
            Err(why) if !self.dry_run => return Err(why),
            checked => checked.err(),
        };
        let configurations: Vec<Report> = removals
            .iter()
            .map(|removal| {
                let entry = &removal.files.entry;
                removal
                    .run(None)
                    .with_context(|| format!("{entry:?}; the binary was left as it is"))
            })
            .collect::<anyhow::Result<_>>()?;
        let callers = self.callers(&path, &records);
        let (own_link, other_links) = links(&callers, &path)?;
        let removed = own_link.is_none() && path.symlink_metadata().is_ok();
        let mut links = other_links.iter().chain(&own_link);
        let links_change = !links.clone().all(Link::is_made);
        if !self.dry_run {
            links.try_for_each(Link::make)?;
            if own_link.is_none() {
                file::remove(&path)?;
            }
        }
        let is_called = !callers.is_empty();
        // Callers still need their locks and their records.
        let goes = self.purge && !is_called;
        let (purged, stays): (Vec<_>, Vec<_>) =
            purge::left(&path).into_iter().partition(|it| goes && !it.is_theirs);
        if !self.dry_run {
            purge::remove(&purged)?;
        }
        let would_change = removed
            || links_change
            || !purged.is_empty()
            || configurations.iter().any(Report::changes);
        let done = Done {
            dry_run: self.dry_run,
            configurations,
            binary: path,
            removed,
            link_to: own_link.map(|it| it.to),
            other_links,
            called_by: callers.into_iter().map(|caller| caller.who).collect(),
            purged,
            stays,
        };
        output.print(&done, |out| done.write(out))?;
        if let Some(why) = refused {
            return Err(why);
        }
        Ok(if (self.dry_run && would_change) || is_called { Exit::Found } else { Exit::Clean })
    }

    /// Checks everything before anything is changed.
    fn may_go(&self, removals: &[Removal<'_>], binary: &Path) -> anyhow::Result<()> {
        if !self.force {
            is_unused(removals, binary)?;
        }
        // Even --force must not lose the notes that undo a freeze or a lift.
        match self.purge.then(purge::needed).flatten() {
            Some(why) => bail!("{why}; nothing was changed"),
            None => Ok(()),
        }
    }

    fn callers(&self, path: &Path, records: &[Record]) -> Vec<Caller> {
        let mut callers: Vec<Caller> = live::uses(path)
            .into_iter()
            .map(|found| Caller {
                who: format!("{} {}", found.of.name(), found.container),
                named: found.named,
            })
            .collect();
        if self.keep_configurations {
            callers.extend(kept(path, records));
        }
        // Our entry is still in configurations that stay, or are only looked at.
        let ours: &[Record] = if self.dry_run || self.keep_configurations { records } else { &[] };
        callers.extend(by_hand(path, ours));
        callers.extend(loaded(path));
        callers
    }

    /// Only our link to the runtime may be left of it.
    fn path(&self, records: &[Record]) -> anyhow::Result<PathBuf> {
        let is_left = |path: &PathBuf| path.is_symlink() && !config::locate::is_frostlock(path);
        if let Some(given) = self.binary.as_ref().filter(|path| path.is_symlink()) {
            return Ok(std::path::absolute(given)?);
        }
        let recorded = records.first().map(|record| PathBuf::from(&record.binary));
        let recorded = recorded.filter(|path| path.exists());
        let named = self.binary.clone().or(recorded);
        let left = binary::usual().into_iter().find(is_left).filter(|_| named.is_none());
        if let Some(left) = left {
            return Ok(left);
        }
        match binary::find(named.as_deref()) {
            // The binary may be gone while the rest is not.
            Err(_) if self.purge && self.binary.is_none() && !binary::usual_place().exists() => {
                Ok(binary::usual_place())
            }
            found => Ok(found?.into()),
        }
    }
}

/// The records without imports whose target has its own record: the two go together.
fn entries(records: &[Record]) -> impl Iterator<Item = &Record> {
    let has_entry = |import: &Record| match &import.ours {
        Ours::Import(path) => records
            .iter()
            .any(|it| it.path == Path::new(path) && it.main.as_ref() == Some(&import.path)),
        _ => false,
    };
    records.iter().filter(move |it| !has_entry(it))
}

fn is_unused(removals: &[Removal<'_>], binary: &Path) -> anyhow::Result<()> {
    let mut used = Vec::new();
    for removal in removals {
        used.extend(removal.used()?);
    }
    used.dedup();
    if !used.is_empty() {
        bail!("{}; end them first, or add --force; nothing was changed", used.join("; "));
    }
    let hooks = purge::hooks(binary);
    if let Some(hook) = hooks.first() {
        bail!(
            "{} runs it for every container; remove that file first, or add --force; nothing was changed",
            hook.display()
        );
    }
    Ok(())
}

/// What a running containerd, CRI-O or dockerd has loaded, whatever its files say now: without the
/// binary, none of its containers would start.
fn loaded(binary: &Path) -> Vec<Caller> {
    let all = daemons().into_iter().filter(|it| it.runs || it.socket.exists());
    all.flat_map(|it| it.calls(it.ask(), binary)).collect()
}

type Programs = Vec<(String, PathBuf)>;

/// An engine that may answer.
struct Daemon {
    engine: Engine,
    socket: PathBuf,
    runs: bool,
}

/// Engines that run, at the sockets that they were told, and any that listens at a usual socket.
fn daemons() -> Vec<Daemon> {
    let of = |engine, told: Vec<PathBuf>, usual: &[&str]| -> Vec<Daemon> {
        let usual = usual.iter().map(PathBuf::from).filter(|it| !told.contains(it));
        let usual: Vec<Daemon> =
            usual.map(|socket| Daemon { engine, socket, runs: false }).collect();
        let told = told.into_iter().map(|socket| Daemon { engine, socket, runs: true });
        told.chain(usual).collect()
    };
    let running = processes::named(&Root::default(), &["crio"]);
    let runs = running.iter().any(|it| it.is_here);
    let crio = Daemon { engine: Engine::Crio, socket: crio::socket(), runs };
    let mut all = of(Engine::Containerd, containerd::listening(), &SOCKETS);
    all.push(crio);
    all.extend(of(Engine::Docker, docker::listening(), &[docker::SOCKET]));
    all
}

impl Daemon {
    fn ask(&self) -> Result<Programs, Unasked> {
        if self.engine == Engine::Docker {
            return self.ask_docker();
        }
        let asked = crate::loaded::ask(&self.socket);
        let handlers = asked.or_else(|why| match why {
            // A CRI-O whose answer has no configuration tells its own command.
            Unasked::Untold(_) if self.engine == Engine::Crio => restart::crio_status().ok_or(why),
            why => Err(why),
        })?;
        Ok(handlers.into_iter().filter_map(|it| Some((it.name, it.binary?))).collect())
    }

    /// After a reload dockerd keeps a runtime that is no longer in its file.
    fn ask_docker(&self) -> Result<Programs, Unasked> {
        let info = docker::ask(&self.socket).map_err(|why| Unasked::NoAnswer(why.to_string()))?;
        info.as_ref().and_then(docker::programs).ok_or(Unasked::Untold(Vec::new()))
    }

    fn calls(&self, programs: Result<Programs, Unasked>, binary: &Path) -> Vec<Caller> {
        let has =
            |name| format!("{self}, which has the runtime {name} loaded until it is restarted");
        match programs {
            Ok(all) => {
                all.into_iter().flat_map(|(name, it)| Caller::of(binary, [it], has(name))).collect()
            }
            // An engine that runs and does not tell may have it.
            Err(why) if self.runs && why != Unasked::NoCri => {
                let who = format!("{self}, perhaps: it does not say what it has loaded");
                vec![Caller { who, named: binary.to_owned() }]
            }
            Err(_) => Vec::new(),
        }
    }
}

impl std::fmt::Display for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let program = match self.engine {
            Engine::Docker => "dockerd",
            Engine::Crio => "CRI-O",
            engine => engine.name(),
        };
        write!(f, "the {program} at {}", self.socket.display())
    }
}

/// Configurations that we wrote and that stay.
fn kept(binary: &Path, records: &[Record]) -> Vec<Caller> {
    let who =
        |it: &Record| format!("the configuration {}, which stays as it is", it.path.display());
    let all = entries(records);
    all.flat_map(|it| Caller::of(binary, [PathBuf::from(&it.binary)], who(it))).collect()
}

/// Configurations that name the binary and that we did not write.
fn by_hand(binary: &Path, records: &[Record]) -> Vec<Caller> {
    let engines = <Engine as clap::ValueEnum>::value_variants().iter();
    let files = engines.map(|engine| (*engine, engine.default_path("frostlock")));
    let others = files.filter(|(_, path)| !records.iter().any(|it| it.path == *path));
    let callers = others.flat_map(|(engine, path)| {
        let text = file::read(&path).ok().flatten().unwrap_or_default();
        let runtimes = layout::handlers(engine, &text).into_iter().flatten();
        let who = format!("the configuration {}, which was edited by hand", path.display());
        Caller::of(binary, runtimes.filter_map(|it| it.binary), who)
    });
    callers.collect()
}

/// The link in the binary's place if it is called by its own path, and those in the places of its
/// aliases: frostlock-crun runs crun, so the link in its place must lead to crun, too.
fn links(callers: &[Caller], binary: &Path) -> anyhow::Result<(Option<Link>, Vec<Link>)> {
    let named = callers.iter().map(|it| it.named.as_path());
    let (directly, aliases): (BTreeSet<_>, BTreeSet<_>) =
        named.partition(|named| is_direct(named, binary));
    let own = directly.first().map(|_| Link::at(binary)).transpose()?;
    let others = aliases.into_iter().map(Link::at).collect::<anyhow::Result<_>>()?;
    Ok((own, others))
}

/// Whether the path is the binary's own, or its bare name.
fn is_direct(named: &Path, binary: &Path) -> bool {
    !named.is_absolute() || !named.is_symlink() || live::leads_over(binary, named)
}

/// The runtime to which the remaining link points.
fn runtime(path: &Path) -> anyhow::Result<PathBuf> {
    if path.is_symlink() && !config::locate::is_frostlock(path) {
        return std::fs::read_link(path).with_context(|| format!("cannot read {path:?}"));
    }
    let text = path.to_str().with_context(|| format!("{path:?} is not UTF-8"))?;
    binary::runtime_of(text, None)
}

impl Link {
    fn at(path: &Path) -> anyhow::Result<Link> {
        Ok(Link { path: path.to_owned(), to: runtime(path)? })
    }

    /// As an earlier uninstall has made it.
    fn is_made(&self) -> bool {
        std::fs::read_link(&self.path).is_ok_and(|it| it == self.to)
    }

    /// In one step: at every moment there is something to call.
    fn make(&self) -> anyhow::Result<()> {
        let Link { path, to } = self;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let temporary = directory.join(format!(".frostctl-link-{}", std::process::id()));
        file::remove(&temporary)?;
        std::os::unix::fs::symlink(to, &temporary)
            .with_context(|| format!("cannot make a link in {directory:?}"))?;
        if let Err(error) = std::fs::rename(&temporary, path) {
            file::remove(&temporary)?;
            bail!("cannot replace {path:?} by a link to {to:?}: {error}");
        }
        file::sync_directory(directory)
    }
}

impl Done {
    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        for report in &self.configurations {
            report.write(out)?;
        }
        let would = if self.dry_run { "would be " } else { "" };
        let path = self.binary.display();
        match (&self.link_to, self.removed) {
            (Some(_), _) => {}
            (None, true) => {
                writeln!(out, "{path}: {would}removed, nothing calls it by this path any more")?;
            }
            (None, false) => writeln!(out, "{path}: is not there")?,
        }
        let own = self.link_to.iter().map(|to| (&self.binary, to));
        let links: Vec<_> =
            own.chain(self.other_links.iter().map(|it| (&it.path, &it.to))).collect();
        for (path, to) in &links {
            writeln!(out, "{}: {would}a link to {}", path.display(), to.display())?;
        }
        if !links.is_empty() {
            writeln!(out, "still called by")?;
            self.called_by.iter().try_for_each(|user| writeln!(out, "  {user}"))?;
        }
        for it in &self.purged {
            writeln!(out, "{}: {would}removed ({})", it.path.display(), it.what)?;
        }
        for it in &self.stays {
            writeln!(out, "{}: stays ({})", it.path.display(), it.what)?;
        }
        if self.stays.iter().any(|it| !it.is_theirs) {
            let when = if links.is_empty() { "" } else { ", when these are gone" };
            writeln!(
                out,
                "next: `frostctl uninstall --purge` removes what stays, except your settings{when}"
            )?;
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
    fn an_engine_that_runs_and_does_not_tell_may_have_it_loaded() {
        let binary = Path::new("/x/frostlock");
        let calls = |runs, programs: Result<&[&str], Unasked>| {
            let daemon = Daemon { engine: Engine::Docker, socket: "/s".into(), runs };
            let named = |all: &[&str]| all.iter().map(|it| ("r".to_owned(), it.into())).collect();
            let found = daemon.calls(programs.map(named), binary);
            found.into_iter().map(|it| it.who).collect::<String>()
        };
        assert!(calls(true, Ok(&["runc", "/x/frostlock"])).contains("has the runtime r loaded"));
        assert_eq!(calls(true, Ok(&["runc", "/usr/bin/crun"])), "");
        let untold = || Unasked::Untold(Vec::new());
        let mute = || Unasked::NoAnswer("no answer".to_owned());
        for why in [untold(), mute()] {
            assert!(calls(true, Err(why)).contains("does not say"));
        }
        assert_eq!(calls(true, Err(Unasked::NoCri)), "", "the control");
        assert_eq!(calls(false, Err(untold())) + &calls(false, Err(mute())), "");
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
