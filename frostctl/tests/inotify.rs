//! frostctl follows files by polling, so it also works where no inotify instance is left, as on a
//! node where others have used them up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify};
use testkit::frostctl;

/// In a user namespace, so that nobody else's instances are affected.
const NONE_LEFT: &str = "echo 0 >/proc/sys/user/max_inotify_instances && exec \"$@\"";

/// The slowest of them looks every second.
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn what_is_followed_needs_no_instance() {
    let inner = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", NONE_LEFT, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inner_without_an_instance", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[inner.stdout, inner.stderr].concat()).into_owned();
    assert!(inner.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by what_is_followed_needs_no_instance in its user namespace"]
fn inner_without_an_instance() {
    let refused = Inotify::init(InitFlags::empty()).map(drop);
    assert_eq!(refused, Err(Errno::EMFILE), "control: there is one");
    let place = Place::new();
    place.add("before");
    followed(&place);
    served(&place);
    recorded(&place);
}

fn followed(place: &Place) {
    let mut follower = Ending(
        place
            .frostctl(&["history", "--follow", "--json", "--journal"])
            .arg(place.journal())
            .spawn()
            .unwrap(),
    );
    let lines = lines_of(follower.0.stdout.take().unwrap());
    // It shows what comes after its first look.
    let deadline = Instant::now() + LIMIT;
    let mut told = String::new();
    while told.is_empty() && Instant::now() < deadline {
        place.add("later");
        told = lines.recv_timeout(Duration::from_millis(100)).unwrap_or_default();
    }
    assert!(told.contains("later"), "not followed: {told:?}");
}

fn served(place: &Place) {
    let mut server = Ending(place.frostctl(&["serve", "--listen", "127.0.0.1:0"]).spawn().unwrap());
    let said = lines_of(server.0.stderr.take().unwrap()).recv_timeout(LIMIT).unwrap();
    let address = said.split("http://").nth(1).unwrap().split('/').next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn recorded(place: &Place) {
    let exits = place.path("exits");
    std::fs::create_dir(&exits).unwrap();
    let mut record = place.frostctl(&["record", "--containerd", "/nowhere", "--conmon-exits"]);
    let _recorder = Ending(record.arg(&exits).spawn().unwrap());
    std::fs::write(exits.join("ended"), "7").unwrap();
    let long = place.path("history").join("history.jsonl");
    let deadline = Instant::now() + LIMIT;
    let is_there = || std::fs::read_to_string(&long).is_ok_and(|text| text.contains("\"ended\""));
    while !is_there() {
        assert!(Instant::now() < deadline, "the exit is not recorded");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A journal that is being written.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let history = place.path("history");
        let config =
            format!("[history]\ndirectory = \"{}\"\n[log]\nsyslog = false\n", history.display());
        std::fs::write(place.path("config.toml"), config).unwrap();
        std::fs::create_dir(place.path("state")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn journal(&self) -> PathBuf {
        self.path("state").join("journal.jsonl")
    }

    /// Later than the existing records.
    fn add(&self, id: &str) {
        let mut file =
            std::fs::OpenOptions::new().append(true).create(true).open(self.journal()).unwrap();
        let ns = file.metadata().unwrap().len() + 1;
        let line = format!(
            "{{\"v\":1,\"boot_id\":\"b\",\"time\":\"2026-01-01T00:00:00.000Z\",\"mono_ns\":{ns},\
             \"verb\":\"create\",\"id\":\"{id}\",\"verdict\":\"ok\"}}\n"
        );
        file.write_all(line.as_bytes()).unwrap();
    }

    fn frostctl(&self, words: &[&str]) -> Command {
        let mut command = Command::new(frostctl());
        command
            .args(words)
            .env("FROSTLOCK_STATE_DIR", self.path("state"))
            .env("FROSTLOCK_CONFIG", self.path("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if words[0] == "serve" {
            command.arg("--state").arg(self.path("metrics.json"));
        }
        command
    }
}

/// Killed when the test is done with it.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines_of(output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    lines
}
