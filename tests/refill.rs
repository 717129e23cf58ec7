//! The refill itself, below the runtimes: that a write of a bandwidth file with its own value lets a
//! throttled cgroup run, what it costs, and that no write of another's is lost beside it.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::cpu::{Cpu, Version};
use support::{Scratch, eventually, proof, run, runtime, slowness};

const MS: Duration = Duration::from_millis(1);

/// They measure: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A cgroup of the cpu and cpuacct hierarchies with busy processes in it.
struct Busy {
    _scratch: Scratch,
    cpu: Cpu,
    children: Vec<Child>,
}

impl Busy {
    fn new(processes: usize, quota_us: u32) -> Busy {
        let scratch = Scratch::new();
        let dirs = ["cpu", "cpuacct"].map(|name| Version::here().dir(name, &scratch.cgroup));
        for dir in &dirs {
            std::fs::create_dir_all(dir).unwrap();
        }
        let cpu = Cpu::of(&scratch.cgroup);
        cpu.limit(quota_us * slowness(), 100_000);
        let mut busy = Busy { _scratch: scratch, cpu, children: Vec::new() };
        for _ in 0..processes {
            let child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
            for dir in &dirs {
                std::fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
            }
            busy.children.push(child);
        }
        std::thread::sleep(300 * MS * slowness());
        busy
    }

    fn usage(&self) -> Duration {
        self.cpu.usage()
    }

    fn file(&self, name: &str) -> File {
        OpenOptions::new().read(true).write(true).open(self.cpu.dir.join(name)).unwrap()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.cpu.lift();
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn rewrite(file: &File) {
    let mut value = [0; 32];
    let length = file.read_at(&mut value, 0).unwrap();
    file.write_at(&value[..length], 0).unwrap();
}

/// CPU time that the cgroup gets in `time`, with a write every `pace`.
fn gets(busy: &Busy, name: &str, time: Duration, pace: Option<Duration>) -> Duration {
    let file = busy.file(name);
    let (before, since) = (busy.usage(), Instant::now());
    while since.elapsed() < time {
        if pace.is_some() {
            rewrite(&file);
        }
        std::thread::sleep(pace.unwrap_or(5 * MS));
    }
    busy.usage() - before
}

#[test]
fn a_write_with_the_same_value_lets_a_throttled_cgroup_run() {
    let _alone = alone();
    let busy = Busy::new(3, 1000);
    let time = if proof() { 2000 * MS } else { 500 * MS };
    let (quota_ms, version) = (slowness(), Version::here());
    println!(
        "CPU time of 3 busy processes with {quota_ms} ms in 100 ms, in {} ms, cgroup {version}:",
        time.as_millis()
    );
    let bare = gets(&busy, version.burst_file(), time, None);
    println!("  {:<44} {:>6} ms", "no write", bare.as_millis());
    assert!(bare < time * slowness() / 20, "control: not shown: it is not throttled: {bare:?}");
    // What there is to gain: at most both processors.
    let more = if slowness() > 1 { 2 } else { 5 };
    for &name in version.bandwidth_files() {
        for pace in [MS, 5 * MS] {
            let refilled = gets(&busy, name, time, Some(pace));
            let what = format!("{name} every {} ms", pace.as_millis());
            println!("  {what:<44} {:>6} ms", refilled.as_millis());
            assert!(refilled > more * bare, "{name}: {refilled:?}, without: {bare:?}");
        }
    }
}

/// In µs per write, and as the share that a process on the other CPU loses.
#[test]
fn what_a_write_costs() {
    let _alone = alone();
    for (processes, quota_us) in [(0, 1000), (8, 1000)] {
        let busy = Busy::new(processes, quota_us);
        for &name in Version::here().bandwidth_files() {
            let file = busy.file(name);
            let mut value = [0; 32];
            let length = file.read_at(&mut value, 0).unwrap();
            let mut took: Vec<Duration> = (0..2000)
                .map(|_| {
                    let since = Instant::now();
                    file.write_at(&value[..length], 0).unwrap();
                    since.elapsed()
                })
                .collect();
            took.sort();
            println!(
                "{name}, {processes} busy processes: p50 {:.1} us, p99 {:.1} us",
                took[1000].as_secs_f64() * 1e6,
                took[1980].as_secs_f64() * 1e6
            );
            assert!(took[1000] < MS, "{name}: {:?}", took[1000]);
        }
    }
    // An idle cgroup: what the writes themselves take from others, and not what is given to it.
    let idle = Busy::new(0, 1000);
    let file = idle.file(Version::here().burst_file());
    let rounds = if proof() { 20 } else { 6 };
    let mut ratios: Vec<f64> = (0..rounds)
        .map(|_| {
            let without = work(100 * MS, None);
            work(100 * MS, Some(&file)) / without
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!(
        "work of a thread beside 1,000 writes a second, against none: median {median:.3} of {rounds} \
         (from {:.3} to {:.3})",
        ratios[0],
        ratios[ratios.len() - 1]
    );
    assert!(median > 0.9, "{ratios:?}");
}

/// How far a thread counts, while another one writes every millisecond, or only sleeps as long.
fn work(time: Duration, writes_to: Option<&File>) -> f64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counter = scope.spawn(|| {
            let mut count = 0u64;
            while !stop.load(Ordering::Relaxed) {
                count = std::hint::black_box(count + 1);
            }
            count as f64
        });
        let since = Instant::now();
        while since.elapsed() < time {
            if let Some(file) = writes_to {
                rewrite(file);
            }
            std::thread::sleep(MS);
        }
        stop.store(true, Ordering::Relaxed);
        counter.join().unwrap()
    })
}

/// What a writer of quotas has met.
#[derive(Debug, Default)]
struct Met {
    writes: AtomicU64,
    failed: AtomicU64,
    lost: AtomicU64,
}

/// Writes a new quota about every millisecond, as runc, kubelet and systemd do it (open, write, close),
/// and reads it back before the next.
fn write_quotas(dir: &Path, from: u32, stop: &AtomicBool, met: &Met) {
    let line = |quota| Version::here().quota_line(Some(quota), 100_000);
    let path = dir.join(line(from).0);
    let mut quota = from;
    while !stop.load(Ordering::Relaxed) {
        quota = if quota >= from + 500 { from } else { quota + 1 };
        met.writes.fetch_add(1, Ordering::Relaxed);
        let wrote = OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|file| file.write_at(line(quota).1.as_bytes(), 0));
        if wrote.is_err() {
            met.failed.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(MS);
        if std::fs::read_to_string(&path).unwrap().trim() != line(quota).1 {
            met.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Met {
    fn row(&self, what: &str) {
        let [writes, failed, lost] =
            [&self.writes, &self.failed, &self.lost].map(|count| count.load(Ordering::Relaxed));
        println!("  {what:<44} {writes:>7} {failed:>7} {lost:>7}");
    }

    fn harm(&self) -> u64 {
        self.failed.load(Ordering::Relaxed) + self.lost.load(Ordering::Relaxed)
    }
}

/// The kernel reads the other settings and sets them all again with nothing held in between; a refill
/// that does not look is the control.
#[test]
fn no_write_of_another_is_lost_or_refused() {
    let _alone = alone();
    let runtime = runtime("runc-1.3.6");
    let scratch = Scratch::new();
    let config = scratch.path("config.toml");
    std::fs::write(
        &config,
        format!(
            "[refill]\nmax_ms = {}\nbudget_percent = 10000\nburst_ms = 600000\n",
            (500 * slowness()).min(5000)
        ),
    )
    .unwrap();
    let pod = format!("{}/kubepods/podwriters", scratch.cgroup);
    let from = 1000 * slowness();
    let bundle = scratch.bundle("throttled", "c");
    scratch.edit(&bundle, |config| {
        config["linux"]["cgroupsPath"] = format!("{pod}/c").into();
        config["linux"]["resources"]["cpu"]["quota"] = from.into();
    });
    run(scratch.bare(&runtime.path).args(["run", "--detach", "--bundle"]).arg(&bundle).arg("c"));
    let (pod, container) = (Cpu::of(&pod), Cpu::of(&format!("{pod}/c")));
    // Above what the container is given: the kernel refuses a child more than its parent.
    pod.limit(3 * from, 100_000);
    eventually(Duration::from_secs(5), "throttled", || container.nr_throttled() > 0);

    println!("  {:<44} {:>7} {:>7} {:>7}", "quotas written", "writes", "refused", "lost");
    let seconds = Duration::from_secs(if proof() { 20 } else { 3 });
    let beside = |name: &str, work: &(dyn Fn() + Sync)| {
        let (stop, met) = (AtomicBool::new(false), Met::default());
        std::thread::scope(|scope| {
            scope.spawn(|| write_quotas(&pod.dir, 3 * from, &stop, &met));
            scope.spawn(|| write_quotas(&container.dir, from, &stop, &met));
            work();
            stop.store(true, Ordering::Relaxed);
        });
        met.row(name);
        met
    };
    let alone = beside("by two writers alone", &|| std::thread::sleep(seconds));
    let control = beside("beside rewriting without a look (control)", &|| {
        let open = |dir: &Path| {
            let file = dir.join(Version::here().burst_file());
            OpenOptions::new().read(true).write(true).open(file).unwrap()
        };
        let files = [open(&pod.dir), open(&container.dir)];
        let since = Instant::now();
        // In a row, as it takes minutes at 1 kHz.
        while since.elapsed() < seconds {
            files.iter().for_each(rewrite);
        }
    });
    let operations = if proof() { 500 } else { 40 / u64::from(slowness()).min(5) };
    let refills = AtomicU64::new(0);
    let ours = beside(&format!("beside {operations} refilled exec"), &|| {
        for _ in 0..operations {
            let mut exec = scratch.wrapped(&runtime.path);
            exec.env("FROSTLOCK_CONFIG", &config).args(["exec", "c", "true"]);
            let ended = run(&mut exec);
            assert!(ended.status.success(), "{}", support::text(&ended.stderr));
        }
        let journal = scratch.journal();
        let written = journal.iter().filter_map(|record| record["refills"].as_array());
        let written = written.flatten().filter_map(|refill| refill["writes"].as_u64());
        refills.store(written.sum(), Ordering::Relaxed);
    });
    println!("  refill writes: {}", refills.load(Ordering::Relaxed));
    assert!(control.harm() > 0, "control: not shown: no write was lost");
    assert_eq!(alone.harm(), 0, "the writers alone");
    assert_eq!(ours.harm(), 0, "beside us");
    assert!(refills.load(Ordering::Relaxed) > operations, "hardly any refill");
}
