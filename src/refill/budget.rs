//! What a pod may gain by refills: the promise to those who share the node with it.
//!
//! CPU time beyond the quota is charged to an account per pod (or per container, where there is no
//! pod) that fills at a rate of a few percent of one CPU up to a burst. Work that can do without, as
//! a probe, is refilled only while there is something in it; a freeze, a SIGKILL or a delete may go
//! into debt, by a fixed amount and once a second. What is charged is what the kernel has counted,
//! not what was meant to be given: a refill lets every CPU run on for up to a tick of the scheduler.
//!
//! The account is a small file, changed under its own flock for some microseconds. An account that
//! is full is as good as none, and is removed by the next `delete` of any container.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cgroup::CpuQuota;
use crate::{lock, state_dir, sys};

/// How often the account is brought up to date while there are refills, and by how much it can be
/// overdrawn at most on each CPU.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// With 64 operations on a pod at once the account is in use for milliseconds on end: so often in a row
/// it cannot be looked at, and no more.
pub(super) const MOST_MISSED: u32 = 5;

/// For so long after his last mark can somebody have refilled who was killed, and one tick more, as a
/// CPU runs on until its next one.
const UNSEEN: Duration = Duration::from_millis(10 * (MOST_MISSED as u64 + 1));

/// An account is in use by another for as long as a read and a write of one page take.
const LOCK_TRIES: u32 = 10;
const LOCK_RETRY: Duration = Duration::from_micros(200);

/// How often a debt may be made.
const DEBT_EVERY_NS: u64 = 1_000_000_000;

/// An account with more than this in it is not one of ours.
const MAX_BYTES: u64 = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Of one CPU.
    pub(crate) percent: u64,
    pub(crate) burst_us: u64,
    /// What one operation may gain on credit.
    pub(crate) debt_us: u64,
}

/// What one cgroup has used, as the kernel counts it.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) cgroup: String,
    /// `None` where nothing counts it.
    pub(super) usage_us: Option<u64>,
    pub(super) quota: CpuQuota,
}

impl Reading {
    fn is_below(&self, outer: &Reading) -> bool {
        let rest = self.cgroup.strip_prefix(&outer.cgroup);
        rest.is_some_and(|rest| rest.starts_with('/'))
    }

    /// Of bounded length, as the file is.
    fn name(&self) -> String {
        state_dir::file_name(self.cgroup.as_ref())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    Granted,
    /// There would be a debt to make, which is made with the first draw and not before.
    OnCredit,
    Spent,
    /// The account could not be read or written; without one there is no promise to keep.
    Unavailable,
}

/// One operation's dealings with an account.
#[derive(Debug)]
pub(super) struct Budget {
    path: PathBuf,
    rates: Rates,
    may_owe: bool,
    /// What is left of the credit, once there is one.
    credit_us: Option<u64>,
    cpus: u64,
    pub(super) charged_us: u64,
}

impl Budget {
    pub(super) fn new(path: PathBuf, rates: Rates, may_owe: bool) -> Budget {
        Budget { path, rates, may_owe, credit_us: None, cpus: sys::online_cpus(), charged_us: 0 }
    }

    /// Asks whether there may be any, before the first one. Marks nothing: without a refill after it
    /// the next operation would take the mark for one of somebody who was killed. Nor makes it a debt:
    /// most operations that may freeze do not, and the next SIGKILL may need it.
    pub(super) fn ask(&mut self, now_ns: u64) -> Grant {
        let (rates, may_owe, credit_us) = (self.rates, self.may_owe, self.credit_us);
        let asked = change(&self.path, now_ns, &rates, |account| {
            account.settle(now_ns, &[], &rates, 0);
            account.clone().grant(now_ns, &rates, may_owe, credit_us, 0)
        });
        match asked {
            Ok((_, Some(_))) if credit_us.is_none() => Grant::OnCredit,
            Ok((grant, _)) => grant,
            Err(_) => Grant::Unavailable,
        }
    }

    /// Charges what was used since the last time, and asks whether there may be more.
    pub(super) fn draw(&mut self, now_ns: u64, readings: &[Reading]) -> Grant {
        let (rates, cpus) = (self.rates, self.cpus);
        let (may_owe, credit_us) = (self.may_owe, self.credit_us);
        let changed = change(&self.path, now_ns, &rates, |account| {
            let charged = account.settle(now_ns, readings, &rates, cpus);
            account.mark(now_ns, readings, false);
            account.forget_old_marks(now_ns);
            (charged, account.grant(now_ns, &rates, may_owe, credit_us, charged))
        });
        let Ok((charged, (grant, credit_us))) = changed else { return Grant::Unavailable };
        self.charged_us += charged;
        self.credit_us = credit_us;
        grant
    }

    /// Charges the rest. What the last refill has given and nobody has used yet is charged by the
    /// next one who looks.
    pub(super) fn close(&mut self, now_ns: u64, readings: &[Reading]) {
        let (rates, cpus) = (self.rates, self.cpus);
        let charged = change(&self.path, now_ns, &rates, |account| {
            let charged = account.settle(now_ns, readings, &rates, cpus);
            account.mark(now_ns, readings, true);
            account.forget_old_marks(now_ns);
            charged
        });
        self.charged_us += charged.unwrap_or(0);
    }
}

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Account {
    /// What there is, or, below zero, is owed.
    level_us: i64,
    /// When that was so, on CLOCK_BOOTTIME.
    at_ns: u64,
    /// When the last debt was made.
    #[serde(default)]
    owed_at_ns: Option<u64>,
    /// Where each cgroup's counter stood when it was last charged.
    #[serde(default)]
    marks: BTreeMap<String, Mark>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Mark {
    usage_us: Option<u64>,
    at_ns: u64,
    /// The operation has ended; what its last refill gave may still be in use.
    closed: bool,
}

/// Whoever is killed in a refill leaves a mark, and the next operation on that cgroup, which is to charge
/// what he gained, may be a probe minutes later. By then a pod has long earned as much again.
const MARK_LIFE_NS: u64 = 600_000_000_000;

/// An account in which there is nothing else is as good as full: a quota has been earned again. Longer
/// than any period (kernel: at most 1 s).
const CLOSED_MARK_COUNTS_NS: u64 = 5_000_000_000;

/// Operations on what is below a container mark up to 32 cgroups each; the file stays far below its
/// bound.
const MOST_MARKS: usize = 128;

impl Mark {
    /// One in the future is of another boot.
    fn age_ns(&self, now_ns: u64) -> u64 {
        now_ns.abs_diff(self.at_ns)
    }

    /// Whether there is still something to charge by it.
    fn counts(&self, now_ns: u64) -> bool {
        self.age_ns(now_ns) < if self.closed { CLOSED_MARK_COUNTS_NS } else { MARK_LIFE_NS }
    }
}

impl Account {
    fn full(now_ns: u64, rates: &Rates) -> Account {
        Account {
            level_us: rates.burst_us as i64,
            at_ns: now_ns,
            owed_at_ns: None,
            marks: BTreeMap::new(),
        }
    }

    /// Income up to now, less what was gained since the marks. Gives the latter.
    fn settle(&mut self, now_ns: u64, readings: &[Reading], rates: &Rates, cpus: u64) -> u64 {
        let elapsed_us = now_ns.saturating_sub(self.at_ns) / 1000;
        let income = elapsed_us.saturating_mul(rates.percent) / 100;
        let level = self.level_us.saturating_add(i64::try_from(income).unwrap_or(i64::MAX));
        self.level_us = level.min(rates.burst_us as i64);
        self.at_ns = now_ns;
        let gained = self.gained_by_all(now_ns, readings, cpus);
        // A debt that grew without an end would keep starts and probes from any refill for ever.
        let floor = -(rates.burst_us.max(rates.debt_us) as i64);
        self.level_us = self.level_us.saturating_sub(gained as i64).max(floor);
        gained
    }

    /// Not before those that were read are charged by.
    fn forget_old_marks(&mut self, now_ns: u64) {
        self.marks.retain(|_, mark| mark.age_ns(now_ns) < MARK_LIFE_NS);
        while self.marks.len() > MOST_MARKS {
            let least = self.marks.iter().min_by_key(|(_, mark)| (!mark.closed, mark.at_ns));
            let Some(name) = least.map(|(name, _)| name.clone()) else { return };
            self.marks.remove(&name);
        }
    }

    /// A container's gain is part of its pod's, and those of its own cgroups are part of its own, where
    /// it has a quota. Two operations on two containers of one pod may charge some of it twice, as
    /// each sees all of the pod's; the other way round the promise would not hold.
    fn gained_by_all(&self, now_ns: u64, readings: &[Reading], cpus: u64) -> u64 {
        let mut readings: Vec<&Reading> = readings.iter().collect();
        readings.sort_by_key(|reading| std::cmp::Reverse(reading.cgroup.len()));
        let mut below = vec![0; readings.len()];
        let mut all = 0;
        for (n, reading) in readings.iter().enumerate() {
            let gained = self.gained(now_ns, reading, cpus).max(below[n]);
            // The longest of those that it is below comes first.
            match readings.iter().skip(n).position(|outer| reading.is_below(outer)) {
                Some(outer) => below[n + outer] += gained,
                None => all += gained,
            }
        }
        all
    }

    fn gained(&self, now_ns: u64, reading: &Reading, cpus: u64) -> u64 {
        let Some(mark) = self.marks.get(&reading.name()) else { return 0 };
        let elapsed_us = now_ns.saturating_sub(mark.at_ns) / 1000;
        let used = match (mark.usage_us, reading.usage_us) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => elapsed_us.saturating_mul(cpus),
        };
        let unseen = if mark.closed { 0 } else { UNSEEN.as_micros() as u64 };
        let metered_us = unseen + reading.quota.period_us;
        if elapsed_us <= metered_us {
            return used.saturating_sub(reading.quota.in_time_us(elapsed_us));
        }
        // It is not to be known any more how much was used within a period of the last refill, and how
        // much later, on the cgroup's own quota: what can have been gained is charged. That is a whole
        // quota, and, if whoever made the mark was killed, whatever all CPUs can have done until his
        // last refill.
        let quota_us = reading.quota.quota_us.unwrap_or(0).max(0) as u64;
        let most = unseen.saturating_mul(cpus).saturating_add(quota_us);
        used.min(most)
    }

    fn mark(&mut self, now_ns: u64, readings: &[Reading], closed: bool) {
        for reading in readings {
            let mark = Mark { usage_us: reading.usage_us, at_ns: now_ns, closed };
            self.marks.insert(reading.name(), mark);
        }
    }

    /// Whether there may be more; with what is left of this operation's credit.
    fn grant(
        &mut self,
        now_ns: u64,
        rates: &Rates,
        may_owe: bool,
        credit_us: Option<u64>,
        charged: u64,
    ) -> (Grant, Option<u64>) {
        let granted = |yes| if yes { Grant::Granted } else { Grant::Spent };
        if let Some(left) = credit_us {
            let left = left.saturating_sub(charged);
            return (granted(self.level_us > 0 || left > 0), Some(left));
        }
        // A time in the future is one of another boot.
        let may_owe = may_owe
            && rates.debt_us > 0
            && self.owed_at_ns.is_none_or(|owed| now_ns.abs_diff(owed) >= DEBT_EVERY_NS);
        if self.level_us <= 0 && may_owe {
            self.owed_at_ns = Some(now_ns);
            return (Grant::Granted, Some(rates.debt_us));
        }
        (granted(self.level_us > 0), None)
    }

    fn is_full(&self, now_ns: u64, rates: &Rates) -> bool {
        let mut then = self.clone();
        then.settle(now_ns, &[], rates, 0);
        !then.marks.values().any(|mark| mark.counts(now_ns))
            && then.level_us >= rates.burst_us as i64
    }
}

/// Changes an account under its lock.
fn change<T>(
    path: &Path,
    now_ns: u64,
    rates: &Rates,
    change: impl FnOnce(&mut Account) -> T,
) -> io::Result<T> {
    let file = open_locked(path)?;
    let mut account = read(&file, now_ns, rates)?;
    let result = change(&mut account);
    let text = serde_json::to_vec(&account)?;
    file.write_all_at(&text, 0)?;
    file.set_len(text.len() as u64)?;
    Ok(result)
}

/// One that cannot be read is empty: it is safer to give nothing for a while than everything again
/// and again.
fn read(file: &File, now_ns: u64, rates: &Rates) -> io::Result<Account> {
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text)?;
    let full = Account::full(now_ns, rates);
    if text.is_empty() {
        return Ok(full);
    }
    Ok(serde_json::from_str(&text).unwrap_or(Account { level_us: 0, ..full }))
}

/// Removes the accounts that are full, for the pods that are gone.
pub(crate) fn sweep(directory: &Path, now_ns: u64, rates: &Rates) {
    let Ok(accounts) = std::fs::read_dir(directory) else { return };
    for path in accounts.flatten().map(|account| account.path()) {
        // Whoever has it open finds out that it is gone, as with any lock file.
        let locked = open_locked(&path);
        let full = |file: &File| {
            read(file, now_ns, rates).is_ok_and(|account| account.is_full(now_ns, rates))
        };
        if locked.is_ok_and(|file| full(&file)) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// The file at this path, locked.
fn open_locked(path: &Path) -> io::Result<File> {
    for _ in 0..LOCK_TRIES {
        let file = lock::open(path, true)?;
        match sys::flock(&file, libc::LOCK_EX | libc::LOCK_NB) {
            Ok(()) if lock::is_still_at(&file, path) => return Ok(file),
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOCK_RETRY),
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::WouldBlock.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { percent: 5, burst_us: 1_000_000, debt_us: 100_000 };
    const MS: u64 = 1_000_000;

    fn reading(usage_us: u64) -> Reading {
        let quota = CpuQuota { quota_us: Some(1000), period_us: 100_000 };
        Reading { cgroup: "/c".to_owned(), usage_us: Some(usage_us), quota }
    }

    fn account(level_us: i64) -> Account {
        Account { level_us, ..Account::full(0, &RATES) }
    }

    #[test]
    fn what_is_beyond_the_quota_is_charged_once() {
        let mut account = account(100_000);
        account.mark(0, &[reading(0)], false);
        // 20 ms of CPU in 10 ms, of which the quota gives 0.1 ms; the income is 0.5 ms.
        assert_eq!(account.settle(10 * MS, &[reading(20_000)], &RATES, 2), 19_900);
        assert_eq!(account.level_us, 100_000 - 19_900 + 500);
        account.mark(10 * MS, &[reading(20_000)], true);
        assert_eq!(account.settle(11 * MS, &[reading(20_000)], &RATES, 2), 0);
    }

    #[test]
    fn siblings_add_up_and_what_is_below_is_part_of_it() {
        let mut account = account(100_000);
        let at =
            |cgroup: &str, usage_us| Reading { cgroup: cgroup.to_owned(), ..reading(usage_us) };
        let all = ["/pod/c", "/pod/c/a", "/pod/c/b", "/pod/cd"];
        account.mark(0, &all.map(|cgroup| at(cgroup, 0)), false);
        let siblings = [at("/pod/c/a", 5000), at("/pod/c/b", 6000)];
        assert_eq!(account.gained_by_all(10 * MS, &siblings, 2), 4900 + 5900);
        let nested = [at("/pod/c", 20_000), siblings[0].clone(), siblings[1].clone()];
        assert_eq!(account.gained_by_all(10 * MS, &nested, 2), 19_900);
        let within = [at("/pod/cd", 5100), at("/pod/c", 100), siblings[0].clone()];
        assert_eq!(account.gained_by_all(10 * MS, &within, 2), 5000 + 4900);
    }

    #[test]
    fn to_ask_makes_no_debt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, serde_json::to_vec(&account(-1000)).unwrap()).unwrap();
        let mut other = Budget::new(path.clone(), RATES, true);
        assert_eq!(other.ask(2), Grant::OnCredit);
        let mut budget = Budget::new(path.clone(), RATES, true);
        assert_eq!(budget.ask(3), Grant::OnCredit);
        assert_eq!(budget.draw(4, &[]), Grant::Granted);
        assert_eq!(other.draw(5, &[]), Grant::Spent);
        assert_eq!(Budget::new(path, RATES, true).ask(6), Grant::Spent);
    }

    #[test]
    fn to_ask_costs_nothing_later() {
        let dir = tempfile::tempdir().unwrap();
        let mut budget = Budget::new(dir.path().join("a"), RATES, false);
        assert_eq!(budget.ask(1), Grant::Granted);
        let mut next = Budget::new(dir.path().join("a"), RATES, false);
        assert_eq!(next.ask(2000 * MS), Grant::Granted);
        next.draw(2000 * MS, &[reading(800_000)]);
        assert_eq!(next.charged_us, 0);
    }

    #[test]
    fn one_who_was_killed_is_charged_however_late_the_next_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for late_ms in [100, 6000, 600_000] {
            let mut killed = account(100_000);
            killed.mark(0, &[reading(0)], false);
            std::fs::write(&path, serde_json::to_vec(&killed).unwrap()).unwrap();
            let mut next = Budget::new(path.clone(), RATES, false);
            assert_eq!(next.ask(late_ms * MS), Grant::Granted);
            next.draw(late_ms * MS, &[reading(50_000)]);
            let own = if late_ms == 100 { 1000 } else { 0 };
            assert_eq!(next.charged_us, 50_000 - own, "after {late_ms} ms");
            // And not once more.
            next.draw(late_ms * MS, &[reading(50_000)]);
            assert_eq!(next.charged_us, 50_000 - own, "after {late_ms} ms");
        }
    }

    #[test]
    fn the_last_refill_is_charged_also_after_others_of_the_pod() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let sibling = || Reading { cgroup: "/d".to_owned(), ..reading(0) };
        Budget::new(path.clone(), RATES, false).close(0, &[reading(0)]);
        let mut other = Budget::new(path.clone(), RATES, false);
        other.ask(6000 * MS);
        other.draw(6000 * MS, &[sibling()]);
        other.close(6001 * MS, &[sibling()]);
        let mut next = Budget::new(path, RATES, false);
        next.ask(12_000 * MS);
        next.draw(12_000 * MS, &[reading(800_000)]);
        assert_eq!(next.charged_us, 1000);
    }

    #[test]
    fn the_last_refill_is_charged_at_most_as_a_whole_quota() {
        let mut account = account(100_000);
        account.mark(0, &[reading(0)], true);
        assert_eq!(account.gained(50 * MS, &reading(1500), 2), 1000);
        // Long after, whatever the container has used of its own.
        assert_eq!(account.gained(2000 * MS, &reading(20_000), 2), 1000);
        assert_eq!(account.gained(2000 * MS, &reading(300), 2), 300);
    }

    #[test]
    fn one_who_was_killed_is_charged_what_he_can_have_gained() {
        let mut account = account(100_000);
        account.mark(0, &[reading(0)], false);
        // Six ticks of two CPUs, and a quota; not what it has used of its own since.
        assert_eq!(account.gained(2000 * MS, &reading(5_000_000), 2), 121_000);
        assert_eq!(account.gained(500_000 * MS, &reading(5_000_000), 2), 121_000);
        assert_eq!(account.gained(2000 * MS, &reading(7), 2), 7);
    }

    #[test]
    fn marks_are_kept_for_those_to_come_but_not_all_and_not_for_ever() {
        let at = |n: u32| Reading { cgroup: format!("/c{n}"), ..reading(0) };
        let mut account = Account::full(0, &RATES);
        account.mark(0, &[at(0)], false);
        for n in 1..1000 {
            account.mark(u64::from(n) * MS, &[at(n)], true);
            account.forget_old_marks(u64::from(n) * MS);
        }
        assert_eq!(account.marks.len(), MOST_MARKS);
        assert!(account.marks.contains_key(&at(0).name()), "of one who was killed");
        assert!(serde_json::to_vec(&account).unwrap().len() < MAX_BYTES as usize / 2);
        assert!(!account.is_full(60_000 * MS, &RATES), "that is still to be charged");
        account.forget_old_marks(601_000 * MS);
        assert!(account.marks.is_empty() && account.is_full(601_000 * MS, &RATES));
    }

    #[test]
    fn without_a_counter_all_cpus_are_charged() {
        let mut account = account(0);
        let blind = Reading { usage_us: None, ..reading(0) };
        account.mark(0, std::slice::from_ref(&blind), false);
        assert_eq!(account.gained(10 * MS, &blind, 4), 39_900);
    }

    #[test]
    fn a_debt_is_made_once_a_second_and_ends_with_its_credit() {
        let mut account = account(0);
        let first = account.grant(5000 * MS, &RATES, true, None, 0);
        assert_eq!(first, (Grant::Granted, Some(100_000)));
        let more = account.grant(5010 * MS, &RATES, true, Some(100_000), 60_000);
        assert_eq!(more, (Grant::Granted, Some(40_000)));
        let end = account.grant(5020 * MS, &RATES, true, Some(40_000), 60_000);
        assert_eq!(end, (Grant::Spent, Some(0)));
        assert_eq!(account.grant(5900 * MS, &RATES, true, None, 0).0, Grant::Spent);
        assert_eq!(account.grant(6000 * MS, &RATES, false, None, 0).0, Grant::Spent);
        assert_eq!(account.grant(6000 * MS, &RATES, true, None, 0).0, Grant::Granted);
    }

    #[test]
    fn income_stops_at_the_burst() {
        let mut account = account(-100_000);
        account.settle(10_000 * MS, &[], &RATES, 2);
        assert_eq!(account.level_us, 400_000);
        account.settle(1_000_000 * MS, &[], &RATES, 2);
        assert_eq!(account.level_us, 1_000_000);
        assert!(account.is_full(1_000_000 * MS, &RATES));
    }

    #[test]
    fn a_spoiled_account_is_empty_and_a_full_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "{ nonsense").unwrap();
        let mut budget = Budget::new(path.clone(), RATES, false);
        assert_eq!(budget.draw(1, &[reading(0)]), Grant::Spent);
        budget.close(1, &[reading(0)]);
        sweep(dir.path(), 2, &RATES);
        assert!(path.exists());
        sweep(dir.path(), 60_000 * MS, &RATES);
        assert!(!path.exists());
        assert_eq!(budget.draw(60_001 * MS, &[reading(0)]), Grant::Granted);
    }
}
