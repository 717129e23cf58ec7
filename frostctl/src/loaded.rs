//! What the running containerd or CRI-O has loaded. The process is asked over CRI, since its file
//! may have been edited after it started.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use frostlock_cri::{Client, Code};
use serde_json::Value;

/// Both answer from memory.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// A runtime: the handler that a RuntimeClass names, and its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handler {
    pub(crate) name: String,
    /// `None` is the runtime's default, runc.
    pub(crate) binary: Option<PathBuf>,
    pub(crate) options: Options,
    pub(crate) is_default: bool,
}

/// SystemdCgroup and the like, by name. An option with its zero value counts as missing: containerd
/// prints all options for some runtimes and none for others.
pub(crate) type Options = BTreeMap<String, String>;

/// All options in a file or an answer except the program.
pub(crate) fn options(table: &Value) -> Options {
    let is_zero = |it: &Value| match it {
        Value::Null => true,
        Value::Bool(it) => !it,
        Value::Number(it) => it.as_f64() == Some(0.0),
        Value::String(it) => it.is_empty(),
        Value::Array(it) => it.is_empty(),
        Value::Object(it) => it.is_empty(),
    };
    let all = table.as_object().into_iter().flatten();
    let said = all.filter(|(name, value)| *name != "BinaryName" && !is_zero(value));
    said.map(|(name, value)| (name.clone(), value.to_string())).collect()
}

/// Why the loaded handlers are not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unasked {
    /// The CRI plugin is disabled, as in dockerd's containerd: it has no handlers.
    NoCri,
    /// The engine could not be asked.
    NoAnswer(String),
    /// Its answer has no configuration, only the handlers' names; earlier versions do not even have
    /// these.
    Untold(Vec<String>),
}

impl fmt::Display for Unasked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unasked::NoCri => f.write_str("its CRI plugin is disabled, so it has no handlers"),
            Unasked::NoAnswer(why) => f.write_str(why),
            Unasked::Untold(_) => f.write_str("its answer names no runtimes (info.config)"),
        }
    }
}

/// The handlers of the containerd or the CRI-O at this socket.
pub(crate) fn ask(socket: &Path) -> Result<Vec<Handler>, Unasked> {
    let asked = Client::lazy(socket).and_then(|it| it.at_most(ANSWERS_WITHIN).status(true));
    let answer = asked.map_err(|error| match error.code() {
        Some(Code::Unimplemented) => Unasked::NoCri,
        _ => Unasked::NoAnswer(error.to_string()),
    })?;
    let config = answer.info.get("config").map_or("", String::as_str);
    parse(config).ok_or_else(|| {
        Unasked::Untold(answer.runtime_handlers.into_iter().map(|it| it.name).collect())
    })
}

/// containerd's keys are the same from 1.6 to 2.4; those of CRI-O are the names in its source
/// (1.34).
fn parse(config: &str) -> Option<Vec<Handler>> {
    let config: Value = serde_json::from_str(config).ok()?;
    let (containerd, crio) = (&config["containerd"], &config["crio"]);
    handlers(&containerd["runtimes"], "/options/BinaryName", &containerd["defaultRuntimeName"])
        .or_else(|| handlers(&crio["Runtimes"], "/RuntimePath", &crio["DefaultRuntime"]))
}

/// `binary` leads from a runtime to its program.
pub(crate) fn handlers(runtimes: &Value, binary: &str, default: &Value) -> Option<Vec<Handler>> {
    let handler = |(name, runtime): (&String, &Value)| {
        let binary = runtime.pointer(binary).and_then(Value::as_str).filter(|it| !it.is_empty());
        Handler {
            name: name.clone(),
            binary: binary.map(PathBuf::from),
            options: options(&runtime["options"]),
            is_default: default.as_str() == Some(name),
        }
    };
    Some(runtimes.as_object()?.iter().map(handler).collect())
}

/// What a restart of containerd would change for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owed {
    /// The file has the entry, but the process does not.
    NotLoaded(String),
    /// The process has the entry, but it was removed from the file.
    StillLoaded(String),
    /// Both have it, with different programs.
    OtherProgram { name: String, loaded: Option<PathBuf> },
    /// Both have it, with a different option: its name, and the values, if any.
    OtherOption { name: String, option: String, configured: Option<String>, loaded: Option<String> },
    /// Both have it, but only one of them as the default.
    OtherDefault { configured: String, loaded: String },
}

/// A clause about the process.
impl fmt::Display for Owed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owed::NotLoaded(name) => write!(f, "it has no runtime {name} yet"),
            Owed::StillLoaded(name) => write!(f, "it still has the runtime {name}"),
            Owed::OtherProgram { name, loaded: None } => {
                write!(f, "its runtime {name} runs its default")
            }
            Owed::OtherProgram { name, loaded: Some(program) } => {
                write!(f, "its runtime {name} runs {}", program.display())
            }
            Owed::OtherOption { name, option, configured, loaded } => {
                let value =
                    |it: &Option<String>| it.clone().unwrap_or_else(|| "not set".to_owned());
                let (loaded, configured) = (value(loaded), value(configured));
                write!(f, "its runtime {name} has {option} = {loaded}, and the file {configured}")
            }
            Owed::OtherDefault { configured, loaded } => {
                write!(f, "its default is {loaded} and not {configured}")
            }
        }
    }
}

impl Owed {
    /// Whether it concerns this handler, as named in the file.
    pub(crate) fn is_of(&self, handler: &str) -> bool {
        match self {
            Owed::NotLoaded(name)
            | Owed::StillLoaded(name)
            | Owed::OtherProgram { name, .. }
            | Owed::OtherOption { name, .. }
            | Owed::OtherDefault { configured: name, .. } => name == handler,
        }
    }
}

/// The differences for handlers that are ours in the file or in the process.
pub(crate) fn owed(
    configured: &[Handler],
    loaded: &[Handler],
    is_ours: impl Fn(&Path) -> bool,
) -> Vec<Owed> {
    let ours = |it: &&Handler| it.binary.as_deref().is_some_and(&is_ours);
    let named = |all: &[Handler], name: &str| all.iter().find(|it| it.name == name).cloned();
    let mut owed: Vec<Owed> = configured
        .iter()
        .filter(ours)
        .flat_map(|it| match named(loaded, &it.name) {
            None => vec![Owed::NotLoaded(it.name.clone())],
            Some(now) if now.binary != it.binary => {
                vec![Owed::OtherProgram { name: it.name.clone(), loaded: now.binary }]
            }
            Some(now) => other_options(it, &now),
        })
        .collect();
    let gone = loaded.iter().filter(ours).filter(|it| {
        named(configured, &it.name).is_none_or(|now| !now.binary.as_deref().is_some_and(&is_ours))
    });
    owed.extend(gone.map(|it| Owed::StillLoaded(it.name.clone())));
    let default = |all: &[Handler]| all.iter().find(|it| it.is_default).cloned();
    if let (Some(file), Some(process)) = (default(configured), default(loaded)) {
        let is_about_us = ours(&&file) || ours(&&process);
        if owed.is_empty() && is_about_us && file.name != process.name {
            owed.push(Owed::OtherDefault { configured: file.name, loaded: process.name });
        }
    }
    owed
}

fn other_options(configured: &Handler, loaded: &Handler) -> Vec<Owed> {
    let (file, process) = (&configured.options, &loaded.options);
    let names: BTreeSet<&String> = file.keys().chain(process.keys()).collect();
    let other = names.into_iter().filter(|it| file.get(*it) != process.get(*it));
    other
        .map(|option| Owed::OtherOption {
            name: configured.name.clone(),
            option: option.clone(),
            configured: file.get(option).cloned(),
            loaded: process.get(option).cloned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(name: &str, binary: Option<&str>, is_default: bool) -> Handler {
        let (binary, options) = (binary.map(PathBuf::from), Options::new());
        Handler { name: name.to_owned(), binary, options, is_default }
    }

    fn with_option(handler: &Handler, name: &str, value: &str) -> Handler {
        let options = Options::from([(name.to_owned(), value.to_owned())]);
        Handler { options, ..handler.clone() }
    }

    #[test]
    fn the_handlers_of_an_answer() {
        let config = r#"{"containerd":{"defaultRuntimeName":"runc","runtimes":{
            "runc":{"runtimeType":"io.containerd.runc.v2","options":{"BinaryName":"","SystemdCgroup":true}},
            "frostlock":{"options":{"BinaryName":"/x/frostlock"}},
            "kata":{"runtimeType":"io.containerd.kata.v2","options":null}}}}"#;
        let mut all = parse(config).unwrap();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(
            all,
            [
                handler("frostlock", Some("/x/frostlock"), false),
                handler("kata", None, false),
                with_option(&handler("runc", None, true), "SystemdCgroup", "true")
            ]
        );
        let config = r#"{"sandboxImage":"x","crio":{"DefaultRuntime":"frostlock","Runtimes":{
            "frostlock":{"RuntimePath":"/x/frostlock","RuntimeType":"oci"},"runc":{"RuntimePath":""}}}}"#;
        let mut all = parse(config).unwrap();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let ours = handler("frostlock", Some("/x/frostlock"), true);
        assert_eq!(all, [ours, handler("runc", None, false)]);
        for other in ["", "{}", r#"{"crio":{}}"#, r#"{"containerd":{"runtimes":null}}"#, "[1]"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_restart_is_owed_for_what_only_the_file_or_only_the_process_has() {
        let runc = handler("runc", None, true);
        let ours = handler("frostlock", Some("/x/frostlock"), false);
        let default = |it: &Handler, is_default| Handler { is_default, ..it.clone() };
        let wrapped = handler("runc", Some("/x/frostlock"), true);
        let name = || "frostlock".to_owned();
        let both = vec![runc.clone(), ours.clone()];
        let alone = vec![runc.clone()];
        let other = handler("crun", Some("/crun"), false);
        let cases = [
            (alone.clone(), alone.clone(), vec![]),
            (both.clone(), both.clone(), vec![]),
            (both.clone(), alone.clone(), vec![Owed::NotLoaded(name())]),
            (alone.clone(), both.clone(), vec![Owed::StillLoaded(name())]),
            (
                vec![wrapped],
                alone.clone(),
                vec![Owed::OtherProgram { name: "runc".to_owned(), loaded: None }],
            ),
            (
                vec![default(&runc, false), default(&ours, true)],
                both.clone(),
                vec![Owed::OtherDefault { configured: name(), loaded: "runc".to_owned() }],
            ),
            (
                vec![runc.clone(), with_option(&ours, "SystemdCgroup", "true")],
                both.clone(),
                vec![Owed::OtherOption {
                    name: name(),
                    option: "SystemdCgroup".to_owned(),
                    configured: Some("true".to_owned()),
                    loaded: None,
                }],
            ),
            // Options of other runtimes are not compared.
            (vec![with_option(&runc, "SystemdCgroup", "true"), ours.clone()], both.clone(), vec![]),
            // We do not ask for a restart because of somebody else's change.
            (vec![runc, other], alone, vec![]),
        ];
        for (configured, loaded, expected) in cases {
            let found = owed(&configured, &loaded, |it| it.ends_with("frostlock"));
            assert_eq!(found, expected, "{configured:?} {loaded:?}");
        }
    }

    #[test]
    fn who_does_not_answer_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("c.sock");
        assert!(matches!(ask(&socket), Err(Unasked::NoAnswer(_))));
        // The kernel accepts connections for it, but nobody reads.
        let _mute = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let began = std::time::Instant::now();
        assert!(matches!(ask(&socket), Err(Unasked::NoAnswer(_))));
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
