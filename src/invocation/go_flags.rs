//! Go's flag package, and what urfave/cli v1 does to the arguments first.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use super::flag::Takes;
use super::grammar::Table;
use super::trouble::about;
use super::walk::{Step, Walk};
use cgroup::Unknown;

/// Reads one place as `flag.FlagSet.parseOne` does: one dash or two, no clusters, and a switch takes a
/// value only with `=`.
pub(super) fn step(walk: &Walk<'_>, place: usize) -> Result<Step, Unknown> {
    let arg = walk.bytes(place);
    if arg.len() < 2 || arg[0] != b'-' {
        return Ok(Step::Word);
    }
    if arg == b"--" {
        return Ok(Step::EndOfFlags);
    }
    let dashes = if arg[1] == b'-' { 2 } else { 1 };
    if matches!(arg[dashes], b'-' | b'=') {
        return Err(about("bad flag syntax:", arg));
    }
    let equals = arg.iter().position(|&byte| byte == b'=');
    let name = &arg[dashes..equals.unwrap_or(arg.len())];
    let flag = walk.table.find(name).ok_or_else(|| about("unknown flag", arg))?;
    let (mut given, used) = walk.taken(flag, place, equals.map(|at| at + 1))?;
    if let (Takes::Switch, Some(at)) = (flag.takes, equals) {
        let on = boolean(&arg[at + 1..]);
        given.on = on.ok_or_else(|| about("not a boolean value in", arg))?;
    }
    Ok(Step::Flags { given: vec![given], used })
}

/// `strconv.ParseBool`.
fn boolean(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"t" | b"T" | b"TRUE" | b"true" | b"True" => Some(true),
        b"0" | b"f" | b"F" | b"FALSE" | b"false" | b"False" => Some(false),
        _ => None,
    }
}

/// The orders in which Go's flag package may see the arguments from `from` on.
///
/// urfave/cli v1 moves flags to the front, and its way of guessing at values changed between 1.22.1 (in
/// runc up to 1.1) and 1.22.14 (in runc from 1.2; Debian's runc 1.1.5 also has it). We cannot know
/// which one is at work, so the caller must make sense of both.
pub(super) fn orders(args: &[OsString], from: usize, table: Table) -> [Vec<usize>; 2] {
    [order_1_22_1(args, from), order_1_22_14(args, from, table)]
}

/// Moves whatever has a dash, and also the word after it, unless that has a dash or there was a `=`. A
/// `-` is never a value, which works as long as it is the last of the flags.
fn order_1_22_1(args: &[OsString], from: usize) -> Vec<usize> {
    let (mut moved, mut left) = (Vec::new(), Vec::new());
    let mut value_next = false;
    for at in from..args.len() {
        let arg = args[at].as_bytes();
        if arg == b"--" {
            left.extend(at..args.len());
            break;
        }
        let dash = arg.starts_with(b"-");
        if value_next && !dash {
            value_next = false;
            moved.push(at);
        } else if dash && arg != b"-" {
            value_next = !arg.contains(&b'=');
            moved.push(at);
        } else {
            value_next = false;
            left.push(at);
        }
    }
    moved.extend(left);
    moved
}

/// Moves only known flags, and with each of them, even a switch, whatever follows it and is not itself
/// a known flag.
fn order_1_22_14(args: &[OsString], from: usize, table: Table) -> Vec<usize> {
    let (mut moved, mut left) = (Vec::new(), Vec::new());
    let mut value_next = false;
    for at in from..args.len() {
        let arg = args[at].as_bytes();
        let known = is_known_flag(arg, table);
        if value_next && !known {
            value_next = false;
            moved.push(at);
        } else if arg == b"--" {
            left.extend(at..args.len());
            break;
        } else if known {
            value_next = !arg.contains(&b'=');
            moved.push(at);
        } else {
            left.push(at);
        }
    }
    moved.extend(left);
    moved
}

/// urfave/cli's `argIsFlag`. It also accepts `---all` as a flag, which Go then refuses.
fn is_known_flag(arg: &[u8], table: Table) -> bool {
    let Some(name) = arg.strip_prefix(b"-") else { return false };
    let name = match name.strip_prefix(b"-") {
        Some(name) => name.strip_prefix(b"-").unwrap_or(name),
        None => name,
    };
    let name = name.split(|&byte| byte == b'=').next().unwrap_or(name);
    table.find(name).is_some()
}
