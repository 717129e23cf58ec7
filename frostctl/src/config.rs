//! `frostctl config`: what is wrong with the wrapper's configuration, and which values hold.
//!
//! The wrapper's own reader determines both; this module only counts lines and prints. It changes
//! no file.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use config::locate::Choice;
use config::{self, Config, Mistake, Reading, Setting};
use journal::history::History;
use serde::Serialize;
use state::state_dir::StateDir;

use crate::exit::Exit;
use crate::output::{Output, fitted, note, plain, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Check(Check),
    Show(Show),
}

/// Say what is wrong with a configuration file, with the number of each line
///
/// No mistake in its configuration stops the wrapper: a wrong value falls back to its default, a
/// missing runtime to another one. Every fallback is reported here and in every record.
///
/// Exit status: 0 nothing is wrong, or there is no file; 1 something is wrong; 3 the file cannot be
/// read.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// The file; by default FROSTLOCK_CONFIG, else /etc/frostlock/config.toml
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Show each key with its value, its default, and where the value comes from
///
/// Exit status: 0 shown; 1 shown, and something is wrong with the file (config check says what);
/// 3 the file cannot be read.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Only the keys that the file or the environment sets
    #[arg(long)]
    set: bool,
}

/// A mistake, and where it is.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Wrong {
    line: Option<usize>,
    key: Option<String>,
    what: String,
}

#[derive(Debug, Serialize)]
struct Checked {
    file: PathBuf,
    /// Whether the file exists; otherwise the defaults hold.
    is_there: bool,
    mistakes: Vec<Wrong>,
}

#[derive(Debug, Serialize)]
struct Shown {
    file: PathBuf,
    is_there: bool,
    keys: Vec<Key>,
    /// How many mistakes the file has.
    mistakes: usize,
}

#[derive(Debug, Serialize)]
struct Key {
    key: String,
    /// As TOML.
    value: String,
    default: String,
    range: Option<String>,
    /// Where the value comes from.
    source: &'static str,
}

const DEFAULT: &str = "default";
const FILE: &str = "file";
const ENVIRONMENT: &str = "environment";
/// The runtime that the file names cannot be used.
const SEARCH: &str = "search";

impl Command {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        match self {
            Command::Check(it) => it.run(output),
            Command::Show(it) => it.run(output),
        }
    }
}

impl Check {
    fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let file = self.file.clone().unwrap_or_else(config::path);
        let text = read(&file, self.file.is_some())?;
        let is_there = text.is_some();
        let text = text.unwrap_or_default();
        let mistakes = wrongs(&text, &Config::read(&text));
        let checked = Checked { file, is_there, mistakes };
        output.print(&checked, |out| checked.write(out))?;
        Ok(if checked.mistakes.is_empty() { Exit::Clean } else { Exit::Found })
    }
}

impl Show {
    fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let file = config::path();
        let text = read(&file, false)?;
        let reading = Config::read(text.as_deref().unwrap_or_default());
        let mistakes = wrongs(text.as_deref().unwrap_or_default(), &reading).len();
        let mut keys = keys(&reading);
        if self.set {
            keys.retain(|key| key.source != DEFAULT);
        }
        let shown = Shown { file, is_there: text.is_some(), keys, mistakes };
        output.print(&shown, |out| shown.write(out))?;
        if mistakes > 0 {
            note(&format!(
                "{}: mistakes: {mistakes}; see frostctl config check",
                shown.file.display()
            ));
        }
        Ok(if mistakes == 0 { Exit::Clean } else { Exit::Found })
    }
}

/// `None` if there is no file and nobody named one.
fn read(file: &Path, was_asked: bool) -> anyhow::Result<Option<String>> {
    let was_named = was_asked || std::env::var_os("FROSTLOCK_CONFIG").is_some();
    match config::text(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound && !was_named => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// The mistakes, ordered by line.
fn wrongs(text: &str, reading: &Reading) -> Vec<Wrong> {
    let lines = Lines::of(text);
    let mut all: Vec<Wrong> = reading.mistakes.iter().map(|it| lines.wrong(it)).collect();
    let more = beyond(&reading.config).into_iter().map(|(key, what)| {
        let at: Vec<String> = key.split('.').map(str::to_owned).collect();
        lines.wrong(&Mistake { at, offset: None, what })
    });
    all.extend(more);
    all.sort_by_key(|wrong| wrong.line);
    all
}

/// Values that are valid but cannot have the intended effect.
fn beyond(config: &Config) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    if config.runtime.is_some() {
        let what = match runtime(config, None).find_or_fall_back() {
            Ok(found) => found.fell_back,
            Err(error) => Some(error.to_string()),
        };
        all.extend(what.map(|what| ("runtime", what)));
    }
    let directory = config.history.directory.as_ref().map(Path::new);
    if directory.is_some_and(|it| !it.is_absolute()) {
        let what = "not an absolute path, so nothing is kept on disk".to_owned();
        all.push(("history.directory", what));
    }
    all
}

fn runtime(config: &Config, env: Option<OsString>) -> Choice<'_> {
    let (argv0, path) = (OsStr::new("frostlock"), std::env::var_os("PATH"));
    Choice { env, argv0, config: config.runtime.as_deref(), path, above: None }
}

fn keys(reading: &Reading) -> Vec<Key> {
    let config = &reading.config;
    let key = |it: Setting| {
        let source = if reading.set.contains(&it.name) { FILE } else { DEFAULT };
        let (value, source) = match it.name.as_str() {
            "runtime" => program(config, source),
            "history.directory" => (directory(config), source),
            _ => (it.value.unwrap_or_else(|| "unset".to_owned()), source),
        };
        Key { key: it.name, value, default: it.default, range: it.range, source }
    };
    config.settings().into_iter().map(key).collect()
}

/// The program that will run, and where its name comes from.
fn program(config: &Config, source: &'static str) -> (String, &'static str) {
    let env = std::env::var_os("FROSTLOCK_RUNTIME").filter(|name| !name.is_empty());
    let source = if env.is_some() { ENVIRONMENT } else { source };
    match runtime(config, env).find_or_fall_back() {
        Ok(found) => {
            let source = if found.fell_back.is_some() { SEARCH } else { source };
            (format!("{:?}", found.path.display().to_string()), source)
        }
        Err(_) => ("none found".to_owned(), source),
    }
}

/// Where the long journal is, if there is one.
fn directory(config: &Config) -> String {
    match History::of(config, &StateDir::from_env()) {
        Some(history) => format!("{:?}", history.directory().display().to_string()),
        None => "nowhere".to_owned(),
    }
}

/// The lines of a file, by their contents.
struct Lines<'a> {
    text: &'a str,
    document: Option<toml_edit::Document<&'a str>>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Lines<'a> {
        Lines { text, document: toml_edit::Document::parse(text).ok() }
    }

    fn wrong(&self, mistake: &Mistake) -> Wrong {
        let is_whole = mistake.at.is_empty();
        let offset = if is_whole { mistake.offset } else { self.offset(&mistake.at) };
        Wrong {
            line: offset.map(|offset| self.line(offset)),
            key: (!is_whole).then(|| mistake.key()),
            what: match is_whole {
                true => {
                    format!("this is not TOML, so the defaults hold for all keys: {}", mistake.what)
                }
                false => mistake.what.clone(),
            },
        }
    }

    fn offset(&self, at: &[String]) -> Option<usize> {
        let (last, tables) = at.split_last()?;
        let root = self.document.as_ref()?.as_table() as &dyn toml_edit::TableLike;
        let table = tables.iter().try_fold(root, |table, name| table.get(name)?.as_table_like())?;
        let (key, item) = table.get_key_value(last)?;
        key.span().or_else(|| item.span()).map(|span| span.start)
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }
}

impl Checked {
    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let file = plain(&self.file.to_string_lossy());
        if !self.is_there {
            return writeln!(out, "{file}: there is no such file, so the defaults hold");
        }
        if self.mistakes.is_empty() {
            return writeln!(out, "{file}: nothing is wrong");
        }
        for wrong in &self.mistakes {
            let line = wrong.line.map(|line| format!(":{line}")).unwrap_or_default();
            let key = wrong.key.as_ref().map(|key| format!(" {key}:")).unwrap_or_default();
            writeln!(out, "{file}{line}:{} {}", plain(&key), plain(&wrong.what))?;
        }
        Ok(())
    }
}

impl Shown {
    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let is_there = if self.is_there { "" } else { " (there is no such file)" };
        writeln!(out, "{}{is_there}\n", plain(&self.file.to_string_lossy()))?;
        let mut rows = table(["key", "value", "default", "from", "range"]);
        for key in &self.keys {
            let range = key.range.clone().unwrap_or_default();
            rows.add_row([&*key.key, &plain(&key.value), &key.default, key.source, &range]);
        }
        writeln!(out, "{}", fitted(&mut rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Vec<(Option<usize>, String)> {
        let wrongs = wrongs(text, &Config::read(text)).into_iter();
        let said = wrongs.map(|it| {
            let key = it.key.map(|key| format!("{key}: ")).unwrap_or_default();
            (it.line, format!("{key}{}", it.what))
        });
        said.collect()
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        for (text, line, what) in [
            ("mode = 'fast'\n", 1, "mode: not observe, lock or full"),
            (
                "# a\n\n[lock]\nshared_wait_ms = -1\n",
                4,
                "lock.shared_wait_ms: not a number of ms from 0 to",
            ),
            ("[lock]\nhold_max_ms = 1\n", 2, "lock.hold_max_ms: does nothing any more"),
            ("mode = 'full'\ncolour = 1\n", 2, "colour: unknown key"),
            ("[lock]\n\nshared = 1\n", 3, "lock.shared: unknown key"),
            ("lock.shared = 1\n", 1, "lock.shared: unknown key"),
            ("[lock]\n[lock.a]\nb = 1\n", 2, "lock.a: unknown key"),
            ("\n[refill]\nmax_ms = 1\n", 2, "refill: does nothing any more"),
            (
                "mode = 'full'\nmode = = 1\n",
                2,
                "this is not TOML, so the defaults hold for all keys",
            ),
            ("[history]\ndirectory = 'logs'\n", 2, "history.directory: not an absolute path"),
            ("\nruntime = '/no/such/runc'\n", 2, "runtime = \"/no/such/runc\" cannot be used"),
            ("a\u{1b}b = 1\n", 1, "this is not TOML"),
        ] {
            let found = check(text);
            assert_eq!(found.len(), 1, "{text:?}: {found:?}");
            assert_eq!(found[0].0, Some(line), "{text:?}: {found:?}");
            assert!(found[0].1.contains(what), "{text:?}: {found:?}");
        }
        assert_eq!(check("mode = 'full'\n[lock]\nshared_wait_ms = 7\n"), []);
        let many = check("[lift]\nx = 1\n[lock]\nshared_wait_ms = 'a'\n[zzz]\n");
        assert_eq!(many.iter().map(|it| it.0).collect::<Vec<_>>(), [Some(2), Some(4), Some(5)]);
    }

    #[test]
    fn each_value_says_where_it_comes_from() {
        let reading =
            Config::read("mode = 'lock'\n[lock]\nshared_wait_ms = 500\nexclusive_wait_ms = -1\n");
        let keys = keys(&reading);
        let of = |name: &str| {
            let key = keys.iter().find(|it| it.key == name).unwrap();
            (&*key.value, key.source)
        };
        assert_eq!(of("mode"), ("\"lock\"", FILE));
        assert_eq!(of("lock.shared_wait_ms"), ("500", FILE));
        assert_eq!(of("lock.exclusive_wait_ms"), ("1000", DEFAULT));
    }
}
