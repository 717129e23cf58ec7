//! The plan of one pod, from only the seed, the slot and the generation: the same on both sides,
//! however long the steps of a side take.

use std::time::Duration;

/// In thousandths of a CPU.
pub(crate) type Milli = u32;

const SMALLEST: Milli = 10;
const LARGEST: Milli = 50;
/// Every third pod has a container that ends by itself and is restarted.
const ENDS_EVERY: usize = 3;

/// The first word of a pod's name.
pub(crate) const IDLE: &str = "idle";
pub(crate) const BUSY: &str = "busy";
pub(crate) const ENDING: &str = "ending";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) limit: Milli,
    /// Busy loops in the container. Without any, the probe's command fits into the quota.
    pub(crate) busy: u32,
    pub(crate) readiness_period_s: u32,
    /// The container ends by itself after this time.
    pub(crate) ends_after_s: Option<u32>,
    pub(crate) resizes: Vec<Resize>,
    /// From the time at which it is ready.
    pub(crate) life: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resize {
    pub(crate) after: Duration,
    pub(crate) limit: Milli,
}

impl Plan {
    pub(crate) fn new(seed: u64, slot: usize, generation: usize) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed ^ ((slot as u64) << 32) ^ generation as u64);
        // Nearby seeds give nearby first numbers.
        dice.u64(..);
        let is_busy = slot % 2 == 1;
        let busy = if is_busy { dice.u32(1..=4) } else { 0 };
        let life = dice.u64(40..70);
        let mut limit = dice.u32(SMALLEST..=LARGEST);
        let first = limit;
        let mut resizes = Vec::new();
        let mut at = dice.u64(5..12);
        while at < life {
            // A different limit: a resize to the same one would be none.
            limit = other(limit, &mut dice);
            resizes.push(Resize { after: Duration::from_secs(at), limit });
            at += dice.u64(10..15);
        }
        let ends = (slot / 2 + generation) % ENDS_EVERY == 0;
        let kind = match (ends, is_busy) {
            (true, _) => ENDING,
            (false, true) => BUSY,
            (false, false) => IDLE,
        };
        Self {
            name: format!("{kind}-{slot}-{generation}"),
            limit: first,
            busy,
            readiness_period_s: dice.u32(1..=2),
            ends_after_s: ends.then(|| dice.u32(15..35)),
            resizes,
            life: Duration::from_secs(life),
        }
    }
}

fn other(than: Milli, dice: &mut fastrand::Rng) -> Milli {
    loop {
        let limit = dice.u32(SMALLEST..=LARGEST);
        if limit != than {
            return limit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_pods_and_another_seed_others() {
        let plans = |seed| (0..20).map(|at| Plan::new(seed, at % 4, at / 4)).collect::<Vec<_>>();
        assert_eq!(plans(1), plans(1));
        assert_ne!(plans(1), plans(2));
    }

    #[test]
    fn a_pod_is_within_its_bounds_and_each_resize_changes_it() {
        for plan in (0..200).map(|at| Plan::new(7, at % 8, at / 8)) {
            let mut limit = plan.limit;
            assert!(plan.busy == 0 || !plan.name.starts_with(IDLE), "{plan:?}");
            assert_eq!(plan.ends_after_s.is_some(), plan.name.starts_with(ENDING), "{plan:?}");
            assert!(!plan.resizes.is_empty(), "{plan:?}");
            for resize in &plan.resizes {
                assert!(resize.after < plan.life && resize.limit != limit, "{plan:?}");
                limit = resize.limit;
                assert!((SMALLEST..=LARGEST).contains(&limit), "{plan:?}");
            }
        }
    }
}
