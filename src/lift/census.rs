//! Which process is which: the runtime outside, its stages inside the container, the program.
//!
//! Nothing here goes by a name, because a tenant can choose names. A stage is a process of the runtime
//! on its way to the container's program. It is either a direct child of the runtime that has not
//! executed anything since its fork (runc's stages 1 and 2, crun, youki), or still in our mount
//! namespace (runc's stage 0). Once it has executed the program, it is the program and remains so. Later
//! children of the runtime are the program's, too: clone(2) with CLONE_PARENT makes siblings, and a
//! runtime that is a subreaper inherits orphans.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cgroup::process::Stat;
use cgroup::threads::Threads;

/// If a probe is a fork bomb, only so many of its processes are followed.
const MOST_MEMBERS: usize = 64;

/// runc has three at a time; other runtimes have two.
const MOST_STAGES: usize = 4;

/// systemd may have made cgroups below the container's, and runc's exec joins the one of the init.
const MOST_CGROUPS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Stage,
    Program,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) pid: i32,
    pub(super) threads: Threads,
    pub(super) kind: Kind,
    /// At the last look that found it alive.
    had_not_executed: bool,
    /// It has been seen in the container's cgroup, and only then may it be lifted. With RT_GROUP_SCHED
    /// a real-time thread cannot be moved into another cgroup, and the runtime would fail.
    pub(super) is_inside: bool,
}

/// What a look found.
#[derive(Debug)]
pub(super) struct Seen {
    /// Stages that have become programs.
    pub(super) executed: Vec<i32>,
    /// The threads of new stages.
    pub(super) started: Vec<i32>,
}

#[derive(Debug)]
pub(super) struct Census {
    /// The runtime's process, while it exists.
    pub(super) runtime: Option<Threads>,
    /// The cgroup in which the kernel schedules the container.
    cgroup: Option<PathBuf>,
    follows: bool,
    /// The first child of the runtime that was seen to be a program, by start time and number.
    program: Option<(u64, i32)>,
    members: BTreeMap<i32, Member>,
}

impl Census {
    /// `process` is a process that is known already. `follows` says whether a program's descendants are
    /// followed.
    pub(super) fn new(
        runtime: i32,
        cgroup: Option<&Path>,
        process: Option<i32>,
        follows: bool,
    ) -> Census {
        let members = BTreeMap::new();
        let runtime = Threads::of(runtime).ok();
        let (cgroup, program) = (cgroup.map(Path::to_owned), None);
        let mut census = Census { runtime, cgroup, follows, program, members };
        // Not a stage only because it is in our mount namespace: besides runc's stage 0, a few others
        // are.
        if let Some(pid) = process {
            let is_stage = Stat::of(pid).is_some_and(|stat| stat.has_not_executed());
            census.take_in(pid, Some(if is_stage { Kind::Stage } else { Kind::Program }), false);
        }
        census
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Whether nobody is in the container or on the way into it.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Looks again; gives the stages that have become programs, and the threads of new stages. A
    /// cgroup's process list is read under a lock that anyone may hold: `may_wait` says whether we may
    /// wait for it.
    pub(super) fn look(&mut self, may_wait: bool) -> Seen {
        let mut executed = Vec::new();
        self.members.retain(|pid, member| {
            let Some(now) = member.threads.stat() else { return false };
            let is_zombie = now.state == b'Z';
            let has_executed = member.kind == Kind::Stage && !is_stage(*pid, &now) && {
                // On its way out, maybe since the line above, a process has lost its mount namespace. It
                // keeps its flags.
                let is_alive = member.threads.stat().is_some_and(|now| !is_going(&now));
                is_alive || member.had_not_executed && !now.has_not_executed()
            };
            member.had_not_executed &= now.has_not_executed();
            if has_executed {
                member.kind = Kind::Program;
                self.program = self.program.or(Some((now.start, *pid)));
                executed.push(*pid);
            }
            member.threads.look(&now);
            !is_zombie
        });
        let runtime = self.runtime.take();
        self.runtime = runtime.and_then(|mut runtime| {
            runtime.look(&runtime.stat()?);
            Some(runtime)
        });
        let children = self.runtime.as_ref().map(Threads::children).unwrap_or_default();
        // Look at all new children before any of them is taken for a stage.
        let new = children.iter().filter_map(|pid| self.new_program(*pid)).min();
        self.program = self.program.or(new);
        let mut started = Vec::new();
        for pid in children {
            if self.take_in(pid, None, false) == Some(Kind::Stage) {
                started.extend(self.members.get(&pid).iter().flat_map(|m| m.threads.tids()));
            }
        }
        if self.follows {
            self.follow();
        }
        let outside = self.members.values().filter(|member| may_wait && !member.is_inside);
        let arrived: Vec<i32> = outside.map(|m| m.pid).filter(|pid| self.holds(*pid)).collect();
        for pid in arrived {
            if let Some(member) = self.members.get_mut(&pid) {
                member.is_inside = true;
            }
        }
        Seen { executed, started }
    }

    /// Takes in the descendants of programs, a generation at a time, until it finds none that is new.
    fn follow(&mut self) {
        loop {
            let programs = self.members.values().filter(|member| member.kind == Kind::Program);
            // A child is born in its parent's cgroup.
            let children: Vec<(i32, bool)> = programs
                .flat_map(|m| m.threads.children().into_iter().map(|child| (child, m.is_inside)))
                .collect();
            let known = self.members.len();
            for (child, is_inside) in children {
                self.take_in(child, Some(Kind::Program), is_inside);
            }
            if self.members.len() == known {
                return;
            }
        }
    }

    fn new_program(&self, pid: i32) -> Option<(u64, i32)> {
        let stat = Stat::of(pid).filter(|_| !self.members.contains_key(&pid))?;
        let is_program = !is_stage(pid, &stat) && Stat::of(pid).is_some_and(|now| !is_going(&now));
        is_program.then_some((stat.start, pid))
    }

    /// Not so of a stage that is older than what has executed: a hook may have entered the container's
    /// mount namespace.
    fn is_after_the_program(&self, pid: i32, stat: &Stat) -> bool {
        self.program.is_some_and(|program| (stat.start, pid) > program)
    }

    /// Takes in a process; gives its kind if it was not known.
    fn take_in(&mut self, pid: i32, kind: Option<Kind>, is_inside: bool) -> Option<Kind> {
        if self.members.contains_key(&pid) || self.members.len() >= MOST_MEMBERS {
            return None;
        }
        let threads = Threads::of(pid).ok()?;
        let stat = threads.stat().filter(|stat| stat.state != b'Z')?;
        let stages = self.members.values().filter(|member| member.kind == Kind::Stage).count();
        let may_be_stage = stages < MOST_STAGES && !self.is_after_the_program(pid, &stat);
        let kind = kind.unwrap_or(match may_be_stage && is_stage(pid, &stat) {
            true => Kind::Stage,
            false => Kind::Program,
        });
        let had_not_executed = stat.has_not_executed();
        self.members.insert(pid, Member { pid, threads, kind, had_not_executed, is_inside });
        Some(kind)
    }

    fn holds(&self, pid: i32) -> bool {
        let mut left = MOST_CGROUPS;
        self.cgroup.as_ref().is_some_and(|cgroup| is_in(cgroup, pid, &mut left))
    }
}

fn is_going(stat: &Stat) -> bool {
    stat.state == b'Z' || stat.is_dying()
}

/// A hook is also a child of the runtime in our mount namespace, but it is never in the container's
/// cgroup.
fn is_stage(pid: i32, stat: &Stat) -> bool {
    let mounts = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/mnt")).ok();
    stat.has_not_executed() || mounts(&pid.to_string()).is_some_and(|ns| Some(ns) == mounts("self"))
}

fn is_in(cgroup: &Path, pid: i32, left: &mut usize) -> bool {
    let procs = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    if procs.lines().any(|line| line.parse() == Ok(pid)) {
        return true;
    }
    for below in cgroup::read::children(cgroup) {
        if *left == 0 {
            return false;
        }
        *left -= 1;
        if is_in(&below, pid, left) {
            return true;
        }
    }
    false
}
