//! What each command gets: its lock, its channels, its retries, its lift, its undoing. Pure, and the
//! only place that looks at the mode; docs/architecture.md has it as a table.

use std::time::Duration;

use config::{Config, Mode};
use state::Verb;
use state::lock;

use crate::channels::Degree;
use crate::invocation::Invocation;
use crate::retry;

/// What a runtime leaves can be removed within some periods of the CPU controller, and containerd gives
/// a cleanup 5 s.
const LEFTOVERS_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) lock: Option<Lock>,
    pub(crate) degree: Degree,
    /// Which cgroup the runtime may freeze.
    pub(crate) freezes: Option<Freezes>,
    /// Whether what killed operations have left is undone, and what this one may leave is noted and
    /// undone.
    pub(crate) mends: bool,
    /// Whether nothing is done except to record what throttling has cost the operation.
    pub(crate) observes: bool,
    /// Whether success is accepted only if the kernel says FROZEN.
    pub(crate) confirms_freeze: bool,
    pub(crate) lift: Option<Lift>,
    /// How long all attempts together may take; zero means no retry.
    pub(crate) retries_for: Duration,
    /// How long to try to remove cgroups that the runtime has left.
    pub(crate) removes_leftovers_for: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) mode: lock::Mode,
    pub(crate) wait: Duration,
    pub(crate) held: Held,
}

/// How long a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// It is given back before the runtime starts.
    NotAtAll,
    /// Until the process that stays in the foreground has started.
    UntilStarted,
    ToTheEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freezes {
    /// The cgroup of a container that is being created.
    ANewOne,
    /// The cgroup of an existing container.
    AnExistingOne,
}

/// Which threads may be lifted besides the runtime's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lift {
    /// The CPU time of the command and its descendants.
    pub(crate) program: Duration,
    pub(crate) kills: bool,
    pub(crate) afterwards: Option<Afterwards>,
}

/// What the runtime starts and does not wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// The death of what it has killed.
    Dying,
    /// The process of a detached exec. Most of the second that a probe has passes after the runtime's
    /// end.
    Program,
}

impl Policy {
    pub(crate) fn of(invocation: &Invocation, config: &Config) -> Policy {
        let verb = invocation.verb;
        let mends = config.mode == Mode::Full;
        Policy {
            lock: if config.mode == Mode::Observe { None } else { lock(invocation, config) },
            degree: degree(verb, config),
            freezes: freezes(invocation),
            mends,
            observes: config.mode == Mode::Observe,
            confirms_freeze: mends && verb == Verb::Pause,
            lift: (mends && config.lift.enabled).then(|| lift(invocation, config)),
            retries_for: if mends {
                retry::time_for(verb).min(Duration::from_millis(config.retry.deadline_ms))
            } else {
                Duration::ZERO
            },
            removes_leftovers_for: if mends && verb == Verb::Delete {
                LEFTOVERS_WAIT
            } else {
                Duration::ZERO
            },
        }
    }

    /// Whether it notes the freeze that it may leave, and undoes it.
    pub(crate) fn notes_freeze(&self) -> bool {
        self.mends && self.freezes.is_some()
    }
}

/// A signal never waits: on cgroup v1 a frozen holder cannot finish before it is killed and thawed.
fn lock(invocation: &Invocation, config: &Config) -> Option<Lock> {
    let (mode, wait) = match invocation.verb {
        Verb::Kill => return None,
        Verb::Exec | Verb::Start | Verb::State => (lock::Mode::Shared, config.lock.shared_wait_ms),
        Verb::Resume => (lock::Mode::Exclusive, config.lock.shared_wait_ms),
        Verb::Create
        | Verb::Run
        | Verb::Restore
        | Verb::Update
        | Verb::Pause
        | Verb::Checkpoint
        | Verb::Delete => (lock::Mode::Exclusive, config.lock.exclusive_wait_ms),
    };
    let held = match invocation.verb {
        // The freezer that it reads may be in another operation's short freeze: it waits for that, no
        // more.
        Verb::State => Held::NotAtAll,
        _ if invocation.stays_in_foreground() => Held::UntilStarted,
        _ => Held::ToTheEnd,
    };
    Some(Lock { mode, wait: Duration::from_millis(wait), held })
}

fn degree(verb: Verb, config: &Config) -> Degree {
    match config.mode {
        Mode::Observe => Degree::Nothing,
        Mode::Full if retry::retried(verb).is_some() && config.retry.deadline_ms > 0 => Degree::All,
        Mode::Lock | Mode::Full => Degree::Output,
    }
}

/// Which operations freeze, on which cgroup version and with which driver, differs between runtimes
/// (docs/unable-to-freeze.md). These may.
fn freezes(invocation: &Invocation) -> Option<Freezes> {
    match invocation.verb {
        Verb::Create | Verb::Run | Verb::Restore => Some(Freezes::ANewOne),
        Verb::Update | Verb::Pause | Verb::Checkpoint | Verb::Delete => {
            Some(Freezes::AnExistingOne)
        }
        // runc 1.1 freezes for any signal to all processes; later versions for SIGKILL in a shared pid
        // namespace.
        Verb::Kill if invocation.all || invocation.is_sigkill() => Some(Freezes::AnExistingOne),
        Verb::Kill | Verb::Start | Verb::Exec | Verb::State | Verb::Resume => None,
    }
}

fn lift(invocation: &Invocation, config: &Config) -> Lift {
    // The kernel kills every thread of a process that a signal ends (complete_signal, kernel/signal.c).
    let kills = invocation.verb == Verb::Kill && invocation.may_end_a_process();
    let is_exec = invocation.verb == Verb::Exec;
    let program = Duration::from_millis(if is_exec { config.lift.program_ms } else { 0 });
    Lift {
        program,
        kills: kills || invocation.verb == Verb::Delete,
        afterwards: match invocation.verb {
            Verb::Kill if kills => Some(Afterwards::Dying),
            Verb::Exec if invocation.detach && !program.is_zero() => Some(Afterwards::Program),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use cgroup::RuntimeKind;

    use super::*;
    use crate::invocation::{self, Command};

    const COMMANDS: [&str; 15] = [
        "create c",
        "run c",
        "run -d c",
        "restore c",
        "start c",
        "exec c true",
        "exec -d c true",
        "state c",
        "update c",
        "pause c",
        "resume c",
        "checkpoint c",
        "kill c TERM",
        "kill c KILL",
        "delete c",
    ];

    fn policy(line: &str, config: &Config) -> Policy {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        match invocation::read(RuntimeKind::Runc, &args).command {
            Command::Supervised(invocation) => Policy::of(&invocation, config),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn row(line: &str, policy: &Policy) -> String {
        let lock = policy.lock.map_or("none".to_owned(), |lock| {
            let mode = format!("{:?}", lock.mode).to_lowercase();
            let held = match lock.held {
                Held::NotAtAll => "waits, does not hold it",
                Held::UntilStarted => "until started",
                Held::ToTheEnd => "to the end",
            };
            format!("{mode}, {} ms, {held}", lock.wait.as_millis())
        });
        let retries = match policy.retries_for.as_millis() {
            _ if policy.degree != Degree::All => "no".to_owned(),
            ms => format!("{ms} ms"),
        };
        let freezes = match policy.freezes {
            None => "no",
            Some(Freezes::ANewOne) => "a new one",
            Some(Freezes::AnExistingOne) => "yes",
        };
        let lift = policy.lift.map_or(String::new(), |lift| {
            let mut whose = vec!["runtime"];
            whose.extend((!lift.program.is_zero()).then_some("program"));
            whose.extend(policy.freezes.map(|_| "freezing"));
            whose.extend(lift.kills.then_some("dying"));
            let after = match lift.afterwards {
                None => "",
                Some(Afterwards::Dying) => "; after its end the dying",
                Some(Afterwards::Program) => "; after its end the program",
            };
            format!("{}{after}", whose.join(", "))
        });
        format!("| `{line}` | {lock} | {retries} | {freezes} | {lift} |\n")
    }

    #[test]
    fn the_page_has_this_table() {
        let config = Config::default();
        let mut table = "| command | lock: mode, waits at most, held | retried within | may freeze | lifted |\n\
                         |---|---|---|---|---|\n"
            .to_owned();
        for line in COMMANDS {
            table.push_str(&row(line, &policy(line, &config)));
        }
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains(&table), "expected in docs/architecture.md:\n{table}");
    }

    #[test]
    fn observe_changes_nothing_and_lock_only_locks() {
        for line in COMMANDS {
            let observe = policy(line, &Config { mode: Mode::Observe, ..Config::default() });
            assert_eq!((observe.lock, observe.degree), (None, Degree::Nothing), "{line}");
            let lock = policy(line, &Config { mode: Mode::Lock, ..Config::default() });
            assert_eq!(lock.lock, policy(line, &Config::default()).lock, "{line}");
            assert_eq!(lock.degree, Degree::Output, "{line}");
            let full = policy(line, &Config::default());
            assert_eq!([observe, lock, full].map(|it| it.observes), [true, false, false], "{line}");
            for policy in [observe, lock] {
                assert!(!policy.notes_freeze() && !policy.confirms_freeze, "{line}");
                assert_eq!((policy.lift, policy.retries_for), (None, Duration::ZERO), "{line}");
                assert_eq!(policy.removes_leftovers_for, Duration::ZERO, "{line}");
            }
        }
    }

    #[test]
    fn what_is_switched_off_of_the_lift() {
        let policy = |lift| policy("exec -d c true", &Config { lift, ..Config::default() });
        let on = policy(Config::default().lift).lift.unwrap();
        assert_eq!(on.afterwards, Some(Afterwards::Program));
        let runtime_alone = policy(config::Lift { program_ms: 0, ..Config::default().lift });
        assert_eq!(
            runtime_alone.lift,
            Some(Lift { program: Duration::ZERO, afterwards: None, ..on })
        );
        assert_eq!(policy(config::Lift { enabled: false, ..Config::default().lift }).lift, None);
    }

    #[test]
    fn an_explicit_zero_is_no_retry() {
        let config = Config { retry: config::Retry { deadline_ms: 0 }, ..Config::default() };
        let policy = policy("pause c", &config);
        assert_eq!((policy.degree, policy.retries_for), (Degree::Output, Duration::ZERO));
    }
}
