//! dockerd: its file, and what the process says over its socket.

use std::path::Path;

use serde_json::Value;

use super::facts::{Entries, Handler, Loaded};
use crate::configure::edit::is_ours;
use crate::node::docker::{SOCKET, ask};

pub(super) fn entries(text: &str) -> anyhow::Result<Entries> {
    if text.trim().is_empty() {
        return Ok(Default::default());
    }
    let value: Value = serde_json::from_str(text)?;
    let runtimes = value["runtimes"].as_object().into_iter().flatten();
    let program = |(name, it): (&String, &Value)| Some((name.clone(), it["path"].as_str()?.into()));
    let default = value["default-runtime"].as_str().map(str::to_owned);
    Ok((runtimes.filter_map(program).collect(), default))
}

pub(super) fn loaded(handlers: &[Handler]) -> Loaded {
    match ask(Path::new(SOCKET)) {
        Ok(Some(info)) => compare(&info, handlers),
        Ok(None) => Loaded::NotRunning,
        Err(error) => Loaded::NotChecked(format!("{SOCKET}: {error:#}")),
    }
}

fn compare(info: &Value, handlers: &[Handler]) -> Loaded {
    let Some(runtimes) = info["Runtimes"].as_object() else {
        return Loaded::NotChecked("its answer names no runtimes".to_owned());
    };
    let owed = handlers.iter().filter_map(|it| {
        let path = runtimes.get(&it.name).map(|it| it["path"].as_str().unwrap_or_default());
        match path {
            None => Some(format!("it has no runtime {} yet", it.name)),
            Some(path) if Path::new(path) != it.binary => {
                Some(format!("its runtime {} runs {path}", it.name))
            }
            Some(_) => {
                let default = info["DefaultRuntime"].as_str().unwrap_or_default();
                (it.is_default != (default == it.name)).then(|| format!("its default is {default}"))
            }
        }
    });
    Loaded::unless(owed.chain(left_over(info, handlers)))
}

/// Runtimes and default of ours that dockerd keeps after a reload, though its file no longer has
/// them.
fn left_over<'a>(info: &'a Value, handlers: &'a [Handler]) -> impl Iterator<Item = String> + 'a {
    let default = info["DefaultRuntime"].as_str().unwrap_or_default();
    let all = info["Runtimes"].as_object().into_iter().flatten();
    let ours = all.filter(|(_, it)| it["path"].as_str().is_some_and(is_ours));
    let left = ours.filter(|(name, _)| !handlers.iter().any(|it| it.name == **name));
    left.map(move |(name, _)| match name == default {
        true => format!("its default is still {name}"),
        false => format!("it still has the runtime {name}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_runtimes_and_a_default() {
        let text = r#"{"default-runtime":"b","runtimes":{"a":{"path":"/a"},"b":{"path":"/b"},
            "kata":{"runtimeType":"io.containerd.kata.v2"}}}"#;
        let (all, default) = entries(text).unwrap();
        let pair = |name: &str| (name.to_owned(), format!("/{name}"));
        assert_eq!((all, default.as_deref()), (vec![pair("a"), pair("b")], Some("b")));
        assert!(entries("").unwrap().0.is_empty() && entries("{").is_err());
    }

    #[test]
    fn what_the_daemon_has_is_compared() {
        let info = serde_json::json!({ "DefaultRuntime": "runc", "Runtimes": {
            "runc": { "path": "runc" }, "frostlock": { "path": "/x/frostlock" } } });
        let handler = |name: &str, binary: &str, is_default| {
            vec![Handler { name: name.to_owned(), binary: binary.into(), is_default }]
        };
        let otherwise = |what: &str| Loaded::Otherwise(vec![what.to_owned()]);
        for (configured, expected) in [
            (handler("frostlock", "/x/frostlock", false), Loaded::AsConfigured),
            (handler("frostlock", "/x/frostlock", true), otherwise("its default is runc")),
            (
                handler("other", "/x/frostlock", false),
                Loaded::Otherwise(vec![
                    "it has no runtime other yet".to_owned(),
                    "it still has the runtime frostlock".to_owned(),
                ]),
            ),
            (
                handler("frostlock", "/y/frostlock", false),
                otherwise("its runtime frostlock runs /x/frostlock"),
            ),
        ] {
            assert_eq!(compare(&info, &configured), expected);
        }
        assert_eq!(compare(&info, &[]), otherwise("it still has the runtime frostlock"));
        let mut info = info;
        info["DefaultRuntime"] = "frostlock".into();
        assert_eq!(compare(&info, &[]), otherwise("its default is still frostlock"));
        let none = compare(&serde_json::json!({}), &handler("f", "/f", false));
        assert!(matches!(none, Loaded::NotChecked(_)));
    }
}
