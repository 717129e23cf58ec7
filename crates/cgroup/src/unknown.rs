//! What could not be learnt.

use std::error::Error;
use std::fmt;
use std::path::Path;

/// Why something could not be learnt. For the log only; no code branches on it.
#[derive(Debug)]
pub struct Unknown {
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Unknown {
    pub fn new(what: impl Into<String>) -> Unknown {
        Unknown { what: what.into(), source: None }
    }

    pub fn because(
        what: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Unknown {
        Unknown { what: what.into(), source: Some(source.into()) }
    }

    pub fn file(path: &Path, source: impl Into<Box<dyn Error + Send + Sync>>) -> Unknown {
        Unknown::because(format!("cannot read {}", path.display()), source)
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Unknown {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
