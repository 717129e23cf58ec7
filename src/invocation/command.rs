//! A command line after it was read.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use cgroup::RuntimeKind;
use state::Verb;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// A flag's value and its place, so that exactly this value can be replaced (only `--log` and
/// `--console-socket` ever are). If a flag is repeated, this is the last one, which counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    pub text: OsString,
    /// Index of the argument.
    pub arg: usize,
    /// The first byte of the value in it: 0 for `--f v`, 4 for `--f=v`. The value reaches to the end.
    pub from: usize,
}

impl Value {
    /// The same command line with `new` in place of this value. `args` must be the vector that was
    /// read.
    pub fn replaced(&self, args: &[OsString], new: &OsStr) -> Vec<OsString> {
        let mut args = args.to_vec();
        if let Some(arg) = args.get_mut(self.arg) {
            let mut bytes = std::mem::take(arg).into_vec();
            bytes.truncate(self.from);
            bytes.extend_from_slice(new.as_bytes());
            *arg = OsString::from_vec(bytes);
        }
        args
    }
}

/// What comes before the command and applies to every command.
///
/// Best effort, filled in even if the rest cannot be read: an error of our own must reach the caller's
/// log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Globals {
    pub root: Option<PathBuf>,
    /// As typed; see [`Globals::log_file`].
    pub log: Option<Value>,
    pub log_format: LogFormat,
    /// In crun, `--cgroup-manager` sets this, too; the last of both flags counts.
    pub systemd_cgroup: bool,
}

impl Globals {
    /// The file that `--log` names, if any: crun knows `file:`, `journald:`, `syslog:`.
    pub fn log_file(&self, grammar: RuntimeKind) -> Option<PathBuf> {
        let text = self.log.as_ref()?.text.as_bytes();
        let path = match grammar {
            RuntimeKind::Crun if text.starts_with(b"journald:") || text.starts_with(b"syslog:") => {
                b""
            }
            RuntimeKind::Crun => text.strip_prefix(b"file:").unwrap_or(text),
            RuntimeKind::Runc | RuntimeKind::Youki => text,
        };
        (!path.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(path)))
    }
}

/// One command on one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    pub verb: Verb,
    /// Never empty, `.` or `..`; contains no `/` and no leading dash: safe as a file name.
    pub id: OsString,
    pub bundle: Option<PathBuf>,
    /// crun's `--config`: the name of the file that replaces config.json.
    pub config: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<Value>,
    pub pidfd_socket: bool,
    pub detach: bool,
    /// exec: the process.json.
    pub process: Option<PathBuf>,
    /// update: a file, or `-`.
    pub resources: Option<OsString>,
    /// kill: `None` means the default, SIGTERM.
    pub signal: Option<OsString>,
    pub all: bool,
}

impl Invocation {
    /// Whether the runtime will read standard input to its end, so that a second attempt needs a copy.
    pub fn reads_stdin(&self) -> bool {
        self.verb == Verb::Update && self.resources.as_deref() == Some(OsStr::new("-"))
    }

    /// Whether the runtime stays until its process ends.
    pub fn stays_in_foreground(&self) -> bool {
        matches!(self.verb, Verb::Run | Verb::Restore | Verb::Exec) && !self.detach
    }

    pub fn is_sigkill(&self) -> bool {
        self.is_signal(&["9", "KILL"])
    }

    /// Whether the signal ends a process that has no handler for it (signal(7)); without a signal it is
    /// SIGTERM.
    pub fn may_end_a_process(&self) -> bool {
        let names = ["CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "WINCH"];
        let numbers = ["17", "18", "19", "20", "21", "22", "23", "28"];
        !self.is_signal(&names) && !self.is_signal(&numbers)
    }

    /// Whether it is one of these, by its number, or by its name with or without SIG.
    fn is_signal(&self, those: &[&str]) -> bool {
        let signal = self.signal.as_ref().and_then(|signal| signal.to_str());
        signal.is_some_and(|signal| {
            let name = signal.to_ascii_uppercase();
            those.contains(&name.trim_start_matches("SIG"))
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Supervised(Invocation),
    /// Not for us: queries without a particular container, help, and unknown words.
    PassThrough,
    /// For us by its verb, but not understood. `reason` is one line of printable ASCII.
    Unreadable {
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    pub globals: Globals,
    pub command: Command,
}
