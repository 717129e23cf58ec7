//! What a message says of a command line that cannot be read: a line of printable ASCII.

use cgroup::Unknown;

/// With the word of the caller that it is about.
pub(super) fn about(what: &str, word: &[u8]) -> Unknown {
    Unknown::new(format!("{what} {}", shown(word)))
}

/// A word of the caller for a message of ours: printable ASCII, and short.
pub(super) fn shown(word: &[u8]) -> String {
    const LONGEST: usize = 60;
    let mut text = String::new();
    for &byte in word {
        let escaped = byte.escape_ascii();
        if text.len() + escaped.len() > LONGEST {
            text.push_str("...");
            break;
        }
        text.extend(escaped.map(char::from));
    }
    if text.is_empty() { "''".to_owned() } else { text }
}
