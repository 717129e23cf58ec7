//! Whether to try again, and when. Pure: time comes in as a value, and nobody sleeps here.
//!
//! Why retry at all: what keeps a cgroup from freezing is over within some periods of the CPU
//! controller, or with the end of somebody else's update, while the callers above us take a failure
//! for final: a failed create is a failed pod. Where the numbers come from: runc's own loop on
//! cgroup v1 gives up after about 0.25 s, and a throttled task needs whole periods of 100 ms, so the
//! delays start at one period. When it is hopeless: where the runtime has gone past the stage that
//! may be repeated, or waited 10 s itself, as runc does on v2. The real fix is in the kernel: a
//! freezer that does not need CPU time.

use std::time::Duration;

use crate::invocation::Verb;
use crate::verdict::Failure;

/// The bounds, from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For lock wait, further attempts and the delays between them; 0 is no retry.
    pub deadline: Duration,
    pub first_delay: Duration,
    pub max_delay: Duration,
}

/// What there is to decide on.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    pub verb: Verb,
    pub failure: Failure,
    /// How many attempts there were.
    pub attempts: u32,
    /// How long the first one took: one more will take about that.
    pub first_attempt: Duration,
    /// Time used so far, without the first attempt's.
    pub used: Duration,
    /// One period of the CPU controller: less is no use to a throttled cgroup.
    pub period: Duration,
    /// That nothing of this attempt reached the caller that a second one would repeat.
    pub repeatable: bool,
    /// Between 0 and 1.
    pub jitter: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Again { delay: Duration },
    Stop(Reason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// This verb with this failure is not one to repeat.
    NotRetried,
    /// It would be, but something has reached the caller already.
    NotRepeatable,
    OutOfTime,
    /// A signal that would have ended the runtime came during the delay.
    Interrupted,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::NotRetried => "not retried",
            Reason::NotRepeatable => "not repeatable",
            Reason::OutOfTime => "out of time",
            Reason::Interrupted => "interrupted",
        }
    }
}

/// The table of design: which failures of which verbs may be repeated at all.
pub fn is_retried(verb: Verb, failure: Failure) -> bool {
    match verb {
        Verb::Update | Verb::Pause => failure == Failure::Freeze,
        Verb::Create | Verb::Run => failure == Failure::FreezeInProcHooks,
        Verb::Exec => failure == Failure::Paused,
        _ => false,
    }
}

pub fn decide(limits: &Limits, situation: &Situation) -> Step {
    if !is_retried(situation.verb, situation.failure) || limits.deadline.is_zero() {
        return Step::Stop(Reason::NotRetried);
    }
    if !situation.repeatable {
        return Step::Stop(Reason::NotRepeatable);
    }
    let delay = match situation.failure {
        // The freeze has been waited out already.
        Failure::Paused => Duration::ZERO,
        _ => delay(limits, situation),
    };
    if situation.used + delay + situation.first_attempt > limits.deadline {
        return Step::Stop(Reason::OutOfTime);
    }
    Step::Again { delay }
}

/// Doubles with every attempt, and spreads by a quarter either way: several containers of a pod that
/// failed together would else meet again.
fn delay(limits: &Limits, situation: &Situation) -> Duration {
    let doublings = situation.attempts.saturating_sub(1).min(16);
    let grown = limits.first_delay.saturating_mul(1 << doublings).min(limits.max_delay);
    let spread = grown.mul_f64(0.75 + 0.5 * situation.jitter.clamp(0.0, 1.0));
    spread.max(situation.period)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    const LIMITS: Limits = Limits {
        deadline: Duration::from_millis(1500),
        first_delay: Duration::from_millis(100),
        max_delay: Duration::from_millis(400),
    };

    fn situation(verb: Verb, failure: Failure) -> Situation {
        Situation {
            verb,
            failure,
            attempts: 1,
            first_attempt: 240 * MS,
            used: Duration::ZERO,
            period: 100 * MS,
            repeatable: true,
            jitter: 0.5,
        }
    }

    #[test]
    fn delays_double_up_to_a_bound() {
        let delays: Vec<_> = (1..=5)
            .map(|attempts| {
                decide(&LIMITS, &Situation { attempts, ..situation(Verb::Pause, Failure::Freeze) })
            })
            .collect();
        let expected = [100, 200, 400, 400, 400].map(|ms| Step::Again { delay: ms * MS });
        assert_eq!(delays, expected);
    }

    #[test]
    fn jitter_spreads_by_a_quarter_but_never_below_a_period() {
        let at = |jitter, period| {
            let situation = Situation {
                jitter,
                period,
                attempts: 2,
                ..situation(Verb::Pause, Failure::Freeze)
            };
            delay(&LIMITS, &situation)
        };
        assert_eq!(at(0.0, 100 * MS), 150 * MS);
        assert_eq!(at(1.0, 100 * MS), 250 * MS);
        assert_eq!(at(0.0, 1000 * MS), 1000 * MS);
    }

    #[test]
    fn never_beyond_the_deadline() {
        let late = Situation { used: 1200 * MS, ..situation(Verb::Update, Failure::Freeze) };
        assert_eq!(decide(&LIMITS, &late), Step::Stop(Reason::OutOfTime));
        // runc on v2 has waited 10 s by itself.
        let slow =
            Situation { first_attempt: 10_000 * MS, ..situation(Verb::Pause, Failure::Freeze) };
        assert_eq!(decide(&LIMITS, &slow), Step::Stop(Reason::OutOfTime));
    }

    #[test]
    fn off_is_off() {
        let limits = Limits { deadline: Duration::ZERO, ..LIMITS };
        let step = decide(&limits, &situation(Verb::Pause, Failure::Freeze));
        assert_eq!(step, Step::Stop(Reason::NotRetried));
    }

    #[test]
    fn only_these_are_retried() {
        use Failure::{Bus, Freeze, FreezeInProcHooks, NoFreezer, Other, Paused};
        let retried: Vec<_> = Verb::ALL
            .into_iter()
            .flat_map(|verb| {
                [Freeze, FreezeInProcHooks, Paused, Bus, NoFreezer, Other].map(|f| (verb, f))
            })
            .filter(|(verb, failure)| is_retried(*verb, *failure))
            .collect();
        let expected = [
            (Verb::Create, FreezeInProcHooks),
            (Verb::Run, FreezeInProcHooks),
            (Verb::Update, Freeze),
            (Verb::Pause, Freeze),
            (Verb::Exec, Paused),
        ];
        assert_eq!(retried, expected);
    }
}
