//! What became of a process that was recorded.

use std::fs;

use cgroup::process::{self, Process, Stat};

use super::claim::{Fate, Init};

/// A pid with a start time identifies a process; a pid alone may have been reused.
pub(crate) fn of(init: Init) -> Fate {
    let Some(now) = Process::of(init.pid) else { return Fate::Gone };
    if init.start.is_some_and(|start| start != now.start) {
        return Fate::Reused;
    }
    match now.state() {
        None => Fate::Gone,
        // The main thread may end before the others, as it sometimes does in Go and Java.
        Some('Z' | 'X') if !has_living_thread(init.pid) => {
            Fate::Zombie { parent: process::parent_of(init.pid) }
        }
        Some(_) => Fate::Alive,
    }
}

fn has_living_thread(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let threads = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    threads.filter_map(Stat::of_thread).any(|thread| !matches!(thread.state, b'Z' | b'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_with_another_start_time_is_another_process() {
        let pid = std::process::id() as i32;
        let start = Process::of(pid).unwrap().start;
        assert_eq!(of(Init { pid, start: Some(start) }), Fate::Alive);
        assert_eq!(of(Init { pid, start: Some(start + 1) }), Fate::Reused);
        assert_eq!(of(Init { pid: i32::MAX, start: None }), Fate::Gone);
    }

    #[test]
    fn a_zombie_is_dead_and_names_its_parent() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        let dead = || of(Init { pid, start: None });
        for _ in 0..200 {
            if dead().is_dead() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(dead(), Fate::Zombie { parent: Some(std::process::id() as i32) });
        child.wait().unwrap();
        assert_eq!(dead(), Fate::Gone);
    }
}
