use std::fs;
use std::path::Path;

use cgroup::read::Version;
use cgroup::{CpuQuota, Freezer, Reader, Throttled};

use super::{id, parse};

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let file = dir.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    dir
}

fn v1(dir: &Path) -> Reader {
    let line = |n: u32, c: &str| {
        format!("{n} 0 0:{n} / {}/{c} rw - cgroup cgroup rw,{c}\n", dir.display())
    };
    let lines = ["cpu", "memory", "freezer"].iter().zip(1..).map(|(c, n)| line(n, c));
    Reader::new(&parse(&lines.collect::<String>()), &id("/c"))
}

fn v2(dir: &Path) -> Reader {
    Reader::new(&parse(&format!("1 0 0:1 / {} rw - cgroup2 none rw\n", dir.display())), &id("/c"))
}

#[test]
fn v1_files() {
    let dir = tree(&[
        ("cpu/c/cpu.cfs_quota_us", "1000\n"),
        ("cpu/c/cpu.cfs_period_us", "100000\n"),
        ("cpu/c/cpu.stat", "nr_periods 9\nnr_throttled 7\nthrottled_time 123456789\nnr_bursts 0\n"),
        ("memory/c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
        ("freezer/c/freezer.state", "FREEZING\n"),
    ]);
    let r = v1(dir.path());
    assert_eq!(r.cpu_quota(), Some(CpuQuota { quota_us: Some(1000), period_us: 100_000 }));
    assert_eq!(
        r.throttled(),
        Some(Throttled { nr_periods: 9, nr_throttled: 7, throttled_us: 123_456 })
    );
    assert_eq!(r.oom_kill(), Some(3));
    assert_eq!(r.freezer(), Freezer::Freezing);
    fs::write(dir.path().join("cpu/c/cpu.cfs_quota_us"), "-1\n").unwrap();
    assert_eq!(r.cpu_quota(), Some(CpuQuota { quota_us: None, period_us: 100_000 }));
    for (text, state) in
        [("FROZEN\n", Freezer::Frozen), ("THAWED\n", Freezer::Thawed), ("?", Freezer::Unknown)]
    {
        fs::write(dir.path().join("freezer/c/freezer.state"), text).unwrap();
        assert_eq!(r.freezer(), state);
    }
}

/// There may be very many cgroups below it; the kernel has the count.
#[test]
fn on_v2_whether_there_are_processes_is_one_file() {
    for (populated, expected) in [(1, true), (0, false)] {
        let events = format!("populated {populated}\nfrozen 0\n");
        let dir = tree(&[("c/cgroup.events", &events), ("c/x/cgroup.procs", "7\n")]);
        assert_eq!(v2(dir.path()).is_populated(), expected);
    }
}

/// As Slurm mounts it, for jobs that it suspends.
#[test]
fn a_v1_freezer_beside_a_unified_tree_is_not_the_containers() {
    let mounts = parse(&format!(
        "{}40 31 0:37 / /sys/fs/cgroup/freezer rw - cgroup freezer rw,freezer\n",
        super::UNIFIED
    ));
    let reader = Reader::new(&mounts, &id("/c"));
    let dir = Path::new("/sys/fs/cgroup/c");
    assert_eq!(reader.freezer_dir(), Some((Version::V2, dir)));
    assert_eq!(mounts.dirs(&id("/c")), [dir]);
}

#[test]
fn v2_files() {
    let dir = tree(&[
        ("c/cpu.max", "1000 100000\n"),
        ("c/cpu.stat", "usage_usec 1\nnr_periods 9\nnr_throttled 7\nthrottled_usec 123\n"),
        ("c/memory.events", "low 0\nhigh 0\nmax 0\noom 1\noom_kill 2\noom_group_kill 0\n"),
        ("c/cgroup.events", "populated 1\nfrozen 0\n"),
        ("c/cgroup.freeze", "1\n"),
    ]);
    let r = v2(dir.path());
    assert_eq!(r.cpu_quota(), Some(CpuQuota { quota_us: Some(1000), period_us: 100_000 }));
    assert_eq!(
        r.throttled(),
        Some(Throttled { nr_periods: 9, nr_throttled: 7, throttled_us: 123 })
    );
    assert_eq!(r.oom_kill(), Some(2));
    assert_eq!(r.freezer(), Freezer::Freezing);
    fs::write(dir.path().join("c/cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
    assert_eq!(r.freezer(), Freezer::Frozen);
    fs::write(dir.path().join("c/cgroup.events"), "frozen 0\n").unwrap();
    fs::write(dir.path().join("c/cgroup.freeze"), "0\n").unwrap();
    fs::write(dir.path().join("c/cpu.max"), "max 100000\n").unwrap();
    assert_eq!(r.freezer(), Freezer::Thawed);
    assert_eq!(r.cpu_quota(), Some(CpuQuota { quota_us: None, period_us: 100_000 }));
}

#[test]
fn what_is_not_there_is_nothing() {
    let dir = tree(&[("c/cpu.stat", "usage_usec 1\n"), ("c/cpu.max", "x\n")]);
    for r in [v1(dir.path()), v2(dir.path()), Reader::new(&parse(""), &id("/c"))] {
        assert_eq!((r.cpu_quota(), r.throttled(), r.oom_kill()), (None, None, None));
        assert_eq!(r.freezer(), Freezer::Unknown);
    }
}

/// A quota above the pod throttles as well; a cgroup without one is left out and not read.
#[test]
fn the_limits_are_those_up_to_the_root_that_have_a_quota() {
    let v1_tree = tree(&[
        ("cpu/cpu.cfs_quota_us", "-1\n"),
        ("cpu/a/cpu.cfs_quota_us", "5000\n"),
        ("cpu/a/b/cpu.cfs_quota_us", "-1\n"),
        ("cpu/a/b/c/cpu.cfs_quota_us", "1000\n"),
    ]);
    let v2_tree = tree(&[
        ("a/cpu.max", "5000 100000\n"),
        ("a/b/cpu.max", "max 100000\n"),
        ("a/b/c/cpu.max", "1000 100000\n"),
    ]);
    let v1_line = format!("1 0 0:1 / {}/cpu rw - cgroup cgroup rw,cpu\n", v1_tree.path().display());
    let v2_line = format!("1 0 0:1 / {} rw - cgroup2 none rw\n", v2_tree.path().display());
    for (line, root, version) in [
        (v1_line, v1_tree.path().join("cpu"), Version::V1),
        (v2_line, v2_tree.path().to_owned(), Version::V2),
    ] {
        let limits = |at: &str| {
            let limits = Reader::new(&parse(&line), &id(at)).limits();
            let dirs = limits.iter().map(|limit| limit.cpu_dir().unwrap());
            let names = dirs.map(|(of, dir)| {
                assert_eq!(of, version);
                dir.strip_prefix(&root).unwrap().to_str().unwrap().to_owned()
            });
            names.collect::<Vec<_>>()
        };
        assert_eq!(limits("/a/b/c"), ["a/b/c", "a"]);
        assert_eq!(limits("/a/b"), ["a"]);
        // It is about to be created.
        assert_eq!(limits("/a/b/new"), ["a/b/new", "a"]);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(limits("/a/b/c"), Vec::<String>::new());
    }
}
