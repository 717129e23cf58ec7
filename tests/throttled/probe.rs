//! A probe: the runtime's own work to start a process is charged to the container's quota.

use std::time::{Duration, Instant};

use crate::scene::{Container, Quota, Via, refilled};
use crate::support::{Runtime, Scratch, proof};
use crate::table::{Series, Table};
use crate::{alone, fast, few, runtimes, short_control, short_wrapped, slack, slow_ms};

const LOOPS: [u32; 2] = [2, 8];
/// With the larger ones a bare exec is in luck now and then, which a few rounds cannot tell from a
/// machine that is busy: only where the figures are claimed.
const QUOTAS: [Quota; 3] = [Quota::new(1, 100), Quota::new(5, 100), Quota::new(20, 100)];

/// Of the median into a container that is as busy and has no quota.
const TIMES_UNTHROTTLED: f64 = 1.5;
const MAX_MS: f64 = 250.0;
/// Of the same, what bare must take for the claim to be shown.
const TIMES_BARE: f64 = 2.0;

const LIMIT: Duration = Duration::from_secs(10);

/// When the last exec of a control is begun, and how long it may take: with 8 loops on 1 ms 24 s.
fn control_max() -> Duration {
    Duration::from_secs(if proof() { 60 } else { 2 })
}

fn rounds() -> usize {
    if proof() { 50 } else { short_wrapped() }
}

#[test]
fn an_exec_into_a_throttled_container_is_as_fast_as_into_any_other() {
    let _alone = alone();
    let mut table = Table::new("exec /bin/true into busy containers");
    for runtime in runtimes() {
        for &loops in few(&LOOPS) {
            one_scene(&mut table, &runtime, loops);
        }
    }
    table.finish();
}

fn one_scene(table: &mut Table, runtime: &Runtime, loops: u32) {
    let scene = format!("{} {loops} busy", runtime.name);
    let quotas = QUOTAS.map(Quota::here);
    let quotas = if proof() { &quotas[..] } else { &quotas[..1] };
    let controls: Vec<Series> = std::thread::scope(|scope| {
        let one = |&quota| scope.spawn(move || control(runtime, loops, quota));
        let each: Vec<_> = quotas.iter().map(one).collect();
        each.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let unthrottled = {
        let scratch = Scratch::new();
        let container = Container::busy(&scratch, runtime, Via::Widened, "c", loops);
        let series = execs(&container, false, rounds());
        let (with, _) = refilled(&scratch.journal(), "exec", "exec");
        table.claim(with == 0, || format!("{scene}: {with} refills without a quota"));
        series
    };
    table.row(&format!("{scene}, no quota"), "wrapped", &unthrottled);
    for (&quota, bare) in quotas.iter().zip(controls) {
        let scene = format!("{scene}, {quota}");
        table.row(&scene, "bare", &bare);
        let scratch = Scratch::new();
        let container = Container::busy(&scratch, runtime, Via::Widened, "c", loops);
        container.limit(quota);
        let before = container.settings();
        let wrapped = execs(&container, true, rounds());
        table.row(&scene, "wrapped", &wrapped);
        let settings = container.settings();
        table.claim(settings == before, || format!("{scene}: {before:?} has become {settings:?}"));
        table.claim(wrapped.failed() == 0, || format!("{scene}: wrapped: {}", wrapped.failures()));
        table.claim(bare.p50() >= TIMES_BARE * fast(&unthrottled, &wrapped).p50(), || {
            format!("{scene}: not shown: bare has a median of {:.1} ms", bare.p50())
        });
        let most = TIMES_UNTHROTTLED * unthrottled.p50() * slack();
        let most_of_all = slow_ms(MAX_MS);
        table.claim(wrapped.p50() <= most && wrapped.max() <= most_of_all, || {
            let (p50, max) = (wrapped.p50(), wrapped.max());
            format!(
                "{scene}: {p50:.1}, {max:.1} ms, want a median of {most:.1}, all in {most_of_all}"
            )
        });
        let (with, of) = refilled(&scratch.journal(), "exec", "exec");
        table.claim(with == of && of == wrapped.n(), || {
            format!("{scene}: {with} of {of} records of an exec have a refill for it")
        });
    }
}

fn execs(container: &Container<'_>, throttled: bool, rounds: usize) -> Series {
    let mut series = Series::default();
    for _ in 0..rounds {
        if throttled {
            container.until_throttled();
        }
        series.add(container.timed(&["exec", "c", "/bin/true"], LIMIT));
    }
    series
}

/// What did not end in time has taken so long at least; killed, it leaves its process in the
/// container, and so it is the last of its scene.
fn control(runtime: &Runtime, loops: u32, quota: Quota) -> Series {
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, runtime, Via::Bare, "c", loops);
    container.limit(quota);
    let mut series = Series::default();
    let began = Instant::now();
    let rounds = if proof() { 50 } else { short_control() };
    while series.n() < rounds && series.failed() == 0 {
        if began.elapsed() >= control_max() {
            break;
        }
        container.until_throttled();
        series.add(container.timed(&["exec", "c", "/bin/true"], control_max()));
    }
    series
}
