//! Makes text from outside (ids, paths, messages) fit for one line of a log.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

/// One line without control characters, at most `limit` bytes. An id with a newline could otherwise
/// forge a record, and one with an escape sequence could rewrite the screen of a person who reads the
/// log.
pub fn one_line(text: &OsStr, limit: usize) -> String {
    let mut line = String::new();
    for chunk in text.as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
                line.extend(character.escape_default());
            } else {
                line.push(character);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(line, "\\x{byte:02x}");
        }
        if line.len() > limit {
            break;
        }
    }
    truncate(line, limit)
}

/// An error and its causes, as one line.
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Cuts between characters, and marks the cut.
fn truncate(mut line: String, limit: usize) -> String {
    const MARK: &str = "...";
    if line.len() > limit {
        let mut end = limit.saturating_sub(MARK.len());
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push_str(MARK);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Unknown;

    #[test]
    fn control_characters_and_broken_utf8_are_escaped() {
        assert_eq!(one_line(OsStr::new("a\nb\u{1b}[2J"), 100), "a\\nb\\u{1b}[2J");
        assert_eq!(one_line(OsStr::from_bytes(b"a\xffb"), 100), "a\\xffb");
        assert_eq!(one_line(OsStr::new("a\u{2028}b\u{85}c"), 100), "a\\u{2028}b\\u{85}c");
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let io = std::io::Error::other("gone");
        let inner = Unknown::file(std::path::Path::new("/f"), io);
        assert_eq!(inner.to_string(), "cannot read /f");
        assert_eq!(chain(&Unknown::because("no cgroup", inner)), "no cgroup: cannot read /f: gone");
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(one_line(OsStr::new("ääääää"), 8), "ää...");
        assert_eq!(one_line(OsStr::new("exactly8"), 8), "exactly8");
    }
}
