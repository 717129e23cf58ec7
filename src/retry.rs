//! Whether to try again, and when. Pure: time comes in as a value, and nothing sleeps here.
//!
//! Why retry? What keeps a cgroup from freezing is over within some periods of the CPU controller, or
//! when another's update ends. But the callers above us treat a failure as final: a failed create is a
//! failed pod.
//!
//! Why these delays? runc's own loop on cgroup v1 gives up after about 0.25 s, and a throttled task
//! needs whole periods of 100 ms, so delays start at one period. How long to retry depends on the
//! caller, which has another deadline for each verb; see [`time_for`].
//!
//! When is it pointless? If the runtime has passed the stage that may be repeated, or has waited 10 s
//! itself, as runc does on v2. The real fix belongs in the kernel: a freezer that needs no CPU time.

use std::time::Duration;

use crate::invocation::Verb;
use crate::verdict::Failure;

/// More attempts have not been seen to help, and each start of the runtime costs some 15 ms of CPU time
/// on a node that may be short of it.
pub const ATTEMPTS_MAX: u32 = 3;

/// kubelet gives a create two minutes. But containerd's shim handles one request of a pod at a time
/// while it creates, and the exit of a neighbour must be handled within 10 s. On a node at load 10 the
/// first attempt took 1.5 to 2.4 s: there is room for three of these.
pub const CREATE_MAX: Duration = Duration::from_secs(9);

/// A shim answers no other request for the container meanwhile, and containerd waits 2 s for its state.
/// Three attempts of runc, at 0.25 s each, are over within 1.1 s; where we wait a second for crun's
/// freeze, there are two.
pub const FREEZE_MAX: Duration = Duration::from_secs(3);

/// kubelet gives a probe one second by default, and its command must run within that second, too.
pub const EXEC_MAX: Duration = Duration::from_millis(800);

/// The freeze that refused the exec has been waited out; the delay only keeps two attempts from
/// following at once.
const AFTER_THAW: Duration = Duration::from_millis(10);

/// One period of the CPU controller, as nearly all nodes have it: less does not help a throttled task.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// How long an operation may take in all: the lock wait, every attempt, and the delays in between.
pub fn time_for(verb: Verb) -> Duration {
    match verb {
        Verb::Create | Verb::Run => CREATE_MAX,
        Verb::Update | Verb::Pause => FREEZE_MAX,
        _ => EXEC_MAX,
    }
}

/// The facts to decide on.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    pub verb: Verb,
    pub failure: Failure,
    /// How many attempts there have been.
    pub attempts: u32,
    /// How long the longest of them took: one more will take about as long.
    pub attempt: Duration,
    /// Time used so far.
    pub used: Duration,
    /// One period of the CPU controller: less does not help a throttled cgroup.
    pub period: Duration,
    /// Whether the caller has seen nothing of this attempt that a second one would repeat.
    pub repeatable: bool,
    /// Between 0 and 1.
    pub jitter: f64,
}

/// Why there is no further attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// This verb is not retried after this failure.
    NotRetried,
    /// It would be, but something has already reached the caller.
    NotRepeatable,
    OutOfTime,
    OutOfAttempts,
    /// A signal that would have ended the runtime came during the delay.
    Interrupted,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::NotRetried => "not retried",
            Reason::NotRepeatable => "not repeatable",
            Reason::OutOfTime => "out of time",
            Reason::OutOfAttempts => "out of attempts",
            Reason::Interrupted => "interrupted",
        }
    }
}

/// The failure of this verb that may be retried.
pub fn retried(verb: Verb) -> Option<Failure> {
    match verb {
        Verb::Update | Verb::Pause => Some(Failure::Freeze),
        Verb::Create | Verb::Run => Some(Failure::FreezeInProcHooks),
        Verb::Exec => Some(Failure::Paused),
        _ => None,
    }
}

pub fn is_retried(verb: Verb, failure: Failure) -> bool {
    retried(verb) == Some(failure)
}

/// Gives the delay before the next attempt. `deadline` is when the last attempt must have ended; 0 means
/// no retry.
pub fn decide(deadline: Duration, situation: &Situation) -> Result<Duration, Reason> {
    if !is_retried(situation.verb, situation.failure) || deadline.is_zero() {
        return Err(Reason::NotRetried);
    }
    if !situation.repeatable {
        return Err(Reason::NotRepeatable);
    }
    if situation.attempts >= ATTEMPTS_MAX {
        return Err(Reason::OutOfAttempts);
    }
    let delay = delay(situation);
    if situation.used + delay + situation.attempt > deadline {
        return Err(Reason::OutOfTime);
    }
    Ok(delay)
}

/// Doubles with every attempt, and varies by a quarter either way: otherwise several containers of a
/// pod that failed together would collide again.
fn delay(situation: &Situation) -> Duration {
    let doublings = situation.attempts.saturating_sub(1).min(ATTEMPTS_MAX);
    let (first, least) = match situation.failure {
        Failure::Paused => (AFTER_THAW, AFTER_THAW),
        _ => (FIRST_DELAY, situation.period),
    };
    let grown = first * (1 << doublings);
    let spread = grown.mul_f64(0.75 + 0.5 * situation.jitter.clamp(0.0, 1.0));
    spread.max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    const DEADLINE: Duration = Duration::from_secs(5);

    fn situation(verb: Verb, failure: Failure) -> Situation {
        Situation {
            verb,
            failure,
            attempts: 1,
            attempt: 240 * MS,
            used: 240 * MS,
            period: 100 * MS,
            repeatable: true,
            jitter: 0.5,
        }
    }

    #[test]
    fn delays_double() {
        let delays: Vec<_> = (1..ATTEMPTS_MAX)
            .map(|attempts| {
                delay(&Situation { attempts, ..situation(Verb::Pause, Failure::Freeze) })
            })
            .collect();
        assert_eq!(delays, [100, 200].map(|ms| ms * MS));
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
            delay(&situation)
        };
        assert_eq!(at(0.0, 100 * MS), 150 * MS);
        assert_eq!(at(1.0, 100 * MS), 250 * MS);
        assert_eq!(at(0.0, 1000 * MS), 1000 * MS);
    }

    #[test]
    fn there_is_a_delay_before_every_attempt() {
        for verb in Verb::ALL {
            for failure in [Failure::Freeze, Failure::FreezeInProcHooks, Failure::Paused] {
                let short = Situation { jitter: 0.0, ..situation(verb, failure) };
                match decide(DEADLINE, &short) {
                    Ok(delay) if failure == Failure::Paused => assert_eq!(delay, AFTER_THAW),
                    Ok(delay) => assert_eq!(delay, short.period),
                    Err(reason) => assert_eq!(reason, Reason::NotRetried),
                }
            }
        }
    }

    #[test]
    fn at_most_three_attempts_of_anything() {
        for (verb, failure) in [
            (Verb::Create, Failure::FreezeInProcHooks),
            (Verb::Update, Failure::Freeze),
            (Verb::Exec, Failure::Paused),
        ] {
            let after = |attempts| {
                let situation = situation(verb, failure);
                decide(DEADLINE, &Situation { attempts, attempt: MS, used: MS, ..situation })
            };
            assert!(after(2).is_ok(), "{verb}");
            for attempts in [3, 4, u32::MAX] {
                assert_eq!(after(attempts), Err(Reason::OutOfAttempts), "{verb}");
            }
        }
    }

    /// What the callers' deadlines allow: the number of attempts of a given length, after a wait for
    /// the lock.
    #[test]
    fn as_many_attempts_as_there_is_time_for() {
        const CREATE: (Verb, Failure) = (Verb::Create, Failure::FreezeInProcHooks);
        const UPDATE: (Verb, Failure) = (Verb::Update, Failure::Freeze);
        const EXEC: (Verb, Failure) = (Verb::Exec, Failure::Paused);
        for ((verb, failure), lock_wait, attempt, expected) in [
            (CREATE, 0, 270, 3),
            // Seen on a node at load 10.
            (CREATE, 0, 1500, 3),
            (CREATE, 0, 2000, 3),
            (CREATE, 0, 2400, 3),
            (CREATE, 1000, 2000, 3),
            (CREATE, 0, 4000, 2),
            (CREATE, 0, 4500, 1),
            (UPDATE, 0, 250, 3),
            (UPDATE, 1000, 250, 3),
            (UPDATE, 0, 1000, 2),
            (UPDATE, 0, 1400, 2),
            (UPDATE, 0, 2000, 1),
            // runc on v2 has waited 10 s itself.
            (UPDATE, 0, 10_000, 1),
            (CREATE, 0, 10_000, 1),
            (EXEC, 0, 30, 3),
            (EXEC, 0, 300, 2),
            (EXEC, 500, 100, 2),
            (EXEC, 500, 200, 1),
            (EXEC, 0, 450, 1),
        ] {
            let attempt = attempt * MS;
            let mut used = lock_wait * MS;
            let mut attempts = 0;
            loop {
                (attempts, used) = (attempts + 1, used + attempt);
                let situation = situation(verb, failure);
                match decide(time_for(verb), &Situation { attempts, attempt, used, ..situation }) {
                    Ok(delay) => used += delay,
                    Err(_) => break,
                }
            }
            assert_eq!(attempts, expected, "{verb}: {attempt:?} after {lock_wait} ms");
            assert!(attempts == 1 || used <= time_for(verb), "{verb}: {used:?}");
        }
    }

    #[test]
    fn off_is_off() {
        let step = decide(Duration::ZERO, &situation(Verb::Pause, Failure::Freeze));
        assert_eq!(step, Err(Reason::NotRetried));
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
