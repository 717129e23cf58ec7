//! What lies between the runtime and its caller, so that an attempt can be repeated without the caller
//! seeing the failed one: the runtime's log, a terminal, standard input, and printed output.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::capture::Capture;
use crate::complaint;
use crate::console::Console;
use crate::invocation::{Globals, Invocation, LogFormat, Verb};
use crate::outcome::Exit;
use crate::runtime::Outputs;
use crate::runtime_log::{self, RuntimeLog};
use crate::stdin;
use cgroup::RuntimeKind;
use state::state_dir::StateDir;

#[derive(Debug)]
pub(crate) struct Channels {
    log: Option<RuntimeLog>,
    console: Option<Console>,
    stdin: Option<File>,
    said: Capture,
    /// Whether the caller directly gets something that a second attempt would repeat.
    leaks: bool,
    /// Whether the status is that of a process in the foreground.
    is_in_foreground: bool,
    /// An error of our own, with the caller's log and its format.
    complaint: Option<(String, Option<PathBuf>, LogFormat)>,
}

/// How much lies in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Degree {
    /// Nothing: the caller sees the runtime itself.
    Nothing,
    /// Printed output is held back until the end.
    Output,
    /// Everything that a second attempt needs.
    All,
}

impl Channels {
    /// Also returns the arguments for the runtime, in which our log and console socket replace the
    /// caller's.
    pub(crate) fn open(
        degree: Degree,
        kind: RuntimeKind,
        globals: &Globals,
        invocation: &Invocation,
        args: &[OsString],
        state: &StateDir,
    ) -> (Channels, Vec<OsString>) {
        let said = match degree {
            Degree::Nothing => Capture::default(),
            _ if gives_stdio_away(kind, invocation) => Capture::default(),
            Degree::Output | Degree::All => Capture::begin(),
        };
        let mut channels = Channels {
            log: None,
            console: None,
            stdin: None,
            said,
            leaks: true,
            is_in_foreground: invocation.stays_in_foreground(),
            complaint: None,
        };
        let mut args = args.to_vec();
        if degree == Degree::All {
            channels.leaks = invocation.pidfd_socket;
            channels.take_log(kind, globals, &mut args);
            channels.take_stdin(kind, invocation);
            channels.take_console(invocation, state, &mut args);
        }
        (channels, args)
    }

    fn take_console(
        &mut self,
        invocation: &Invocation,
        state: &StateDir,
        args: &mut Vec<OsString>,
    ) {
        let Some(socket) = &invocation.console_socket else { return };
        // Without a possible second attempt nothing is put in between.
        let stand_in =
            if self.leaks { None } else { Console::stand_in(socket, &state.consoles(), args) };
        match stand_in {
            Some((console, with_ours)) => {
                self.console = Some(console);
                *args = with_ours;
            }
            None => self.leaks = true,
        }
    }

    fn take_log(&mut self, kind: RuntimeKind, globals: &Globals, args: &mut Vec<OsString>) {
        match RuntimeLog::redirect(kind, globals, args) {
            Some((log, with_ours)) => {
                self.log = Some(log);
                *args = with_ours;
            }
            None => self.leaks |= runtime_log::is_read_as_it_comes(kind, globals),
        }
    }

    /// Before any lock is taken: the caller may be slow to write it.
    fn take_stdin(&mut self, kind: RuntimeKind, invocation: &Invocation) {
        if invocation.reads_stdin() {
            self.stdin = stdin::take(kind).ok();
            self.leaks |= self.stdin.is_none();
        }
    }

    pub(crate) fn outputs(&self) -> Outputs<'_> {
        self.said.outputs()
    }

    /// Removes what the attempt before has left.
    pub(crate) fn begin_attempt(&mut self) -> io::Result<()> {
        if let Some(stdin) = &mut self.stdin {
            stdin.rewind()?;
        }
        if let Some(log) = &mut self.log {
            log.begin_attempt()?;
        }
        if let Some(console) = &mut self.console {
            console.begin_attempt();
        }
        self.said.begin_attempt()
    }

    /// What to wait for besides the runtime's end.
    pub(crate) fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        let console = self.console.as_ref().filter(|console| !console.is_delivered());
        console.map(Console::waits_on)
    }

    pub(crate) fn relay(&mut self) {
        if let Some(console) = &mut self.console {
            console.relay();
        }
    }

    /// The runtime's error: from its log, or from a stderr that we hold.
    pub(crate) fn last_error(&mut self) -> Option<String> {
        let logged = self.log.as_mut().and_then(RuntimeLog::last_error);
        logged.or_else(|| self.said.last_words())
    }

    /// The same, complete. This one is judged; [`Channels::last_error`] is for people.
    pub(crate) fn whole_error(&mut self) -> Option<String> {
        let logged = self.log.as_mut().and_then(RuntimeLog::whole_error);
        logged
            .filter(|error| !error.is_empty())
            .or_else(|| self.said.all_words().as_deref().and_then(runtime_log::whole_error))
    }

    /// Whether the caller has seen nothing yet that a second attempt would repeat.
    pub(crate) fn is_repeatable(&self) -> bool {
        !self.leaks && self.console.as_ref().is_none_or(|console| !console.is_delivered())
    }

    /// No further attempt will follow: the caller gets what the log has so far.
    pub(crate) fn commit(&mut self) {
        self.pass_log_on(true);
    }

    fn pass_log_on(&mut self, opened: bool) {
        if let Some(log) = &mut self.log {
            log.pass_on(opened);
        }
    }

    /// Adds `why` to the last error of the runtime.
    pub(crate) fn explain(&mut self, why: &str) {
        let logged = self.log.as_mut().is_some_and(|log| log.explain(why));
        let said = self.said.explain(why);
        if !logged && !said {
            self.complaint = Some((why.to_owned(), None, LogFormat::Text));
        }
    }

    /// Sets an error of our own, for a runtime that has reported none; it follows all its output.
    pub(crate) fn complain(&mut self, message: String, log: Option<PathBuf>, format: LogFormat) {
        self.complaint = Some((message, log, format));
    }

    /// Gives the caller everything that the last attempt has left.
    pub(crate) fn pass_on(&mut self, exit: Exit) {
        self.pass_log_on(may_have_opened_its_log(self.is_in_foreground, exit));
        self.said.replay();
        if let Some((message, log, format)) = self.complaint.take() {
            complaint::make(&message, log.as_deref(), format);
        }
    }
}

/// Whether a log that is still empty was opened at all: containerd distinguishes "no log" from "no
/// reason given". A runtime that cannot be loaded (126, 127) or refuses its command line (1, in runc
/// and crun) ends before it opens its log. Later failures are explained in the log, except for a crash
/// (2 in Go) and for a status that is the process's own. To know for certain, with inotify, took every
/// command 8 to 16 ms.
fn may_have_opened_its_log(is_in_foreground: bool, exit: Exit) -> bool {
    match exit {
        Exit::Code(1) => is_in_foreground,
        Exit::Code(126 | 127) | Exit::NotStarted => false,
        Exit::Code(_) | Exit::Signal(_) => true,
    }
}

/// A container inherits stdio from these; what it writes is not ours to hold. With a console socket it
/// has a terminal instead, and stderr has the runtime's messages: conmon would show the user of a
/// terminal the errors of repeated attempts. Only runc refuses a console socket without a terminal
/// (seen with 1.1.5, 1.1.15 and 1.3.6).
fn gives_stdio_away(kind: RuntimeKind, invocation: &Invocation) -> bool {
    let has_a_process = invocation.verb.makes_a_container() || invocation.verb == Verb::Exec;
    let has_a_terminal = kind == RuntimeKind::Runc && invocation.console_socket.is_some();
    has_a_process && !has_a_terminal
}
