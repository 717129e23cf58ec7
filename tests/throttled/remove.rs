//! The end of a container: its threads must run in order to die, and its cgroups cannot be removed
//! before.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::load::{BUSY, Load};
use testkit::table::{Series, Table, Took};
use testkit::throttled::{Container, Quota, SCENES, Via, ended, lifted, lifted_ms, timed};
use testkit::{Runtime, Scratch, eventually, proof, runtime, slowness};

use crate::untouched::{kept_from_a_cpu, small_room};
use crate::{alone, fast, few, runtimes, short_control, short_wrapped, slack, slow_ms};

const MEDIAN_MS: f64 = 300.0;
/// As a share of bare's median.
const SHARE: f64 = 0.2;
/// Relative to the median without a quota, as an alternative to that share: in `delete --force`
/// runc sleeps for 100 ms before it checks whether the killed container has ended, throttled or
/// not.
const TIMES_UNTHROTTLED: f64 = 1.5;

/// Longer than runc's own patience of 10 s, and than the 14 s that four threads on 1 ms a second
/// take.
const GONE_MAX: Duration = Duration::from_secs(16);
/// How long the controls of a scene may take together.
const CONTROL_MAX: Duration = Duration::from_secs(30);
/// For runs that only need to show the failure.
const SHORT_GONE_MAX: Duration = Duration::from_secs(2);

fn gone_max(via: Via) -> Duration {
    (if via != Via::Wrapped && !proof() { SHORT_GONE_MAX } else { GONE_MAX }) * slowness()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    DeleteForce,
    /// As containerd does it: kill, wait for the end of init, delete.
    KillDelete,
}

#[test]
fn a_throttled_container_is_deleted_by_force() {
    let table = Table::new(
        "delete --force of throttled containers, from its start until no cgroup and no process is left",
    );
    every_scene(table, Way::DeleteForce, "delete");
}

#[test]
fn a_throttled_container_is_killed_and_deleted() {
    let table = Table::new(
        "kill, end of init, delete of throttled containers, from the start of kill until no cgroup and no process is left",
    );
    every_scene(table, Way::KillDelete, "kill");
}

fn every_scene(mut table: Table, way: Way, verb: &str) {
    let _alone = alone();
    // A single thread is lucky too often for a few rounds to show anything.
    let scenes = SCENES.map(|(loops, quota)| (loops, quota.tight_here()));
    let scenes = if proof() { &scenes[..] } else { few(&scenes[1..]) };
    for runtime in runtimes() {
        let runtime = &runtime;
        // All at once: being throttled, they take a few percent of a processor and many seconds.
        let controls: Vec<Series> = std::thread::scope(|scope| {
            let one = |&(loops, quota)| scope.spawn(move || control(runtime, loops, quota, way));
            let each: Vec<_> = scenes.iter().map(one).collect();
            each.into_iter().map(|scene| scene.join().unwrap()).collect()
        });
        let mut lifts = 0;
        for (&(loops, quota), bare) in scenes.iter().zip(&controls) {
            lifts += one_scene(&mut table, runtime, loops, quota, way, verb, bare);
        }
        table.claim(lifts > 0, || format!("{}: no {verb} has lifted for a kill", runtime.name));
    }
    table.finish();
}

fn one_scene(
    table: &mut Table,
    runtime: &Runtime,
    loops: u32,
    quota: Quota,
    way: Way,
    verb: &str,
    bare: &Series,
) -> usize {
    let rounds = if proof() { 50 } else { short_wrapped() };
    let scratch = Scratch::new();
    let unthrottled: Series = (0..rounds / 3)
        .map(|number| one(&scratch, runtime, Via::Wrapped, number, loops, None, way))
        .collect();
    let scratch = Scratch::new();
    let wrapped: Series = (0..rounds)
        .map(|number| one(&scratch, runtime, Via::Wrapped, number, loops, Some(quota), way))
        .collect();
    let scene = format!("{} {loops} x {quota}", runtime.name);
    table.row(&format!("{} {loops} busy, no quota", runtime.name), "wrapped", &unthrottled);
    table.row(&scene, "bare", bare);
    table.row(&scene, "wrapped", &wrapped);

    // A single thread has its quota to itself, and mostly dies within runc's first 100 ms.
    let slow = TIMES_UNTHROTTLED * unthrottled.p50();
    let shown = TIMES_UNTHROTTLED * fast(&unthrottled, &wrapped).p50();
    let slowest = |series: &Series| if loops == 1 { series.p95() } else { series.p50() };
    table.claim(bare.failed() > 0 || slowest(bare) > shown, || {
        format!("{scene}: not shown: bare succeeds, in {:.1} ms", slowest(bare))
    });
    table.claim(way == Way::KillDelete || loops > 1 || wrapped.p95() <= slow, || {
        format!("{scene}: a p95 of {:.1} ms, want {slow:.1}", wrapped.p95())
    });
    table.claim(wrapped.failed() == 0, || format!("{scene}: wrapped: {}", wrapped.failures()));
    let as_good = (SHARE * bare.p50()).max(TIMES_UNTHROTTLED * unthrottled.p50());
    let most = slow_ms(MEDIAN_MS).min(as_good * slack());
    table.claim(wrapped.p50() <= most, || {
        format!("{scene}: a median of {:.1} ms, want {most:.1}", wrapped.p50())
    });
    // SIGKILL may arrive just when there is quota left: of a scene's few kills, none may need a
    // lift.
    let (with, of) = lifted(&scratch.journal(), verb, "kill");
    table.claim(of >= wrapped.n() && (with > 0 || !proof()), || {
        format!("{scene}: {with} of {of} records of a {verb} have a lift for a kill")
    });
    with
}

/// From the start of the command until the last process has ended.
#[test]
fn from_sigkill_to_gone() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let mut table = Table::new("kill of a container, until each of its processes has ended");
    let scenes = [(32, false), (32, true), (1, false), (1, true), (128, false), (128, true)];
    let scenes = if proof() { &scenes[..] } else { few(&scenes[..2]) };
    for &(threads, loaded) in scenes {
        let load = if loaded { format!(", load {BUSY}") } else { String::new() };
        let name = format!("{threads} busy{load}");
        let scene = Dying { threads, quota: None, loaded };
        let (free, _) = deaths(&runtime, Via::Wrapped, scene, GONE_MAX);
        table.row(&format!("{name}, no quota"), "wrapped", &free);
        let most = (free.p50() + BEYOND_MS) * slack() * f64::from(slowness());
        let scene = Dying { quota: Some(SMALL), ..scene };
        for via in Via::compared() {
            // For a control, no longer than needed to show it.
            let max = gone_max(via).max(Duration::from_secs_f64(1.5 * most / 1000.0));
            let (series, lifted_ms) = deaths(&runtime, via, scene, max);
            table.row(&format!("{name}, {SMALL}"), via.name(), &series);
            let p50 = series.p50();
            match via {
                // One thread is lucky more often than not.
                Via::Bare => {
                    let is_shown = p50 > most || threads == 1 || series.failed() > 0 && !proof();
                    table.claim(is_shown, || {
                        format!("{name}: not shown: a bare median of {p50:.1} ms")
                    });
                }
                Via::Wrapped => {
                    let (n, longest) =
                        (lifted_ms.len(), lifted_ms.iter().copied().fold(0.0, f64::max));
                    table.line(format!("{:<36} {n} lifted, for {longest:.1} ms at most", ""));
                    table.claim(p50 <= most && series.failed() == 0, || {
                        format!("{name}: {p50:.1} ms, want {most:.1}; {}", series.failures())
                    });
                }
                Via::Before => {}
            }
        }
    }
    table.finish();
}

/// A lifter that was at work before the signal was sent stays for those that die of it: here the
/// wrapper has waited for a CPU, and lifts from its start.
#[test]
fn who_lifts_already_stays_for_the_dying() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let mut table = Table::new("kill by a wrapper that was kept from a CPU, until all have ended");
    let rounds = if proof() { 60 } else { 20 };
    for via in Via::compared() {
        let scratch = Scratch::new();
        let room = small_room(&scratch);
        // One is enough for the control, and each takes its time to the end.
        let rounds = if via == Via::Bare { 1 } else { rounds };
        let series: Series =
            (0..rounds).map(|number| killed_late(&scratch, &room, &runtime, via, number)).collect();
        table.row(&format!("32 busy, {SMALL}"), via.name(), &series);
        match via {
            Via::Bare => table.claim(series.failed() > 0 || series.p50() > LATE_MS, || {
                format!("not shown: bare is gone after {:.0} ms", series.p50())
            }),
            Via::Wrapped => table.claim(series.failed() == 0, || series.failures()),
            Via::Before => {}
        }
    }
    table.finish();
}

/// Without a lift it takes seconds.
const LATE_MS: f64 = 500.0;

fn killed_late(scratch: &Scratch, room: &str, runtime: &Runtime, via: Via, number: usize) -> Took {
    let container = Container::busy(scratch, runtime, via, &format!("c{number}"), 32);
    let processes = container.pids();
    container.limit(SMALL.tight_here());
    container.until_throttled();
    let mut kill = container.command("kill");
    kill.args([&container.id, "KILL"]);
    let killed = timed(&mut kept_from_a_cpu(room, &kill), SHORT_GONE_MAX);
    let began = Instant::now();
    let is_gone = || processes.iter().all(|&pid| ended(pid));
    let gone = wait_until(began, SHORT_GONE_MAX * slowness(), is_gone);
    let time = began.elapsed();
    container.remove();
    Took { time, failure: killed.failure.or((!gone).then(|| "not gone".to_owned())) }
}

/// SIGTERM ends a shell that has no handler and is not the first of its process numbers: as in a pod that
/// shares these, or the node's.
#[test]
fn from_sigterm_to_the_end_of_what_it_ends() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let mut table = Table::new("SIGTERM to a shell that it ends, until that has ended");
    let scene = format!("8 busy, {SMALL}");
    let rounds = if proof() { 20 } else { short_wrapped() };
    let mut medians = Vec::new();
    for via in Via::compared() {
        let scratch = Scratch::new();
        let series: Series =
            (0..rounds).map(|number| term(&scratch, &runtime, via, number)).collect();
        table.row(&scene, via.name(), &series);
        table.claim(via != Via::Wrapped || series.failed() == 0, || {
            format!("{scene}: {}", series.failures())
        });
        medians.push(series.p50());
    }
    let (bare, wrapped) = (medians[0], medians[medians.len() - 1]);
    let most = slow_ms(TERM_MS);
    table.claim(bare > most, || format!("{scene}: not shown: a bare median of {bare:.1} ms"));
    table.claim(wrapped <= most, || format!("{scene}: {wrapped:.1} ms, want {most:.1}"));
    table.finish();
}

/// A period.
const TERM_MS: f64 = 100.0;

fn term(scratch: &Scratch, runtime: &Runtime, via: Via, number: usize) -> Took {
    let container = Container::new(scratch, runtime, via, &scratch.cgroup, &format!("c{number}"));
    container.start("throttled", |config| {
        config["process"]["env"] = json!(["PATH=/bin", "LOOPS=8"]);
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    eventually(GONE_MAX, "all loops run", || container.pids().len() > 8);
    let init = container.init();
    container.limit(SMALL.tight_here());
    container.until_throttled();
    let began = Instant::now();
    let killed = container.timed(&["kill", &container.id, "TERM"], GONE_MAX);
    let gone = wait_until(began, GONE_MAX, || ended(init));
    let time = began.elapsed();
    container.remove();
    Took { time, failure: killed.failure.or((!gone).then(|| "not gone".to_owned())) }
}

const SMALL: Quota = Quota::new(1, 100);
/// Beyond the time without a quota.
const BEYOND_MS: f64 = 10.0;

#[derive(Debug, Clone, Copy)]
struct Dying {
    threads: u32,
    quota: Option<Quota>,
    loaded: bool,
}

/// A control ends after `CONTROL_MAX`; outside the proof, also with the first that is not gone
/// within `max`.
fn deaths(runtime: &Runtime, via: Via, scene: Dying, max: Duration) -> (Series, Vec<f64>) {
    let Dying { threads, quota, loaded } = scene;
    let scratch = Scratch::new();
    let rounds = if proof() { 30 } else { short_control() };
    let once = |number: usize| {
        let container = Container::busy(&scratch, runtime, via, &format!("c{number}"), threads);
        let processes = container.pids();
        if let Some(quota) = quota {
            container.limit(quota.tight_here());
        }
        let load = loaded.then(|| Load::of(BUSY));
        let began = Instant::now();
        let killed = container.timed(&["kill", &container.id, "KILL"], max);
        let is_gone = || processes.iter().all(|&pid| ended(pid));
        let gone = wait_until(began, max, is_gone);
        let time = began.elapsed();
        drop(load);
        container.remove();
        Took { time, failure: killed.failure.or((!gone).then(|| "not gone".to_owned())) }
    };
    let mut series = Series::default();
    let began = Instant::now();
    for number in 0..rounds {
        series.add(once(number));
        let is_enough = began.elapsed() > CONTROL_MAX || !proof() && series.failed() > 0;
        if via != Via::Wrapped && is_enough {
            break;
        }
    }
    (series, lifted_ms(&scratch.journal(), "kill"))
}

/// The rounds of one scene run at the same time, too.
fn control(runtime: &Runtime, loops: u32, quota: Quota, way: Way) -> Series {
    let began = Instant::now();
    let once = || {
        let scratch = Scratch::new();
        one(&scratch, runtime, Via::Bare, 0, loops, Some(quota), way)
    };
    let mut series = Series::default();
    for _ in 0..if proof() { 10 } else { 1 } {
        std::thread::scope(|scope| {
            let each: Vec<_> = (0..short_control()).map(|_| scope.spawn(once)).collect();
            series.extend(each.into_iter().map(|round| round.join().unwrap()));
        });
        if began.elapsed() > CONTROL_MAX {
            break;
        }
    }
    series
}

fn one(
    scratch: &Scratch,
    runtime: &Runtime,
    via: Via,
    number: usize,
    loops: u32,
    quota: Option<Quota>,
    way: Way,
) -> Took {
    // Each has its own id, as in practice: what is remembered of one must not help the next.
    let id = format!("c{number}");
    let container = Container::busy(scratch, runtime, via, &id, loops);
    let init = container.init();
    let processes = container.pids();
    if let Some(quota) = quota {
        container.limit(quota);
    }

    let max = gone_max(via);
    let began = Instant::now();
    let done = match way {
        Way::DeleteForce => container.timed(&["delete", "--force", &id], max),
        Way::KillDelete => {
            let killed = container.timed(&["kill", &id, "KILL"], max);
            wait_until(began, max, || ended(init));
            killed.and(container.timed(&["delete", &id], max))
        }
    };
    let gone = wait_until(began, max, || container.gone(&processes));
    let time = began.elapsed();
    let left = (!gone).then(|| format!("not gone within {:.1} s", max.as_secs_f64()));
    let failure = done.failure.map(|text| text.replace(&format!(" {id} "), " ID "));
    Took { time, failure: failure.or(left) }
}

fn wait_until(began: Instant, max: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    loop {
        if is_so() {
            return true;
        }
        if began.elapsed() > max {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
