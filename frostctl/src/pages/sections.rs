//! The text below a command's options in its help, as sections of a page. A line that begins with
//! `Examples:` or the like starts a section; the end of the paragraph ends it.

/// A section of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    /// As in a page: `EXIT STATUS`. Prose without a title continues the description.
    pub(super) title: String,
    pub(super) text: String,
}

pub(super) fn of(help: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for paragraph in help.split("\n\n").filter(|it| !it.trim().is_empty()) {
        let (title, text) = titled(paragraph);
        match sections.iter_mut().find(|section| section.title == title) {
            Some(section) => {
                section.text.push_str("\n\n");
                section.text.push_str(text);
            }
            None => sections.push(Section { title, text: text.to_owned() }),
        }
    }
    sections
}

fn titled(paragraph: &str) -> (String, &str) {
    let paragraph = paragraph.trim_matches('\n');
    let is_title = |line: &str| line.ends_with(':') && !line.starts_with(' ') && line.len() < 30;
    match paragraph.split_once('\n').filter(|(first, _)| is_title(first)) {
        Some((first, rest)) => (first.trim_end_matches(':').to_uppercase(), rest),
        None if paragraph.lines().all(|line| line.trim_start().starts_with("frostctl ")) => {
            ("EXAMPLES".into(), paragraph)
        }
        None => (String::new(), paragraph),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_examples_and_prose() {
        let help =
            "It looks.\nAnd looks.\n\n  frostctl doctor   look\n\nExit status:\n  0  fine\n\nMore.";
        let section =
            |title: &str, text: &str| Section { title: title.into(), text: text.to_owned() };
        assert_eq!(
            of(help),
            [
                section("", "It looks.\nAnd looks.\n\nMore."),
                section("EXAMPLES", "  frostctl doctor   look"),
                section("EXIT STATUS", "  0  fine"),
            ]
        );
    }
}
