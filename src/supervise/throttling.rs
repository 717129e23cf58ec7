//! How long the cgroups of an operation were throttled while its runtime worked, and how much of its
//! time that explains. Mode "observe" records it. A few files are read before and after; nothing is
//! changed, and no process is looked at meanwhile.
//!
//! The kernel adds a throttle to `throttled_time` when the throttle ends, with its whole length, for
//! each CPU separately (unthrottle_cfs_rq, kernel/sched/fair.c). So a throttle that began before the
//! runtime counts in full, and two CPUs count twice: the figure is an upper bound. Nothing is missing,
//! because a throttle that held the runtime up was over when the runtime ended.

use std::time::Duration;

use crate::container::Container;
use crate::outcome::Throttling;
use cgroup::process;
use cgroup::{Reader, Throttled};

#[derive(Debug)]
pub(super) struct Watched {
    /// The counters from before.
    limits: Vec<(Reader, Throttled)>,
    children: Duration,
    seen: Option<Throttling>,
}

impl Watched {
    /// For a container whose cgroup is known.
    pub(super) fn begin(container: &Container) -> Option<Watched> {
        // A cgroup that is not made yet has not been throttled.
        let before = |limit: Reader| {
            let throttled = limit.throttled().unwrap_or_default();
            (limit, throttled)
        };
        let limits = container.files()?.limits().into_iter().map(before).collect();
        Some(Watched { limits, children: process::children_time(), seen: None })
    }

    /// The runtime has ended and was waited for.
    pub(super) fn end(&mut self, took: Duration) {
        let before = self.children;
        self.see(took, || process::children_time().saturating_sub(before));
    }

    /// The runtime stays in the foreground for the container that it has started.
    pub(super) fn end_of_start(&mut self, took: Duration, runtime: i32) {
        self.see(took, || process::cpu_time(runtime).unwrap_or_default());
    }

    pub(super) fn seen(self) -> Option<Throttling> {
        self.seen
    }

    fn see(&mut self, took: Duration, cpu: impl Fn() -> Duration) {
        if self.seen.is_none() {
            // A cgroup that is gone gives no figures.
            let now =
                |(limit, before): &(Reader, Throttled)| Some(limit.throttled()?.since(*before));
            let levels: Vec<Throttled> = self.limits.iter().filter_map(now).collect();
            self.seen = Some(judge(&levels, took, cpu()));
        }
    }
}

/// A cgroup and its ancestor may have been throttled one after the other, so their times are added.
fn judge(levels: &[Throttled], took: Duration, cpu: Duration) -> Throttling {
    let us = levels.iter().map(|level| level.throttled_us).fold(0, u64::saturating_add);
    let most = levels.iter().max_by_key(|level| level.nr_throttled).copied().unwrap_or_default();
    let throttled = Duration::from_micros(us).min(took);
    let explained = throttled.min(took.saturating_sub(cpu));
    let Throttled { nr_periods, nr_throttled, .. } = most;
    Throttling { throttled, nr_periods, nr_throttled, cpu, explained }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn level(nr_throttled: u64, throttled_ms: u64) -> Throttled {
        Throttled { nr_periods: nr_throttled + 1, nr_throttled, throttled_us: throttled_ms * 1000 }
    }

    #[test]
    fn no_more_is_explained_than_the_runtime_had_to_wait() {
        for (levels, took, cpu, throttled, explained) in [
            (&[][..], 50, 30, 0, 0),
            (&[level(0, 0)], 50, 30, 0, 0),
            // One CPU of two, part of the time.
            (&[level(1, 10)], 50, 30, 10, 10),
            // Both CPUs, all the time.
            (&[level(20, 4000)], 2000, 35, 2000, 1965),
            // A throttle that began long before, while the runtime ran all the time.
            (&[level(1, 900)], 40, 60, 40, 0),
            // The container, and after that its pod.
            (&[level(3, 300), level(5, 500)], 1000, 50, 800, 800),
        ] {
            let seen = judge(levels, ms(took), ms(cpu));
            assert_eq!((seen.throttled, seen.explained), (ms(throttled), ms(explained)));
        }
        let both = judge(&[level(3, 300), level(5, 500)], ms(1000), ms(50));
        assert_eq!((both.nr_throttled, both.nr_periods), (5, 6));
    }
}
