//! Bundles that are broken, and ids that are none.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use testkit::{Scratch, runtime, text};

use crate::{ID, is_seven, seven, within_limit};

/// Bare and wrapped with the same arguments: the same status and the same output.
fn same(scratch: &Scratch, runc: &Path, args: &[OsString]) {
    let bare = within_limit(scratch.bare(runc).args(args));
    let wrapped = within_limit(scratch.wrapped(runc).args(args));
    assert_eq!(bare.status, wrapped.status, "{args:?} {bare:?} {wrapped:?}");
    assert_eq!(text(&bare.stdout), text(&wrapped.stdout), "{args:?}");
    assert_eq!(without_time(&bare.stderr), without_time(&wrapped.stderr), "{args:?}");
}

fn without_time(stderr: &[u8]) -> String {
    let text = text(stderr);
    let line = |line: &str| match line.split_once(" level=") {
        Some((_, rest)) => rest.to_owned(),
        None => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_bundle_that_is_broken() {
    let scratch = Scratch::new();
    let runc = runtime("runc-1.1.5").path;
    let make = |name: &str| {
        let bundle = scratch.path(name);
        fs::create_dir(&bundle).unwrap();
        bundle
    };
    let missing = make("missing");
    let torn = make("torn");
    fs::write(torn.join("config.json"), "{\"ociVersion\": \"1.0.2\", ").unwrap();
    let array = make("array");
    fs::write(array.join("config.json"), "[1, 2]").unwrap();
    let directory = make("directory");
    fs::create_dir(directory.join("config.json")).unwrap();
    let huge = make("huge");
    fs::File::create(huge.join("config.json")).unwrap().set_len(100 << 20).unwrap();
    for bundle in [missing, torn, array, directory, huge, scratch.path("absent")] {
        for verb in ["create", "run"] {
            let bundle = bundle.clone().into_os_string();
            same(&scratch, &runc, &[verb.into(), "--bundle".into(), bundle, ID.into()]);
        }
    }
    assert_eq!(scratch.lock_files(), Vec::<PathBuf>::new());
}

/// runc itself waits for a writer; the fake runtime shows that frostlock does not.
#[test]
fn a_bundle_whose_config_is_a_fifo() {
    let scratch = Scratch::new();
    let seven = seven(&scratch);
    nix::unistd::mkfifo(&scratch.path("config.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let bundle = scratch.path("");
    is_seven(&within_limit(
        scratch.wrapped(&seven).args(["create", "--bundle"]).arg(bundle).arg(ID),
    ));
}

#[test]
fn ids_that_are_none() {
    let scratch = Scratch::new();
    let runc = runtime("runc-1.1.5").path;
    let bundle = scratch.bundle("idle", ID);
    let outside = scratch.path("outside");
    fs::write(&outside, "precious").unwrap();
    let ids = [
        OsString::from(""),
        "..".into(),
        ".".into(),
        "../outside".into(),
        "/etc".into(),
        "a/b".into(),
        "a\nb".into(),
        "a b".into(),
        OsString::from_vec(b"a\xff\xfeb".to_vec()),
        "x".repeat(5000).into(),
        "-".into(),
    ];
    for id in &ids {
        for verb in ["state", "delete", "pause", "resume", "start", "update"] {
            same(&scratch, &runc, &[verb.into(), id.clone()]);
        }
        if id.as_bytes() != b"-" {
            let create = ["create".into(), "--bundle".into(), bundle.clone().into_os_string()];
            same(&scratch, &runc, &[&create[..], std::slice::from_ref(id)].concat());
        }
    }
    assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
    assert_eq!(scratch.lock_files(), Vec::<PathBuf>::new());
    for record in scratch.journal() {
        assert!(record["id"].as_str().unwrap().len() <= 1024);
    }
}
