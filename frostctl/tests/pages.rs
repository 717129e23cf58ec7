//! The manual pages as `man` shows them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// As wide as a terminal, without a pager.
fn man(page: &Path) -> Output {
    let mut command = Command::new("man");
    command.args(["--warnings", "-P", "cat", "-l"]).arg(page);
    command.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").env_remove("MANROFFOPT");
    command.output().expect("man, of man-db: apt-get install man-db")
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

#[test]
fn man_shows_every_page_without_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let written = Command::new(env!("CARGO_BIN_EXE_frostctl"))
        .arg("man")
        .arg(directory.path().join("man"))
        .output()
        .unwrap();
    assert!(written.status.success() && said(&written).is_empty(), "{}", said(&written));
    let [man1, man5] = ["man1", "man5"].map(|it| files(&directory.path().join("man").join(it)));
    assert!(man1.len() > 12 && man5.len() == 1, "{man1:?} {man5:?}");
    for page in man1.iter().chain(&man5) {
        let shown = man(page);
        assert!(shown.status.success() && shown.stderr.is_empty(), "{page:?}: {}", said(&shown));
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        for title in ["NAME", "EXIT STATUS", "EXAMPLES", "SEE ALSO"] {
            assert!(text.lines().any(|line| line == title), "{page:?}: no {title}\n{text}");
        }
        assert!(!text.contains("EXTRA"), "{text}");
    }
    let broken = directory.path().join("broken.1");
    let text = std::fs::read_to_string(&man1[0]).unwrap().replace(".SH NAME", ".nosuch NAME");
    std::fs::write(&broken, text).unwrap();
    assert!(said(&man(&broken)).contains("nosuch"), "the control: {}", said(&man(&broken)));
}

#[test]
fn a_directory_that_cannot_be_made_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_frostctl")).arg("man").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("cannot write"), "{}", said(&output));
}
