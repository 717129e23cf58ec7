//! Versions as programs report them.

use serde::{Serialize, Serializer};

/// A version of one of the programs here, with at most three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    numbers: [u32; 3],
    /// A release comes after its release candidates.
    is_release: bool,
}

impl Version {
    pub(crate) const fn new(major: u32, minor: u32, patch: u32) -> Version {
        Version { numbers: [major, minor, patch], is_release: true }
    }

    /// The first word that looks like a version: `v1.7.24~ds1`, `1.1.5+ds1`, `1.0.0-rc93`.
    pub(crate) fn find(text: &str) -> Option<Version> {
        text.split_whitespace().find_map(Version::parse)
    }

    fn parse(word: &str) -> Option<Version> {
        let word = word.strip_prefix('v').unwrap_or(word);
        let end = word.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(word.len());
        let (digits, rest) = word.split_at(end);
        let mut parts = digits.trim_end_matches('.').split('.');
        let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let patch = parts.next().and_then(|it| it.parse().ok()).unwrap_or(0);
        let rest = rest.trim_start_matches(['-', '~', '.']);
        let is_release = !["rc", "alpha", "beta"].iter().any(|it| rest.starts_with(it));
        Some(Version { numbers: [major, minor, patch], is_release })
    }

    /// 1.6.20 and 1.6.36 are in the same release line.
    pub(crate) fn is_of_the_line_of(self, other: Version) -> bool {
        self.numbers[..2] == other.numbers[..2]
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if self.is_release { Ok(()) } else { f.write_str(" (a release candidate)") }
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_the_programs_say_them() {
        let cases = [
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1", "1.6.20"),
            ("containerd github.com/containerd/containerd/v2 v2.1.9 ", "2.1.9"),
            ("runc version 1.1.15+ds1", "1.1.15"),
            ("crun version 1.8.1", "1.8.1"),
            ("crun version 1.21", "1.21.0"),
        ];
        for (said, version) in cases {
            assert_eq!(Version::find(said).unwrap().to_string(), version, "{said}");
        }
    }

    #[test]
    fn a_release_comes_after_its_candidates() {
        assert!(Version::find("runc version 1.0.0-rc93").unwrap() < Version::new(1, 0, 0));
        assert!(Version::find("runc version 1.0.0-rc93").unwrap() > Version::new(0, 9, 9));
    }
}
