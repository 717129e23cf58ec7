//! Exit codes: documented in the help of every command, and stable.

use std::process::ExitCode;

/// How a command ended. For an invalid command line, clap exits with 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; nothing is wrong.
    Clean,
    /// Done; something was found, or would change, or is left to do.
    Found,
    /// Nothing was found wrong, but not everything could be checked (doctor, audit).
    Unknown,
    /// frostlock itself does not work (status, selftest).
    Broken,
    /// The command failed; standard error says why.
    Failed,
}

/// For the help of commands.
pub(crate) const HELP: &str = "\
Exit status:
  0  done, and nothing is wrong
  1  done, and something was found (doctor, audit), differs (--dry-run) or is left to do
  2  the command line is wrong; doctor, audit: nothing wrong was found, and not all could be seen;
     status, selftest: frostlock does not work
  3  the command failed; standard error says why
A reader of standard output that leaves early, such as head, changes none of these.";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Clean => 0,
            Exit::Found => 1,
            Exit::Unknown | Exit::Broken => 2,
            Exit::Failed => 3,
        })
    }
}
