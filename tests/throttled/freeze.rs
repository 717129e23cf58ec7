//! A pause must freeze every thread within the runtime's patience, and a throttled thread cannot
//! run into the freezer.

use std::time::Duration;

use crate::scene::{Container, Quota, SCENES, Via, refilled};
use crate::support::cpu::Version;
use crate::support::{Runtime, Scratch, proof, runtime, slowness};
use crate::table::{Series, Table};
use crate::{
    ENOUGH_FAILURES, RUNTIMES, alone, fast, few, short_control, short_wrapped, slack, slow_ms,
};

const MEDIAN_MS: f64 = 40.0;
const P99_MS: f64 = 250.0;
/// Of the median of a container that is as busy and has no quota, on v2: what bare must take for the
/// claim to be shown, and wrapped at most.
const TIMES_BARE: f64 = 2.0;
const TIMES_UNTHROTTLED: f64 = 1.5;
const LIMIT: Duration = Duration::from_secs(15);

fn rounds(short: usize) -> usize {
    if proof() { 100 } else { short }
}

#[test]
fn a_throttled_container_is_paused() {
    let _alone = alone();
    let mut table = Table::new("pause of throttled containers");
    // They differ in how they freeze, and 1.1.15 does it as 1.3.6 does.
    let names = [RUNTIMES[2], RUNTIMES[0], RUNTIMES[1]];
    for name in few(&names[..if proof() { 3 } else { 2 }]) {
        let runtime = runtime(name);
        // One thread is in luck now and then; with short periods a slow runc takes as long as its freeze.
        let scenes = if slowness() > 1 { &SCENES[3..] } else { &SCENES[..] };
        for &(loops, quota) in scenes {
            one_scene(&mut table, &runtime, loops, quota.tight_here());
        }
    }
    table.finish();
}

fn one_scene(table: &mut Table, runtime: &Runtime, loops: u32, quota: Quota) {
    let scene = format!("{} {loops} x {quota}", runtime.name);
    let bare = control(runtime, loops, quota);
    table.row(&scene, "bare", &bare);
    // A single thread is in luck now and then: it only has to be frozen while it is given its quota.
    let needed = if loops == 1 { 1 } else { bare.n() / 2 + 1 };
    // On v2 runc waits for as long as it takes, up to 10 s.
    let unthrottled = (Version::here() == Version::V2).then(|| unthrottled(runtime, loops));
    if let Some(unthrottled) = &unthrottled {
        table.row(&format!("{} {loops} busy, no quota", runtime.name), "wrapped", unthrottled);
    }

    let scratch = Scratch::new();
    let container = Container::busy(&scratch, runtime, Via::Wrapped, "c", loops);
    container.limit(quota);
    let before = container.settings();
    let mut wrapped = Series::default();
    let mut resumed = Series::default();
    let mut not_frozen = Vec::new();
    for _ in 0..rounds(short_wrapped()) {
        let took = container.timed(&["pause", "c"], LIMIT);
        let state = container.freezer();
        if took.failure.is_none() && state != "FROZEN" {
            not_frozen.push(state);
        }
        wrapped.add(took);
        resumed.add(container.timed(&["resume", "c"], LIMIT));
        container.until_throttled();
    }
    table.row(&scene, "wrapped", &wrapped);
    let slow = unthrottled
        .as_ref()
        .map_or(f64::INFINITY, |series| TIMES_BARE * fast(series, &wrapped).p50());
    table.claim(bare.failed() >= needed || bare.p50() >= slow, || {
        let (failed, n, p50) = (bare.failed(), bare.n(), bare.p50());
        format!("{scene}: not shown: {failed} of {n} bare pauses failed, median {p50:.1} ms")
    });

    let settings = container.settings();
    table.claim(settings == before, || format!("{scene}: {before:?} has become {settings:?}"));
    table.claim(not_frozen.is_empty(), || {
        format!("{scene}: paused, and yet the freezer says {not_frozen:?}")
    });
    table.claim(resumed.failed() == 0, || format!("{scene}: resume: {}", resumed.failures()));
    table.claim(wrapped.failed() == 0, || format!("{scene}: wrapped: {}", wrapped.failures()));
    let (p50, p99) = (wrapped.p50(), wrapped.p99());
    let most =
        unthrottled.map_or(slow_ms(MEDIAN_MS), |all| TIMES_UNTHROTTLED * all.p50() * slack());
    let most_of_all = slow_ms(P99_MS);
    table.claim(p50 <= most && p99 <= most_of_all, || {
        format!(
            "{scene}: {p50:.1}, {p99:.1} ms, want a median of {most:.1}, a p99 of {most_of_all}"
        )
    });
    let journal = scratch.journal();
    let (with, of) = refilled(&journal, "pause", "freeze");
    // Some are in luck: frozen while the threads have just been given their quota.
    let needed = if loops == 1 { 1 } else { of * 4 / 5 };
    table.claim(of == wrapped.n() && with >= needed, || {
        format!("{scene}: {with} of {of} records of a pause have a refill for a freeze")
    });
    let (with, _) = refilled(&journal, "resume", "freeze");
    table.claim(with == 0, || format!("{scene}: {with} records of a resume have a refill"));
}

fn unthrottled(runtime: &Runtime, loops: u32) -> Series {
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, runtime, Via::Wrapped, "c", loops);
    let once = |_| {
        let took = container.timed(&["pause", "c"], LIMIT);
        container.timed(&["resume", "c"], LIMIT);
        took
    };
    (0..short_control()).map(once).collect()
}

fn control(runtime: &Runtime, loops: u32, quota: Quota) -> Series {
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, runtime, Via::Bare, "c", loops);
    container.limit(quota);
    let mut series = Series::default();
    for _ in 0..rounds(short_control()) {
        series.add(container.timed(&["pause", "c"], LIMIT));
        if container.freezer() != "THAWED" {
            container.timed(&["resume", "c"], LIMIT);
            container.thaw();
        }
        container.until_throttled();
        if !proof() && series.failed() == ENOUGH_FAILURES {
            break;
        }
    }
    series
}
