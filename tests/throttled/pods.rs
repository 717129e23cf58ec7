//! A node of busy pods with small limits, probed and resized as kubelet does it: probes are in
//! time, and the node spends no more on them than without frostlock. CPU time for some is taken
//! from the others.

use std::time::{Duration, Instant};

use testkit::load::{Late, Watch};
use testkit::table::{Series, Table, Took};
use testkit::throttled::{Container, Quota, Via};
use testkit::{Runtime, Scratch, proof, runtime};

use crate::{alone, late_bound, latest};

/// 20m.
const SMALL: Quota = Quota::new(2, 100);
const LOOPS: u32 = 4;
/// The probe intervals of each pod.
const PROBES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5)];
/// The interval of updates, of one pod after the other.
const UPDATES: Duration = Duration::from_secs(1);
/// kubelet's default for a probe.
const TIMEOUT: Duration = Duration::from_secs(1);
/// A command that takes longer is killed.
const LIMIT: Duration = Duration::from_secs(60);
/// The node's CPU time, relative to bare with as many probes. Most bare probes have not ended when
/// the next one is due, so bare runs fewer; the cost of the missing ones is measured where nothing
/// is busy.
const TIMES_BARE: f64 = 1.1;
/// In 20 s there are only 40 probes, and the machine's own work: 0.96 to 1.35 were seen.
const TIMES_BARE_SHORT: f64 = 1.5;
/// How often the cost of a probe is measured.
const MEASURED: usize = 30;
/// How late a fair task may always wake. In 20 s it was 21 ms, and 9 beside bare, where little is
/// done.
const FAIR_MS: f64 = 100.0;

/// Of some 80 in a short run, the machine itself may delay one.
fn may_be_late() -> usize {
    usize::from(!proof())
}

fn length() -> Duration {
    Duration::from_secs(if proof() { 600 } else { 20 })
}

fn scenes() -> &'static [usize] {
    if proof() { &[6, 24] } else { &[6] }
}

#[test]
fn a_node_of_busy_pods_is_probed_and_resized() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let mut table = Table::new("pods with 4 busy loops on 20m, probed each 2 and 5 s, and resized");
    let probe_cost = cost_of_a_probe(&runtime);
    for &pods in scenes() {
        let mut bare = None;
        for via in Via::compared() {
            let node = measured(&runtime, via, pods);
            node.show(&mut table, pods, via);
            match (via, &bare) {
                (Via::Bare, _) => bare = Some(node),
                (Via::Wrapped, Some(bare)) => node.judge(&mut table, pods, bare, probe_cost),
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
    cpu: CpuTimeBetween,
    fair: Late,
}

impl Node {
    fn probes_a_second(&self) -> f64 {
        self.probes.n() as f64 / self.cpu.all
    }

    fn show(&self, table: &mut Table, pods: usize, via: Via) {
        table.row(&format!("{pods} pods, probe"), via.name(), &self.probes);
        table.row_beside(&format!("{pods} pods, update"), via.name(), &self.updates, &self.fair);
        let (late, busy) = (self.late_probes, self.cpu.share() * 100.0);
        table.line(format!(
            "{:<36} {late} probes over {TIMEOUT:?}; the CPUs are {busy:.0} % busy",
            ""
        ));
    }

    /// `probe_cost` in seconds.
    fn judge(&self, table: &mut Table, pods: usize, bare: &Node, probe_cost: f64) {
        table.claim(bare.late_probes > 0, || format!("{pods} pods: not shown: no late bare probe"));
        table.claim(self.late_probes <= may_be_late() && self.probes.failed() == 0, || {
            let (late, of) = (self.late_probes, self.probes.n());
            format!(
                "{pods} pods: {late} of {of} probes over {TIMEOUT:?}; {}",
                self.probes.failures()
            )
        });
        table.claim(self.updates.failed() == 0, || {
            format!("{pods} pods: updates: {}", self.updates.failures())
        });
        let more = (self.probes_a_second() - bare.probes_a_second()).max(0.0) * probe_cost;
        let ratio = self.cpu.share() / (bare.cpu.share() + more);
        let plain = self.cpu.share() / bare.cpu.share();
        table.line(format!(
            "{:<36} {ratio:.2} times the CPU time of bare with as many probes ({plain:.2} of bare)",
            ""
        ));
        let most = if proof() { TIMES_BARE } else { TIMES_BARE_SHORT };
        table.claim(ratio <= most, || {
            format!("{pods} pods: {ratio:.2} times the CPU time of bare, want {most}")
        });
        table.claim(latest(&self.fair) <= late_bound(&bare.fair).max(FAIR_MS), || {
            format!("{pods} pods: a fair task wakes {:.1} ms late", latest(&self.fair))
        });
    }
}

/// A bare probe where nothing is busy, in seconds of CPU time.
fn cost_of_a_probe(runtime: &Runtime) -> f64 {
    let scratch = Scratch::new();
    let container = Container::idle(&scratch, runtime, Via::Bare, "c");
    let before = CpuTime::now();
    for _ in 0..MEASURED {
        assert_eq!(container.timed(&probe("c"), LIMIT).failure, None);
    }
    CpuTime::now().since(before).busy() / MEASURED as f64
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
    let cpu = CpuTime::now().since(before);
    Node {
        late_probes: probes.iter().filter(|took| took.time > TIMEOUT).count(),
        probes: probes.into_iter().collect(),
        updates: updates.into_iter().collect(),
        cpu,
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

/// All CPUs together, in seconds. Busy is what is not idle, since idle time is counted exactly. The
/// ticks of user and system are samples: they count a container's 2 ms in each period as none or as
/// 4, depending on how period and tick coincide (proc_stat(5)).
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuTime {
    at: Instant,
    /// Or another machine's, which the hypervisor has let run.
    idle: f64,
}

/// Between two moments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuTimeBetween {
    idle: f64,
    all: f64,
}

const TICKS_A_SECOND: f64 = 100.0;

impl CpuTime {
    pub(crate) fn now() -> CpuTime {
        let stat = std::fs::read_to_string("/proc/stat").unwrap();
        let first = stat.lines().next().unwrap();
        // user, nice, system, idle, iowait, irq, softirq, steal; a guest's are in the first two.
        let ticks: Vec<f64> =
            first.split_whitespace().skip(1).take(8).map(|n| n.parse().unwrap()).collect();
        CpuTime { at: Instant::now(), idle: (ticks[3] + ticks[4] + ticks[7]) / TICKS_A_SECOND }
    }

    pub(crate) fn since(self, before: CpuTime) -> CpuTimeBetween {
        let cpus = std::thread::available_parallelism().unwrap().get() as f64;
        let all = self.at.duration_since(before.at).as_secs_f64() * cpus;
        CpuTimeBetween { idle: self.idle - before.idle, all }
    }
}

impl CpuTimeBetween {
    fn busy(self) -> f64 {
        (self.all - self.idle).max(0.0)
    }

    /// The share of all CPUs used by everything on the machine.
    pub(crate) fn share(self) -> f64 {
        self.busy() / self.all
    }
}
