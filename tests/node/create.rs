//! A container is created in a pod with a small quota: a node's incident, `unable to freeze` in
//! procHooks.

use std::ops::Range;

use testkit::table::{Series, Table, Took};
use testkit::throttled::{Via, lifted};
use testkit::{Runtime, Scratch, proof, runtime};

use crate::pod::{Container, Pod};
use crate::{RUNTIMES, in_a_node};

/// The incident's error.
const INCIDENT: &str = "error setting cgroup config for procHooks process: unable to freeze";

fn rounds() -> usize {
    if proof() { 100 } else { 12 }
}

/// For the controls, which take up to ten seconds each: one per thread.
fn batch() -> usize {
    if proof() { rounds() } else { THREADS }
}

const THREADS: usize = 6;
/// At most this many batches of the control.
const SHORT_BATCHES: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// The first container of the pod. How often the bare runtime fails depends on the machine: the
    /// faster it starts, the less of its work is left for a throttled freeze. This is not claimed.
    Alone,
    /// Another container of the pod, with one busy thread, has used up the pod's quota.
    BesideABusyOne,
}

#[test]
fn a_create_in_a_throttled_pod() {
    in_a_node("create::inside");
}

#[test]
#[ignore = "runs in a node"]
fn inside() {
    let mut table =
        Table::new("M2: create in a pod of 1 ms in 100 ms, a new pod each time, systemd driver");
    for runtime in RUNTIMES.map(runtime) {
        // For either runtime, the only claim about `Alone` is that it is not slower; a short run
        // measures it once.
        let is_first = !proof() && runtime.name == RUNTIMES[0];
        for &scene in &[Scene::Alone, Scene::BesideABusyOne][usize::from(is_first)..] {
            one_scene(&mut table, &runtime, scene);
        }
    }
    table.finish();
}

fn one_scene(table: &mut Table, runtime: &Runtime, scene: Scene) {
    let name = format!("{} {scene:?}", runtime.name);
    let mut bare = at_once(runtime, scene);
    if scene == Scene::BesideABusyOne {
        // About one in three fails: a few may contain none.
        for _ in 1..SHORT_BATCHES {
            if !proof() && bare.iter().all(|took| took.failure.is_none()) {
                bare.extend(at_once(runtime, scene));
            }
        }
    }
    let bare_mean = mean_ms(&bare);
    let bare: Series = bare.into_iter().collect();
    table.row(&name, "bare", &bare);
    if scene == Scene::BesideABusyOne {
        table.claim(bare.failures().contains(INCIDENT), || {
            format!("{name}: not shown: bare: {} failed: {}", bare.failed(), bare.failures())
        });
    }
    let scratch = Scratch::new();
    let wrapped = creates(&scratch, runtime, Via::Wrapped, scene, 0..rounds());
    let mean = mean_ms(&wrapped);
    let wrapped: Series = wrapped.into_iter().collect();
    table.row(&name, "wrapped", &wrapped);
    table.claim(wrapped.failed() == 0, || format!("{name}: wrapped: {}", wrapped.failures()));
    let records = scratch.journal();
    let (with, of) = lifted(&records, "create", "runtime");
    let line = format!("mean {mean:.1} ms, bare {bare_mean:.1} ms; {with} of {of} lifted");
    table.line(format!("{:<36} {line}", ""));
    table.claim(mean <= bare_mean, || format!("{name}: slower than bare"));
    table.claim(with * 2 >= of && of == wrapped.n(), || format!("{name}: {with} of {of} lifted"));
    for record in records.iter().filter(|record| record["verdict"] != "ok") {
        table.line(record.to_string());
    }
}

/// The controls, several at once: they wait for their quota nearly all the time.
fn at_once(runtime: &Runtime, scene: Scene) -> Vec<Took> {
    std::thread::scope(|scope| {
        let part = |at: usize| batch() * at / THREADS..batch() * (at + 1) / THREADS;
        let threads: Vec<_> = (0..THREADS)
            .map(|at| {
                scope.spawn(move || creates(&Scratch::new(), runtime, Via::Bare, scene, part(at)))
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn mean_ms(all: &[Took]) -> f64 {
    all.iter().map(|took| took.time.as_secs_f64() * 1000.0).sum::<f64>() / all.len() as f64
}

fn creates(
    scratch: &Scratch,
    runtime: &Runtime,
    via: Via,
    scene: Scene,
    rounds: Range<usize>,
) -> Vec<Took> {
    rounds
        .map(|round| {
            let pod = Pod::next();
            let busy = (scene == Scene::BesideABusyOne).then(|| {
                let id = format!("busy-{round}");
                Container::planned(scratch, runtime, Via::Bare, &pod, &id, "throttled").busy(1)
            });
            pod.limit(1);
            if let Some(busy) = &busy {
                busy.until_throttled();
            }
            let id = format!("new-{round}");
            let new = Container::planned(scratch, runtime, via, &pod, &id, "idle");
            let took = new.create();
            new.remove();
            took
        })
        .collect()
}
