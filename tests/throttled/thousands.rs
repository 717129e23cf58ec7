//! A freeze must reach each thread, and a container may have thousands.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use testkit::load::{BUSY, Load, Watch};
use testkit::table::{Series, Table};
use testkit::throttled::{Container, Quota, Via, lifted};
use testkit::{Runtime, Scratch, compiled, eventually, proof, runtime, wait};

use crate::alone;
use crate::freeze::longest_freeze;

const SMALL: Quota = Quota::new(1, 100);
const LIMIT: Duration = Duration::from_secs(15);
/// How long this many threads may take to start and spin.
const READY: Duration = Duration::from_secs(30);

/// In the container's own view.
const SPINNERS: &str = "/tmp/spinners";

/// The threads of one process, since many processes would take minutes to start.
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

/// With more threads a pause fails, as docs/limits.md says, and takes seconds.
const PAUSED: usize = 1000;

/// Of a control; in a short run, of one in which no pause has failed yet.
const MOST_ROUNDS: usize = 10;

/// How many threads, and rounds of each command.
fn thousands() -> &'static [(usize, usize)] {
    if proof() {
        &[(64, 30), (256, 30), (PAUSED, 30), (10_000, 10)]
    } else {
        &[(64, 3), (PAUSED, 2)]
    }
}

#[test]
fn a_process_of_many_threads_is_paused() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let mut table = Table::new("pause, resume and update of one process with many threads");
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
    let is_shown = |pauses: &Series| via != Via::Bare || threads > PAUSED || pauses.failed() > 0;
    for round in 0..rounds.max(MOST_ROUNDS) {
        let is_enough = round >= rounds || via != Via::Wrapped && round >= MOST_ROUNDS;
        if is_enough && is_shown(&pauses) {
            break;
        }
        if threads <= PAUSED {
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
    if threads <= PAUSED {
        table.row(&format!("{scene}, pause"), via.name(), &pauses);
        table.row("  resume", via.name(), &resumes);
    }
    table.row_beside(&format!("{scene}, update"), via.name(), &updates, &late);
    let records = scratch.journal();
    let (longest, lifts) = (longest_freeze(&records), lifted(&records, "pause", "freeze"));
    table.line(format!("  {lifts:?} pauses have lifted, for {longest:.1} ms of CPU at most"));
    match via {
        // A hundredth of a CPU is seldom enough for so many.
        Via::Bare => table.claim(is_shown(&pauses), || {
            format!("{scene}: not shown: none of {} bare pauses failed", pauses.n())
        }),
        Via::Wrapped => {
            let failures = [&pauses, &resumes, &updates].map(Series::failures).concat();
            let holds = failures.is_empty() && not_frozen == 0;
            table.claim(holds, || format!("{scene}: {not_frozen} not frozen; {failures}"));
        }
        Via::Before => {}
    }
}

/// What is done to a pause whose runtime is held.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Blow {
    /// SIGKILL for the lifter, which holds it.
    Kill,
    /// SIGTERM for the wrapper, which passes it on.
    Terminate,
}

/// The tracer that has stopped the runtime's threads.
fn tracer_of(runtime: i32) -> Option<i32> {
    let threads = std::fs::read_dir(format!("/proc/{runtime}/task")).ok()?;
    let statuses = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    let held = statuses.filter(|status| status.contains("State:\tt"));
    let tracers = held.filter_map(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
        line.trim().parse().ok()
    });
    tracers.into_iter().find(|&tracer| tracer != 0)
}

/// How many holds may go by unseen, as most do on a busy machine.
const MOST_MISSED: usize = 40;

#[test]
fn a_runtime_that_is_held_goes_on() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let container = spinning(&scratch, &runtime, Via::Wrapped, 1000);
    let mut missed = 0;
    let mut due = [Blow::Kill, Blow::Terminate].repeat(if proof() { 50 } else { 3 });
    while let Some(blow) = due.pop() {
        container.until_throttled();
        let mut command = container.command("pause");
        let mut child = command.arg("c").stderr(Stdio::null()).spawn().unwrap();
        let wrapper = child.id();
        let children = format!("/proc/{wrapper}/task/{wrapper}/children");
        let mut tracer = None;
        let since = Instant::now();
        while tracer.is_none() && since.elapsed() < LIMIT && child.try_wait().unwrap().is_none() {
            let pids = std::fs::read_to_string(&children).unwrap_or_default();
            tracer = pids.split_whitespace().find_map(|pid| tracer_of(pid.parse().unwrap()));
        }
        // A lifter that has ended meanwhile held nothing.
        let tracer = tracer.filter(|&tracer| {
            let wrapper = Pid::from_raw(wrapper as i32);
            match blow {
                Blow::Kill => kill(Pid::from_raw(tracer), Signal::SIGKILL).is_ok(),
                Blow::Terminate => kill(wrapper, Signal::SIGTERM).is_ok(),
            }
        });
        if tracer.is_none() {
            // This test is a fair task, and may have been kept from a CPU for as long as the
            // runtime was held.
            assert!(wait(&mut child, LIMIT).expect("it stays for ever").success());
            missed += 1;
            assert!(missed <= MOST_MISSED, "not shown: no runtime was held");
            due.push(blow);
            container.timed(&["resume", "c"], LIMIT);
            continue;
        }
        let since = Instant::now();
        let status = wait(&mut child, LIMIT).expect("it stays for ever");
        println!("{blow:?}: {status} after {:?}", since.elapsed());
        if blow == Blow::Terminate {
            // If the runtime ended first, nothing was left to get the signal.
            assert!(status.signal() == Some(libc::SIGTERM) || status.success(), "{status}");
        }
        container.timed(&["resume", "c"], LIMIT);
        container.thaw();
    }
}
