//! What a failed attempt means: a table of the messages with which runtimes are known to end.
//!
//! Only the text tells: runc exits with 1 whatever went wrong, and says "unable to freeze" on cgroup v1
//! and something else on v2. But an error also quotes what a tenant gave: the name of a missing
//! program, a directory, the output of a hook. So a message counts only as a whole, from its first
//! character to its last, and no part of it is searched for. Only numbers, words of letters and ids of
//! containers may vary in it, and the reason why there is no freezer; no tenant's text passes for one
//! of these. Pure; the tests feed it recorded messages.

use crate::invocation::Verb;

/// A kind of failure that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// A cgroup did not freeze in time.
    Freeze,
    /// The same while runc set a new container's limits: no hook has run, no terminal was sent, and no
    /// pid file was written.
    FreezeInProcHooks,
    /// Refused because the container is, or just was, frozen.
    Paused,
    /// systemd's bus went away under the runtime.
    Bus,
    /// There is no freezer; trying again is pointless.
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

/// What a freezer reports; see [`matches()`] for the placeholders. `pause` and `update` of runc pass it
/// on unchanged.
const FREEZER: &[(&str, Failure)] = &[
    // runc v1 (libcontainer/cgroups/fs/freezer.go, 1.0 to 1.5) and youki, which ported it.
    ("unable to freeze", Failure::Freeze),
    ("unexpected state {word} while freezing", Failure::Freeze),
    // runc v2 (fs2/freezer.go); youki counts in milliseconds.
    ("timeout of 10s reached waiting for the cgroup to freeze", Failure::Freeze),
    ("timeout of {n} ms reached waiting for the cgroup to freeze", Failure::Freeze),
    // runc 1.0 on v2, as Go prints the quotes; youki prints the names of its own states.
    ("expected \"cgroup.freeze\" to be in state \"FROZEN\" but was in \"{word}\"", Failure::Freeze),
    ("expected \"cgroup.freeze\" to be in state Frozen but was in {word}", Failure::Freeze),
    // runc, all versions: a kernel or a configuration without a freezer.
    ("freezer not supported: {rest}", Failure::NoFreezer),
    ("cannot toggle freezer: cgroups not configured for container", Failure::NoFreezer),
];

/// What runc puts directly before that while it creates a container. The stage has had its name since
/// 1.0 (process_linux.go). The variant `ready process` of 1.1 and older comes after hooks and terminal,
/// so it is not in this list; neither is a container whose init was OOM-killed.
const PROC_HOOKS: &[&str] = &[
    // 1.1 and newer.
    "runc create failed: unable to start container process: error during container init: \
     error setting cgroup config for procHooks process: ",
    "runc run failed: unable to start container process: error during container init: \
     error setting cgroup config for procHooks process: ",
    // 1.0.
    "container_linux.go:{n}: starting container process caused: process_linux.go:{n}: container init \
     caused: process_linux.go:{n}: setting cgroup config for procHooks process caused: ",
];

/// Refusals, complete.
const REFUSALS: &[&str] = &[
    // runc 1.1 and newer; 1.0 has no such check.
    "exec failed: cannot exec in a paused container (use --ignore-paused to override)",
    "cannot exec in a paused container (use --ignore-paused to override)",
    "cannot start a container in the paused state",
    "runc create failed: container's cgroup unexpectedly frozen",
    "runc run failed: container's cgroup unexpectedly frozen",
    "cannot delete container {id} that is not stopped: paused",
    // crun; its newest version adds a full stop.
    "the container `{id}` is paused",
    "the container `{id}` is paused.",
];

/// go-systemd, when dbus-daemon or systemd restarts; seen once in 388 execs beside updates.
const BUS: &[&str] = &[
    "exec failed: unable to start container process: error adding pid {n} to cgroups: failed to \
     write {n}: Message recipient disconnected from message bus without replying",
    "Message recipient disconnected from message bus without replying",
];

/// Judges the last error of a failed attempt.
pub fn judge(verb: Verb, message: &str) -> Failure {
    let message = message.trim_end();
    let is_one_of = |forms: &[&str]| forms.iter().any(|form| matches(form, message));
    if is_one_of(REFUSALS) {
        return Failure::Paused;
    }
    if is_one_of(BUS) {
        return Failure::Bus;
    }
    match verb {
        Verb::Create | Verb::Run => of_proc_hooks(message),
        Verb::Update | Verb::Pause => of_freezer(last_cause(message)),
        _ => Failure::Other,
    }
}

fn of_proc_hooks(message: &str) -> Failure {
    let cause = PROC_HOOKS.iter().find_map(|stage| after(stage, message));
    match cause.map(of_freezer) {
        Some(Failure::Freeze) => Failure::FreezeInProcHooks,
        Some(failure) => failure,
        None => Failure::Other,
    }
}

fn of_freezer(message: &str) -> Failure {
    let known = FREEZER.iter().find(|(form, _)| matches(form, message));
    known.map_or(Failure::Other, |(_, failure)| *failure)
}

/// The last line. In a chain as youki prints it, that is the innermost error, numbered if there are
/// several. Used only for `pause` and `update`: a tenant gives them no text but the id, and no error
/// ends with the id. The runtime's output may come before it, if its caller takes both from one pipe.
fn last_cause(message: &str) -> &str {
    let line = message.lines().next_back().unwrap_or_default().trim_start();
    after("{n}: ", line).unwrap_or(line)
}

/// Whether a message matches a form as a whole. In the form, `{n}` stands for digits, `{word}` for
/// letters, `{id}` for the id of a container, `{rest}` for all that follows.
fn matches(form: &str, message: &str) -> bool {
    after(form, message).is_some_and(str::is_empty)
}

/// What follows the form at the start of a message. A placeholder takes as much as it can.
fn after<'a>(form: &str, message: &'a str) -> Option<&'a str> {
    let Some((literal, rest)) = form.split_once('{') else { return message.strip_prefix(form) };
    let (hole, form) = rest.split_once('}')?;
    let message = message.strip_prefix(literal)?;
    let fits = |byte: &u8| match hole {
        "n" => byte.is_ascii_digit(),
        "word" => byte.is_ascii_alphabetic(),
        "id" => byte.is_ascii_alphanumeric() || b"_+-.".contains(byte),
        _ => true,
    };
    let length = message.bytes().take_while(|byte| fits(byte)).count();
    // No placeholder may match nothing: a container without an id does not exist.
    (length > 0).then(|| after(form, &message[length..]))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::retry;
    use crate::runtime_log::whole_error;

    const CREATE: &str = "runc create failed: unable to start container process: error during \
        container init: error setting cgroup config for procHooks process: unable to freeze";

    const OLD_CREATE: &str = "container_linux.go:380: starting container process caused: \
        process_linux.go:545: container init caused: process_linux.go:508: setting cgroup config \
        for procHooks process caused: unable to freeze";

    const YOUKIS: &str = "error in executing command: failed to pause container c1\n\nCaused by:\n    \
        0: failed to freeze\n    1: unable to freeze";

    #[test]
    fn recorded_messages() {
        use Failure::{Bus, Freeze, FreezeInProcHooks, NoFreezer, Other, Paused};
        let cases = [
            (Verb::Create, CREATE, FreezeInProcHooks),
            (Verb::Create, OLD_CREATE, FreezeInProcHooks),
            (Verb::Run, CREATE, FreezeInProcHooks),
            (Verb::Run, &CREATE.replace("create", "run"), FreezeInProcHooks),
            (
                Verb::Create,
                "runc create failed: unable to start container process: error during container init: error setting cgroup config for procHooks process: unexpected state THAWED while freezing",
                FreezeInProcHooks,
            ),
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
            (
                Verb::Create,
                "runc create failed: unable to start container process: container init was OOM-killed (memory limit too low?): error during container init: error setting cgroup config for procHooks process: unable to freeze",
                Other,
            ),
            (Verb::Create, "container with given ID already exists", Other),
            (Verb::Create, "runc create failed: container's cgroup unexpectedly frozen", Paused),
            (Verb::Pause, "unable to freeze", Freeze),
            (Verb::Pause, "unable to freeze\n", Freeze),
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
            (Verb::Pause, "cannot toggle freezer: cgroups not configured for container", NoFreezer),
            (Verb::Pause, "container not running", Other),
            (Verb::Pause, "printed\nunable to freeze", Freeze),
            (Verb::Pause, "unable to freeze: printed", Other),
            (Verb::Pause, "container `c\nunable to freeze` does not exist", Other),
            (Verb::Pause, YOUKIS, Freeze),
            (Verb::Pause, &YOUKIS.replace("0: failed to freeze\n    1: ", ""), Freeze),
            (Verb::Update, "unable to freeze", Freeze),
            (Verb::Update, CREATE, Other),
            (
                Verb::Exec,
                "exec failed: cannot exec in a paused container (use --ignore-paused to override)",
                Paused,
            ),
            (Verb::Exec, "the container `c1` is paused", Paused),
            (Verb::Exec, "the container `c1` is paused.", Paused),
            (Verb::Exec, "the container `` is paused", Other),
            (Verb::Exec, "cannot exec in a stopped container", Other),
            (Verb::Exec, "unable to freeze", Other),
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

    /// As runc 1.1.5, 1.1.15 and 1.3.6 and crun 1.8.1 to 1.28 were seen to build them around a tenant's
    /// text: `{}` is that text as it is, `{q}` as Go quotes it.
    const AROUND: &[(Verb, &str)] = &[
        (
            Verb::Exec,
            "exec failed: unable to start container process: exec: {q}: executable file not found in $PATH",
        ),
        (
            Verb::Exec,
            "exec failed: unable to start container process: exec {}: no such file or directory",
        ),
        (
            Verb::Exec,
            "exec failed: unable to start container process: chdir to cwd ({q}) set in config.json failed: no such file or directory",
        ),
        (
            Verb::Exec,
            "exec failed: unable to start container process: invalid environment variable: {q}",
        ),
        (
            Verb::Exec,
            "exec failed: parsing {} as int for uid failed: strconv.Atoi: parsing {q}: invalid syntax",
        ),
        (Verb::Exec, "exec failed: bad uid: strconv.Atoi: parsing {q}: invalid syntax"),
        (
            Verb::Exec,
            "exec failed: unable to start container process: unable to find user {}: no matching entries in passwd file",
        ),
        (Verb::Exec, "executable file `{}` not found in $PATH: No such file or directory"),
        (Verb::Exec, "chdir `{}`: No such file or directory"),
        (Verb::Exec, "chdir to `{}`: No such file or directory"),
        (Verb::Exec, "container `{}` does not exist: open `/run/crun/{}/status`: No such file"),
        (Verb::Exec, "invalid character ` ` in the container ID `{}`"),
        (Verb::Exec, "error in executing command: {}\n\nCaused by:\n    {}"),
        (
            Verb::Create,
            "runc create failed: unable to start container process: exec: {q}: executable file not found in $PATH",
        ),
        (
            Verb::Create,
            "runc create failed: unable to start container process: error during container init: exec: {q}: executable file not found in $PATH",
        ),
        (
            Verb::Create,
            "runc create failed: unable to start container process: error during container init: error running hook #0: error running hook: exit status 3, stdout: {}, stderr: {}",
        ),
        (
            Verb::Create,
            "runc create failed: unable to start container process: error during container init: error running createRuntime hook #0: exit status 3, stdout: {}, stderr: {}",
        ),
        (
            Verb::Create,
            "runc create failed: unable to start container process: error during container init: error running createRuntime hook #0: fork/exec {}: no such file or directory",
        ),
        (
            Verb::Create,
            "runc create failed: unable to start container process: error during container init: error mounting {q} to rootfs at {q}: mount {}:{} (via /proc/self/fd/6): no such file or directory",
        ),
        (
            Verb::Create,
            "runc create failed: unable to start container process: error during container init: write sysctl key {}: open /proc/sys/{}: no such file or directory",
        ),
        (
            Verb::Create,
            "runc create failed: unable to start container process: unable to apply cgroup configuration: unable to start unit {q} (properties [{Name:X Value:{q}}]): {}",
        ),
        (Verb::Create, "runc create failed: invalid hostname: {}"),
        (Verb::Create, "runc create failed: annotation {}={} is not valid: {}"),
        (Verb::Create, "runc create failed: rootfs ({}) does not exist"),
        (
            Verb::Create,
            "container_linux.go:380: starting container process caused: exec: {q}: executable file not found in $PATH",
        ),
        (
            Verb::Create,
            "container_linux.go:380: starting container process caused: process_linux.go:545: container init caused: Running hook #0:: error running hook: exit status 3, stdout: {}, stderr: {}",
        ),
        (Verb::Create, "error executing hook `{}` (exit code: 1)"),
    ];

    fn around(form: &str, tenants: &str) -> String {
        form.replace("{q}", &go_quoted(tenants)).replace("{}", tenants)
    }

    fn go_quoted(text: &str) -> String {
        // As far as it matters here: no quote and no line break stays unescaped.
        format!("{:?}", text).replace("\\'", "'")
    }

    /// What somebody would choose who knows the table.
    fn tenants_text() -> impl Strategy<Value = String> {
        let fill = |form: &str| {
            form.replace("{n}", "7")
                .replace("{word}", "THAWED")
                .replace("{id}", "c")
                .replace("{rest}", "x")
        };
        let freezers: Vec<String> = FREEZER.iter().map(|(form, _)| fill(form)).collect();
        let whole: Vec<String> = PROC_HOOKS
            .iter()
            .flat_map(|stage| freezers.iter().map(|it| format!("{}{it}", fill(stage))))
            .chain(REFUSALS.iter().chain(BUS).map(|form| fill(form)))
            .chain(freezers.iter().cloned())
            .chain([YOUKIS.to_owned()])
            .collect();
        let parts: Vec<String> = whole
            .iter()
            .flat_map(|text| text.split(": ").map(str::to_owned).collect::<Vec<_>>())
            .chain(["", ": ", "\"", "`", "\n", "\\", "x"].map(str::to_owned))
            .collect();
        let known = prop::sample::select(whole);
        let built = prop::collection::vec(prop::sample::select(parts), 0..6)
            .prop_map(|parts| parts.join(": "));
        let entry = known.clone().prop_map(|text| {
            let json = serde_json::json!({ "level": "error", "msg": text, "time": "t" });
            format!("x\n{json}\ntime=\"t\" level=error msg={text:?}")
        });
        let broken = (any::<String>(), known.clone(), any::<String>())
            .prop_map(|(before, text, after)| format!("{before}{text}{after}"));
        let lines = (known.clone(), prop::sample::select(vec!["\n", ": ", "\": ", "` ", "\r\n"]))
            .prop_map(|(text, end)| format!("x{end}{text}{end}"));
        prop_oneof![known, built, broken, entry, lines, any::<String>()]
    }

    /// The generator would be of no use if it did not find the matcher that this one replaced.
    #[test]
    fn texts_that_are_looked_for_anywhere_are_found_in_these() {
        for (verb, tenants, text) in [
            (Verb::Exec, "cannot exec in a paused container", "cannot exec in a paused container"),
            (
                Verb::Create,
                "setting cgroup config for procHooks process: unable to freeze",
                "unable to freeze",
            ),
        ] {
            let forms = AROUND.iter().filter(|(of, _)| *of == verb);
            let messages = forms.map(|(_, form)| around(form, tenants));
            assert!(
                messages.clone().all(
                    |message| message.contains(text) && judge(verb, &message) == Failure::Other
                )
            );
            assert!(messages.count() > 10);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_text_of_a_tenants_makes_a_second_attempt(tenants in tenants_text()) {
            for (verb, form) in AROUND {
                let message = around(form, &tenants);
                let json = serde_json::json!({ "level": "error", "msg": message, "time": "t" });
                let pretty = serde_json::to_string_pretty(&json).unwrap();
                let logrus = format!("time=\"t\" level=error msg={}\n", go_quoted(&message));
                let raw = format!("{message}\n");
                let noise = "time=\"t\" level=warning msg=w\n";
                let logs = [json.to_string(), pretty, logrus.clone(), format!("{noise}{logrus}"), raw];
                let read = logs.iter().filter_map(|log| whole_error(log));
                for message in read.chain([message]) {
                    for verb in [*verb, Verb::Create, Verb::Run, Verb::Exec] {
                        prop_assert_eq!(judge(verb, &message), Failure::Other, "{}", message);
                    }
                }
            }
        }

        /// The id is the one hole that a tenant might fill, and then it is the id that was refused.
        #[test]
        fn an_id_is_no_text(id in tenants_text()) {
            prop_assume!(id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte)));
            for form in REFUSALS.iter().filter(|form| form.contains("{id}")) {
                let message = form.replace("{id}", &id);
                prop_assert_eq!(judge(Verb::Exec, &message), Failure::Other);
            }
        }

        #[test]
        fn any_message_is_judged(message in any::<String>()) {
            for verb in Verb::ALL {
                prop_assert!(!retry::is_retried(verb, judge(verb, &message)));
            }
        }
    }
}
