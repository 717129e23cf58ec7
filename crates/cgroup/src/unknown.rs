//! What could not be learnt.

use std::fmt;
use std::path::Path;

/// Why something could not be learnt; for the log, nobody branches on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown(String);

impl Unknown {
    pub fn new(why: &dyn fmt::Display) -> Self {
        Unknown(why.to_string())
    }

    pub fn file(path: &Path, why: &dyn fmt::Display) -> Self {
        Unknown(format!("cannot read {}: {why}", path.display()))
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unknown {}
