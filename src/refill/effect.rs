//! Does the write refill on this kernel? It is not documented anywhere but in the source, so it is
//! found out, and where it does not, nobody writes in vain for long.

use std::time::{Duration, Instant, SystemTime};

use crate::cgroup::CpuQuota;
use crate::state_dir::{self, StateDir};

/// For how long it is believed: a wrong verdict is not to last until the next boot.
const BELIEVED_FOR: Duration = Duration::from_secs(3600);

/// As many periods in a row tell it from chance.
const PERIODS: u32 = 3;

/// Fewer writes in that time are no attempt: we were not given the CPU ourselves.
const WRITES: u32 = 50;

/// What the kernel has counted so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) usage_us: u64,
    pub(super) nr_throttled: u64,
}

/// From the first write on.
#[derive(Debug, Default)]
pub(super) struct Effect {
    first: Option<Sample>,
}

impl Effect {
    /// Whether the cgroup ended every period throttled and got no more than its quota all the same.
    pub(super) fn is_none(&mut self, now: Sample, writes: u32, quota: CpuQuota) -> bool {
        let first = *self.first.get_or_insert(now);
        let elapsed = now.at.duration_since(first.at);
        let period = Duration::from_micros(quota.period_us);
        if elapsed < period * PERIODS || writes < WRITES {
            return false;
        }
        let periods = elapsed.as_micros() as u64 / quota.period_us.max(1);
        let throttled = now.nr_throttled.saturating_sub(first.nr_throttled);
        let used = now.usage_us.saturating_sub(first.usage_us);
        // A quota of the period before, and what CPUs overrun by, which the kernel takes back later.
        let own = quota.in_time_us(elapsed.as_micros() as u64);
        let allowed = own + own / 2 + quota.quota_us.unwrap_or(0).max(0) as u64;
        throttled + 1 >= periods && used <= allowed
    }
}

/// Whether it was found out, not long ago, that there is no use in it. A mark of the future, as the clock
/// was set back since, would be believed until then: it is found out anew.
pub(super) fn is_known_to_have_none(state: &StateDir) -> bool {
    let age = std::fs::symlink_metadata(state.no_refill())
        .and_then(|mark| mark.modified())
        .ok()
        .and_then(|modified| SystemTime::now().duration_since(modified).ok());
    age.is_some_and(|age| age < BELIEVED_FOR)
}

pub(super) fn remember_none(state: &StateDir, why: &str) {
    let path = state.no_refill();
    let _ = state_dir::make_private(state.path());
    let _ = std::fs::remove_file(&path);
    let _ =
        std::fs::OpenOptions::new().write(true).create_new(true).open(path).and_then(|mut file| {
            std::io::Write::write_all(&mut file, format!("{why}\n").as_bytes())
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: CpuQuota = CpuQuota { quota_us: Some(1000), period_us: 100_000 };

    fn verdict(usage_us: u64, nr_throttled: u64, milliseconds: u64, writes: u32) -> bool {
        let at = Instant::now();
        let mut effect = Effect::default();
        assert!(!effect.is_none(Sample { at, usage_us: 0, nr_throttled: 0 }, 0, QUOTA));
        let at = at + Duration::from_millis(milliseconds);
        effect.is_none(Sample { at, usage_us, nr_throttled }, writes, QUOTA)
    }

    #[test]
    fn throttled_all_the_time_and_no_more_than_the_quota_is_no_effect() {
        assert!(verdict(4000, 4, 400, 380));
        assert!(verdict(4000, 3, 400, 380));
    }

    #[test]
    fn anything_else_is_no_verdict() {
        assert!(!verdict(40_000, 4, 400, 380), "it gained");
        assert!(!verdict(4000, 1, 400, 380), "it was not throttled");
        assert!(!verdict(2000, 2, 200, 190), "too early");
        assert!(!verdict(4000, 4, 400, 20), "hardly written to");
    }

    #[test]
    fn a_verdict_is_believed_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path().join("state"));
        assert!(!is_known_to_have_none(&state));
        remember_none(&state, "as seen");
        assert!(is_known_to_have_none(&state));
        let mark = std::fs::File::options().write(true).open(state.no_refill()).unwrap();
        let written = |at| mark.set_modified(at).unwrap();
        written(SystemTime::now() - BELIEVED_FOR);
        assert!(!is_known_to_have_none(&state), "too old");
        // Somebody has set the clock back since.
        written(SystemTime::now() + Duration::from_secs(60));
        assert!(!is_known_to_have_none(&state), "of the future");
    }
}
