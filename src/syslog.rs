//! Syslog: one line for each remarkable operation, or for all of them, and our own messages.
//!
//! Never blocks: a datagram for which the daemon has no room is lost. A missing daemon is not an error.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, Formatter3164, LogFormat, Severity};

use crate::hook::report::Report;
use crate::outcome::{Exit, LockUse, Outcome};
use cgroup::text;

/// The path that C libraries use, too.
const SOCKET: &str = "/dev/log";

/// A line is cut at this length: many daemons cut at 1024 bytes or a little above.
const LINE_BYTES: usize = 960;

/// The sink of the `log` facade.
#[derive(Debug, Default)]
struct Syslog {
    socket: OnceLock<Option<UnixDatagram>>,
}

static SYSLOG: Syslog = Syslog { socket: OnceLock::new() };

/// From now on sends what is logged to syslog. What is not remarkable has level info.
pub fn install(which: config::Syslog) {
    let level = match which {
        config::Syslog::Off => return,
        config::Syslog::Remarkable => LevelFilter::Warn,
        config::Syslog::All => LevelFilter::Info,
    };
    if log::set_logger(&SYSLOG).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for Syslog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let socket = self.socket.get_or_init(|| connect().ok());
        if let Some(socket) = socket {
            let line = text::one_line(record.args().to_string().as_ref(), LINE_BYTES);
            let mut datagram = Vec::new();
            if formatter().format(&mut datagram, severity(record.level()), line).is_ok() {
                let _ = socket.send(&datagram);
            }
        }
    }

    fn flush(&self) {}
}

fn connect() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(SOCKET)?;
    Ok(socket)
}

fn formatter() -> Formatter3164 {
    Formatter3164 {
        facility: Facility::LOG_DAEMON,
        // As syslog(3) does: on the local socket the daemon knows the host.
        hostname: None,
        process: "frostlock".to_owned(),
        pid: std::process::id(),
    }
}

fn severity(level: Level) -> Severity {
    match level {
        Level::Error => Severity::LOG_ERR,
        Level::Warn => Severity::LOG_WARNING,
        Level::Info => Severity::LOG_INFO,
        Level::Debug | Level::Trace => Severity::LOG_DEBUG,
    }
}

/// Reports how an operation ended.
pub fn report(outcome: &Outcome) {
    let level = if is_remarkable(outcome) { Level::Warn } else { Level::Info };
    log::log!(level, "{}", line(outcome));
}

/// A node has more than a million successful probes a day, and nobody reads a log of those.
fn is_remarkable(outcome: &Outcome) -> bool {
    !matches!(outcome.exit, Some(Exit::Code(0)))
        || matches!(outcome.lock, LockUse::TimedOut(_) | LockUse::Unavailable(_))
        || outcome.attempts.len() > 1
        || !outcome.recovered.is_empty()
        || outcome.notes.iter().any(|note| !note.is_empty())
}

fn line(outcome: &Outcome) -> String {
    let (command, id) = (outcome.command().unwrap_or("command"), text::one_line(&outcome.id, 128));
    let exit = match outcome.exit {
        Some(Exit::Code(code)) if code != 0 => format!(" (exit status {code})"),
        Some(Exit::Signal(signal)) => format!(" (signal {signal})"),
        _ => String::new(),
    };
    let (verdict, stages) = (outcome.verdict.as_str(), &outcome.stages);
    let (run, wait) = (stages.run.as_millis(), stages.lock_wait.as_millis());
    let mut line =
        format!("{command} {id}: {verdict}{exit}, {run} ms, waited {wait} ms for the lock");
    if outcome.attempts.len() > 1 {
        line += &format!(", {} attempts", outcome.attempts.len());
    }
    if let Some(Report { stage, found, frozen, .. }) = &outcome.hook {
        let frozen = frozen.as_ref().map(|dir| format!(" ({dir})")).unwrap_or_default();
        line += &format!(", {stage}, {}{frozen}", found.as_str());
    }
    if let Some(remark) = lock_remark(&outcome.lock) {
        line += &format!(" ({remark})");
    }
    let notes = outcome.notes.iter().filter(|note| !note.is_empty());
    for said in outcome.recovered.iter().chain(notes) {
        line += &format!("; {said}");
    }
    line
}

fn lock_remark(lock: &LockUse) -> Option<String> {
    match lock {
        LockUse::None | LockUse::Held(_) => None,
        LockUse::Nested(holder) => Some(format!("nested in {holder}")),
        LockUse::TimedOut(holders) if holders.is_empty() => {
            Some("went ahead without it; the holder did not say who it is".to_owned())
        }
        LockUse::TimedOut(holders) => {
            let holders: Vec<_> = holders.iter().map(ToString::to_string).collect();
            Some(format!("went ahead without it; held by {}", holders.join(", ")))
        }
        LockUse::Unavailable(why) => Some(format!("went ahead without it; {why}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::properties::outcome;

    proptest! {
        #[test]
        fn each_thing_alone_is_remarkable(mut outcome in outcome()) {
            outcome.exit = Some(Exit::Code(0));
            outcome.lock = LockUse::None;
            outcome.attempts.truncate(1);
            outcome.recovered.clear();
            outcome.notes.clear();
            prop_assert!(!is_remarkable(&outcome));
            let changes: [fn(&mut Outcome); 7] = [
                |it| it.exit = Some(Exit::Code(1)),
                |it| it.exit = Some(Exit::Signal(9)),
                |it| it.exit = Some(Exit::NotStarted),
                |it| it.lock = LockUse::TimedOut(Vec::new()),
                |it| it.lock = LockUse::Unavailable("why".into()),
                |it| it.recovered.push("/c".into()),
                |it| it.notes.push("a note".into()),
            ];
            for change in changes {
                let mut changed = outcome.clone();
                change(&mut changed);
                prop_assert!(is_remarkable(&changed), "{}", line(&changed));
            }
            if let Some(first) = outcome.attempts.first().cloned() {
                outcome.attempts.push(first);
                prop_assert!(is_remarkable(&outcome));
                prop_assert!(line(&outcome).contains(", 2 attempts"));
            }
        }
    }
}
