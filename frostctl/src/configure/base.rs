//! What a file would be without our part.

use super::engine::Engine;
use super::files::{Files, Kind};
use super::record::{Ours, Record};
use super::report::Action;
use super::{go_template, json_file, lines, podman, toml_file};

/// `None` if nothing of ours is in the text. Otherwise what would be there without us, perhaps no
/// file, and how that is known: it was recorded, or our part was taken out of what somebody has
/// edited since.
pub(super) fn of(
    files: &Files,
    record: Option<&Record>,
    name: &str,
    text: &str,
) -> anyhow::Result<Option<(Option<String>, Action)>> {
    if let Some(record) = record.filter(|it| it.after == text) {
        let action = if record.before.is_some() { Action::Restored } else { Action::Removed };
        return Ok(Some((record.before.clone(), action)));
    }
    let usual = match files.kind {
        Kind::GoTemplate => Ours::Template,
        _ => Ours::Entry { default: None },
    };
    let (ours, before) = record.map_or((&usual, None), |it| (&it.ours, it.before.as_deref()));
    let rest = without(files.engine, ours, before, text, name)?;
    Ok(rest.map(|rest| (Some(rest), Action::TakenOut)))
}

/// The text without our part, all else unchanged; `None` if nothing of ours is in it.
fn without(
    engine: Engine,
    ours: &Ours,
    before: Option<&str>,
    text: &str,
    name: &str,
) -> anyhow::Result<Option<String>> {
    let plain = lines::plain(text);
    let rest = match (ours, engine) {
        (Ours::Import(path), _) => {
            let before = toml_file::parse(before.unwrap_or_default())?;
            toml_file::unimport(&plain, path, !before.contains_key("imports"))?
        }
        (Ours::Template, _) => go_template::without(&plain, name),
        (Ours::Entry { default }, Engine::Docker) => {
            json_file::unconfigure(&plain, name, default.as_ref())?
        }
        (Ours::Entry { default }, Engine::Podman) => {
            podman::unconfigure(&plain, name, default.as_ref())?
        }
        (Ours::Entry { default }, _) => {
            toml_file::unconfigure(engine, &plain, name, default.as_ref())?
        }
    };
    Ok(rest.map(|rest| lines::fit(text, &rest)))
}
