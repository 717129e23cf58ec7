//! Probes beside a resize: with the systemd driver on cgroup v1, every `update` freezes the
//! container for a moment, and `exec` is refused meanwhile.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::table::{Series, Table};
use testkit::throttled::Via;
use testkit::{Runtime, Scratch, proof, runtime};

use crate::pod::{Container, Pod, while_running};
use crate::{RUNTIMES, in_a_node};

const PROBERS: usize = 4;
const REFUSED: &str = "cannot exec in a paused container";
/// More than this share of the bare probes must fail; in a short run one is enough.
fn shown() -> f64 {
    if proof() { 0.05 } else { 0.0 }
}
/// The limit of an update among probes; kubelet's own limit is two minutes.
const STARVED: Duration = Duration::from_secs(5);

/// More of the bare ones: they are faster, and meet fewer of the probes.
fn updates(via: Via) -> usize {
    match via {
        _ if proof() => 300,
        Via::Bare => 100,
        _ => 40,
    }
}

#[test]
fn a_probe_beside_a_resize() {
    in_a_node("probe::inside");
}

#[test]
#[ignore = "runs in a node"]
fn inside() {
    let mut table = Table::new("M4: 4 loops of exec beside 2 callers that update, systemd driver");
    let runtimes = if proof() { &RUNTIMES[..] } else { &RUNTIMES[..1] };
    for runtime in runtimes.iter().map(|name| runtime(name)) {
        let bare = Measured::of(&runtime, Via::Bare);
        bare.rows(&mut table, &runtime, "bare");
        let share = bare.execs.failed() as f64 / bare.execs.n() as f64;
        table.claim(bare.execs.failures().contains(REFUSED) && share > shown(), || {
            format!("{}: not shown: bare: {}", runtime.name, bare.execs.failures())
        });
        let wrapped = Measured::of(&runtime, Via::Wrapped);
        wrapped.rows(&mut table, &runtime, "wrapped");
        for (what, series) in [("execs", &wrapped.execs), ("updates", &wrapped.updates)] {
            table.claim(series.failed() == 0, || {
                format!("{}: wrapped {what}: {}", runtime.name, series.failures())
            });
        }
        // One standstill of the machine delays four of some hundred.
        let slowest = if proof() { Series::p99 } else { Series::p90 };
        let (took, most) = (slowest(&wrapped.execs), 2.0 * slowest(&wrapped.unloaded) + 50.0);
        table.claim(took <= most, || {
            format!("{}: the slowest execs take {took:.1} ms, want {most:.1}", runtime.name)
        });
        table.claim(wrapped.updates.max() < STARVED.as_secs_f64() * 1000.0, || {
            format!("{}: an update took {:.0} ms", runtime.name, wrapped.updates.max())
        });
        for record in wrapped.records.iter().filter(|record| record["verdict"] != "ok").take(5) {
            table.line(record.to_string());
        }
    }
    table.finish();
}

struct Measured {
    unloaded: Series,
    execs: Series,
    updates: Series,
    took: Duration,
    records: Vec<Value>,
}

impl Measured {
    fn of(runtime: &Runtime, via: Via) -> Measured {
        let scratch = Scratch::new();
        let pod = Pod::next();
        let container = Container::planned(&scratch, runtime, via, &pod, "c", "idle").started();
        let calm = Duration::from_secs(if proof() { 10 } else { 2 });
        let (unloaded, ()) = probed(&container, || std::thread::sleep(calm));
        let began = Instant::now();
        let (execs, updates) = probed(&container, || resized(&container, updates(via) / 2));
        let took = began.elapsed();
        Measured { unloaded, execs, updates, took, records: scratch.journal() }
    }

    fn rows(&self, table: &mut Table, runtime: &Runtime, who: &str) {
        table.row(&format!("{} exec, no update", runtime.name), who, &self.unloaded);
        table.row(&format!("{} exec", runtime.name), who, &self.execs);
        table.row(&format!("{} update", runtime.name), who, &self.updates);
        table.line(format!("{:<36} {:.1} s", "", self.took.as_secs_f64()));
    }
}

/// Probes continuously during the work.
fn probed<T>(container: &Container<'_>, work: impl FnOnce() -> T) -> (Series, T) {
    let execs = Mutex::new(Series::default());
    let probers: [_; PROBERS] = std::array::from_fn(|_| {
        || {
            let took = container.timed(&["exec", &container.id, "true"]);
            execs.lock().unwrap().add(took);
        }
    });
    let done = while_running(probers, work);
    (execs.into_inner().unwrap(), done)
}

/// By two callers at once: one changes the CPU, the other the memory.
fn resized(container: &Container<'_>, rounds: usize) -> Series {
    std::thread::scope(|scope| {
        let callers = [
            ("--cpu-share", "cpu", "cpu.shares", 1),
            ("--memory", "memory", "memory.limit_in_bytes", 1 << 20),
        ]
        .map(|(option, hierarchy, file, unit)| {
            scope.spawn(move || {
                let update = |round| {
                    let value = (64 + round as i64) * unit;
                    let words = ["update", option, &value.to_string(), &container.id];
                    let mut took = container.timed(&words);
                    if took.failure.is_none() && container.read(hierarchy, file) != value {
                        took.failure = Some(format!("{file} is not what was asked for"));
                    }
                    took
                };
                (0..rounds).map(update).collect::<Vec<_>>()
            })
        });
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    })
}
