//! Where the runtime's own work is done: when the first of its processes is in the container's
//! cgroup, and how much CPU time it takes there. From then on the container's quota applies to it.
//! runc 1.4 and later clone `runc init` straight into the cgroup of the container that an exec
//! enters.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::cpu::Cpu;
use testkit::table::Table;
use testkit::throttled::{Container, Via, timed};
use testkit::{Runtime, Scratch, pids, proof, runtime, runtimes, succeed};

use crate::{alone, slack};

const LIMIT: Duration = Duration::from_secs(20);
const VERBS: [&str; 2] = ["create", "exec"];

fn rounds() -> usize {
    if proof() { 50 } else { 5 }
}

/// One command on a container without a quota, in ms.
struct Went {
    /// `None` if none of its processes was seen there.
    began: Option<f64>,
    ended: f64,
    cpu: f64,
}

#[test]
fn a_runtime_works_on_the_containers_account() {
    let _alone = alone();
    let head = format!(
        "{:<16} {:<8} {:>4} {:>18} {:>14} {:>20}",
        "", "", "n", "in the cgroup, ms", "ended, ms", "CPU time there, ms"
    );
    let mut table = Table::with_head("where the bare runtime works, no quota, idle, medians", head);
    for runtime in measured() {
        for verb in VERBS {
            let went: Vec<Went> = (0..rounds()).map(|_| once(&runtime, verb)).collect();
            let began: Vec<f64> = went.iter().filter_map(|went| went.began).collect();
            let [began, ended, cpu] = [
                began.clone(),
                went.iter().map(|went| went.ended).collect(),
                went.iter().map(|went| went.cpu).collect(),
            ]
            .map(median);
            table.line(format!(
                "{:<16} {verb:<8} {:>4} {began:>18.1} {ended:>14.1} {cpu:>20.2}",
                runtime.name,
                went.len()
            ));
            table.claim(began < ended, || {
                format!("{} {verb}: in the cgroup after {began:.1} of {ended:.1} ms", runtime.name)
            });
            table.claim(cpu > LEAST_MS && cpu < ended * 2.0 * slack(), || {
                format!("{} {verb}: {cpu:.2} ms of CPU time there", runtime.name)
            });
        }
    }
    table.finish();
}

/// What any runtime needs to become the requested program.
const LEAST_MS: f64 = 0.1;

fn measured() -> Vec<Runtime> {
    let all = || runtimes().into_iter().filter(|runtime| !runtime.is_crun()).collect();
    if proof() { all() } else { vec![runtime("runc-1.1.15"), runtime("runc-1.5.3")] }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

fn once(runtime: &Runtime, verb: &str) -> Went {
    let scratch = Scratch::new();
    let container = Container::new(&scratch, runtime, Via::Bare, &scratch.cgroup, "c");
    let mut command = container.command(verb);
    let bundle = container.bundle("idle", |config| {
        config["linux"]["resources"]["pids"] = json!({ "limit": 100 });
    });
    match verb {
        "create" => command.arg("--bundle").arg(&bundle).arg("c"),
        _ => {
            succeed(container.command("create").arg("--bundle").arg(&bundle).arg("c"));
            succeed(container.command("start").arg("c"));
            command.args(["c", "true"])
        }
    };
    let usage = || Cpu::of(&container.cgroup).usage();
    let there = container.pids();
    let used = if there.is_empty() { Duration::ZERO } else { usage() };
    let ended = AtomicBool::new(false);
    let began = Instant::now();
    let (took, began) = std::thread::scope(|scope| {
        let seen = scope.spawn(|| {
            while !ended.load(Relaxed) {
                if pids(&container.file("cpu", "")).iter().any(|pid| !there.contains(pid)) {
                    return Some(began.elapsed());
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            None
        });
        let took = timed(&mut command, LIMIT);
        ended.store(true, Relaxed);
        (took, seen.join().unwrap())
    });
    assert_eq!(took.failure, None, "{} {verb}", runtime.name);
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    Went { began: began.map(ms), ended: ms(took.time), cpu: ms(usage() - used) }
}
