//! Whether a refill works on this kernel, tried out on a cgroup that is nobody's.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use super::bandwidth::{Bandwidth, Others, Refilled};
use super::effect::{Effect, Sample};
use crate::cgroup::Reader;

/// How often the file is written in the trial.
const EVERY: Duration = Duration::from_micros(500);

/// As often is it tried where the machine is too busy to tell.
const TRIES: u32 = 5;

/// CPU time that the busy cgroup had in two spans of the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    pub without_us: u64,
    pub with_us: u64,
    pub writes: u32,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Works,
    HasNoEffect,
    /// The process did not get the CPU even when it was allowed to run.
    CannotTell,
}

/// For a cgroup with a small quota and something busy in it: first without, then with a refill.
pub fn run(files: &Reader, span: Duration) -> io::Result<Trial> {
    let mut others = Others::new()?;
    let bandwidth = Bandwidth::open(files, false, &others)?
        .ok_or_else(|| io::Error::new(ErrorKind::NotFound, "no CPU bandwidth file to write"))?;
    let mut trial = once(files, &bandwidth, &mut others, span)?;
    for _ in 1..TRIES {
        if trial.verdict != Verdict::CannotTell {
            break;
        }
        trial = once(files, &bandwidth, &mut others, span)?;
    }
    Ok(trial)
}

fn once(
    files: &Reader,
    bandwidth: &Bandwidth,
    others: &mut Others,
    span: Duration,
) -> io::Result<Trial> {
    let before = sample(files)?;
    std::thread::sleep(span);
    let between = sample(files)?;
    let quota = bandwidth.quota().ok_or(ErrorKind::NotFound)?;
    let (mut effect, mut writes) = (Effect::default(), 0);
    effect.is_none(between, 0, quota);
    while between.at.elapsed() < span {
        let refilled = bandwidth.refill(Instant::now(), others);
        writes += u32::from(matches!(refilled, Refilled::Done { .. }));
        std::thread::sleep(EVERY);
    }
    let after = sample(files)?;
    let without_us = between.usage_us.saturating_sub(before.usage_us);
    let with_us = after.usage_us.saturating_sub(between.usage_us);
    let own = quota.in_time_us(after.at.duration_since(between.at).as_micros() as u64);
    let verdict = if effect.is_none(after, writes, quota) {
        Verdict::HasNoEffect
    } else if with_us > 2 * without_us.max(own) {
        // Far from what chance gives; the least that was measured is six times as much.
        Verdict::Works
    } else {
        Verdict::CannotTell
    };
    Ok(Trial { without_us, with_us, writes, verdict })
}

fn sample(files: &Reader) -> io::Result<Sample> {
    let usage_us = files.cpu_usage_us().ok_or(ErrorKind::NotFound)?;
    let nr_throttled = files.throttled().ok_or(ErrorKind::NotFound)?.nr_throttled;
    Ok(Sample { at: Instant::now(), usage_us, nr_throttled })
}
