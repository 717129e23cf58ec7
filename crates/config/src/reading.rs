//! Turns the file into values. Each mistake is reported and costs only its own value.

use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::keys::{KEYS, Key};
use crate::locate::open;
use crate::values::Config;

const PATH: &str = "FROSTLOCK_CONFIG";
const DEFAULT_PATH: &str = "/etc/frostlock/config.toml";

/// The example with every key is 3 KB; anything larger than this is not a configuration, and every
/// command reads it.
const MAX_BYTES: u64 = 64 * 1024;

/// Keys of earlier versions, which a file may still have, and tables that no longer exist at all.
const RETIRED: &[(&str, &str)] = &[
    ("refill", "lift has taken its place"),
    ("kill", "nobody waits for a kill any more"),
    ("lock.resume_wait_ms", "lock.shared_wait_ms holds for resume as well"),
    ("lock.hold_max_ms", "it is always 2000 ms"),
    ("retry.first_delay_ms", "it is always 100 ms, or one period of the CPU controller"),
    ("retry.max_delay_ms", "with three attempts at most the delays stay below 300 ms"),
    ("retry.thaw_wait_ms", "it is always 300 ms"),
    ("freeze", "freeze.frozen_wait_ms is always 1000 ms"),
    ("delete", "delete.leftovers_wait_ms is always 1000 ms"),
];

/// The result of reading a file.
#[derive(Debug, Default)]
pub struct Reading {
    pub config: Config,
    pub mistakes: Vec<Mistake>,
    /// The full names of the keys whose value comes from the file.
    pub set: Vec<String>,
}

/// A mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The table, if it is in one, and the key. Empty if the file cannot be read at all.
    pub at: Vec<String>,
    /// The byte at which the parser gave up, if it did.
    pub offset: Option<usize>,
    pub what: String,
}

/// The file to read.
pub fn path() -> PathBuf {
    std::env::var_os(PATH).unwrap_or_else(|| DEFAULT_PATH.into()).into()
}

impl Config {
    /// Reads `FROSTLOCK_CONFIG`, or /etc/frostlock/config.toml. Its mistakes come back as lines for the
    /// log.
    pub fn load() -> (Config, Vec<String>) {
        let (path, named) = (path(), std::env::var_os(PATH).is_some());
        match text(&path) {
            Ok(text) => Config::parse(&text, &path),
            Err(error) if error.kind() == ErrorKind::NotFound && !named => Default::default(),
            Err(error) => {
                let line = format!("cannot read {}, using defaults: {error}", path.display());
                (Config::default(), vec![line])
            }
        }
    }

    /// The configuration in this text; `path` is only for the messages.
    pub fn parse(text: &str, path: &Path) -> (Config, Vec<String>) {
        let Reading { config, mistakes, .. } = Config::read(text);
        (config, mistakes.iter().map(|mistake| mistake.complaint(path)).collect())
    }

    /// The same for a caller that wants to know which value comes from where.
    pub fn read(text: &str) -> Reading {
        match text.parse::<toml::Table>() {
            Ok(table) => Config::from_table(&table),
            Err(error) => {
                // The full error shows the source line over several lines.
                let what = error.message().to_owned();
                let offset = error.span().map(|span| span.start);
                let mistakes = vec![Mistake { at: Vec::new(), offset, what }];
                Reading { mistakes, ..Reading::default() }
            }
        }
    }

    fn from_table(table: &toml::Table) -> Reading {
        let mut reading = Reading { mistakes: unknown_keys(table), ..Reading::default() };
        for key in KEYS {
            match key.find(table).map(|value| key.set(&mut reading.config, value).is_some()) {
                Some(true) => reading.set.push(key.name.to_owned()),
                Some(false) => {
                    let at = key.name.split('.').map(str::to_owned).collect();
                    let what = format!("not {}, using the default", key.needs());
                    reading.mistakes.push(Mistake { at, offset: None, what });
                }
                None => {}
            }
        }
        reading
    }
}

/// The text of a configuration file.
///
/// /dev/null is how a configuration is switched off.
pub fn text(path: &Path) -> io::Result<String> {
    let file = open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_char_device() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_BYTES} bytes")));
    }
    Ok(text)
}

impl Mistake {
    fn unknown(at: Vec<String>, what: impl Into<String>) -> Mistake {
        Mistake { at, offset: None, what: what.into() }
    }

    /// One line for the log.
    fn complaint(&self, path: &Path) -> String {
        let (path, what) = (path.display(), &self.what);
        match self.at.as_slice() {
            [] => format!("cannot read {path}, using defaults: {what}"),
            _ => format!("{path}: {}: {what}", self.key()),
        }
    }

    /// The key with its table.
    pub fn key(&self) -> String {
        self.at.join(".").escape_default().to_string()
    }
}

/// Keys of earlier versions come first: whoever has set one expects it to work.
fn unknown_keys(file: &toml::Table) -> Vec<Mistake> {
    let (mut retired, mut unknown) = (Vec::new(), Vec::new());
    for at in places(file).into_iter().filter(|at| !is_known(at)) {
        match RETIRED.iter().find(|(name, _)| at.join(".") == *name) {
            Some((_, why)) => {
                retired.push(Mistake::unknown(at, format!("does nothing any more: {why}")));
            }
            None => unknown.push(Mistake::unknown(at, "unknown key")),
        }
    }
    retired.append(&mut unknown);
    retired
}

/// All places in a file that have a value: a key at the top, a key in a table with present or retired
/// keys, or an unknown table as a whole.
fn places(file: &toml::Table) -> Vec<Vec<String>> {
    let retired = RETIRED.iter().filter_map(|(name, _)| name.split_once('.'));
    let tables = KEYS.iter().filter_map(Key::table).chain(retired.map(|(table, _)| table));
    let has_keys = |table: &str| tables.clone().any(|it| it == table);
    let of = |(name, value): (&String, &toml::Value)| match value {
        toml::Value::Table(inner) if has_keys(name) => {
            inner.keys().map(|it| vec![name.clone(), it.clone()]).collect()
        }
        _ => vec![vec![name.clone()]],
    };
    file.iter().flat_map(of).collect()
}

fn is_known(at: &[String]) -> bool {
    KEYS.iter().any(|key| at.iter().map(String::as_str).eq(key.name.split('.')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::{History, Hook, Journal, Lift, Lock, Log, Mode, Retry, Syslog};

    fn parse(text: &str) -> (Config, Vec<String>) {
        Config::parse(text, Path::new("c"))
    }

    #[test]
    fn every_key_is_read() {
        let (config, complaints) = parse(
            "runtime = 'crun'\nmode = 'lock'\n[lock]\nexclusive_wait_ms = 1\nshared_wait_ms = 2\n\
             [retry]\ndeadline_ms = 3\n[lift]\nenabled = false\nprogram_ms = 4\npod_percent = 5\n\
             node_percent = 6\n[hook]\nwait_ms = 7\n[journal]\nmax_kib = 64\n[history]\n\
             enabled = false\ndirectory = '/h'\nmax_mib = 8\nmax_days = 9\n[log]\nsyslog = 'all'\n",
        );
        assert_eq!(complaints, Vec::<String>::new());
        let expected = Config {
            runtime: Some("crun".into()),
            mode: Mode::Lock,
            lock: Lock { exclusive_wait_ms: 1, shared_wait_ms: 2 },
            retry: Retry { deadline_ms: 3 },
            lift: Lift { enabled: false, program_ms: 4, pod_percent: 5, node_percent: 6 },
            hook: Hook { wait_ms: 7 },
            journal: Journal { max_kib: 64 },
            history: History {
                enabled: false,
                directory: Some("/h".into()),
                max_mib: 8,
                max_days: 9,
            },
            log: Log { syslog: Syslog::All },
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn one_bad_value_costs_only_itself() {
        let (config, complaints) = parse(
            "mode = 'fast'\nfoo = 1\n'lock.shared_wait_ms' = 1\n[lock]\nshared_wait_ms = 99999\n\
             exclusive_wait_ms = 100\nbar = 1\n[baz]\nmode = 'lock'\n",
        );
        let lock = Lock { exclusive_wait_ms: 100, ..Config::default().lock };
        assert_eq!(config, Config { lock, ..Config::default() });
        assert_eq!(
            complaints,
            [
                "c: baz: unknown key",
                "c: foo: unknown key",
                "c: lock.bar: unknown key",
                "c: lock.shared_wait_ms: unknown key",
                "c: mode: not observe, lock or full, using the default",
                "c: lock.shared_wait_ms: not a number of ms from 0 to 1500, using the default",
            ]
        );
    }

    #[test]
    fn what_an_earlier_version_had_is_accepted_with_a_line_that_says_so() {
        let (config, complaints) = parse(
            "[refill]\nstart = false\nmax_ms = 7\n[kill]\nwait_ms = 1\n[lock]\nhold_max_ms = 400\n\
             shared_wait_ms = 7\n[freeze]\nfrozen_wait_ms = 9\n",
        );
        let lock = Lock { shared_wait_ms: 7, ..Config::default().lock };
        assert_eq!(config, Config { lock, ..Config::default() });
        assert_eq!(
            complaints,
            [
                "c: freeze: does nothing any more: freeze.frozen_wait_ms is always 1000 ms",
                "c: kill: does nothing any more: nobody waits for a kill any more",
                "c: lock.hold_max_ms: does nothing any more: it is always 2000 ms",
                "c: refill: does nothing any more: lift has taken its place",
            ]
        );
    }

    #[test]
    fn the_switch_that_syslog_was_still_holds() {
        let of = |value: &str| parse(&format!("[log]\nsyslog = {value}\n")).0.log.syslog;
        assert_eq!(["true", "'all'"].map(of), [Syslog::All; 2]);
        assert_eq!(["false", "'off'"].map(of), [Syslog::Off; 2]);
        assert_eq!(["'remarkable'", "1", "'some'"].map(of), [Syslog::Remarkable; 3]);
    }

    #[test]
    fn a_broken_file_is_one_line() {
        let (config, complaints) = parse("mode = = \n");
        assert_eq!(config, Config::default());
        assert_eq!(complaints.len(), 1);
        assert!(!complaints[0].contains('\n'));
    }
}
