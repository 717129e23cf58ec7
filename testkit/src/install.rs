//! Programs that a test puts somewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::command::succeed;

/// Installs a script, written by another process. If this process had it open for writing, so would
/// a child that another thread forks, and until that child executes something, nobody can execute
/// the script (ETXTBSY).
pub fn program(path: &Path, text: &str) -> PathBuf {
    executable(path, text.as_bytes())
}

fn executable(path: &Path, content: &[u8]) -> PathBuf {
    let _ = std::fs::remove_file(path);
    let source = path.with_extension("text");
    std::fs::write(&source, content).unwrap();
    succeed(Command::new("install").arg("-m755").args([source.as_path(), path]));
    std::fs::remove_file(source).unwrap();
    path.to_owned()
}

/// Installs an executable, copied by another process. If this process had it open for writing, so
/// would a child that another test's thread forks, and until that child executes something, nobody
/// can execute the file (ETXTBSY).
pub fn install(program: impl AsRef<Path>, path: impl AsRef<Path>) {
    let mut install = Command::new("install");
    let status = install.arg("-m755").arg(program.as_ref()).arg(path.as_ref()).status();
    assert!(status.unwrap().success(), "{}", path.as_ref().display());
}

/// A static program, which a container without libraries can run. Compiled once, which takes half a
/// second.
pub fn compiled(path: &Path, source: &'static str) -> PathBuf {
    static MADE: Mutex<BTreeMap<&str, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    executable(path, made.entry(source).or_insert_with(|| compile(source)))
}

fn compile(source: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let [code, binary] = ["code.c", "binary"].map(|name| dir.path().join(name));
    std::fs::write(&code, source).unwrap();
    succeed(Command::new("gcc").args(["-O2", "-static", "-pthread", "-o"]).args([&binary, &code]));
    std::fs::read(binary).unwrap()
}
