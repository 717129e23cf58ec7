//! The runtime at work and its children, as /proc shows them; read once for all that ask.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cgroup::threads::Threads;

/// A runtime needs some milliseconds before there is anything to see.
pub(crate) const FIRST_LOOK: Duration = Duration::from_millis(3);
const LOOK_OFTEN: Duration = Duration::from_millis(2);
const LOOK_SELDOM: Duration = Duration::from_millis(20);

/// When to look again at a runtime that has worked for so long: often enough to be late by at most half
/// of that time. When many start at once, each takes long, and their looks would be much of the work.
pub(crate) fn look_again_in(worked: Duration) -> Duration {
    (worked / 2).clamp(LOOK_OFTEN, LOOK_SELDOM)
}

#[derive(Debug)]
pub(crate) struct Family {
    pid: i32,
    runtime: Option<Threads>,
    children: BTreeMap<i32, Threads>,
    looked: Option<Instant>,
}

impl Family {
    pub(crate) fn of(runtime: i32) -> Family {
        Family { pid: runtime, runtime: None, children: BTreeMap::new(), looked: None }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Reads the family, once for all callers at this time.
    pub(crate) fn look(&mut self, now: Instant) {
        if self.looked.replace(now) == Some(now) {
            return;
        }
        self.runtime = self.runtime.take().or_else(|| Threads::of(self.pid).ok());
        let now = self.runtime.as_ref().and_then(Threads::stat);
        let Some((runtime, now)) = self.runtime.as_mut().zip(now) else {
            return self.children.clear();
        };
        runtime.look(&now);
        let pids = runtime.children();
        // Pids are reused.
        self.children.retain(|pid, child| match child.stat() {
            Some(now) if pids.contains(pid) => {
                child.look(&now);
                true
            }
            _ => false,
        });
        for pid in pids {
            if !self.children.contains_key(&pid) {
                self.children.extend(Threads::of(pid).ok().map(|child| (pid, child)));
            }
        }
    }

    /// None if it is gone.
    pub(crate) fn runtime(&self) -> Option<&Threads> {
        self.runtime.as_ref()
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = &Threads> {
        self.children.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgroup::process;

    #[test]
    fn a_child_is_seen_from_its_beginning_to_its_end() {
        let mut family = Family::of(process::own_pid());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let sees = |family: &Family| family.children().any(|child| child.pid() == pid);
        family.look(Instant::now());
        assert!(sees(&family));
        child.kill().unwrap();
        child.wait().unwrap();
        family.look(Instant::now());
        assert!(!sees(&family));
    }
}
