//! One manual page: titled sections of prose, entries and text to type, in roff.

use std::io::Write;

use clap_mangen::roff::{Roff, bold, roman};
use config::Setting;

pub(super) struct Page {
    name: String,
    section: &'static str,
    /// The part that is already rendered; `roff` has the rest.
    text: Vec<u8>,
    roff: Roff,
}

impl Page {
    pub(super) fn new(name: &str, section: &'static str) -> Page {
        let source = concat!("frostlock ", env!("CARGO_PKG_VERSION"));
        let mut roff = Roff::new();
        // Without a date: the build is the same on any day.
        roff.control("TH", [name.to_uppercase().as_str(), section, "", source, "frostlock"]);
        Page { name: name.to_owned(), section, text: Vec::new(), roff }
    }

    /// Its path below a directory of manuals.
    pub(super) fn path(&self) -> String {
        format!("man{}/{}.{}", self.section, self.name, self.section)
    }

    pub(super) fn rendered(mut self) -> std::io::Result<Vec<u8>> {
        self.flush()?;
        Ok(self.text)
    }

    /// Adds what another crate renders.
    pub(super) fn foreign(
        &mut self,
        render: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        self.flush()?;
        render(&mut self.text)
    }

    pub(super) fn title(&mut self, title: &str) {
        self.roff.control("SH", [title]);
    }

    pub(super) fn prose(&mut self, lines: &[&str]) {
        self.roff.control("PP", []);
        for line in lines {
            self.roff.text([roman(*line)]);
        }
    }

    fn entry(&mut self, term: &str, about: &str) {
        self.roff.control("TP", []).text([bold(term)]).text([roman(about)]);
    }

    /// Lines as they are, for text that a person copies.
    pub(super) fn verbatim<'a>(&mut self, lines: impl Iterator<Item = &'a str>) {
        self.roff.control("PP", []).control("nf", []);
        for line in lines {
            self.roff.text([roman(line)]);
        }
        self.roff.control("fi", []);
    }

    /// An entry for a key of the configuration.
    pub(super) fn key(&mut self, key: &Setting) {
        let range = key.range.as_ref().map_or_else(String::new, |it| format!(", from {it}"));
        self.entry(&key.name, &format!("Default: {}{range}. {}", key.default, key.about));
    }

    /// A text with a line `# TITLE` for each section. A line indented by four spaces is text to
    /// type, or continues an entry. One indented by two spaces is an entry, `an entry  what it is`.
    pub(super) fn sections(&mut self, text: &str) {
        for block in blocks(text) {
            match block {
                Block::Title(title) => self.title(title),
                Block::Entry(term, about) => self.entry(term, &about),
                Block::Typed(lines) => self.verbatim(lines.iter().map(|line| line.trim_start())),
                Block::Prose(lines) => self.prose(&lines),
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::mem::take(&mut self.roff).to_writer(&mut self.text)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Block<'a> {
    Title(&'a str),
    Prose(Vec<&'a str>),
    Entry(&'a str, String),
    Typed(Vec<&'a str>),
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        let entry = line.strip_prefix("  ").filter(|it| !it.starts_with(' '));
        match (line.strip_prefix("# "), entry, blocks.last_mut().filter(|_| goes_on)) {
            (Some(title), ..) => blocks.push(Block::Title(title)),
            (_, Some(entry), _) => {
                let (term, about) = entry.split_once("  ").unwrap_or((entry, ""));
                blocks.push(Block::Entry(term, about.trim().to_owned()));
            }
            _ if line.trim().is_empty() => {}
            (_, _, Some(Block::Entry(_, about))) if line.starts_with("    ") => {
                about.push(' ');
                about.push_str(line.trim());
            }
            (_, _, Some(Block::Typed(lines))) if line.starts_with("    ") => lines.push(line),
            _ if line.starts_with("    ") => match blocks.last_mut() {
                Some(Block::Typed(lines)) => lines.extend(["", line]),
                _ => blocks.push(Block::Typed(vec![line])),
            },
            (_, _, Some(Block::Prose(lines))) => lines.push(line),
            _ => blocks.push(Block::Prose(vec![line])),
        }
        goes_on = !line.trim().is_empty() && !line.starts_with("# ");
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_entries_and_what_is_to_be_typed() {
        let text =
            "# A\nOne\ntwo.\n\nThree.\n  -x  It is\n      so.\n  -y\n\n    ls -l\n\n    cd\n# B\nC";
        assert_eq!(
            blocks(text),
            [
                Block::Title("A"),
                Block::Prose(vec!["One", "two."]),
                Block::Prose(vec!["Three."]),
                Block::Entry("-x", "It is so.".into()),
                Block::Entry("-y", String::new()),
                Block::Typed(vec!["    ls -l", "", "    cd"]),
                Block::Title("B"),
                Block::Prose(vec!["C"]),
            ]
        );
    }

    #[test]
    fn nothing_of_a_text_is_taken_for_a_request() {
        let mut page = Page::new("x", "1");
        page.verbatim([".so /etc/passwd", "'x", "a\\b"].into_iter());
        page.entry(".TH", "-");
        let text = String::from_utf8(page.rendered().unwrap()).unwrap();
        let requests = text.lines().filter(|line| line.starts_with(['.', '\''])).skip(3);
        assert_eq!(requests.collect::<Vec<_>>(), [".PP", ".nf", ".fi", ".TP"], "{text}");
    }
}
