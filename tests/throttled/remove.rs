//! What ends a container: its threads have to run to die, and its cgroups cannot be removed before.

use std::time::{Duration, Instant};

use crate::scene::{Container, Quota, SCENES, Via, ended, refilled};
use crate::support::{Runtime, Scratch, proof};
use crate::table::{Series, Table, Took};
use crate::{SHORT_WRAPPED, alone, runtimes};

const MEDIAN_MS: f64 = 300.0;
/// Of bare's median.
const SHARE: f64 = 0.2;

/// Longer than runc's own patience of 10 s, and than 14 s that four threads on 1 ms a second take.
const GONE_MAX: Duration = Duration::from_secs(16);
/// How long the controls of a scene may take together.
const CONTROL_MAX: Duration = Duration::from_secs(120);

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
    let runtimes = runtimes();
    let scenes =
        || runtimes.iter().flat_map(|runtime| SCENES.map(|(loops, quota)| (runtime, loops, quota)));
    // All at a time: throttled as they are, they take a few percent of a processor and many seconds.
    let controls: Vec<Series> = std::thread::scope(|scope| {
        let each: Vec<_> = scenes()
            .map(|(runtime, loops, quota)| scope.spawn(move || control(runtime, loops, quota, way)))
            .collect();
        each.into_iter().map(|scene| scene.join().unwrap()).collect()
    });
    for ((runtime, loops, quota), bare) in scenes().zip(controls) {
        let scene = format!("{} {loops} x {quota}", runtime.name);
        table.row(&scene, "bare", &bare);
        table.claim(bare.failed() > 0 || bare.p50() > MEDIAN_MS, || {
            format!("{scene}: not shown: bare succeeds, in {:.1} ms", bare.p50())
        });
        let scratch = Scratch::new();
        let mut wrapped = Series::default();
        for number in 0..if proof() { 50 } else { SHORT_WRAPPED } {
            wrapped.add(one(&scratch, runtime, Via::Wrapped, number, loops, quota, way));
        }
        table.row(&scene, "wrapped", &wrapped);
        table.claim(wrapped.failed() == 0, || format!("{scene}: wrapped: {}", wrapped.failures()));
        let most = MEDIAN_MS.min(SHARE * bare.p50());
        table.claim(wrapped.p50() <= most, || {
            format!("{scene}: a median of {:.1} ms, want {most:.1}", wrapped.p50())
        });
        // The kernel may be kind to a single thread: SIGKILL meets it just when it has quota left.
        let (with, of) = refilled(&scratch.journal(), verb, "kill");
        table.claim(of >= wrapped.n() && (with == of || loops == 1 && with > 0), || {
            format!("{scene}: {with} of {of} records of a {verb} have a refill for a kill")
        });
    }
    table.finish();
}

fn control(runtime: &Runtime, loops: u32, quota: Quota, way: Way) -> Series {
    let mut series = Series::default();
    let began = Instant::now();
    for number in 0..if proof() { 50 } else { 1 } {
        let scratch = Scratch::new();
        series.add(one(&scratch, runtime, Via::Bare, number, loops, quota, way));
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
    quota: Quota,
    way: Way,
) -> Took {
    // Each its own name, as ids are in practice: what is remembered of one is not for the next.
    let id = format!("c{number}");
    let container = Container::busy(scratch, runtime, via, &id, loops);
    container.limit(quota);
    let init = container.init();
    let processes = container.pids();
    container.until_throttled();

    let began = Instant::now();
    let done = match way {
        Way::DeleteForce => container.timed(&["delete", "--force", &id], GONE_MAX),
        Way::KillDelete => {
            let killed = container.timed(&["kill", &id, "KILL"], GONE_MAX);
            wait_until(began, || ended(init));
            killed.and(container.timed(&["delete", &id], GONE_MAX))
        }
    };
    let gone = wait_until(began, || container.gone(&processes));
    let time = began.elapsed();
    let left = (!gone).then(|| "cgroups or processes left behind".to_owned());
    Took { time, failure: done.failure.or(left) }
}

fn wait_until(began: Instant, mut is_so: impl FnMut() -> bool) -> bool {
    loop {
        if is_so() {
            return true;
        }
        if began.elapsed() > GONE_MAX {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
