//! Flags as glibc's getopt_long (crun) and clap (youki) read them: long names, and clusters of letters.
//!
//! crun uses GNU argp with ARGP_IN_ORDER: abbreviations, and flags only up to the first word. liboci-cli
//! uses clap: whole long names, and a value that is a word of its own must not begin with a dash
//! (`allow_hyphen_values` is not set), unless it is `-`.

use cgroup::{RuntimeKind, Unknown};

use super::flag::{Flag, Takes};
use super::trouble::{about, shown};
use super::walk::{Given, Step, Walk};

pub(super) fn step(walk: &Walk<'_>, place: usize) -> Result<Step, Unknown> {
    match walk.bytes(place) {
        b"--" => Ok(Step::EndOfFlags),
        [b'-', b'-', ..] => long(walk, place),
        [b'-', _, ..] => cluster(walk, place),
        _ => Ok(Step::Word),
    }
}

fn is_clap(walk: &Walk<'_>) -> bool {
    walk.grammar == RuntimeKind::Youki
}

fn long(walk: &Walk<'_>, place: usize) -> Result<Step, Unknown> {
    let arg = walk.bytes(place);
    let equals = arg.iter().position(|&byte| byte == b'=');
    let name = &arg[2..equals.unwrap_or(arg.len())];
    let flag = match walk.table.find(name).filter(|_| name.len() > 1) {
        // An exact name wins over those it abbreviates (`--log` over `--log-format`).
        Some(flag) => flag,
        None if is_clap(walk) => return Err(about("unknown flag", arg)),
        None => abbreviated(walk, arg, name)?,
    };
    if flag.takes == Takes::Switch && equals.is_some() {
        return Err(Unknown::new(format!("flag {} takes no value", shown(arg))));
    }
    let (given, used) = taken(walk, flag, place, equals.map(|at| at + 1))?;
    Ok(Step::Flags { given: vec![given], used })
}

fn abbreviated(walk: &Walk<'_>, arg: &[u8], name: &[u8]) -> Result<&'static Flag, Unknown> {
    let mut candidates = walk.table.iter().flat_map(|flag| {
        let names = flag.long_names().filter(|long| long.as_bytes().starts_with(name));
        names.map(move |_| flag)
    });
    match (candidates.next(), candidates.next()) {
        (Some(flag), None) => Ok(flag),
        (Some(_), Some(_)) => Err(about("ambiguous flag", arg)),
        (None, _) => Err(about("unknown flag", arg)),
    }
}

fn cluster(walk: &Walk<'_>, place: usize) -> Result<Step, Unknown> {
    let arg = walk.bytes(place);
    let mut given = Vec::new();
    for (at, &letter) in arg.iter().enumerate().skip(1) {
        let flag = walk.table.find(&[letter]).ok_or_else(|| {
            Unknown::new(format!("unknown flag -{} in {}", shown(&[letter]), shown(arg)))
        })?;
        let rest = match arg.get(at + 1) {
            None => None,
            // `-bDIR` and `-b=DIR` are the same to clap.
            Some(b'=') if is_clap(walk) => Some(at + 2),
            Some(_) => Some(at + 1),
        };
        let (flag_given, used) = taken(walk, flag, place, rest)?;
        given.push(flag_given);
        if flag.takes != Takes::Switch {
            return Ok(Step::Flags { given, used });
        }
    }
    Ok(Step::Flags { given, used: 1 })
}

fn taken(
    walk: &Walk<'_>,
    flag: &'static Flag,
    place: usize,
    attached: Option<usize>,
) -> Result<(Given, usize), Unknown> {
    let (given, used) = walk.taken(flag, place, attached)?;
    if is_clap(walk) && used == 2 && matches!(walk.bytes(place + 1), [b'-', _, ..]) {
        return Err(about("no value for flag", walk.bytes(place)));
    }
    Ok((given, used))
}
