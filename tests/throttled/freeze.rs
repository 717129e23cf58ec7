//! A pause must freeze every thread within the runtime's patience, and a throttled thread cannot
//! run into the freezer.

use std::time::Duration;

use crate::scene::{Container, Quota, SCENES, Via, refilled};
use crate::support::{Runtime, Scratch, proof, runtime};
use crate::table::{Series, Table};
use crate::{ENOUGH_FAILURES, RUNTIMES, SHORT_CONTROL, SHORT_WRAPPED, alone, slack};

const MEDIAN_MS: f64 = 40.0;
const P99_MS: f64 = 250.0;
const LIMIT: Duration = Duration::from_secs(15);

fn rounds(short: usize) -> usize {
    if proof() { 100 } else { short }
}

#[test]
fn a_throttled_container_is_paused() {
    let _alone = alone();
    let mut table = Table::new("pause of throttled containers, cgroup v1");
    // They differ in how they freeze, and 1.1.15 does it as 1.3.6 does.
    for name in RUNTIMES.into_iter().filter(|name| proof() || *name != "runc-1.1.15") {
        let runtime = runtime(name);
        for (loops, quota) in SCENES {
            one_scene(&mut table, &runtime, loops, quota);
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
    table.claim(bare.failed() >= needed, || {
        format!("{scene}: not shown: {} of {} bare pauses failed", bare.failed(), bare.n())
    });

    let scratch = Scratch::new();
    let container = Container::busy(&scratch, runtime, Via::Wrapped, "c", loops);
    container.limit(quota);
    let before = container.settings();
    let mut wrapped = Series::default();
    let mut resumed = Series::default();
    let mut not_frozen = Vec::new();
    for _ in 0..rounds(SHORT_WRAPPED) {
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

    let settings = container.settings();
    table.claim(settings == before, || format!("{scene}: {before:?} has become {settings:?}"));
    table.claim(not_frozen.is_empty(), || {
        format!("{scene}: paused, and yet the freezer says {not_frozen:?}")
    });
    table.claim(resumed.failed() == 0, || format!("{scene}: resume: {}", resumed.failures()));
    table.claim(wrapped.failed() == 0, || format!("{scene}: wrapped: {}", wrapped.failures()));
    let (p50, p99) = (wrapped.p50(), wrapped.p99());
    table.claim(p50 <= MEDIAN_MS * slack() && p99 <= P99_MS * slack(), || {
        format!("{scene}: {p50:.1}, {p99:.1} ms, want a median of {MEDIAN_MS}, a p99 of {P99_MS}")
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

fn control(runtime: &Runtime, loops: u32, quota: Quota) -> Series {
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, runtime, Via::Bare, "c", loops);
    container.limit(quota);
    let mut series = Series::default();
    for _ in 0..rounds(SHORT_CONTROL) {
        series.add(container.timed(&["pause", "c"], LIMIT));
        if container.freezer() != "THAWED" {
            container.timed(&["resume", "c"], LIMIT);
            // Of what an earlier failure has left, runc may not know.
            std::fs::write(container.file("freezer", "freezer.state"), "THAWED").unwrap();
        }
        container.until_throttled();
        if !proof() && series.failed() == ENOUGH_FAILURES {
            break;
        }
    }
    series
}
