//! Operations by the time of their end, in few enough bins to draw each.

use std::collections::BTreeMap;

/// Each is a bar of some pixels.
const BINS: i64 = 100;

/// Possible widths of a bin, in seconds. Each divides the next, so that bins can be merged.
const WIDTHS_S: [i64; 14] = [
    1,
    5,
    10,
    30,
    60,
    5 * 60,
    10 * 60,
    30 * 60,
    3600,
    3 * 3600,
    6 * 3600,
    12 * 3600,
    24 * 3600,
    7 * 24 * 3600,
];

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) clean: u64,
    /// Succeeded after a retry or with a lift.
    pub(super) helped: u64,
    pub(super) failed: u64,
}

impl Counts {
    pub(super) fn total(self) -> u64 {
        self.clean + self.helped + self.failed
    }

    fn add(&mut self, other: Counts) {
        self.clean += other.clean;
        self.helped += other.helped;
        self.failed += other.failed;
    }
}

#[derive(Debug, Clone)]
pub(crate) struct OverTime {
    width_s: i64,
    /// By seconds since 1970, divided by the width.
    bins: BTreeMap<i64, Counts>,
}

impl Default for OverTime {
    fn default() -> OverTime {
        OverTime { width_s: WIDTHS_S[0], bins: BTreeMap::new() }
    }
}

impl OverTime {
    pub(super) fn add(&mut self, unix_ms: i64, counts: Counts) {
        let at = unix_ms.div_euclid(self.width_s * 1000);
        self.bins.entry(at).or_default().add(counts);
        while self.len() > BINS {
            self.widen();
        }
    }

    fn widen(&mut self) {
        let wider = WIDTHS_S.into_iter().find(|width| *width > self.width_s);
        let wider = wider.unwrap_or(self.width_s * 2);
        let factor = wider / self.width_s;
        self.width_s = wider;
        for (at, counts) in std::mem::take(&mut self.bins) {
            self.bins.entry(at.div_euclid(factor)).or_default().add(counts);
        }
    }

    /// From the first to the last, including empty ones.
    fn len(&self) -> i64 {
        let (first, last) = (self.bins.keys().next(), self.bins.keys().next_back());
        first.zip(last).map_or(0, |(first, last)| last - first + 1)
    }

    pub(super) fn width_s(&self) -> i64 {
        self.width_s
    }

    /// The beginning of the first bin, in seconds since 1970.
    pub(super) fn begin_s(&self) -> i64 {
        self.bins.keys().next().map_or(0, |first| first * self.width_s)
    }

    pub(super) fn bins(&self) -> Vec<Counts> {
        let first = self.bins.keys().next().copied().unwrap_or(0);
        (first..first + self.len())
            .map(|at| self.bins.get(&at).copied().unwrap_or_default())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Counts = Counts { clean: 1, helped: 0, failed: 0 };

    fn over(times_s: impl Iterator<Item = i64>) -> OverTime {
        let mut over_time = OverTime::default();
        times_s.for_each(|s| over_time.add(s * 1000, ONE));
        over_time
    }

    #[test]
    fn few_bins_whatever_the_span() {
        let start = 1_800_000_007;
        for (span_s, width_s) in [
            (0, 1),
            (80, 1),
            (150, 5),
            (3600, 60),
            (86_400, 1800),
            (30 * 86_400, 12 * 3600),
            (10_000 * 86_400, 112 * 86_400),
        ] {
            let all = over([start, start + span_s, start + span_s / 2].into_iter());
            let bins = all.bins();
            assert_eq!(all.width_s(), width_s, "{span_s}");
            assert!(bins.len() as i64 <= BINS, "{span_s}");
            assert_eq!(bins.iter().map(|bin| bin.total()).sum::<u64>(), 3);
            assert!(all.begin_s() <= start && start < all.begin_s() + width_s);
        }
    }

    #[test]
    fn the_order_in_which_they_come_is_no_matter() {
        let times = || (0..1000).map(|n| 1_800_000_000 + n * 7);
        let (forth, back) = (over(times()), over(times().rev()));
        assert_eq!(forth.bins(), back.bins());
        assert_eq!((forth.width_s(), forth.begin_s()), (back.width_s(), back.begin_s()));
    }

    #[test]
    fn nothing_is_no_bin() {
        assert!(OverTime::default().bins().is_empty());
    }
}
