//! One line per command line: who types it, and how it must be read.
//!
//! A reading is written as `verb id` followed, in a fixed order, by whatever is not the default. `->`
//! means handed on; `?` means unreadable, with a part of the reason after it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::RuntimeKind::{Crun, Runc, Youki};
use super::*;

fn words(line: &str) -> Vec<OsString> {
    // `''` stands for an empty argument.
    line.split_whitespace().map(|word| if word == "''" { "" } else { word }.into()).collect()
}

fn told(line: &CommandLine) -> String {
    let mut told = match &line.command {
        Command::PassThrough => "->".to_owned(),
        Command::Unreadable { reason } => format!("? {reason}"),
        Command::Supervised(invocation) => told_of(invocation),
    };
    let globals = &line.globals;
    let mut add = |name: &str, value: Option<&OsStr>| {
        if let Some(value) = value {
            told += &format!(" {name}={}", value.to_string_lossy());
        }
    };
    add("ROOT", globals.root.as_deref().map(Path::as_os_str));
    add("LOG", globals.log.as_ref().map(|log| log.text.as_os_str()));
    for (name, set) in
        [("JSON", globals.log_format == LogFormat::Json), ("SYSTEMD", globals.systemd_cgroup)]
    {
        if set {
            told += &format!(" {name}");
        }
    }
    told
}

fn told_of(one: &Invocation) -> String {
    let mut told = format!("{} {}", one.verb, one.id.to_string_lossy());
    let mut add = |name: &str, value: Option<&OsStr>| {
        if let Some(value) = value {
            told += &format!(" {name}={}", value.to_string_lossy());
        }
    };
    add("bundle", one.bundle.as_deref().map(Path::as_os_str));
    add("config", one.config.as_deref().map(Path::as_os_str));
    add("pid", one.pid_file.as_deref().map(Path::as_os_str));
    add("console", one.console_socket.as_ref().map(|socket| socket.text.as_os_str()));
    add("process", one.process.as_deref().map(Path::as_os_str));
    add("resources", one.resources.as_deref());
    add("signal", one.signal.as_deref());
    for (name, set) in [("pidfd", one.pidfd_socket), ("detach", one.detach), ("all", one.all)] {
        if set {
            told += &format!(" {name}");
        }
    }
    told
}

#[track_caller]
fn check(grammar: RuntimeKind, table: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (line, expected) in table {
        let got = told(&read(grammar, &words(line)));
        let good = match expected.strip_prefix("? ") {
            Some(reason) => got.starts_with("? ") && got.contains(reason),
            None => got == *expected,
        };
        if !good {
            wrong.push(format!("{line}\n  expected {expected}\n  got      {got}"));
        }
    }
    assert!(wrong.is_empty(), "{grammar:?}:\n{}", wrong.join("\n"));
}

/// go-runc 1.0 (containerd 1.6, 1.7) and 1.1 (2.0 to 2.3), in the order in which it writes them.
#[test]
fn containerd() {
    check(
        Runc,
        &[
            (
                "--root /r/k8s.io --log /b/log.json --log-format json create --bundle /b --pid-file /b/init.pid c1",
                "create c1 bundle=/b pid=/b/init.pid ROOT=/r/k8s.io LOG=/b/log.json JSON",
            ),
            (
                "--root /r --log /l --log-format json --systemd-cgroup create --bundle /b --pid-file /p --console-socket /tmp/pty1/pty.sock c1",
                "create c1 bundle=/b pid=/p console=/tmp/pty1/pty.sock ROOT=/r LOG=/l JSON SYSTEMD",
            ),
            (
                "--root /r --log /l --log-format json --criu /usr/bin/criu --systemd-cgroup create --bundle /b --pid-file /p --no-pivot --no-new-keyring c1",
                "create c1 bundle=/b pid=/p ROOT=/r LOG=/l JSON SYSTEMD",
            ),
            ("--root /r --log /l --log-format json start c1", "start c1 ROOT=/r LOG=/l JSON"),
            (
                "--root /r --log /l --log-format json exec --process /tmp/runc-process123 --detach --pid-file /b/e.pid c1",
                "exec c1 pid=/b/e.pid process=/tmp/runc-process123 detach ROOT=/r LOG=/l JSON",
            ),
            (
                "--root /r --log /l --log-format json exec --process /tmp/p --console-socket /s --detach --pid-file /e c1",
                "exec c1 pid=/e console=/s process=/tmp/p detach ROOT=/r LOG=/l JSON",
            ),
            (
                "--root /r --log /l --log-format json update --resources - c1",
                "update c1 resources=- ROOT=/r LOG=/l JSON",
            ),
            (
                "--root /r --log /l --log-format json --systemd-cgroup update --resources=- c1",
                "update c1 resources=- ROOT=/r LOG=/l JSON SYSTEMD",
            ),
            ("--root /r --log /l --log-format json pause c1", "pause c1 ROOT=/r LOG=/l JSON"),
            ("--root /r --log /l --log-format json resume c1", "resume c1 ROOT=/r LOG=/l JSON"),
            (
                "--root /r --log /l --log-format json kill c1 15",
                "kill c1 signal=15 ROOT=/r LOG=/l JSON",
            ),
            (
                "--root /r --log /l --log-format json kill --all c1 9",
                "kill c1 signal=9 all ROOT=/r LOG=/l JSON",
            ),
            ("--root /r --log /l --log-format json delete c1", "delete c1 ROOT=/r LOG=/l JSON"),
            (
                "--root /r --log /l --log-format json delete --force c1",
                "delete c1 ROOT=/r LOG=/l JSON",
            ),
            ("--root /r --log /l --log-format json ps --format json c1", "-> ROOT=/r LOG=/l JSON"),
            (
                "--root /r --log /l --log-format json checkpoint --image-path /i --work-path /w --tcp-established --ext-unix-sk --shell-job --file-locks --empty-ns network --empty-ns ipc --leave-running c1",
                "checkpoint c1 ROOT=/r LOG=/l JSON",
            ),
            (
                "--root /r --log /l --log-format json restore --image-path /i --work-path /w --detach --pid-file /p --no-pivot -no-subreaper --bundle /b c1",
                "restore c1 bundle=/b pid=/p detach ROOT=/r LOG=/l JSON",
            ),
            (
                "--root /r --log /l --log-format json restore --image-path /i --work-path /w --parent-path /pp --detach --pid-file /p --console-socket /s -no-subreaper --bundle /b c1",
                "restore c1 bundle=/b pid=/p console=/s detach ROOT=/r LOG=/l JSON",
            ),
            ("features", "->"),
            // docker
            (
                "--root /var/run/docker/runtime-runc/moby --log /l --log-format json create --bundle /b --pid-file /p c1",
                "create c1 bundle=/b pid=/p ROOT=/var/run/docker/runtime-runc/moby LOG=/l JSON",
            ),
            ("--debug features", "->"),
        ],
    );
}

/// conmon 2.x, and what podman and CRI-O call by themselves.
#[test]
fn conmon_podman_crio() {
    let lines = [
        (
            "--systemd-cgroup create --bundle /b --pid-file /p c1",
            "create c1 bundle=/b pid=/p SYSTEMD",
        ),
        (
            "--systemd-cgroup --log-format=json --log /oci create --bundle /b --pid-file /p --no-pivot --no-new-keyring --console-socket /s c1",
            "create c1 bundle=/b pid=/p console=/s LOG=/oci JSON SYSTEMD",
        ),
        (
            "--log-format=json --log /oci exec --pid-file /p --process /f --detach --console-socket /s c1",
            "exec c1 pid=/p console=/s process=/f detach LOG=/oci JSON",
        ),
        (
            "exec --pid-file /p --process /f --detach --preserve-fds 2 c1",
            "exec c1 pid=/p process=/f detach",
        ),
        (
            "--systemd-cgroup restore --bundle /b --pid-file /p --detach --image-path /i --work-path /w c1",
            "restore c1 bundle=/b pid=/p detach SYSTEMD",
        ),
        ("start c1", "start c1"),
        ("pause c1", "pause c1"),
        ("resume c1", "resume c1"),
        ("delete --force c1", "delete c1"),
        ("kill c1 15", "kill c1 signal=15"),
        ("kill --all c1 9", "kill c1 signal=9 all"),
        ("update --resources=/tmp/x c1", "update c1 resources=/tmp/x"),
        ("state c1", "state c1"),
        ("--root /run/crio start c1", "start c1 ROOT=/run/crio"),
        ("--root /r --systemd-cgroup state c1", "state c1 ROOT=/r SYSTEMD"),
        ("--root=/r --systemd-cgroup pause c1", "pause c1 ROOT=/r SYSTEMD"),
        ("--root /r --systemd-cgroup delete --force c1", "delete c1 ROOT=/r SYSTEMD"),
        ("--root /r kill c1 TERM", "kill c1 signal=TERM ROOT=/r"),
        ("--root /r --systemd-cgroup kill c1 KILL", "kill c1 signal=KILL ROOT=/r SYSTEMD"),
        ("--root /r update --resources - c1", "update c1 resources=- ROOT=/r"),
        ("--root /r --systemd-cgroup exec --process /f c1", "exec c1 process=/f ROOT=/r SYSTEMD"),
        ("--version", "->"),
        ("features", "->"),
        ("", "->"),
    ];
    check(Runc, &lines);
    check(Crun, &lines);
    check(Youki, &lines.iter().copied().filter(|l| !l.0.contains("restore")).collect::<Vec<_>>());
}

#[test]
fn runc_by_hand() {
    check(
        Runc,
        &[
            ("create c1", "create c1"),
            ("create c1 --bundle /b", "create c1 bundle=/b"),
            ("create c1 --no-pivot --bundle /b", "create c1 bundle=/b"),
            ("-root /r create -b /b -preserve-fds=3 c1", "create c1 bundle=/b ROOT=/r"),
            ("--debug --root=/r create -b=/b c1", "create c1 bundle=/b ROOT=/r"),
            ("-debug=f --systemd-cgroup=1 run -d=false c1", "run c1 SYSTEMD"),
            ("run --keep --no-subreaper -d -b /b c1", "run c1 bundle=/b detach"),
            ("run c1 -d", "run c1 detach"),
            ("run c1 -b /b -d", "run c1 bundle=/b detach"),
            ("run --bundle /a --bundle /b c1", "run c1 bundle=/b"),
            ("create --pidfd-socket /s c1", "create c1 pidfd"),
            ("-- state c1", "state c1"),
            ("state -- c1", "state c1"),
            ("--rootless true state c1", "state c1"),
            ("--rootless=auto --log=/l --log-format=text state c1", "state c1 LOG=/l"),
            ("--log /a --log /b state c1", "state c1 LOG=/b"),
            ("kill c1", "kill c1"),
            ("kill c1 SIGKILL", "kill c1 signal=SIGKILL"),
            ("kill -a c1 9", "kill c1 signal=9 all"),
            ("kill -all=T c1 9", "kill c1 signal=9 all"),
            ("kill c1 9 --all", "kill c1 signal=9 all"),
            ("kill c1 --all=true 9", "kill c1 signal=9 all"),
            // Both urfave/cli versions take 9 for the value of --all and move it to the front, where
            // Go's flag package makes it the first word. Seen with runc 1.1.5.
            ("kill c1 --all 9", "kill 9 signal=c1 all"),
            ("kill -- c1 9", "kill c1 signal=9"),
            ("kill --all -- c1 9", "kill c1 signal=9 all"),
            ("delete c1 --force", "delete c1"),
            ("delete -f c1", "delete c1"),
            ("update c1 --memory-swap -1", "update c1"),
            ("update --memory-swap -1 c1", "update c1"),
            ("update --cpu-quota=-1 --cpu-period 100000 c1", "update c1"),
            ("update c1 --cpu-quota -1 --cpu-burst 5", "update c1"),
            ("update -r - c1", "update c1 resources=-"),
            ("update -r=- c1", "update c1 resources=-"),
            ("update c1 -r -", "update c1 resources=-"),
            ("update c1 --resources=-", "update c1 resources=-"),
            ("update c1 --resources -", "update c1 resources=-"),
            ("update --resources - --memory 5 c1", "update c1 resources=-"),
            ("update --l3-cache-schema L3:0=f c1", "update c1"),
            ("exec c1 sh", "exec c1"),
            ("exec -t c1 sh -c -d", "exec c1"),
            ("exec --tty --cwd / -e A=b -u 0 c1 ls --help", "exec c1"),
            ("exec c1 -- sh", "exec c1"),
            ("exec -t -- c1 sh", "exec c1"),
            ("exec c1 --tty", "exec c1"),
            ("exec --ignore-paused c1 true", "exec c1"),
            ("exec --cap A --cap B -g 1 -g 2 --cgroup x c1 true", "exec c1"),
            ("checkpoint --pre-dump --status-fd 3 --page-server h:1 c1", "checkpoint c1"),
            ("checkpoint --tcp-skip-in-flight --link-remap c1", "checkpoint c1"),
            ("restore c1 --lsm-profile a --lsm-mount-context b -d", "restore c1 detach"),
        ],
    );
}

#[test]
fn runc_not_ours_or_not_readable() {
    check(
        Runc,
        &[
            ("list", "->"),
            ("list -q", "->"),
            ("--root /r ps c1 -ef", "-> ROOT=/r"),
            ("events --stats c1", "->"),
            ("spec --rootless", "->"),
            ("init", "->"),
            ("help", "->"),
            ("h create", "->"),
            ("-h", "->"),
            ("-v", "->"),
            ("--help create c1", "->"),
            ("create --help", "->"),
            ("create c1 -h", "->"),
            ("state --help=false c1", "state c1"),
            ("--root /r", "-> ROOT=/r"),
            ("--root", "->"),
            ("checkpointt c1", "->"),
            ("frobnicate --x", "->"),
            ("--log create c1", "-> LOG=create"),
            ("state", "? state: no container id"),
            ("create --bundle /b", "? create: no container id"),
            ("create --bundle", "? no value for flag --bundle"),
            ("create c1 c2", "? too many arguments: c2"),
            // Go's flag package stops at c1, because urfave/cli has moved it before --bundle. runc
            // 1.1.5: "create" requires exactly 1 argument(s).
            ("create --no-pivot c1 --bundle /b", "? too many arguments"),
            ("update c1 --resources -- -", "? flag in place of a container id: -"),
            ("create --bundle=/b --frob c1", "? unknown flag --frob"),
            ("create --frob=1 c1", "? unknown flag --frob=1"),
            ("state c1 --foo", "? unknown flag --foo"),
            ("kill c1 -9", "? unknown flag -9"),
            ("kill -9 c1", "? unknown flag -9"),
            ("kill c1 --signal", "? unknown flag --signal"),
            ("kill -- c1 -9", "? flag in place of a signal: -9"),
            ("kill --all=maybe c1", "? not a boolean"),
            ("kill c1 9 10", "? too many arguments: 10"),
            ("state ---help", "? bad flag syntax"),
            ("state --=x", "? bad flag syntax"),
            ("state ''", "? empty container id"),
            ("state ../x", "? not a container id: ../x"),
            ("state ..", "? not a container id"),
            ("exec c1", "? nothing to execute"),
            ("exec --frob c1 sh", "? unknown flag --frob"),
            ("exec -td c1 sh", "? unknown flag -td"),
            ("delete --forc c1", "? unknown flag --forc"),
            ("--frob state c1", "? unknown flag --frob"),
            ("--frob x --log /l --log-format json state c1", "? unknown flag --frob LOG=/l JSON"),
            ("--frob list", "->"),
            ("--frob", "->"),
            (
                "--log /l --debug=perhaps state c1",
                "? not a boolean value in --debug=perhaps LOG=/l",
            ),
        ],
    );
}

#[test]
fn crun_by_hand() {
    check(
        Crun,
        &[
            (
                "--cgroup-manager=systemd --root=/r create --bundle=/b --config=c.json c1",
                "create c1 bundle=/b config=c.json ROOT=/r SYSTEMD",
            ),
            ("--cgroup-manager cgroupfs start c1", "start c1"),
            ("--systemd-cgroup --cgroup-manager=cgroupfs start c1", "start c1"),
            ("--cgroup-manager=cgroupfs --systemd-cgroup start c1", "start c1 SYSTEMD"),
            ("--cgroup-m disabled start c1", "start c1"),
            (
                "--log=file:/l --log-format=json --log-level debug state c1",
                "state c1 LOG=file:/l JSON",
            ),
            ("--log /l --log-f json state c1", "state c1 LOG=/l JSON"),
            ("--rootless true state c1", "state c1"),
            ("--systemd state c1", "state c1 SYSTEMD"),
            ("-- state c1", "state c1"),
            ("state -- c1", "state c1"),
            ("create -b/b -f c.json c1", "create c1 bundle=/b config=c.json"),
            ("create -b=/b c1", "create c1 bundle==/b"),
            ("create --bun /b c1", "create c1 bundle=/b"),
            ("create --pro x c1", "create c1"),
            ("run -db /b --keep c1", "run c1 bundle=/b detach"),
            ("exec -t c1 sh -c x", "exec c1"),
            // The d is the value of --tty.
            ("exec -td c1 sh", "exec c1"),
            ("exec -dt c1 sh", "exec c1 detach"),
            ("exec --tty=false c1 sh", "exec c1"),
            ("exec -tno c1 sh", "exec c1"),
            ("exec --tty c1 sh", "exec c1"),
            ("exec --process /p c1", "exec c1 process=/p"),
            ("exec -p/p -eA=b c1", "exec c1 process=/p"),
            ("exec c1 sh --detach", "exec c1"),
            ("update -r- c1", "update c1 resources=-"),
            ("update --res - c1", "update c1 resources=-"),
            ("update --cpu-quota -1 --memory 5 c1", "update c1"),
            ("kill -a c1 KILL", "kill c1 signal=KILL all"),
            ("kill --al c1", "kill c1 all"),
            ("kill -- c1 9", "kill c1 signal=9"),
            ("delete -f c1", "delete c1"),
            ("pause a b", "pause a"),
            ("checkpoint --image-path /i --parent-path /p --pre-dump c1", "checkpoint c1"),
            // not ours
            ("-V", "->"),
            ("-?", "->"),
            ("--usage", "->"),
            ("--vers", "->"),
            ("list -q", "->"),
            ("mounts add c1 /x", "->"),
            ("create --help", "->"),
            ("exec --usage", "->"),
            ("nocmd", "->"),
            // not readable
            ("--lo /l state c1", "? ambiguous flag --lo"),
            ("--debug=1 state c1", "? flag --debug=1 takes no value"),
            ("-root /r state c1", "? unknown flag -r in -root"),
            ("exec --pro x c1", "? ambiguous flag --pro"),
            ("kill --all=1 c1", "? takes no value"),
            ("kill -r c. 9", "? kill: with --regex the id is a pattern"),
            ("delete --regex --force .*", "? pattern"),
            ("delete -fr .*", "? pattern"),
            ("delete c1 --force", "? too many arguments: --force"),
            ("kill c1 -9", "? flag in place of a signal: -9"),
            ("kill -9 c1", "? unknown flag -9 in -9"),
            ("state c1 --help", "? too many arguments: --help"),
            ("update c1 --resources -", "? too many arguments"),
            ("state", "? no container id"),
            ("create -b", "? no value for flag -b"),
            ("restore -no-subreaper c1", "? unknown flag -n"),
            ("exec c1", "? nothing to execute"),
        ],
    );
}

#[test]
fn youki_by_hand() {
    check(
        Youki,
        &[
            (
                "-r /r -l /l --log-format json -s create -b /b -p /p -c /s c1",
                "create c1 bundle=/b pid=/p console=/s ROOT=/r LOG=/l JSON SYSTEMD",
            ),
            (
                "--root=/r --log-level debug --systemd-log create c1 -b/b",
                "create c1 bundle=/b ROOT=/r",
            ),
            ("create -b=/b c1", "create c1 bundle=/b"),
            ("run -d c1 --keep", "run c1 detach"),
            ("exec -td c1 sh", "exec c1 detach"),
            ("exec c1 -t -- sh -c x", "exec c1"),
            ("exec c1 sh -d", "exec c1 detach"),
            ("kill c1 --all 9", "kill c1 signal=9 all"),
            ("delete c1 -f", "delete c1"),
            ("update c1 -r -", "update c1 resources=-"),
            ("update -r- c1", "update c1 resources=-"),
            ("update c1 --pids-limit=-1", "update c1"),
            ("checkpointt --empty-ns --image-path /i c1", "checkpoint c1"),
            ("checkpoint c1", "checkpoint c1"),
            ("state -- c1", "state c1"),
            // not ours
            ("--version", "->"),
            ("-V", "->"),
            ("help create", "->"),
            ("info", "->"),
            ("restore c1", "->"),
            ("create -h", "->"),
            // not readable
            ("exec c1 sh -c x", "? unknown flag -c"),
            ("kill c1", "? kill: no signal"),
            ("kill c1 -9", "? unknown flag -9"),
            ("update c1 --pids-limit -1", "? no value for flag --pids-limit"),
            ("delete --forc c1", "? unknown flag --forc"),
            ("delete --force=true c1", "? takes no value"),
            // A cluster: -r with the value "oot"; then /r is the command.
            ("-root /r state c1", "-> ROOT=oot"),
            ("-- state c1", "? -- before the command"),
            ("state c1 --root /r", "? unknown flag --root"),
            ("state a b", "? too many arguments: b"),
        ],
    );
}

#[test]
fn grammar_by_file_name() {
    for (path, grammar) in [
        ("/usr/bin/runc", Runc),
        ("/usr/bin/crun", Crun),
        ("/usr/bin/crun-wasm", Crun),
        ("krun", Crun),
        ("/opt/youki-0.5/youki.real", Youki),
        ("/crun/runc", Runc),
        ("/usr/bin/kata-runtime", Runc),
        ("/", Runc),
    ] {
        assert_eq!(RuntimeKind::of(Path::new(path)), grammar, "{path}");
    }
}

#[test]
fn one_value_is_replaced_where_it_stands() {
    for (grammar, line, expected) in [
        (Runc, "--log /a --log /b state c1", "--log /a --log NEW state c1"),
        (Runc, "-log=/a=b state c1", "-log=NEW state c1"),
        (Crun, "--log=/a state c1", "--log=NEW state c1"),
        (Youki, "-l/a state c1", "-lNEW state c1"),
        (Youki, "-l=/a state c1", "-l=NEW state c1"),
        (Youki, "-sl /a state c1", "-sl NEW state c1"),
    ] {
        let args = words(line);
        let log = read(grammar, &args).globals.log.unwrap();
        assert_eq!(log.replaced(&args, OsStr::new("NEW")), words(expected), "{line}");
    }
    let args = words("create c1 --console-socket /s --bundle /s");
    let Command::Supervised(create) = read(Runc, &args).command else { panic!() };
    let args = create.console_socket.unwrap().replaced(&args, OsStr::new("/t"));
    assert_eq!(args, words("create c1 --console-socket /t --bundle /s"));
}

#[test]
fn other_bytes_than_utf8_survive() {
    let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let args = [bytes(b"--root=/r\xff"), "state".into(), bytes(b"c\xfe")];
    let line = read(Runc, &args);
    assert_eq!(line.globals.root, Some(PathBuf::from(OsStr::from_bytes(b"/r\xff"))));
    let Command::Supervised(state) = line.command else { panic!() };
    assert_eq!(state.id, bytes(b"c\xfe"));
}

#[test]
fn a_reason_is_one_short_printable_line() {
    let args =
        ["state".into(), OsString::from_vec([b"--\n\x1b[31m\xff".to_vec(), vec![7; 999]].concat())];
    let Command::Unreadable { reason } = read(Runc, &args).command else { panic!() };
    assert!(reason.starts_with("state: unknown flag --\\n\\x1b[31m\\xff\\x07"), "{reason}");
    assert!(reason.len() <= 200, "{reason}");
}

#[test]
fn the_log_file_of_crun() {
    for (log, file) in [
        ("/l", Some("/l")),
        ("file:/l", Some("/l")),
        ("journald:c1", None),
        ("syslog:c1", None),
        ("", None),
    ] {
        let args = ["--log".into(), log.into(), "state".into(), "c1".into()];
        assert_eq!(read(Crun, &args).globals.log_file(Crun), file.map(PathBuf::from), "{log}");
    }
}

#[test]
fn update_from_stdin() {
    for (line, stdin) in [("update -r - c1", true), ("update -r f c1", false), ("update c1", false)]
    {
        let Command::Supervised(update) = read(Runc, &words(line)).command else { panic!() };
        assert_eq!(update.reads_stdin(), stdin, "{line}");
    }
}
