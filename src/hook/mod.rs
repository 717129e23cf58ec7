//! `frostlock hook [--strict] [STAGE]`: frostlock as a hook of the OCI runtime or of the container
//! engine.
//!
//! Before a container starts, the hook waits, for a bounded time, until neither its cgroup nor one
//! above is frozen. After the container's end it removes our files about it. Both go to the journal. It
//! also works where the runtime does not run through us. Inside an operation of ours, which has the
//! cgroup's lock and removes the files itself, it only writes its record.
//!
//! A hook that fails costs the container. So it succeeds whatever happens, unless `--strict` is given;
//! and the runtime that waits for it must not wait for long, so everything is bounded.

mod input;
mod oci_state;
mod place;
pub mod report;
mod request;
mod told;
mod wait;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::outcome::{Exit, LockUse, Outcome, Quotas, Stages, Verdict};
use cgroup::Identity;
use cgroup::bundle::PodNames;
use cgroup::process::{self, Process};
use cgroup::text;
use config::{Config, Mode as Extent};
use state::intent;
use state::lock::{Acquired, Holder, LockFiles, Mode};
use state::record::Recorded;
use state::state_dir::StateDir;

pub use oci_state::State;
pub(crate) use place::Place;
use report::{Found, Report};
pub(crate) use request::Request;
use request::Task;
use told::Told;

/// For people: 1 if it could not be written, but not if the reader has gone.
fn print(answer: &str) -> i32 {
    let mut stdout = std::io::stdout();
    match stdout.write_all(answer.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let _ =
                writeln!(std::io::stderr(), "frostlock: cannot write to standard output: {error}");
            1
        }
        _ => 0,
    }
}

/// One call of frostlock as a hook.
pub(crate) struct Hook<'a> {
    pub(crate) began: Instant,
    pub(crate) request: &'a Request,
    pub(crate) config: &'a Config,
    pub(crate) state: &'a StateDir,
}

impl Hook<'_> {
    /// Runs the hook; gives the exit status. `record` gets what is to be recorded.
    pub(crate) fn run(&self, record: impl FnOnce(Outcome)) -> i32 {
        match catch_unwind(AssertUnwindSafe(|| self.outcome(record))) {
            Ok(code) => code,
            Err(_) => i32::from(self.request.strict),
        }
    }

    fn outcome(&self, record: impl FnOnce(Outcome)) -> i32 {
        if let Some(answer) = self.request.answer {
            return print(answer);
        }
        // First of all: the writer may wait until somebody reads it, or, for a filter of
        // configurations, for the output.
        let input = input::read(self.request.filters_config());
        if self.state.kill_switch().exists() {
            return 0;
        }
        if let Some(complaint) = self.request.wrong_stage() {
            // If an engine runs the hook, nobody reads its standard error.
            log::warn!("{complaint}");
            let _ = writeln!(std::io::stderr(), "frostlock: {complaint}");
            return i32::from(self.request.strict);
        }
        let told = Told::read(self.request, &input);
        let seen = self.act(&told);
        let complaint = self.complaint(&seen);
        let code = i32::from(complaint.is_some());
        let mut outcome = self.describe(told, seen, code);
        outcome.notes.extend(input.incomplete.map(|why| text::chain(&why)));
        outcome.notes.extend(complaint.clone());
        record(outcome);
        if let Some(complaint) = complaint {
            // The runtime shows it as the reason why there is no container.
            let _ = writeln!(std::io::stderr(), "frostlock: {complaint}");
        }
        code
    }

    fn act(&self, told: &Told) -> Seen {
        let records = Recorded::of_id(self.state, told.state.id.as_ref());
        let place = Place::find(told, &records);
        let above = place.as_ref().ok().and_then(|place| self.operation_above(&place.identity));
        let mut seen = Seen {
            prepare: self.began.elapsed(),
            lock: above.clone().map_or(LockUse::None, LockUse::Nested),
            found: Found::NotAsked,
            waited: Duration::ZERO,
            frozen: None,
            recovered: Vec::new(),
            notes: place.as_ref().err().map(|why| text::chain(why)).into_iter().collect(),
            place: place.ok(),
        };
        if above.is_some() || self.config.mode == Extent::Observe {
            return seen;
        }
        match self.request.task(told.state.status) {
            Task::WaitForThaw => self.wait_for_thaw(&mut seen),
            Task::CleanUp => seen.recovered = self.clean_up(&records, seen.place.as_ref()),
            Task::Record => {}
        }
        seen
    }

    /// Our operation to which this hook belongs, if it holds the lock of this cgroup.
    fn operation_above(&self, cgroup: &Identity) -> Option<Holder> {
        LockFiles::of(cgroup, &self.state.lock_files()).holder_above_us()
    }

    fn wait_for_thaw(&self, seen: &mut Seen) {
        let Some(place) = &seen.place else {
            seen.found = Found::Unknown;
            return;
        };
        let since = Instant::now();
        let limit = Duration::from_millis(self.config.hook.wait_ms);
        (seen.found, seen.frozen) = wait::until_thawed(&place.files, limit);
        seen.waited = since.elapsed();
    }

    /// Removes our files about a container that has ended, but nothing of a live one of the same name
    /// under another root of the runtime.
    fn clean_up(&self, records: &[Recorded], place: Option<&Place>) -> Vec<String> {
        let (live, ended): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.is_in_use());
        let was_paused = ended.iter().any(|ended| ended.record.paused);
        let of_live: Vec<_> = live.iter().filter_map(|record| record.cgroup()).collect();
        let cgroups = ended.iter().filter_map(|record| record.cgroup());
        let cgroups = cgroups.chain(place.map(|place| place.identity.clone()));
        let cgroups: BTreeSet<_> = cgroups.filter(|cgroup| !of_live.contains(cgroup)).collect();
        let recovered =
            cgroups.iter().flat_map(|cgroup| self.remove_files(cgroup, was_paused)).collect();
        ended.iter().for_each(|record| record.forget());
        recovered
    }

    /// Removes the lock's files, if no operation uses them, and the notes of dead operations.
    fn remove_files(&self, cgroup: &Identity, was_paused: bool) -> Vec<String> {
        let files = LockFiles::of(cgroup, &self.state.lock_files());
        if !files.are_there() && !intent::is_due(self.state, cgroup) {
            return Vec::new();
        }
        let Ok(directory) = self.state.locks() else { return Vec::new() };
        match LockFiles::of(cgroup, &directory).acquire(Mode::Exclusive, Duration::ZERO, None) {
            Acquired::Held(guard) => {
                let recovered = intent::recover(self.state, cgroup, || was_paused);
                guard.retire();
                recovered
            }
            _ => Vec::new(),
        }
    }

    /// Why a strict hook fails.
    fn complaint(&self, seen: &Seen) -> Option<String> {
        if !self.request.strict {
            return None;
        }
        let waited = seen.waited.as_millis();
        match seen.found {
            Found::StillFrozen => Some(format!(
                "{} is frozen, and was not thawed within {waited} ms",
                seen.frozen.as_deref().unwrap_or("the cgroup")
            )),
            Found::Unknown => Some("cannot tell whether the container's cgroup is frozen".into()),
            Found::Thawed | Found::ThawedMeanwhile | Found::NotAsked => None,
        }
    }

    fn describe(&self, told: Told, seen: Seen, code: i32) -> Outcome {
        let exit = Exit::Code(code);
        let files = seen.place.as_ref().map(|place| &place.files);
        let pods = [Some(told.pod), seen.place.as_ref().map(|place| place.pod.clone())];
        let pod = pods.into_iter().flatten().find(|pod| *pod != PodNames::default());
        Outcome {
            cgroup: seen.place.as_ref().map(|place| place.identity.clone()),
            requested_by: process::comm(process::parent()),
            lock: seen.lock,
            stages: Stages { prepare: seen.prepare, run: seen.waited, ..Stages::default() },
            exit: Some(exit),
            verdict: Verdict::of(exit),
            quotas: Quotas { container: files.and_then(|files| files.cpu_quota()), pod: None },
            recovered: seen.recovered,
            init: told.state.pid.and_then(Process::of),
            pod: pod.unwrap_or_default(),
            notes: seen.notes.into_iter().chain(self.request.odd.clone()).collect(),
            hook: Some(Report {
                stage: self.request.stage_name(told.state.status),
                found: seen.found,
                waited: seen.waited,
                frozen: seen.frozen,
            }),
            ..Outcome::of(told.state.id.into())
        }
    }
}

/// What the hook found.
struct Seen {
    prepare: Duration,
    place: Option<Place>,
    lock: LockUse,
    found: Found,
    waited: Duration,
    frozen: Option<String>,
    recovered: Vec<String>,
    notes: Vec<String>,
}
