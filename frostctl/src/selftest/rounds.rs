//! The life of one container, operation by operation, bare and through frostlock in turn.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use cgroup::Reader;
use cgroup::freeze;
use cgroup::process::Process;

use super::bundle::{Files, QUOTAS_US};
use super::command::{self, Interrupts, Said};
use super::place::Place;
use super::program;
use super::verdict::{Ended, LIMIT, Row};
use crate::node::tree::Driver;
use crate::progress::Progress;

/// One round of three may be an accident.
pub(super) const MOST_ROUNDS: usize = 3;

/// For all rounds; with a last wait for throttling and the cleanup, it is a minute at most.
pub(super) const ROUNDS_WITHIN: Duration = Duration::from_secs(45);

/// How long a spinning container may take until it was throttled in PERIODS periods of 100 ms.
pub(super) const THROTTLED_WITHIN: Duration = Duration::from_secs(2);
pub(super) const PERIODS: u64 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Bare,
    Frostlock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    Start,
    Exec,
    Update,
    Pause,
    Resume,
    /// Lasts until no process is left.
    Kill,
    /// Lasts until no cgroup is left.
    Delete,
}

const STEPS: [Step; 8] = [
    Step::Create,
    Step::Start,
    Step::Exec,
    Step::Update,
    Step::Pause,
    Step::Resume,
    Step::Kill,
    Step::Delete,
];

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Create => "create",
            Step::Start => "start",
            Step::Exec => "exec",
            Step::Update => "update",
            Step::Pause => "pause",
            Step::Resume => "resume",
            Step::Kill => "kill",
            Step::Delete => "delete",
        }
    }

    /// Whether the steps after it need it.
    fn is_needed(self) -> bool {
        matches!(self, Step::Create | Step::Start | Step::Kill)
    }
}

/// What is run, and where.
#[derive(Debug)]
pub(super) struct Rounds<'a> {
    pub(super) place: &'a Place,
    pub(super) files: &'a Files,
    pub(super) runtime: PathBuf,
    pub(super) frostlock: PathBuf,
    pub(super) driver: Driver,
    pub(super) interrupts: &'a Interrupts,
}

/// The measurements.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// All operations, in their order.
    operations: Vec<&'static str>,
    samples: Vec<(&'static str, Side, Ended)>,
    pub(super) rounds: usize,
    /// How many of the containers ran out of quota.
    pub(super) throttled: usize,
    pub(super) containers: usize,
    pub(super) quota_us: u64,
}

impl Seen {
    pub(super) fn of(operations: impl IntoIterator<Item = &'static str>) -> Seen {
        Seen { operations: operations.into_iter().collect(), ..Seen::default() }
    }

    pub(super) fn push(&mut self, operation: &'static str, side: Side, ended: Ended) {
        self.samples.push((operation, side, ended));
    }

    pub(super) fn has(&self, ended: &Ended) -> bool {
        self.samples.iter().any(|it| it.2 == *ended)
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        let of = |operation, side| -> Vec<Ended> {
            let its = self.samples.iter().filter(|it| (it.0, it.1) == (operation, side));
            its.map(|it| it.2.clone()).collect()
        };
        let row = |it: &&'static str| Row::new(it, &of(it, Side::Bare), &of(it, Side::Frostlock));
        self.operations.iter().map(row).collect()
    }

    /// If this operation never succeeded on either side: why. That is not due to frostlock.
    pub(super) fn never(&self, operation: &str) -> Option<&str> {
        let creates = self.samples.iter().filter(|it| it.0 == operation);
        let mut why = None;
        for (_, _, ended) in creates {
            match ended {
                Ended::Failed(said) => why = why.or(Some(said.as_str())),
                Ended::Done(_) | Ended::TooLong => return None,
            }
        }
        why
    }
}

impl Rounds<'_> {
    pub(super) fn run(&self, progress: &mut Progress) -> anyhow::Result<Seen> {
        let began = Instant::now();
        let mut seen = Seen::of(STEPS.map(Step::name));
        self.calibrate(&mut seen, progress)?;
        let mut longest = Duration::ZERO;
        while seen.rounds < MOST_ROUNDS && began.elapsed() + longest < ROUNDS_WITHIN {
            let round = Instant::now();
            for side in [Side::Bare, Side::Frostlock] {
                self.container(side, began + ROUNDS_WITHIN, &mut seen, progress)?;
            }
            seen.rounds += 1;
            longest = longest.max(round.elapsed());
        }
        Ok(seen)
    }

    /// If a bare create with this quota is over the limit, no later step could be measured bare.
    fn calibrate(&self, seen: &mut Seen, progress: &mut Progress) -> anyhow::Result<()> {
        for (number, quota_us) in QUOTAS_US.into_iter().enumerate() {
            progress.show(|| "selftest: finds a quota".to_owned());
            seen.quota_us = quota_us;
            let id = self.place.container(number);
            let files = self.place.files(&id)?;
            self.files.container(&self.place.cgroups_path(&id), quota_us)?;
            let ended = self.step(Step::Create, Side::Bare, &id, &files, LIMIT)?;
            self.clear(&id)?;
            if ended != Ended::TooLong {
                break;
            }
        }
        Ok(())
    }

    fn clear(&self, id: &str) -> anyhow::Result<()> {
        self.place.clear_cgroups()?;
        let _ = std::fs::remove_dir_all(self.files.root().join(id));
        Ok(())
    }

    fn container(
        &self,
        side: Side,
        ends: Instant,
        seen: &mut Seen,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let id = self.place.container(QUOTAS_US.len() + seen.containers);
        seen.containers += 1;
        let files = self.place.files(&id)?;
        self.files.container(&self.place.cgroups_path(&id), seen.quota_us)?;
        let mut is_paused = false;
        for step in STEPS {
            if step == Step::Resume && !is_paused {
                continue;
            }
            let round = seen.rounds + 1;
            progress.show(|| {
                let side = if side == Side::Bare { "bare" } else { "through frostlock" };
                format!("selftest: round {round} of {MOST_ROUNDS}, {} {side}", step.name())
            });
            let limit = LIMIT.min(ends.saturating_duration_since(Instant::now()));
            let ended = self.step(step, side, &id, &files, limit)?;
            // A step that had less time than the others was not measured.
            if ended == Ended::TooLong && limit < LIMIT {
                break;
            }
            let is_done = matches!(ended, Ended::Done(_));
            seen.push(step.name(), side, ended);
            if step.is_needed() && !is_done {
                break;
            }
            match step {
                Step::Start if self.is_throttled(&files)? => seen.throttled += 1,
                Step::Pause if is_done => is_paused = true,
                // On v2, a cgroup that did not freeze in time keeps freezing, and so would
                // everything that follows.
                Step::Pause | Step::Resume if !is_done => freeze::thaw(&files),
                _ => {}
            }
        }
        self.clear(&id)
    }

    fn step(
        &self,
        step: Step,
        side: Side,
        id: &str,
        files: &Reader,
        limit: Duration,
    ) -> anyhow::Result<Ended> {
        let began = Instant::now();
        let init = self.files.init();
        let said = Said::in_directory(self.files.directory());
        let mut command = self.command(step, side, id, &said);
        let ended = command::run(&mut command, &said, limit, self.interrupts)?;
        if !matches!(ended, Ended::Done(_)) {
            return Ok(ended);
        }
        loop {
            let is_over = match step {
                // An exiting process has left its cgroup's list, but is not dead until it gets the
                // CPU for that.
                Step::Kill => !files.is_populated() && !init.is_some_and(Process::is_alive),
                Step::Delete => !self.place.has_cgroups(),
                _ => return Ok(ended),
            };
            match began.elapsed() {
                took if is_over => return Ok(Ended::Done(took)),
                took if took >= limit => return Ok(Ended::TooLong),
                _ => self.interrupts.pause()?,
            }
        }
    }

    /// As containerd calls it, but with exec in the foreground: a probe lasts as long as its
    /// command.
    fn command(&self, step: Step, side: Side, id: &str, said: &Said) -> Command {
        let mut command = match side {
            Side::Bare => Command::new(&self.runtime),
            Side::Frostlock => Command::new(&self.frostlock),
        };
        command
            .current_dir(self.files.directory())
            .env("FROSTLOCK_RUNTIME", &self.runtime)
            .env("FROSTLOCK_STATE_DIR", self.files.state())
            .env("FROSTLOCK_CONFIG", self.files.config());
        command.arg("--root").arg(self.files.root());
        command.arg("--log").arg(&said.log).args(["--log-format", "json"]);
        if self.driver == Driver::Systemd {
            command.arg("--systemd-cgroup");
        }
        command.arg(step.name());
        match step {
            Step::Create => {
                command.arg("--bundle").arg(self.files.directory());
                command.arg("--pid-file").arg(self.files.pid_file()).arg(id);
            }
            Step::Exec => {
                command.args([id, program::PATH, program::TRUE]);
            }
            Step::Update => {
                command.arg("--resources").arg(self.files.resources()).arg(id);
            }
            Step::Kill => {
                command.args([id, "KILL"]);
            }
            Step::Start | Step::Pause | Step::Resume | Step::Delete => {
                command.arg(id);
            }
        }
        command
    }

    /// Waits for throttling: before it, operations are as fast as without a limit.
    fn is_throttled(&self, files: &Reader) -> anyhow::Result<bool> {
        let began = Instant::now();
        loop {
            if files.throttled().is_some_and(|it| it.nr_throttled >= PERIODS) {
                return Ok(true);
            }
            if began.elapsed() >= THROTTLED_WITHIN {
                return Ok(false);
            }
            self.interrupts.pause()?;
        }
    }
}
