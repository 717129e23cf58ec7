//! How often the tests repeat a measurement, and how long they wait.

use std::time::{Duration, Instant};

/// Whether the counts of `make proof` were requested, rather than the short ones.
pub fn proof() -> bool {
    std::env::var_os("FROSTLOCK_PROOF").is_some()
}

/// How much slower this machine is than usual, as an emulated one: waits are that much longer and
/// quotas that much larger. Ratios stay the same.
pub fn slowness() -> u32 {
    std::env::var("FROSTLOCK_TEST_SLOWNESS").map_or(1, |times| times.parse().unwrap())
}

/// Waits until something is so, at most `limit`.
pub fn eventually(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit * slowness();
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
