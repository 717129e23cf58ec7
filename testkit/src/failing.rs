//! A runc that fails some times before it works.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::install::program;
use crate::runtime::runtime;

pub const PROC_HOOKS: &str = "runc create failed: unable to start container process: error during \
    container init: error setting cgroup config for procHooks process: unable to freeze";
pub const PAUSED: &str =
    "exec failed: cannot exec in a paused container (use --ignore-paused to override)";

/// A runc whose first `times` commands of a verb fail with `message`. Like a real one, it connects
/// to the console socket before that, and reports the error in its log and on stderr. A v1 cgroup
/// that is named in the file `path` with the extension `freezer` is frozen then, and thawed soon
/// after.
pub fn failing(path: &Path, verb: &str, times: u32, message: &str, code: i32) -> PathBuf {
    let real = runtime("runc-1.1.15").path;
    let body = format!(
        r#"log=/dev/null console= this= previous=
for word; do
    case $previous in --log) log=$word ;; --console-socket) console=$word ;; esac
    case $word in {verb}) this=1 ;; esac
    previous=$word
done
failed=$(cat {count} 2>/dev/null || echo 0)
if [ -z "$this" ] || [ "$failed" -ge {times} ]; then
    exec {real} "$@"
fi
echo $((failed + 1)) >{count}
[ -z "$console" ] || CONSOLE=$console {test} --exact failing::connects_and_hangs_up --ignored >/dev/null 2>&1 || exit 99
if [ -e {freezer} ]; then
    state=$(cat {freezer})/freezer.state
    echo FROZEN >"$state"
    (sleep 0.05; echo THAWED >"$state") </dev/null >/dev/null 2>&1 &
fi
printf '{{"level":"error","msg":"%s","time":"2026-11-20T00:00:00Z"}}\n' "{message}" >>"$log"
echo "{message}" >&2
exit {code}"#,
        real = real.display(),
        count = path.with_extension("failed").display(),
        freezer = path.with_extension("freezer").display(),
        test = std::env::current_exe().unwrap().display(),
    );
    script(path, &body)
}

/// What it does to its console socket: a suite with terminals has this as the ignored test
/// `failing::connects_and_hangs_up`.
pub fn connects_and_hangs_up() {
    UnixStream::connect(std::env::var_os("CONSOLE").unwrap()).unwrap();
}

pub fn script(path: &Path, body: &str) -> PathBuf {
    program(path, &format!("#!/bin/sh\n{body}\n"))
}
