//! The flags of every command, as data: the union over the versions we know.
//!
//! A flag that one version lacks does no harm here: that version refuses the line, with us or without
//! us.

use cgroup::RuntimeKind::{self, Crun, Runc, Youki};
use state::Verb;

use super::flag::{Flag, Means, Takes};

const fn switch(names: &'static str, means: Means) -> Flag {
    Flag { names, takes: Takes::Switch, means }
}

const fn value(names: &'static str, means: Means) -> Flag {
    Flag { names, takes: Takes::Value, means }
}

const fn attached(names: &'static str, means: Means) -> Flag {
    Flag { names, takes: Takes::Attached, means }
}

const fn other_switches(names: &'static str) -> Flag {
    switch(names, Means::Nothing)
}

const fn other_values(names: &'static str) -> Flag {
    value(names, Means::Nothing)
}

/// The flags that a command defines itself, in groups; without a verb: those before the command.
pub(super) fn own(runtime: RuntimeKind, verb: Option<Verb>) -> &'static [&'static [Flag]] {
    let Some(verb) = verb else {
        return match runtime {
            Runc => &[GLOBAL, RUNC_GLOBAL],
            Crun => &[GLOBAL, CRUN_GLOBAL],
            Youki => &[YOUKI_GLOBAL],
        };
    };
    match (verb, runtime) {
        (Verb::Create, Runc) => &[CREATE, PIDFD_SOCKET],
        (Verb::Create, Crun) => &[CREATE, CONFIG, NO_SUBREAPER],
        (Verb::Create, Youki) => &[YOUKI_CREATE],
        (Verb::Run, Runc) => &[CREATE, PIDFD_SOCKET, RUN, NO_SUBREAPER],
        (Verb::Run, Crun) => &[CREATE, CONFIG, RUN, NO_SUBREAPER],
        (Verb::Run, Youki) => &[YOUKI_CREATE, RUN, NO_SUBREAPER],
        (Verb::Restore, Runc) => &[CRIU, RESTORE, RUNC_RESTORE, NO_SUBREAPER],
        (Verb::Restore, Crun) => &[CRIU, RESTORE],
        (Verb::Checkpoint, Runc) => &[CRIU, CHECKPOINT, MORE_OF_CHECKPOINT, RUNC_CHECKPOINT],
        (Verb::Checkpoint, Crun) => &[CRIU, CHECKPOINT],
        (Verb::Checkpoint, Youki) => &[CRIU, CHECKPOINT, MORE_OF_CHECKPOINT, YOUKI_CHECKPOINT],
        (Verb::Exec, Runc) => &[EXEC, MORE_OF_EXEC, CAP, PIDFD_SOCKET, NO_SUBREAPER],
        (Verb::Exec, Crun) => &[EXEC, CRUN_EXEC, CAP],
        (Verb::Exec, Youki) => &[EXEC, MORE_OF_EXEC, YOUKI_EXEC],
        (Verb::Update, Runc) => &[UPDATE, KERNEL_MEMORY, RUNC_UPDATE],
        (Verb::Update, Crun) => &[UPDATE, KERNEL_MEMORY],
        (Verb::Update, Youki) => &[UPDATE],
        (Verb::Kill, Crun) => &[KILL, REGEX],
        (Verb::Kill, Runc | Youki) => &[KILL],
        (Verb::Delete, Crun) => &[DELETE, REGEX],
        (Verb::Delete, Runc | Youki) => &[DELETE],
        (Verb::Restore, Youki) | (Verb::Start | Verb::Pause | Verb::Resume | Verb::State, _) => &[],
    }
}

/// The flags that the library adds on every level.
pub(super) fn added(runtime: RuntimeKind) -> &'static [Flag] {
    match runtime {
        Runc | Youki => HELP,
        Crun => ARGP_HELP,
    }
}

const HELP: &[Flag] = &[switch("help h", Means::Info)];

const ARGP_HELP: &[Flag] = &[
    switch("help ?", Means::Info),
    switch("usage", Means::Info),
    // Hidden, but an abbreviation can match them (`--pro`).
    other_values("program-name"),
    attached("HANG", Means::Info),
];

const GLOBAL: &[Flag] = &[
    switch("systemd-cgroup", Means::SystemdCgroup),
    value("log", Means::Log),
    value("log-format", Means::LogFormat),
    value("root", Means::Root),
    other_switches("debug"),
    // crun ignores it, but 1.8.1 takes it for `--root` (a mistake that we do not copy).
    other_values("rootless"),
];

const RUNC_GLOBAL: &[Flag] = &[
    // Without effect since 1.2, gone since 1.4; containerd 1.6 passes it.
    other_values("criu"),
    switch("version v", Means::Info),
];

const CRUN_GLOBAL: &[Flag] = &[
    value("cgroup-manager", Means::CgroupManager),
    other_values("log-level"), // after 1.8
    switch("version v V", Means::Info),
];

const YOUKI_GLOBAL: &[Flag] = &[
    value("log l", Means::Log),
    value("log-format", Means::LogFormat),
    value("root r", Means::Root),
    switch("systemd-cgroup s", Means::SystemdCgroup),
    other_values("log-level"),
    other_switches("debug systemd-log"),
    switch("version V", Means::Info),
];

/// runc has `pidfd-socket` since 1.2.
const PIDFD_SOCKET: &[Flag] = &[value("pidfd-socket", Means::PidfdSocket)];

/// runc's exec had it in 1.0 only.
const NO_SUBREAPER: &[Flag] = &[other_switches("no-subreaper")];

const CREATE: &[Flag] = &[
    value("bundle b", Means::Bundle),
    value("console-socket", Means::ConsoleSocket),
    value("pid-file", Means::PidFile),
    other_values("preserve-fds"),
    other_switches("no-pivot no-new-keyring"),
];

const CONFIG: &[Flag] = &[value("config f", Means::Config)];

const YOUKI_CREATE: &[Flag] = &[
    value("bundle b", Means::Bundle),
    value("console-socket c", Means::ConsoleSocket),
    value("pid-file p", Means::PidFile),
    other_values("preserve-fds"),
    other_switches("no-pivot no-new-keyring"),
];

/// runc has `keep` since 1.1, crun after 1.8.
const RUN: &[Flag] = &[switch("detach d", Means::Detach), other_switches("keep")];

/// What checkpoint and restore share.
const CRIU: &[Flag] = &[
    other_values("image-path work-path manage-cgroups-mode"),
    other_switches("tcp-established ext-unix-sk shell-job file-locks"),
];

const RESTORE: &[Flag] = &[
    value("bundle b", Means::Bundle),
    value("console-socket", Means::ConsoleSocket),
    value("pid-file", Means::PidFile),
    switch("detach d", Means::Detach),
    // runc has `lsm-mount-context` since 1.1.
    other_values("lsm-profile lsm-mount-context"),
];

const RUNC_RESTORE: &[Flag] = &[
    // go-runc has `parent-path` in its options; runc's restore up to 1.5 does not.
    other_values("parent-path empty-ns"),
    other_switches("no-pivot auto-dedup lazy-pages"),
];

const CHECKPOINT: &[Flag] =
    &[other_values("parent-path"), other_switches("leave-running pre-dump")];

const MORE_OF_CHECKPOINT: &[Flag] =
    &[other_values("status-fd page-server"), other_switches("lazy-pages auto-dedup")];

const RUNC_CHECKPOINT: &[Flag] = &[
    other_values("empty-ns"),
    other_switches("tcp-skip-in-flight link-remap"), // 1.3
];

/// A switch, unlike runc's.
const YOUKI_CHECKPOINT: &[Flag] = &[other_switches("empty-ns")];

const EXEC: &[Flag] = &[
    value("console-socket", Means::ConsoleSocket),
    value("pid-file", Means::PidFile),
    value("process p", Means::Process),
    switch("detach d", Means::Detach),
    // runc has `cgroup` since 1.1.
    other_values("preserve-fds cwd env e user u process-label apparmor cgroup"),
    other_switches("no-new-privs"),
];

/// runc has `ignore-paused` since 1.1.
const MORE_OF_EXEC: &[Flag] =
    &[other_switches("tty t ignore-paused"), other_values("additional-gids g")];

const CAP: &[Flag] = &[other_values("cap c")];
const CRUN_EXEC: &[Flag] = &[attached("tty t", Means::Nothing)];
const YOUKI_EXEC: &[Flag] = &[other_values("cap")];

/// crun has `l3-cache-schema` and `mem-bw-schema` after 1.8; older versions refuse them.
const UPDATE: &[Flag] = &[
    value("resources r", Means::Resources),
    other_values(
        "blkio-weight cpu-period cpu-quota cpu-share cpu-rt-period cpu-rt-runtime cpuset-cpus \
         cpuset-mems memory memory-reservation memory-swap pids-limit l3-cache-schema mem-bw-schema",
    ),
];

const KERNEL_MEMORY: &[Flag] = &[other_values("kernel-memory kernel-memory-tcp")];
const RUNC_UPDATE: &[Flag] = &[other_values("cpu-burst cpu-idle")]; // 1.2

const KILL: &[Flag] = &[switch("all a", Means::All)];
const DELETE: &[Flag] = &[other_switches("force f")];
const REGEX: &[Flag] = &[switch("regex r", Means::Regex)];
