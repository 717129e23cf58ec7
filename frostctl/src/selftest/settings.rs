//! frostlock's settings on this node, except for where it writes: a selftest leaves no record.

use std::path::Path;

use anyhow::Context;
use config::{self, Config, Mode};
use journal::reader;
use state::state_dir::StateDir;
use toml_edit::{DocumentMut, Item, Table, value};

/// Writes the node's configuration, without the long journal and syslog. If it cannot be read,
/// frostlock would use defaults, and so does the selftest.
pub(super) fn write(path: &Path) -> anyhow::Result<()> {
    let of_node = std::fs::read_to_string(config::path()).unwrap_or_default();
    std::fs::write(path, silent(&of_node))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn silent(text: &str) -> String {
    let mut document = text.parse::<DocumentMut>().unwrap_or_default();
    for (table, key, off) in [("history", "enabled", value(false)), ("log", "syslog", value("off"))]
    {
        let there = document.entry(table).or_insert(Item::Table(Table::new()));
        // A value that is not a table has no settings.
        if !there.is_table_like() {
            *there = Item::Table(Table::new());
        }
        there[key] = off;
    }
    document.to_string()
}

/// What prevents frostlock on this node from doing what it does in a selftest, or all that it can.
/// The off switch also works on a frostlock that an engine runs.
pub(super) fn notes(is_by_engine: bool) -> Vec<String> {
    let state = StateDir::from_env();
    let (config, complaints) = Config::load();
    let mut notes = complaints;
    if state.kill_switch().exists() {
        notes.push(format!(
            "frostlock is switched off on this node{}: {} is there",
            if is_by_engine { "" } else { ", for all but a selftest" },
            state.kill_switch().display()
        ));
    }
    match config.mode {
        Mode::Full => {}
        Mode::Lock => notes.push("the configuration has mode = \"lock\": nothing is lifted".into()),
        Mode::Observe => {
            notes.push("the configuration has mode = \"observe\": frostlock only records".into());
        }
    }
    if !config.lift.enabled {
        notes.push("the configuration has lift.enabled = false: nothing is lifted".into());
    }
    notes
}

/// Why a lift was refused, from the first such record of one of these containers.
pub(super) fn lift_refused(state: &StateDir, is_ours: impl Fn(&str) -> bool) -> Option<String> {
    let records = reader::history(&state.journal()).flatten();
    let mut ours = records.filter(|it| is_ours(it.id.as_deref().unwrap_or_default()));
    ours.find_map(|it| it.lift_refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_it_writes_is_another() {
        let node = "mode = 'lock'\n[history]\nmax_days = 7\ndirectory = '/h'\n[log]\nsyslog = 'all'\n[lift]\nprogram_ms = 20\n";
        let (config, complaints) = Config::parse(&silent(node), Path::new("x"));
        assert!(complaints.is_empty(), "{complaints:?}");
        let (mut expected, _) = Config::parse(node, Path::new("x"));
        let syslog = config::Syslog::Off;
        (expected.history.enabled, expected.log.syslog) = (false, syslog);
        assert_eq!(config, expected);
        for odd in ["", "history = 7\n", "no toml ["] {
            let (config, _) = Config::parse(&silent(odd), Path::new("x"));
            assert!(!config.history.enabled && config.log.syslog == syslog, "{odd:?}");
        }
    }
}
