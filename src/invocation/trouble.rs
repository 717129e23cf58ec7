//! Why a command line cannot be read.

use std::error::Error;
use std::fmt;

/// Why a command line cannot be read, in a line of printable ASCII. No code branches on it.
#[derive(Debug)]
pub(super) struct Trouble(String);

impl Trouble {
    pub(super) fn new(what: impl Into<String>) -> Trouble {
        Trouble(what.into())
    }

    /// With the word of the caller that it is about.
    pub(super) fn about(what: &str, word: &[u8]) -> Trouble {
        Trouble(format!("{what} {}", shown(word)))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Trouble {}

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
