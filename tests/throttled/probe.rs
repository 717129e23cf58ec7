//! A probe: a container without CPU time is charged for the runtime's own work to start a process,
//! and for the process with its children.

use std::time::{Duration, Instant};

use testkit::load::{BUSY, Late, Load, Watch};
use testkit::table::{Series, Table, Took};
use testkit::throttled::{Container, Quota, Via, ended, lifted, lifted_ms};
use testkit::{Runtime, Scratch, proof, runtime, slowness};

use crate::{
    Bound, RUNTIMES, alone, few, late_bound, latest, runtimes, short_control, short_wrapped,
    slow_ms,
};

/// As in `exec` probes of pods.
const COMMANDS: [&[&str]; 4] = [
    &["/bin/true"],
    &["cat", "/etc/hosts"],
    &["sh", "-c", "echo PONG | grep -q PONG"],
    &["sh", "-c", "cat /etc/passwd | sort | wc -l"],
];
const PIPE: usize = 2;

/// Why the container gets no CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Starved {
    By(Quota),
    /// It has no quota, but weighs next to nothing.
    ByItsWeight,
}

#[derive(Debug, Clone, Copy)]
struct Scene {
    busy: u32,
    starved: Starved,
    /// Whether the machine is busy with something else.
    loaded: bool,
    words: &'static [&'static str],
}

const SMALL: Quota = Quota::new(1, 100);
const IDLE_MACHINE: Bound = Bound { p50: 1.3, p99: 3.0 };
const BUSY_MACHINE: Bound = Bound { p50: 2.0, p99: 4.0 };
/// The container's CPU time, relative to the same without scarcity.
const TIMES_CPU: f64 = 1.5;

const LIMIT: Duration = Duration::from_secs(10);

/// When the last exec of a control starts, and how long it may take: with 8 loops on 1 ms some
/// take 24 s.
fn control_max() -> Duration {
    Duration::from_secs(if proof() { 6 } else { 2 })
}

fn limit(via: Via) -> Duration {
    if via == Via::Wrapped { LIMIT } else { control_max() }
}

fn rounds(via: Via) -> usize {
    match via {
        Via::Bare if !proof() => short_control(),
        Via::Bare => 20,
        _ if proof() => 50,
        _ => short_wrapped(),
    }
}

impl Scene {
    const fn new(busy: u32, starved: Starved, loaded: bool, command: usize) -> Scene {
        Scene { busy, starved, loaded, words: COMMANDS[command] }
    }

    fn bound(&self) -> Bound {
        if self.loaded { BUSY_MACHINE } else { IDLE_MACHINE }
    }
}

impl std::fmt::Display for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.words.last().copied().unwrap_or_default();
        let starved = match self.starved {
            Starved::By(quota) => quota.to_string(),
            Starved::ByItsWeight => "no quota, least weight".to_owned(),
        };
        let load = if self.loaded { format!(", load {BUSY}") } else { String::new() };
        write!(f, "{name}: {} busy, {starved}{load}", self.busy)
    }
}

/// With the newest runtime all of them in the proof.
fn scenes(runtime: &Runtime) -> Vec<Scene> {
    if proof() && Some(&&*runtime.name) == RUNTIMES.last() {
        return every_scene();
    }
    let quota = Starved::By(SMALL.here());
    few(&[
        Scene::new(8, quota, false, 0),
        Scene::new(8, quota, false, PIPE),
        Scene::new(8, quota, true, PIPE),
        Scene::new(8, Starved::ByItsWeight, true, PIPE),
    ])
    .to_vec()
}

/// On a busy machine each takes three times as long: the first command and the pipe stand for all.
fn every_scene() -> Vec<Scene> {
    let mut scenes = Vec::new();
    for (loaded, commands) in [(false, &[0, 1, PIPE, 3][..]), (true, &[0, PIPE])] {
        for busy in [1, 8, 32] {
            for ms in [1, 5, 20] {
                let quota = Starved::By(Quota::new(ms, 100));
                scenes.extend(commands.iter().map(|&at| Scene::new(busy, quota, loaded, at)));
            }
        }
    }
    let light = |at| Scene::new(8, Starved::ByItsWeight, true, at);
    scenes.extend((0..COMMANDS.len()).map(light));
    scenes
}

#[test]
fn an_exec_into_a_starved_container_is_as_fast_as_into_an_idle_one() {
    let _alone = alone();
    let mut table = Table::new("exec into containers without CPU time");
    for runtime in runtimes() {
        for scene in scenes(&runtime) {
            one_scene(&mut table, &runtime, scene);
        }
    }
    table.finish();
}

/// The result of many execs.
struct Measured {
    series: Series,
    late: Late,
    /// In ms per exec, beyond what the quota gives.
    cpu: f64,
    records: Vec<serde_json::Value>,
}

fn one_scene(table: &mut Table, runtime: &Runtime, scene: Scene) {
    let name = &runtime.name;
    let fast = idle(runtime, scene.words);
    table.row(&format!("{name} idle, no quota"), "bare", &fast.series);
    table.line(format!("  {scene}"));
    let bound = scene.bound().of(&fast.series);
    let mut late = None;
    for via in Via::compared() {
        let measured = starved(runtime, via, scene, bound);
        table.row_beside(name, via.name(), &measured.series, &measured.late);
        match via {
            Via::Bare => {
                // The same bound as frostlock's claim: starved only by its weight, bare is
                // sometimes slow, and one in four then takes a second.
                let series = &measured.series;
                table.claim(!bound.holds(series), || {
                    format!("{name} {scene}: not shown: bare has {}", bound.missed_by(series))
                });
                late = Some(measured.late);
            }
            Via::Wrapped => {
                let bare = late.take().unwrap_or_default();
                judge(table, &format!("{name} {scene}"), scene, &measured, (&fast, bound, &bare));
            }
            Via::Before => {}
        }
    }
}

fn judge(
    table: &mut Table,
    name: &str,
    scene: Scene,
    wrapped: &Measured,
    (fast, bound, bare): (&Measured, Bound, &Late),
) {
    let (series, late) = (&wrapped.series, &wrapped.late);
    table.claim(series.failed() == 0, || format!("{name}: wrapped: {}", series.failures()));
    table.claim(bound.holds(series), || format!("{name}: {}", bound.missed_by(series)));
    let most = late_bound(bare);
    table.claim(latest(late) <= most, || {
        format!("{name}: a fair task wakes {:.1} ms late, want {most:.1}", latest(late))
    });
    let (with, of) = lifted(&wrapped.records, "exec", "runtime");
    table.claim(with * 2 >= of && of == series.n(), || {
        format!("{name}: {with} of {of} records of an exec have a lift of the runtime")
    });
    if let Starved::By(_) = scene.starved {
        let most = TIMES_CPU * fast.cpu * crate::slack();
        table.claim(wrapped.cpu <= most, || {
            format!("{name}: {:.1} ms of CPU time an exec, want {most:.1}", wrapped.cpu)
        });
    }
    table.line(format!(
        "{:<36} CPU time an exec {:.1} ms, idle {:.1}; program lifted for {}",
        "",
        wrapped.cpu,
        fast.cpu,
        most_of(&lifted_ms(&wrapped.records, "program"))
    ));
}

fn most_of(ms: &[f64]) -> String {
    let most = ms.iter().copied().fold(0.0, f64::max);
    format!("{most:.1} ms at most, {} times", ms.len())
}

/// The cost without scarcity: the bare runtime, an idle container, no quota.
fn idle(runtime: &Runtime, words: &[&str]) -> Measured {
    let scratch = Scratch::new();
    let container = Container::idle(&scratch, runtime, Via::Bare, "c");
    let rounds = rounds(Via::Wrapped);
    let (before, watch) = (container.usage(), Watch::start());
    let series: Series = (0..rounds).map(|_| exec(&container, words, LIMIT)).collect();
    let cpu = per_round(container.usage() - before, rounds);
    Measured { series, late: watch.finish(), cpu, records: Vec::new() }
}

fn starved(runtime: &Runtime, via: Via, scene: Scene, bound: Bound) -> Measured {
    let scratch = Scratch::new();
    let container = Container::busy(&scratch, runtime, via, "c", scene.busy);
    let quota = match scene.starved {
        Starved::By(quota) => Some(quota),
        Starved::ByItsWeight => None,
    };
    match quota {
        Some(quota) => container.limit(quota),
        None => container.weigh_nothing(),
    }
    let created = scratch.journal().len();
    let _load = scene.loaded.then(|| Load::of(BUSY));
    let (before, began, watch) = (container.usage(), Instant::now(), Watch::start());
    let series = execs(&container, scene.words, quota.is_some(), bound);
    let given = quota.map_or(0.0, Quota::ratio);
    let beyond = (container.usage() - before).saturating_sub(began.elapsed().mul_f64(given));
    let cpu = per_round(beyond, series.n());
    let late = watch.finish();
    Measured { series, late, cpu, records: scratch.journal().split_off(created) }
}

fn per_round(time: Duration, rounds: usize) -> f64 {
    time.as_secs_f64() * 1000.0 / rounds.max(1) as f64
}

fn exec(container: &Container<'_>, words: &[&str], limit: Duration) -> Took {
    container.timed(&[&["exec", &container.id], words].concat(), limit)
}

/// For a control that is only sometimes slow, and was not yet.
const CONTROL_MOST: Duration = Duration::from_secs(20);

/// An exec that did not end in time counts with at least this time. Killed, it leaves its process
/// in the container, so it is the last of its scene.
fn execs(container: &Container<'_>, words: &[&str], throttled: bool, bound: Bound) -> Series {
    let is_control = container.via != Via::Wrapped;
    let limit = limit(container.via);
    let mut series = Series::default();
    let began = Instant::now();
    loop {
        let is_enough =
            series.n() >= rounds(container.via) || is_control && began.elapsed() >= control_max();
        let is_to_go_on = is_control && bound.holds(&series) && began.elapsed() < CONTROL_MOST;
        if series.failed() > 0 || is_enough && !is_to_go_on {
            break;
        }
        if throttled {
            container.until_throttled();
        }
        series.add(exec(container, words, limit));
    }
    series
}

/// containerd's shim detaches every exec and waits for the process itself; the runtime's end says
/// nothing about that.
#[test]
fn the_process_of_a_detached_exec_is_not_left_to_its_quota() {
    let _alone = alone();
    let quota = SMALL.here();
    // On a slow machine, one exec without help beside 8 of them takes minutes.
    let loops = few(&[2, 8]).last().copied().unwrap_or(2);
    let mut table =
        Table::new("exec --detach sh -c 'echo PONG | grep -q PONG', until it has ended");
    let runtime = runtime("runc-1.1.15");
    let scene = format!("{} {loops} busy, {quota}", runtime.name);
    let [bare, wrapped] =
        [(Via::Bare, 1), (Via::Wrapped, rounds(Via::Wrapped))].map(|(via, rounds)| {
            let scratch = Scratch::new();
            let container = Container::busy(&scratch, &runtime, via, "c", loops);
            container.limit(quota);
            let series = (0..rounds).map(|_| detached(&container)).collect::<Series>();
            table.row(&scene, via.name(), &series);
            series
        });
    let most = slow_ms(DETACHED_MS);
    table.claim(bare.p50() > most, || {
        format!("not shown: bare has a median of {:.1} ms, want {most:.1}", bare.p50())
    });
    table.claim(wrapped.max() <= most && wrapped.failed() == 0, || {
        format!("{:.1} ms, want {most}; {}", wrapped.max(), wrapped.failures())
    });
    table.finish();
}

const DETACHED_MS: f64 = 250.0;

fn detached(container: &Container<'_>) -> Took {
    let pid_file = container.scratch.path("exec.pid");
    let _ = std::fs::remove_file(&pid_file);
    container.until_throttled();
    let options = ["exec", "--detach", "--pid-file", pid_file.to_str().unwrap(), "c"];
    let began = Instant::now();
    let limit = limit(container.via);
    let mut took = container.timed(&[&options, COMMANDS[PIPE]].concat(), limit);
    if took.failure.is_none() {
        let pid = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        while !ended(pid) && began.elapsed() < limit * slowness() {
            std::thread::sleep(Duration::from_millis(1));
        }
        took.time = began.elapsed();
    }
    took
}

/// Like an impatient prober: 200 of them without a pause.
#[test]
fn execs_in_a_tight_loop() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let rounds = if proof() { 200 } else { 20 };
    let mut table = Table::new("exec sh -c 'echo PONG | grep -q PONG' in a tight loop");
    let fast = idle(&runtime, COMMANDS[PIPE]);
    table.row("idle, no quota", "bare", &fast.series);
    let bound = IDLE_MACHINE.of(&fast.series);
    let mut p50 = f64::NAN;
    for via in Via::compared() {
        let scratch = Scratch::new();
        let container = Container::busy(&scratch, &runtime, via, "c", 8);
        container.limit(SMALL);
        let began = Instant::now();
        let most = if via == Via::Wrapped { rounds } else { rounds.min(50) };
        let series: Series = (0..most)
            .take_while(|_| via == Via::Wrapped || began.elapsed() < control_max())
            .map(|_| exec(&container, COMMANDS[PIPE], limit(via)))
            .collect();
        table.row("8 busy, 1/100 ms", via.name(), &series);
        match via {
            Via::Bare => p50 = series.p50(),
            Via::Wrapped => {
                table.claim(series.failed() == 0, || series.failures());
                table.claim(p50 > bound.p50, || format!("not shown: bare has {p50:.1} ms"));
                table.claim(bound.holds(&series), || bound.missed_by(&series));
            }
            Via::Before => {}
        }
    }
    table.finish();
}
