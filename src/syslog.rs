//! Syslog: an operation in one line, and what we have to say of ourselves.
//!
//! Never blocks: a datagram that the daemon has no room for is lost. An absent daemon is not an
//! error.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, Formatter3164, LogFormat, Severity};

use crate::hook::Report;
use crate::outcome::{Exit, LockUse, Outcome};
use crate::text;

/// Where C libraries look, too.
const SOCKET: &str = "/dev/log";

/// A line of syslog is cut here: many daemons do so at 1024 bytes or a little above.
const LINE_BYTES: usize = 960;

/// The sink of the `log` facade.
#[derive(Debug, Default)]
struct Syslog {
    socket: OnceLock<Option<UnixDatagram>>,
}

static SYSLOG: Syslog = Syslog { socket: OnceLock::new() };

/// Sends what is logged from now on to syslog.
pub fn install() {
    if log::set_logger(&SYSLOG).is_ok() {
        log::set_max_level(LevelFilter::Info);
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
        // As syslog(3) does it: over the local socket the daemon knows the host.
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

/// Says how an operation ended.
pub fn report(outcome: &Outcome) {
    let remarkable = !matches!(outcome.exit, Some(Exit::Code(0)))
        || matches!(outcome.lock, LockUse::TimedOut(_) | LockUse::Unavailable(_))
        || !outcome.notes.is_empty();
    let level = if remarkable { Level::Warn } else { Level::Info };
    log::log!(level, "{}", line(outcome));
}

fn line(outcome: &Outcome) -> String {
    let mut line = format!(
        "{} {}: {}",
        outcome.command().unwrap_or("command"),
        text::one_line(&outcome.id, 128),
        outcome.verdict.as_str(),
    );
    match outcome.exit {
        Some(Exit::Code(code)) if code != 0 => line.push_str(&format!(" (exit status {code})")),
        Some(Exit::Signal(signal)) => line.push_str(&format!(" (signal {signal})")),
        _ => {}
    }
    line.push_str(&format!(
        ", {} ms, waited {} ms for the lock",
        outcome.stages.run.as_millis(),
        outcome.stages.lock_wait.as_millis()
    ));
    if let Some(hook) = &outcome.hook {
        line.push_str(&hook_remark(hook));
    }
    if let Some(remark) = lock_remark(&outcome.lock) {
        line.push_str(&format!(" ({remark})"));
    }
    for note in outcome.notes.iter().filter(|note| !note.is_empty()) {
        line.push_str("; ");
        line.push_str(note);
    }
    line
}

fn hook_remark(hook: &Report) -> String {
    let frozen = hook.frozen.as_ref().map(|dir| format!(" ({dir})")).unwrap_or_default();
    format!(", {}, {}{frozen}", hook.stage, hook.found.as_str())
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
