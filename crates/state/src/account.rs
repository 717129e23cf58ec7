//! What lifted threads may use of a CPU over time: one number in a small file.
//!
//! The number is the time (ns since boot) at which the account stands at zero. If it lies in the past,
//! there is credit; if it lies in the future, there is debt. Using CPU time moves it on, by the time in
//! which the rate yields as much. A missing file is a full account.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lock;
use crate::state_dir::{self, StateDir};
use cgroup::{Identity, process};

/// A rate, and how much may be used at once after a while without use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Per cent of one CPU.
    pub percent: u64,
    pub burst: Duration,
}

impl Rate {
    /// The time in which the rate yields this much CPU time.
    fn time_for(self, cpu: Duration) -> u64 {
        let ns = cpu.as_nanos().saturating_mul(100) / u128::from(self.percent.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    fn charged(self, due: u64, now: u64, cpu: Duration) -> u64 {
        let full = now.saturating_sub(self.time_for(self.burst));
        // No operation runs long enough to owe that much: the number is not ours, or is from before a
        // reboot.
        let due = if due > now.saturating_add(LONGEST_DEBT_NS) { full } else { due };
        due.max(full).saturating_add(self.time_for(cpu))
    }
}

/// More than our own limits let anyone owe: half a second of CPU time at one per cent takes 50 s.
const LONGEST_DEBT_NS: u64 = 60_000_000_000;

/// What the lifted programs of one pod may use at once, after a while without use.
pub const POD_BURST: Duration = Duration::from_millis(1000);

#[derive(Debug)]
pub struct Account {
    path: PathBuf,
    rate: Rate,
    /// Used but not written yet: too little to be worth it, or another process was at the file.
    pending: Duration,
    /// Kept open, because it is read at every look.
    file: Option<File>,
}

/// How much is worth a write.
const WORTH_A_WRITE: Duration = Duration::from_millis(2);

impl Account {
    pub fn new(path: PathBuf, rate: Rate) -> Account {
        Account { path, rate, pending: Duration::ZERO, file: None }
    }

    fn read(&mut self) -> u64 {
        self.file = self.file.take().or_else(|| lock::open(&self.path, false).ok());
        self.file.as_ref().map_or(0, parse)
    }

    /// How long there is no credit; `None` if there is some. What is not written yet counts.
    pub fn without_credit_for(&mut self) -> Option<Duration> {
        if self.rate.percent == 0 {
            return Some(Duration::from_secs(1));
        }
        let now = process::since_boot_ns();
        let due = self.rate.charged(self.read(), now, self.pending);
        due.checked_sub(now).filter(|&left| left > 0).map(Duration::from_nanos)
    }

    /// Whether the account holds more than the part of the burst that is kept for others.
    pub fn holds_more_than(&mut self, kept: Duration) -> bool {
        let now = process::since_boot_ns();
        let due = self.rate.charged(self.read(), now, self.pending + kept);
        self.rate.percent > 0 && due < now
    }

    pub fn charge(&mut self, cpu: Duration) {
        self.pending += cpu;
        if self.pending >= WORTH_A_WRITE {
            self.write_down();
        }
    }

    /// Gives whether everything charged is in the file. Never waits: what cannot be written now goes
    /// with the next charge.
    pub fn write_down(&mut self) -> bool {
        if self.pending.is_zero() || self.rate.percent == 0 {
            return true;
        }
        // The file may have been swept away since it was opened.
        self.file = None;
        let is_written = self.add_pending().is_ok();
        if is_written {
            self.pending = Duration::ZERO;
        }
        is_written
    }

    fn add_pending(&self) -> io::Result<()> {
        let file = lock::open(&self.path, true)?;
        sys::flock(&file, libc::LOCK_EX | libc::LOCK_NB)?;
        let due = self.rate.charged(parse(&file), process::since_boot_ns(), self.pending);
        // Always the same length, so that an overwrite leaves no remainder of the old number.
        file.write_all_at(format!("{due:020}\n").as_bytes(), 0)
    }
}

fn parse(file: &File) -> u64 {
    let mut text = [0; 20];
    let read = file.read_exact_at(&mut text, 0).ok();
    let number = read.and_then(|()| std::str::from_utf8(&text).ok()?.parse().ok());
    number.unwrap_or(0)
}

/// In this time any account fills up, even at one per cent.
const LONG_AGO_NS: u64 = 600_000_000_000;

/// A node has as many accounts as pods that were lifted; the next sweep does the rest.
const MOST_SWEPT: usize = 64;

/// Removes accounts that are full again, which equal a missing file. Blocks no one.
pub fn sweep(directory: &Path) {
    let now = process::since_boot_ns();
    for path in state_dir::listed(directory).take(MOST_SWEPT) {
        if lock::open(&path, false).as_ref().map_or(0, parse).saturating_add(LONG_AGO_NS) < now {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The pods and containers among `of` whose account is spent, and for how long. Until then, commands
/// executed in them are not lifted.
pub fn spent(state: &StateDir, pod_percent: u64, of: &[Identity]) -> Vec<(Identity, Duration)> {
    let rate = Rate { percent: pod_percent, burst: POD_BURST };
    let spent = |it: &Identity| {
        let path = state.accounts().join(state_dir::file_name(it.as_path().as_os_str()));
        // A share of 0 was configured; it is not a spent account.
        let is_kept = pod_percent > 0 && path.exists();
        is_kept.then(|| Account::new(path, rate).without_credit_for()).flatten()
    };
    of.iter().filter_map(|it| Some((it.clone(), spent(it)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_without_credit_is_found_by_its_pod() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path().to_owned());
        std::fs::create_dir(state.accounts()).unwrap();
        let rate = Rate { percent: 5, burst: POD_BURST };
        let pods = ["/kubepods/podspent", "/kubepods/podwell", "/kubepods/podnone"];
        let [poor, well, none] = pods.map(|it| Identity::new(it).unwrap());
        for (pod, ms) in [(&poor, 1200), (&well, 300)] {
            let file = state_dir::file_name(pod.as_path().as_os_str());
            let mut account = Account::new(state.accounts().join(file), rate);
            account.charge(Duration::from_millis(ms));
            assert!(account.write_down());
        }
        let all = [poor.clone(), well, none];
        let found = spent(&state, 5, &all);
        let names: Vec<_> = found.iter().map(|(pod, _)| pod).collect();
        assert_eq!(names, [&poor]);
        assert!(found[0].1 > Duration::from_secs(3) && found[0].1 <= Duration::from_secs(4));
        assert!(spent(&state, 0, &all).is_empty(), "switched off");
    }

    const RATE: Rate = Rate { percent: 5, burst: Duration::from_millis(1000) };
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_full_account_holds_the_burst_and_fills_at_the_rate() {
        let now = 1000 * SECOND;
        // The whole burst at once, and not a microsecond more.
        assert_eq!(RATE.charged(0, now, Duration::from_secs(1)), now);
        // Half of it leaves half of it.
        let due = RATE.charged(0, now, Duration::from_millis(500));
        assert_eq!(RATE.charged(due, now, Duration::from_millis(500)), now);
        // The rate yields 50 ms a second.
        let later = RATE.charged(now, now + SECOND, Duration::from_millis(50));
        assert_eq!(later, now + SECOND);
    }

    #[test]
    fn a_number_from_the_far_future_is_nobodys_debt() {
        let now = 1000 * SECOND;
        let due = RATE.charged(u64::MAX, now, Duration::from_millis(1));
        assert!(due < now, "{due}");
    }

    #[test]
    fn what_is_charged_is_read_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pod");
        let mut account = Account::new(path.clone(), RATE);
        assert_eq!(account.without_credit_for(), None);
        account.charge(Duration::from_millis(1500));
        let wait = Account::new(path.clone(), RATE).without_credit_for().unwrap();
        assert!(wait > Duration::from_secs(9) && wait <= Duration::from_secs(10), "{wait:?}");
        sweep(dir.path());
        assert!(path.exists(), "it is not full");
    }

    #[test]
    fn what_another_keeps_from_the_file_is_charged_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pod");
        std::fs::write(&path, "").unwrap();
        let other = File::open(&path).unwrap();
        sys::flock(&other, libc::LOCK_EX).unwrap();
        let mut account = Account::new(path.clone(), RATE);
        account.charge(Duration::from_millis(1100));
        assert!(account.without_credit_for().is_some());
        assert!(Account::new(path.clone(), RATE).without_credit_for().is_none());
        drop(other);
        account.charge(Duration::ZERO);
        assert!(Account::new(path, RATE).without_credit_for().is_some());
    }
}
