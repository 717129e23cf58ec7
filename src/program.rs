//! The program. It finds the runtime, reads the command line, and either becomes the runtime or
//! supervises it. Whatever fails in frostlock, the runtime runs.

use std::ffi::{OsStr, OsString};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

use crate::channels::Channels;
use crate::complaint;
use crate::hook::{Hook, Request};
use crate::invocation::{self, Command, CommandLine, Invocation, Verb};
use crate::outcome::{Exit, LockUse, Outcome, Stages, Verdict};
use crate::policy::Policy;
use crate::record;
use crate::runtime::{self, Last, Runtime};
use crate::supervise::{Operation, Waited};
use crate::syslog;
use cgroup::RuntimeKind;
use cgroup::process;
use config::Config;
use config::locate::{self, Choice, Found};
use state::intent;
use state::state_dir::StateDir;

/// Runs to the end of the process.
pub fn main() -> ! {
    let began = Instant::now();
    sys::occupy_closed_stdio();
    sys::ignore_write_signals();
    let mut args = std::env::args_os();
    let argv0 = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    let state = StateDir::from_env();
    let (config, complaints) = Config::load();
    syslog::install(config.log.syslog);
    // std's hook writes to stderr, which may be a container's log or be parsed by the caller.
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    let mut program = Program { began, state, config, complaints };
    if let Some(request) = Request::of(&args) {
        program.hook(&request)
    }
    let runtime = program.runtime(&argv0, args);
    end(guarded(&runtime, |channels| program.run(&runtime, channels)))
}

struct Program {
    began: Instant,
    state: StateDir,
    config: Config,
    complaints: Vec<String>,
}

impl Program {
    /// The runtime to run. Without one, all that is left is to report it.
    fn runtime(&mut self, argv0: &OsStr, args: Vec<OsString>) -> Runtime {
        let choice = Choice {
            env: std::env::var_os("FROSTLOCK_RUNTIME"),
            argv0,
            config: self.config.runtime.as_deref(),
            path: std::env::var_os("PATH"),
            above: std::env::var_os(locate::ABOVE),
        };
        match choice.find_or_fall_back() {
            Ok(Found { path, fell_back }) => {
                if let Some(above) = choice.above_next(&path) {
                    sys::set_variable(locate::ABOVE, &above);
                }
                self.complaints.extend(fell_back);
                Runtime { path, args }
            }
            Err(error) => {
                self.complain();
                let line = invocation::read(RuntimeKind::Runc, &args);
                if let Command::Supervised(invocation) = &line.command {
                    let runtime = Runtime { path: PathBuf::new(), args };
                    let waited = Waited::default();
                    let note = error.to_string();
                    let mut outcome = self.unserialized(&runtime, Some(invocation), note, waited);
                    (outcome.exit, outcome.verdict) = (Some(Exit::NotStarted), Verdict::NotStarted);
                    self.record(&outcome);
                }
                no_runtime(&error.to_string(), RuntimeKind::Runc, &line)
            }
        }
    }

    /// A hook needs no runtime, and in its empty environment there may be none.
    fn hook(&self, request: &Request) -> ! {
        let (began, config, state) = (self.began, &self.config, &self.state);
        let code = Hook { began, request, config, state }.run(|mut outcome| {
            outcome.notes.extend(self.complaints.iter().cloned());
            self.record(&outcome);
        });
        end(Exit::Code(code))
    }

    fn run(&self, runtime: &Runtime, channels: &mut Option<Channels>) -> Exit {
        let kind = RuntimeKind::of(&runtime.path);
        let line = invocation::read(kind, &runtime.args);
        if self.state.kill_switch().exists() {
            intent::forget_the_dead(&self.state);
            become_runtime(runtime, kind, &line);
        }
        match &line.command {
            Command::PassThrough => {
                self.complain();
                become_runtime(runtime, kind, &line)
            }
            Command::Unreadable { reason } => {
                let stages = Stages { prepare: self.began.elapsed(), ..Stages::default() };
                let waited = Waited { stages, ..Waited::default() };
                self.record(&self.unserialized(runtime, None, reason.clone(), waited));
                become_runtime(runtime, kind, &line)
            }
            Command::Supervised(invocation) => {
                let operation = Operation {
                    began: self.began,
                    runtime,
                    kind,
                    globals: &line.globals,
                    invocation,
                    policy: Policy::of(invocation, &self.config),
                    config: &self.config,
                    state: &self.state,
                };
                if invocation.verb == Verb::State {
                    self.note_wait(runtime, invocation, operation.wait_for_lock());
                    become_runtime(runtime, kind, &line)
                }
                if tells_systemd(invocation.verb) {
                    let (waited, note) = (operation.wait_for_lock(), TELLS_SYSTEMD.to_owned());
                    self.record(&self.unserialized(runtime, Some(invocation), note, waited));
                    become_runtime(runtime, kind, &line)
                }
                self.supervise(&operation, &line, channels)
            }
        }
    }

    fn supervise(
        &self,
        operation: &Operation<'_>,
        line: &CommandLine,
        channels: &mut Option<Channels>,
    ) -> Exit {
        match operation.supervise(channels) {
            Ok(mut ended) => {
                ended.outcome.notes.extend(self.complaints.iter().cloned());
                // First, because a caller that does not read can block the replay until it kills us.
                self.record(&ended.outcome);
                // From here on a signal may end us, as it could have ended the runtime while it wrote
                // its last words: the caller's pipe may be full.
                ended.signals.give_back();
                let exit = ended.outcome.exit.unwrap_or(Exit::NotStarted);
                if let Some(channels) = channels {
                    channels.pass_on(exit);
                }
                exit
            }
            Err(error) => {
                // No descriptor or process was left for a second one, or there is no such runtime.
                let note = format!("cannot run as a child of frostlock: {error}");
                let stages = Stages { prepare: self.began.elapsed(), ..Stages::default() };
                let waited = Waited { stages, ..Waited::default() };
                let invocation = Some(operation.invocation);
                let mut outcome = self.unserialized(operation.runtime, invocation, note, waited);
                if sys::is_of_exec(&error) {
                    (outcome.exit, outcome.verdict) = (Some(Exit::NotStarted), Verdict::NotStarted);
                }
                self.record(&outcome);
                become_runtime(operation.runtime, operation.kind, line)
            }
        }
    }

    /// `state` leaves a record only if something was in its way, because it is called all the time.
    fn note_wait(&self, runtime: &Runtime, invocation: &Invocation, waited: Waited) {
        let had_trouble = matches!(waited.lock, LockUse::TimedOut(_) | LockUse::Unavailable(_));
        if had_trouble || !waited.recovered.is_empty() {
            let note = "executed without a record of its end".to_owned();
            self.record(&self.unserialized(runtime, Some(invocation), note, waited));
        } else {
            self.complain();
        }
    }

    /// Reports mistakes in the configuration for an operation that leaves no record.
    fn complain(&self) {
        for complaint in &self.complaints {
            log::warn!("{complaint}");
        }
    }

    /// The outcome of a command that we hand over for good.
    fn unserialized(
        &self,
        runtime: &Runtime,
        invocation: Option<&Invocation>,
        note: String,
        waited: Waited,
    ) -> Outcome {
        Outcome {
            verb: invocation.map(|invocation| invocation.verb),
            cgroup: waited.cgroup,
            runtime: runtime.path.clone(),
            requested_by: process::comm(process::parent()),
            lock: waited.lock,
            stages: waited.stages,
            verdict: if invocation.is_some() { Verdict::HandedOver } else { Verdict::Unreadable },
            recovered: waited.recovered,
            notes: std::iter::once(note).chain(self.complaints.iter().cloned()).collect(),
            ..Outcome::of(invocation.map(|invocation| invocation.id.clone()).unwrap_or_default())
        }
    }

    fn record(&self, outcome: &Outcome) {
        record::add(&self.config, &self.state, outcome);
        syslog::report(outcome);
    }
}

const TELLS_SYSTEMD: &str =
    "executed without a record of its end: with NOTIFY_SOCKET systemd listens to its main process";

/// If NOTIFY_SOCKET is set, `run` and `start` wait until the container says that it is ready; no other
/// operation should wait for that. Then they tell systemd, which by default (NotifyAccess=main) accepts
/// this only from the process that it started (runc, notify_socket.go).
fn tells_systemd(verb: Verb) -> bool {
    matches!(verb, Verb::Run | Verb::Start) && std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn become_runtime(runtime: &Runtime, kind: RuntimeKind, line: &CommandLine) -> ! {
    let error = runtime.exec();
    no_runtime(&format!("cannot run {}: {error}", runtime.path.display()), kind, line)
}

fn no_runtime(message: &str, kind: RuntimeKind, line: &CommandLine) -> ! {
    let log: Option<PathBuf> = line.globals.log_file(kind);
    complaint::make(&format!("frostlock: {message}"), log.as_deref(), line.globals.log_format);
    sys::exit_now(1)
}

/// A bug of ours must not cost anyone a container, nor its caller the runtime's words. `run` puts the
/// channels where they survive it.
fn guarded(runtime: &Runtime, run: impl FnOnce(&mut Option<Channels>) -> Exit) -> Exit {
    let mut channels = None;
    match catch_unwind(AssertUnwindSafe(|| run(&mut channels))) {
        Ok(exit) => exit,
        Err(_) => after_panic(runtime, channels),
    }
}

/// If the runtime has not been started, starts it now. If it runs, waits for its end. The caller then
/// gets that end, and what was held back for it.
fn after_panic(runtime: &Runtime, mut channels: Option<Channels>) -> Exit {
    log::error!("frostlock has a bug: it panicked; going on with the bare runtime");
    let relay = |channels: &mut Option<Channels>| channels.iter_mut().for_each(Channels::relay);
    let exit = match runtime::last() {
        Last::NotStarted => {
            let line = invocation::read(RuntimeKind::Runc, &[]);
            become_runtime(runtime, RuntimeKind::Runc, &line)
        }
        Last::Runs(pid) => runtime::wait_plainly(pid, || relay(&mut channels)),
        Last::Ended(exit) => exit,
    };
    // If the bug is in the channels, the runtime's end still counts.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        relay(&mut channels);
        channels.iter_mut().for_each(|channels| channels.pass_on(exit));
    }));
    exit
}

/// Ends as the runtime did.
fn end(exit: Exit) -> ! {
    match exit {
        Exit::Code(code) => sys::exit_now(code),
        Exit::Signal(signal) => sys::die_of(signal),
        Exit::NotStarted => sys::exit_now(1),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::process::Output;
    use std::time::Duration;

    use super::*;
    use crate::channels::Degree;
    use crate::runtime::{Child, Signals, Watch};

    struct Nothing;

    impl Watch for Nothing {
        fn waits_on(&self) -> Vec<BorrowedFd<'_>> {
            Vec::new()
        }

        /// Often: another thread of the test program may have taken the signal of the runtime's end.
        fn look(&mut self, _: &Child) -> Option<Duration> {
            Some(Duration::from_millis(5))
        }
    }

    /// Runs in a process of its own, and ends it.
    #[test]
    #[ignore = "the program of the test below"]
    fn a_mistake() {
        let Some(path) = std::env::var_os("MISTAKE_RUNTIME") else { return };
        let moment = std::env::var("MISTAKE_MOMENT").unwrap();
        std::panic::set_hook(Box::new(|_| {}));
        let runtime = Runtime { path: path.into(), args: vec!["update".into(), "c".into()] };
        let exit = guarded(&runtime, |kept| {
            let signals = Signals::take().unwrap();
            let line = invocation::read(RuntimeKind::Runc, &runtime.args);
            let Command::Supervised(update) = &line.command else { panic!("{line:?}") };
            let (globals, state) = (&line.globals, StateDir::at("/nowhere".into()));
            let (degree, kind) = (Degree::Output, RuntimeKind::Runc);
            let (channels, _) =
                Channels::open(degree, kind, globals, update, &runtime.args, &state);
            let channels = kept.insert(channels);
            assert_ne!(moment, "before its start");
            let attempt = runtime.start(&signals, channels.outputs()).unwrap();
            assert_ne!(moment, "while it runs");
            attempt.wait(&signals, &mut Nothing);
            panic!("after its end");
        });
        end(exit)
    }

    #[test]
    fn a_mistake_changes_neither_the_end_nor_the_words() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runc");
        for code in [0, 7] {
            let script =
                format!("#!/bin/sh\nsleep 0.1\necho \"$1 of $2\"\necho said >&2\nexit {code}\n");
            std::fs::write(&path, script).unwrap();
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, executable).unwrap();
            for moment in ["before its start", "while it runs", "after its end"] {
                let mut program = std::process::Command::new(std::env::current_exe().unwrap());
                program.args(["--exact", "program::tests::a_mistake", "--ignored", "--nocapture"]);
                program.env("MISTAKE_RUNTIME", &path).env("MISTAKE_MOMENT", moment);
                let Output { status, stdout, stderr } = program.output().unwrap();
                let stdout = String::from_utf8_lossy(&stdout);
                assert_eq!(status.code(), Some(code), "{moment}");
                // The test harness has written something before.
                assert!(stdout.ends_with("update of c\n"), "{moment}: {stdout}");
                assert_eq!(String::from_utf8_lossy(&stderr), "said\n", "{moment}");
            }
        }
    }
}
