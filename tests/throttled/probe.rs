//! A probe: the runtime's own work to start a process is charged to the container's quota.

use std::time::{Duration, Instant};

use crate::scene::{Container, Quota, Via, ended, refilled};
use crate::support::{Runtime, Scratch, eventually, proof, slowness};
use crate::table::{Series, Table, Took};
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

/// containerd's shim detaches every exec and waits for the process itself, of which the runtime's end
/// says nothing.
#[test]
fn the_process_of_a_detached_exec_is_not_left_to_its_quota() {
    let _alone = alone();
    let quota = QUOTAS[0].here();
    // One exec that is left to itself beside 8 of them takes a slow machine minutes.
    let loops = if slowness() > 1 { LOOPS[0] } else { LOOPS[1] };
    let mut table = Table::new("exec --detach /bin/true, until that has ended");
    let runtime = crate::support::runtime("runc-1.1.15");
    let scene = format!("{} {loops} busy, {quota}", runtime.name);
    let [bare, wrapped] = [(Via::Bare, 1), (Via::Widened, rounds())].map(|(via, rounds)| {
        let scratch = Scratch::new();
        let container = Container::busy(&scratch, &runtime, via, "c", loops);
        container.limit(quota);
        let series = (0..rounds).map(|_| detached(&container)).collect::<Series>();
        table.row(&scene, via.name(), &series);
        series
    });
    let least = TIMES_BARE * if slowness() > 1 { wrapped.p50() } else { MAX_MS };
    table.claim(bare.p50() >= least, || {
        format!("not shown: bare has a median of {:.1} ms, want {least:.1}", bare.p50())
    });
    let most = slow_ms(MAX_MS);
    table.claim(wrapped.max() <= most && wrapped.failed() == 0, || {
        format!("{:.1} ms, want {most}; {}", wrapped.max(), wrapped.failures())
    });
    table.finish();
}

fn detached(container: &Container<'_>) -> Took {
    let pid_file = container.scratch.path("exec.pid");
    let _ = std::fs::remove_file(&pid_file);
    container.until_throttled();
    let words = ["exec", "--detach", "--pid-file", pid_file.to_str().unwrap(), "c", "/bin/true"];
    let began = Instant::now();
    let mut took = container.timed(&words, Duration::from_secs(60));
    if took.failure.is_none() {
        let pid = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        eventually(Duration::from_secs(60), "the process has ended", || ended(pid));
        took.time = began.elapsed();
    }
    took
}
