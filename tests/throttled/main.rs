//! Containers whose CPU quota is used up, as with Kubernetes' small limits. Every claim has its
//! control in the same run: the bare runtime must fail, or be slow, or else the claim is "not
//! shown".
//!
//! The host's cgroups, v1 or v2, cgroupfs driver. Short counts by default, all of them with
//! FROSTLOCK_PROOF.

// clippy.toml allows these in tests, but helpers of a test are not #[test].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// The tables belong to the result.
#![allow(clippy::print_stdout)]

mod at_once;
mod bad_days;
mod begins;
mod deaths;
mod freeze;
mod pods;
mod probe;
mod promise;
mod remove;
mod start;
mod tenants;
mod thousands;
mod together;
mod untouched;

use std::sync::{Mutex, MutexGuard};

use testkit::load::Late;
use testkit::table::Series;
use testkit::{Runtime, proof, runtime, slowness};

/// One at a time: these measure, on a machine with two processors.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

const RUNTIMES: [&str; 4] = ["runc-1.1.5", "runc-1.1.15", "runc-1.3.6", "runc-1.5.3"];

/// In `make test` only the newest.
fn runtimes() -> Vec<Runtime> {
    let names = if proof() { &RUNTIMES[..] } else { &RUNTIMES[RUNTIMES.len() - 1..] };
    names.iter().map(|name| runtime(name)).collect()
}

/// In `make test` the newest and the oldest: 1.1.5 freezes differently from the later ones.
fn both_ends() -> Vec<Runtime> {
    let [oldest, .., newest] = RUNTIMES;
    let names = if proof() { RUNTIMES.to_vec() } else { vec![newest, oldest] };
    names.into_iter().map(runtime).collect()
}

/// At most this many rounds of the control: one failure is enough if the count itself is not
/// claimed.
fn short_control() -> usize {
    if slowness() > 1 { 3 } else { 5 }
}
fn short_wrapped() -> usize {
    if slowness() > 1 { 5 } else { 10 }
}

/// The factor for time limits: the machine may be busy with something else if the figures are not
/// claimed.
fn slack() -> f64 {
    if proof() { 1.0 } else { 4.0 }
}

/// A bound on a time in ms.
fn slow_ms(bound: f64) -> f64 {
    bound * slack() * f64::from(slowness())
}

/// If each round takes seconds, one scene stands for all.
fn few<T>(scenes: &[T]) -> &[T] {
    if slowness() > 1 { &scenes[..1] } else { scenes }
}

/// How much slower than without scarcity.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    p50: f64,
    p99: f64,
}

/// What the wrapper itself may add.
const OWN_MS: f64 = 5.0;

impl Bound {
    /// In ms.
    fn of(self, fast: &Series) -> Bound {
        let own = OWN_MS * f64::from(slowness());
        let times = |ratio: f64, ms: f64| ratio * slack() * (ms + own);
        Bound { p50: times(self.p50, fast.p50()), p99: times(self.p99, fast.p99()) }
    }

    /// In a short run of ten, one may be later: the machine sometimes delays one.
    fn holds(self, series: &Series) -> bool {
        series.p50() <= self.p50 && Bound::slowest(series) <= self.p99
    }

    fn slowest(series: &Series) -> f64 {
        if proof() { series.p99() } else { series.p90() }
    }

    fn missed_by(self, series: &Series) -> String {
        let (p50, p99) = (series.p50(), Bound::slowest(series));
        format!("{p50:.1}, the slowest {p99:.1} ms, want {:.1}, {:.1}", self.p50, self.p99)
    }
}

/// How late a fair task may wake beside frostlock at most, in ms. If the figures are not claimed,
/// there are too few to find more than the worst fault: two threads that were left lifted.
fn late_bound(beside_bare: &Late) -> f64 {
    let ms = 1.5 * beside_bare.max();
    if proof() { ms } else { ms.max(LATE_MS) * f64::from(slowness()) }
}

/// How late a fair task woke. Outside the proof a single wake does not count: if the hypervisor
/// runs others for half a second, one wake is late, but two threads that were left lifted make all
/// wakes late.
fn latest(late: &Late) -> f64 {
    if proof() { late.max() } else { late.max_but_one() }
}

/// With load 20 alone 158 to 418 were seen, with 20 lifted execs beside it up to 389; with two
/// threads that were left lifted 656.
const LATE_MS: f64 = 500.0;

/// What a bare command is compared with. A slow machine is slower beside busy loops without a quota
/// than with one: there it is the wrapped command itself.
fn fast<'a>(unthrottled: &'a Series, wrapped: &'a Series) -> &'a Series {
    if slowness() > 1 { wrapped } else { unthrottled }
}
