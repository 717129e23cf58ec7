//! `frostctl uninstall`: the binary is removed only when nobody calls it any more.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::environment::STATE_DIR;
use crate::exit::Exit;
use crate::loaded::{Handler, Unasked};
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

impl Uninstall {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let is_root = nix::unistd::geteuid().is_root();
        if self.purge && !is_root && std::env::var_os(STATE_DIR).is_none() {
            bail!("--purge needs root, to see what there is on this node; nothing was changed");
        }
        let records = Record::all().context("nothing was changed")?;
        let path = match self.path(&records) {
            // The binary may be gone while the rest is not.
            Err(_) if self.purge && self.binary.is_none() && !binary::usual_place().exists() => {
                binary::usual_place()
            }
            path => path?,
        };
        let places: Vec<_> = entries(&records).map(|it| (it, places::of_record(it))).collect();
        let taken_out = if self.keep_configurations { &[] } else { &places[..] };
        let removals: Vec<Removal> = taken_out
            .iter()
            .map(|(record, files)| Removal {
                name: &record.name,
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
        // frostlock-crun runs crun: the link in its place must lead to crun, too.
        let (directly, by_links): (Vec<&Caller>, Vec<&Caller>) =
            callers.iter().partition(|caller| is_direct(&caller.named, &path));
        let mut aliases: Vec<&Path> = by_links.iter().map(|it| it.named.as_path()).collect();
        aliases.sort();
        aliases.dedup();
        let other_links = aliases.into_iter().map(link).collect::<anyhow::Result<Vec<Link>>>()?;
        let runtime = if directly.is_empty() { None } else { Some(runtime(&path)?) };
        // A link from an earlier uninstall is already as it should be.
        let is_link = |at: &Path, to: &Path| std::fs::read_link(at).is_ok_and(|it| it == to);
        let goes_now = match &runtime {
            Some(runtime) => !is_link(&path, runtime),
            None => path.symlink_metadata().is_ok(),
        };
        let links_change = other_links.iter().any(|it| !is_link(&it.path, &it.to));
        if !self.dry_run {
            other_links.iter().try_for_each(|link| replace_by_link(&link.path, &link.to))?;
            match &runtime {
                Some(runtime) => replace_by_link(&path, runtime)?,
                None => file::remove(&path)?,
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
        let would_change = goes_now
            || links_change
            || !purged.is_empty()
            || configurations.iter().any(Report::changes);
        let done = Done {
            dry_run: self.dry_run,
            configurations,
            binary: path,
            removed: runtime.is_none() && goes_now,
            link_to: runtime,
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
        match self.binary.clone().or(recorded) {
            Some(path) => Ok(binary::find(Some(&path))?.into()),
            None => match binary::usual().into_iter().find(is_left) {
                Some(left) => Ok(left),
                None => Ok(binary::find(None)?.into()),
            },
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
    let cri = engines()
        .into_iter()
        .filter(|it| it.runs || it.socket.exists())
        .flat_map(|it| it.calls(it.ask(), binary));
    cri.chain(dockers(binary)).collect()
}

type Programs = Vec<(String, PathBuf)>;

/// After a reload dockerd keeps a runtime that is no longer in its file.
fn dockers(binary: &Path) -> Vec<Caller> {
    let running = docker::listening();
    let usual = PathBuf::from(docker::SOCKET);
    let usual = Some(usual).filter(|it| !running.contains(it));
    let daemon = |socket, runs| Daemon { name: "dockerd", socket, runs };
    let all =
        running.into_iter().map(|it| daemon(it, true)).chain(usual.map(|it| daemon(it, false)));
    let calls = |it: Daemon| match docker::ask(&it.socket) {
        Ok(None) if !it.runs => Vec::new(),
        Ok(info) => {
            let programs = info.as_ref().and_then(docker::programs);
            it.calls(programs.ok_or_else(|| Unasked::Untold(Vec::new())), binary)
        }
        Err(why) => it.calls(Err(Unasked::NoAnswer(why.to_string())), binary),
    };
    all.flat_map(calls).collect()
}

/// An engine that may answer.
struct Daemon {
    name: &'static str,
    socket: PathBuf,
    runs: bool,
}

/// Engines that run, at the sockets that they were told, and any that listens at a usual socket.
fn engines() -> Vec<Daemon> {
    let containerd = |socket, runs| Daemon { name: "containerd", socket, runs };
    let told = containerd::listening();
    let usual = SOCKETS.map(PathBuf::from).into_iter().filter(|it| !told.contains(it));
    let usual: Vec<Daemon> = usual.map(|socket| containerd(socket, false)).collect();
    let running = processes::read(&Root::default());
    let runs = running.iter().any(|it| it.comm == "crio" && it.is_here);
    let crio = Daemon { name: "CRI-O", socket: crio::socket(), runs };
    told.into_iter().map(|socket| containerd(socket, true)).chain(usual).chain([crio]).collect()
}

impl Daemon {
    /// A CRI-O whose answer has no configuration tells its own command.
    fn ask(&self) -> Result<Programs, Unasked> {
        let named = |it: Handler| Some((it.name, it.binary?));
        match crate::loaded::ask(&self.socket) {
            Ok(handlers) => Ok(handlers.into_iter().filter_map(named).collect()),
            Err(Unasked::Untold(names)) if self.name == "CRI-O" => {
                let said = restart::crio_status_config().ok_or(Unasked::Untold(names))?;
                Ok(programs(Engine::Crio, &said))
            }
            Err(why) => Err(why),
        }
    }

    /// An engine that runs and does not tell may have it.
    fn calls(&self, programs: Result<Programs, Unasked>, binary: &Path) -> Vec<Caller> {
        match programs {
            Ok(programs) => self.has_loaded(programs, binary),
            Err(Unasked::NoCri) => Vec::new(),
            Err(_) if self.runs => vec![self.may_have_loaded(binary)],
            Err(_) => Vec::new(),
        }
    }

    fn has_loaded(&self, programs: Programs, binary: &Path) -> Vec<Caller> {
        let ours = programs.into_iter().filter(|(_, named)| live::leads_over(named, binary));
        let caller = |(name, named)| {
            let who = format!("{self}, which has the runtime {name} loaded until it is restarted");
            Caller { who, named }
        };
        ours.map(caller).collect()
    }

    fn may_have_loaded(&self, binary: &Path) -> Caller {
        let who = format!("{self}, perhaps: it does not say what it has loaded");
        Caller { who, named: binary.to_owned() }
    }
}

impl std::fmt::Display for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the {} at {}", self.name, self.socket.display())
    }
}

/// Configurations that we wrote and that stay.
fn kept(binary: &Path, records: &[Record]) -> Vec<Caller> {
    entries(records)
        .map(|record| Caller {
            who: format!("the configuration {}, which stays as it is", record.path.display()),
            named: PathBuf::from(&record.binary),
        })
        .filter(|caller| live::leads_over(&caller.named, binary))
        .collect()
}

/// Configurations that name the binary and that we did not write.
fn by_hand(binary: &Path, records: &[Record]) -> Vec<Caller> {
    let mut found = Vec::new();
    for &engine in <Engine as clap::ValueEnum>::value_variants() {
        let path = engine.default_path("frostlock");
        if records.iter().any(|record| record.path == path) {
            continue;
        }
        let text = file::read(&path).ok().flatten().unwrap_or_default();
        let named = programs(engine, &text).into_iter().map(|(_, named)| named);
        let who = format!("the configuration {}, which was edited by hand", path.display());
        let ours = named.filter(|named| live::leads_over(named, binary));
        found.extend(ours.map(|named| Caller { who: who.clone(), named }));
    }
    found
}

/// The programs of all runtimes in a configuration, by the runtimes' names.
fn programs(engine: Engine, text: &str) -> Programs {
    layout::handlers(engine, text)
        .into_iter()
        .filter_map(|it| Some((it.name, it.binary?)))
        .collect()
}

/// Whether the path is the binary's own, or its bare name.
fn is_direct(named: &Path, binary: &Path) -> bool {
    !named.is_absolute() || !named.is_symlink() || live::leads_over(binary, named)
}

fn link(path: &Path) -> anyhow::Result<Link> {
    Ok(Link { path: path.to_owned(), to: runtime(path)? })
}

/// The runtime to which the remaining link points.
fn runtime(path: &Path) -> anyhow::Result<PathBuf> {
    if path.is_symlink() && !config::locate::is_frostlock(path) {
        return std::fs::read_link(path).with_context(|| format!("cannot read {path:?}"));
    }
    let text = path.to_str().with_context(|| format!("{path:?} is not UTF-8"))?;
    binary::runtime_of(text, None)
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
    fn the_programs_of_a_configuration_are_found_whatever_its_quotes() {
        let runtime = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.x.options]";
        let text = format!("version = 3\n{runtime}\nBinaryName = '/x/frostlock'\n");
        let named = |path: &str| vec![("x".to_owned(), PathBuf::from(path))];
        assert_eq!(programs(Engine::Containerd, &text), named("/x/frostlock"));
        let text = r#"{"runtimes": {"x": {"path": "frostlock"}}}"#;
        assert_eq!(programs(Engine::Docker, text), named("frostlock"));
    }

    #[test]
    fn an_engine_that_runs_and_does_not_tell_may_have_it_loaded() {
        let binary = Path::new("/x/frostlock");
        let calls = |runs, programs: Result<&[&str], Unasked>| {
            let daemon = Daemon { name: "dockerd", socket: "/s".into(), runs };
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
