//! What the caller typed: verb, container, and the few flags that matter to us.
//!
//! Pure: no file, no environment, no clock. The argument vector is never rebuilt. The runtime gets the
//! caller's own, byte for byte, except for the one value that [`Value::replaced`] exchanges. Whatever
//! cannot be read with certainty is [`Command::Unreadable`] and not guessed: such a command still runs,
//! only unserialized.
//!
//! This reads what *this* runtime will do with the line, not what the line looks like:
//! `runc kill ID --all 9` signals the container `9`, and so it is read.

mod command;
mod flag;
mod getopt;
mod go_flags;
mod grammar;
mod reading;
mod scan;
mod tables;
mod trouble;
mod walk;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::ffi::OsString;

pub use cgroup::RuntimeKind;
pub use command::{Command, CommandLine, Globals, Invocation, LogFormat, Value};
pub use state::Verb;

/// Reads a command line; `args` is the argument vector without its first word.
pub fn read(grammar: RuntimeKind, args: &[OsString]) -> CommandLine {
    let front = scan::front(grammar, args);
    let globals = reading::globals(&front.given);
    let command = match front.command {
        Ok(None) => Command::PassThrough,
        Err(trouble) => Command::Unreadable { reason: trouble.to_string() },
        Ok(Some(at)) => match grammar::verb(grammar, &args[at]) {
            None => Command::PassThrough,
            Some(verb) => match reading::command(grammar, verb, args, at + 1) {
                Ok(command) => command,
                Err(trouble) => Command::Unreadable { reason: format!("{verb}: {trouble}") },
            },
        },
    };
    CommandLine { globals, command }
}
