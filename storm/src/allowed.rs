//! Known failures of the wrapped side that are not its own: storm/allowed.toml.

use anyhow::Context;
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Allowed {
    #[serde(default)]
    texts: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    contains: String,
    reason: String,
}

impl Allowed {
    pub(crate) fn list() -> anyhow::Result<Allowed> {
        Allowed::parse(include_str!("../allowed.toml")).context("storm/allowed.toml")
    }

    fn parse(text: &str) -> anyhow::Result<Allowed> {
        let allowed: Allowed = toml::from_str(text)?;
        for text in &allowed.texts {
            anyhow::ensure!(!text.contains.is_empty(), "an empty text is in every failure");
        }
        Ok(allowed)
    }

    pub(crate) fn reason(&self, failure: &str) -> Option<&str> {
        let found = self.texts.iter().find(|text| failure.contains(&text.contains));
        found.map(|text| text.reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_and_every_text_needs_a_reason() {
        assert!(Allowed::list().is_ok());
        let list = Allowed::parse("[[texts]]\ncontains = 'a b'\nreason = 'why'").unwrap();
        assert_eq!(list.reason("x a b y"), Some("why"));
        assert_eq!(list.reason("x a y"), None);
        for wrong in ["[[texts]]\ncontains = 'a'", "[[texts]]\ncontains = ''\nreason = 'why'"] {
            assert!(Allowed::parse(wrong).is_err(), "{wrong}");
        }
    }
}
