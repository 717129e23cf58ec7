//! `frostctl audit` on containers that really differ from what some source says. Each of them is
//! made, shown to stay that way without us, and stands beside a healthy one.
//!
//! Needs root and the lab (`make lab`).

// clippy.toml allows these in tests, but helpers of a test are not #[test].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod node;
mod scene;

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use node::Node;
use scene::{Containerd, Plain, eventually, kill, pids, state};
use serde_json::Value;
use testkit::podman::{self, Podman};
use testkit::{install, text};

const SOON: Duration = Duration::from_secs(10);
/// How long to show that nothing changes without help.
const CONTROL: Duration = Duration::from_secs(2);

/// Every audit on this machine sees an orphan. So the test of an orphan runs alone, and so does a
/// test whose audit asks every source.
static MACHINE: RwLock<()> = RwLock::new(());

fn with_others() -> impl Drop {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> impl Drop {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Kind and id of each divergence.
fn found(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let list = report["divergences"].as_array().unwrap().iter();
    list.map(|one| (text(&one["kind"]), text(&one["id"]))).collect()
}

fn only(kind: &str, id: &str) -> Vec<(String, String)> {
    vec![(kind.to_owned(), id.to_owned())]
}

/// The exit status of a command whose standard output has no reader.
fn unread(command: &mut Command) -> Option<i32> {
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    command.stdout(OwnedFd::from(writer)).status().unwrap().code()
}

#[test]
fn a_task_that_runs_without_a_process_is_named_and_ended_through_containerd() {
    let _machine = with_others();
    let containerd = Containerd::up("1.7.24");
    for id in ["well", "lost", "paused"] {
        containerd.run(id);
    }
    assert!(containerd.ctr(&["task", "pause", "paused"]).status.success());
    let (report, code) = containerd.audit(&[]);
    assert_eq!((found(&report), code), (vec![], 0), "{report}");

    let init = containerd.lose_exit("lost");
    std::thread::sleep(CONTROL);
    assert_eq!(containerd.status("lost"), "RUNNING");
    assert_eq!(state(init), Some('Z'));

    let (report, code) = containerd.audit(&[]);
    assert_eq!((found(&report), code), (only("phantom", "lost"), 1), "{report}");
    assert_eq!(report["counts"]["phantom"], 1);
    for words in [&[][..], &["--json"]] {
        assert_eq!(unread(&mut containerd.audit_command(words)), Some(1), "the finding is lost");
    }
    let evidence = report["divergences"][0]["evidence"].to_string();
    assert!(evidence.contains(&format!("{init} is a zombie")), "{evidence}");
    assert!(!report["divergences"][0]["known_defects"].as_array().unwrap().is_empty());

    let (report, code) = containerd.audit(&["--heal", "--dry-run"]);
    assert_eq!((report["healing"][0]["result"].as_str(), code), (Some("would-be-healed"), 1));
    assert_eq!(containerd.status("lost"), "RUNNING");

    let (report, code) = containerd.audit(&["--heal"]);
    assert_eq!((report["healing"][0]["result"].as_str(), code), (Some("healed"), 0), "{report}");
    assert_eq!(containerd.status("lost"), "");
    assert_eq!(containerd.status("well"), "RUNNING");
    assert_eq!(containerd.status("paused"), "PAUSED");
    let (report, code) = containerd.audit(&[]);
    assert_eq!((found(&report), code), (vec![], 0), "{report}");
}

#[test]
fn a_shim_that_is_stopped_and_a_containerd_that_is_are_no_obstacle() {
    let _machine = with_others();
    let containerd = Containerd::up("2.1.9");
    for id in ["well", "mute"] {
        containerd.run(id);
    }
    let (init, shim) = containerd.init_and_shim("mute");
    kill(shim, "STOP");
    kill(init, "KILL");
    let mut control = containerd.ctr_command(&["task", "kill", "--signal", "KILL", "mute"]);
    let mut control = control.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(CONTROL);
    assert!(control.try_wait().unwrap().is_none(), "ctr task kill returned");
    control.kill().unwrap();
    control.wait().unwrap();

    let (report, code) = containerd.audit(&["--heal"]);
    assert_eq!((found(&report), code), (only("phantom", "mute"), 0), "{report}");
    assert_eq!(report["healing"][0]["result"], "healed");
    assert_eq!(containerd.status("mute"), "");
    assert_eq!(containerd.status("well"), "RUNNING");

    // Found in time, without any claim about its containers.
    let socket = containerd.socket().canonicalize().unwrap();
    let unanswered = only("unanswered", socket.to_str().unwrap());
    let silent = || {
        let began = Instant::now();
        let (report, code) = containerd.audit(&["--heal"]);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert_eq!((found(&report), code), (unanswered.clone(), 1), "{report}");
        assert_eq!(report["healing"][0]["result"], "left-alone");
        report
    };
    kill(containerd.pid(), "STOP");
    // To stop, its main thread needs a CPU; until then, the other threads answer.
    eventually(SOON, "it is stopped", || state(containerd.pid()) == Some('T'));
    let report = silent();
    kill(containerd.pid(), "CONT");
    let looked_at = report["looked_at"].as_array().unwrap();
    let asked = looked_at.iter().find(|it| it["source"] == "containerd").unwrap();
    assert_eq!((&asked["answered"], &asked["missed"]), (&false.into(), &"silent".into()));

    // Its container lives on without it, and the shim has the path of the missing socket.
    containerd.end();
    silent();
}

#[test]
fn one_that_is_frozen_by_hand_is_told_from_a_paused_one_and_not_thawed() {
    let _machine = with_others();
    let containerd = Containerd::up("1.6.20");
    for id in ["well", "frozen", "paused"] {
        containerd.run(id);
    }
    assert!(containerd.ctr(&["task", "pause", "paused"]).status.success());
    let freezer = containerd.freezer("frozen").join("freezer.state");
    std::fs::write(&freezer, "FROZEN").unwrap();
    std::thread::sleep(CONTROL);
    assert_eq!(containerd.status("frozen"), "RUNNING");
    let (report, code) = containerd.audit(&["--heal"]);
    assert_eq!((found(&report), code), (only("frozen-but-running", "frozen"), 1), "{report}");
    assert_eq!(report["healing"][0]["result"], "left-alone");
    assert!(report["divergences"][0]["remedy"].to_string().contains("resume frozen"), "{report}");
    assert_eq!(std::fs::read_to_string(&freezer).unwrap().trim(), "FROZEN");
    std::fs::write(&freezer, "THAWED").unwrap();
    let (report, code) = containerd.audit(&[]);
    assert_eq!((found(&report), code), (vec![], 0), "{report}");
}

#[test]
fn processes_of_stopped_containers_and_of_none_are_found_and_orphans_killed_only_when_asked() {
    let _machine = alone();
    let runc = Plain::runc("a root\nof two lines");
    let orphan = "0123456789abcdef".repeat(4);
    for id in ["well", "left", "empty", &orphan] {
        runc.run(id);
    }
    std::fs::create_dir(runc.root().join("torn")).unwrap();
    std::fs::write(runc.root().join("torn/state.json"), "{\"init_process_pid\":").unwrap();
    let (report, code) = runc.audit(&[]);
    assert_eq!((found(&report), code), (vec![], 0), "{report}");
    assert!(report["notes"].to_string().contains("torn"), "{report}");

    // The first process ends and leaves others; in `empty` those end, too.
    for id in ["left", "empty"] {
        kill(runc.init(id), "KILL");
    }
    pids(&runc.freezer("empty")).iter().for_each(|pid| kill(*pid, "KILL"));
    eventually(SOON, "empty", || pids(&runc.freezer("empty")).is_empty());
    let left = pids(&runc.freezer("left"));
    assert!(!left.is_empty());
    std::fs::remove_dir_all(runc.root().join(&orphan)).unwrap();
    let orphans = pids(&runc.freezer(&orphan));
    std::thread::sleep(CONTROL);
    assert_eq!(runc.status("left"), "stopped");
    assert!(left.iter().chain(&orphans).all(|pid| state(*pid).is_some()));

    let expected = vec![
        ("orphan".to_owned(), orphan.clone()),
        ("stopped-but-populated".to_owned(), "left".to_owned()),
    ];
    let results = |report: &Value| {
        let all = report["healing"].as_array().unwrap().iter();
        all.map(|one| one["result"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // A container of a CRI-O whose files are elsewhere would look like that orphan.
    let crio = runc.elsewhere("crio");
    let (report, _) = runc.audit(&[]);
    drop(crio);
    assert_eq!(found(&report), only("stopped-but-populated", "left"), "{report}");
    let looked_at = report["looked_at"].as_array().unwrap();
    let crio = looked_at.iter().find(|it| it["source"] == "crio").expect("it is named");
    assert_eq!(crio["missed"], "not-asked");
    let (report, code) = runc.audit(&["--heal"]);
    assert_eq!((found(&report), code), (expected.clone(), 1), "{report}");
    assert_eq!(results(&report), ["left-alone", "left-alone"], "{report}");
    let why = report["healing"][1]["why"].as_str().unwrap();
    assert!(why.contains("2 processes live in its cgroup or below"), "{why}");
    assert!(left.iter().chain(&orphans).all(|pid| !is_dead(*pid)));
    let (report, code) = runc.audit(&["--heal", "--kill-orphans"]);
    assert_eq!((found(&report), code), (expected, 0), "{report}");
    assert_eq!(results(&report), ["healed", "healed"], "{report}");
    eventually(SOON, "the end of what was left", || left.iter().all(|pid| is_dead(*pid)));
    assert!(orphans.iter().all(|pid| is_dead(*pid)));
    assert_eq!(runc.status("well"), "running");
}

#[test]
fn what_is_left_of_a_container_of_crun_is_deleted_by_crun() {
    let _machine = alone();
    let crun = Plain::crun("root");
    for id in ["well", "left"] {
        crun.run(id);
    }
    let (report, code) = crun.audit(&[]);
    assert_eq!((found(&report), code), (vec![], 0), "{report}");
    kill(crun.init("left"), "KILL");
    std::thread::sleep(CONTROL);
    assert_eq!(crun.status("left"), "stopped");
    let left = pids(&crun.freezer("left"));
    assert_eq!(left.len(), 2);
    let (report, code) = crun.audit(&["--heal"]);
    assert_eq!((found(&report), code), (only("stopped-but-populated", "left"), 1), "{report}");
    assert_eq!(report["healing"][0]["steps"], serde_json::json!([]), "{report}");
    let (report, code) = crun.audit(&["--heal", "--kill-orphans"]);
    assert_eq!((found(&report), code), (only("stopped-but-populated", "left"), 0), "{report}");
    assert!(report["healing"][0]["steps"][0].as_str().unwrap().starts_with("crun "), "{report}");
    eventually(SOON, "the end of what was left", || left.iter().all(|pid| is_dead(*pid)));
    assert_eq!(crun.status("well"), "running");
}

/// On v1 systemd has the service in its own hierarchy, and the runtime's freezer is empty.
#[test]
fn a_service_in_the_cgroup_of_a_stopped_container_keeps_it_from_being_deleted() {
    let _machine = alone();
    let runc = Plain::runc("root");
    for id in ["well", "host"] {
        runc.run(id);
    }
    let frozen = runc.freezer("host");
    pids(&frozen).iter().for_each(|pid| kill(*pid, "KILL"));
    eventually(SOON, "its end", || pids(&frozen).is_empty());
    // The container is reported as paused, but its process is gone.
    std::fs::write(frozen.join("freezer.state"), "FROZEN").unwrap();
    let service = runc.in_systemds_hierarchy("host").join("sshd.service");
    std::fs::create_dir_all(&service).unwrap();
    let mut sshd = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    std::fs::write(service.join("cgroup.procs"), sshd.id().to_string()).unwrap();

    let (report, code) = runc.audit(&["--heal"]);
    let lives = sshd.try_wait().unwrap().is_none();
    sshd.kill().unwrap();
    sshd.wait().unwrap();
    std::fs::remove_dir(&service).unwrap();
    assert_eq!((found(&report), code), (only("phantom", "host"), 1), "{report}");
    let healing = &report["healing"][0];
    assert_eq!(
        (&healing["result"], &healing["steps"]),
        (&"left-alone".into(), &Value::Array(vec![]))
    );
    let why = healing["why"].as_str().unwrap();
    assert!(why.starts_with("1 process lives") && why.contains("(of sshd.service)"), "{why}");
    assert!(lives, "the service was killed");

    let (report, code) = runc.audit(&["--heal"]);
    assert_eq!((&report["healing"][0]["result"], code), (&"healed".into(), 0), "{report}");
    assert_eq!(runc.status("well"), "running");
}

#[test]
fn a_stopped_shim_of_a_living_container_is_found_and_left_to_whoever_stopped_it() {
    let _machine = with_others();
    let containerd = Containerd::up("1.7.24");
    for id in ["well", "mute"] {
        containerd.run(id);
    }
    let (init, shim) = containerd.init_and_shim("mute");
    kill(shim, "STOP");
    let (report, code) = containerd.audit(&["--heal"]);
    kill(shim, "CONT");
    assert_eq!((found(&report), code), (only("stopped-supervisor", "mute"), 1), "{report}");
    let one = &report["divergences"][0];
    assert_eq!(one["remedy"], serde_json::json!([format!("kill -CONT {shim}")]));
    assert_eq!(one["known_defects"], serde_json::json!([]));
    assert_eq!(report["healing"][0]["result"], "left-alone");
    assert!(!is_dead(init));
    eventually(SOON, "its shim goes on", || found(&containerd.audit(&[]).0).is_empty());
}

/// A heal of two containers gets a signal in between.
#[test]
fn a_signal_ends_a_heal_after_the_container_at_hand() {
    let _machine = with_others();
    let containerd = Containerd::up("1.7.24");
    for id in ["first", "second"] {
        containerd.run(id);
        containerd.lose_exit(id);
    }
    let mut audit = containerd.audit_command(&["--heal", "--json"]);
    let audit = audit.stdout(Stdio::piped()).spawn().unwrap();
    eventually(SOON * 2, "the first is healed", || containerd.status("first") != "RUNNING");
    kill(audit.id() as i32, "INT");
    let (report, code) = scene::report(&audit.wait_with_output().unwrap());
    let healing = report["healing"].as_array().unwrap();
    assert_eq!(healing[0]["result"], "healed", "{report}");
    // The second may already have had its turn; it is healed or untouched.
    let is_healed = healing[1]["result"] == "healed";
    let interrupted = healing[1]["why"].as_str().is_some_and(|why| why.starts_with("interrupted"));
    assert!(is_healed || interrupted, "{report}");
    assert_eq!(code, i32::from(!is_healed), "{report}");
    assert_eq!(containerd.status("second"), if is_healed { "" } else { "RUNNING" });
}

/// A stopped shim is asked for 3 s.
#[test]
fn a_heal_that_takes_long_shows_a_terminal_how_far_it_is_and_a_pipe_nothing() {
    let _machine = with_others();
    let containerd = Containerd::up("2.1.9");
    for (id, is_terminal) in [("mute", true), ("dumb", false)] {
        containerd.run(id);
        let (init, shim) = containerd.init_and_shim(id);
        kill(shim, "STOP");
        kill(init, "KILL");
        let mut audit = containerd.audit_command(&["--heal"]);
        if is_terminal {
            let words = std::iter::once(audit.get_program()).chain(audit.get_args());
            let words: Vec<_> = words.map(|it| it.to_str().unwrap()).collect();
            let inner = format!("stty cols 60; exec {}", words.join(" "));
            let mut script = Command::new("script");
            script.args(["-q", "-e", "-c", &inner, "/dev/null"]);
            for (name, value) in audit.get_envs() {
                script.env(name, value.unwrap());
            }
            audit = script;
        }
        let began = Instant::now();
        let ended = scene::run(&mut audit);
        assert!(began.elapsed() > CONTROL, "the control: {:?}", began.elapsed());
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        let said = text(&ended.stdout);
        let shown: Vec<&str> = said.split("\r\u{1b}[K").skip(1).collect();
        let heals = format!("audit: heals 1 of 1, phantom {id}, ");
        assert_eq!(shown.iter().any(|it| it.starts_with(&heals)), is_terminal, "{said}");
        assert!(is_terminal || ended.stderr.is_empty(), "{ended:?}");
        // The progress is cleared in the end.
        let last = shown.last().unwrap_or(&said.as_str()).to_owned();
        assert!(last.contains("healed") && !last.contains("heals 1"), "{said}");
    }
}

/// Root, in all other tests, is the control.
#[test]
fn who_may_not_ask_says_so_and_not_that_nothing_is_wrong() {
    let _machine = with_others();
    let containerd = Containerd::up("1.7.24");
    containerd.run("well");
    let copy = tempfile::Builder::new().prefix("frostctl-").tempdir_in("/dev/shm").unwrap();
    let program = copy.path().join("frostctl");
    install(env!("CARGO_BIN_EXE_frostctl"), &program);
    for path in [copy.path(), &program] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut nobody = std::process::Command::new("setpriv");
    nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
    let ran = scene::run(nobody.args(["audit", "--socket"]).arg(containerd.socket()));
    let said = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(2), "{said}{}", text(&ran.stderr));
    let not_asked = format!("not asked: containerd at {}", containerd.socket().display());
    assert!(said.contains(&not_asked), "{said}");
    assert!(said.contains("not asked: kernel at /proc/PID/ns/mnt"), "{said}");
    assert!(said.contains("nothing wrong was found; "), "{said}");
}

fn is_dead(pid: i32) -> bool {
    matches!(state(pid), None | Some('Z'))
}

#[test]
fn a_watch_tells_within_two_seconds_and_not_of_what_is_being_stopped() {
    let _machine = with_others();
    let containerd = Containerd::up("1.7.24");
    for id in ["well", "lost", "ends"] {
        containerd.run(id);
    }
    let mut watch = containerd.audit_command(&["--watch", "--json"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let event = |limit| {
        let line: String = told.recv_timeout(limit).unwrap_or_default();
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        (event["event"].to_string(), event["kind"].to_string(), event["id"].to_string())
    };
    let is = |what: &str| (format!("{what:?}"), "\"phantom\"".to_owned(), "\"lost\"".to_owned());

    assert!(containerd.ctr(&["task", "kill", "--signal", "KILL", "ends"]).status.success());
    assert_eq!(event(CONTROL).0, "null");
    let killed = containerd.lose_exit_at("lost");
    assert_eq!(event(SOON), is("appeared"));
    let took = killed.elapsed();
    let mut unread = containerd.audit_command(&["--watch"]);
    let mut unread = unread.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(unread.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("phantom"), "{line}");
    assert_eq!(scene::ends(&mut unread, SOON).code(), Some(1), "nobody reads on");
    assert_eq!(containerd.audit(&["--heal"]).1, 0);
    assert_eq!(event(SOON), is("gone"));
    kill(watch.id() as i32, "TERM");
    assert_eq!(scene::ends(&mut watch, SOON).code(), Some(0));
    println!("told after {took:.1?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_container_of_a_pod_is_ended_through_cri_and_the_pod_goes() {
    let _machine = with_others();
    let node = Node::up("1.7.24");
    let (sandbox, container) = node.pod("busy");
    let (other, healthy) = node.pod("well");
    let (report, code) = node.audit(&[]);
    assert_eq!((found(&report), code), (vec![], 0), "{report}");

    node.lose_exit_of(&container);
    std::thread::sleep(CONTROL);
    assert_eq!(node.cri_state(&container), "CONTAINER_RUNNING");
    let (report, code) = node.audit(&[]);
    assert_eq!((found(&report), code), (only("phantom", &container), 1), "{report}");
    assert_eq!(report["divergences"][0]["name"], "default/busy/c");

    let (report, code) = node.audit(&["--heal"]);
    assert_eq!((report["healing"][0]["result"].as_str(), code), (Some("healed"), 0), "{report}");
    let steps = report["healing"][0]["steps"].to_string();
    assert!(steps.contains("StopContainer"), "{steps}");
    assert_eq!(report["healing"][0]["name"], "default/busy/c");
    assert_eq!(node.cri_state(&container), "CONTAINER_EXITED");
    node.remove_pod(&sandbox);
    assert_eq!(node.cri_state(&healthy), "CONTAINER_RUNNING");
    let (report, code) = node.audit(&[]);
    assert_eq!((found(&report), code), (vec![], 0), "{report}");
    node.remove_pod(&other);
}

#[test]
fn a_container_of_podman_whose_conmon_was_stopped_is_ended_through_podman() {
    let _machine = with_others();
    let podman = Podman::up();
    let [well, mute, lost] =
        ["well", "mute", "lost"].map(|name| podman.run(name, &["--runtime", "runc"]));
    let audit = |words: &[&str]| {
        let mut frostctl = podman.inside(env!("CARGO_BIN_EXE_frostctl"));
        scene::report(&podman::run(frostctl.args(["audit", "--json"]).args(words)))
    };
    let inspect = |what: &str, id: &str| podman.says(&["inspect", "--format", what, id]);
    let state_of = |id: &str| inspect("{{.State.Status}}", id);
    let end = |id: &str, conmon: &str| {
        let init = inspect("{{.State.Pid}}", id).parse().unwrap();
        kill(scene::parent(init), conmon);
        kill(init, "KILL");
    };
    let (report, code) = audit(&[]);
    assert_eq!((found(&report), code), (vec![], 0), "{report}");

    end(&mute, "STOP");
    std::thread::sleep(CONTROL);
    assert_eq!(state_of(&mute), "running");
    assert!(!podman.does(&["container", "cleanup", &mute]).status.success());
    let (report, code) = audit(&["--heal"]);
    assert_eq!((found(&report), code), (only("phantom", &mute), 0), "{report}");
    assert_eq!(report["healing"][0]["result"], "healed", "{report}");
    assert_eq!((state_of(&mute), state_of(&well)), ("exited".to_owned(), "running".to_owned()));

    // Some versions of podman do not notice without a conmon.
    end(&lost, "KILL");
    std::thread::sleep(CONTROL);
    assert_eq!(state_of(&lost), "running");
    let (report, code) = audit(&[]);
    assert_eq!((found(&report), code), (only("phantom", &lost), 1), "{report}");
    let remedy = report["divergences"][0]["remedy"].to_string();
    assert!(remedy.contains(&format!("podman rm --force {lost}")), "{remedy}");
    podman.says(&["rm", "--force", "--time", "0", &lost]);
    let (report, code) = audit(&[]);
    assert_eq!((found(&report), code), (vec![], 0), "{report}");
}

/// Without the node's processes every container looks dead, and --heal would end them.
#[test]
fn in_another_pid_namespace_it_looks_at_nothing() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let socket = directory.path().join("containerd.sock");
    let _engine = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let audit = |namespaces: &[&str]| {
        let script = "mount -t tmpfs tmpfs /run && mkdir /run/containerd && \
                      mount --bind \"$1\" /run/containerd && exec \"$2\" audit --heal --dry-run";
        let mut command = std::process::Command::new("unshare");
        command.arg("--mount").args(namespaces).args(["sh", "-c", script, "sh"]);
        command.arg(directory.path()).arg(env!("CARGO_BIN_EXE_frostctl"));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = audit(&["--pid", "--fork", "--mount-proc"]);
    assert!(code == Some(3) && said.contains("hostPID"), "{code:?} {said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    // The control: with the processes visible, it looks.
    let (_, said) = audit(&[]);
    assert!(!said.contains("hostPID"), "{said}");
}
