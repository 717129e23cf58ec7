//! The schedule: one container at a time, operation by operation, bare and through frostlock in
//! turn.

use std::time::{Duration, Instant};

use cgroup::Reader;

use super::bundle::QUOTAS_US;
use super::command::Interrupts;
use super::verdict::{Ended, LIMIT, Row};
use crate::progress::Progress;

/// One round of three may be an accident.
const MOST_ROUNDS: usize = 3;

/// For all rounds; with a last wait for throttling and the cleanup, it is a minute at most.
const ROUNDS_WITHIN: Duration = Duration::from_secs(45);

/// How long a spinning container may take until it was throttled in PERIODS periods of 100 ms.
const THROTTLED_WITHIN: Duration = Duration::from_secs(2);
const PERIODS: u64 = 3;

/// The operations after these do not need them.
const OPTIONAL: [&str; 4] = ["exec", "update", "pause", "resume"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Bare,
    Frostlock,
}

/// Who makes the containers: a runtime by hand, or the running containerd.
pub(super) trait Maker {
    /// In their order.
    const OPERATIONS: [&'static str; 8];

    /// The number of operations after which it is clear whether a quota is enough.
    const MAKING: usize;

    type Container;

    fn begin(&mut self, side: Side, quota_us: u64) -> anyhow::Result<Self::Container>;

    fn applies(&self, _container: &Self::Container, _operation: &str) -> bool {
        true
    }

    fn run(
        &self,
        container: &mut Self::Container,
        operation: &'static str,
        limit: Duration,
    ) -> anyhow::Result<Ended>;

    /// Waits until a container that has just been started is out of quota.
    fn is_throttled(&self, container: &Self::Container) -> anyhow::Result<bool>;

    /// Removes whatever is left of it.
    fn clear(&mut self, container: Self::Container) -> anyhow::Result<()>;
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
    fn of(operations: &[&'static str], quota_us: u64) -> Seen {
        Seen { operations: operations.to_vec(), quota_us, ..Seen::default() }
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

pub(super) fn measure<M: Maker>(maker: &mut M, progress: &mut Progress) -> anyhow::Result<Seen> {
    let began = Instant::now();
    let ends = began + ROUNDS_WITHIN;
    let mut seen = Seen::default();
    // If bare were over the limit from the start, nothing after it would be measured.
    for quota_us in QUOTAS_US {
        progress.show(|| "selftest: finds a quota".to_owned());
        seen = Seen::of(&M::OPERATIONS, quota_us);
        let mut tried = Seen::of(&M::OPERATIONS[..M::MAKING], quota_us);
        measure_one(maker, Side::Bare, ends, &mut tried, progress)?;
        if tried.samples.iter().all(|(.., ended)| *ended != Ended::TooLong) {
            break;
        }
    }
    let mut longest = Duration::ZERO;
    while seen.rounds < MOST_ROUNDS && began.elapsed() + longest < ROUNDS_WITHIN {
        let round = Instant::now();
        for side in [Side::Bare, Side::Frostlock] {
            measure_one(maker, side, ends, &mut seen, progress)?;
        }
        seen.rounds += 1;
        longest = longest.max(round.elapsed());
    }
    Ok(seen)
}

/// One container, until an operation fails that the others need.
fn measure_one<M: Maker>(
    maker: &mut M,
    side: Side,
    ends: Instant,
    seen: &mut Seen,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let mut container = maker.begin(side, seen.quota_us)?;
    seen.containers += 1;
    for operation in seen.operations.clone() {
        if !maker.applies(&container, operation) {
            continue;
        }
        let round = seen.rounds + 1;
        progress.show(|| {
            let side = if side == Side::Bare { "bare" } else { "through frostlock" };
            format!("selftest: round {round} of {MOST_ROUNDS}, {operation} {side}")
        });
        let limit = LIMIT.min(ends.saturating_duration_since(Instant::now()));
        let ended = maker.run(&mut container, operation, limit)?;
        // An operation that had less time than the others was not measured.
        if ended == Ended::TooLong && limit < LIMIT {
            break;
        }
        let is_done = matches!(ended, Ended::Done(_));
        seen.samples.push((operation, side, ended));
        if !is_done && !OPTIONAL.contains(&operation) {
            break;
        }
        if operation == "start" && maker.is_throttled(&container)? {
            seen.throttled += 1;
        }
    }
    maker.clear(container)
}

/// Waits for throttling in one of these cgroups, beyond what was `before`: until then, operations
/// are as fast as without a limit.
pub(super) fn is_throttled(
    files: &[Reader],
    before: u64,
    interrupts: &Interrupts,
) -> anyhow::Result<bool> {
    let began = Instant::now();
    loop {
        let mut throttled = files.iter().filter_map(Reader::throttled);
        if throttled.any(|it| it.nr_throttled >= before + PERIODS) {
            return Ok(true);
        }
        if began.elapsed() >= THROTTLED_WITHIN {
            return Ok(false);
        }
        interrupts.pause()?;
    }
}
