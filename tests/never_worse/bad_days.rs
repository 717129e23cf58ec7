//! Bad days: whatever is wrong around frostlock, the container operation goes ahead as it would
//! without it, and somebody can find out what was wrong.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Scratch, frostlock, install, program, run, runtime, succeed, text};

/// Longer than any lock wait and any operation here; a command that blocks on frostlock takes
/// forever.
const LIMIT: Duration = Duration::from_secs(20);

const ID: &str = "c";

/// What the fake runtime does by default.
const SEVEN: &str = "#!/bin/sh\necho out \"$#\"\necho err >&2\nexit 7\n";

fn seven(scratch: &Scratch) -> PathBuf {
    program(&scratch.path("seven"), SEVEN)
}

/// Runs to the end, with pipes; not for containers, which would keep them open.
fn within_limit(command: &mut Command) -> Output {
    let began = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if ended.recv_timeout(LIMIT).is_err() {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    let _ = done.send(());
    watchdog.join().unwrap();
    assert!(began.elapsed() < LIMIT, "{command:?} was blocked");
    output
}

#[track_caller]
fn is_seven(output: &Output) {
    is_seven_with(output, "out ");
}

#[track_caller]
fn is_seven_with(output: &Output, out: &str) {
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(text(&output.stdout).starts_with(out), "{output:?}");
    assert_eq!(text(&output.stderr), "err\n");
}

/// The same command in a separate mount namespace, after `setup`, a shell script.
fn in_namespace(setup: &str, command: &Command) -> Command {
    let mut inner = Command::new("unshare");
    inner
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg(format!("{setup}\nexec \"$@\""))
        .arg("sh")
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inner.env(name, value),
            None => inner.env_remove(name),
        };
    }
    inner
}

/// A container's life with a real runtime, with a change to each command.
fn life(scratch: &Scratch, adapt: impl Fn(Command) -> Command) {
    let runc = runtime("runc-1.1.5").path;
    let bundle = scratch.bundle("idle", ID);
    let wrapped = |args: &[&str]| {
        let mut command = scratch.wrapped(&runc);
        command.args(args);
        succeed(&mut adapt(command))
    };
    wrapped(&["create", "--bundle", bundle.to_str().unwrap(), ID]);
    let status = |args: &[&str]| -> Value {
        serde_json::from_slice(&wrapped(args).stdout).expect("the state")
    };
    assert_eq!(status(&["state", ID])["status"], "created");
    wrapped(&["start", ID]);
    wrapped(&["exec", ID, "true"]);
    wrapped(&["update", "--pids-limit", "77", ID]);
    wrapped(&["pause", ID]);
    assert_eq!(status(&["state", ID])["status"], "paused");
    wrapped(&["resume", ID]);
    assert_eq!(status(&["state", ID])["status"], "running");
    wrapped(&["kill", ID, "KILL"]);
    wrapped(&["delete", "--force", ID]);
    assert!(!run(scratch.bare(&runc).args(["state", ID])).status.success());
}

mod state_directory {
    use super::*;

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
            let setup = format!(
                "S={state}; mount -t tmpfs -o size=16k,nr_inodes=8,mode=0700 none $S; {fill}"
            );
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
}

mod syslog {
    use super::*;

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
}

mod no_runtime {
    use super::*;

    fn bad_runtimes(scratch: &Scratch) -> Vec<(PathBuf, &'static str)> {
        let file = |name: &str, contents: &str, mode: u32| {
            let path = scratch.path(name);
            fs::write(&path, contents).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let fifo = scratch.path("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        vec![
            (scratch.path("missing"), "is not there"),
            (file("plain", SEVEN, 0o644), "is not executable"),
            (PathBuf::from("/dev/shm"), "is not a regular file"),
            (fifo, "is not a regular file"),
            (frostlock(), "is frostlock itself"),
            (file("text", "neither ELF nor script\n", 0o755), "Exec format error"),
            (file("empty", "", 0o755), "Exec format error"),
            (file("orphan", "#!/nowhere/sh\n", 0o755), "No such file or directory"),
        ]
    }

    /// For a runtime that blocks, is supervised or is handed over: the message is the same.
    #[test]
    fn the_caller_reads_why_in_its_own_log() {
        let scratch = Scratch::new();
        for (path, why) in bad_runtimes(&scratch) {
            for verb in [&["list"] as &[_], &["state", ID], &["delete", ID], &["create", ID]] {
                says_why(&scratch, &path, why, verb);
            }
        }
    }

    fn says_why(scratch: &Scratch, path: &Path, why: &str, verb: &[&str]) {
        let log = scratch.path("log");
        for format in [None, Some("json"), Some("text")] {
            let _ = fs::remove_file(&log);
            let mut command = scratch.wrapped(path);
            if let Some(format) = format {
                command.arg("--log").arg(&log).args(["--log-format", format]);
            }
            let output = within_limit(command.args(verb));
            assert_eq!(output.status.code(), Some(1), "{path:?} {verb:?} {output:?}");
            let said = text(&output.stderr);
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(said.starts_with("frostlock: ") && said.contains(why), "{path:?}: {said}");
            let logged = fs::read_to_string(&log).unwrap_or_default();
            assert_eq!(logged.lines().count(), usize::from(format.is_some()), "{logged}");
            match format {
                Some("json") => {
                    let entry: Value = serde_json::from_str(&logged).unwrap();
                    assert_eq!(entry["level"], "error");
                    assert_eq!(entry["msg"], said.trim_end());
                }
                Some(_) => assert!(logged.contains("level=error msg="), "{logged}"),
                None => {}
            }
        }
    }

    /// A wrong runtime in the configuration affects every operation of the node.
    #[test]
    fn one_that_is_only_configured_is_replaced_by_another_of_its_kind() {
        let scratch = Scratch::new();
        let runc = in_path(&scratch, "runc", SEVEN);
        for (path, why) in
            bad_runtimes(&scratch).into_iter().filter(|(_, why)| why.starts_with("is "))
        {
            let named = scratch.path("runc-1.3");
            if path.exists() {
                symlink(&path, &named).unwrap();
            }
            for verb in ["create", "delete", "state", "list"] {
                let output = within_limit(configured(&scratch, &named).args([verb, ID]));
                is_seven(&output);
            }
            let notes: Vec<String> =
                scratch.journal().iter().map(|it| it["note"].as_str().unwrap().into()).collect();
            assert_eq!(notes.len(), 2, "{notes:?}");
            let fell_back = format!("fell back to {}", runc.display());
            for note in notes {
                assert_eq!(note.matches(&fell_back).count(), 1, "{note}");
                assert!(note.contains(why), "{note}");
            }
            fs::remove_dir_all(scratch.state()).unwrap();
            let _ = fs::remove_file(&named);
        }
    }

    /// A sandboxing runtime is not replaced by one without a sandbox, nor one kind by another: when
    /// the right one is back, it does not know the container, and deletes it.
    #[test]
    fn one_of_another_name_is_not_replaced() {
        let scratch = Scratch::new();
        in_path(&scratch, "runc", SEVEN);
        for name in ["runsc", "kata-runtime", "krun", "rnuc"] {
            let output =
                within_limit(configured(&scratch, &scratch.path(name)).args(["create", ID]));
            assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
            assert!(text(&output.stderr).contains("is not there"), "{output:?}");
        }
        let crun = scratch.path("missing/crun-1.21");
        in_path(&scratch, "crun", "#!/bin/sh\nexit 8\n");
        let output = within_limit(configured(&scratch, &crun).args(["state", "another"]));
        assert_eq!(output.status.code(), Some(8), "{output:?}");
    }

    /// With `list`, since runc and crun both have it.
    #[test]
    fn one_that_a_caller_has_named_is_not_replaced() {
        let scratch = Scratch::new();
        in_path(&scratch, "runc", SEVEN);
        let link = scratch.path("frostlock-none");
        symlink(frostlock(), &link).unwrap();
        let mut command = Command::new(&link);
        command.env("PATH", scratch.path("bin")).env("FROSTLOCK_STATE_DIR", scratch.state());
        let output = within_limit(command.arg("list"));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains("no other none in PATH"), "{output:?}");
    }

    fn in_path(scratch: &Scratch, name: &str, text: &str) -> PathBuf {
        fs::create_dir_all(scratch.path("bin")).unwrap();
        program(&scratch.path("bin").join(name), text)
    }

    fn configured(scratch: &Scratch, runtime: &Path) -> Command {
        let config = scratch.path("config.toml");
        fs::write(&config, format!("runtime = {:?}\n", runtime.display().to_string())).unwrap();
        let mut command = scratch.wrapped(runtime);
        command.env_remove("FROSTLOCK_RUNTIME").env("FROSTLOCK_CONFIG", &config);
        command.env("PATH", format!("{}:/usr/bin:/bin", scratch.path("bin").display()));
        command
    }

    #[test]
    fn nor_a_log_or_a_stderr_to_say_so() {
        let scratch = Scratch::new();
        let fifo = scratch.path("fifo.log");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for log in [fifo, scratch.path("no/such/log"), PathBuf::from("/dev/shm")] {
            for close in ["2>&-", "", "2>/dev/full"] {
                let mut command = Command::new("sh");
                command
                    .args(["-c", &format!("exec \"$0\" \"$@\" {close}")])
                    .arg(frostlock())
                    .arg("--log")
                    .arg(&log)
                    .arg("list")
                    .env("FROSTLOCK_RUNTIME", "/nowhere/runc");
                assert_eq!(within_limit(&mut command).status.code(), Some(1));
            }
        }
    }
}

mod configuration {
    use super::*;

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
            let expected =
                ["create", "start", "exec", "update", "pause", "resume", "kill", "delete"];
            assert_eq!(verbs, expected, "{mode}");
            assert_eq!(journal[0]["lock"], lock, "{mode}");
            assert_eq!(journal[0]["runtime"], runc.to_str().unwrap());
        }
    }
}

mod bundles_and_ids {
    use super::*;

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
}

mod journal {
    use super::*;

    fn operation(scratch: &Scratch, seven: &Path, id: &str) {
        is_seven(&within_limit(scratch.wrapped(seven).args(["delete", id])));
    }

    #[test]
    fn a_torn_last_line_spoils_only_itself() {
        let scratch = Scratch::new();
        let seven = seven(&scratch);
        operation(&scratch, &seven, "a");
        let path = scratch.state().join("journal.jsonl");
        let torn = fs::read_to_string(&path).unwrap() + "{\"v\":1,\"verb\":\"del";
        fs::write(&path, torn).unwrap();
        operation(&scratch, &seven, "b");
        let text = fs::read_to_string(&path).unwrap();
        let ids: Vec<_> = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .map(|record| record["id"].clone())
            .collect();
        assert_eq!(ids, [json!("a"), json!("b")]);
    }

    #[test]
    fn one_of_100_mb_is_rotated() {
        let scratch = Scratch::new();
        let seven = seven(&scratch);
        operation(&scratch, &seven, "a");
        let path = scratch.state().join("journal.jsonl");
        fs::File::options().write(true).open(&path).unwrap().set_len(100 << 20).unwrap();
        operation(&scratch, &seven, "b");
        assert_eq!(scratch.journal().len(), 1);
        assert_eq!(fs::metadata(scratch.state().join("journal.jsonl.1")).unwrap().len(), 100 << 20);
    }

    #[test]
    fn an_id_forges_no_record() {
        let scratch = Scratch::new();
        let seven = seven(&scratch);
        operation(&scratch, &seven, "a\"}\n{\"v\":1,\"verb\":\"create\",\"id\":\"b\"}\n");
        operation(&scratch, &seven, "\u{2028}\u{85}\r");
        let raw = fs::read(scratch.state().join("journal.jsonl")).unwrap();
        assert_eq!(raw.iter().filter(|&&byte| byte == b'\n').count(), 2);
        assert!(!text(&raw).contains(['\r', '\u{2028}', '\u{85}']));
        assert!(scratch.journal().iter().all(|record| record["verb"] == "delete"));
    }

    /// As many as fit into the journal and its predecessor.
    #[test]
    fn eight_writers_rotate_and_lose_nothing() {
        const WRITERS: usize = 8;
        let scratch = Scratch::new();
        let seven = seven(&scratch);
        let config = scratch.path("config.toml");
        fs::write(&config, "[journal]\nmax_kib = 64\n").unwrap();
        operation(&scratch, &seven, "0-000");
        let path = scratch.state().join("journal.jsonl");
        let size = fs::metadata(&path).unwrap().len() + 8;
        // One and a half times the size: one rotation.
        let each = (3 * 64 * 1024 / 2 / size) as usize / WRITERS;
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (scratch, seven, config) = (&scratch, &seven, &config);
                scope.spawn(move || {
                    for number in 0..each {
                        let id = format!("{writer}-{number:03}");
                        let mut command = scratch.wrapped(seven);
                        command.args(["kill", &id]).env("FROSTLOCK_CONFIG", config);
                        is_seven(&within_limit(&mut command));
                    }
                });
            }
        });
        let older = fs::read_to_string(scratch.state().join("journal.jsonl.1")).unwrap();
        let newer = fs::read_to_string(&path).unwrap();
        assert!(older.len() <= 64 * 1024 && newer.len() <= 64 * 1024);
        let mut ids: Vec<String> = older
            .lines()
            .chain(newer.lines())
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|record| record["verb"] == "kill")
            .map(|record| record["id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), WRITERS * each);
    }
}

/// A fake runtime that prints its parent's pid.
const WHOSE_CHILD: &str = "#!/bin/sh\necho $PPID\n";

#[test]
fn the_kill_switch_leaves_nothing_of_ours() {
    let scratch = Scratch::new();
    let whose = program(&scratch.path("whose"), WHOSE_CHILD);
    fs::create_dir(scratch.state()).unwrap();
    fs::set_permissions(scratch.state(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(scratch.state().join("off"), "").unwrap();
    for verb in ["create", "start", "exec", "update", "pause", "delete", "state", "list"] {
        let output = within_limit(scratch.wrapped(&whose).args([verb, ID, "true"]));
        assert_eq!(text(&output.stdout).trim(), std::process::id().to_string(), "{verb}");
    }
    let left: Vec<_> = fs::read_dir(scratch.state()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    fs::remove_file(scratch.state().join("off")).unwrap();
    let output = within_limit(scratch.wrapped(&whose).args(["delete", ID]));
    assert_ne!(text(&output.stdout).trim(), std::process::id().to_string());
    assert_eq!(scratch.journal().len(), 1);
}

mod limits {
    use super::*;

    /// Through prlimit(1), whose limits we inherit.
    fn limited(limit: &str, command: &Command) -> Command {
        let mut limited = Command::new("prlimit");
        limited.arg(limit).arg(command.get_program()).args(command.get_args());
        limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        limited
    }

    fn supervised(scratch: &Scratch, runtime: &Path) -> Vec<Command> {
        let bundle = scratch.bundle("idle", ID);
        ["create", "start", "exec", "update", "pause", "kill", "delete"]
            .iter()
            .map(|verb| {
                let mut command = scratch.wrapped(runtime);
                command.arg(verb);
                if *verb == "create" {
                    command.arg("--bundle").arg(&bundle);
                }
                command.args([ID, "true"]);
                command
            })
            .collect()
    }

    #[test]
    fn descriptors() {
        let scratch = Scratch::new();
        // A shell would use descriptor 10.
        for command in supervised(&scratch, Path::new("/bin/echo")) {
            for most in 4..=12 {
                let output = within_limit(&mut limited(&format!("--nofile={most}"), &command));
                assert!(output.status.success(), "{most}: {output:?}");
                assert!(text(&output.stdout).ends_with("c true\n"), "{most}: {output:?}");
                assert_eq!(text(&output.stderr), "");
            }
        }
    }

    /// The runtime gets the input whether it was read before or not, even if frostlock becomes the
    /// runtime.
    #[test]
    fn descriptors_with_an_input() {
        let scratch = Scratch::new();
        // dash would use descriptor 10.
        let reads = program(&scratch.path("reads"), "#!/bin/bash\nread line\necho \"$line\"\n");
        let input = scratch.path("input");
        fs::write(&input, "{\"cpu\":{}}\n").unwrap();
        let words = ["update", "--resources", "-", ID];
        for most in 4..=16 {
            for command in [scratch.bare(&reads), scratch.wrapped(&reads)] {
                let mut limited = limited(&format!("--nofile={most}"), &command);
                limited.args(words).stdin(fs::File::open(&input).unwrap());
                let output = within_limit(&mut limited);
                assert_eq!(text(&output.stdout), "{\"cpu\":{}}\n", "{most} {command:?} {output:?}");
            }
        }
    }

    /// If a note stayed, the next operation would undo a successful pause.
    #[test]
    fn descriptors_for_a_note() {
        let scratch = Scratch::new();
        let runc = runtime("runc-1.1.15").path;
        let bundle = scratch.bundle("idle", ID);
        succeed(scratch.wrapped(&runc).args(["run", "--detach", "--bundle"]).arg(bundle).arg(ID));
        let mut pause = scratch.wrapped(Path::new("/bin/echo"));
        pause.args(["pause", ID]);
        for most in 4..=12 {
            // With enough descriptors, it is found that nothing has frozen.
            within_limit(&mut limited(&format!("--nofile={most}"), &pause));
            assert_eq!(notes(&scratch), Vec::<PathBuf>::new(), "{most}");
        }
        succeed(scratch.wrapped(&runc).args(["delete", "--force", ID]));
    }

    fn notes(scratch: &Scratch) -> Vec<PathBuf> {
        let cgroups = fs::read_dir(scratch.state().join("intents")).into_iter().flatten().flatten();
        let notes = cgroups.filter_map(|cgroup| fs::read_dir(cgroup.path()).ok()).flatten();
        notes.flatten().map(|note| note.path()).collect()
    }

    #[test]
    fn file_size() {
        let scratch = Scratch::new();
        for command in supervised(&scratch, &seven(&scratch)) {
            for most in [0, 1, 100] {
                is_seven(&within_limit(&mut limited(&format!("--fsize={most}"), &command)));
            }
        }
    }

    #[test]
    fn file_size_with_a_container() {
        let scratch = Scratch::new();
        let runc = runtime("runc-1.1.5").path;
        let bundle = scratch.bundle("idle", ID);
        succeed(scratch.wrapped(&runc).args(["run", "--detach", "--bundle"]).arg(bundle).arg(ID));
        let mut pause = scratch.wrapped(&runc);
        pause.args(["pause", ID]);
        let output = within_limit(&mut limited("--fsize=0", &pause));
        assert!(output.status.success(), "{output:?}");
        succeed(scratch.wrapped(&runc).args(["resume", ID]));
        succeed(scratch.wrapped(&runc).args(["delete", "--force", ID]));
    }

    /// root is exempt from the limit, so another user runs this, who cannot have a second process.
    fn without_a_second_process(scratch: &Scratch, runtime: &Path, words: &[&str]) -> Command {
        fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        let wrapper = scratch.path("wrapper");
        install(frostlock(), &wrapper);
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "61234", "--regid", "61234", "--clear-groups", "--inh-caps=-all"])
            .args(["prlimit", "--nproc=1"])
            .arg(&wrapper)
            .args(words)
            .env("FROSTLOCK_RUNTIME", runtime)
            .env("FROSTLOCK_STATE_DIR", scratch.state())
            .env("FROSTLOCK_CONFIG", "/dev/null");
        command
    }

    #[test]
    fn processes() {
        let scratch = Scratch::new();
        let seven = seven(&scratch);
        is_seven(&within_limit(&mut without_a_second_process(&scratch, &seven, &["delete", ID])));
    }

    /// Input that was read for a second attempt is there for the only one.
    #[test]
    fn processes_with_an_input() {
        let scratch = Scratch::new();
        let reads = program(&scratch.path("reads"), "#!/bin/sh\nread line\necho \"$line\"\n");
        let input = scratch.path("input");
        fs::write(&input, "{\"cpu\":{}}\n").unwrap();
        let words = ["update", "--resources", "-", ID];
        let mut update = without_a_second_process(&scratch, &reads, &words);
        let output = within_limit(update.stdin(fs::File::open(input).unwrap()));
        assert_eq!(text(&output.stdout), "{\"cpu\":{}}\n", "{output:?}");
    }
}

mod stdio {
    use super::*;

    fn shell(scratch: &Scratch, script: &str) -> Output {
        let seven = seven(scratch);
        let wrapped = scratch.wrapped(&seven);
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(frostlock());
        command.envs(wrapped.get_envs().filter_map(|(name, value)| Some((name, value?))));
        within_limit(&mut command)
    }

    #[test]
    fn closed() {
        let scratch = Scratch::new();
        for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "<&- 2>&-", ">&- 2>&-"] {
            for verb in ["delete c", "create c", "exec c true", "state c", "list"] {
                let output = shell(&scratch, &format!("exec \"$0\" {verb} {closed}"));
                assert_eq!(output.status.code(), Some(7), "{verb} {closed} {output:?}");
            }
        }
        // The runtime's output went nowhere, in particular not into files of ours.
        for file in scratch.lock_files() {
            assert!(!fs::read_to_string(file).unwrap().contains("err"));
        }
        scratch.journal();
    }

    /// The runtime's own exit status counts, since its output was accepted.
    #[test]
    fn a_pipe_whose_reader_has_gone() {
        let scratch = Scratch::new();
        let seven = seven(&scratch);
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        let mut child = scratch
            .wrapped(&seven)
            .args(["delete", ID])
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(7));
        assert_eq!(scratch.journal()[0]["exit"]["code"], 7);
    }

    /// Bare, the daemon writes into the caller's pipe, and fails once that is closed.
    #[test]
    fn a_daemon_of_a_hook_does_not_fill_memory_of_ours() {
        const MUCH: u64 = 8 << 20;
        let scratch = Scratch::new();
        let (go, size) = (scratch.path("go"), scratch.path("size"));
        let script = format!(
            "#!/bin/sh\n{{ while [ ! -e {go} ]; do sleep 0.01; done; head -c {MUCH} /dev/zero >&2\n\
             stat -L -c %s /proc/self/fd/2 >{size}.new; mv {size}.new {size}; }} &\n\
             echo out\necho err >&2\nexit 7\n",
            go = go.display(),
            size = size.display(),
        );
        let hooked = program(&scratch.path("hooked"), &script);
        is_seven_with(&run(scratch.wrapped(&hooked).args(["delete", ID])), "out\n");
        fs::write(&go, "").unwrap();
        testkit::eventually(LIMIT, "the daemon has written", || size.exists());
        let size: u64 = fs::read_to_string(&size).unwrap().trim().parse().unwrap();
        assert!(size < MUCH / 8, "{size} bytes of ours");
    }

    /// Bare, the runtime would hang in its write. Here the operation is done and recorded, and its
    /// lock is free, though the caller still waits for frostlock.
    #[test]
    fn a_full_pipe_that_nobody_reads() {
        let scratch = Scratch::new();
        let seven = seven(&scratch);
        let (_reader, writer) = nix::unistd::pipe().unwrap();
        // The default capacity of a pipe.
        assert_eq!(nix::unistd::write(&writer, &[b'x'; 65536]), Ok(65536));
        let mut stuck: Child = scratch
            .wrapped(&seven)
            .args(["delete", ID])
            .stdout(writer)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        testkit::eventually(LIMIT, "the record", || !scratch.journal().is_empty());
        is_seven(&within_limit(scratch.wrapped(&seven).args(["delete", ID])));
        stuck.kill().unwrap();
        stuck.wait().unwrap();
    }
}

mod surroundings {
    use super::*;

    #[test]
    fn the_working_directory_is_deleted() {
        let scratch = Scratch::new();
        let seven = seven(&scratch);
        let gone = scratch.path("gone");
        let script = format!("mkdir {0}; cd {0}; rmdir {0}; exec \"$0\" \"$@\"", gone.display());
        for verb in ["create", "delete", "list"] {
            let wrapped = scratch.wrapped(&seven);
            let mut command = Command::new("sh");
            command.args(["-c", &script]).arg(frostlock()).args([verb, ID]);
            command.envs(wrapped.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let output = within_limit(&mut command);
            assert_eq!(output.status.code(), Some(7), "{output:?}");
            // The shell prints something, too.
            assert!(text(&output.stderr).ends_with("err\n"), "{output:?}");
        }
    }

    /// The state directory is then /run/frostlock, in the namespace's own /run. runc is found in
    /// the usual directories.
    #[test]
    fn the_environment_is_empty() {
        let mut command = Command::new("env");
        command.arg("-i").arg(frostlock()).arg("--version");
        let output = within_limit(&mut in_namespace("mount -t tmpfs none /run", &command));
        assert!(output.status.success(), "{output:?}");
        assert!(text(&output.stdout).contains("version"), "{output:?}");
        let mut delete = Command::new("env");
        delete.arg("-i").arg(frostlock()).args(["delete", "frostlock-test-nobody"]);
        let output = within_limit(&mut in_namespace("mount -t tmpfs none /run", &delete));
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("does not exist"), "{output:?}");
    }

    #[test]
    fn proc_is_absent_or_hidden() {
        let scratch = Scratch::new();
        let seven = seven(&scratch);
        fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        let wrapper = scratch.path("wrapper");
        install(frostlock(), &wrapper);
        for setup in [
            "mount -t tmpfs none /proc",
            "mount -t proc -o hidepid=2 proc /proc; set -- setpriv --reuid 61234 --regid 61234 --clear-groups \"$@\"",
        ] {
            for verb in ["create", "exec", "update", "delete", "state", "list"] {
                let mut command = Command::new(&wrapper);
                command
                    .args([verb, ID, "true"])
                    .env("FROSTLOCK_RUNTIME", &seven)
                    .env("FROSTLOCK_STATE_DIR", scratch.path("nobody"))
                    .env("FROSTLOCK_CONFIG", "/dev/null");
                is_seven(&within_limit(&mut in_namespace(setup, &command)));
            }
        }
    }

    /// The environment of rootless podman: root of a user namespace, to which /run belongs to
    /// somebody else.
    #[test]
    fn root_of_a_user_namespace_only() {
        let scratch = Scratch::new();
        let seven = seven(&scratch);
        fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        let wrapper = scratch.path("wrapper");
        install(frostlock(), &wrapper);
        let xdg = scratch.path("xdg");
        fs::create_dir(&xdg).unwrap();
        std::os::unix::fs::chown(&xdg, Some(61234), Some(61234)).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "61234", "--regid", "61234", "--clear-groups"])
            .args(["unshare", "--user", "--map-root-user"])
            .arg(&wrapper)
            .args(["delete", ID])
            .env("FROSTLOCK_RUNTIME", &seven)
            .env("FROSTLOCK_CONFIG", "/dev/null")
            .env("XDG_RUNTIME_DIR", &xdg);
        is_seven(&within_limit(&mut command));
        let journal = fs::read_to_string(xdg.join("frostlock/journal.jsonl")).unwrap();
        assert_eq!(journal.lines().count(), 1);
    }

    /// Like `nsenter --pid --no-fork`. A bare runtime that starts nothing is not affected: crun
    /// still finds its containers.
    #[test]
    fn children_are_in_a_pid_namespace_of_their_own() {
        let scratch = Scratch::new();
        let whose = program(&scratch.path("whose"), WHOSE_CHILD);
        let ours = std::process::id().to_string();
        let verbs = ["create", "exec", "update", "pause", "kill", "delete", "state"];
        for (setup, is_bare) in [("", true), ("", false), ("mount -t tmpfs none /proc", false)] {
            for verb in verbs {
                let mut command =
                    if is_bare { scratch.bare(&whose) } else { scratch.wrapped(&whose) };
                command.args([verb, ID]).args((verb == "exec").then_some("true"));
                let mut inner = Command::new("unshare");
                inner.arg("--pid").arg(command.get_program()).args(command.get_args());
                inner.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
                let output = within_limit(&mut in_namespace(setup, &inner));
                assert!(output.status.success(), "{setup} {verb} {output:?}");
                let parent = text(&output.stdout);
                assert!(!setup.is_empty() || parent.trim() == ours, "{verb} {is_bare}: {parent}");
            }
        }
        let journal = scratch.journal();
        assert_eq!(journal.len(), 12);
        assert!(journal[..6].iter().all(|record| record["verdict"] == "handed over"));
    }

    /// vm.memfd_noexec belongs to a pid namespace. From 6.6 on, the kernel chooses the flag itself.
    #[test]
    fn anonymous_files_must_not_be_executable() {
        let scratch = Scratch::new();
        let fails = "#!/bin/sh\nread line\necho \"$line\"\necho unable to freeze >&2\nexit 1\n";
        let fails = program(&scratch.path("fails"), fails);
        let mut update = scratch.wrapped(&fails);
        update.args(["update", "--resources", "-", ID]);
        let mut inner = Command::new("unshare");
        inner
            .args(["--pid", "--fork", "--mount-proc", "sh", "-ec"])
            .arg("echo 2 >/proc/sys/vm/memfd_noexec; echo '{}' | \"$@\"")
            .arg("sh")
            .arg(update.get_program())
            .args(update.get_args());
        inner.envs(update.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = within_limit(&mut inner);
        assert_eq!(text(&output.stdout), "{}\n", "{output:?}");
        let journal = scratch.journal();
        assert!(journal[0]["attempts"].as_u64() > Some(1), "{journal:?}");
    }

    #[test]
    fn argv0_is_empty() {
        let scratch = Scratch::new();
        let seven = seven(&scratch);
        is_seven(&within_limit(scratch.wrapped(&seven).arg0("").args(["delete", ID])));
    }
}

mod installed {
    use super::*;

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
            let path =
                std::env::join_paths([ours, theirs, "/usr/bin".into(), "/bin".into()]).unwrap();
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
}
