//! Dependencies: the crates are in bands, and no two modules use each other, even indirectly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each of our crates, with those of ours that it may use.
const BANDS: [(&str, &[&str]); 12] = [
    ("frostlock-sys", &[]),
    ("frostlock-cgroup", &[]),
    ("frostlock-config", &[]),
    ("frostlock-cri", &[]),
    ("frostlock-state", &["cgroup", "sys"]),
    ("frostlock-journal", &["cgroup", "config", "state", "sys"]),
    ("frostlock", &["cgroup", "config", "journal", "state", "sys"]),
    ("frostctl", &["cgroup", "config", "cri", "journal", "state"]),
    ("frostlock-installer", &[]),
    ("frostlock-testkit", &[]),
    ("kube-storm", &[]),
    ("resize-storm", &["cgroup", "config", "cri", "journal", "state"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).current_dir(root());
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_crates_stand_in_bands() {
    let metadata = metadata();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let (_, may) =
            BANDS.iter().find(|(band, _)| *band == name).expect("a crate that stands in no band");
        seen.insert(name.to_owned());
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            let is_ours = BANDS.iter().any(|(band, _)| *band == used);
            let used = used.trim_start_matches("frostlock-");
            let is_built_in = dependency["kind"].is_null();
            assert!(
                !is_ours || !is_built_in || may.contains(&used),
                "{name} uses {used}, may use {may:?}"
            );
        }
    }
    assert_eq!(seen.len(), BANDS.len(), "{seen:?}");
}

#[test]
fn no_module_knows_one_that_knows_it() {
    let crates = [
        "src",
        "crates/sys/src",
        "crates/cgroup/src",
        "crates/config/src",
        "crates/state/src",
        "crates/journal/src",
        "cri/src",
        "frostctl/src",
        "kube-storm/src",
        "storm/src",
        "testkit/src",
    ];
    let cycles: Vec<_> =
        crates.iter().flat_map(|source| cycles(&Modules::read(&root().join(source)))).collect();
    assert!(cycles.is_empty(), "{cycles:#?}");
}

#[test]
fn an_error_is_a_type_of_its_own() {
    let sources = ["src", "crates/sys/src", "crates/cgroup/src", "crates/config/src"];
    let sources = sources.into_iter().chain(["crates/state/src", "crates/journal/src"]);
    let found: Vec<_> = sources
        .flat_map(|source| Modules::read(&root().join(source)).0)
        .filter(|(_, text)| has_a_text_for_an_error(text))
        .map(|(name, _)| name.join("::"))
        .collect();
    assert!(found.is_empty(), "Result<_, String> in {found:?}");
    for text in
        ["Result<(), String>", "Result<Vec<(u8, A<B>)>, &'static str>", "Result<A,\nString,>"]
    {
        assert!(has_a_text_for_an_error(text), "{text}");
    }
    for text in
        ["io::Result<String>", "Result<String, Unknown>", "Result<A, Box<dyn Fn(B, String)>>"]
    {
        assert!(!has_a_text_for_an_error(text), "{text}");
    }
}

/// Whether the error of some `Result` is a text: a text has no source to ask for.
fn has_a_text_for_an_error(text: &str) -> bool {
    text.split("Result<").skip(1).any(|arguments| {
        let mut depth = 0;
        let end = arguments.find(|c| {
            depth += match c {
                '<' | '(' | '[' => 1,
                '>' | ')' | ']' => -1,
                _ => 0,
            };
            depth < 0
        });
        let arguments = &arguments[..end.unwrap_or(arguments.len())];
        let outer = arguments.trim_end().trim_end_matches(',').rfind(',');
        let error = outer.map_or("", |at| arguments[at + 1..].trim().trim_end_matches(','));
        matches!(error, "String" | "&str" | "&'static str")
    })
}

#[test]
fn a_cycle_is_found() {
    let files = [
        ("lib.rs", "mod a;\nmod b;\npub use a::A;\n"),
        ("a.rs", "use crate::b::{B, C};\npub struct A(B, C);\n"),
        ("b.rs", "use std::fmt;\nuse super::A;\npub struct B;\npub struct C;\n"),
    ];
    let parent = [
        ("lib.rs", "mod a;\npub struct P;\nfn f() { a::f() }\n"),
        ("a.rs", "use super::P;\npub fn f() {}\n"),
    ];
    let modules = Modules::of(parent.map(|(path, text)| (PathBuf::from(path), text.to_owned())));
    assert_eq!(cycles(&modules), ["the root -> a -> the root"]);
    let modules = Modules::of(files.map(|(path, text)| (PathBuf::from(path), text.to_owned())));
    assert_eq!(cycles(&modules), ["a -> b -> a"]);
    let apart = [files[0], files[1], ("b.rs", "pub struct B;\npub struct C;\n")];
    let modules = Modules::of(apart.map(|(path, text)| (PathBuf::from(path), text.to_owned())));
    assert_eq!(cycles(&modules), Vec::<String>::new());
}

type Name = Vec<String>;

/// The modules of one crate, without tests, by their path.
struct Modules(BTreeMap<Name, String>);

impl Modules {
    fn read(source: &Path) -> Modules {
        let mut files = Vec::new();
        let mut directories = vec![source.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs")
                    && !path.ends_with("main.rs")
                {
                    let text = std::fs::read_to_string(&path).unwrap();
                    files.push((path.strip_prefix(source).unwrap().to_owned(), text));
                }
            }
        }
        Modules::of(files)
    }

    fn of(files: impl IntoIterator<Item = (PathBuf, String)>) -> Modules {
        let is_test = |name: &Name| name.iter().any(|part| part == "tests" || part == "properties");
        let named = files.into_iter().map(|(path, text)| (name(&path), product(&text)));
        Modules(named.filter(|(name, _)| !is_test(name)).collect())
    }

    /// The module to which a path in `from` leads, through `pub use` if there is one.
    fn target(&self, from: &Name, path: &[&str]) -> Option<Name> {
        let (mut at, mut rest) = match path {
            ["crate", rest @ ..] => (Name::new(), rest),
            ["self", rest @ ..] => (from.clone(), rest),
            ["super", ..] => {
                let ups = path.iter().take_while(|part| **part == "super").count();
                (from[..from.len().checked_sub(ups)?].to_vec(), &path[ups..])
            }
            [first, ..] if self.has_child(from, first) => (from.clone(), path),
            _ => return None,
        };
        while let [next, further @ ..] = rest {
            if self.has_child(&at, next) {
                at.push((*next).to_owned());
                rest = further;
                continue;
            }
            let text = self.0.get(&at)?;
            let exported = uses(text, true)
                .into_iter()
                .find(|used| used.last().is_some_and(|last| last == next));
            let exported: Vec<&str> = exported.iter().flatten().map(String::as_str).collect();
            let is_child = exported.first().is_some_and(|first| self.has_child(&at, first));
            return if is_child { self.target(&at, &exported) } else { Some(at) };
        }
        Some(at)
    }

    fn has_child(&self, parent: &Name, child: &str) -> bool {
        let mut name = parent.clone();
        name.push(child.to_owned());
        self.0.contains_key(&name)
    }

    fn knows(&self, module: &Name) -> BTreeSet<Name> {
        let text = &self.0[module];
        let mut paths = uses(text, false);
        paths.extend(inline(text));
        let targets = paths.iter().filter_map(|path| {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            self.target(module, &path)
        });
        targets.filter(|target| target != module).collect()
    }
}

fn name(path: &Path) -> Name {
    let path = path.with_extension("");
    let parts = path.iter().map(|part| part.to_str().unwrap().to_owned());
    parts.filter(|part| !matches!(part.as_str(), "lib" | "main" | "mod")).collect()
}

/// Without comments, and without the tests at the end.
fn product(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The paths that `use` imports, one each; for a facade, only those that it re-exports.
fn uses(text: &str, given_on: bool) -> Vec<Vec<String>> {
    let statements = text.split(';').filter_map(|statement| {
        let statement = statement.trim_start_matches(|c: char| c != '\n' && c.is_whitespace());
        let at = statement.rfind("use ")?;
        let (before, tree) = (statement[..at].lines().last().unwrap_or(""), &statement[at + 4..]);
        let is_use = matches!(before.trim(), "" | "pub") || before.trim().starts_with("pub(");
        let is_given_on = before.trim().starts_with("pub");
        (is_use && (!given_on || is_given_on))
            .then(|| tree.split_whitespace().collect::<Vec<_>>().join(" "))
    });
    statements.flat_map(|tree| branches(&tree)).collect()
}

fn branches(tree: &str) -> Vec<Vec<String>> {
    let parts = |path: &str| -> Vec<String> {
        let path = path.split(" as ").next().unwrap();
        path.split("::")
            .map(|part| part.trim().to_owned())
            .filter(|part| !part.is_empty())
            .collect()
    };
    let Some((before, rest)) = tree.split_once('{') else { return vec![parts(tree)] };
    let inner = &rest[..rest.rfind('}').unwrap_or(rest.len())];
    let (mut depth, mut from, mut items) = (0, 0, Vec::new());
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&inner[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    items.push(&inner[from..]);
    let items = items.into_iter().map(str::trim).filter(|item| !item.is_empty());
    items
        .flat_map(branches)
        .map(|item| {
            parts(before)
                .into_iter()
                .chain(item.into_iter().filter(|part| part != "self"))
                .collect()
        })
        .collect()
}

/// Paths that are written out where they are used; those of other crates lead to no module.
fn inline(text: &str) -> Vec<Vec<String>> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c: char| !is_path(c));
    // A word ending in `::` begins a tree.
    let words = words.filter(|word| !word.ends_with("::"));
    let paths = words.filter(|word| word.contains("::"));
    paths.map(|path| path.split("::").map(str::to_owned).collect()).collect()
}

/// Each cycle as a path, from its first module.
fn cycles(modules: &Modules) -> Vec<String> {
    let edges: BTreeMap<&Name, BTreeSet<Name>> =
        modules.0.keys().map(|name| (name, modules.knows(name))).collect();
    let shown = |name: &Name| if name.is_empty() { "the root".to_owned() } else { name.join("::") };
    let mut found = Vec::new();
    for start in edges.keys() {
        let mut ways = vec![vec![(*start).clone()]];
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop() {
            for next in &edges[way.last().unwrap()] {
                // A cycle is reported once, by its first module.
                if next == *start && way.iter().min() == Some(*start) {
                    let way: Vec<_> = way.iter().chain([next]).map(shown).collect();
                    found.push(way.join(" -> "));
                } else if edges.contains_key(next) && next > *start && seen.insert(next.clone()) {
                    ways.push(way.iter().chain([next]).cloned().collect());
                }
            }
        }
    }
    found.dedup();
    found
}
