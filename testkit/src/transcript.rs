//! What a caller sees, in a form in which two runs can be compared.

use std::cell::RefCell;
use std::process::Command;

use crate::command::{run, text};

#[derive(Debug)]
pub struct Transcript {
    /// Names that differ from run to run, with their replacements.
    hidden: Vec<(String, &'static str)>,
    seen: RefCell<Vec<String>>,
}

impl Transcript {
    pub fn new(hidden: Vec<(String, &'static str)>) -> Transcript {
        Transcript { hidden, seen: RefCell::default() }
    }

    /// The output of a command, and its exit status.
    pub fn see(&self, command: &mut Command) -> String {
        let output = run(command);
        let mut said = [text(&output.stdout), text(&output.stderr)].concat();
        for (name, stands_for) in &self.hidden {
            said = said.replace(name, stands_for);
        }
        let said = without_why(&said);
        let said: Vec<&str> = said.lines().map(without_time).map(without_id).collect();
        self.note(format!("{} {}", output.status, said.join("\n")))
    }

    pub fn note(&self, seen: String) -> String {
        self.seen.borrow_mut().push(seen.clone());
        seen
    }

    pub fn text(&self) -> String {
        self.seen.borrow().join("\n")
    }
}

/// `time="..." level=warning msg=...`
fn without_time(line: &str) -> &str {
    match line.strip_prefix("time=\"").and_then(|rest| rest.split_once("\" ")) {
        Some((_, rest)) => rest,
        None => line,
    }
}

/// Without our addition to the runtime's text of a failed freeze.
fn without_why(said: &str) -> String {
    let Some((before, rest)) = said.split_once(" (frostlock: ") else { return said.to_owned() };
    let after = rest.split_once(')').map_or("", |(_, after)| after);
    format!("{before}{}", without_why(after))
}

/// podman prints the id of a new container.
fn without_id(line: &str) -> &str {
    let is_id = line.len() == 64 && line.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { "ID" } else { line }
}
