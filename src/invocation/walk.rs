//! A stretch of the argument vector, as the three grammars step along it.
//!
//! The walk goes over a list of places in the argument vector, not over the vector itself. So
//! urfave/cli's habit of moving arguments is a permutation, and values keep their true place.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::command::Value;
use super::flag::{Flag, Means, Takes};
use super::grammar::Table;
use super::trouble::about;
use cgroup::{RuntimeKind, Unknown};

/// A flag as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) flag: &'static Flag,
    pub(super) value: Option<Value>,
    /// False only for Go's `--switch=false`.
    pub(super) on: bool,
}

impl Given {
    /// Whether the runtime will print something and look no further.
    pub(super) fn is_info(&self) -> bool {
        self.on && self.flag.means == Means::Info
    }
}

/// What is at one place.
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
}

/// A stretch of the argument vector, and how to read it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk<'a> {
    pub(super) args: &'a [OsString],
    pub(super) order: &'a [usize],
    pub(super) grammar: RuntimeKind,
    pub(super) table: Table,
}

impl<'a> Walk<'a> {
    pub(super) fn bytes(&self, place: usize) -> &'a [u8] {
        self.args[self.order[place]].as_bytes()
    }

    /// A switch, or the value after the name, for a flag at `place`; `attached` is the offset of the
    /// text attached to it.
    pub(super) fn taken(
        &self,
        flag: &'static Flag,
        place: usize,
        attached: Option<usize>,
    ) -> Result<(Given, usize), Unknown> {
        let (value, used) = match (flag.takes, attached) {
            (Takes::Switch, _) | (Takes::Attached, None) => (None, 1),
            (_, Some(from)) => (Some(self.value(place, from)), 1),
            (Takes::Value, None) if place + 1 < self.order.len() => {
                (Some(self.value(place + 1, 0)), 2)
            }
            (Takes::Value, None) => {
                return Err(about("no value for flag", self.bytes(place)));
            }
        };
        Ok((Given { flag, value, on: true }, used))
    }

    fn value(&self, place: usize, from: usize) -> Value {
        let text = OsStr::from_bytes(&self.bytes(place)[from..]).to_owned();
        Value { text, arg: self.order[place], from }
    }
}
