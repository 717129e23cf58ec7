//! A freeze has to get through to each thread, and a container may have thousands.
//!
//! Short of the proof only updates are made: a pause of so many fails with the runtime's own words, as
//! README says, and takes seconds.

use std::time::Duration;

use serde_json::json;

use crate::alone;
use crate::freeze::longest_freeze;
use crate::scene::{Container, Quota, Via, lifted};
use crate::support::load::{BUSY, Load, Watch};
use crate::support::{Runtime, Scratch, compiled, eventually, proof, runtime};
use crate::table::{Series, Table};

const SMALL: Quota = Quota::new(1, 100);
const LIMIT: Duration = Duration::from_secs(15);
/// How long so many threads may take to be there, and to spin.
const READY: Duration = Duration::from_secs(30);

/// In the container's own view.
const SPINNERS: &str = "/tmp/spinners";

/// The threads of one process, as many processes would take minutes to start.
fn spinning<'a>(
    scratch: &'a Scratch,
    runtime: &'a Runtime,
    via: Via,
    threads: usize,
) -> Container<'a> {
    let program = compiled(&scratch.path("spinners"), include_str!("spinners.c"));
    let container = Container::new(scratch, runtime, via, &scratch.cgroup, "c");
    container.start("idle", |config| {
        config["process"]["args"] = json!([SPINNERS, threads.to_string()]);
        let options = ["bind", "ro"];
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": SPINNERS, "type": "bind", "source": program, "options": options }));
    });
    let tasks = container.file("freezer", "tasks");
    eventually(READY, "all threads are there", || {
        std::fs::read_to_string(&tasks).unwrap().lines().count() >= threads
    });
    let before = container.usage();
    eventually(READY, "they spin", || container.usage() > before + Duration::from_millis(100));
    container.limit(SMALL);
    container
}

/// How many threads, and rounds of each command.
fn thousands() -> &'static [(usize, usize)] {
    if proof() { &[(1000, 30), (10_000, 10)] } else { &[(1000, 3)] }
}

#[test]
fn a_process_of_thousands_is_updated() {
    let _alone = alone();
    let runtime = runtime("runc-1.3.6");
    let mut table = Table::new("pause, resume and update of one process with thousands of threads");
    for &(threads, rounds) in thousands() {
        for loaded in [false, true] {
            for via in Via::compared() {
                let load = if loaded { format!(", load {BUSY}") } else { String::new() };
                let scene = format!("{threads} threads, {SMALL}{load}");
                one_of_thousands(&mut table, &runtime, via, (&scene, threads, rounds, loaded));
            }
        }
    }
    table.finish();
}

fn one_of_thousands(
    table: &mut Table,
    runtime: &Runtime,
    via: Via,
    (scene, threads, rounds, loaded): (&str, usize, usize, bool),
) {
    let scratch = Scratch::new();
    let container = spinning(&scratch, runtime, via, threads);
    let _load = loaded.then(|| Load::of(BUSY));
    let (mut pauses, mut resumes, mut updates, mut not_frozen) =
        <(Series, Series, Series, usize)>::default();
    let watch = Watch::start();
    for round in 0..rounds {
        if proof() {
            let pause = container.timed(&["pause", "c"], LIMIT);
            not_frozen += usize::from(pause.failure.is_none() && container.freezer() != "FROZEN");
            if pause.failure.is_none() {
                resumes.add(container.timed(&["resume", "c"], LIMIT));
            }
            pauses.add(pause);
            container.thaw();
            container.until_throttled();
        }
        let most = (threads * 2 + round).to_string();
        updates.add(container.timed(&["update", "--pids-limit", &most, "c"], LIMIT));
    }
    let late = watch.finish();
    if proof() {
        table.row(&format!("{scene}, pause"), via.name(), &pauses);
        table.row("  resume", via.name(), &resumes);
    }
    table.row_beside(&format!("{scene}, update"), via.name(), &updates, &late);
    let records = scratch.journal();
    let (longest, lifts) = (longest_freeze(&records), lifted(&records, "pause", "freeze"));
    table.line(format!("  {lifts:?} pauses have lifted, for {longest:.1} ms of CPU at most"));
    match via {
        // A hundredth of a CPU is not enough for so many.
        Via::Bare => table.claim(!proof() || pauses.failed() == rounds, || {
            format!("{scene}: not shown: {} of {rounds} bare pauses failed", pauses.failed())
        }),
        Via::Wrapped => {
            let failures = [&pauses, &resumes, &updates].map(Series::failures).concat();
            let holds = failures.is_empty() && not_frozen == 0;
            table.claim(holds, || format!("{scene}: {not_frozen} not frozen; {failures}"));
        }
        Via::Before => {}
    }
}
