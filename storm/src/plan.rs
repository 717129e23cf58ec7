//! What a seed makes of a storm: its pods, and when each is resized. Pure, so that both sides get
//! the same.

use std::time::Duration;

/// kubelet's default timeoutSeconds of a probe.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// In thousandths of a CPU, as limits in a pod's spec.
pub(crate) type Milli = u32;

const LEAST: Milli = 5;
const MOST: Milli = 50;
/// The limit of a container that only waits.
pub(crate) const IDLE: Milli = 5;
/// The period of the CPU controller, as kubelet sets it.
pub(crate) const PERIOD_US: i64 = 100_000;
/// The smallest quota that kubelet requests.
const LEAST_QUOTA_US: i64 = 1000;
const LEAST_SHARES: i64 = 2;

/// The parameters of a storm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) seed: u64,
    pub(crate) life: Duration,
    pub(crate) resize_period: Duration,
}

/// One pod, from its start to its end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) uid: String,
    /// The limit of its busy container.
    pub(crate) limit: Milli,
    pub(crate) life: Duration,
    pub(crate) resizes: Vec<Resize>,
    /// The delay until its first probe, as a part of the period: kubelet spreads first probes.
    pub(crate) first_probe: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Resize {
    /// Since the start of the pod.
    pub(crate) after: Duration,
    pub(crate) limit: Milli,
}

impl Plan {
    /// The plan of the `generation`th pod in its slot.
    pub(crate) fn of(weather: Weather, slot: usize, generation: usize) -> Plan {
        let own = (slot as u64) << 32 | generation as u64;
        let mut dice = fastrand::Rng::with_seed(weather.seed.wrapping_mul(1 << 48) ^ own);
        let uid = format!("{:08x}-{:04x}-4000-8000-{:012x}", dice.u32(..), dice.u16(..), own);
        let life = weather.life.mul_f64(0.5 + dice.f64());
        let limit = any_limit(&mut dice);
        let mut resizes = Vec::new();
        let mut after = Duration::ZERO;
        let mut last = limit;
        loop {
            after += weather.resize_period.mul_f64(0.5 + dice.f64());
            if after >= life {
                break;
            }
            let before = last;
            while last == before {
                last = any_limit(&mut dice);
            }
            resizes.push(Resize { after, limit: last });
        }
        Plan { uid, limit, life, resizes, first_probe: dice.f64() }
    }

    /// As kubelet's systemd driver names it.
    pub(crate) fn slice(&self) -> String {
        format!("kubepods-burstable-pod{}.slice", self.uid.replace('-', "_"))
    }
}

/// As many below 16m as above.
fn any_limit(dice: &mut fastrand::Rng) -> Milli {
    let (least, most) = (f64::from(LEAST), f64::from(MOST));
    (least * (most / least).powf(dice.f64())).round() as Milli
}

/// kubelet's MilliCPUToQuota.
pub(crate) fn quota_us(limit: Milli) -> i64 {
    (i64::from(limit) * PERIOD_US / 1000).max(LEAST_QUOTA_US)
}

/// kubelet's MilliCPUToShares.
pub(crate) fn shares(limit: Milli) -> i64 {
    (i64::from(limit) * 1024 / 1000).max(LEAST_SHARES)
}

/// What libcontainer asks systemd for, in µs of CPU time per second: rounded up to 10 ms, since
/// systemd rounds to whole percents.
pub(crate) fn slice_us_per_s(limit: Milli) -> u64 {
    let per_second = u64::try_from(quota_us(limit)).unwrap_or(0) * 10;
    per_second.div_ceil(10_000) * 10_000
}

/// The quota that systemd sets for a limit in its period, which is kubelet's.
pub(crate) fn slice_quota_us(limit: Milli) -> i64 {
    i64::try_from(slice_us_per_s(limit)).unwrap_or(i64::MAX) * PERIOD_US / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEATHER: Weather =
        Weather { seed: 1, life: Duration::from_secs(40), resize_period: Duration::from_secs(4) };

    #[test]
    fn a_seed_makes_the_same_pods_again() {
        assert_eq!(Plan::of(WEATHER, 3, 2), Plan::of(WEATHER, 3, 2));
        let of = |seed, slot, generation| Plan::of(Weather { seed, ..WEATHER }, slot, generation);
        for other in [of(2, 3, 2), of(1, 4, 2), of(1, 3, 3)] {
            assert_ne!(other, of(1, 3, 2));
            assert_ne!(other.uid, of(1, 3, 2).uid);
        }
    }

    #[test]
    fn every_resize_changes_the_limit() {
        for slot in 0..200 {
            let plan = Plan::of(WEATHER, slot, 0);
            let mut last = plan.limit;
            for resize in &plan.resizes {
                assert_ne!(resize.limit, last);
                assert!((LEAST..=MOST).contains(&resize.limit), "{resize:?}");
                assert!(resize.after < plan.life);
                last = resize.limit;
            }
            assert!(plan.resizes.len() >= 3, "{plan:?}");
        }
    }

    #[test]
    fn limits_become_what_kubelet_makes_of_them() {
        assert_eq!([5, 10, 15, 50].map(quota_us), [1000, 1000, 1500, 5000]);
        assert_eq!([1, 5, 50].map(shares), [2, 5, 51]);
        assert_eq!([5, 10, 15, 50].map(slice_us_per_s), [10_000, 10_000, 20_000, 50_000]);
    }
}
