//! What an edit must keep in a text: the byte order mark and the line endings.

use similar::{ChangeTag, TextDiff};

const MARK: char = '\u{feff}';

/// Without the mark, and with "\n" as every line's ending.
pub(crate) fn plain(text: &str) -> String {
    text.strip_prefix(MARK).unwrap_or(text).replace("\r\n", "\n")
}

/// The edited text with the mark of the original. A line that is in both keeps its ending; a new
/// line gets the most common ending.
pub(crate) fn fit(original: &str, edited: &str) -> String {
    let (mark, original) = match original.strip_prefix(MARK) {
        Some(rest) => (Some(MARK), rest),
        None => (None, original),
    };
    if mark.is_none() && !original.contains('\r') {
        return edited.to_owned();
    }
    let ends = |end: &str| original.matches(end).count();
    let usual = if 2 * ends("\r\n") > ends("\n") { "\r\n" } else { "\n" };
    let [old, new] = [original, edited].map(|text| text.split_inclusive('\n').collect::<Vec<_>>());
    let [bare_old, bare_new] = [&old, &new].map(|lines| bare(lines));
    let diff = TextDiff::from_slices(&bare_old, &bare_new);
    let mut fitted: String = mark.into_iter().collect();
    for change in diff.iter_all_changes().filter(|change| change.tag() != ChangeTag::Delete) {
        let is_ended =
            change.new_index().and_then(|at| new.get(at)).is_some_and(|line| line.ends_with('\n'));
        let kept = change.old_index().and_then(|at| old.get(at));
        let end = match kept.and_then(|line| line.get(change.value().len()..)) {
            Some(end) if end.is_empty() != is_ended => end,
            _ if is_ended => usual,
            _ => "",
        };
        fitted.push_str(change.value());
        fitted.push_str(end);
    }
    fitted
}

fn bare<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    lines
        .iter()
        .map(|line| line.strip_suffix('\n').unwrap_or(line))
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_ends_of_lines_stay_and_new_lines_have_the_usual_one() {
        for (original, edited, fitted) in [
            ("a\nb", "a\nx\nb\n", "a\nx\nb\n"),
            ("a\r\nb\r\n", "a\nx\nb\n", "a\r\nx\r\nb\r\n"),
            ("a\r\nb", "a\nb\nx\n", "a\r\nb\r\nx\r\n"),
            ("a\r\nb\r\nc", "a\nb\nc\nx\n", "a\r\nb\r\nc\r\nx\r\n"),
            ("a\r\nb\nc\n", "a\nc\nx\n", "a\r\nc\nx\n"),
            ("\u{feff}a\n", "a\nx\n", "\u{feff}a\nx\n"),
            ("\u{feff}a\r\nb", "b", "\u{feff}b"),
        ] {
            assert_eq!(fit(original, edited), fitted, "{original:?} to {edited:?}");
            assert_eq!(fit(original, &plain(original)), original);
        }
    }
}
