//! Walking along the arguments: which are flags, whose are the values, which words remain.
//!
//! The walk goes over a list of places in the argument vector, not over the vector itself, so that
//! urfave/cli's habit of moving arguments about is a permutation and values keep their true place.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use cgroup::RuntimeKind;

use super::grammar::{self, Flag, Means, Table, Takes};
use super::{Span, Value, argp, clap, go_flags};

/// A flag as it was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) flag: &'static Flag,
    pub(super) value: Option<Value>,
    /// False only for Go's `--switch=false`.
    pub(super) on: bool,
}

impl Given {
    /// The runtime will print something and look no further.
    pub(super) fn is_info(&self) -> bool {
        self.on && self.flag.means == Means::Info
    }
}

/// What stands at one place.
#[derive(Debug)]
pub(super) enum Step {
    /// One flag, or a cluster of short ones, that covers `used` places.
    Flags {
        given: Vec<Given>,
        used: usize,
    },
    Word,
    /// `--`.
    EndOfFlags,
    Trouble(String),
}

/// A stretch of the argument vector, and how to read it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk<'a> {
    pub(super) args: &'a [OsString],
    pub(super) order: &'a [usize],
    pub(super) table: Table,
}

impl<'a> Walk<'a> {
    pub(super) fn bytes(&self, place: usize) -> &'a [u8] {
        self.args[self.order[place]].as_bytes()
    }

    /// A switch or the value after the name, for a flag that stands at `place` with `attached`
    /// being the offset of what is attached to it.
    pub(super) fn taken(
        &self,
        flag: &'static Flag,
        place: usize,
        attached: Option<usize>,
    ) -> Result<(Given, usize), String> {
        let (value, used) = match (flag.takes, attached) {
            (Takes::Switch, _) | (Takes::Attached, None) => (None, 1),
            (_, Some(from)) => (Some(self.value(place, from)), 1),
            (Takes::Value, None) if place + 1 < self.order.len() => {
                (Some(self.value(place + 1, 0)), 2)
            }
            (Takes::Value, None) => {
                return Err(format!("no value for flag {}", shown(self.bytes(place))));
            }
        };
        Ok((Given { flag, value, on: true }, used))
    }

    fn value(&self, place: usize, from: usize) -> Value {
        let text = OsStr::from_bytes(&self.bytes(place)[from..]).to_owned();
        Value { text, at: Span { arg: self.order[place], from } }
    }

    fn step(&self, grammar: RuntimeKind, place: usize) -> Step {
        let step = match grammar {
            RuntimeKind::Runc => go_flags::step(self, place),
            RuntimeKind::Crun => argp::step(self, place),
            RuntimeKind::Youki => clap::step(self, place),
        };
        step.unwrap_or_else(Step::Trouble)
    }
}

/// What was found behind the command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    pub(super) given: Vec<Given>,
    /// Indices of the remaining words.
    pub(super) words: Vec<usize>,
}

/// Reads the arguments of a command.
pub(super) fn command(grammar: RuntimeKind, walk: &Walk<'_>) -> Result<Scan, String> {
    let mut scan = Scan::default();
    let mut place = 0;
    while place < walk.order.len() {
        match walk.step(grammar, place) {
            Step::Flags { given, used } => {
                scan.given.extend(given);
                place += used;
            }
            // Only clap looks for flags behind a word. (urfave/cli does so too, but by moving them
            // to the front before Go's flag package sees them.)
            Step::Word if grammar == RuntimeKind::Youki => {
                scan.words.push(walk.order[place]);
                place += 1;
            }
            Step::Word => break,
            Step::EndOfFlags => {
                place += 1;
                break;
            }
            Step::Trouble(reason) => return Err(reason),
        }
    }
    scan.words.extend(&walk.order[place..]);
    Ok(scan)
}

/// What was found before the command.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) given: Vec<Given>,
    pub(super) end: FrontEnd,
}

#[derive(Debug)]
pub(super) enum FrontEnd {
    /// Index of the command.
    Command(usize),
    /// No command of ours, or one that is not looked at: help, version.
    Nothing,
    Trouble(String),
}

/// Reads the flags before the command.
///
/// After a flag we do not know it goes on, for the sake of `--log`, up to the first word that is a
/// verb of ours. If none comes, there was nothing to serialize and so nothing to complain of.
pub(super) fn front(grammar: RuntimeKind, args: &[OsString]) -> Front {
    let order: Vec<usize> = (0..args.len()).collect();
    let walk = Walk { args, order: &order, table: Table::of(grammar, None) };
    let mut given = Vec::new();
    let mut trouble = None;
    let mut place = 0;
    while place < args.len() {
        match walk.step(grammar, place) {
            Step::Flags { given: new, used } => {
                given.extend(new);
                place += used;
            }
            Step::Word if trouble.is_none() || grammar::verb(grammar, &args[place]).is_some() => {
                break;
            }
            Step::Word => place += 1,
            Step::EndOfFlags => {
                // clap wants no words on this level, and a command only before `--`.
                if grammar == RuntimeKind::Youki {
                    trouble.get_or_insert_with(|| "-- before the command".to_owned());
                }
                place += 1;
                break;
            }
            Step::Trouble(reason) => {
                trouble.get_or_insert(reason);
                place += 1;
            }
        }
    }
    let ours = args.get(place).is_some_and(|word| grammar::verb(grammar, word).is_some());
    let end = match trouble {
        _ if !ours || given.iter().any(Given::is_info) => FrontEnd::Nothing,
        Some(reason) => FrontEnd::Trouble(reason),
        None => FrontEnd::Command(place),
    };
    Front { given, end }
}

/// A foreign word for a message of ours: printable ASCII, and short.
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
