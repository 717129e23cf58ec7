//! clap as liboci-cli uses it: whole long names, clusters, and a value that is a word of its own
//! must not begin with a dash (`allow_hyphen_values` is not set), unless it is `-`.

use super::flag::{Flag, Takes};
use super::trouble::{Trouble, shown};
use super::walk::{Given, Step, Walk};

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
    let flag = walk
        .table
        .iter()
        .find(|flag| flag.long_names().any(|long| long.as_bytes() == name))
        .ok_or_else(|| Trouble::UnknownFlag(shown(arg)))?;
    if flag.takes == Takes::Switch && equals.is_some() {
        return Err(Trouble::UnexpectedValue(shown(arg)));
    }
    let (given, used) = taken(walk, flag, place, equals.map(|at| at + 1))?;
    Ok(Step::Flags { given: vec![given], used })
}

fn cluster(walk: &Walk<'_>, place: usize) -> Result<Step, Trouble> {
    let arg = walk.bytes(place);
    let mut given = Vec::new();
    for (at, &letter) in arg.iter().enumerate().skip(1) {
        let flag = walk.table.iter().find(|flag| flag.short(letter)).ok_or_else(|| {
            Trouble::UnknownLetter { letter: shown(&[letter]), cluster: shown(arg) }
        })?;
        // `-bDIR` and `-b=DIR` are the same to clap.
        let rest = match arg.get(at + 1) {
            None => None,
            Some(b'=') => Some(at + 2),
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
) -> Result<(Given, usize), Trouble> {
    let (given, used) = walk.taken(flag, place, attached)?;
    match &given.value {
        Some(_) if used == 2 && matches!(walk.bytes(place + 1), [b'-', _, ..]) => {
            Err(Trouble::NoValue(shown(walk.bytes(place))))
        }
        _ => Ok((given, used)),
    }
}
