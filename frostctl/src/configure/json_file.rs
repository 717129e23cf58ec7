//! Edits of docker's daemon.json.

use anyhow::{Context, anyhow, bail};
use serde_json::{Map, Value, json};

use super::edit::{Edited, Wish, Wrapped, must_be_ours};
use super::json_text;
use super::record::{Ours, Previous};

const RUNTIMES: &str = "runtimes";
const DEFAULT: &str = "default-runtime";

fn parse(text: &str) -> anyhow::Result<Map<String, Value>> {
    // dockerd takes an empty file for an empty object.
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => bail!("is not a JSON object; nothing was changed"),
        Err(error) => Err(anyhow!("is not JSON: {error}; nothing was changed")),
    }
}

pub(crate) fn configure(text: &str, wish: &Wish<'_>) -> anyhow::Result<Edited> {
    // `dockerd --validate` accepts these names, but dockerd does not start, or runs its own (26.1).
    if wish.name == "runc" || wish.name.starts_with("io.containerd.") {
        bail!(
            "cannot have a runtime {:?}, a name that dockerd reserves; choose another --name; \
             nothing was changed",
            wish.name
        );
    }
    let mut object = parse(text)?;
    let default = object.get(DEFAULT).and_then(Value::as_str).map(str::to_owned);
    let runtimes = object.entry(RUNTIMES).or_insert_with(|| json!({}));
    let runtimes = runtimes
        .as_object_mut()
        .context("has runtimes that are not an object; nothing was changed")?;
    let mut wrapped = None;
    match runtimes.get_mut(wish.name) {
        Some(entry) => {
            must_be_ours(wish.name, entry.get("path").and_then(Value::as_str))?;
            entry["path"] = json!(wish.binary);
        }
        None => {
            let name = wish.wrap.or(default.as_deref()).unwrap_or("runc");
            let mut entry = match runtimes.get(name) {
                Some(model) => model.clone(),
                // The built-in runtime.
                None if name == "runc" => json!({}),
                None => bail!("has no runtime {name:?} to wrap; name one with --wrap"),
            };
            let binary = entry.get("path").and_then(Value::as_str).map(str::to_owned);
            if entry.get("runtimeType").is_some() {
                bail!("has a runtime {name:?} that is a shim, which frostlock cannot wrap");
            }
            wrapped = Some(Wrapped { name: name.to_owned(), binary });
            entry["path"] = json!(wish.binary);
            runtimes.insert(wish.name.to_owned(), entry);
        }
    }
    let replaces = wish.set_as_default && default.as_deref() != Some(wish.name);
    if replaces {
        object.insert(DEFAULT.to_owned(), json!(wish.name));
    }
    let default = replaces.then_some(Previous { name: default });
    Ok(Edited { text: print(text, &object)?, ours: Ours::Entry { default }, wrapped })
}

pub(crate) fn unconfigure(
    text: &str,
    name: &str,
    before: Option<&Previous>,
) -> anyhow::Result<Option<String>> {
    let mut object = parse(text)?;
    let Some(runtimes) = object.get_mut(RUNTIMES).and_then(Value::as_object_mut) else {
        return Ok(None);
    };
    let Some(entry) = runtimes.get(name) else { return Ok(None) };
    must_be_ours(name, entry.get("path").and_then(Value::as_str))?;
    runtimes.shift_remove(name);
    if runtimes.is_empty() {
        object.shift_remove(RUNTIMES);
    }
    if object.get(DEFAULT).and_then(Value::as_str) == Some(name) {
        match before.and_then(|before| before.name.as_deref()) {
            Some(name) => object.insert(DEFAULT.to_owned(), json!(name)),
            None => object.shift_remove(DEFAULT),
        };
    }
    print(text, &object).map(Some)
}

/// Edits in place; an empty text is written anew.
fn print(text: &str, object: &Map<String, Value>) -> anyhow::Result<String> {
    if text.trim().is_empty() {
        return Ok(format!("{}\n", serde_json::to_string_pretty(object)?));
    }
    json_text::rewrite(text, &parse(text)?, object)
        .context("cannot be edited by frostctl: edit it by hand; nothing was changed")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINARY: &str = "/usr/local/bin/frostlock";

    fn wish(set_as_default: bool) -> Wish<'static> {
        Wish { name: "frostlock", binary: BINARY, wrap: None, set_as_default, is_merged: false }
    }

    #[test]
    fn order_and_indentation_stay_and_a_second_time_changes_nothing() {
        let text = "{\n    \"z\": 1,\n    \"default-runtime\": \"crun\",\n    \"runtimes\": {\n        \"crun\": {\n            \"path\": \"/usr/bin/crun\",\n            \"runtimeArgs\": [\n                \"--debug\"\n            ]\n        }\n    },\n    \"a\": 2\n}\n";
        let edited = configure(text, &wish(true)).unwrap();
        let wrapped = Wrapped { name: "crun".to_owned(), binary: Some("/usr/bin/crun".to_owned()) };
        assert_eq!(edited.wrapped, Some(wrapped));
        assert!(
            edited.text.starts_with("{\n    \"z\": 1,\n    \"default-runtime\": \"frostlock\"")
        );
        assert!(edited.text.ends_with("    \"a\": 2\n}\n"), "{}", edited.text);
        assert_eq!(edited.text.matches("--debug").count(), 2);
        assert_eq!(configure(&edited.text, &wish(true)).unwrap().text, edited.text);
        let Ours::Entry { default } = edited.ours else { panic!() };
        let back = unconfigure(&edited.text, "frostlock", default.as_ref()).unwrap();
        assert_eq!(back.as_deref(), Some(text));
    }

    #[test]
    fn what_cannot_be_understood_is_left_alone() {
        for text in
            ["{", "[]", "{\"runtimes\": 1}", "{\"runtimes\": {\"frostlock\": {\"path\": \"/x\"}}}"]
        {
            let error = configure(text, &wish(false)).unwrap_err().to_string();
            assert!(error.contains("nothing was changed"), "{error}");
        }
        assert!(configure("", &wish(false)).unwrap().text.contains(BINARY));
        for name in ["runc", "io.containerd.runc.v2"] {
            let error = configure("", &Wish { name, ..wish(false) }).unwrap_err().to_string();
            assert!(error.contains("dockerd reserves"), "{error}");
        }
    }
}
