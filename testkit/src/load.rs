//! A busy machine, and a task beside it that must run on time.

use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cpu::Version;
use crate::scratch::Scratch;

/// The number of busy loops in a scene with load 20.
pub const BUSY: usize = 20;

/// Busy loops in a separate cgroup that weighs ten times as much as any other. They end with this
/// value, or with the thread that made it.
#[derive(Debug)]
pub struct Load {
    loops: Vec<Child>,
    _scratch: Scratch,
}

impl Load {
    pub fn of(loops: usize) -> Load {
        let scratch = Scratch::new();
        let dir = Version::here().dir("cpu", &scratch.cgroup);
        std::fs::create_dir_all(&dir).unwrap();
        let (file, weight) = match Version::here() {
            Version::V1 => ("cpu.shares", "10240"),
            Version::V2 => ("cpu.weight", "10000"),
        };
        std::fs::write(dir.join(file), weight).unwrap();
        let mut load = Load { loops: Vec::new(), _scratch: scratch };
        for _ in 0..loops {
            load.loops.push(spin(&dir.join("cgroup.procs")));
        }
        // Until each has had its turn.
        std::thread::sleep(Duration::from_millis(300));
        load
    }
}

fn spin(procs: &Path) -> Child {
    let script = format!("echo $$ >{} && while :; do :; done", procs.display());
    Command::new("setpriv").args(["--pdeathsig", "KILL", "sh", "-c", &script]).spawn().unwrap()
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.loops {
            let _ = child.kill();
        }
        for child in &mut self.loops {
            let _ = child.wait();
        }
    }
}

const EACH: Duration = Duration::from_millis(10);

/// A fair task that wakes every 10 ms, in the cgroup of the tests.
#[derive(Debug)]
pub struct Watch {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<f64>>>,
}

/// How late it woke, in ms.
#[derive(Debug, Clone, Default)]
pub struct Late {
    sorted: Vec<f64>,
}

impl Watch {
    pub fn start() -> Watch {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        Watch { is_over, thread: Some(std::thread::spawn(move || wake(&over))) }
    }

    pub fn finish(mut self) -> Late {
        let mut sorted = self.join().unwrap_or_default();
        sorted.sort_by(f64::total_cmp);
        Late { sorted }
    }

    fn join(&mut self) -> Option<Vec<f64>> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.join();
    }
}

fn wake(is_over: &AtomicBool) -> Vec<f64> {
    let mut late = Vec::new();
    let mut next = Instant::now() + EACH;
    while !is_over.load(Ordering::Relaxed) {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        late.push(now.saturating_duration_since(next).as_secs_f64() * 1000.0);
        next = now.max(next) + EACH;
    }
    late
}

impl Late {
    pub fn n(&self) -> usize {
        self.sorted.len()
    }

    pub fn p99(&self) -> f64 {
        let rank = (self.n() * 99).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    pub fn max(&self) -> f64 {
        self.sorted.last().copied().unwrap_or(f64::NAN)
    }

    /// The maximum, ignoring a single wake.
    pub fn max_but_one(&self) -> f64 {
        self.n().checked_sub(2).map_or(f64::NAN, |second| self.sorted[second])
    }
}
