//! The runtime's own log (`--log`), kept apart for each attempt.
//!
//! containerd shows the last `error` entry of the whole file as *the* error, even one of an earlier
//! command. An attempt that was followed by a success must leave none. So the runtime writes into an
//! anonymous file of ours, which it opens by its path under /proc, and what the last attempt wrote is
//! appended to the caller's file. Nothing stays in the bundle, whenever we are killed, and no
//! descriptor of ours gets into a container.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::fstat;
use nix::unistd::{AccessFlags, access};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::invocation::Globals;
use cgroup::RuntimeKind;
use cgroup::process;

/// How much of an attempt's log is searched for its last error.
const TAIL_BYTES: u64 = 64 * 1024;

/// The caller's log, and what the current attempt has written.
#[derive(Debug)]
pub(crate) struct RuntimeLog {
    path: PathBuf,
    /// The file that the runtime was to append to. A missing one is not made before it is needed: a
    /// runtime that refuses its command line ends before it opens its log.
    callers: Option<File>,
    attempt: File,
    /// How much of the attempt's log the caller already has.
    passed_on: u64,
}

impl RuntimeLog {
    /// Redirects `--log`, if it names a plain file. Returns the arguments for the runtime. `None`
    /// leaves the log to the runtime: without a log, with one that is a journal or a FIFO, and with one
    /// that cannot be opened, which the runtime will report itself.
    pub(crate) fn redirect(
        kind: RuntimeKind,
        globals: &Globals,
        args: &[OsString],
    ) -> Option<(RuntimeLog, Vec<OsString>)> {
        let path = globals.log_file(kind)?;
        let callers = find(&path).ok()?;
        let attempt = File::from(sys::memfd(c"frostlock-log").ok()?);
        let ours = format!("/proc/{}/fd/{}", process::own_pid(), attempt.as_raw_fd());
        // A file that another process has open under that number must not be written to.
        File::open(&ours).ok().filter(|there| is_same(there, &attempt))?;
        let args = globals.log.as_ref()?.replaced(args, OsStr::new(&ours));
        Some((RuntimeLog { path, callers, attempt, passed_on: 0 }, args))
    }

    /// Forgets what the last attempt wrote.
    pub(crate) fn begin_attempt(&mut self) -> io::Result<()> {
        self.passed_on = 0;
        self.attempt.set_len(0)
    }

    /// Gives the caller what the current attempt has logged and the caller does not have yet; from here
    /// on nothing is retried. It appends all at once, so that no other writer's line falls in between.
    /// If the runtime has `opened` its log, the file exists afterwards, even if empty: containerd
    /// distinguishes "no log" from "no reason given".
    pub(crate) fn pass_on(&mut self, opened: bool) {
        let _ = self.try_pass_on(opened);
    }

    fn try_pass_on(&mut self, opened: bool) -> io::Result<()> {
        let news = read_from(&mut self.attempt, self.passed_on)?;
        if opened {
            self.callers()?;
        }
        if !news.is_empty() {
            self.callers()?.write_all(&news)?;
            self.passed_on += news.len() as u64;
        }
        Ok(())
    }

    fn callers(&mut self) -> io::Result<&mut File> {
        match &mut self.callers {
            Some(file) => Ok(file),
            absent => Ok(absent.insert(open(&self.path)?)),
        }
    }

    /// The runtime's error, in whatever format.
    pub(crate) fn last_error(&mut self) -> Option<String> {
        let (tail, _) = self.tail()?;
        last_error(&tail)
    }

    /// The same, complete from the first character to the last; nothing if that cannot be determined.
    pub(crate) fn whole_error(&mut self) -> Option<String> {
        let (tail, is_cut) = self.tail()?;
        match tail.split_once('\n') {
            Some((_, whole_lines)) if is_cut => whole_error(whole_lines),
            None if is_cut => None,
            _ => whole_error(&tail),
        }
    }

    /// The end of the attempt's log, and whether more comes before it.
    fn tail(&mut self) -> Option<(String, bool)> {
        let length = self.attempt.metadata().ok()?.len();
        let tail = read_from(&mut self.attempt, length.saturating_sub(TAIL_BYTES)).ok()?;
        Some((String::from_utf8_lossy(&tail).into_owned(), length > TAIL_BYTES))
    }

    /// Adds `why` to the last error of the attempt. Gives whether there was one.
    pub(crate) fn explain(&mut self, why: &str) -> bool {
        self.passed_on == 0 && explain_in(&mut self.attempt, why).unwrap_or(false)
    }
}

/// Adds `why` to the last error in a file that the runtime has written; gives whether there was one.
pub(crate) fn explain_in(file: &mut File, why: &str) -> io::Result<bool> {
    let log = read_from(file, 0)?;
    let Some(explained) = explained(&log, why) else { return Ok(false) };
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&explained)?;
    Ok(true)
}

fn read_from(file: &mut File, start: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The log with ` (why)` after the text of its last error, before the closing quote if it has one. None
/// of the runtime's own bytes changes.
pub fn explained(log: &[u8], why: &str) -> Option<Vec<u8>> {
    // crun 1.28 writes an entry over several lines.
    let (offset, addition) = place_in_entries(log, why).or_else(|| place_in_lines(log, why))?;
    Some([&log[..offset], addition.as_bytes(), &log[offset..]].concat())
}

fn place_in_lines(log: &[u8], why: &str) -> Option<(usize, String)> {
    let (mut at, mut last_line, mut last_error) = (0, None, None);
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        match place_in(line, why) {
            Place::Error(offset, addition) => last_error = Some((at + offset, addition)),
            Place::Line(offset, addition) => last_line = Some((at + offset, addition)),
            Place::None => {}
        }
        at += line.len();
    }
    last_error.or(last_line)
}

/// Where to insert it in a log that has only entries in JSON.
fn place_in_entries(log: &[u8], why: &str) -> Option<(usize, String)> {
    let text = std::str::from_utf8(log).ok()?;
    let mut last_error = None;
    for entry in serde_json::Deserializer::from_str(text).into_iter::<Quoted<'_>>() {
        let entry = entry.ok()?;
        last_error = place_in_entry(&entry, text, why).or(last_error);
    }
    last_error
}

/// Before the closing quote of an error's message.
fn place_in_entry(entry: &Quoted<'_>, text: &str, why: &str) -> Option<(usize, String)> {
    let message = entry.msg.get();
    let start = message.as_ptr() as usize - text.as_ptr() as usize;
    let quoted = serde_json::Value::from(format!(" ({why})")).to_string();
    let is_error = entry.level.eq_ignore_ascii_case("error") && message.ends_with('"');
    is_error.then(|| (start + message.len() - 1, quoted[1..quoted.len() - 1].to_owned()))
}

/// Where in a line an explanation goes, and in which form.
enum Place {
    Error(usize, String),
    /// A line that names no level, as crun's lines do.
    Line(usize, String),
    None,
}

fn place_in(line: &[u8], why: &str) -> Place {
    let Ok(text) = std::str::from_utf8(line) else { return Place::None };
    let text = text.trim_end();
    if text.is_empty() {
        return Place::None;
    }
    if let Ok(entry) = serde_json::from_str::<Quoted<'_>>(text) {
        return match place_in_entry(&entry, text, why) {
            Some((offset, addition)) => Place::Error(offset, addition),
            None => Place::None,
        };
    }
    if text.contains("level=error") {
        return match (text.contains("msg=\""), text.ends_with('"')) {
            (true, true) => {
                let escaped = why.replace('\\', "\\\\").replace('"', "\\\"");
                Place::Error(text.len() - 1, format!(" ({escaped})"))
            }
            _ => Place::Error(text.len(), format!(" ({why})")),
        };
    }
    if text.contains("level=") {
        return Place::None;
    }
    Place::Line(text.len(), format!(" ({why})"))
}

/// An entry whose message is left as it is written.
#[derive(Deserialize)]
struct Quoted<'a> {
    level: String,
    #[serde(borrow, alias = "message")]
    msg: &'a serde_json::value::RawValue,
    /// See [`Entry`].
    #[serde(flatten)]
    _others: IgnoredAny,
}

/// Whether two descriptors are of the same file.
pub(crate) fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// Opens the caller's log, if it is there. An error if the runtime would have one, or if the log has a
/// reader.
fn find(path: &Path) -> io::Result<Option<File>> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => open(path).map(Some),
        Ok(_) => Err(io::Error::other("not a regular file")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // It is not worth finding out where a dangling link leads.
            if std::fs::symlink_metadata(path).is_ok() {
                return open(path).map(Some);
            }
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            access(parent.unwrap_or(Path::new(".")), AccessFlags::W_OK | AccessFlags::X_OK)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Opens it with the same flags and mode as runc (main.go, O_CREATE|O_WRONLY|O_APPEND, 0644), but never
/// waits for the reader of a FIFO.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
}

/// Whether a log that could not be redirected has a reader who would see every attempt's errors, as a
/// FIFO does. /dev/null has none, and crun's journals are for people.
pub(crate) fn is_read_as_it_comes(kind: RuntimeKind, globals: &Globals) -> bool {
    globals.log_file(kind).is_some_and(|path| {
        !std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device())
    })
}

/// An entry as logrus (runc), crun and youki's tracing write it.
#[derive(Deserialize)]
struct Entry {
    level: String,
    #[serde(alias = "message")]
    msg: String,
    /// Without it serde would take an array of two strings for an entry, too.
    #[serde(flatten)]
    _others: IgnoredAny,
}

/// The last error of a log. With JSON entries it is the last entry of that level. With text it is the
/// last line that names the level, or simply the last line, because crun's text names no level.
pub fn last_error(log: &str) -> Option<String> {
    let mut last_line = None;
    let mut last_error = None;
    for line in log.lines().filter(|line| !line.trim().is_empty()) {
        match serde_json::from_str::<Entry>(line) {
            Ok(entry) if entry.level.eq_ignore_ascii_case("error") => last_error = Some(entry.msg),
            Ok(_) => {}
            Err(_) if line.contains("level=error") => last_error = Some(unquoted(line)),
            Err(_) if line.contains("level=") => {}
            Err(_) => last_line = Some(line.trim().to_owned()),
        }
    }
    last_error.or(last_line)
}

/// The `msg` of a line of logrus text, which quotes as Go does.
fn unquoted(line: &str) -> String {
    let message = line.split_once("msg=").map_or(line, |(_, message)| message.trim());
    let quoted = message.strip_prefix('"').and_then(|message| message.strip_suffix('"'));
    quoted.map_or_else(|| message.to_owned(), |inner| inner.replace("\\\"", "\""))
}

/// The last error of a log, complete. A single line does not tell where it comes from: crun's text, and
/// what runc prints beside its log, contain raw line breaks, and so may the output of a hook. So either
/// all of it is entries, in which line breaks are quoted, or all of it is one message.
pub fn whole_error(log: &str) -> Option<String> {
    let lines = || log.lines().filter(|line| !line.trim().is_empty());
    let last_of = |entries: Vec<Entry>| {
        let mut errors = entries.into_iter().filter(Entry::is_error);
        errors.next_back().map(|entry| entry.msg)
    };
    // crun 1.28 writes an entry over several lines.
    let json = serde_json::Deserializer::from_str(log).into_iter::<Entry>();
    if let Ok(entries) = json.collect::<Result<Vec<_>, _>>() {
        return last_of(entries);
    }
    if let Some(entries) = lines().map(Entry::of_logrus).collect::<Option<Vec<_>>>() {
        return last_of(entries);
    }
    Some(log.trim().to_owned())
}

impl Entry {
    fn is_error(&self) -> bool {
        self.level.eq_ignore_ascii_case("error")
    }

    /// `time="..." level=error msg="..."`, with further fields if runc was told to debug.
    fn of_logrus(line: &str) -> Option<Entry> {
        let (_time, rest) = line.strip_prefix("time=\"")?.split_once("\" level=")?;
        let (level, message) = rest.split_once(" msg=")?;
        let msg = match message.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => message.split(' ').next()?.to_owned(),
        };
        Some(Entry { level: level.to_owned(), msg, _others: IgnoredAny })
    }
}

/// Undoes Go's quoting (strconv.Quote), from behind the opening quote to the closing one. Control
/// characters with a number do not occur in the messages we look for, and stay as written.
fn unquote(quoted: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => match characters.next()? {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                quoted @ ('"' | '\\') => text.push(quoted),
                other => text.extend(['\\', other]),
            },
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Lines that are not errors, and remains of lines after a crash or on a full disk.
    fn other_lines() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            Just("{\"level\":\"debug\",\"msg\":\"level=error\"}".to_owned()),
            Just("time=\"t\" level=warning msg=\"w\"".to_owned()),
            Just("{\"level\":\"info\",\"msg\":\"to".to_owned()),
            vec(any::<u8>(), 0..60).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        ];
        vec(line, 0..6).prop_map(|lines| lines.join("\n") + "\n")
    }

    proptest! {
        #[test]
        fn any_log_can_be_read(bytes in vec(any::<u8>(), 0..400), cut in any::<prop::sample::Index>()) {
            let log = "{\"level\":\"error\",\"msg\":\"m\"}\ntime=\"t\" level=error msg=\"a \\\"b\"\n";
            let cut = &log[cut.index(log.len())..];
            for bytes in [&bytes, cut.as_bytes()] {
                let log = String::from_utf8_lossy(bytes);
                let error = last_error(&log);
                prop_assert!(error.is_none_or(|error| error.len() <= log.len()));
            }
        }

        #[test]
        fn the_last_error_is_found_whatever_was_there(before in other_lines(), message in any::<String>()) {
            let json = serde_json::json!({ "level": "error", "msg": message, "time": "t" });
            let log = format!("{before}{json}\n{{\"level\":\"debug\",\"msg\":\"bye\"}}\n");
            prop_assert_eq!(last_error(&log), Some(message));
        }

        #[test]
        fn quoted_text_is_found(before in other_lines(), message in "[ -\\[\\]-~]{0,40}") {
            let quoted = message.replace('"', "\\\"");
            let log = format!("{before}time=\"t\" level=error msg=\"{quoted}\"\n");
            prop_assert_eq!(last_error(&log), Some(message));
        }
    }

    #[test]
    fn a_whole_error_of_every_format() {
        const REFUSED: &str = "exec failed: cannot \"exec\"";
        for log in [
            "{\"level\":\"error\",\"msg\":\"exec failed: cannot \\\"exec\\\"\",\"time\":\"t\"}\n",
            "{\"level\":\"error\",\"msg\":\"old\"}\n{\"level\":\"error\",\"msg\":\"exec failed: cannot \\\"exec\\\"\"}\n{\"level\":\"debug\",\"msg\":\"bye\"}\n",
            // As crun 1.28 writes it.
            "{\n  \"msg\": \"exec failed: cannot \\\"exec\\\"\",\n  \"level\": \"error\",\n  \"time\": \"t\"\n}\n",
            "time=\"t\" level=warning msg=w\ntime=\"t\" level=error msg=\"exec failed: cannot \\\"exec\\\"\"\n",
            // As runc writes it with debug on.
            "time=\"t\" level=error msg=\"exec failed: cannot \\\"exec\\\"\" func=\"main.fatalWithCode()\" file=\"utils.go:62\"\n",
            "exec failed: cannot \"exec\"\n",
        ] {
            assert_eq!(whole_error(log).as_deref(), Some(REFUSED), "{log}");
        }
        assert_eq!(whole_error("time=\"t\" level=error msg=short\n").as_deref(), Some("short"));
        assert_eq!(whole_error("{\"level\":\"info\",\"msg\":\"m\"}\n"), None);
        assert_eq!(whole_error("time=\"t\" level=info msg=\"m\"\n"), None);
    }

    /// What runc prints beside its log when a hook fails with such an output.
    #[test]
    fn a_line_of_a_hooks_is_no_error() {
        for line in [
            "unable to freeze",
            "{\"level\":\"error\",\"msg\":\"unable to freeze\"}",
            "time=\"t\" level=error msg=\"unable to freeze\"",
        ] {
            let said = format!("runc create failed: exit status 3, stdout: , stderr: x\n{line}\n");
            assert_eq!(whole_error(&said).as_deref(), Some(said.trim()));
        }
    }

    #[test]
    fn an_explanation_is_added_and_nothing_changed() {
        let json = "{\"level\":\"error\",\"msg\":\"unable to \\\"freeze\\\"\",\"time\":\"t\"}\n{\"level\":\"debug\",\"msg\":\"bye\"}\n";
        let over_lines =
            "{\n  \"msg\": \"the container `c` is paused\",\n  \"level\": \"error\"\n}";
        let explained_lines = explained(over_lines.as_bytes(), "x").unwrap();
        assert_eq!(
            String::from_utf8(explained_lines).unwrap(),
            over_lines.replace("paused", "paused (x)")
        );
        let explained_json =
            String::from_utf8(explained(json.as_bytes(), "a \"b\" \\").unwrap()).unwrap();
        assert_eq!(
            last_error(&explained_json).as_deref(),
            Some("unable to \"freeze\" (a \"b\" \\)")
        );
        assert!(explained_json.contains("unable to \\\"freeze\\\""));
        let text = b"time=\"t\" level=error msg=\"unable to freeze\"\n";
        assert_eq!(
            explained(text, "why").unwrap(),
            b"time=\"t\" level=error msg=\"unable to freeze (why)\"\n"
        );
        assert_eq!(explained(b"it failed\n\n", "why").unwrap(), b"it failed (why)\n\n");
        assert_eq!(explained(b"time=t level=info msg=x\n", "why"), None);
        assert_eq!(explained(b"", "why"), None);
    }

    #[test]
    fn the_last_error_of_json_whatever_follows_it() {
        let log = "{\"level\":\"error\",\"msg\":\"old\",\"time\":\"t\"}\n\
                   {\"level\":\"error\",\"msg\":\"unable to freeze\",\"time\":\"t\"}\n\
                   {\"level\":\"debug\",\"msg\":\"bye\",\"time\":\"t\"}\n";
        assert_eq!(last_error(log).as_deref(), Some("unable to freeze"));
        assert_eq!(last_error("{\"level\":\"warning\",\"msg\":\"w\",\"time\":\"t\"}\n"), None);
        let youki = "{\"timestamp\":\"t\",\"level\":\"ERROR\",\"message\":\"unable to freeze\"}\n";
        assert_eq!(last_error(youki).as_deref(), Some("unable to freeze"));
    }

    #[test]
    fn the_last_error_of_text() {
        let log = "time=\"t\" level=error msg=\"a \\\"b\\\"\"\ntime=\"t\" level=debug msg=x\n";
        assert_eq!(last_error(log).as_deref(), Some("a \"b\""));
        assert_eq!(
            last_error("2026-11-20T00:00:00Z: it failed\n\n").as_deref(),
            Some("2026-11-20T00:00:00Z: it failed")
        );
        assert_eq!(last_error(""), None);
        let array = "[\"error\", \"it failed\"]";
        assert_eq!(last_error(array).as_deref(), Some(array), "a line like any other");
        assert_eq!(whole_error(array).as_deref(), Some(array));
    }
}
