//! What syslog hears, and a syslog that does not listen.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{Scratch, text};

use crate::{ID, in_namespace, is_seven, life, seven, within_limit};

/// The namespace's own /dev with a `log`; the host's stays as it is.
fn with_dev_log(scratch: &Scratch, socket: &Path, command: &Command) -> Command {
    let setup = format!(
        "N={}; mkdir -p $N; mount -t tmpfs none $N
             cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty $N/
             mkdir $N/shm $N/pts; mount --rbind /dev/shm $N/shm
             ln -s {} $N/log; mount --move $N /dev",
        scratch.path("dev").display(),
        socket.display()
    );
    in_namespace(&setup, command)
}

fn reader(scratch: &Scratch) -> (PathBuf, UnixDatagram) {
    let path = scratch.path("log.socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    (path, socket)
}

fn lines(socket: &UnixDatagram) -> Vec<String> {
    let mut buffer = vec![0; 64 * 1024];
    std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|length| text(&buffer[..length])))
        .collect()
}

const ALL: &str = "[log]\nsyslog = 'all'\n";

fn configured(scratch: &Scratch, config: &str, mut command: Command) -> Command {
    let path = scratch.path("config.toml");
    fs::write(&path, config).unwrap();
    command.env("FROSTLOCK_CONFIG", path);
    command
}

/// By default syslog gets what does not succeed at once, and with "all" everything.
#[test]
fn what_is_remarkable_is_a_line() {
    let scratch = Scratch::new();
    let (path, socket) = reader(&scratch);
    let program = |name: &str, text: &str| {
        testkit::program(&scratch.path(name), &format!("#!/bin/sh\n{text}\n"))
    };
    let runtimes = [
        (program("good", "exit 0"), ""),
        (program("failed", "exit 3"), "failed (exit status 3)"),
        (program("killed", "kill -9 $$"), "(signal 9)"),
    ];
    for (config, says_good) in [("", false), (ALL, true), ("[log]\nsyslog = 'off'\n", false)] {
        for (runtime, why) in &runtimes {
            let mut command = scratch.wrapped(runtime);
            command.args(["kill", ID]);
            let command = configured(&scratch, config, command);
            within_limit(&mut with_dev_log(&scratch, &path, &command));
            let heard = lines(&socket);
            let is_said = says_good || (config.is_empty() && !why.is_empty());
            assert_eq!(heard.len(), usize::from(is_said), "{config} {why}: {heard:?}");
            assert!(heard.iter().all(|line| line.contains(why)), "{heard:?}");
        }
    }
    // A successful one under a wrong configuration.
    let mut command = scratch.wrapped(&runtimes[0].0);
    command.args(["kill", ID]);
    let command = configured(&scratch, "mode = 'fast'\n", command);
    within_limit(&mut with_dev_log(&scratch, &path, &command));
    let heard = lines(&socket);
    assert!(heard.len() == 1 && heard[0].contains("using the default"), "{heard:?}");
}

/// A `state` that found nothing in its way has no line: it is called all the time.
#[test]
fn one_line_an_operation_with_all() {
    let scratch = Scratch::new();
    let (path, socket) = reader(&scratch);
    let heard = std::cell::RefCell::new(Vec::new());
    // Read after each command, since a socket's queue is short.
    let listen = || heard.borrow_mut().extend(lines(&socket));
    life(&scratch, |command| {
        listen();
        with_dev_log(&scratch, &path, &configured(&scratch, ALL, command))
    });
    listen();
    let heard = heard.into_inner();
    let of = |line: &String| {
        let message = line.split_once("]: ").map(|(_, message)| message.to_owned());
        message.and_then(|message| message.split(' ').next().map(str::to_owned))
    };
    let verbs: Vec<String> = heard.iter().filter_map(of).collect();
    let expected = ["create", "start", "exec", "update", "pause", "resume", "kill", "delete"];
    assert_eq!(verbs, expected, "{heard:?}");
}

#[test]
fn a_hostile_id_stays_in_its_line() {
    let scratch = Scratch::new();
    let (path, socket) = reader(&scratch);
    let seven = seven(&scratch);
    let hostile = "a\nNov 21 00:00:00 frostlock[1]: create b: ok\u{1b}[2J";
    let mut command = scratch.wrapped(&seven);
    command.args(["delete", hostile]);
    is_seven(&within_limit(&mut with_dev_log(&scratch, &path, &command)));
    let lines = lines(&socket);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("delete a\\nNov"), "{lines:?}");
    assert!(!lines[0].trim_end().contains(['\n', '\u{1b}']), "{lines:?}");
    let journal = scratch.journal();
    assert_eq!(journal.len(), 1);
    assert_eq!(journal[0]["verb"], "delete");
}

#[test]
fn nobody_reads() {
    let scratch = Scratch::new();
    let (path, _socket) = reader(&scratch);
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"full", &path).is_ok() {}
    let seven = seven(&scratch);
    for verb in ["delete", "kill", "update"] {
        let mut command = scratch.wrapped(&seven);
        command.args([verb, ID]);
        is_seven(&within_limit(&mut with_dev_log(&scratch, &path, &command)));
    }
    assert_eq!(scratch.journal().len(), 3);
}

#[test]
fn the_socket_is_no_socket() {
    let scratch = Scratch::new();
    let seven = seven(&scratch);
    fs::write(scratch.path("file"), "").unwrap();
    nix::unistd::mkfifo(&scratch.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _stream = std::os::unix::net::UnixListener::bind(scratch.path("stream")).unwrap();
    for name in ["file", "fifo", "stream", "absent"] {
        let mut command = scratch.wrapped(&seven);
        command.args(["delete", ID]);
        is_seven(&within_limit(&mut with_dev_log(&scratch, &scratch.path(name), &command)));
    }
}

#[test]
fn a_wrong_configuration_is_one_line() {
    let scratch = Scratch::new();
    let (path, socket) = reader(&scratch);
    let seven = seven(&scratch);
    let config = scratch.path("config.toml");
    fs::write(&config, "mode = = \n").unwrap();
    for args in [["delete", ID], ["state", ID], ["list", "--quiet"]] {
        let mut command = scratch.wrapped(&seven);
        command.args(args).env("FROSTLOCK_CONFIG", &config);
        is_seven(&within_limit(&mut with_dev_log(&scratch, &path, &command)));
        let lines = lines(&socket);
        assert_eq!(lines.len(), 1, "{args:?}: {lines:?}");
        assert!(lines[0].contains("using defaults"), "{lines:?}");
    }
}
