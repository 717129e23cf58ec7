//! A node of busy pods with small limits, probed and resized as kubelet does it: probes are in time, and
//! the node pays no more for them than without us. What is given to some is taken from the others.

use std::time::{Duration, Instant};

use crate::scene::{Container, Quota, Via};
use crate::support::load::{Late, Watch};
use crate::support::{Runtime, Scratch, proof, runtime};
use crate::table::{Series, Table, Took};
use crate::{alone, late_bound};

/// 20m.
const SMALL: Quota = Quota::new(2, 100);
const LOOPS: u32 = 4;
/// Of each pod.
const PROBES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5)];
/// Of one pod after the other.
const UPDATES: Duration = Duration::from_secs(1);
/// kubelet's default for a probe.
const TIMEOUT: Duration = Duration::from_secs(1);
/// What takes longer is killed.
const LIMIT: Duration = Duration::from_secs(60);
/// CPU time of the node, against bare; bare, most probes have not ended when the next one is due.
const TIMES_BARE: f64 = 1.5;
/// How late a fair task may wake in any case. In 20 s it was 21 ms, and 9 beside bare, where little is done.
const FAIR_MS: f64 = 100.0;

fn length() -> Duration {
    Duration::from_secs(if proof() { 600 } else { 20 })
}

fn scenes() -> &'static [usize] {
    if proof() { &[6, 24] } else { &[6] }
}

#[test]
fn a_node_of_busy_pods_is_probed_and_resized() {
    let _alone = alone();
    let runtime = runtime("runc-1.3.6");
    let mut table = Table::new("pods with 4 busy loops on 20m, probed each 2 and 5 s, and resized");
    for &pods in scenes() {
        let mut bare = None;
        for via in Via::compared() {
            let node = measured(&runtime, via, pods);
            node.show(&mut table, pods, via);
            match (via, &bare) {
                (Via::Bare, _) => bare = Some(node),
                (Via::Wrapped, Some(bare)) => node.judge(&mut table, pods, bare),
                _ => {}
            }
        }
    }
    table.finish();
}

#[derive(Debug)]
struct Node {
    probes: Series,
    /// How many took longer than kubelet waits.
    late_probes: usize,
    updates: Series,
    /// Of all CPUs, by everything that runs on the machine.
    busy: f64,
    fair: Late,
}

impl Node {
    fn show(&self, table: &mut Table, pods: usize, via: Via) {
        table.row(&format!("{pods} pods, probe"), via.name(), &self.probes);
        table.row_beside(&format!("{pods} pods, update"), via.name(), &self.updates, &self.fair);
        let (late, busy) = (self.late_probes, self.busy * 100.0);
        table.line(format!(
            "{:<36} {late} probes over {TIMEOUT:?}; the CPUs are {busy:.0} % busy",
            ""
        ));
    }

    fn judge(&self, table: &mut Table, pods: usize, bare: &Node) {
        table.claim(bare.late_probes > 0, || format!("{pods} pods: not shown: no late bare probe"));
        table.claim(self.late_probes == 0 && self.probes.failed() == 0, || {
            let (late, of) = (self.late_probes, self.probes.n());
            format!(
                "{pods} pods: {late} of {of} probes over {TIMEOUT:?}; {}",
                self.probes.failures()
            )
        });
        table.claim(self.updates.failed() == 0, || {
            format!("{pods} pods: updates: {}", self.updates.failures())
        });
        let ratio = self.busy / bare.busy;
        table.line(format!("{:<36} {ratio:.2} times the CPU time of bare", ""));
        table.claim(ratio <= TIMES_BARE, || {
            format!("{pods} pods: {ratio:.2} times the CPU time of bare, want {TIMES_BARE}")
        });
        table.claim(self.fair.max() <= late_bound(&bare.fair).max(FAIR_MS), || {
            format!("{pods} pods: a fair task wakes {:.1} ms late", self.fair.max())
        });
    }
}

fn measured(runtime: &Runtime, via: Via, pods: usize) -> Node {
    let scratch = Scratch::new();
    let make = |number: usize| {
        let pod = format!("{}/kubepods/pod{number}", scratch.cgroup);
        let id = format!("c{number}");
        let container = Container::busy_below(&scratch, runtime, via, &pod, &id, LOOPS);
        container.limit(SMALL);
        container
    };
    let containers: Vec<Container<'_>> = (0..pods).map(make).collect();
    let (watch, before, end) = (Watch::start(), CpuTime::now(), Instant::now() + length());
    let (probes, updates) = std::thread::scope(|scope| {
        let mut probers = Vec::new();
        for (number, container) in containers.iter().enumerate() {
            for every in PROBES {
                // Not all at the same moment.
                let first = every.mul_f64(number as f64 / pods as f64);
                let run = move || container.timed(&probe(&container.id), LIMIT);
                probers.push(scope.spawn(move || repeat(first, every, end, |_| run())));
            }
        }
        let update = |round: usize| {
            let container = &containers[round % pods];
            let most = (1000 + round).to_string();
            container.timed(&["update", "--pids-limit", &most, &container.id], LIMIT)
        };
        let updates = repeat(Duration::ZERO, UPDATES, end, update);
        let probes: Vec<Took> = probers.into_iter().flat_map(|one| one.join().unwrap()).collect();
        (probes, updates)
    });
    let busy = CpuTime::now().busy_since(before);
    Node {
        late_probes: probes.iter().filter(|took| took.time > TIMEOUT).count(),
        probes: probes.into_iter().collect(),
        updates: updates.into_iter().collect(),
        busy,
        fair: watch.finish(),
    }
}

fn probe(id: &str) -> [&str; 5] {
    ["exec", id, "sh", "-c", "echo PONG | grep -q PONG"]
}

/// As kubelet does it: on time, and never two at once.
fn repeat(
    first: Duration,
    every: Duration,
    end: Instant,
    once: impl Fn(usize) -> Took,
) -> Vec<Took> {
    let mut next = Instant::now() + first;
    let mut all = Vec::new();
    while next < end {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        all.push(once(all.len()));
        while next <= Instant::now() {
            next += every;
        }
    }
    all
}

/// Of all CPUs together, in clock ticks (proc_stat(5)).
#[derive(Debug, Clone, Copy)]
struct CpuTime {
    idle: f64,
    all: f64,
}

impl CpuTime {
    fn now() -> CpuTime {
        let stat = std::fs::read_to_string("/proc/stat").unwrap();
        let first = stat.lines().next().unwrap();
        // user, nice, system, idle, iowait, irq, softirq, steal; a guest's are in the first two.
        let ticks: Vec<f64> =
            first.split_whitespace().skip(1).take(8).map(|n| n.parse().unwrap()).collect();
        CpuTime { idle: ticks[3] + ticks[4], all: ticks.iter().sum() }
    }

    fn busy_since(self, before: CpuTime) -> f64 {
        1.0 - (self.idle - before.idle) / (self.all - before.all)
    }
}
