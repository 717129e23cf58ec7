//! The start of a container in a pod whose quota others have used up: Kubernetes limits the pod, too.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::scene::{Container, Quota, Via, refilled, timed};
use crate::support::cpu::Cpu;
use crate::support::{Runtime, Scratch, proof, remove_cgroup, slowness, succeed};
use crate::table::{Series, Table, Took};
use crate::{alone, fast, few, runtimes, short_wrapped, slack};

/// What else is in the pod, and how much longer than in an unthrottled pod a start may take. With busy
/// neighbours a refill cannot give what no quota gives: the first CPU that asks takes all of it
/// (docs/unable-to-freeze.md).
#[derive(Clone, Copy)]
struct Neighbours {
    busy: u32,
    times_unthrottled: f64,
}

const NONE: Neighbours = Neighbours { busy: 0, times_unthrottled: 1.5 };
/// Enough to keep both processors.
const BUSY: Neighbours = Neighbours { busy: 2, times_unthrottled: 3.0 };

const QUOTAS: [Quota; 2] = [Quota::new(1, 100), Quota::new(5, 100)];
const LIMIT: Duration = Duration::from_secs(20);
/// How long the controls of a scene may take together.
const CONTROL_MAX: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(600);
/// Where only the failure has to be shown.
const SHORT_LIMIT: Duration = Duration::from_secs(2);

fn rounds() -> usize {
    if proof() { 50 } else { short_wrapped() }
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
    starts("create and start in a pod with two busy neighbours", BUSY);
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
    let controls: Vec<Series> = std::thread::scope(|scope| {
        let each: Vec<_> = scenes
            .iter()
            .map(|&(quota, both)| {
                scope.spawn(move || {
                    let scratch = Scratch::new();
                    let pod = Pod::new(&scratch, runtime, Via::Bare, Some(quota), both, neighbours);
                    pod.starts(control_rounds(), CONTROL_MAX)
                })
            })
            .collect();
        each.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let unthrottled = {
        let scratch = Scratch::new();
        let pod = Pod::new(&scratch, runtime, Via::Widened, None, false, neighbours);
        let series = pod.starts(rounds(), LONG);
        let (with, _) = refilled(&scratch.journal(), "create", "start");
        table.claim(with == 0, || format!("{}: {with} refills without a quota", runtime.name));
        series
    };
    table.row(&format!("{} no quota", runtime.name), "wrapped", &unthrottled);
    for ((quota, both), bare) in scenes.into_iter().zip(controls) {
        let whose = if both { "pod and container" } else { "pod" };
        let scene = format!("{} {quota} {whose}", runtime.name);
        table.row(&scene, "bare", &bare);
        let scratch = Scratch::new();
        let pod = Pod::new(&scratch, runtime, Via::Widened, Some(quota), both, neighbours);
        let wrapped = pod.starts(rounds(), LONG);
        table.row(&scene, "wrapped", &wrapped);
        // Alone in a pod of 5 ms a start is in luck every other time: it shows in the slower half.
        let times = neighbours.times_unthrottled;
        let fast = fast(&unthrottled, &wrapped);
        let is_slow = bare.p50() > times * fast.p50() || bare.p95() > times * fast.p95();
        table.claim(is_slow, || {
            format!("{scene}: not shown: bare has {:.1}, {:.1} ms", bare.p50(), bare.p95())
        });
        table.claim(wrapped.failed() == 0, || format!("{scene}: wrapped: {}", wrapped.failures()));
        let most = neighbours.times_unthrottled * unthrottled.p50() * slack();
        table.claim(wrapped.p50() <= most, || {
            format!("{scene}: a median of {:.1} ms, want {most:.1}", wrapped.p50())
        });
        let journal: Vec<_> =
            scratch.journal().into_iter().filter(|record| record["id"] == "c").collect();
        let (with, of) = refilled(&journal, "create", "start");
        table.claim(with == of && of == wrapped.n(), || {
            format!("{scene}: {with} of {of} records of a create have a refill for it")
        });
    }
}

/// A pod as kubelet makes it, with one busy container in it, and the quota that it has.
struct Pod<'a> {
    neighbour: Container<'a>,
    cgroup: String,
    quota: Option<Quota>,
    /// Whether the container that is started has the same one.
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

    fn lift(&self) {
        self.cpu().lift();
    }

    fn throttle(&self) {
        let Some(quota) = self.quota else { return };
        self.cpu().limit(quota.ms * 1000, quota.period_ms * 1000);
        if self.neighbours.busy > 0 {
            self.neighbour.until_throttled();
        }
    }

    /// So many, or as many as fit.
    fn starts(&self, rounds: usize, most: Duration) -> Series {
        let began = Instant::now();
        (0..rounds).take_while(|_| began.elapsed() < most).map(|_| self.start()).collect()
    }

    /// Between two rounds the quota is lifted: what the removal of one costs is not for the next.
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
        self.lift();
        // Not left to the runtime, which leaves cgroups behind.
        assert_eq!(remove_cgroup(&cgroup), Vec::<PathBuf>::new());
        succeed(self.neighbour.command("delete").args(["--force", "c"]));
        took
    }
}
