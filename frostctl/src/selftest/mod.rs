//! `frostctl selftest`: whether frostlock helps on this node. The bare runtime and frostlock in
//! turn make, probe, change and end a container that has used up its CPU quota, one container at a
//! time. The verdict depends only on the two columns of results, and the selftest leaves nothing
//! behind.

mod bundle;
mod by_hand;
mod command;
mod cri;
mod place;
mod pod;
mod program;
mod report;
mod rounds;
mod settings;
mod verdict;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use state::state_dir::StateDir;

use crate::configure::binary;
use crate::exit::Exit;
use crate::node::hierarchy::{Cgroups, Layout};
use crate::node::processes;
use crate::node::root::Root;
use crate::node::tree::Driver;
use crate::output::{Output, note};
use crate::program::{find, is_executable};
use crate::progress::Progress;
use bundle::Files;
use by_hand::ByHand;
use command::Interrupts;
use place::Place;
pub(crate) use program::in_container;
use report::Report;
use rounds::{Seen, measure};
use verdict::Verdict;

/// Find out on this node, within a minute, whether frostlock helps
///
/// Makes one container at a time, with a CPU limit of 10m, in a cgroup of its own; its program
/// spins. Where 10m is too little to make a container, the limit is 50m or 200m. The runtime
/// creates, starts, probes (exec), updates, pauses, resumes, kills and deletes it, bare and through
/// frostlock in turn. Needs root, and no image: the container's only program is frostctl itself. No
/// container, cgroup, file or record stays. No other container is touched.
///
/// With --cri it makes pods of the running containerd, by the handler of the bare runtime and by
/// that of frostlock, in a pod's cgroup with that limit. This needs any one image on the node;
/// frostctl is mounted into it. kubelet ends pods that it does not know, so it must not run
/// meanwhile. The records of these operations stay in the journal.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status:
  0  works: at least one operation that starves bare is faster, or no longer fails
  1  does no harm and does not help here: nothing starved, or the kernel refuses the lift
  2  does not work: an operation failed through frostlock, or was slower than bare beyond noise;
     or the command line is wrong
  3  could not be run, or was interrupted; standard error says why")]
pub(crate) struct Selftest {
    /// The frostlock to test; by default the one beside frostctl, in /usr/local/bin or in PATH
    #[arg(long, value_name = "PATH", conflicts_with = "cri")]
    frostlock: Option<PathBuf>,

    /// The runtime to compare frostlock with, which frostlock also runs; by default the one that it
    /// finds
    #[arg(long, value_name = "PATH", conflicts_with = "cri")]
    runtime: Option<PathBuf>,

    /// Who makes the cgroups; by default systemd where it runs, as on nodes of Kubernetes
    #[arg(long, value_name = "DRIVER", value_enum, conflicts_with = "cri")]
    cgroup_driver: Option<Driver>,

    /// Test pods of the running containerd, instead of the runtime alone
    #[arg(long)]
    cri: bool,

    /// The socket of that containerd, if several run with frostlock
    #[arg(long, value_name = "PATH", requires = "cri")]
    socket: Option<PathBuf>,

    /// The image of its containers; by default the smallest that the node has
    #[arg(long, value_name = "IMAGE", requires = "cri")]
    image: Option<String>,
}

impl Selftest {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let report = if self.cri { self.through_cri()? } else { self.by_hand()? };
        output.print(&report, |out| report.write(out))?;
        Ok(match report.verdict {
            Verdict::Works => Exit::Clean,
            Verdict::NotShown => Exit::Found,
            Verdict::DoesNotWork => Exit::Broken,
        })
    }

    fn through_cri(&self) -> anyhow::Result<Report> {
        let cgroups = cgroups()?;
        let containerd = cri::find(self.socket.as_deref(), self.image.as_deref())?;
        let interrupts = Interrupts::hold()?;
        let mut pods = cri::Pods::new(&containerd, &cgroups, &interrupts)?;
        say_leftovers(|| pods.clear_leftovers())?;
        let seen = measure(&mut pods, &mut Progress::new());
        // Measurements count only if everything was removed.
        pods.clear_all().context("selftest could not remove what it made")?;
        let seen = seen?;
        if let Some(why) = seen.never("sandbox").or_else(|| seen.never("start")) {
            bail!("containerd makes no pod here: {why}");
        }
        let refused =
            settings::lift_refused(&StateDir::from_env(), |id| pods.ids.iter().any(|it| it == id));
        let of_node = (cgroups.layout, containerd.driver);
        Ok(Report::new(containerd.programs(), of_node, &seen, refused, Some(containerd.through())))
    }

    fn by_hand(&self) -> anyhow::Result<Report> {
        let (frostlock, runtime) = (self.frostlock()?, self.runtime()?);
        let cgroups = cgroups()?;
        let (layout, driver) = (cgroups.layout, self.driver());
        let interrupts = Interrupts::hold()?;
        say_leftovers(|| place::clear_leftovers(&cgroups))?;
        let place = Place::make(cgroups, driver)?;
        let seen = measure_by_hand(&place, driver, &frostlock, &runtime, &interrupts);
        // Measurements count only if everything was removed.
        place.clear().context("selftest could not remove what it made")?;
        let (seen, refused) = seen?;
        if let Some(why) = seen.never("create") {
            bail!("{} makes no container here: {why}", runtime.display());
        }
        Ok(Report::new((frostlock, runtime), (layout, driver), &seen, refused, None))
    }

    fn frostlock(&self) -> anyhow::Result<PathBuf> {
        let found = match &self.frostlock {
            Some(given) => Some(given.clone()),
            None => {
                let usual = binary::usual().into_iter().find(|it| is_executable(it));
                usual.or_else(|| find("frostlock"))
            }
        };
        let found = found.context(
            "no frostlock beside frostctl, in /usr/local/bin or in PATH; name it with --frostlock",
        )?;
        executable(&found)
    }

    fn driver(&self) -> Driver {
        // As in sd_booted(3).
        let booted = Path::new("/run/systemd/system").is_dir();
        self.cgroup_driver.unwrap_or(if booted { Driver::Systemd } else { Driver::Cgroupfs })
    }

    fn runtime(&self) -> anyhow::Result<PathBuf> {
        match &self.runtime {
            Some(given) => executable(given),
            None => binary::runtime_of("frostlock", None).context("name it with --runtime"),
        }
    }
}

fn cgroups() -> anyhow::Result<Cgroups> {
    if !nix::unistd::geteuid().is_root() {
        bail!("selftest needs root: it makes a container and a cgroup");
    }
    let cgroups = Cgroups::read(&Root::default());
    if let Some(why) = &cgroups.complaint {
        bail!("cannot read /proc/self/mountinfo: {why}");
    }
    if cgroups.layout == Layout::None {
        bail!("no cgroup is mounted, so no container can have a CPU limit");
    }
    Ok(cgroups)
}

/// From another pid namespace a living selftest looks dead, so there nothing is removed.
fn say_leftovers(clear: impl FnOnce() -> anyhow::Result<Vec<String>>) -> anyhow::Result<()> {
    if processes::is_first_pid_namespace() {
        for left in clear()? {
            note(&format!("removed {left}, left by a killed selftest"));
        }
    }
    Ok(())
}

fn executable(path: &Path) -> anyhow::Result<PathBuf> {
    let path =
        std::path::absolute(path).with_context(|| format!("cannot tell where {path:?} is"))?;
    if !is_executable(&path) {
        bail!("{} is not an executable program", path.display());
    }
    Ok(path)
}

fn measure_by_hand(
    place: &Place,
    driver: Driver,
    frostlock: &Path,
    runtime: &Path,
    interrupts: &Interrupts,
) -> anyhow::Result<(Seen, Option<String>)> {
    let files = Files::make(place.directory())?;
    settings::write(&files.config())?;
    let mut maker = ByHand {
        place,
        files: &files,
        runtime: runtime.to_owned(),
        frostlock: frostlock.to_owned(),
        driver,
        interrupts,
        made: 0,
    };
    let seen = measure(&mut maker, &mut Progress::new())?;
    Ok((seen, settings::lift_refused(&StateDir::at(files.state()), |_| true)))
}
