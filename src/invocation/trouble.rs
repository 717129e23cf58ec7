//! Why a command line cannot be read.

use std::error::Error;
use std::fmt;

/// Each with the word it is about, as [`shown`] renders it.
#[derive(Debug)]
pub(super) enum Trouble {
    BadSyntax(String),
    UnknownFlag(String),
    UnknownLetter { letter: String, cluster: String },
    AmbiguousFlag(String),
    NoValue(String),
    UnexpectedValue(String),
    NotBoolean(String),
    NotACount(String),
    EndOfFlagsBeforeCommand,
    NoId,
    NoSignal,
    NothingToExecute,
    TooManyWords(String),
    EmptyId,
    NotAnId(String),
    FlagForId(String),
    FlagForSignal(String),
    ManyContainers,
    TwoReadings,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::BadSyntax(word) => write!(f, "bad flag syntax: {word}"),
            Trouble::UnknownFlag(word) => write!(f, "unknown flag {word}"),
            Trouble::UnknownLetter { letter, cluster } => {
                write!(f, "unknown flag -{letter} in {cluster}")
            }
            Trouble::AmbiguousFlag(word) => write!(f, "ambiguous flag {word}"),
            Trouble::NoValue(word) => write!(f, "no value for flag {word}"),
            Trouble::UnexpectedValue(word) => write!(f, "flag {word} takes no value"),
            Trouble::NotBoolean(word) => write!(f, "not a boolean value in {word}"),
            Trouble::NotACount(word) => write!(f, "not a number of descriptors: {word}"),
            Trouble::EndOfFlagsBeforeCommand => f.write_str("-- before the command"),
            Trouble::NoId => f.write_str("no container id"),
            Trouble::NoSignal => f.write_str("no signal"),
            Trouble::NothingToExecute => f.write_str("nothing to execute"),
            Trouble::TooManyWords(word) => write!(f, "too many arguments: {word}"),
            Trouble::EmptyId => f.write_str("empty container id"),
            Trouble::NotAnId(word) => write!(f, "not a container id: {word}"),
            Trouble::FlagForId(word) => write!(f, "flag in place of a container id: {word}"),
            Trouble::FlagForSignal(word) => write!(f, "flag in place of a signal: {word}"),
            Trouble::ManyContainers => {
                f.write_str("with --regex the id is a pattern for many containers")
            }
            Trouble::TwoReadings => {
                f.write_str("runc up to 1.1 and from 1.2 on read it differently")
            }
        }
    }
}

impl Error for Trouble {}

/// A word of the caller for a message of ours: printable ASCII, and short.
pub(super) fn shown(word: &[u8]) -> String {
    const LONGEST: usize = 60;
    let mut text = String::new();
    for &byte in word {
        let escaped = byte.escape_ascii();
        if text.len() + escaped.len() > LONGEST {
            text.push_str("...");
            break;
        }
        text.extend(escaped.map(char::from));
    }
    if text.is_empty() { "''".to_owned() } else { text }
}
