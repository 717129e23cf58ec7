//! GNU argp with ARGP_IN_ORDER, which is glibc's getopt_long: abbreviations, clusters, and flags only
//! up to the first word.

use super::flag::{Flag, Takes};
use super::grammar::Table;
use super::trouble::{Trouble, shown};
use super::walk::{Step, Walk};

pub(super) fn step(walk: &Walk<'_>, place: usize) -> Result<Step, Trouble> {
    let arg = walk.bytes(place);
    match arg {
        b"--" => Ok(Step::EndOfFlags),
        [b'-', b'-', ..] => long(walk, place),
        [b'-', _, ..] => cluster(walk, place),
        _ => Ok(Step::Word),
    }
}

fn long(walk: &Walk<'_>, place: usize) -> Result<Step, Trouble> {
    let arg = walk.bytes(place);
    let equals = arg.iter().position(|&byte| byte == b'=');
    let name = &arg[2..equals.unwrap_or(arg.len())];
    let flag = by_long_name(walk.table, name).map_err(|trouble| trouble(shown(arg)))?;
    if flag.takes == Takes::Switch && equals.is_some() {
        return Err(Trouble::UnexpectedValue(shown(arg)));
    }
    let (given, used) = walk.taken(flag, place, equals.map(|at| at + 1))?;
    Ok(Step::Flags { given: vec![given], used })
}

/// An exact name wins over those it abbreviates (`--log` over `--log-format`).
fn by_long_name(table: Table, name: &[u8]) -> Result<&'static Flag, fn(String) -> Trouble> {
    let fits = |flag: &&Flag, whole: bool| {
        flag.long_names().any(|long| {
            if whole { long.as_bytes() == name } else { long.as_bytes().starts_with(name) }
        })
    };
    if let Some(flag) = table.iter().find(|flag| fits(flag, true)) {
        return Ok(flag);
    }
    let mut candidates = table.iter().filter(|flag| fits(flag, false));
    match (candidates.next(), candidates.next()) {
        (Some(flag), None) => Ok(flag),
        (Some(_), Some(_)) => Err(Trouble::AmbiguousFlag),
        (None, _) => Err(Trouble::UnknownFlag),
    }
}

fn cluster(walk: &Walk<'_>, place: usize) -> Result<Step, Trouble> {
    let arg = walk.bytes(place);
    let mut given = Vec::new();
    for (at, &letter) in arg.iter().enumerate().skip(1) {
        let flag = walk.table.iter().find(|flag| flag.short(letter)).ok_or_else(|| {
            Trouble::UnknownLetter { letter: shown(&[letter]), cluster: shown(arg) }
        })?;
        let rest = (at + 1 < arg.len()).then_some(at + 1);
        let (flag_given, used) = walk.taken(flag, place, rest)?;
        given.push(flag_given);
        if flag.takes != Takes::Switch {
            return Ok(Step::Flags { given, used });
        }
    }
    Ok(Step::Flags { given, used: 1 })
}
