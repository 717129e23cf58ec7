//! The start of a container in a pod whose quota others have used up: Kubernetes limits the pod,
//! too.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::cpu::Cpu;
use testkit::load::{BUSY, Late, Load, Watch};
use testkit::table::{Series, Table, Took};
use testkit::throttled::{Container, Quota, Via, lifted, lifts, timed};
use testkit::{Runtime, Scratch, proof, remove_cgroup, slowness, succeed};

use crate::{alone, fast, few, late_bound, latest, runtimes, slack};

/// What else is running, and how much longer than in an unthrottled pod on an idle machine a start
/// may take.
#[derive(Clone, Copy)]
struct Neighbours {
    /// Busy loops in the pod.
    busy: u32,
    /// Whether the machine is busy with something else as well.
    loaded: bool,
    times_unthrottled: f64,
}

const NONE: Neighbours = Neighbours { busy: 0, loaded: false, times_unthrottled: 1.5 };
/// Enough to occupy both processors.
const BUSY_ONES: Neighbours = Neighbours { busy: 2, loaded: false, times_unthrottled: 1.5 };
const BUSY_MACHINE: Neighbours = Neighbours { busy: 2, loaded: true, times_unthrottled: 2.0 };

const QUOTAS: [Quota; 2] = [Quota::new(1, 100), Quota::new(5, 100)];
const LIMIT: Duration = Duration::from_secs(20);
/// How long the controls of a scene may take together.
const CONTROL_MAX: Duration = Duration::from_secs(12);
const LONG: Duration = Duration::from_secs(600);
/// For runs that only need to show the failure.
const SHORT_LIMIT: Duration = Duration::from_secs(2);

/// The number of creates and of starts, each followed by a removal.
fn rounds() -> usize {
    if proof() { 50 } else { 6 }
}

fn control_rounds() -> usize {
    match () {
        () if proof() => 20,
        // One takes a minute.
        () if slowness() > 1 => 1,
        () => 2,
    }
}

#[test]
fn a_start_in_a_throttled_pod_is_as_fast_as_in_any_other() {
    starts("create and start in a pod", NONE);
}

#[test]
fn a_start_beside_busy_neighbours_is_not_slow_either() {
    starts("create and start in a pod with two busy neighbours", BUSY_ONES);
}

#[test]
fn a_start_on_a_busy_machine_is_not_slow_either() {
    starts("create and start in a pod with two busy neighbours, machine at load 20", BUSY_MACHINE);
}

fn starts(title: &'static str, neighbours: Neighbours) {
    let _alone = alone();
    let mut table = Table::new(title);
    for runtime in runtimes() {
        one_runtime(&mut table, &runtime, neighbours);
    }
    table.finish();
}

fn one_runtime(table: &mut Table, runtime: &Runtime, neighbours: Neighbours) {
    let mut scenes = QUOTAS.map(|quota| [(quota.here(), false), (quota.here(), true)]).concat();
    if !proof() {
        scenes.truncate(few(&[0, 1]).len());
    }
    let idle = Neighbours { loaded: false, ..neighbours };
    let unthrottled = starts_by(runtime, Via::Bare, None, false, idle);
    table.row(&format!("{} no quota, idle machine", runtime.name), "bare", &unthrottled.series);
    for (quota, both) in scenes {
        let whose = if both { "pod and container" } else { "pod" };
        let scene = format!("{} {quota} {whose}", runtime.name);
        let mut beside_bare = Late::default();
        for via in Via::compared() {
            let starts = starts_by(runtime, via, Some(quota), both, neighbours);
            table.row_beside(&scene, via.name(), &starts.series, &starts.late);
            match via {
                Via::Bare => {
                    shown(table, &scene, &starts.series, &unthrottled.series, neighbours);
                    beside_bare = starts.late;
                }
                Via::Wrapped => {
                    judge(table, &scene, &starts, (&unthrottled.series, neighbours), &beside_bare);
                }
                Via::Before => {}
            }
        }
    }
}

/// The result of many starts.
struct Starts {
    series: Series,
    late: Late,
    records: Vec<serde_json::Value>,
}

fn starts_by(
    runtime: &Runtime,
    via: Via,
    quota: Option<Quota>,
    both: bool,
    neighbours: Neighbours,
) -> Starts {
    let scratch = Scratch::new();
    let pod = Pod::new(&scratch, runtime, via, quota, both, neighbours);
    let is_control = via != Via::Wrapped && quota.is_some();
    let (rounds, most) =
        if is_control { (control_rounds(), CONTROL_MAX) } else { (rounds(), LONG) };
    let _load = neighbours.loaded.then(|| Load::of(BUSY));
    let watch = Watch::start();
    let series = pod.starts(rounds, most);
    let of_it = |record: &serde_json::Value| record["id"] == "c";
    let records = scratch.journal().into_iter().filter(of_it).collect();
    Starts { series, late: watch.finish(), records }
}

/// Alone in a pod of 5 ms, every other start is lucky: the slower half shows the difference.
fn shown(table: &mut Table, scene: &str, bare: &Series, free: &Series, neighbours: Neighbours) {
    let times = neighbours.times_unthrottled;
    let fast = fast(free, bare);
    let is_slow = bare.p50() > times * fast.p50() || bare.p95() > times * fast.p95();
    table.claim(is_slow || bare.failed() > 0, || {
        format!("{scene}: not shown: bare has {:.1}, {:.1} ms", bare.p50(), bare.p95())
    });
}

fn judge(
    table: &mut Table,
    scene: &str,
    wrapped: &Starts,
    (free, neighbours): (&Series, Neighbours),
    bare: &Late,
) {
    let (series, late) = (&wrapped.series, &wrapped.late);
    table.claim(series.failed() == 0, || format!("{scene}: wrapped: {}", series.failures()));
    let most = neighbours.times_unthrottled * free.p50() * slack();
    table.claim(series.p50() <= most, || {
        format!("{scene}: a median of {:.1} ms, want {most:.1}", series.p50())
    });
    table.claim(latest(late) <= late_bound(bare), || {
        format!("{scene}: a fair task wakes {:.1} ms late", latest(late))
    });
    let (with, of) = lifted(&wrapped.records, "create", "runtime");
    table.claim(with * 2 >= of && of == series.n(), || {
        format!("{scene}: {with} of {of} records of a create have a lift of the runtime")
    });
    // No program is lifted: nobody waits for a container's program with a deadline of a second, and
    // it may spin.
    let programs = wrapped.records.iter().flat_map(lifts).filter(|it| it["whose"] == "program");
    let programs = programs.count();
    table.claim(programs == 0, || format!("{scene}: {programs} programs were lifted"));
}

/// A pod as kubelet makes it, with one busy container, and its quota.
struct Pod<'a> {
    neighbour: Container<'a>,
    cgroup: String,
    quota: Option<Quota>,
    /// Whether the started container has the same quota.
    both: bool,
    neighbours: Neighbours,
}

impl<'a> Pod<'a> {
    fn new(
        scratch: &'a Scratch,
        runtime: &'a Runtime,
        via: Via,
        quota: Option<Quota>,
        both: bool,
        neighbours: Neighbours,
    ) -> Pod<'a> {
        let cgroup = format!("{}/kubepods/pod8f0c2b1e-5d1a-4f7b-9c3e-2a6d", scratch.cgroup);
        let neighbour =
            Container::busy_below(scratch, runtime, via, &cgroup, "neighbour", neighbours.busy);
        Pod { neighbour, cgroup, quota, both, neighbours }
    }

    fn cpu(&self) -> Cpu {
        Cpu::of(&self.cgroup)
    }

    fn quota_now(&self) -> Quota {
        let settings = self.cpu().settings();
        Quota { ms: settings[0] / 1000, period_ms: settings[1] / 1000 }
    }

    fn limit(&self) -> Duration {
        if self.neighbour.via == Via::Bare && !proof() { SHORT_LIMIT } else { LIMIT }
    }

    fn unlimit(&self) {
        self.cpu().unlimit();
    }

    fn throttle(&self) {
        let Some(quota) = self.quota else { return };
        self.cpu().limit(quota.ms * 1000, quota.period_ms * 1000);
        if self.neighbours.busy > 0 {
            self.neighbour.until_throttled();
        }
    }

    /// This many, or as many as fit.
    fn starts(&self, rounds: usize, most: Duration) -> Series {
        let began = Instant::now();
        (0..rounds).take_while(|_| began.elapsed() < most).map(|_| self.start()).collect()
    }

    /// Between two rounds the quota is removed: the cost of a removal must not affect the next
    /// round.
    fn start(&self) -> Took {
        let scratch = self.neighbour.scratch;
        let bundle = scratch.bundle("idle", "c");
        let cgroup = format!("{}/c", self.cgroup);
        scratch.edit(&bundle, |config| {
            config["linux"]["cgroupsPath"] = json!(cgroup);
            if let Some(Quota { ms, period_ms }) = self.quota.filter(|_| self.both) {
                config["linux"]["resources"]["cpu"] =
                    json!({ "quota": ms * 1000, "period": period_ms * 1000 });
            }
        });
        self.throttle();
        let mut create = self.neighbour.command("create");
        let mut took = timed(create.arg("--bundle").arg(&bundle).arg("c"), self.limit());
        if took.failure.is_none() {
            took = took.and(self.neighbour.timed(&["start", "c"], self.limit()));
        }
        if self.quota.is_some_and(|quota| quota != self.quota_now()) {
            took.failure = Some(format!("the pod's quota is {} now", self.quota_now()));
        }
        self.unlimit();
        // Not left to the runtime, which leaves cgroups behind.
        assert_eq!(remove_cgroup(&cgroup), Vec::<PathBuf>::new());
        succeed(self.neighbour.command("delete").args(["--force", "c"]));
        took
    }
}
