//! A configuration that is wrong or no file, and each mode.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use testkit::{Scratch, runtime};

use crate::{ID, is_seven, life, seven, within_limit};

fn with(scratch: &Scratch, config: &Path) -> Output {
    let seven = seven(scratch);
    within_limit(scratch.wrapped(&seven).args(["delete", ID]).env("FROSTLOCK_CONFIG", config))
}

#[test]
fn contents_that_are_wrong() {
    for (contents, complaint) in [
        (&b"mode = = \n"[..], "using defaults"),
        (b"colour = 'blue'\n", "colour: unknown key"),
        (b"[lock]\nshared_wait_ms = 99999\n", "not a number of ms from 0 to 1500"),
        (b"mode = 'fast'\n", "not observe, lock or full"),
        (b"\xff\xfe\n", "using defaults"),
        (b"runtime = 5\n", "not a name or a path"),
    ] {
        let scratch = Scratch::new();
        let config = scratch.path("config.toml");
        fs::write(&config, contents).unwrap();
        is_seven(&with(&scratch, &config));
        let journal = scratch.journal();
        assert_eq!(journal.len(), 1);
        let note = journal[0]["note"].as_str().unwrap();
        assert_eq!(note.matches(complaint).count(), 1, "{note}");
    }
}

#[test]
fn files_that_are_none() {
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let huge = scratch.path("huge");
    fs::File::create(&huge).unwrap().set_len(100 << 20).unwrap();
    let directory = PathBuf::from("/dev/shm");
    for config in [fifo, huge, directory, scratch.path("missing"), "/dev/zero".into()] {
        is_seven(&with(&scratch, &config));
    }
    for record in scratch.journal() {
        assert!(record["note"].as_str().unwrap().contains("using defaults"), "{record}");
    }
    is_seven(&with(&scratch, Path::new("/dev/null")));
    assert!(!scratch.journal()[5]["note"].as_str().unwrap().contains("defaults"));
}

/// The lock file exists only in the modes that lock.
#[test]
fn each_mode() {
    let runc = runtime("runc-1.1.5").path;
    for (mode, lock) in [("observe", "none"), ("lock", "exclusive"), ("full", "exclusive")] {
        let scratch = Scratch::new();
        let config = scratch.path("config.toml");
        fs::write(&config, format!("mode = '{mode}'\n")).unwrap();
        life(&scratch, |mut command| {
            command.env("FROSTLOCK_CONFIG", &config);
            command
        });
        let journal = scratch.journal();
        // Beside other tests, a create may have to wait for a CPU, and a lift may outlive it.
        let verbs: Vec<_> = journal
            .iter()
            .map(|record| record["verb"].as_str().unwrap())
            .filter(|verb| mode != "full" || *verb != "lift")
            .collect();
        let expected = ["create", "start", "exec", "update", "pause", "resume", "kill", "delete"];
        assert_eq!(verbs, expected, "{mode}");
        assert_eq!(journal[0]["lock"], lock, "{mode}");
        assert_eq!(journal[0]["runtime"], runc.to_str().unwrap());
    }
}
