//! The keys as an operator reads them: the example, the table of the documentation, a list.

use crate::keys::{KEYS, Key};
use crate::values::Config;

/// A key and its value, for people.
#[derive(Debug)]
pub struct Setting {
    /// Includes the name of its table, as `lock.shared_wait_ms`.
    pub name: String,
    /// As TOML; none for a name that is not set.
    pub value: Option<String>,
    /// As TOML; for a name, what applies in most places if it is not set.
    pub default: String,
    /// With its unit.
    pub range: Option<String>,
    pub about: String,
}

impl Config {
    /// Every key, in the order of the example.
    pub fn settings(&self) -> Vec<Setting> {
        let mut config = self.clone();
        let setting = |key: &Key| Setting {
            name: key.name.to_owned(),
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
            if key.table() != table {
                table = key.table();
                text.push_str(&format!("\n[{}]\n", table.unwrap_or_default()));
            }
            text.push_str(&entry(key));
        }
        text
    }

    /// The same, as a table for docs/configuration.md.
    pub fn table() -> String {
        let mut text = String::from("| key | default | range | what it is |\n|---|---|---|---|\n");
        for key in KEYS {
            let about = key.about.replace('\n', " ");
            text.push_str(&format!(
                "| `{}` | {} | {} | {about} |\n",
                key.name,
                key.default(),
                key.range().unwrap_or_default()
            ));
        }
        text
    }
}

fn entry(key: &Key) -> String {
    let about = key.about.replace('\n', "\n# ");
    let range = key.range().map(|range| format!(" From {range}.")).unwrap_or_default();
    let name = key.name.rsplit('.').next().unwrap_or(key.name);
    format!("\n# {about}{range}\n#{name} = {}\n", key.default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use crate::values::History;

    fn parse(text: &str) -> (Config, Vec<String>) {
        Config::parse(text, Path::new("c"))
    }

    #[test]
    fn what_a_file_sets_and_what_holds() {
        let reading =
            Config::read("mode = 'lock'\n[lock]\nshared_wait_ms = 7\nexclusive_wait_ms = -1\n");
        assert_eq!(reading.set, ["mode", "lock.shared_wait_ms"]);
        assert_eq!(reading.mistakes[0].at, ["lock", "exclusive_wait_ms"]);
        let settings = reading.config.settings();
        let value = |name: &str| {
            let it = settings.iter().find(|it| it.name == name).unwrap();
            (it.value.as_deref(), &*it.default)
        };
        assert_eq!(value("mode"), (Some("\"lock\""), "\"full\""));
        assert_eq!(value("lock.shared_wait_ms"), (Some("7"), "500"));
        assert_eq!(value("lock.exclusive_wait_ms"), (Some("1000"), "1000"));
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
            history: History {
                directory: Some("/var/log/frostlock".into()),
                ..Config::default().history
            },
            ..Config::default()
        };
        assert_eq!(config, expected);
    }
}
