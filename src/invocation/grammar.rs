//! What is specific to a runtime's command line. The flags themselves are in `tables`.

use std::ffi::OsStr;
use std::ops::RangeInclusive;

use cgroup::RuntimeKind;

use super::flag::Flag;
use super::tables;
use state::Verb;

/// The command that a word means to this runtime.
pub(super) fn verb(kind: RuntimeKind, word: &OsStr) -> Option<Verb> {
    // liboci-cli spells it like this in its enum, and clap takes the word from there.
    if kind == RuntimeKind::Youki && word == "checkpointt" {
        return Some(Verb::Checkpoint);
    }
    let verb = Verb::ALL.into_iter().find(|verb| word == verb.as_str())?;
    // youki has no restore: the word is as unknown to it as any other.
    (kind != RuntimeKind::Youki || verb != Verb::Restore).then_some(verb)
}

/// How many words a command takes besides its flags.
pub(super) fn positionals(kind: RuntimeKind, verb: Verb) -> RangeInclusive<usize> {
    match (kind, verb) {
        (_, Verb::Exec) => 1..=usize::MAX,
        // clap: `signal: String`, with no default.
        (RuntimeKind::Youki, Verb::Kill) => 2..=2,
        (_, Verb::Kill) => 1..=2,
        // crun 1.8 looks at the first and ignores a second.
        (RuntimeKind::Crun, Verb::Pause | Verb::Resume | Verb::Checkpoint | Verb::Restore) => 1..=2,
        _ => 1..=1,
    }
}

/// The flags of one level: those of the command, and those that the library adds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    own: &'static [&'static [Flag]],
    added: &'static [Flag],
}

impl Table {
    pub(super) fn of(grammar: RuntimeKind, verb: Option<Verb>) -> Self {
        Self { own: tables::own(grammar, verb), added: tables::added(grammar) }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = &'static Flag> {
        self.own.iter().copied().flatten().chain(self.added)
    }

    /// The flag of exactly this name.
    pub(super) fn find(self, name: &[u8]) -> Option<&'static Flag> {
        self.iter().find(|flag| flag.has_name(name))
    }
}
