//! `frostctl off`, `on`, `config` and `status` on bad days: no rights, no space, files of the wrong
//! type.
//!
//! Needs root and util-linux (setpriv, unshare).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::live::Ended;
use testkit::{frostctl, frostlock};

/// A directory that everybody can enter, with a frostctl that everybody can run.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::Builder::new().prefix("frostlock-").tempdir_in("/dev/shm").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = Place { dir };
        let installed =
            Command::new("install").arg(frostctl()).arg(place.path("frostctl")).status();
        assert!(installed.unwrap().success());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn switch(&self) -> PathBuf {
        self.path("state/off")
    }

    /// With its own state and configuration.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("FROSTLOCK_STATE_DIR", self.path("state"));
        command.env("FROSTLOCK_CONFIG", self.path("config.toml"));
        command.env_remove("FROSTLOCK_RUNTIME");
        command
    }

    fn frostctl(&self, args: &[&str]) -> Ended {
        Ended::of(self.command(&self.path("frostctl")).args(args))
    }

    fn configure(&self, text: &str) {
        fs::write(self.path("config.toml"), text).unwrap();
    }

    /// Whether a command of the wrapper leaves a record.
    fn is_recorded(&self) -> bool {
        let runtime = self.path("runc");
        if !runtime.exists() {
            fs::write(self.path("text"), "#!/bin/sh\nexit 0\n").unwrap();
            let mut install = Command::new("install");
            install.arg("-m755").arg(self.path("text")).arg(&runtime);
            assert!(install.status().unwrap().success());
        }
        let journal = self.path("state/journal.jsonl");
        let _ = fs::remove_file(&journal);
        let mut command = self.command(&frostlock());
        command.env("FROSTLOCK_RUNTIME", &runtime).env("FROSTLOCK_CONFIG", "/dev/null");
        assert_eq!(Ended::of(command.args(["delete", "c"])).code, Some(0));
        journal.exists()
    }
}

#[test]
fn off_and_on_again_and_twice() {
    let place = Place::new();
    // The state directory does not exist yet.
    let off = place.frostctl(&["off", "--reason", "a storm\n\u{1b}[2J"]);
    assert_eq!(off.code, Some(0), "{off:?}");
    assert!(off.stdout.starts_with("frostlock is off: "), "{off:?}");
    assert!(off.stdout.contains("containers that run go on"), "{off:?}");
    assert!(!off.stdout.contains('\u{1b}'), "{off:?}");
    let mode = fs::metadata(place.path("state")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(!place.is_recorded(), "a switch with a text in it is one");
    let again = place.frostctl(&["off", "--json"]);
    let json = again.json();
    assert_eq!(
        (again.code, &json["changed"], &json["is_off"]),
        (Some(0), &false.into(), &true.into())
    );
    assert!(json["reason"].as_str().unwrap().starts_with("a storm"), "{json}");

    place.configure("mode = 'lock'\n");
    let on = place.frostctl(&["on"]);
    assert_eq!((on.code, &*on.stdout), (Some(0), "frostlock is on, in mode \"lock\"\n"));
    assert!(place.is_recorded(), "the control");
    let again = place.frostctl(&["on"]);
    assert_eq!(
        (again.code, &*again.stdout),
        (Some(0), "frostlock was on already, in mode \"lock\"\n")
    );
}

#[test]
fn it_goes_off_where_the_directory_is_not_as_it_should_be() {
    let place = Place::new();
    fs::create_dir(place.path("state")).unwrap();
    fs::set_permissions(place.path("state"), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(place.frostctl(&["off"]).code, Some(0));
    assert!(place.switch().exists());
    fs::remove_file(place.switch()).unwrap();
    // A switch that the wrapper would not see is not reported as off.
    std::os::unix::fs::symlink("/nowhere/at/all", place.switch()).unwrap();
    let off = place.frostctl(&["off"]);
    assert!(off.code == Some(3) && off.stderr.contains("leads nowhere"), "{off:?}");
    fs::remove_file(place.switch()).unwrap();
    nix::unistd::mkfifo(&place.switch(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let off = place.frostctl(&["off", "--reason", "x"]);
    assert!(
        off.code == Some(0) && off.stderr.contains("the reason could not be written"),
        "{off:?}"
    );
    assert_eq!(place.frostctl(&["on"]).code, Some(0));
    assert!(!place.switch().exists());
    fs::remove_dir(place.path("state")).unwrap();
    fs::write(place.path("state"), "").unwrap();
    let off = place.frostctl(&["off"]);
    assert!(off.code == Some(3) && off.stderr.contains("state"), "{off:?}");
}

#[test]
fn without_rights_nothing_is_switched_and_it_is_said() {
    let place = Place::new();
    let nobody = |words: &[&str], named: bool| {
        let mut command = place.command("setpriv".as_ref());
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(place.path("frostctl")).args(words).env("XDG_RUNTIME_DIR", place.path("user"));
        if !named {
            command.env_remove("FROSTLOCK_STATE_DIR");
        }
        Ended::of(&mut command)
    };
    fs::create_dir(place.path("user")).unwrap();
    fs::set_permissions(place.path("user"), fs::Permissions::from_mode(0o777)).unwrap();
    for word in ["off", "on"] {
        let ended = nobody(&[word], false);
        assert_eq!(ended.code, Some(3), "{ended:?}");
        assert!(ended.stderr.contains("needs root"), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
    assert!(!place.path("user/frostlock").exists());
    let named = nobody(&["off"], true);
    assert!(named.code == Some(3) && named.stderr.contains("Permission denied"), "{named:?}");
    assert_eq!(place.frostctl(&["off"]).code, Some(0));
    let on = nobody(&["on"], true);
    assert!(on.code == Some(3) && on.stderr.contains("Permission denied"), "{on:?}");
    assert!(place.switch().exists());
}

/// In its own mount namespace, on a tmpfs of 16 pages.
#[test]
fn it_goes_off_on_a_full_run() {
    let place = Place::new();
    fs::create_dir(place.path("run")).unwrap();
    let script = "mount -t tmpfs -o size=64k tmpfs \"$1/run\" && mkdir -m 0700 \"$1/run/s\"
        dd if=/dev/zero of=\"$1/run/s/fill\" bs=4k 2>/dev/null
        FROSTLOCK_STATE_DIR=\"$1/run/s\" \"$1/frostctl\" off --reason full || exit 9
        test -e \"$1/run/s/off\" && ! test -s \"$1/run/s/off\" || exit 8
        FROSTLOCK_STATE_DIR=\"$1/run/t\" \"$1/frostctl\" off || exit 7
        test -e \"$1/run/t/off\" || exit 6
        FROSTLOCK_STATE_DIR=\"$1/run/s\" \"$1/frostctl\" on || exit 5
        mount -o remount,nr_inodes=$(find \"$1/run\" | wc -l) \"$1/run\" || exit 4
        FROSTLOCK_STATE_DIR=\"$1/run/s\" \"$1/frostctl\" off";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    let ended = Ended::of(command.arg(place.dir.path()));
    assert!(
        ended.stderr.contains("frostlock is off, but the reason could not be written"),
        "{ended:?}"
    );
    // The last write finds no free inode, and reports it.
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stderr.contains("cannot switch frostlock off"), "{ended:?}");
}

#[test]
fn a_configuration_is_checked() {
    let place = Place::new();
    let file = place.path("config.toml");
    let file = file.to_str().unwrap();
    place.configure("mode = 'lock'\n");
    let good = place.frostctl(&["config", "check"]);
    assert_eq!((good.code, good.stdout), (Some(0), format!("{file}: nothing is wrong\n")));
    place.configure("mode = 'fast'\ncolour = 1\n[lock]\nshared_wait_ms = 99999\n");
    let bad = place.frostctl(&["config", "check", file]);
    assert_eq!(bad.code, Some(1));
    assert_eq!(
        bad.stdout,
        format!(
            "{file}:1: mode: not observe, lock or full, using the default\n\
             {file}:2: colour: unknown key\n\
             {file}:4: lock.shared_wait_ms: not a number of ms from 0 to 1500, using the default\n"
        )
    );
    let json = place.frostctl(&["config", "check", "--json"]).json();
    assert_eq!(json["mistakes"][2]["line"], 4);
    let shown = place.frostctl(&["config", "show", "--json"]);
    assert_eq!(shown.code, Some(1), "{shown:?}");
    assert!(shown.stderr.contains("mistakes: 3; see frostctl config check"), "{shown:?}");
    for name in ["none", "dir", "fifo", "large"] {
        match name {
            "dir" => fs::create_dir(place.path(name)).unwrap(),
            "fifo" => {
                nix::unistd::mkfifo(&place.path(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
            }
            "large" => fs::File::create(place.path(name)).unwrap().set_len(1 << 40).unwrap(),
            _ => {}
        }
        let ended = place.frostctl(&["config", "check", place.path(name).to_str().unwrap()]);
        assert!(ended.code == Some(3) && ended.stderr.contains("cannot read"), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
}

#[test]
fn a_configuration_is_shown_with_its_sources() {
    let place = Place::new();
    place.configure("runtime = '/no/such/runc'\nmode = 'observe'\n");
    let key = |shown: &Ended, name: &str| {
        let json = shown.json();
        let keys = json["keys"].as_array().unwrap();
        let key = keys.iter().find(|it| it["key"] == name).unwrap().clone();
        (key["value"].as_str().unwrap().to_owned(), key["source"].as_str().unwrap().to_owned())
    };
    let shown = place.frostctl(&["config", "show", "--json"]);
    let of = |name: &str| key(&shown, name);
    assert_eq!(of("mode"), ("\"observe\"".to_owned(), "file".to_owned()));
    assert_eq!(of("lock.shared_wait_ms"), ("500".to_owned(), "default".to_owned()));
    assert_eq!(of("runtime").1, "search");
    assert_eq!(of("history.directory"), ("nowhere".to_owned(), "default".to_owned()));
    let mut command = place.command(&place.path("frostctl"));
    let named =
        Ended::of(command.env("FROSTLOCK_RUNTIME", "/bin/sh").args(["config", "show", "--json"]));
    assert_eq!(key(&named, "runtime"), ("\"/bin/sh\"".to_owned(), "environment".to_owned()));
    let text = place.frostctl(&["config", "show", "--set"]).stdout;
    assert!(text.contains("mode") && !text.contains("shared_wait_ms"), "{text}");
}

/// An unreadable journal is not reported as "no record".
#[test]
fn status_ends_and_tells_whatever_the_journal_is() {
    let place = Place::new();
    let history = place.path("history");
    place.configure(&format!("[history]\ndirectory = {:?}\n", history.display().to_string()));
    let status = || {
        let since = Instant::now();
        let ended = place.frostctl(&["status", "--json"]);
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
        assert!(matches!(ended.code, Some(0..=2)), "{ended:?}");
        let json = ended.json();
        let answers = json["answers"].as_array().unwrap();
        let last = answers.iter().find(|it| it["question"] == "last record").unwrap();
        (last["judged"].as_str().unwrap().to_owned(), last["answer"].as_str().unwrap().to_owned())
    };
    assert_eq!(status(), ("moot".to_owned(), "none yet".to_owned()));
    fs::create_dir_all(place.path("state/journal.jsonl")).unwrap();
    fs::set_permissions(place.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
    let (judged, answer) = status();
    assert!(judged == "not_checked" && answer.contains("not a regular file"), "{answer}");
    fs::remove_dir(place.path("state/journal.jsonl")).unwrap();

    // A terabyte of zeros, and one record at its end.
    fs::create_dir(&history).unwrap();
    let file = fs::File::create(history.join("history.jsonl")).unwrap();
    file.set_len(1 << 40).unwrap();
    let record = "\n{\"v\":1,\"mono_ns\":1,\"boot_id\":\"b\",\"time\":\"2026-11-21T05:56:08.000Z\",\
        \"verb\":\"exec\",\"id\":\"web\",\"verdict\":\"ok\"}\n";
    std::os::unix::fs::FileExt::write_all_at(&file, record.as_bytes(), 1 << 40).unwrap();
    let (judged, answer) = status();
    assert!(judged == "good" && answer.contains("exec of web, ok"), "{answer}");
}
