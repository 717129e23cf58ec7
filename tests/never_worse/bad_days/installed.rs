//! Installed under a runtime's name.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use testkit::{Scratch, frostlock, install, program};

use crate::{ID, SEVEN, is_seven, within_limit};

/// First in PATH as `runc`, as a symlink and as a copy, and the real one behind it.
#[test]
fn as_runc() {
    for copy in [false, true] {
        let scratch = Scratch::new();
        let (ours, theirs) = (scratch.path("ours"), scratch.path("theirs"));
        fs::create_dir(&ours).unwrap();
        fs::create_dir(&theirs).unwrap();
        program(&theirs.join("runc"), SEVEN);
        let runc = ours.join("runc");
        if copy {
            install(frostlock(), &runc);
            assert_ne!(
                fs::metadata(&runc).unwrap().ino(),
                fs::metadata(frostlock()).unwrap().ino()
            );
        } else {
            symlink(frostlock(), &runc).unwrap();
        }
        let path = std::env::join_paths([ours, theirs, "/usr/bin".into(), "/bin".into()]).unwrap();
        for verb in ["delete", "list"] {
            let mut command = Command::new(&runc);
            command
                .args([verb, ID])
                .env("PATH", &path)
                .env("FROSTLOCK_STATE_DIR", scratch.state())
                .env("FROSTLOCK_CONFIG", "/dev/null")
                .env_remove("FROSTLOCK_RUNTIME");
            is_seven(&within_limit(&mut command));
        }
    }
}

#[test]
fn as_frostlock_crun() {
    let scratch = Scratch::new();
    let bin = scratch.path("bin");
    fs::create_dir(&bin).unwrap();
    program(&bin.join("crun"), SEVEN);
    program(&bin.join("runc"), "#!/bin/sh\nexit 1\n");
    let link = bin.join("frostlock-crun");
    symlink(frostlock(), &link).unwrap();
    let path = std::env::join_paths([bin, "/usr/bin".into(), "/bin".into()]).unwrap();
    let mut command = Command::new(&link);
    command
        .args(["delete", ID])
        .env("PATH", &path)
        .env("FROSTLOCK_STATE_DIR", scratch.state())
        .env("FROSTLOCK_CONFIG", "/dev/null")
        .env_remove("FROSTLOCK_RUNTIME");
    is_seven(&within_limit(&mut command));
    assert!(scratch.journal()[0]["runtime"].as_str().unwrap().ends_with("/bin/crun"));
}
