//! Edits a JSON text in place: what must not change keeps every byte.
//!
//! The text is known to be valid JSON; the scanner only finds positions and does not validate.

use std::ops::Range;

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value};

/// An object's position in the text.
#[derive(Debug)]
struct Object {
    /// Between its braces.
    inside: Range<usize>,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    start: usize,
    value: Range<usize>,
}

/// The text, edited to mean `new`; `None` if that cannot be done in place.
pub(super) fn rewrite(
    text: &str,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
) -> Option<String> {
    let at = text.find('{')?;
    let edited = rewrite_at(text, at, 1, old, new)?;
    // Of two members with the same name JSON takes the last, but the scanner found the first.
    let says: Value = serde_json::from_str(&edited).ok()?;
    (says.as_object() == Some(new)).then_some(edited)
}

fn rewrite_at(
    text: &str,
    at: usize,
    depth: usize,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
) -> Option<String> {
    let mut text = text.to_owned();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        text = remove(&text, &object(&text, at)?, name)?;
    }
    for (name, value) in new {
        let member = || object(&text, at)?.members.into_iter().find(|it| it.name == *name);
        text = match (old.get(name), value) {
            (Some(before), _) if before == value => continue,
            (Some(Value::Object(before)), Value::Object(value)) => {
                rewrite_at(&text, member()?.value.start, depth + 1, before, value)?
            }
            (Some(_), _) => splice(&text, member()?.value, &printed(value, None)?),
            (None, _) => insert(&text, &object(&text, at)?, depth, name, value)?,
        };
    }
    Some(text)
}

fn splice(text: &str, range: Range<usize>, with: &str) -> String {
    [&text[..range.start], with, &text[range.end..]].concat()
}

fn remove(text: &str, object: &Object, name: &str) -> Option<String> {
    let at = object.members.iter().position(|member| member.name == name)?;
    let member = &object.members[at];
    let range = match (at.checked_sub(1), object.members.get(at + 1)) {
        (Some(before), _) => object.members[before].value.end..member.value.end,
        (None, Some(after)) => member.start..after.start,
        (None, None) => object.inside.clone(),
    };
    Some(splice(text, range, ""))
}

/// Inserts the member as the last one, with the same spacing as its neighbours.
fn insert(text: &str, object: &Object, depth: usize, name: &str, value: &Value) -> Option<String> {
    let unit = unit(text);
    let (range, before, after) = match object.members.as_slice() {
        [.., last] => {
            let first = object.members.first()?;
            let gap = &text[object.inside.start..first.start];
            (
                last.value.end..last.value.end,
                format!(",{}", if gap.is_empty() { " " } else { gap }),
                String::new(),
            )
        }
        [] if text.contains('\n') || text.trim() == "{}" => (
            object.inside.clone(),
            format!("\n{}", unit.repeat(depth)),
            format!("\n{}", unit.repeat(depth - 1)),
        ),
        [] => (object.inside.clone(), String::new(), String::new()),
    };
    let indent = before.rsplit_once('\n').map(|(_, indent)| (indent, unit));
    let member = format!("{before}{}: {}{after}", Value::from(name), printed(value, indent)?);
    Some(splice(text, range, &member))
}

/// On one line, or indented: the indentation of its position, and of one level.
fn printed(value: &Value, indent: Option<(&str, &str)>) -> Option<String> {
    let Some((indent, unit)) = indent else { return serde_json::to_string(value).ok() };
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(unit.as_bytes());
    value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter)).ok()?;
    Some(String::from_utf8(bytes).ok()?.replace('\n', &format!("\n{indent}")))
}

/// The indentation of one level: that of the first indented line.
fn unit(text: &str) -> &str {
    let line = text.lines().find(|line| line.starts_with([' ', '\t'])).unwrap_or("  ");
    &line[..line.len() - line.trim_start().len()]
}

/// The object whose opening brace is at this position.
fn object(text: &str, at: usize) -> Option<Object> {
    let mut members = Vec::new();
    let mut next = skip_space(text, at + 1);
    while text.as_bytes().get(next)? == &b'"' {
        let name = next..end_of_value(text, next)?;
        let colon = skip_space(text, name.end);
        let start = skip_space(text, colon + 1);
        let value = start..end_of_value(text, start)?;
        next = skip_space(text, value.end);
        let is_last = text.as_bytes().get(next)? != &b',';
        members.push(Member {
            name: serde_json::from_str(&text[name.clone()]).ok()?,
            start: name.start,
            value,
        });
        if is_last {
            break;
        }
        next = skip_space(text, next + 1);
    }
    (text.as_bytes().get(next)? == &b'}').then_some(Object { inside: at + 1..next, members })
}

fn skip_space(text: &str, at: usize) -> usize {
    let space = text.as_bytes().iter().skip(at).take_while(|byte| byte.is_ascii_whitespace());
    at + space.count()
}

fn end_of_value(text: &str, at: usize) -> Option<usize> {
    let mut stream = serde_json::Deserializer::from_str(text.get(at..)?).into_iter::<Value>();
    stream.next()?.ok()?;
    Some(at + stream.byte_offset())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_what_differs_is_touched() {
        for (text, new, edited) in [
            ("{}", r#"{"a":{"b":1}}"#, "{\n  \"a\": {\n    \"b\": 1\n  }\n}"),
            ("{ \"z\" :1 }\n", r#"{"z":1,"a":2}"#, "{ \"z\" :1, \"a\": 2 }\n"),
            ("{\"z\":[1,  2]}", r#"{"z":[1,2],"a":2}"#, "{\"z\":[1,  2], \"a\": 2}"),
            (
                "{\n\t\"r\": {\"x\": {\"p\": \"}\"}},\n\n\t\"z\" : [1,\n2]\n}",
                r#"{"r":{"x":{"p":"}"},"y":{"p":"q"}},"z":[1,2]}"#,
                "{\n\t\"r\": {\"x\": {\"p\": \"}\"}, \"y\": {\"p\":\"q\"}},\n\n\t\"z\" : [1,\n2]\n}",
            ),
            (
                "{\n    \"r\": {},\n    \"d\": \"a\"\n}",
                r#"{"r":{"x":{}},"d":"b"}"#,
                "{\n    \"r\": {\n        \"x\": {}\n    },\n    \"d\": \"b\"\n}",
            ),
            ("{\"a\": 1,\n \"b\": 2,\n \"c\": 3}", r#"{"b":2}"#, "{\"b\": 2}"),
            ("{ \"a\": 1 }", "{}", "{}"),
        ] {
            assert_eq!(rewrite(text, &map(text), &map(new)).as_deref(), Some(edited));
        }
    }

    #[test]
    fn what_would_say_something_else_is_refused() {
        let twice = "{\"a\": 1, \"a\": 2}";
        assert_eq!(rewrite(twice, &map(twice), &map("{\"a\": 3}")), None);
    }
}
