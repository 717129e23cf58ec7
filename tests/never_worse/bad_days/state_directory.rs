//! The state directory cannot be used.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use testkit::{Scratch, runtime, succeed};

use crate::{ID, LIMIT, in_namespace, life};

#[test]
fn its_parent_is_a_file() {
    let scratch = Scratch::new();
    fs::write(scratch.path("file"), "").unwrap();
    let state = scratch.path("file/state");
    life(&scratch, |mut command| {
        command.env("FROSTLOCK_STATE_DIR", &state);
        command
    });
}

#[test]
fn it_is_read_only() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.state()).unwrap();
    let state = scratch.state().display().to_string();
    let setup = format!("mount --bind {state} {state}; mount -o remount,ro,bind {state}");
    life(&scratch, |command| in_namespace(&setup, &command));
    assert_eq!(fs::read_dir(scratch.state()).unwrap().count(), 0);
}

#[test]
fn its_file_system_is_full() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.state()).unwrap();
    let state = scratch.state().display().to_string();
    for fill in [
        "head -c 1m /dev/zero >$S/fill 2>&- || :",
        "i=0; while touch $S/$i 2>/dev/null; do i=$((i+1)); done",
    ] {
        let setup =
            format!("S={state}; mount -t tmpfs -o size=16k,nr_inodes=8,mode=0700 none $S; {fill}");
        life(&scratch, |command| in_namespace(&setup, &command));
    }
}

#[test]
fn it_is_somebody_elses_or_open_to_all() {
    for (owner, mode) in [(65534, 0o700), (0, 0o777), (0, 0o770)] {
        let scratch = Scratch::new();
        fs::create_dir(scratch.state()).unwrap();
        std::os::unix::fs::chown(scratch.state(), Some(owner), None).unwrap();
        fs::set_permissions(scratch.state(), fs::Permissions::from_mode(mode)).unwrap();
        life(&scratch, |command| command);
        assert_eq!(fs::read_dir(scratch.state()).unwrap().count(), 0);
    }
}

#[test]
fn it_is_a_link_to_a_directory_of_another() {
    let scratch = Scratch::new();
    let other = scratch.path("other");
    fs::create_dir(&other).unwrap();
    symlink(&other, scratch.state()).unwrap();
    life(&scratch, |command| command);
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
}

#[derive(Debug, Clone, Copy)]
enum Foreign {
    File,
    Link,
    Dangling,
    Directory,
    Fifo,
}

fn put(foreign: Foreign, at: &Path, victim: &Path) {
    let _ = fs::remove_file(at);
    match foreign {
        Foreign::File => fs::write(at, "\0not ours\n").unwrap(),
        Foreign::Link => symlink(victim, at).unwrap(),
        Foreign::Dangling => symlink("/nowhere/at/all", at).unwrap(),
        Foreign::Directory => fs::create_dir(at).unwrap(),
        Foreign::Fifo => {
            nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRUSR).unwrap();
        }
    }
}

/// Each path is occupied while the container exists, one after the other.
#[test]
fn something_foreign_stands_where_a_file_of_ours_should() {
    use Foreign::{Dangling, Directory, Fifo, File, Link};
    let runc = runtime("runc-1.1.5").path;
    for foreign in [File, Link, Dangling, Directory, Fifo] {
        for place in ["lock", "turn", "json", "new", "jsonl"] {
            let scratch = Scratch::new();
            let bundle = scratch.bundle("idle", ID);
            let victim = scratch.path("victim");
            fs::write(&victim, "precious").unwrap();
            let wrapped = |args: &[&str]| {
                let mut command = scratch.wrapped(&runc);
                let began = Instant::now();
                succeed(command.args(args));
                assert!(began.elapsed() < LIMIT, "{foreign:?} {place}");
            };
            wrapped(&["create", "--bundle", bundle.to_str().unwrap(), ID]);
            put(foreign, &place_of(&scratch, place), &victim);
            wrapped(&["start", ID]);
            wrapped(&["state", ID]);
            wrapped(&["exec", ID, "true"]);
            wrapped(&["update", "--pids-limit", "77", ID]);
            wrapped(&["pause", ID]);
            wrapped(&["resume", ID]);
            wrapped(&["delete", "--force", ID]);
            wrapped(&["create", "--bundle", bundle.to_str().unwrap(), ID]);
            wrapped(&["delete", "--force", ID]);
            assert_eq!(fs::read_to_string(&victim).unwrap(), "precious", "{foreign:?} {place}");
        }
    }
}

fn place_of(scratch: &Scratch, extension: &str) -> PathBuf {
    if extension == "jsonl" {
        return scratch.state().join("journal.jsonl");
    }
    let record = fs::read_dir(scratch.state().join("containers")).unwrap().next();
    let record = record.unwrap().unwrap().path();
    match extension {
        "lock" | "turn" => {
            let files = scratch.lock_files();
            files.into_iter().find(|file| file.extension() == Some(OsStr::new(extension)))
        }
        _ => Some(record.with_extension(extension)),
    }
    .unwrap()
}
