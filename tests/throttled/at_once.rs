//! Many operations at once: none stands still, and the machine stays usable beside them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::cpu::Cpu;
use testkit::load::{BUSY, Late, Load, Watch};
use testkit::table::{Series, Table, Took};
use testkit::throttled::{Container, Quota, Via, ended, timed};
use testkit::{Runtime, Scratch, proof, remove_cgroup, runtime, slowness};

use crate::{alone, late_bound, latest};

const SMALL: Quota = Quota::new(1, 100);
/// All together, compared with the same without a quota: 1.3 times is wanted, 1.1 to 2.2 was seen.
fn times() -> f64 {
    if proof() { 1.3 } else { 4.0 }
}
/// If all of the bare ones succeed, they must take this much longer than the wrapped ones.
const SHOWN: f64 = 1.5;
const LIMIT: Duration = Duration::from_secs(30);
const CONTROL_LIMIT: Duration = Duration::from_secs(5);

fn limit(via: Via) -> Duration {
    if via == Via::Wrapped || proof() { LIMIT } else { CONTROL_LIMIT }
}

/// All of them, from the first one's start to the last one's end.
struct AtOnce {
    series: Series,
    total: f64,
    late: Late,
}

fn at_once(number: usize, once: impl Fn(usize) -> Took + Sync) -> AtOnce {
    let (watch, began) = (Watch::start(), Instant::now());
    let all: Vec<Took> = std::thread::scope(|scope| {
        let once = &once;
        let each: Vec<_> = (0..number).map(|n| scope.spawn(move || once(n))).collect();
        each.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let total = began.elapsed().as_secs_f64() * 1000.0;
    AtOnce { series: all.into_iter().collect(), total, late: watch.finish() }
}

impl AtOnce {
    fn show(&self, table: &mut Table, scene: &str, who: &str) {
        table.row_beside(scene, who, &self.series, &self.late);
        table.line(format!("{:<36} all together {:.0} ms", "", self.total));
    }

    fn judge(&self, table: &mut Table, scene: &str, free: f64, bare: &AtOnce) {
        let series = &self.series;
        table.claim(series.failed() == 0, || format!("{scene}: {}", series.failures()));
        let most = times() * free;
        table.claim(bare.series.failed() > 0 || bare.total > SHOWN * self.total, || {
            format!("{scene}: not shown: bare takes {:.0} ms together", bare.total)
        });
        // Outside the proof, one may be a straggler whose lifter reached its limit: docs/limits.md.
        let took = if proof() { self.total } else { series.p95() };
        table.claim(took <= most, || format!("{scene}: {took:.0} ms, want {most:.0}"));
        table.claim(latest(&self.late) <= late_bound(&bare.late), || {
            format!("{scene}: a fair task wakes {:.1} ms late", latest(&self.late))
        });
    }
}

/// Bare without a quota, and then all with one.
fn compare(
    table: &mut Table,
    unthrottled: &str,
    scene: &str,
    run: impl Fn(Via, Option<Quota>) -> AtOnce,
) {
    let free = run(Via::Bare, None);
    free.show(table, unthrottled, "bare");
    let mut bare = None;
    for via in Via::compared() {
        let all = run(via, Some(SMALL));
        all.show(table, scene, via.name());
        match (via, &bare) {
            (Via::Bare, _) => bare = Some(all),
            (Via::Wrapped, Some(bare)) => all.judge(table, scene, free.total, bare),
            _ => {}
        }
    }
}

#[test]
fn twenty_execs_at_once() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let mut table = Table::new("20 times exec sh -c 'echo PONG | grep -q PONG' at once");
    for loaded in [false, true] {
        let load = if loaded { format!(", load {BUSY}") } else { String::new() };
        let (free, scene) = (format!("idle, no quota{load}"), format!("8 busy, {SMALL}{load}"));
        compare(&mut table, &free, &scene, |via, quota| execs(&runtime, via, quota, loaded));
    }
    table.finish();
}

fn execs(runtime: &Runtime, via: Via, quota: Option<Quota>, loaded: bool) -> AtOnce {
    let scratch = Scratch::new();
    let container = match quota {
        Some(_) => Container::busy(&scratch, runtime, via, "c", 8),
        None => Container::idle(&scratch, runtime, via, "c"),
    };
    if let Some(quota) = quota {
        container.limit(quota.here());
    }
    let _load = loaded.then(|| Load::of(BUSY));
    at_once(20, |_| {
        let words = ["exec", "c", "sh", "-c", "echo PONG | grep -q PONG"];
        container.timed(&words, limit(via))
    })
}

/// Each in a separate pod, as on a node that was restarted.
#[test]
fn many_creates_at_once() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let number = if proof() { 100 } else { 16 };
    let mut table = Table::new("create in pods of 1 ms in 100 ms, all at once");
    let (free, scene) = (format!("{number}, no quota"), format!("{number}, {SMALL}"));
    compare(&mut table, &free, &scene, |via, quota| creates(&runtime, via, quota, number));
    table.finish();
}

fn creates(runtime: &Runtime, via: Via, quota: Option<Quota>, number: usize) -> AtOnce {
    let scratch = Scratch::new();
    let planned: Vec<(Container<'_>, PathBuf)> = (0..number)
        .map(|n| {
            let pod = format!("{}/kubepods/pod{n}", scratch.cgroup);
            let container = Container::new(&scratch, runtime, via, &pod, &format!("c{n}"));
            let bundle = container.bundle("idle", |config| {
                if let Some(Quota { ms, period_ms }) = quota {
                    config["linux"]["resources"]["cpu"] =
                        json!({ "quota": ms * 1000 * slowness(), "period": period_ms * 1000 });
                }
            });
            std::fs::create_dir_all(Cpu::of(&pod).dir).unwrap();
            if let Some(quota) = quota {
                Cpu::of(&pod).limit(quota.ms * 1000 * slowness(), quota.period_ms * 1000);
            }
            (container, bundle)
        })
        .collect();
    let all = at_once(number, |n| {
        let (container, bundle) = &planned[n];
        let mut create = container.command("create");
        timed(create.arg("--bundle").arg(bundle).arg(&container.id), limit(via))
    });
    assert_eq!(remove_cgroup(&scratch.cgroup), Vec::<PathBuf>::new());
    all
}

/// As at the end of a node's drain: more than may lift at once.
#[test]
fn thirty_kills_at_once() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let mut table = Table::new("kill of 30 containers at once, until each has ended");
    let (free, scene) = ("4 busy each, no quota".to_owned(), format!("4 busy each, {SMALL}"));
    compare(&mut table, &free, &scene, |via, quota| kills(&runtime, via, quota));
    table.finish();
}

const KILLED: usize = 30;

fn kills(runtime: &Runtime, via: Via, quota: Option<Quota>) -> AtOnce {
    let scratch = Scratch::new();
    let make = |n: usize| {
        let pod = format!("{}/kubepods/pod{n}", scratch.cgroup);
        let container =
            Container::busy_below(&scratch, runtime, via, &pod, &format!("c{n}"), LOOPS);
        if let Some(quota) = quota {
            container.limit(quota.here());
        }
        let processes = container.pids();
        (container, processes)
    };
    let containers: Vec<_> = (0..KILLED).map(make).collect();
    at_once(KILLED, |n| {
        let (container, processes) = &containers[n];
        let began = Instant::now();
        let killed = container.timed(&["kill", &container.id, "KILL"], limit(via));
        let is_gone = || processes.iter().all(|&pid| ended(pid));
        while !is_gone() && began.elapsed() < limit(via) {
            std::thread::sleep(GONE_LOOK);
        }
        let gone = is_gone();
        let failure = killed.failure.or((!gone).then(|| "not gone".to_owned()));
        Took { time: began.elapsed(), failure }
    })
}

const LOOPS: u32 = 4;
/// Rare, because thirty look.
const GONE_LOOK: Duration = Duration::from_millis(20);
