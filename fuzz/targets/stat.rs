//! /proc/PID/stat with a name that its program has chosen. What stands behind the first NUL is a whole
//! line, and a `schedstat`.

#![no_main]

use std::time::Duration;

use cgroup::process::{Stat, cpu_time_of};
use libfuzzer_sys::fuzz_target;

const FIELDS: &[u8] =
    b") R 7 42 42 0 -1 4194368 1 0 0 0 0 0 0 0 20 0 1 0 991 1 1 1 1 1 1 1 1 256 0 0\n";

fuzz_target!(|data: &[u8]| {
    // PR_SET_NAME takes any byte but NUL.
    let (name, rest) = split_at_nul(data);
    let line = |name: &[u8]| Stat::parse(&[b"42 (", name, FIELDS].concat());
    let expected = line(b"sh").expect("it is whole");
    assert!(expected.is_dying() && expected.has_not_executed() && expected.is_runnable());
    assert_eq!(line(name), Some(expected));
    let _ = (Stat::parse(rest), cpu_time_of(rest));
    if let Some(ns) = rest.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) {
        let schedstat = format!("{ns} 12 3\n");
        assert_eq!(cpu_time_of(schedstat.as_bytes()), Some(Duration::from_nanos(ns)));
    }
});

fn split_at_nul(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|&byte| byte == 0) {
        Some(nul) => (&data[..nul], &data[nul + 1..]),
        None => (data, &[]),
    }
}
