//! The keys: their names, units and ranges, and what each does.

use std::ffi::OsString;
use std::ops::RangeInclusive;

use crate::values::{Config, Mode, Syslog};

/// What a key contains, and where its value goes.
enum Kind {
    Name { unset: &'static str, field: fn(&mut Config) -> &mut Option<OsString> },
    Mode,
    Syslog,
    Switch(fn(&mut Config) -> &mut bool),
    Number { unit: &'static str, range: RangeInclusive<u64>, field: fn(&mut Config) -> &mut u64 },
}

const fn number(
    unit: &'static str,
    range: RangeInclusive<u64>,
    field: fn(&mut Config) -> &mut u64,
) -> Kind {
    Kind::Number { unit, range, field }
}

pub(crate) struct Key {
    /// Includes the name of its table.
    pub(crate) name: &'static str,
    kind: Kind,
    pub(crate) about: &'static str,
}

/// The upper bounds keep every wait below the callers' deadlines: containerd asks for a state within
/// 2 s and cleans up after a dead shim within 5 s.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "runtime",
        kind: Kind::Name { unset: "runc", field: |config| &mut config.runtime },
        about: "The runtime that does the work: a name that is looked up in PATH, or an absolute\n\
                path. Unset: runc, then crun, the first found in PATH.",
    },
    Key {
        name: "mode",
        kind: Kind::Mode,
        about: "How much is done: \"observe\" runs as bare and only records, \"lock\" serializes as\n\
                well, \"full\" does everything.",
    },
    Key {
        name: "lock.exclusive_wait_ms",
        kind: number("ms", 0..=4000, |config| &mut config.lock.exclusive_wait_ms),
        about: "How long create, run, restore, update, pause, checkpoint and delete wait for the\n\
                lock of their cgroup before they go ahead without it.",
    },
    Key {
        name: "lock.shared_wait_ms",
        kind: number("ms", 0..=1500, |config| &mut config.lock.shared_wait_ms),
        about: "The same for start, exec, state and resume.",
    },
    Key {
        name: "retry.deadline_ms",
        kind: number("ms", 0..=9000, |config| &mut config.retry.deadline_ms),
        about: "How long an operation may take in all, from the wait for its lock to the end of its last\n\
                attempt. Further attempts of create and run have 9 s at most, those of update and pause\n\
                3 s, those of exec 800 ms. 0 is no retry.",
    },
    Key {
        name: "lift.enabled",
        kind: Kind::Switch(|config| &mut config.lift.enabled),
        about: "Whether the threads that an operation waits for are lifted above the fair scheduling\n\
                class (SCHED_RR, priority 1) where they get no CPU.",
    },
    Key {
        name: "lift.program_ms",
        kind: number("ms of CPU time", 0..=1000, |config| &mut config.lift.program_ms),
        about: "What the command of one exec, as a probe's, and its descendants may use of that. 0: the\n\
                runtime's own work alone.",
    },
    Key {
        name: "lift.pod_percent",
        kind: number("% of one CPU", 0..=100, |config| &mut config.lift.pod_percent),
        about: "What all such commands of one pod may use over time.",
    },
    Key {
        name: "lift.node_percent",
        kind: number("% of all CPUs", 0..=90, |config| &mut config.lift.node_percent),
        about: "What may be lifted on the node over time, whatever it is for.",
    },
    Key {
        name: "hook.wait_ms",
        kind: number("ms", 0..=4000, |config| &mut config.hook.wait_ms),
        about: "How long `frostlock hook` waits before a container starts until neither its cgroup nor\n\
                one above is frozen.",
    },
    Key {
        name: "journal.max_kib",
        kind: number("KiB", 64..=1_048_576, |config| &mut config.journal.max_kib),
        about: "The journal is rotated at this size; one older file is kept.",
    },
    Key {
        name: "history.enabled",
        kind: Kind::Switch(|config| &mut config.history.enabled),
        about: "Whether the same records also go to disk, where they outlive a reboot.",
    },
    Key {
        name: "history.directory",
        kind: Kind::Name {
            unset: "/var/log/frostlock",
            field: |config| &mut config.history.directory,
        },
        about: "Where: an absolute path. Unset: /var/log/frostlock, if the state directory is\n\
                /run/frostlock, else nowhere.",
    },
    Key {
        name: "history.max_mib",
        kind: number("MiB", 1..=65_536, |config| &mut config.history.max_mib),
        about: "What its files may take together; the oldest sixteenth goes first.",
    },
    Key {
        name: "history.max_days",
        kind: number("days", 1..=3650, |config| &mut config.history.max_days),
        about: "A file of it is removed this long after its last record, when the next file is begun.",
    },
    Key {
        name: "log.syslog",
        kind: Kind::Syslog,
        about: "Which operations are also one line in syslog: \"remarkable\" (failed, killed, retried, thawed\n\
                something, went ahead without the lock, or have a note), \"all\" or \"off\". The\n\
                values of earlier versions, true for \"all\" and false for \"off\", still work.",
    },
];

impl Key {
    pub(crate) fn table(&self) -> Option<&'static str> {
        self.name.split_once('.').map(|(table, _)| table)
    }

    pub(crate) fn find<'a>(&self, file: &'a toml::Table) -> Option<&'a toml::Value> {
        match self.name.split_once('.') {
            Some((table, name)) => file.get(table)?.get(name),
            None => file.get(self.name),
        }
    }

    /// `None` if the value is wrong.
    pub(crate) fn set(&self, config: &mut Config, value: &toml::Value) -> Option<()> {
        match &self.kind {
            Kind::Name { field, .. } => {
                let name = value.as_str().filter(|name| !name.is_empty());
                *field(config) = Some(name?.into());
            }
            Kind::Mode => config.mode = mode(value)?,
            Kind::Syslog => config.log.syslog = syslog(value)?,
            Kind::Switch(field) => *field(config) = value.as_bool()?,
            Kind::Number { range, field, .. } => {
                let number = u64::try_from(value.as_integer()?).ok();
                *field(config) = number.filter(|number| range.contains(number))?;
            }
        }
        Some(())
    }

    /// What a right value is.
    pub(crate) fn needs(&self) -> String {
        match &self.kind {
            Kind::Name { .. } => "a name or a path".to_owned(),
            Kind::Mode => "observe, lock or full".to_owned(),
            Kind::Syslog => "remarkable, all or off".to_owned(),
            Kind::Switch(_) => "true or false".to_owned(),
            Kind::Number { unit, range, .. } => {
                format!("a number of {unit} from {} to {}", range.start(), range.end())
            }
        }
    }

    /// As TOML. A name has no fixed default: this is what applies in most places without one.
    pub(crate) fn default(&self) -> String {
        match &self.kind {
            Kind::Name { unset, .. } => format!("\"{unset}\""),
            _ => self.value(&mut Config::default()).unwrap_or_default(),
        }
    }

    /// As TOML; none for a name that is not set.
    pub(crate) fn value(&self, config: &mut Config) -> Option<String> {
        Some(match &self.kind {
            Kind::Name { field, .. } => format!("{:?}", field(config).as_ref()?.to_string_lossy()),
            Kind::Mode => format!("{:?}", config.mode.as_str()),
            Kind::Syslog => format!("{:?}", config.log.syslog.as_str()),
            Kind::Switch(field) => field(config).to_string(),
            Kind::Number { field, .. } => field(config).to_string(),
        })
    }

    pub(crate) fn range(&self) -> Option<String> {
        match &self.kind {
            Kind::Number { unit, range, .. } => {
                Some(format!("{} to {} {unit}", range.start(), range.end()))
            }
            _ => None,
        }
    }
}

fn mode(value: &toml::Value) -> Option<Mode> {
    let word = value.as_str()?;
    Mode::ALL.into_iter().find(|mode| mode.as_str() == word)
}

/// `log.syslog` was once a switch, for all operations.
fn syslog(value: &toml::Value) -> Option<Syslog> {
    match (value.as_bool(), value.as_str()) {
        (Some(true), _) | (_, Some("all")) => Some(Syslog::All),
        (Some(false), _) | (_, Some("off")) => Some(Syslog::Off),
        (_, Some("remarkable")) => Some(Syslog::Remarkable),
        _ => None,
    }
}
