//! The pages: their link targets exist, and the README stays short. Links to other sites are not
//! checked: a test must not need a network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a person reads before deciding. The rest is in docs/.
const README_LINES: usize = 150;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the repository with this extension, except those that a build or git made.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![repository().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let (path, kind) = entry.map(|it| (it.path(), it.file_type().unwrap())).unwrap();
            let name = path.file_name().unwrap().to_string_lossy();
            if kind.is_dir() && name != "target" && name != ".git" {
                directories.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|it| it == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The lines of prose: not indented or fenced code, where `](` is no link and `#` no heading.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    page.lines().filter(move |line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fenced && !fence && !line.starts_with("    ")
    })
}

fn links(page: &str) -> Vec<&str> {
    let of = |line| str::split(line, "](").skip(1).filter_map(|rest| rest.split_once(')'));
    prose(page).flat_map(of).map(|(target, _)| target).collect()
}

/// The anchors that GitHub gives to headings: the second of two equal ones ends in `-1`.
fn anchors(page: &str) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let headings = prose(page).filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let anchor: String = line
                .trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|it| it.is_alphanumeric() || " -_".contains(*it))
                .map(|it| if it == ' ' { '-' } else { it })
                .collect();
            let before = seen.entry(anchor.clone()).and_modify(|it| *it += 1).or_insert(0);
            if *before == 0 { anchor } else { format!("{anchor}-{before}") }
        })
        .collect()
}

/// What is wrong with the links of a page at this path.
fn broken(page: &str, path: &Path) -> Vec<String> {
    let is_outside = |it: &&str| it.contains("://") || it.starts_with("mailto:");
    links(page)
        .into_iter()
        .filter(|it| !is_outside(it))
        .filter(|link| !resolves(link, page, path))
        .map(|link| format!("{}: {link}", path.display()))
        .collect()
}

fn resolves(link: &str, page: &str, path: &Path) -> bool {
    let (file, anchor) = link.split_once('#').map_or((link, None), |(file, it)| (file, Some(it)));
    let target = path.parent().unwrap().join(file);
    let there = file.is_empty() || target.exists();
    let linked =
        || if file.is_empty() { page.to_owned() } else { fs::read_to_string(&target).unwrap() };
    there && anchor.is_none_or(|anchor| anchors(&linked()).iter().any(|it| it == anchor))
}

#[test]
fn every_link_leads_somewhere() {
    let pages = files("md");
    assert!(pages.len() > 10, "{pages:?}");
    let broken: Vec<String> =
        pages.iter().flat_map(|path| broken(&fs::read_to_string(path).unwrap(), path)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let page = "# One page, `twice`\n\n# One page, `twice`\n\n[a](no.md) [b](#one-page-twice) \
                [c](#one-page-twice-1)\n[d](#one-page-twice-2) [e](README.md#nothing) ![f](README.md)\n\n    \
                [code](no.md)\n\n```\n[code](no.md)\n```\n[g](https://example.com/no.md)\n";
    let path = repository().join("page.md");
    let found = broken(page, &path);
    let expected = ["no.md", "#one-page-twice-2", "README.md#nothing"];
    assert_eq!(found, expected.map(|link| format!("{}: {link}", path.display())));
}

/// Comments and messages also refer to pages.
#[test]
fn every_page_that_the_code_names_is_there() {
    let is_of_a_path = |it: char| it.is_ascii_alphanumeric() || "-_./".contains(it);
    let mut named = 0;
    for file in files("rs") {
        let text = fs::read_to_string(&file).unwrap();
        for (_, rest) in text.match_indices("docs/").map(|(at, _)| text.split_at(at)) {
            let end = rest.find(|it| !is_of_a_path(it)).unwrap_or(rest.len());
            if let Some((name, _)) = rest[..end].split_once(".md") {
                named += 1;
                let page = repository().join(format!("{name}.md"));
                assert!(page.exists(), "{}: {name}.md", file.display());
            }
        }
    }
    assert!(named > 5, "{named}");
}

#[test]
fn the_readme_is_short() {
    let lines = fs::read_to_string(repository().join("README.md")).unwrap().lines().count();
    assert!(lines <= README_LINES, "{lines} lines");
}

/// Nobody finds a page that nothing links to.
#[test]
fn every_page_of_docs_is_linked_from_the_readme() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    for page in files("md").iter().filter(|it| it.parent().unwrap().ends_with("docs")) {
        let link = format!("docs/{}", page.file_name().unwrap().to_str().unwrap());
        assert!(links(&readme).contains(&link.as_str()), "{link}");
    }
}
