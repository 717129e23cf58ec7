//! A pause must freeze every thread within the runtime's patience, but a thread without CPU time
//! cannot run into the freezer.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::load::{BUSY, Late, Load, Watch};
use testkit::realtime::Stat;
use testkit::table::{Series, Table};
use testkit::throttled::{Container, Quota, Via, lifted, lifts};
use testkit::{Runtime, Scratch, proof, runtime, slowness, succeed};

use crate::{
    OWN_MS, RUNTIMES, alone, both_ends, few, late_bound, latest, short_control, short_wrapped,
    slack,
};

/// Beyond the runtime's time for a container in which nothing runs.
const BEYOND_MS: f64 = 5.0;
/// CPU time for which one container's threads are lifted, together: microseconds each.
const LIFTED_MS: f64 = 5.0;
const LIMIT: Duration = Duration::from_secs(15);
/// How long the pauses of a control may take together: with 1,000 threads each takes seconds.
const CONTROL_MAX: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy)]
struct Scene {
    threads: u32,
    quota: Quota,
    loaded: bool,
}

const SMALL: Quota = Quota::new(1, 100);

impl Scene {
    const fn new(threads: u32, quota: Quota, loaded: bool) -> Scene {
        Scene { threads, quota, loaded }
    }
}

impl std::fmt::Display for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let load = if self.loaded { format!(", load {BUSY}") } else { String::new() };
        write!(f, "{} x {}{load}", self.threads, self.quota)
    }
}

/// In the proof all of them with the newest and the oldest runtime.
fn scenes(runtime: &Runtime) -> Vec<Scene> {
    let is_at_an_end = [RUNTIMES.first(), RUNTIMES.last()].contains(&Some(&&*runtime.name));
    let long = Quota::new(1, 1000);
    let all = [
        Scene::new(32, SMALL, true),
        Scene::new(32, SMALL, false),
        Scene::new(4, long, false),
        Scene::new(1, SMALL, false),
        Scene::new(1000, SMALL, false),
        Scene::new(1, SMALL, true),
        Scene::new(1000, SMALL, true),
    ];
    match () {
        () if slowness() > 1 => vec![Scene { quota: SMALL.tight_here(), ..all[1] }],
        () if proof() && is_at_an_end => all.to_vec(),
        () if proof() => all[..4].to_vec(),
        () => all[..3].to_vec(),
    }
}

fn rounds(via: Via) -> usize {
    match via {
        Via::Bare if proof() => 20,
        _ if proof() => 100,
        Via::Wrapped => short_wrapped(),
        _ => short_control(),
    }
}

#[test]
fn a_starved_container_is_paused() {
    let _alone = alone();
    let mut table = Table::new("pause of containers without CPU time");
    for runtime in few(&both_ends()) {
        for scene in scenes(runtime) {
            one_scene(&mut table, runtime, scene);
        }
    }
    table.finish();
}

struct Measured {
    pauses: Series,
    resumes: Series,
    late: Late,
    /// What the freezer said after successful pauses that had not frozen.
    not_frozen: Vec<String>,
    settings_kept: bool,
    records: Vec<Value>,
}

fn one_scene(table: &mut Table, runtime: &Runtime, scene: Scene) {
    let name = format!("{} {scene}", runtime.name);
    let idle = idle(runtime, scene);
    table.row(&format!("{} idle", runtime.name), "wrapped", &idle);
    let mut beside_bare = Late::default();
    for via in Via::compared() {
        let measured = measured(runtime, via, scene);
        table.row_beside(&name, via.name(), &measured.pauses, &measured.late);
        match via {
            Via::Bare => {
                shown(table, &name, scene, &measured.pauses, &idle);
                beside_bare = measured.late;
            }
            Via::Wrapped => judge(table, &name, &measured, &idle, &beside_bare),
            Via::Before => {}
        }
    }
}

/// Most bare pauses fail, or are slow if the runtime waits as long as it takes. In a short run one
/// failure is enough.
fn shown(table: &mut Table, name: &str, scene: Scene, bare: &Series, idle: &Series) {
    // A single thread need only be frozen while it has its quota.
    let needed = if scene.threads == 1 || !proof() { 1 } else { bare.n() / 2 + 1 };
    let is_slow = bare.p50() > most(idle);
    table.claim(bare.failed() >= needed || is_slow, || {
        let (failed, n, p50) = (bare.failed(), bare.n(), bare.p50());
        format!("{name}: not shown: {failed} of {n} bare pauses failed, median {p50:.1} ms")
    });
}

fn most(idle: &Series) -> f64 {
    (idle.p50() + BEYOND_MS + OWN_MS * f64::from(slowness())) * slack()
}

fn judge(table: &mut Table, name: &str, wrapped: &Measured, idle: &Series, bare: &Late) {
    let (pauses, resumes) = (&wrapped.pauses, &wrapped.resumes);
    table.claim(wrapped.settings_kept, || format!("{name}: its quota has changed"));
    table.claim(wrapped.not_frozen.is_empty(), || {
        format!("{name}: paused, and yet the freezer says {:?}", wrapped.not_frozen)
    });
    table.claim(resumes.failed() == 0, || format!("{name}: resume: {}", resumes.failures()));
    table.claim(pauses.failed() == 0, || format!("{name}: wrapped: {}", pauses.failures()));
    table.claim(pauses.p50() <= most(idle), || {
        format!("{name}: a median of {:.1} ms, want {:.1}", pauses.p50(), most(idle))
    });
    let late = &wrapped.late;
    table.claim(latest(late) <= late_bound(bare), || {
        format!("{name}: a fair task wakes {:.1} ms late", latest(late))
    });
    let (with, of) = lifted(&wrapped.records, "pause", "freeze");
    table.claim(of == pauses.n() && with > 0, || {
        format!("{name}: {with} of {of} records of a pause have a lift for a freeze")
    });
    let longest = longest_freeze(&wrapped.records);
    table.line(format!("{:<36} {with} of {of} lifted, for {longest:.1} ms of CPU at most", ""));
    table.claim(longest <= LIFTED_MS * slack(), || {
        format!("{name}: threads on their way into the freezer used {longest:.1} ms")
    });
}

/// In ms of CPU time, according to the records.
pub(crate) fn longest_freeze(records: &[Value]) -> f64 {
    let all = records.iter().flat_map(lifts).filter(|lift| lift["whose"] == "freeze");
    all.filter_map(|lift| lift["cpu_ms"].as_f64()).fold(0.0, f64::max)
}

/// The runtime's own start, on an equally busy machine.
fn idle(runtime: &Runtime, scene: Scene) -> Series {
    let scratch = Scratch::new();
    let container = Container::idle(&scratch, runtime, Via::Wrapped, "c");
    let _load = scene.loaded.then(|| Load::of(BUSY));
    let once = |_| {
        let took = container.timed(&["pause", "c"], LIMIT);
        container.timed(&["resume", "c"], LIMIT);
        took
    };
    (0..short_wrapped()).map(once).collect()
}

fn measured(runtime: &Runtime, via: Via, scene: Scene) -> Measured {
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, runtime, via, "c", scene.threads);
    container.limit(scene.quota);
    let (settings, created) = (container.settings(), scratch.journal().len());
    let _load = scene.loaded.then(|| Load::of(BUSY));
    let (watch, began) = (Watch::start(), Instant::now());
    let (mut pauses, mut resumes, mut not_frozen) = <(Series, Series, Vec<String>)>::default();
    for _ in 0..rounds(via) {
        if via != Via::Wrapped && began.elapsed() > CONTROL_MAX {
            break;
        }
        let took = container.timed(&["pause", "c"], LIMIT);
        let (failed, state) = (took.failure.is_some(), container.freezer());
        pauses.add(took);
        if !failed && state != "FROZEN" {
            not_frozen.push(state);
        }
        if !failed || container.freezer() != "THAWED" {
            resumes.add(container.timed(&["resume", "c"], LIMIT));
            container.thaw();
        }
        container.until_throttled();
        if !proof() && via != Via::Wrapped && pauses.failed() > 0 {
            break;
        }
    }
    let (late, settings_kept) = (watch.finish(), container.settings() == settings);
    let records = scratch.journal().split_off(created);
    Measured { pauses, resumes, late, not_frozen, settings_kept, records }
}

/// An update that freezes nothing, as with cgroupfs, is not slower than before, and lifts no thread
/// of the container's.
#[test]
fn an_update_that_freezes_nothing() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let mut table = Table::new("update --pids-limit of a container with 32 busy threads");
    for loaded in [false, true] {
        let scene = Scene::new(32, SMALL.here(), loaded);
        let mut bare = f64::NAN;
        for via in Via::compared() {
            let (updates, records) = updates(&runtime, via, scene);
            table.row(&scene.to_string(), via.name(), &updates);
            table.claim(updates.failed() == 0, || format!("{scene}: {}", updates.failures()));
            match via {
                Via::Bare => bare = updates.p50(),
                Via::Wrapped => {
                    let own = if proof() { OWN_MS } else { 3.0 * OWN_MS };
                    let most = (bare + own * f64::from(slowness())) * slack();
                    table.claim(updates.p50() <= most, || {
                        format!("{scene}: {:.1} ms, want {most:.1}", updates.p50())
                    });
                    let (with, _) = lifted(&records, "update", "freeze");
                    table.claim(with == 0, || format!("{scene}: {with} lifts for a freeze"));
                }
                Via::Before => {}
            }
        }
    }
    table.finish();
}

fn updates(runtime: &Runtime, via: Via, scene: Scene) -> (Series, Vec<Value>) {
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, runtime, via, "c", scene.threads);
    container.limit(scene.quota);
    let _load = scene.loaded.then(|| Load::of(BUSY));
    let update = |round: usize| {
        let limit = (2000 + round).to_string();
        container.timed(&["update", "--pids-limit", &limit, "c"], LIMIT)
    };
    let series = (0..rounds(via).min(50)).map(update).collect();
    (series, scratch.journal())
}

/// Policy, nice and timer slack stay what they were, whatever they were.
#[test]
fn what_was_lifted_is_as_it_was() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, &runtime, Via::Wrapped, "c", 8);
    let init = container.init();
    let loops: Vec<i32> = container.pids().into_iter().filter(|&pid| pid != init).collect();
    for (number, pid) in loops.iter().map(i32::to_string).enumerate() {
        let policy = ["--other", "--batch", "--idle"][number % 3];
        succeed(Command::new("chrt").args([policy, "--pid", "0", &pid]));
        succeed(Command::new("renice").args([&(number * 2).to_string(), "--pid", &pid]));
        let slack = 50_000 + 1000 * number;
        std::fs::write(format!("/proc/{pid}/timerslack_ns"), slack.to_string()).unwrap();
    }
    container.limit(SMALL.here());
    let is = || loops.iter().map(|&pid| class_of(pid)).collect::<Vec<_>>();
    let (before, created) = (is(), scratch.journal().len());
    for _ in 0..rounds(Via::Wrapped) {
        assert_eq!(container.timed(&["pause", "c"], LIMIT).failure, None);
        assert_eq!(container.timed(&["resume", "c"], LIMIT).failure, None);
        assert_eq!(is(), before);
        container.until_throttled();
    }
    let (with, of) = lifted(&scratch.journal().split_off(created), "pause", "freeze");
    println!("{with} of {of} pauses have lifted; policy, nice, timer slack are: {before:?}");
    assert!(with > 0, "not shown: nobody was lifted");
}

fn class_of(pid: i32) -> (u64, u64, i64, String) {
    let stat = Stat::of(pid, pid).unwrap();
    let slack = std::fs::read_to_string(format!("/proc/{pid}/timerslack_ns")).unwrap();
    (stat.policy, stat.priority, stat.nice, slack.trim().to_owned())
}
