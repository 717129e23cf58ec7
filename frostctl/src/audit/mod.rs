//! Containers that are not what somebody says they are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::exit::Exit;
use crate::output::Output;
use claim::Seen;
use healing::Wish;
use judge::Divergence;
pub(crate) use judge::Kind;
use look::{Patience, Places};

mod account;
mod claim;
mod command;
mod containerd;
mod heal;
mod healing;
mod judge;
mod kubernetes;
mod look;
mod podman;
mod runtimes;
mod show;
mod strays;
mod supervisor;
mod truth;
mod watch;

/// What is being stopped just now looks like a phantom for a moment, so everything is looked at twice.
const SETTLES: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Kinds:
  phantom                it is said to run, and its process is gone
  orphan                 processes in a container's cgroup, and nobody has the container
  frozen-but-running     it is said to run, and is frozen, and nobody has paused it
  stopped-but-populated  it is said to have ended, and has processes
  disagreement           runtime, containerd and CRI say different things

Examples:
  frostctl audit                      look, change nothing
  frostctl audit --heal --dry-run     what would be done
  frostctl audit --heal               do it, one container at a time
  frostctl audit --watch --json       a line of JSON for each that appears or is gone";

#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("change").args(["heal", "kill_orphans"]).multiple(true)))]
pub(crate) struct Audit {
    /// End what is only said to run, through CRI, containerd or the runtime; their files are not
    /// touched. What is left of a stopped container of plain runc is deleted, its processes killed
    #[arg(long)]
    heal: bool,

    /// Kill the processes of orphans, and with --heal those of stopped containers of engines
    #[arg(long)]
    kill_orphans: bool,

    /// Only say what --heal or --kill-orphans would do
    #[arg(long, requires = "change")]
    dry_run: bool,

    /// Go on looking; tell of each divergence within 2 s, until SIGINT or SIGTERM
    #[arg(long, conflicts_with_all = ["heal", "kill_orphans", "dry_run"])]
    watch: bool,

    /// A socket of containerd's, in place of the usual ones; can be repeated
    #[arg(long, value_name = "PATH")]
    socket: Vec<PathBuf>,

    /// A root directory of runc, crun or youki beside the usual ones; can be repeated
    #[arg(long, value_name = "DIR")]
    root: Vec<PathBuf>,
}

/// What lasts.
#[derive(Debug)]
struct Findings {
    seen: Seen,
    divergences: Vec<Divergence>,
}

impl Findings {
    /// How many of each kind; each kind is in it.
    fn counts(&self) -> BTreeMap<Kind, usize> {
        let count = |kind| self.divergences.iter().filter(|it| it.kind == kind).count();
        Kind::ALL.into_iter().map(|kind| (kind, count(kind))).collect()
    }
}

/// A scrape that has given up leaves its audit behind; the next ones must not pile up on it.
static COUNTING: Mutex<()> = Mutex::new(());

/// How many of each kind there are on this node, for a scrape that has no time to wait for a shim.
pub(crate) fn count() -> anyhow::Result<BTreeMap<&'static str, usize>> {
    let Ok(_only) = COUNTING.try_lock() else {
        anyhow::bail!("the audit of an earlier scrape is still on its way")
    };
    supervisor::check_namespaces()?;
    let findings = find(&Places::usual(), Patience::HASTY)?;
    // Who was not asked has nothing wrong, by that count, and an alert would be resolved.
    let failed = findings.seen.asked.iter();
    let failed = failed.filter_map(|asked| Some((&asked.place, asked.answer.as_ref().err()?)));
    if let Some((place, why)) = failed.into_iter().next() {
        anyhow::bail!("{place}: {why}");
    }
    let counts = findings.counts();
    Ok(counts.into_iter().map(|(kind, count)| (kind.name(), count)).collect())
}

/// Looks twice, if there is something at the first look.
fn find(places: &Places, patience: Patience) -> anyhow::Result<Findings> {
    let seen = look::look(places, patience)?;
    let first = judge::judge(&seen);
    if first.is_empty() {
        return Ok(Findings { seen, divergences: first });
    }
    thread::sleep(SETTLES);
    let seen = look::look(places, patience)?;
    let mut divergences = judge::judge(&seen);
    divergences.retain(|found| first.iter().any(|before| before.key() == found.key()));
    Ok(Findings { seen, divergences })
}

impl Audit {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let places = self.places();
        if self.watch {
            return watch::run(&places, output);
        }
        let wish = Wish { heal: self.heal, kill_orphans: self.kill_orphans, dry_run: self.dry_run };
        let findings = find(&places, Patience::CALM)?;
        let version = findings.seen.containerd_version.as_deref();
        let accounts: Vec<_> =
            findings.divergences.iter().map(|found| account::of(found, version)).collect();
        let healings = (wish.heal || wish.kill_orphans)
            .then(|| healing::all(&places, &findings.divergences, wish));
        let counts = findings.counts();
        show::report(output, &findings.seen, &accounts, counts, healings.as_deref())?;
        let is_over = match &healings {
            Some(healings) => healings.iter().all(|healing| healing.result.is_over()),
            None => accounts.is_empty(),
        };
        let is_whole = findings.seen.asked.iter().all(|asked| asked.answer.is_ok());
        Ok(if is_over && is_whole { Exit::Clean } else { Exit::Found })
    }

    fn places(&self) -> Places {
        let mut places = Places::usual();
        if !self.socket.is_empty() {
            places.sockets.clone_from(&self.socket);
        }
        places.roots.clone_from(&self.root);
        places
    }
}
