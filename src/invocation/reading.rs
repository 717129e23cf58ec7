//! Turns flags and words into their meaning.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::command::{Command, Globals, Invocation, LogFormat};
use super::flag::Means;
use super::go_flags;
use super::grammar::{Table, positionals};
use super::scan::{self, Scan};
use super::trouble::about;
use super::walk::{Given, Walk};
use cgroup::{RuntimeKind, Unknown};
use state::Verb;

pub(super) fn globals(given: &[Given]) -> Globals {
    let mut globals = Globals::default();
    for one in given {
        let text = || one.value.as_ref().map(|value| value.text.clone());
        match one.flag.means {
            Means::Root => globals.root = text().map(PathBuf::from),
            Means::Log => globals.log.clone_from(&one.value),
            Means::LogFormat => globals.log_format = log_format(text()),
            Means::SystemdCgroup => globals.systemd_cgroup = one.on,
            Means::CgroupManager => {
                globals.systemd_cgroup = text().is_some_and(|name| name == "systemd");
            }
            _ => {}
        }
    }
    globals
}

fn log_format(text: Option<OsString>) -> LogFormat {
    if text.is_some_and(|text| text == "json") { LogFormat::Json } else { LogFormat::Text }
}

/// Reads what follows the verb; its arguments begin at `from`.
pub(super) fn command(
    grammar: RuntimeKind,
    verb: Verb,
    args: &[OsString],
    from: usize,
) -> Result<Command, Unknown> {
    let table = Table::of(grammar, Some(verb));
    let read = |order: &[usize]| {
        let scan = scan::command(&Walk { args, order, grammar, table })?;
        meaning(grammar, verb, args, &scan)
    };
    // SkipArgReorder: what follows exec's id is another program's command line.
    if grammar == RuntimeKind::Runc && verb != Verb::Exec {
        let [old, new] = go_flags::orders(args, from, table);
        return both(read(&old), read(&new));
    }
    let order: Vec<usize> = (from..args.len()).collect();
    read(&order)
}

/// One reading out of two. If only one version of the runtime accepts the line, the other will refuse
/// it and no reading can do harm; so the accepted one counts.
fn both(old: Result<Command, Unknown>, new: Result<Command, Unknown>) -> Result<Command, Unknown> {
    match (old, new) {
        (Ok(old), Ok(new)) if old == new => Ok(new),
        (Ok(_), Ok(_)) => Err(Unknown::new("runc up to 1.1 and from 1.2 on read it differently")),
        (Ok(only), Err(_)) | (Err(_), Ok(only)) => Ok(only),
        (Err(trouble), Err(_)) => Err(trouble),
    }
}

fn meaning(
    grammar: RuntimeKind,
    verb: Verb,
    args: &[OsString],
    scan: &Scan,
) -> Result<Command, Unknown> {
    if scan.given.iter().any(Given::is_info) {
        return Ok(Command::PassThrough);
    }
    let expected = positionals(grammar, verb);
    if scan.words.len() < *expected.start() {
        let missing = if scan.words.is_empty() { "no container id" } else { "no signal" };
        return Err(Unknown::new(missing));
    }
    if let Some(&extra) = scan.words.get(*expected.end()) {
        return Err(about("too many arguments:", args[extra].as_bytes()));
    }
    let mut invocation = bare(verb, id(&args[scan.words[0]])?);
    for given in &scan.given {
        apply(&mut invocation, given)?;
    }
    match verb {
        Verb::Kill => invocation.signal = signal(args, scan.words.get(1))?,
        // The file says what to execute; without it the command line must.
        Verb::Exec if invocation.process.is_none() && scan.words.len() < 2 => {
            return Err(Unknown::new("nothing to execute"));
        }
        _ => {}
    }
    Ok(Command::Supervised(invocation))
}

/// The id becomes a part of our paths. No runtime has a container with one of the refused names, except
/// perhaps one with a dash, and that is far more often a misplaced flag: runc up to 1.1 reads
/// `update ID -r -` as an update of `-`.
fn id(word: &OsStr) -> Result<OsString, Unknown> {
    let bytes = word.as_bytes();
    match bytes {
        b"" => Err(Unknown::new("empty container id")),
        [b'-', ..] => Err(about("flag in place of a container id:", bytes)),
        b"." | b".." => Err(about("not a container id:", bytes)),
        _ if bytes.contains(&b'/') || bytes.contains(&0) => {
            Err(about("not a container id:", bytes))
        }
        _ => Ok(word.to_owned()),
    }
}

/// A leading dash is either a flag of a future version, or something that no version accepts (`-9`).
fn signal(args: &[OsString], at: Option<&usize>) -> Result<Option<OsString>, Unknown> {
    let Some(&at) = at else { return Ok(None) };
    let word = &args[at];
    if word.as_bytes().starts_with(b"-") {
        return Err(about("flag in place of a signal:", word.as_bytes()));
    }
    Ok(Some(word.clone()))
}

fn bare(verb: Verb, id: OsString) -> Invocation {
    Invocation {
        verb,
        id,
        bundle: None,
        config: None,
        pid_file: None,
        console_socket: None,
        pidfd_socket: false,
        detach: false,
        process: None,
        resources: None,
        signal: None,
        all: false,
    }
}

fn apply(to: &mut Invocation, given: &Given) -> Result<(), Unknown> {
    let text = || given.value.as_ref().map(|value| value.text.clone());
    let path = || text().map(PathBuf::from);
    match given.flag.means {
        Means::Bundle => to.bundle = path(),
        Means::Config => to.config = path(),
        Means::PidFile => to.pid_file = path(),
        Means::ConsoleSocket => to.console_socket.clone_from(&given.value),
        Means::PidfdSocket => to.pidfd_socket = true,
        Means::Detach => to.detach = given.on,
        Means::Process => to.process = path(),
        Means::Resources => to.resources = text(),
        Means::All => to.all = given.on,
        Means::Regex if given.on => {
            return Err(Unknown::new("with --regex the id is a pattern for many containers"));
        }
        _ => {}
    }
    Ok(())
}
