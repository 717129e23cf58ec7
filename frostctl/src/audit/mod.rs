//! Finds containers that are not what some source says they are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::exit::Exit;
use crate::output::Output;
use crate::progress;
use claim::{Asked, Seen};
use judge::Divergence;
pub(crate) use judge::Kind;
use look::{Patience, Places};
use versions::Versions;

mod account;
mod claim;
mod command;
mod containerd;
mod crio;
mod fate;
mod heal;
mod healing;
mod judge;
mod kubernetes;
mod look;
mod naming;
mod podman;
mod runtimes;
mod show;
mod strays;
mod supervisor;
mod truth;
mod versions;
mod watch;

/// A container that is being stopped looks like a phantom for a moment, so audit looks twice.
const SETTLES: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Kinds:
  phantom                a container is said to run, and its process is gone
  orphan                 processes are in a container's cgroup, and nobody knows the container
  frozen-but-running     a container is said to run, is frozen, and nobody has paused it
  stopped-but-populated  a container is said to have ended, and has processes
  disagreement           runtime, containerd and CRI say different things about a container
  stopped-supervisor     a container lives, and its shim or conmon is stopped: nobody notices its end
  unanswered             containerd, CRI, CRI-O or podman is there and does not answer

Exit status:
  0  nothing was found, or all of it is healed
  1  something was found and is not healed; with --watch: at the end
  2  nothing was found, and some source could not be asked; or the command line is wrong
  3  the command failed; standard error says why
A reader of standard output that leaves early, such as head, changes none of these.

Examples:
  frostctl audit                      look, change nothing
  frostctl audit --heal --dry-run     what would be done
  frostctl audit --heal               do it, one container at a time
  frostctl audit --watch --json       a line of JSON for each that appears or goes";

#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("change").args(["heal", "kill_orphans"]).multiple(true)))]
pub(crate) struct Audit {
    #[command(flatten)]
    change: healing::Change,

    /// Keep looking until SIGINT or SIGTERM; report each divergence within 2 s
    #[arg(long, conflicts_with_all = ["heal", "kill_orphans", "dry_run"])]
    watch: bool,

    /// A socket of a containerd, in place of the usual ones; can be repeated
    #[arg(long, value_name = "PATH")]
    socket: Vec<PathBuf>,

    /// A root directory of runc, crun or youki beside the usual ones; can be repeated
    #[arg(long, value_name = "DIR")]
    root: Vec<PathBuf>,
}

/// What was found at both looks.
#[derive(Debug)]
struct Findings {
    seen: Seen,
    divergences: Vec<Divergence>,
}

impl Findings {
    /// How many divergences of each kind; kinds without any are included, as 0.
    fn counts(&self) -> BTreeMap<Kind, usize> {
        let count = |kind| self.divergences.iter().filter(|it| it.kind == kind).count();
        Kind::ALL.into_iter().map(|kind| (kind, count(kind))).collect()
    }
}

/// A scrape that gave up leaves its audit running; later scrapes must not pile up behind it.
static COUNTING: Mutex<()> = Mutex::new(());

/// How many divergences of each kind this node has, for a scrape that has no time to wait for a
/// shim.
pub(crate) fn count() -> anyhow::Result<BTreeMap<&'static str, usize>> {
    let Ok(_only) = COUNTING.try_lock() else {
        anyhow::bail!("the audit of an earlier scrape is still running")
    };
    supervisor::check_namespaces()?;
    let findings = find(&Places::usual(), Patience::HASTY)?;
    // A source that was not asked would count as healthy and resolve an alert. A source that can
    // never be asked, such as a CRI-O in another mount namespace, does not make the count fail.
    let failed = findings.seen.asked.iter().find(|asked| asked.may_answer_later());
    if let Some(Asked { place, what, .. }) = failed {
        anyhow::bail!("{place}: {what}");
    }
    let mut counts = findings.counts();
    // A silent source gives no sample at all.
    counts.remove(&Kind::Unanswered);
    Ok(counts.into_iter().map(|(kind, count)| (kind.name(), count)).collect())
}

/// Looks a second time if the first look found something.
fn find(places: &Places, patience: Patience) -> anyhow::Result<Findings> {
    let seen = look::look(places, patience)?;
    let first = judge::judge(&seen);
    // A source that was silent for seconds is not just being stopped.
    if first.iter().all(|found| found.kind == Kind::Unanswered) {
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
        supervisor::check_processes()?;
        let places = self.places();
        if self.watch {
            return watch::run(&places, output);
        }
        let look = || find(&places, Patience::CALM);
        let findings = progress::while_at("audit: asks who knows containers", look)?;
        let mut versions = Versions::default();
        versions.of_containerds(&findings.seen);
        let accounts = findings.divergences.iter().map(|it| account::of(it, &mut versions));
        let accounts: Vec<_> = accounts.collect();
        let change = &self.change;
        let healings = (change.heal || change.kill_orphans)
            .then(|| healing::all(&places, &findings.divergences, change))
            .transpose()?;
        let counts = findings.counts();
        show::report(output, &findings.seen, &accounts, counts, healings.as_deref())?;
        let is_over = match &healings {
            Some(healings) => healings.iter().all(|healing| healing.result.is_over()),
            None => accounts.is_empty(),
        };
        let is_whole = !findings.seen.asked.iter().any(Asked::is_missed);
        Ok(match (is_over, is_whole) {
            (false, _) => Exit::Found,
            (true, false) => Exit::Unknown,
            (true, true) => Exit::Clean,
        })
    }

    fn places(&self) -> Places {
        let (sockets, roots) = (self.socket.clone(), self.root.clone());
        Places { sockets, roots, ..Places::usual() }
    }
}
