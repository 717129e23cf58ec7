//! Error texts without the names that make each one different.

/// The shortest run of hex digits that counts as an id rather than a word.
const ID_CHARS: usize = 12;
/// The shortest run of digits that counts as a pid or the like: exit codes stay distinct.
const NUMBER_CHARS: usize = 4;

const UID_CHARS: usize = 36;

/// Ids become `ID`, long numbers `N`, programs lose their directories, frostlock's explanation
/// loses its numbers, and the text becomes one line.
pub(crate) fn anonymous(text: &str) -> String {
    let mut said = String::with_capacity(text.len());
    let text = without_figures(text.trim());
    let words: Vec<&str> = text.split(' ').map(without_directory).collect();
    let text = words.join(" ");
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let run = rest.find(|c: char| !is_of_a_name(c)).unwrap_or(rest.len());
        if run == 0 {
            said.push(if first.is_control() { ' ' } else { first });
            rest = &rest[first.len_utf8()..];
            continue;
        }
        said.push_str(&without_ids(&rest[..run]));
        rest = &rest[run..];
    }
    said
}

/// The number of attempts, their time and the tasks are in the journal.
fn without_figures(text: &str) -> String {
    match text.split_once(" (frostlock: ") {
        Some((before, explanation)) => {
            let after = explanation.rsplit_once(')').map_or("", |(_, after)| after);
            format!("{before} (frostlock: ...){after}")
        }
        None => text.to_owned(),
    }
}

fn without_directory(word: &str) -> &str {
    match word.rsplit_once('/') {
        Some((directory, name)) if directory.starts_with('/') && !name.is_empty() => name,
        _ => word,
    }
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// With dashes inside, or underscores in the name of a slice.
fn is_uid(text: &str) -> bool {
    text.chars().enumerate().all(|(at, c)| match at {
        8 | 13 | 18 | 23 => c == '-' || c == '_',
        _ => c.is_ascii_hexdigit(),
    })
}

/// One word: the parts between its dashes.
fn without_ids(word: &str) -> String {
    if let Some((head, tail)) = word.len().checked_sub(UID_CHARS).map(|at| word.split_at(at)) {
        if is_uid(tail) {
            return format!("{head}ID");
        }
    }
    let parts = word.split('-').map(|part| {
        let digits = part.chars().filter(char::is_ascii_digit).count();
        let hex = part.chars().all(|c| c.is_ascii_hexdigit());
        if hex && part.len() >= ID_CHARS {
            "ID"
        } else if digits == part.len() && digits >= NUMBER_CHARS {
            "N"
        } else {
            part
        }
    });
    parts.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_pids_go_and_the_rest_stays() {
        let id = "0123456789abcdef".repeat(4);
        for (said, want) in [
            (format!("task {id} not found"), "task ID not found".to_owned()),
            (format!("cri-containerd-{id}.scope"), "cri-containerd-ID.scope".to_owned()),
            (
                "kubepods-burstable-pod8f0c2b1e_5d1a_4000_8000_000000000001.slice".to_owned(),
                "kubepods-burstable-podID.slice".to_owned(),
            ),
            (
                "pod \"8f0c2b1e-5d1a-4000-8000-000000000001\"\nis gone".to_owned(),
                "pod \"ID\" is gone".to_owned(),
            ),
            ("process 12345: exit status 137".to_owned(), "process N: exit status 137".to_owned()),
            (
                "/opt/x/bin/runc failed: unable to freeze (frostlock: 2 (two) attempts): unknown"
                    .to_owned(),
                "runc failed: unable to freeze (frostlock: ...): unknown".to_owned(),
            ),
            ("deadbeef timeout 1s exceeded".to_owned(), "deadbeef timeout 1s exceeded".to_owned()),
        ] {
            assert_eq!(anonymous(&said), want);
        }
    }
}
