//! Whether the freezer and the refill work here: tried on a cgroup of our own, with a process of our
//! own in it. What is left of one that was killed is found by the next doctor, by the name.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use frostlock::cgroup::read::Version;
use frostlock::cgroup::{Freezer, Identity, Reader};
use frostlock::freeze;
use frostlock::process::Process;
use frostlock::refill::trial::{self, Trial};

use super::hierarchy::Cgroups;

pub(crate) const PREFIX: &str = "frostlock-doctor-";

/// What the process in it is executed as, also where this program has been replaced meanwhile.
const SPINNER: &str = "/proc/self/exe";

/// A process that is idle or busy freezes in well under a period of the scheduler; a machine with
/// every CPU taken takes some.
const FREEZES_WITHIN: Duration = Duration::from_secs(1);

/// Five periods of the quota that it is tried with.
const SPAN: Duration = Duration::from_millis(50);

const QUOTA_US: u64 = 1000;
const PERIOD_US: u64 = 10_000;

/// How each went; an `Err` says why it could not be tried.
#[derive(Debug)]
pub(crate) struct Trials {
    pub(crate) freezer: Result<Froze, String>,
    pub(crate) refill: Result<Trial, String>,
}

#[derive(Debug)]
pub(crate) enum Froze {
    Yes,
    No(PathBuf, Freezer),
}

pub(crate) fn run(cgroups: &Cgroups) -> Trials {
    let scratch = match Scratch::make(cgroups) {
        Ok(scratch) => scratch,
        Err(error) => {
            let why = error.to_string();
            return Trials { freezer: Err(why.clone()), refill: Err(why) };
        }
    };
    Trials { freezer: scratch.freeze(), refill: scratch.refill() }
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
        let places = ["freezer", "cpu", "cpuacct"].into_iter().filter_map(|it| cgroups.with(it));
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
        let mut child = Command::new(SPINNER)
            .arg("spin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pid = child.id();
        // The child ends when this is closed, also when we are killed.
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

    fn refill(&self) -> Result<Trial, String> {
        let Some((version, dir)) = self.files.cpu_dir() else {
            return Err("no cpu controller is mounted".to_owned());
        };
        let written = match version {
            Version::V1 => std::fs::write(dir.join("cpu.cfs_period_us"), PERIOD_US.to_string())
                .and_then(|()| std::fs::write(dir.join("cpu.cfs_quota_us"), QUOTA_US.to_string())),
            Version::V2 => std::fs::write(dir.join("cpu.max"), format!("{QUOTA_US} {PERIOD_US}")),
        };
        written.map_err(|error| format!("{}: {error}", dir.display()))?;
        trial::run(&self.files, SPAN).map_err(|error| format!("{}: {error}", dir.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        freeze::thaw(&self.files);
        if let Some((mut child, stdin)) = self.child.take() {
            drop(stdin);
            let _ = child.kill();
            // A throttled process takes its time to die.
            if let Some((Version::V1, dir)) = self.files.cpu_dir() {
                let _ = std::fs::write(dir.join("cpu.cfs_quota_us"), "-1");
            }
            if let Some((Version::V2, dir)) = self.files.cpu_dir() {
                let _ = std::fs::write(dir.join("cpu.max"), "max");
            }
            let _ = child.wait();
        }
        for dir in &self.dirs {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// By its command line; one that is gone is no reason to leave anything.
pub(crate) fn is_of_a_trial(pid: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    line.is_empty() || (words.next() == Some(SPINNER.as_bytes()) && words.next() == Some(b"spin"))
}

/// What the process in the scratch cgroup does: takes CPU time until its standard input ends.
#[derive(Debug, clap::Args)]
pub(crate) struct Spin {}

impl Spin {
    #[allow(clippy::unused_self, reason = "as all commands")]
    pub(crate) fn run(&self) -> anyhow::Result<crate::exit::Exit> {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
        io::stdin().read_to_end(&mut Vec::new())?;
        Ok(crate::exit::Exit::Clean)
    }
}
