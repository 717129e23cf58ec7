//! Judges the two columns; pure.

use std::time::Duration;

use serde::Serialize;

/// A command's time limit. kubelet's default for a probe is a second.
pub(super) const LIMIT: Duration = Duration::from_secs(3);

/// The scheduler alone makes such a difference: quota comes once in 100 ms, and whoever has just
/// missed it waits for the next. The more periods an operation needs, the more its time varies.
const PERIOD_MS: f64 = 100.0;
const TIMES_FASTER: f64 = 2.0;
const TIMES_SLOWER: f64 = 3.0;

/// How one command ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ended {
    Done(Duration),
    /// It was ended at [`LIMIT`].
    TooLong,
    Failed(String),
}

/// One operation on one side.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Column {
    pub(super) runs: usize,
    pub(super) failed: usize,
    /// How many did not end in time.
    pub(super) over_limit: usize,
    /// Of the runs that did not fail; `None` if more than half of these did not end in time.
    pub(super) median_ms: Option<f64>,
    #[serde(skip)]
    slowest_ms: f64,
    /// The message of the last failure.
    pub(super) error: Option<String>,
}

/// The effect of frostlock on an operation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "times")]
pub(super) enum Effect {
    /// Bare, it failed or was over the limit.
    Cured,
    Faster(f64),
    /// Nothing beyond noise.
    NotShown,
    /// It also fails bare.
    StillFails,
    Slower(f64),
    Fails,
    NotReached,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) operation: &'static str,
    pub(super) bare: Column,
    pub(super) frostlock: Column,
    pub(super) effect: Effect,
}

/// The overall result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Works,
    /// It does no harm, but does not help on this node.
    NotShown,
    DoesNotWork,
}

impl Column {
    pub(super) fn of(all: &[Ended]) -> Column {
        let mut ms: Vec<f64> = Vec::new();
        let mut column = Column { runs: all.len(), ..Column::default() };
        for ended in all {
            match ended {
                Ended::Done(took) => ms.push(took.as_secs_f64() * 1000.0),
                Ended::TooLong => column.over_limit += 1,
                Ended::Failed(why) => {
                    column.failed += 1;
                    column.error = Some(why.clone());
                }
            }
        }
        ms.sort_by(f64::total_cmp);
        column.slowest_ms = ms.last().copied().unwrap_or_default();
        // Runs over the limit count as slower than all others.
        let middle = (ms.len() + column.over_limit).saturating_sub(1) / 2;
        column.median_ms = ms.get(middle).copied();
        column
    }

    fn is_bad(&self) -> bool {
        self.failed + self.over_limit > 0
    }
}

impl Row {
    pub(super) fn new(operation: &'static str, bare: &[Ended], frostlock: &[Ended]) -> Row {
        let (bare, frostlock) = (Column::of(bare), Column::of(frostlock));
        let effect = effect(&bare, &frostlock);
        Row { operation, bare, frostlock, effect }
    }
}

fn limit_ms() -> f64 {
    LIMIT.as_secs_f64() * 1000.0
}

/// How slow a run may get through noise, given the slowest.
fn as_slow_as(bare: &Column) -> f64 {
    bare.slowest_ms * TIMES_SLOWER + 2.0 * PERIOD_MS
}

/// Whether only chance puts frostlock over the limit and bare not yet. If most runs through
/// frostlock are over it, only hundreds of ms below the limit bare count as chance.
fn is_near_limit(bare: &Column, frostlock: &Column) -> bool {
    const NEAR: f64 = 0.8;
    let is_an_exception = frostlock.median_ms.is_some();
    (is_an_exception && as_slow_as(bare) >= limit_ms()) || bare.slowest_ms >= limit_ms() * NEAR
}

fn effect(bare: &Column, frostlock: &Column) -> Effect {
    let as_slow_as = as_slow_as(bare);
    if frostlock.runs == 0 {
        return Effect::NotReached;
    }
    if frostlock.is_bad() {
        return match (bare.is_bad() || bare.runs == 0, frostlock.failed) {
            (true, _) => Effect::StillFails,
            (false, 0) if is_near_limit(bare, frostlock) => Effect::NotShown,
            (false, 0) => Effect::Slower(limit_ms() / bare.slowest_ms.max(1.0)),
            (false, _) => Effect::Fails,
        };
    }
    if bare.is_bad() || bare.runs == 0 {
        return Effect::Cured;
    }
    let (before, now) =
        (bare.median_ms.unwrap_or_default(), frostlock.median_ms.unwrap_or_default());
    if now * TIMES_FASTER <= before && before - now >= PERIOD_MS {
        Effect::Faster(before / now.max(1.0))
    } else if now > as_slow_as {
        Effect::Slower(now / before.max(1.0))
    } else {
        Effect::NotShown
    }
}

/// `lift_refused` explains operations that still fail, or are as slow as bare: a freeze or a death
/// that gets no CPU.
pub(super) fn verdict(rows: &[Row], lift_refused: bool) -> Verdict {
    let has = |is: fn(Effect) -> bool| rows.iter().any(|row| is(row.effect));
    if has(|it| matches!(it, Effect::Fails | Effect::Slower(_)))
        || (has(|it| it == Effect::StillFails) && !lift_refused)
    {
        Verdict::DoesNotWork
    } else if lift_refused || !has(|it| matches!(it, Effect::Cured | Effect::Faster(_))) {
        Verdict::NotShown
    } else {
        Verdict::Works
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times in ms; 0 is a failure, 9999 is over the limit.
    fn column(ms: &[u64]) -> Vec<Ended> {
        let one = |ms: &u64| match ms {
            0 => Ended::Failed("no".to_owned()),
            9999 => Ended::TooLong,
            ms => Ended::Done(Duration::from_millis(*ms)),
        };
        ms.iter().map(one).collect()
    }

    fn row(bare: &[u64], frostlock: &[u64]) -> Row {
        Row::new("exec", &column(bare), &column(frostlock))
    }

    #[test]
    fn medians_count_what_is_over_the_limit_and_not_what_failed() {
        for (ms, median) in [
            (&[300, 100, 200][..], Some(200.0)),
            (&[100, 9999, 9999], None),
            (&[100, 200, 9999], Some(200.0)),
            (&[100, 0, 0], Some(100.0)),
            (&[100, 200], Some(100.0)),
            (&[0], None),
            (&[], None),
        ] {
            assert_eq!(Column::of(&column(ms)).median_ms, median, "{ms:?}");
        }
    }

    #[test]
    fn an_effect_is_what_is_beyond_noise() {
        for (bare, frostlock, expected) in [
            (&[1000, 1200, 1100][..], &[100, 110, 90][..], Effect::Faster(11.0)),
            (&[9999, 9999, 2800], &[100, 100, 100], Effect::Cured),
            (&[0, 900, 900], &[900, 900, 900], Effect::Cured),
            (&[], &[100], Effect::Cured),
            // Twice as fast, but within a period.
            (&[100, 100, 100], &[20, 20, 20], Effect::NotShown),
            (&[500, 500, 500], &[300, 300, 300], Effect::NotShown),
            (&[20, 20, 20], &[210, 210, 210], Effect::NotShown),
            (&[20, 20, 20], &[400, 400, 400], Effect::Slower(20.0)),
            // Slower than the median, but not than the slowest.
            (&[100, 100, 900], &[2800, 2800, 2800], Effect::NotShown),
            (&[400, 400, 400], &[950, 940, 930], Effect::NotShown),
            (&[20, 20, 20], &[20, 0, 20], Effect::Fails),
            (&[20, 0, 20], &[20, 0, 20], Effect::StillFails),
            (&[9999], &[9999], Effect::StillFails),
            (&[9999], &[0], Effect::StillFails),
            (&[], &[9999], Effect::StillFails),
            (&[30, 30, 30], &[20, 9999, 20], Effect::Slower(100.0)),
            (&[1000, 1000, 1000], &[20, 9999, 20], Effect::NotShown),
            (&[2500, 2500], &[9999, 9999], Effect::NotShown),
            (&[1500, 1500], &[9999, 9999], Effect::Slower(2.0)),
            (&[20], &[], Effect::NotReached),
        ] {
            assert_eq!(row(bare, frostlock).effect, expected, "{bare:?} {frostlock:?}");
        }
    }

    #[test]
    fn the_verdict_is_that_of_the_worst_row() {
        let (alike, fast, still) = (row(&[10], &[10]), row(&[1000], &[10]), row(&[9999], &[9999]));
        let (fails, slow) = (row(&[10], &[0]), row(&[10], &[900]));
        for (rows, refused, expected) in [
            (&[&fast, &alike][..], false, Verdict::Works),
            (&[&alike], false, Verdict::NotShown),
            (&[], false, Verdict::NotShown),
            (&[&fast, &fails], false, Verdict::DoesNotWork),
            (&[&fast, &slow], false, Verdict::DoesNotWork),
            (&[&fast, &still], false, Verdict::DoesNotWork),
            // The point is that nothing can be lifted, even if a row is faster by luck.
            (&[&fast, &still], true, Verdict::NotShown),
            (&[&fast, &fails], true, Verdict::DoesNotWork),
        ] {
            let rows: Vec<Row> = rows.iter().map(|row| (*row).clone()).collect();
            assert_eq!(verdict(&rows, refused), expected, "{rows:?} {refused}");
        }
    }
}
