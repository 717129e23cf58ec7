//! What a failed attempt means: a table of the texts that runtimes are known to use.
//!
//! There is nothing but text to go by: runc exits with 1 whatever went wrong, and says "unable to
//! freeze" on cgroup v1 and something else on v2. Pure; fed with recorded messages in the tests.

use crate::invocation::Verb;

/// A failure of a kind that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// A cgroup did not freeze in time.
    Freeze,
    /// The same while runc set a new container's limits: no hook has run, no terminal was sent, no
    /// pid file written.
    FreezeInProcHooks,
    /// Refused because the container is, or just was, frozen.
    Paused,
    /// systemd's bus went away under the runtime.
    Bus,
    /// There is no freezer; trying again is no use.
    NoFreezer,
    /// Anything else.
    Other,
}

impl Failure {
    pub fn as_str(self) -> &'static str {
        match self {
            Failure::Freeze => "freeze failed",
            Failure::FreezeInProcHooks => "freeze failed in procHooks",
            Failure::Paused => "refused as paused",
            Failure::Bus => "bus disconnected",
            Failure::NoFreezer => "no freezer",
            Failure::Other => "failed",
        }
    }
}

/// Part of a message, and what it shows. The first that is found counts.
const TEXTS: &[(&str, Failure)] = &[
    // runc, all versions: a kernel or a configuration without freezer.
    ("freezer not supported", Failure::NoFreezer),
    ("cannot toggle freezer: cgroups not configured", Failure::NoFreezer),
    // runc v1 (libcontainer/cgroups/fs/freezer.go, 1.0 to 1.5) and youki, which ported it.
    ("unable to freeze", Failure::Freeze),
    ("while freezing", Failure::Freeze),
    // runc v2 (fs2/freezer.go); youki counts in milliseconds.
    ("timeout of 10s reached waiting for the cgroup to freeze", Failure::Freeze),
    ("timeout of 10000 ms reached waiting for the cgroup to freeze", Failure::Freeze),
    // runc 1.0 on v2, as Go prints the quotes.
    ("\"cgroup.freeze\" to be in state \"FROZEN\"", Failure::Freeze),
    // runc 1.1 and newer; 1.0 has no such check.
    ("cannot exec in a paused container", Failure::Paused),
    ("cannot start a container in the paused state", Failure::Paused),
    ("container's cgroup unexpectedly frozen", Failure::Paused),
    ("that is not stopped: paused", Failure::Paused),
    ("` is paused", Failure::Paused),
    // go-systemd, when dbus-daemon or systemd restarts; seen once in 388 execs beside updates.
    ("disconnected from message bus without replying", Failure::Bus),
];

/// runc names the stage so since 1.0 (process_linux.go): `error setting cgroup config for procHooks
/// process: ...`, in 1.0 `... process caused: ...`. The variant `ready process` of 1.1 and older
/// comes after hooks and terminal, and is not this.
const PROC_HOOKS: &str = "setting cgroup config for procHooks process";

/// Judges the last error of a failed attempt.
pub fn judge(verb: Verb, message: &str) -> Failure {
    let known = TEXTS.iter().find(|(text, _)| message.contains(text));
    match known.map(|(_, failure)| *failure) {
        Some(Failure::Freeze) if verb.makes_a_container() => {
            if message.contains(PROC_HOOKS) {
                Failure::FreezeInProcHooks
            } else {
                Failure::Other
            }
        }
        Some(failure) => failure,
        None => Failure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE: &str = "runc create failed: unable to start container process: error during \
        container init: error setting cgroup config for procHooks process: unable to freeze";

    #[test]
    fn recorded_messages() {
        use Failure::{Bus, Freeze, FreezeInProcHooks, NoFreezer, Other, Paused};
        let cases = [
            (Verb::Create, CREATE, FreezeInProcHooks),
            (
                Verb::Create,
                "container_linux.go:380: starting container process caused: process_linux.go:545: container init caused: process_linux.go:508: setting cgroup config for procHooks process caused: unable to freeze",
                FreezeInProcHooks,
            ),
            (Verb::Run, CREATE, FreezeInProcHooks),
            (
                Verb::Create,
                "error setting cgroup config for ready process: unable to freeze",
                Other,
            ),
            (
                Verb::Create,
                "runc create failed: unable to start container process: unable to freeze",
                Other,
            ),
            (Verb::Create, "container with given ID already exists", Other),
            (Verb::Create, "runc create failed: container's cgroup unexpectedly frozen", Paused),
            (Verb::Pause, "unable to freeze", Freeze),
            (Verb::Pause, "unexpected state THAWED while freezing", Freeze),
            (Verb::Pause, "timeout of 10s reached waiting for the cgroup to freeze", Freeze),
            (Verb::Pause, "timeout of 10000 ms reached waiting for the cgroup to freeze", Freeze),
            (
                Verb::Pause,
                "expected \"cgroup.freeze\" to be in state \"FROZEN\" but was in \"THAWED\"",
                Freeze,
            ),
            (
                Verb::Pause,
                "freezer not supported: openat2 /x/cgroup.freeze: no such file or directory",
                NoFreezer,
            ),
            (Verb::Pause, "container not running", Other),
            (Verb::Update, "unable to freeze", Freeze),
            (
                Verb::Exec,
                "exec failed: cannot exec in a paused container (use --ignore-paused to override)",
                Paused,
            ),
            (Verb::Exec, "the container `c1` is paused", Paused),
            (Verb::Exec, "cannot exec in a stopped container", Other),
            (
                Verb::Exec,
                "exec failed: unable to start container process: error adding pid 7 to cgroups: failed to write 7: Message recipient disconnected from message bus without replying",
                Bus,
            ),
            (Verb::Start, "cannot start a container in the paused state", Paused),
            (Verb::Delete, "cannot delete container c1 that is not stopped: paused", Paused),
        ];
        for (verb, message, expected) in cases {
            assert_eq!(judge(verb, message), expected, "{verb}: {message}");
        }
    }
}
