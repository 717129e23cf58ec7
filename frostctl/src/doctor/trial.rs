//! Tries whether the freezer and a lift work here, on a cgroup of our own with a process of our
//! own. If a doctor is killed meanwhile, the next one finds its cgroup by the name.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use cgroup::freeze;
use cgroup::process::Process;
use cgroup::read::Version;
use cgroup::{Freezer, Identity, Reader};

use crate::held::Held;
use crate::node::hierarchy::Cgroups;
use crate::node::{lift, root};

pub(crate) const PREFIX: &str = "frostlock-doctor-";

/// What the process in it is executed as; works even if this program has been replaced.
const PROGRAM: &str = "/proc/self/exe";
const SLEEP: &str = "sleep";

/// An idle process freezes in well under a scheduler period. A machine with all CPUs busy takes
/// some periods.
const FREEZES_WITHIN: Duration = Duration::from_secs(1);

/// The bit of CAP_SYS_NICE in capabilities(7).
const CAP_SYS_NICE: u64 = 1 << 23;

/// The kernel gives this number to the initial user namespace.
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";

/// The results; an `Err` says why something could not be tried.
#[derive(Debug)]
pub(crate) struct Trials {
    pub(crate) freezer: Result<Froze, String>,
    pub(crate) lift: Result<Lifted, String>,
}

#[derive(Debug)]
pub(crate) enum Froze {
    Yes,
    No(PathBuf, Freezer),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lifted {
    Yes,
    /// Without CAP_SYS_NICE the kernel would refuse in any case.
    NotAllowed,
    Refused(Refused),
}

/// Refused by a kernel with RT_GROUP_SCHED, with the values that explain it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) version: Version,
    pub(crate) dir: PathBuf,
    /// On v1: cpu.rt_runtime_us of the cgroup.
    pub(crate) of_cgroup: Option<String>,
    /// kernel.sched_rt_runtime_us.
    pub(crate) of_node: String,
    pub(crate) kernel: String,
}

pub(crate) fn run(cgroups: &Cgroups) -> Trials {
    // For a second at most; a signal meanwhile would leave the cgroup behind.
    let _signals = Held::back();
    let scratch = match Scratch::make(cgroups) {
        Ok(scratch) => scratch,
        Err(error) => {
            let why = error.to_string();
            return Trials { freezer: Err(why.clone()), lift: Err(why) };
        }
    };
    Trials { freezer: scratch.freeze(), lift: scratch.lift() }
}

struct Scratch {
    files: Reader,
    dirs: Vec<PathBuf>,
    child: Option<(Child, ChildStdin)>,
}

impl Scratch {
    fn make(cgroups: &Cgroups) -> io::Result<Scratch> {
        let own = Process::ourselves().ok_or(io::ErrorKind::NotFound)?;
        let name = Identity::new(cgroups.mounts.naming_root())
            .and_then(|root| root.join(format!("{PREFIX}{}-{}", own.pid, own.start)))
            .ok_or(io::ErrorKind::NotFound)?;
        let files = Reader::new(&cgroups.readable, &name);
        let places = ["freezer", "cpu"].into_iter().filter_map(|it| cgroups.with(it));
        let unified = cgroups.used().filter(|it| it.version == Version::V2);
        let mut dirs: Vec<PathBuf> = places.chain(unified).filter_map(|it| it.dir(&name)).collect();
        dirs.sort();
        dirs.dedup();
        let mut scratch = Scratch { files, dirs: Vec::new(), child: None };
        for dir in dirs {
            std::fs::create_dir(&dir).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", dir.display()))
            })?;
            scratch.dirs.push(dir);
        }
        let mut child = Command::new(PROGRAM)
            .arg(SLEEP)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pid = child.id();
        // The child ends when this pipe is closed, even if we are killed.
        let stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        scratch.child = Some((child, stdin));
        for dir in &scratch.dirs {
            std::fs::write(dir.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(scratch)
    }

    fn freeze(&self) -> Result<Froze, String> {
        let Some((_, dir)) = self.files.freezer_dir() else {
            return Err("no freezer is mounted".to_owned());
        };
        freeze::freeze(&self.files).map_err(|error| format!("{}: {error}", dir.display()))?;
        let since = Instant::now();
        while self.files.freezer() != Freezer::Frozen {
            if since.elapsed() > FREEZES_WITHIN {
                let froze = Froze::No(dir.to_owned(), self.files.freezer());
                freeze::thaw(&self.files);
                return Ok(froze);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        freeze::thaw(&self.files);
        Ok(Froze::Yes)
    }

    /// From outside, as frostlock does it; the process sleeps throughout.
    fn lift(&self) -> Result<Lifted, String> {
        let (child, _) = self.child.as_ref().ok_or("there is no process to try it with")?;
        match lift::trial(child.id()) {
            Ok(()) => Ok(Lifted::Yes),
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error.to_string()),
            Err(_) if !may_lift() => Ok(Lifted::NotAllowed),
            Err(_) => {
                let read = |path: &Path| root::read(path).ok().map(|it| it.trim().to_owned());
                let kernel = |name: &str| read(&Path::new("/proc/sys/kernel").join(name));
                let cpu = self.files.cpu_dir().map(|(version, dir)| (version, dir.to_owned()));
                let (version, dir) = cpu.ok_or("refused, and no cpu controller is mounted")?;
                Ok(Lifted::Refused(Refused {
                    version,
                    of_cgroup: read(&dir.join("cpu.rt_runtime_us")),
                    dir,
                    of_node: kernel("sched_rt_runtime_us").unwrap_or_default(),
                    kernel: kernel("osrelease").unwrap_or_default(),
                }))
            }
        }
    }
}

/// The kernel requires the capability in the initial user namespace; a container's own does not
/// count.
fn may_lift() -> bool {
    let status = root::read(Path::new("/proc/self/status")).unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/user");
    namespace.is_ok_and(|it| it == Path::new(FIRST_USER_NAMESPACE)) && has_sys_nice(&status)
}

fn has_sys_nice(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|it| u64::from_str_radix(it.trim(), 16).ok());
    bits.is_some_and(|bits| bits & CAP_SYS_NICE != 0)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        freeze::thaw(&self.files);
        if let Some((mut child, stdin)) = self.child.take() {
            drop(stdin);
            let _ = child.kill();
            let _ = child.wait();
        }
        for dir in &self.dirs {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// Recognized by its command line. A process that is gone needs no cgroup.
pub(crate) fn is_of_a_trial(pid: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    line.is_empty()
        || (words.next() == Some(PROGRAM.as_bytes()) && words.next() == Some(SLEEP.as_bytes()))
}

/// What the process in the scratch cgroup does: nothing until its standard input ends.
#[derive(Debug, clap::Args)]
pub(crate) struct Sleep {}

impl Sleep {
    #[allow(clippy::unused_self, reason = "as all commands")]
    pub(crate) fn run(&self) -> anyhow::Result<crate::exit::Exit> {
        io::stdin().read_to_end(&mut Vec::new())?;
        Ok(crate::exit::Exit::Clean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_is_that_bit_of_the_effective_ones() {
        for (status, has) in [
            ("CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffffff\n", true),
            ("CapPrm:\t000001ffffffffff\nCapEff:\t000001ffff7fffff\n", false),
            ("CapEff:\t0000000000800000\n", true),
            ("CapEff:\t0000000000000000\n", false),
            ("CapEff:\tnonsense\n", false),
            ("", false),
        ] {
            assert_eq!(has_sys_nice(status), has, "{status:?}");
        }
    }
}
