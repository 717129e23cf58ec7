//! Which arguments are flags, which are their values, and which words remain.

use std::ffi::OsString;

use cgroup::{RuntimeKind, Unknown};

use super::grammar::{self, Table};
use super::walk::{Given, Step, Walk};
use super::{getopt, go_flags};

fn step(walk: &Walk<'_>, place: usize) -> Result<Step, Unknown> {
    match walk.grammar {
        RuntimeKind::Runc => go_flags::step(walk, place),
        RuntimeKind::Crun | RuntimeKind::Youki => getopt::step(walk, place),
    }
}

/// What was found after the command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    pub(super) given: Vec<Given>,
    /// Indices of the remaining words.
    pub(super) words: Vec<usize>,
}

/// Reads the arguments of a command.
pub(super) fn command(walk: &Walk<'_>) -> Result<Scan, Unknown> {
    let mut scan = Scan::default();
    let mut place = 0;
    while place < walk.order.len() {
        match step(walk, place)? {
            Step::Flags { given, used } => {
                scan.given.extend(given);
                place += used;
            }
            // Only clap looks for flags after a word. (urfave/cli does so, too, but by moving them to
            // the front before Go's flag package sees them.)
            Step::Word if walk.grammar == RuntimeKind::Youki => {
                scan.words.push(walk.order[place]);
                place += 1;
            }
            Step::Word => break,
            Step::EndOfFlags => {
                place += 1;
                break;
            }
        }
    }
    scan.words.extend(&walk.order[place..]);
    Ok(scan)
}

/// What was found before the command.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) given: Vec<Given>,
    /// The index of the command; none if it is not ours, or needs no look: help, version.
    pub(super) command: Result<Option<usize>, Unknown>,
}

/// Reads the flags before the command.
///
/// After an unknown flag it continues, to find `--log`, up to the first word that is a verb of ours. If
/// none comes, there was nothing to serialize and so nothing to report.
pub(super) fn front(grammar: RuntimeKind, args: &[OsString]) -> Front {
    let order: Vec<usize> = (0..args.len()).collect();
    let walk = Walk { args, order: &order, grammar, table: Table::of(grammar, None) };
    let mut given = Vec::new();
    let mut trouble = None;
    let mut place = 0;
    while place < args.len() {
        match step(&walk, place) {
            Ok(Step::Flags { given: new, used }) => {
                given.extend(new);
                place += used;
            }
            Ok(Step::Word)
                if trouble.is_none() || grammar::verb(grammar, &args[place]).is_some() =>
            {
                break;
            }
            Ok(Step::Word) => place += 1,
            Ok(Step::EndOfFlags) => {
                // clap accepts no words on this level, and a command only before `--`.
                if grammar == RuntimeKind::Youki {
                    trouble.get_or_insert(Unknown::new("-- before the command"));
                }
                place += 1;
                break;
            }
            Err(new) => {
                trouble.get_or_insert(new);
                place += 1;
            }
        }
    }
    let ours = args.get(place).is_some_and(|word| grammar::verb(grammar, word).is_some());
    let command = match trouble {
        _ if !ours || given.iter().any(Given::is_info) => Ok(None),
        Some(trouble) => Err(trouble),
        None => Ok(Some(place)),
    };
    Front { given, command }
}
