//! The programs under test.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// The wrapper: the static release build that `make test` names, else cargo's own.
pub fn frostlock() -> PathBuf {
    named_or_built("FROSTLOCK_BIN", "frostlock")
}

/// frostctl, in the same way.
pub fn frostctl() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = named_or_built("FROSTCTL_BIN", "frostctl").into_os_string();
        path.into_string().expect("a path in UTF-8")
    })
}

/// The binary to compare with the one under test, if one is named.
pub fn before() -> Option<PathBuf> {
    std::env::var_os("FROSTLOCK_BEFORE").map(PathBuf::from)
}

/// Where cargo puts binaries. Only the tests of a package have cargo's variable for its binaries;
/// a test program is in `deps` below that directory.
pub(crate) fn profile() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let profile = program.parent().and_then(Path::parent);
    profile.expect("target/PROFILE/deps/NAME").to_owned()
}

fn named_or_built(variable: &str, package: &str) -> PathBuf {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = named.unwrap_or_else(|| profile().join(package));
    assert!(
        path.is_file(),
        "no {package} at {}; try: cargo build -p {package}, or set {variable}",
        path.display()
    );
    path
}
