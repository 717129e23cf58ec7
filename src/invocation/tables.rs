//! The flags of every command, as data: the union over the versions we know.
//!
//! A flag that one version lacks does no harm here: that version refuses the line, with us or without
//! us.

use cgroup::RuntimeKind;
use state::Verb;

use super::flag::{Flag, Means, Takes};

const fn switch(names: &'static [&'static str], means: Means) -> Flag {
    Flag { names, takes: Takes::Switch, means }
}

const fn value(names: &'static [&'static str], means: Means) -> Flag {
    Flag { names, takes: Takes::Value, means }
}

const fn attached(names: &'static [&'static str], means: Means) -> Flag {
    Flag { names, takes: Takes::Attached, means }
}

const fn other_switch(names: &'static [&'static str]) -> Flag {
    switch(names, Means::Nothing)
}

const fn other_value(names: &'static [&'static str]) -> Flag {
    value(names, Means::Nothing)
}

/// The flags that a command defines itself; without a verb: those before the command.
pub(super) fn own(grammar: RuntimeKind, verb: Option<Verb>) -> &'static [Flag] {
    match grammar {
        RuntimeKind::Runc => runc(verb),
        RuntimeKind::Crun => crun(verb),
        RuntimeKind::Youki => youki(verb),
    }
}

/// The flags that the library adds on every level.
pub(super) fn added(grammar: RuntimeKind) -> &'static [Flag] {
    match grammar {
        RuntimeKind::Runc | RuntimeKind::Youki => HELP,
        RuntimeKind::Crun => ARGP_HELP,
    }
}

fn runc(verb: Option<Verb>) -> &'static [Flag] {
    let Some(verb) = verb else { return RUNC_GLOBAL };
    match verb {
        Verb::Create => RUNC_CREATE,
        Verb::Run => RUNC_RUN,
        Verb::Restore => RUNC_RESTORE,
        Verb::Update => RUNC_UPDATE,
        Verb::Checkpoint => RUNC_CHECKPOINT,
        Verb::Exec => RUNC_EXEC,
        Verb::Kill => KILL,
        Verb::Delete => DELETE,
        Verb::Start | Verb::Pause | Verb::Resume | Verb::State => &[],
    }
}

fn crun(verb: Option<Verb>) -> &'static [Flag] {
    let Some(verb) = verb else { return CRUN_GLOBAL };
    match verb {
        Verb::Create => CRUN_CREATE,
        Verb::Run => CRUN_RUN,
        Verb::Restore => CRUN_RESTORE,
        Verb::Update => CRUN_UPDATE,
        Verb::Checkpoint => CRUN_CHECKPOINT,
        Verb::Exec => CRUN_EXEC,
        Verb::Kill => CRUN_KILL,
        Verb::Delete => CRUN_DELETE,
        Verb::Start | Verb::Pause | Verb::Resume | Verb::State => &[],
    }
}

fn youki(verb: Option<Verb>) -> &'static [Flag] {
    let Some(verb) = verb else { return YOUKI_GLOBAL };
    match verb {
        Verb::Create => YOUKI_CREATE,
        Verb::Run => YOUKI_RUN,
        Verb::Update => YOUKI_UPDATE,
        Verb::Checkpoint => YOUKI_CHECKPOINT,
        Verb::Exec => YOUKI_EXEC,
        Verb::Kill => KILL,
        Verb::Delete => DELETE,
        Verb::Restore | Verb::Start | Verb::Pause | Verb::Resume | Verb::State => &[],
    }
}

const HELP: &[Flag] = &[switch(&["help", "h"], Means::Info)];

const ARGP_HELP: &[Flag] = &[
    switch(&["help", "?"], Means::Info),
    switch(&["usage"], Means::Info),
    // Hidden, but an abbreviation can match them (`--pro`).
    other_value(&["program-name"]),
    attached(&["HANG"], Means::Info),
];

const KILL: &[Flag] = &[switch(&["all", "a"], Means::All)];
const DELETE: &[Flag] = &[switch(&["force", "f"], Means::Force)];

const RUNC_GLOBAL: &[Flag] = &[
    switch(&["debug"], Means::Debug),
    switch(&["systemd-cgroup"], Means::SystemdCgroup),
    value(&["log"], Means::Log),
    value(&["log-format"], Means::LogFormat),
    value(&["root"], Means::Root),
    value(&["rootless"], Means::Rootless),
    // Without effect since 1.2, gone since 1.4; containerd 1.6 passes it.
    other_value(&["criu"]),
    switch(&["version", "v"], Means::Info),
];

const RUNC_CREATE: &[Flag] = &[
    value(&["bundle", "b"], Means::Bundle),
    value(&["console-socket"], Means::ConsoleSocket),
    value(&["pidfd-socket"], Means::PidfdSocket), // 1.2
    value(&["pid-file"], Means::PidFile),
    value(&["preserve-fds"], Means::PreserveFds),
    other_switch(&["no-pivot"]),
    other_switch(&["no-new-keyring"]),
];

const RUNC_RUN: &[Flag] = &[
    value(&["bundle", "b"], Means::Bundle),
    value(&["console-socket"], Means::ConsoleSocket),
    value(&["pidfd-socket"], Means::PidfdSocket), // 1.2
    value(&["pid-file"], Means::PidFile),
    value(&["preserve-fds"], Means::PreserveFds),
    switch(&["detach", "d"], Means::Detach),
    other_switch(&["no-pivot"]),
    other_switch(&["no-new-keyring"]),
    other_switch(&["no-subreaper"]),
    other_switch(&["keep"]), // 1.1
];

const RUNC_RESTORE: &[Flag] = &[
    value(&["bundle", "b"], Means::Bundle),
    value(&["console-socket"], Means::ConsoleSocket),
    value(&["pid-file"], Means::PidFile),
    switch(&["detach", "d"], Means::Detach),
    other_value(&["image-path"]),
    other_value(&["work-path"]),
    // go-runc has it in its options; runc's restore up to 1.5 does not.
    other_value(&["parent-path"]),
    other_value(&["manage-cgroups-mode"]),
    other_value(&["empty-ns"]),
    other_value(&["lsm-profile"]),
    other_value(&["lsm-mount-context"]), // 1.1
    other_switch(&["tcp-established"]),
    other_switch(&["ext-unix-sk"]),
    other_switch(&["shell-job"]),
    other_switch(&["file-locks"]),
    other_switch(&["no-subreaper"]),
    other_switch(&["no-pivot"]),
    other_switch(&["auto-dedup"]),
    other_switch(&["lazy-pages"]),
];

const RUNC_CHECKPOINT: &[Flag] = &[
    other_value(&["image-path"]),
    other_value(&["work-path"]),
    other_value(&["parent-path"]),
    other_value(&["status-fd"]),
    other_value(&["page-server"]),
    other_value(&["manage-cgroups-mode"]),
    other_value(&["empty-ns"]),
    other_switch(&["leave-running"]),
    other_switch(&["tcp-established"]),
    other_switch(&["tcp-skip-in-flight"]), // 1.3
    other_switch(&["link-remap"]),         // 1.3
    other_switch(&["ext-unix-sk"]),
    other_switch(&["shell-job"]),
    other_switch(&["lazy-pages"]),
    other_switch(&["file-locks"]),
    other_switch(&["pre-dump"]),
    other_switch(&["auto-dedup"]),
];

const RUNC_EXEC: &[Flag] = &[
    value(&["console-socket"], Means::ConsoleSocket),
    value(&["pidfd-socket"], Means::PidfdSocket), // 1.2
    value(&["pid-file"], Means::PidFile),
    value(&["preserve-fds"], Means::PreserveFds),
    value(&["process", "p"], Means::Process),
    switch(&["detach", "d"], Means::Detach),
    switch(&["tty", "t"], Means::Tty),
    switch(&["ignore-paused"], Means::IgnorePaused), // 1.1
    other_value(&["cwd"]),
    other_value(&["env", "e"]),
    other_value(&["user", "u"]),
    other_value(&["additional-gids", "g"]),
    other_value(&["process-label"]),
    other_value(&["apparmor"]),
    other_value(&["cap", "c"]),
    other_value(&["cgroup"]), // 1.1
    other_switch(&["no-new-privs"]),
    other_switch(&["no-subreaper"]), // 1.0 only
];

const RUNC_UPDATE: &[Flag] = &[
    value(&["resources", "r"], Means::Resources),
    other_value(&["blkio-weight"]),
    other_value(&["cpu-period"]),
    other_value(&["cpu-quota"]),
    other_value(&["cpu-burst"]), // 1.2
    other_value(&["cpu-share"]),
    other_value(&["cpu-rt-period"]),
    other_value(&["cpu-rt-runtime"]),
    other_value(&["cpuset-cpus"]),
    other_value(&["cpuset-mems"]),
    other_value(&["cpu-idle"]), // 1.2
    other_value(&["kernel-memory"]),
    other_value(&["kernel-memory-tcp"]),
    other_value(&["memory"]),
    other_value(&["memory-reservation"]),
    other_value(&["memory-swap"]),
    other_value(&["pids-limit"]),
    other_value(&["l3-cache-schema"]),
    other_value(&["mem-bw-schema"]),
];

const CRUN_GLOBAL: &[Flag] = &[
    switch(&["debug"], Means::Debug),
    switch(&["systemd-cgroup"], Means::SystemdCgroup),
    value(&["cgroup-manager"], Means::CgroupManager),
    value(&["log"], Means::Log),
    value(&["log-format"], Means::LogFormat),
    other_value(&["log-level"]), // after 1.8
    value(&["root"], Means::Root),
    value(&["rootless"], Means::Rootless),
    switch(&["version", "v", "V"], Means::Info),
];

const CRUN_CREATE: &[Flag] = &[
    value(&["bundle", "b"], Means::Bundle),
    value(&["config", "f"], Means::Config),
    value(&["console-socket"], Means::ConsoleSocket),
    value(&["pid-file"], Means::PidFile),
    value(&["preserve-fds"], Means::PreserveFds),
    other_switch(&["no-pivot"]),
    other_switch(&["no-subreaper"]),
    other_switch(&["no-new-keyring"]),
];

const CRUN_RUN: &[Flag] = &[
    value(&["bundle", "b"], Means::Bundle),
    value(&["config", "f"], Means::Config),
    value(&["console-socket"], Means::ConsoleSocket),
    value(&["pid-file"], Means::PidFile),
    value(&["preserve-fds"], Means::PreserveFds),
    switch(&["detach", "d"], Means::Detach),
    other_switch(&["keep"]), // after 1.8
    other_switch(&["no-pivot"]),
    other_switch(&["no-subreaper"]),
    other_switch(&["no-new-keyring"]),
];

const CRUN_RESTORE: &[Flag] = &[
    value(&["bundle", "b"], Means::Bundle),
    value(&["console-socket"], Means::ConsoleSocket),
    value(&["pid-file"], Means::PidFile),
    switch(&["detach", "d"], Means::Detach),
    other_value(&["image-path"]),
    other_value(&["work-path"]),
    other_value(&["manage-cgroups-mode"]),
    other_value(&["lsm-profile"]),
    other_value(&["lsm-mount-context"]),
    other_switch(&["tcp-established"]),
    other_switch(&["ext-unix-sk"]),
    other_switch(&["shell-job"]),
    other_switch(&["file-locks"]),
];

const CRUN_CHECKPOINT: &[Flag] = &[
    other_value(&["image-path"]),
    other_value(&["work-path"]),
    other_value(&["parent-path"]),
    other_value(&["manage-cgroups-mode"]),
    other_switch(&["leave-running"]),
    other_switch(&["tcp-established"]),
    other_switch(&["ext-unix-sk"]),
    other_switch(&["shell-job"]),
    other_switch(&["file-locks"]),
    other_switch(&["pre-dump"]),
];

const CRUN_EXEC: &[Flag] = &[
    value(&["console-socket"], Means::ConsoleSocket),
    value(&["pid-file"], Means::PidFile),
    value(&["preserve-fds"], Means::PreserveFds),
    value(&["process", "p"], Means::Process),
    switch(&["detach", "d"], Means::Detach),
    attached(&["tty", "t"], Means::Tty),
    other_value(&["cwd"]),
    other_value(&["cgroup"]),
    other_value(&["env", "e"]),
    other_value(&["user", "u"]),
    other_value(&["cap", "c"]),
    other_value(&["process-label"]),
    other_value(&["apparmor"]),
    other_switch(&["no-new-privs"]),
];

const CRUN_UPDATE: &[Flag] = &[
    value(&["resources", "r"], Means::Resources),
    other_value(&["blkio-weight"]),
    other_value(&["cpu-period"]),
    other_value(&["cpu-quota"]),
    other_value(&["cpu-share"]),
    other_value(&["cpu-rt-period"]),
    other_value(&["cpu-rt-runtime"]),
    other_value(&["cpuset-cpus"]),
    other_value(&["cpuset-mems"]),
    other_value(&["kernel-memory"]),
    other_value(&["kernel-memory-tcp"]),
    other_value(&["memory"]),
    other_value(&["memory-reservation"]),
    other_value(&["memory-swap"]),
    other_value(&["pids-limit"]),
    // After 1.8; older versions refuse them.
    other_value(&["l3-cache-schema"]),
    other_value(&["mem-bw-schema"]),
];

const CRUN_KILL: &[Flag] =
    &[switch(&["all", "a"], Means::All), switch(&["regex", "r"], Means::Regex)];
const CRUN_DELETE: &[Flag] =
    &[switch(&["force", "f"], Means::Force), switch(&["regex", "r"], Means::Regex)];

const YOUKI_GLOBAL: &[Flag] = &[
    value(&["log", "l"], Means::Log),
    value(&["log-format"], Means::LogFormat),
    value(&["root", "r"], Means::Root),
    other_value(&["log-level"]),
    switch(&["debug"], Means::Debug),
    switch(&["systemd-cgroup", "s"], Means::SystemdCgroup),
    other_switch(&["systemd-log"]),
    switch(&["version", "V"], Means::Info),
];

const YOUKI_CREATE: &[Flag] = &[
    value(&["bundle", "b"], Means::Bundle),
    value(&["console-socket", "c"], Means::ConsoleSocket),
    value(&["pid-file", "p"], Means::PidFile),
    value(&["preserve-fds"], Means::PreserveFds),
    other_switch(&["no-pivot"]),
    other_switch(&["no-new-keyring"]),
];

const YOUKI_RUN: &[Flag] = &[
    value(&["bundle", "b"], Means::Bundle),
    value(&["console-socket", "c"], Means::ConsoleSocket),
    value(&["pid-file", "p"], Means::PidFile),
    value(&["preserve-fds"], Means::PreserveFds),
    switch(&["detach", "d"], Means::Detach),
    other_switch(&["keep"]),
    other_switch(&["no-pivot"]),
    other_switch(&["no-subreaper"]),
    other_switch(&["no-new-keyring"]),
];

const YOUKI_CHECKPOINT: &[Flag] = &[
    other_value(&["image-path"]),
    other_value(&["work-path"]),
    other_value(&["parent-path"]),
    other_value(&["status-fd"]),
    other_value(&["page-server"]),
    other_value(&["manage-cgroups-mode"]),
    // A switch, unlike runc's.
    other_switch(&["empty-ns"]),
    other_switch(&["leave-running"]),
    other_switch(&["tcp-established"]),
    other_switch(&["ext-unix-sk"]),
    other_switch(&["shell-job"]),
    other_switch(&["lazy-pages"]),
    other_switch(&["file-locks"]),
    other_switch(&["pre-dump"]),
    other_switch(&["auto-dedup"]),
];

const YOUKI_EXEC: &[Flag] = &[
    value(&["console-socket"], Means::ConsoleSocket),
    value(&["pid-file"], Means::PidFile),
    value(&["preserve-fds"], Means::PreserveFds),
    value(&["process", "p"], Means::Process),
    switch(&["detach", "d"], Means::Detach),
    switch(&["tty", "t"], Means::Tty),
    switch(&["ignore-paused"], Means::IgnorePaused),
    other_value(&["cwd"]),
    other_value(&["env", "e"]),
    other_value(&["user", "u"]),
    other_value(&["additional-gids", "g"]),
    other_value(&["process-label"]),
    other_value(&["apparmor"]),
    other_value(&["cap"]),
    other_value(&["cgroup"]),
    other_switch(&["no-new-privs"]),
];

const YOUKI_UPDATE: &[Flag] = &[
    value(&["resources", "r"], Means::Resources),
    other_value(&["blkio-weight"]),
    other_value(&["cpu-period"]),
    other_value(&["cpu-quota"]),
    other_value(&["cpu-share"]),
    other_value(&["cpu-rt-period"]),
    other_value(&["cpu-rt-runtime"]),
    other_value(&["cpuset-cpus"]),
    other_value(&["cpuset-mems"]),
    other_value(&["memory"]),
    other_value(&["memory-reservation"]),
    other_value(&["memory-swap"]),
    other_value(&["pids-limit"]),
    other_value(&["l3-cache-schema"]),
    other_value(&["mem-bw-schema"]),
];
