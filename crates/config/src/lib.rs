//! The configuration: every limit with its unit, range and default, from one table.
//!
//! A file that cannot be read, or a value out of range, never stops an operation: the default
//! stands, and one line says so.

pub mod locate;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATH: &str = "FROSTLOCK_CONFIG";
const DEFAULT_PATH: &str = "/etc/frostlock/config.toml";

/// The example with every key is 3 KB; what is larger than this is not a configuration, and every
/// command reads it.
const MAX_BYTES: u64 = 64 * 1024;

/// Tables and keys of earlier versions, which a file may still have.
const RETIRED: &[(&str, &str)] =
    &[("refill", "lift has taken its place"), ("kill", "nobody waits for a kill any more")];

/// How much of what we can do is done, so that an operator can grow trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Runs as bare, only records.
    Observe,
    /// Serializes and records.
    Lock,
    Full,
}

/// Which operations syslog hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syslog {
    Off,
    /// Those that a person may have to look at.
    Remarkable,
    All,
}

/// What a file comes to.
#[derive(Debug, Default)]
pub struct Reading {
    pub config: Config,
    pub mistakes: Vec<Mistake>,
    /// The full names of the keys that have their value from the file.
    pub set: Vec<String>,
}

/// Something that a file has wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The table, if it is in one, and the key; empty: the file cannot be read as a whole.
    pub at: Vec<String>,
    /// The byte where reading came to its end, of a file that cannot be read.
    pub offset: Option<usize>,
    pub what: String,
}

/// A key and its value, for people.
#[derive(Debug)]
pub struct Setting {
    /// With its table, as `lock.hold_max_ms`.
    pub name: String,
    /// As TOML; none is a name that is not set.
    pub value: Option<String>,
    /// As TOML; of a name, what holds without one in most places.
    pub default: String,
    /// With its unit.
    pub range: Option<String>,
    pub about: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub runtime: Option<OsString>,
    pub mode: Mode,
    pub exclusive_wait_ms: u64,
    pub shared_wait_ms: u64,
    pub resume_wait_ms: u64,
    pub hold_max_ms: u64,
    pub retry_deadline_ms: u64,
    pub retry_first_delay_ms: u64,
    pub retry_max_delay_ms: u64,
    pub thaw_wait_ms: u64,
    pub frozen_wait_ms: u64,
    pub lift_enabled: bool,
    pub lift_program_ms: u64,
    pub lift_pod_percent: u64,
    pub lift_node_percent: u64,
    pub leftovers_wait_ms: u64,
    pub hook_wait_ms: u64,
    pub journal_max_kib: u64,
    pub history_enabled: bool,
    pub history_directory: Option<OsString>,
    pub history_max_mib: u64,
    pub history_max_days: u64,
    pub syslog: Syslog,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            runtime: None,
            mode: Mode::Full,
            exclusive_wait_ms: 1000,
            shared_wait_ms: 500,
            resume_wait_ms: 500,
            hold_max_ms: 2000,
            retry_deadline_ms: 9000,
            retry_first_delay_ms: 100,
            retry_max_delay_ms: 400,
            thaw_wait_ms: 300,
            frozen_wait_ms: 1000,
            lift_enabled: true,
            lift_program_ms: 50,
            lift_pod_percent: 5,
            lift_node_percent: 20,
            leftovers_wait_ms: 1000,
            hook_wait_ms: 2000,
            journal_max_kib: 4096,
            history_enabled: true,
            history_directory: None,
            history_max_mib: 64,
            history_max_days: 30,
            syslog: Syslog::Remarkable,
        }
    }
}

/// What a key holds, and where it goes.
enum Kind {
    Name { unset: &'static str, field: fn(&mut Config) -> &mut Option<OsString> },
    Mode,
    Syslog,
    Switch(fn(&mut Config) -> &mut bool),
    Number { unit: &'static str, min: u64, max: u64, field: fn(&mut Config) -> &mut u64 },
}

struct Key {
    table: Option<&'static str>,
    name: &'static str,
    kind: Kind,
    about: &'static str,
}

/// The upper bounds keep every wait below the deadlines of the callers: containerd asks for a state
/// within 2 s and cleans up after a dead shim within 5 s.
const KEYS: &[Key] = &[
    Key {
        table: None,
        name: "runtime",
        kind: Kind::Name { unset: "runc", field: |config| &mut config.runtime },
        about: "The runtime that does the work: a name that is looked up in PATH, or an absolute\n\
                path. Unset: runc, then crun, the first found in PATH.",
    },
    Key {
        table: None,
        name: "mode",
        kind: Kind::Mode,
        about: "How much is done: \"observe\" runs as bare and only records, \"lock\" serializes as\n\
                well, \"full\" does everything.",
    },
    Key {
        table: Some("lock"),
        name: "exclusive_wait_ms",
        kind: Kind::Number {
            unit: "ms",
            min: 0,
            max: 4000,
            field: |config| &mut config.exclusive_wait_ms,
        },
        about: "How long create, run, restore, update, pause, checkpoint and delete wait for the\n\
                lock of their cgroup before they go ahead without it.",
    },
    Key {
        table: Some("lock"),
        name: "shared_wait_ms",
        kind: Kind::Number {
            unit: "ms",
            min: 0,
            max: 1500,
            field: |config| &mut config.shared_wait_ms,
        },
        about: "The same for start, exec and state.",
    },
    Key {
        table: Some("lock"),
        name: "resume_wait_ms",
        kind: Kind::Number {
            unit: "ms",
            min: 0,
            max: 1500,
            field: |config| &mut config.resume_wait_ms,
        },
        about: "The same for resume.",
    },
    Key {
        table: Some("lock"),
        name: "hold_max_ms",
        kind: Kind::Number {
            unit: "ms",
            min: 100,
            max: 10_000,
            field: |config| &mut config.hold_max_ms,
        },
        about: "How long a run or exec in the foreground keeps the lock at most, should we not see\n\
                its process start.",
    },
    Key {
        table: Some("retry"),
        name: "deadline_ms",
        kind: Kind::Number {
            unit: "ms",
            min: 0,
            max: 9000,
            field: |config| &mut config.retry_deadline_ms,
        },
        about: "How long an operation may take in all, from the wait for its lock to the end of its last\n\
                attempt. Further attempts of create and run have 9 s at most, those of update and pause\n\
                3 s, those of exec 800 ms. 0 is no retry.",
    },
    Key {
        table: Some("retry"),
        name: "first_delay_ms",
        kind: Kind::Number {
            unit: "ms",
            min: 1,
            max: 2000,
            field: |config| &mut config.retry_first_delay_ms,
        },
        about: "The delay before the second attempt; it doubles with every further one, varies by a\n\
                quarter, and is never less than one period of the CPU controller.",
    },
    Key {
        table: Some("retry"),
        name: "max_delay_ms",
        kind: Kind::Number {
            unit: "ms",
            min: 1,
            max: 4000,
            field: |config| &mut config.retry_max_delay_ms,
        },
        about: "The longest such delay.",
    },
    Key {
        table: Some("retry"),
        name: "thaw_wait_ms",
        kind: Kind::Number {
            unit: "ms",
            min: 0,
            max: 1000,
            field: |config| &mut config.thaw_wait_ms,
        },
        about: "How long an exec that was refused as paused waits for the end of a freeze that nobody\n\
                asked for. runc tries for about 250 ms to freeze a cgroup.",
    },
    Key {
        table: Some("freeze"),
        name: "frozen_wait_ms",
        kind: Kind::Number {
            unit: "ms",
            min: 0,
            max: 1500,
            field: |config| &mut config.frozen_wait_ms,
        },
        about: "How long a pause whose runtime has returned 0 waits for the kernel to say FROZEN. crun\n\
                writes the file and does not look.",
    },
    Key {
        table: Some("lift"),
        name: "enabled",
        kind: Kind::Switch(|config| &mut config.lift_enabled),
        about: "Whether the threads that an operation waits for are lifted above the fair scheduling\n\
                class (SCHED_RR, priority 1) where they get no CPU.",
    },
    Key {
        table: Some("lift"),
        name: "program_ms",
        kind: Kind::Number {
            unit: "ms of CPU time",
            min: 0,
            max: 1000,
            field: |config| &mut config.lift_program_ms,
        },
        about: "What the command of one exec, as a probe's, and its descendants may use of that. 0: the\n\
                runtime's own work alone.",
    },
    Key {
        table: Some("lift"),
        name: "pod_percent",
        kind: Kind::Number {
            unit: "% of one CPU",
            min: 0,
            max: 100,
            field: |config| &mut config.lift_pod_percent,
        },
        about: "What all such commands of one pod may use over time.",
    },
    Key {
        table: Some("lift"),
        name: "node_percent",
        kind: Kind::Number {
            unit: "% of all CPUs",
            min: 0,
            max: 90,
            field: |config| &mut config.lift_node_percent,
        },
        about: "What may be lifted on the node over time, whatever it is for.",
    },
    Key {
        table: Some("delete"),
        name: "leftovers_wait_ms",
        kind: Kind::Number {
            unit: "ms",
            min: 0,
            max: 4000,
            field: |config| &mut config.leftovers_wait_ms,
        },
        about: "How long delete tries to remove the cgroups that its runtime has left, at most.",
    },
    Key {
        table: Some("hook"),
        name: "wait_ms",
        kind: Kind::Number {
            unit: "ms",
            min: 0,
            max: 4000,
            field: |config| &mut config.hook_wait_ms,
        },
        about: "How long `frostlock hook` waits before a container starts until neither its cgroup nor\n\
                one above is frozen.",
    },
    Key {
        table: Some("journal"),
        name: "max_kib",
        kind: Kind::Number {
            unit: "KiB",
            min: 64,
            max: 1_048_576,
            field: |config| &mut config.journal_max_kib,
        },
        about: "The journal is rotated at this size; one older file is kept.",
    },
    Key {
        table: Some("history"),
        name: "enabled",
        kind: Kind::Switch(|config| &mut config.history_enabled),
        about: "Whether the same records also go to disk, where they outlive a reboot.",
    },
    Key {
        table: Some("history"),
        name: "directory",
        kind: Kind::Name {
            unset: "/var/log/frostlock",
            field: |config| &mut config.history_directory,
        },
        about: "Where: an absolute path. Unset: /var/log/frostlock, if the state directory is\n\
                /run/frostlock, else nowhere.",
    },
    Key {
        table: Some("history"),
        name: "max_mib",
        kind: Kind::Number {
            unit: "MiB",
            min: 1,
            max: 65_536,
            field: |config| &mut config.history_max_mib,
        },
        about: "What its files may take together; the oldest sixteenth goes first.",
    },
    Key {
        table: Some("history"),
        name: "max_days",
        kind: Kind::Number {
            unit: "days",
            min: 1,
            max: 3650,
            field: |config| &mut config.history_max_days,
        },
        about: "When a file of it goes at the latest, after its last record.",
    },
    Key {
        table: Some("log"),
        name: "syslog",
        kind: Kind::Syslog,
        about: "Which operations are also one line in syslog: \"remarkable\" (failed, killed, retried, thawed\n\
                something, went ahead without the lock, or have a note), \"all\" or \"off\". As before,\n\
                true is \"all\" and false is \"off\".",
    },
];

/// The file that is read.
pub fn path() -> PathBuf {
    std::env::var_os(PATH).unwrap_or_else(|| DEFAULT_PATH.into()).into()
}

impl Config {
    /// `FROSTLOCK_CONFIG`, or /etc/frostlock/config.toml. What was wrong with it comes back as lines
    /// for the log.
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

    /// What a file with this text configures; `path` only names it in the complaints.
    pub fn parse(text: &str, path: &Path) -> (Config, Vec<String>) {
        let Reading { config, mistakes, .. } = Config::read(text);
        (config, mistakes.iter().map(|mistake| mistake.complaint(path)).collect())
    }

    /// The same for somebody who wants to know what comes from where.
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
            match key.find(table).map(|value| key.set(&mut reading.config, value)) {
                Some(Ok(())) => reading.set.push(key.full_name()),
                Some(Err(reason)) => {
                    let at = key.table.into_iter().chain([key.name]).map(str::to_owned).collect();
                    let what = format!("{reason}, using the default");
                    reading.mistakes.push(Mistake { at, offset: None, what });
                }
                None => {}
            }
        }
        reading
    }

    /// Every key, in the order of the example.
    pub fn settings(&self) -> Vec<Setting> {
        let mut config = self.clone();
        let setting = |key: &Key| Setting {
            name: key.full_name(),
            value: key.value(&mut config),
            default: key.default(),
            range: key.range(),
            about: key.about.replace('\n', " "),
        };
        KEYS.iter().map(setting).collect()
    }

    /// The commented example that is kept in the repository.
    pub fn example() -> String {
        let mut text = String::from(
            "# frostlock: every key with its default. Without this file the defaults hold.\n\
             # A value that is wrong is reported in the journal and in syslog, and its default holds.\n",
        );
        let mut table = None;
        for key in KEYS {
            if key.table != table {
                table = key.table;
                text.push_str(&format!("\n[{}]\n", table.unwrap_or_default()));
            }
            text.push_str(&key.example());
        }
        text
    }

    /// The same as a table for docs/configuration.md.
    pub fn table() -> String {
        let mut text = String::from("| key | default | range | what it is |\n|---|---|---|---|\n");
        for key in KEYS {
            let about = key.about.replace('\n', " ");
            text.push_str(&format!(
                "| `{}` | {} | {} | {about} |\n",
                key.full_name(),
                key.default(),
                key.range().unwrap_or_default()
            ));
        }
        text
    }

    pub fn hold_max(&self) -> Duration {
        Duration::from_millis(self.hold_max_ms)
    }
}

impl Key {
    fn full_name(&self) -> String {
        match self.table {
            Some(table) => format!("{table}.{}", self.name),
            None => self.name.to_owned(),
        }
    }

    fn find<'a>(&self, table: &'a toml::Table) -> Option<&'a toml::Value> {
        match self.table {
            Some(name) => table.get(name)?.get(self.name),
            None => table.get(self.name),
        }
    }

    fn set(&self, config: &mut Config, value: &toml::Value) -> Result<(), String> {
        match &self.kind {
            Kind::Name { field, .. } => {
                let name = value.as_str().filter(|name| !name.is_empty());
                *field(config) = Some(name.ok_or("not a name or a path")?.into());
            }
            Kind::Mode => config.mode = mode(value).ok_or("not observe, lock or full")?,
            Kind::Syslog => config.syslog = syslog(value).ok_or("not remarkable, all or off")?,
            Kind::Switch(field) => *field(config) = value.as_bool().ok_or("not true or false")?,
            Kind::Number { unit, min, max, field } => {
                let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
                let number = number.filter(|number| (min..=max).contains(&number));
                *field(config) =
                    number.ok_or(format!("not a number of {unit} from {min} to {max}"))?;
            }
        }
        Ok(())
    }

    /// As TOML. A name has none: what happens without it depends.
    fn default(&self) -> String {
        match &self.kind {
            Kind::Name { unset, .. } => format!("\"{unset}\""),
            _ => self.value(&mut Config::default()).unwrap_or_default(),
        }
    }

    /// As TOML; none is a name that is not set.
    fn value(&self, config: &mut Config) -> Option<String> {
        Some(match &self.kind {
            Kind::Name { field, .. } => format!("{:?}", field(config).as_ref()?.to_string_lossy()),
            Kind::Mode => format!("{:?}", config.mode.as_str()),
            Kind::Syslog => format!("{:?}", config.syslog.as_str()),
            Kind::Switch(field) => field(config).to_string(),
            Kind::Number { field, .. } => field(config).to_string(),
        })
    }

    fn range(&self) -> Option<String> {
        match &self.kind {
            Kind::Number { unit, min, max, .. } => Some(format!("{min} to {max} {unit}")),
            _ => None,
        }
    }

    fn example(&self) -> String {
        let about = self.about.replace('\n', "\n# ");
        let range = self.range().map(|range| format!(" From {range}.")).unwrap_or_default();
        format!("\n# {about}{range}\n#{} = {}\n", self.name, self.default())
    }
}

/// The text of a configuration file.
///
/// Opening a FIFO would block for as long as nobody writes to it, hence `O_NONBLOCK`. /dev/null is
/// how a configuration is switched off.
pub fn text(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)?;
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

impl Mode {
    const ALL: [Mode; 3] = [Mode::Observe, Mode::Lock, Mode::Full];

    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Observe => "observe",
            Mode::Lock => "lock",
            Mode::Full => "full",
        }
    }
}

impl Syslog {
    pub fn as_str(self) -> &'static str {
        match self {
            Syslog::Off => "off",
            Syslog::Remarkable => "remarkable",
            Syslog::All => "all",
        }
    }
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

fn mode(value: &toml::Value) -> Option<Mode> {
    let word = value.as_str()?;
    Mode::ALL.into_iter().find(|mode| mode.as_str() == word)
}

/// It was a switch, for every operation.
fn syslog(value: &toml::Value) -> Option<Syslog> {
    match (value.as_bool(), value.as_str()) {
        (Some(true), _) | (_, Some("all")) => Some(Syslog::All),
        (Some(false), _) | (_, Some("off")) => Some(Syslog::Off),
        (_, Some("remarkable")) => Some(Syslog::Remarkable),
        _ => None,
    }
}

fn unknown_keys(table: &toml::Table) -> Vec<Mistake> {
    let mut unknown = Vec::new();
    let mut retired = Vec::new();
    for (name, value) in table {
        if let Some((_, why)) = RETIRED.iter().find(|(retired, _)| retired == name) {
            let what = format!("does nothing any more: {why}");
            retired.push(Mistake::unknown(vec![name.clone()], what));
            continue;
        }
        let unknown_key = |at: Vec<String>| Mistake::unknown(at, "unknown key");
        match value {
            toml::Value::Table(inner) if KEYS.iter().any(|key| key.table == Some(name)) => {
                let inner = inner.keys().filter(|inner| !is_known(Some(name), inner));
                unknown.extend(inner.map(|it| unknown_key(vec![name.clone(), it.clone()])));
            }
            _ if is_known(None, name) => {}
            _ => unknown.push(unknown_key(vec![name.clone()])),
        }
    }
    retired.extend(unknown);
    retired
}

fn is_known(table: Option<&str>, name: &str) -> bool {
    KEYS.iter().any(|key| key.table == table && key.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Config, Vec<String>) {
        Config::parse(text, Path::new("c"))
    }

    #[test]
    fn every_key_is_read() {
        let (config, complaints) = parse(
            "runtime = 'crun'\nmode = 'lock'\n[lock]\nexclusive_wait_ms = 1\nshared_wait_ms = 2\n\
             resume_wait_ms = 3\nhold_max_ms = 400\n[retry]\ndeadline_ms = 5\n\
             first_delay_ms = 6\nmax_delay_ms = 7\n\
             thaw_wait_ms = 8\n[freeze]\nfrozen_wait_ms = 9\n[lift]\nenabled = false\n\
             program_ms = 10\npod_percent = 11\nnode_percent = 12\n\
             [delete]\nleftovers_wait_ms = 16\n[hook]\nwait_ms = 17\n[journal]\nmax_kib = 64\n\
             [history]\nenabled = false\ndirectory = '/h'\nmax_mib = 18\nmax_days = 19\n[log]\nsyslog = 'all'\n",
        );
        assert_eq!(complaints, Vec::<String>::new());
        let expected = Config {
            runtime: Some("crun".into()),
            mode: Mode::Lock,
            exclusive_wait_ms: 1,
            shared_wait_ms: 2,
            resume_wait_ms: 3,
            hold_max_ms: 400,
            retry_deadline_ms: 5,
            retry_first_delay_ms: 6,
            retry_max_delay_ms: 7,
            thaw_wait_ms: 8,
            frozen_wait_ms: 9,
            lift_enabled: false,
            lift_program_ms: 10,
            lift_pod_percent: 11,
            lift_node_percent: 12,
            leftovers_wait_ms: 16,
            hook_wait_ms: 17,
            journal_max_kib: 64,
            history_enabled: false,
            history_directory: Some("/h".into()),
            history_max_mib: 18,
            history_max_days: 19,
            syslog: Syslog::All,
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn one_bad_value_costs_only_itself() {
        let (config, complaints) = parse(
            "mode = 'fast'\nfoo = 1\n[lock]\nshared_wait_ms = 99999\nhold_max_ms = 100\nbar = 1\n",
        );
        assert_eq!(config, Config { hold_max_ms: 100, ..Config::default() });
        assert_eq!(
            complaints,
            [
                "c: foo: unknown key",
                "c: lock.bar: unknown key",
                "c: mode: not observe, lock or full, using the default",
                "c: lock.shared_wait_ms: not a number of ms from 0 to 1500, using the default",
            ]
        );
    }

    #[test]
    fn what_an_earlier_version_had_is_accepted_with_a_line_for_each_table() {
        let (config, complaints) =
            parse("[refill]\nstart = false\nmax_ms = 7\n[kill]\nwait_ms = 1\n");
        assert_eq!(config, Config::default());
        assert_eq!(
            complaints,
            [
                "c: kill: does nothing any more: nobody waits for a kill any more",
                "c: refill: does nothing any more: lift has taken its place",
            ]
        );
    }

    #[test]
    fn the_switch_that_syslog_was_still_holds() {
        let of = |value: &str| parse(&format!("[log]\nsyslog = {value}\n")).0.syslog;
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

    #[test]
    fn what_a_file_sets_and_what_holds() {
        let reading = Config::read("mode = 'lock'\n[lock]\nshared_wait_ms = 7\nhold_max_ms = 1\n");
        assert_eq!(reading.set, ["mode", "lock.shared_wait_ms"]);
        assert_eq!(reading.mistakes[0].at, ["lock", "hold_max_ms"]);
        let settings = reading.config.settings();
        let value = |name: &str| {
            let it = settings.iter().find(|it| it.name == name).unwrap();
            (it.value.as_deref(), &*it.default)
        };
        assert_eq!(value("mode"), (Some("\"lock\""), "\"full\""));
        assert_eq!(value("lock.shared_wait_ms"), (Some("7"), "500"));
        assert_eq!(value("lock.hold_max_ms"), (Some("2000"), "2000"));
        assert_eq!(value("runtime"), (None, "\"runc\""));
        assert_eq!(settings.len(), KEYS.len());
    }

    #[test]
    fn the_example_and_the_page_agree_with_the_code() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let example = std::fs::read_to_string(root.join("deploy/config.toml")).unwrap();
        assert_eq!(example, Config::example(), "expected:\n{}", Config::example());
        let page = std::fs::read_to_string(root.join("docs/configuration.md")).unwrap();
        assert!(page.contains(&Config::table()), "expected:\n{}", Config::table());
    }

    #[test]
    fn the_example_states_the_defaults() {
        let example: String = Config::example()
            .lines()
            .map(|line| {
                format!(
                    "{}\n",
                    line.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(line)
                )
            })
            .collect();
        let (config, complaints) = parse(&example);
        assert_eq!(complaints, Vec::<String>::new());
        let expected = Config {
            runtime: Some("runc".into()),
            history_directory: Some("/var/log/frostlock".into()),
            ..Config::default()
        };
        assert_eq!(config, expected);
    }
}
