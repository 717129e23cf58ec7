//! doctor on recorded nodes and on the live cgroup tree, broken in each way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::live::{Container, Ended, Scratch, bundle, succeed};
use testkit::{frostctl, frostlock, install, repository, runtime};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn recorded(name: &str, args: &[&str]) -> Ended {
    let mut command = Command::new(frostctl());
    Ended::of(command.args(["doctor", "--root"]).arg(fixture(name)).args(args))
}

/// Severity, check and text of all findings.
fn lines(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().expect("findings");
    let text = |it: &Value, key: &str| it[key].as_str().unwrap().to_owned();
    let line = |it| format!("{} {}: {}", text(it, "severity"), text(it, "check"), text(it, "what"));
    findings.iter().map(line).collect()
}

fn problems(report: &Value) -> Vec<String> {
    lines(report).into_iter().filter(|it| !it.starts_with("note ")).collect()
}

const NOT_OURS: &str = "note installation: no runtime of containerd's goes through frostlock";
const HYBRID: &str =
    "note cgroup-mounts: v1 and v2 are both mounted (hybrid); kubelet and the runtimes use v1";

#[test]
fn recorded_nodes_have_the_findings_that_are_known_of_them() {
    let cases: [(&str, i32, &[&str]); 5] = [
        (
            "guaranteed",
            2,
            &[
                HYBRID,
                "note kubepods: /kubepods (cgroupfs driver) has 4 pods: 2 guaranteed, 1 burstable, 1 besteffort",
                NOT_OURS,
            ],
        ),
        ("no-kubepods", 1, &["error kubepods: kubelet's root /kubepods is not there", NOT_OURS]),
        (
            "freezer-not-mounted",
            1,
            &[
                "error controllers: the freezer controller is not mounted",
                HYBRID,
                "note kubepods: /kubepods (cgroupfs driver) has 1 pod: 0 guaranteed, 1 burstable, 0 besteffort",
                NOT_OURS,
            ],
        ),
        (
            "cpu-not-enabled",
            1,
            &[
                "error kubepods: /kubepods.slice has no cpu controller",
                "note kubepods: /kubepods.slice (systemd driver) has 1 pod: 0 guaranteed, 1 burstable, 0 besteffort",
                NOT_OURS,
            ],
        ),
        (
            "driver-mismatch",
            1,
            &[
                "error cgroup-driver: kubelet uses the systemd driver and containerd's runtime runc the cgroupfs driver",
                "note kubepods: /kubepods.slice (systemd driver) has 1 pod: 1 guaranteed, 0 burstable, 0 besteffort",
                "note versions: containerd 1.7.13 has 5 known defects",
                "note versions: containerd 1.7.13, like every newer one, can lose an exit",
                "note versions: the support of containerd 1.7.13 by its project ended on 2026-09-30",
                "note versions: runc 1.1.7 has 1 known defect",
                "note versions: runc 1.1.7 has 2 known defects that frostlock works around",
                "note versions: the support of runc 1.1.7 by its project ended before 2026-10-31",
                NOT_OURS,
            ],
        ),
    ];
    for (name, code, expected) in cases {
        let ended = recorded(name, &["--json"]);
        let report = ended.json();
        let (unseen, found): (Vec<_>, Vec<_>) =
            lines(&report).into_iter().partition(|it| it.starts_with("not-checked "));
        assert_eq!(found, expected, "{name}");
        let names = |it: &String| it.split([' ', ':']).nth(1).unwrap().to_owned();
        let unseen: Vec<String> = unseen.iter().map(names).collect();
        let listed: Vec<_> = report["not_checked"].as_array().unwrap().iter().collect();
        assert_eq!(listed, unseen.iter().collect::<Vec<_>>(), "{name}");
        for of_a_live_node in ["freezer", "lift", "lifted", "inotify", "installation"] {
            assert!(unseen.iter().any(|it| it == of_a_live_node), "{name}: {unseen:?}");
        }
        assert_eq!(unseen.contains(&"versions".to_owned()), name != "driver-mismatch", "{name}");
        assert_eq!(ended.code, Some(code), "{name}");
        for finding in report["findings"].as_array().unwrap() {
            assert!(!finding["remedy"].as_str().unwrap().is_empty(), "{finding}");
            assert!(finding["evidence"].as_array().is_some_and(|it| !it.is_empty()), "{finding}");
        }
    }
}

/// Such as dockerd's containerd.
#[test]
fn a_containerd_beside_the_cri_o_that_kubelet_uses_has_no_driver_to_agree_with() {
    let dir = tempfile::tempdir().unwrap();
    let from = fixture("driver-mismatch");
    succeed(Command::new("cp").arg("-a").arg(from.join(".")).arg(dir.path()));
    let file = dir.path().join("var/lib/kubelet/config.yaml");
    let drivers = || {
        let mut doctor = Command::new(frostctl());
        doctor.args(["doctor", "--json", "--check", "cgroup-driver", "--root"]).arg(dir.path());
        let found = lines(&Ended::of(&mut doctor).json());
        found.iter().filter(|it| it.starts_with("error ")).count()
    };
    assert_eq!(drivers(), 1, "the control");
    let text = std::fs::read_to_string(&file).unwrap();
    let endpoint = "containerRuntimeEndpoint: unix:///var/run/crio/crio.sock\n";
    std::fs::write(&file, format!("{}\n{endpoint}", text.trim_end())).unwrap();
    assert_eq!(drivers(), 0);
}

#[test]
fn guaranteed_pods_are_listed() {
    let report = recorded("guaranteed", &["--json", "--check", "kubepods"]).json();
    let evidence = report["findings"][0]["evidence"].to_string();
    for uid in ["0c8a6a44-6f0b-4a54-9f3e-61d2f6a0b7aa", "5d1f7c3a-94c5-4b60-8c5b-2f1e3f5f0e1d"] {
        assert!(evidence.contains(&format!("guaranteed pod {uid}")), "{evidence}");
    }
}

#[test]
fn a_plugin_of_node_problem_detector() {
    let cases = [
        (
            "guaranteed",
            2,
            "not checked: freezer: this needs a live node, and this is a recorded one",
        ),
        ("no-kubepods", 1, "kubepods: kubelet's root /kubepods is not there"),
        (
            "driver-mismatch",
            1,
            "cgroup-driver: kubelet uses the systemd driver and containerd's runtime runc ...",
        ),
        ("no-such-node", 2, ""),
    ];
    for (name, code, line) in cases {
        let ended = recorded(name, &["--npd"]);
        assert_eq!(ended.code, Some(code), "{name}: {}", ended.stdout);
        assert_eq!(ended.stdout.lines().count(), 1);
        let said = ended.stdout.trim_end();
        assert!(said.len() <= 80, "{}: {said}", said.len());
        assert!(line.is_empty() || said == line, "{said}");
    }
    let one = recorded("driver-mismatch", &["--npd", "--check", "kubepods"]);
    assert_eq!((one.code, one.stdout.as_str()), (Some(0), "OK: 1 check\n"));
}

#[test]
fn configurations_that_are_not_to_be_read_are_findings() {
    let scratch = Scratch::new();
    let node = scratch.dir.path();
    let put = |path: &str, text: &[u8]| {
        std::fs::create_dir_all(node.join(path).parent().unwrap()).unwrap();
        std::fs::write(node.join(path), text).unwrap();
    };
    let mountinfo = std::fs::read(fixture("driver-mismatch").join("proc/self/mountinfo")).unwrap();
    put("proc/self/mountinfo", &mountinfo);
    put("sys/fs/cgroup/cgroup.controllers", b"cpuset cpu io memory pids\n");
    put("var/lib/kubelet/config.yaml", b"cgroupDriver: [systemd\n\xff");
    put("etc/containerd/config.toml", b"version = 2\n[plugins.\"io.con");
    put("etc/frostlock/config.toml", b"mode = \"fast\"\n");
    let ended = scratch.frostctl(&["doctor", "--json", "--root", node.to_str().unwrap()]);
    let found = problems(&ended.json()).join("\n");
    for what in [
        "kubelet's configuration cannot be read",
        "containerd's configuration cannot be read",
        "frostlock's configuration has a mistake",
    ] {
        assert!(found.contains(what), "{found}");
    }
    // It is not known which root to make.
    put("var/lib/kubelet/config.yaml", b"kind: KubeletConfiguration\n");
    let systemd = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc.options]\n\
                   SystemdCgroup = true\n";
    put("etc/containerd/config.toml", systemd.as_bytes());
    let node_of = node.to_str().unwrap();
    let missing = |report: Value| {
        let findings = report["findings"].as_array().unwrap().clone();
        findings.into_iter().find(|it| it["what"].to_string().contains("is not there")).unwrap()
    };
    let check = ["doctor", "--json", "--check", "kubepods", "--root", node_of];
    assert_eq!(missing(scratch.frostctl(&check).json())["fix"], Value::Null);
    put("var/lib/kubelet/config.yaml", b"cgroupDriver: systemd\n");
    assert_ne!(missing(scratch.frostctl(&check).json())["fix"], Value::Null);
    // No valid mountinfo, or one without cgroups.
    put("proc/self/mountinfo", b"22 28 0:21 / /sys rw - sysfs sysfs rw\n\x00garbage\n");
    let ended = scratch.frostctl(&["doctor", "--json", "--root", node.to_str().unwrap()]);
    assert!(problems(&ended.json())[0].contains("no cgroup file system is mounted"), "{ended:?}");
}

/// doctor with the scratch place as kubelet's `--cgroup-root`.
fn doctor(scratch: &Scratch, more: &[&str]) -> (Option<i32>, Value) {
    let args = [&["doctor", "--json", "--cgroup-root", &scratch.cgroup][..], more].concat();
    let ended = scratch.frostctl(&args);
    (ended.code, ended.json())
}

#[test]
fn a_missing_root_is_made_in_every_hierarchy() {
    let scratch = Scratch::new();
    let check = ["--check", "kubepods"];
    let (code, report) = doctor(&scratch, &check);
    let missing =
        format!("error kubepods: kubelet's root {}/kubepods is not there", scratch.cgroup);
    assert_eq!((code, problems(&report)), (Some(1), vec![missing]));
    mended(&scratch);
    let cpus = std::fs::read_to_string(scratch.dir("cpuset", "/kubepods/cpuset.cpus")).unwrap();
    assert!(!cpus.trim().is_empty(), "nothing could be put into that cpuset");

    // One hierarchy lacks it, which is enough for kubelet.
    std::fs::remove_dir(scratch.dir("memory", "/kubepods")).unwrap();
    std::fs::create_dir(scratch.dir("cpu", "/kubepods/burstable")).unwrap();
    let (code, report) = doctor(&scratch, &check);
    let found = problems(&report);
    assert_eq!(code, Some(1));
    assert!(found[0].contains("/kubepods is not in the hierarchy of memory"), "{found:?}");
    assert!(found[1].contains("/kubepods/burstable is not in the hierarchy of "), "{found:?}");
    mended(&scratch);
    assert!(scratch.dir("memory", "/kubepods/burstable").is_dir());
}

fn mended(scratch: &Scratch) {
    let (code, report) = doctor(scratch, &["--check", "kubepods", "--fix"]);
    assert_eq!((code, problems(&report)), (Some(0), vec![]), "{report}");
    assert!(!report["fixes"].as_array().unwrap().is_empty());
    let (code, report) = doctor(scratch, &["--check", "kubepods"]);
    assert_eq!((code, problems(&report)), (Some(0), vec![]));
}

/// In a separate mount namespace; the script's `$0` is frostctl.
fn aside(scratch: &Scratch, script: &str) -> Ended {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-euc", script, frostctl()]);
    Ended::of(command.arg(&scratch.cgroup).env("FROSTLOCK_STATE_DIR", scratch.state()))
}

#[test]
fn a_freezer_that_is_not_mounted_is_mounted() {
    let scratch = Scratch::new();
    let ended = aside(
        &scratch,
        "umount /sys/fs/cgroup/freezer
         \"$0\" doctor --check controllers --check freezer --npd || echo code $?
         \"$0\" doctor --check controllers --fix | grep fixed
         \"$0\" doctor --check controllers --check freezer --npd",
    );
    let expected = "controllers: the freezer controller is not mounted\ncode 1\n\
                    fixed  mounted freezer at /sys/fs/cgroup/freezer\nOK: 2 checks\n";
    assert_eq!((ended.stdout.as_str(), ended.code), (expected, Some(0)), "{}", ended.stderr);
}

#[test]
fn on_v2_controllers_are_passed_on_down_to_the_root_of_pods() {
    let scratch = Scratch::new();
    let ended = aside(
        &scratch,
        "[ -e /sys/fs/cgroup/cgroup.controllers ] || mount -t cgroup2 none /sys/fs/cgroup
         cd /sys/fs/cgroup
         before=$(cat cgroup.subtree_control)
         mkdir .$1 .$1/kubepods
         cat cgroup.controllers
         \"$0\" doctor --check kubepods --cgroup-root $1 --npd || echo code $?
         \"$0\" doctor --check kubepods --cgroup-root $1 --fix --json || true
         cat .$1/kubepods/cgroup.controllers
         rmdir .$1/kubepods .$1
         for it in $(cat cgroup.subtree_control); do
             case \" $before \" in *\" $it \"*) ;; *) echo -$it >cgroup.subtree_control ;; esac
         done",
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let (has, rest) = ended.stdout.split_once('\n').unwrap();
    let wanted = ["cpu", "cpuset", "memory", "hugetlb", "pids"];
    let wanted: Vec<&str> = has.split(' ').filter(|it| wanted.contains(it)).collect();
    assert!(
        !wanted.is_empty(),
        "the v2 tree of this machine has no controller to try it with: {has}"
    );
    assert!(rest.starts_with("kubepods: /frostlock-test-"), "{rest}");
    assert!(rest.contains("\ncode 1\n"), "{rest}");
    assert!(rest.contains("\"findings\": [\n    {\n      \"severity\": \"note\""), "{rest}");
    let now = rest.lines().last().unwrap();
    assert!(
        wanted.iter().all(|it| now.split(' ').any(|has| has == *it)),
        "{now} lacks one of {has}"
    );
}

#[test]
fn empty_cgroups_of_500_pods_are_found_in_a_second_and_removed() {
    const UID: &str = "11111111-2222-3333-4444-";
    let scratch = Scratch::new();
    let controllers =
        ["cpu", "cpuacct", "cpuset", "memory", "pids", "freezer", "devices", "systemd"];
    for controller in controllers {
        for number in 0..500 {
            let pod =
                scratch.dir(controller, &format!("/kubepods/burstable/pod{UID}{number:012}/c"));
            std::fs::create_dir_all(pod).unwrap();
        }
    }
    let lives = format!("/kubepods/burstable/pod{UID}{:012}", 7);
    let sleeper = scratch.sleeper(&scratch.dir("memory", &format!("{lives}/c")));
    let young = doctor(&scratch, &["--check", "leftovers"]);
    assert_eq!((young.0, problems(&young.1)), (Some(0), vec![]), "they are not a minute old");
    // All checks. Measured in CPU time by the shell, since others share the machine.
    let script = "TIMEFORMAT='%U %S'; time \"$0\" doctor --leftover-age 0 --cgroup-root \"$1\"";
    let mut command = Command::new("bash");
    command.args(["-c", script, frostctl(), &scratch.cgroup]);
    let ended = Ended::of(command.env("FROSTLOCK_STATE_DIR", scratch.state()));
    assert!(ended.stdout.contains("499 pods are gone, and 7984 cgroup directories"), "{ended:?}");
    let times = ended.stderr.lines().last().unwrap().split(' ');
    let took: f64 = times.map(|it| it.parse::<f64>().expect("seconds")).sum();
    assert!(took < 1.0, "{took} s");
    let fix = ["--check", "leftovers", "--leftover-age", "0", "--fix"];
    let (code, report) = doctor(&scratch, &fix);
    assert_eq!((code, &report["fixes"]), (Some(1), &json!([])), "no kubelet could be asked");
    let script = "mount -t tmpfs none /var/lib; mkdir -p /var/lib/kubelet/pods
                  \"$0\" doctor --json --cgroup-root $1 --check leftovers --leftover-age 0 --fix";
    let ended = aside(&scratch, script);
    let report = ended.json();
    assert_eq!((ended.code, problems(&report)), (Some(0), vec![]), "{}", report["fixes"]);
    for controller in controllers {
        let left = std::fs::read_dir(scratch.dir(controller, "/kubepods/burstable")).unwrap();
        let dirs = left.flatten().filter(|it| it.file_type().unwrap().is_dir()).count();
        assert_eq!(dirs, 1, "{controller}: the one with a process");
    }
    drop(sleeper);
}

#[test]
fn a_trial_that_could_not_be_made_is_unknown_to_a_plugin() {
    let scratch = Scratch::new();
    let script = "mount -t tmpfs none /sys/fs/cgroup
                  exec \"$0\" doctor --npd --check freezer --check lift";
    let ended = aside(&scratch, script);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let unseen = "not checked: freezer: whether the freezer works was not tried\n";
    assert_eq!(ended.stdout, unseen, "{ended:?}");
}

fn freezer_state(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("freezer.state")).unwrap().trim().to_owned()
}

/// The finding about this cgroup.
fn about(report: &Value, cgroup: &str) -> Option<Value> {
    let findings = report["findings"].as_array().unwrap();
    let of = |it: &&Value| it["what"].as_str().unwrap().starts_with(&format!("{cgroup} "));
    findings.iter().find(of).cloned()
}

#[test]
fn what_a_killed_update_has_left_frozen_is_thawed_and_a_pause_is_not() {
    let scratch = Scratch::new();
    let runc = runtime("runc-1.1.15").path;
    let [ours, others] = ["/a", "/b"].map(|it| bundle(&scratch, &it[1..], it, json!({})));
    let one = Container::run(&frostlock(), &runc, &scratch, "a", &ours);
    let two = Container::run(&runc, &runc, &scratch, "b", &others);
    succeed(&mut two.command("pause"));
    // A runtime that freezes; then its wrapper is killed, as by a caller whose time is up.
    let cut = scratch.dir.path().join("runc");
    let frozen = scratch.dir("freezer", "/a");
    let script = format!(
        "#!/bin/sh\necho FROZEN >{}/freezer.state\n\
         grep -q frostlock /proc/$PPID/comm && kill -9 $PPID\n",
        frozen.display()
    );
    std::fs::write(&cut, script).unwrap();
    succeed(Command::new("chmod").arg("+x").arg(&cut));
    let mut update = Command::new(frostlock());
    update.arg("--root").arg(&one.root).args(["update", "--cpu-share", "100", "a"]);
    update.env("FROSTLOCK_RUNTIME", &cut).env("FROSTLOCK_STATE_DIR", scratch.state());
    let status = update.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert_eq!(status.unwrap().code(), None, "it was killed");

    let paused = scratch.dir("freezer", "/b");
    let path = |name: &str| format!("{}/{name}", scratch.cgroup);
    let (code, report) = doctor(&scratch, &["--check", "frozen"]);
    assert_eq!(code, Some(1));
    let finding = about(&report, &path("a")).expect("it is frozen");
    assert_eq!(finding["severity"], "error", "{finding}");
    let evidence = finding["evidence"].to_string();
    assert!(evidence.contains("update a by pid") && evidence.contains("sleep"), "{evidence}");
    assert_eq!(about(&report, &path("b")).expect("it is frozen")["severity"], "note");

    let (_, report) = doctor(&scratch, &["--check", "frozen", "--fix"]);
    assert!(report["fixes"].to_string().contains("thawed what update a"), "{report}");
    assert_eq!(
        (freezer_state(&frozen), freezer_state(&paused)),
        ("THAWED".into(), "FROZEN".into())
    );
    assert_eq!(about(&report, &path("a")), None);
    let (_, report) =
        doctor(&scratch, &["--check", "frozen", "--fix", "--thaw", paused.to_str().unwrap()]);
    assert_eq!(freezer_state(&paused), "THAWED", "{report}");
    drop((one, two));
}

/// A pod's name and state come first: its path alone would not fit into the line.
#[test]
fn a_plugin_says_of_a_frozen_pod_which_it_is_and_for_how_long() {
    const UID: &str = "0c8a6a44-6f0b-4a54-9f3e-61d2f6a0b7aa";
    let scratch = Scratch::new();
    let below = format!("/kubepods/burstable/pod{UID}/{}", "0123456789abcdef".repeat(4));
    let cgroup = format!("{}{below}", scratch.cgroup);
    let dir = scratch.dir("freezer", &below);
    std::fs::create_dir_all(&dir).unwrap();
    let sleeper = scratch.sleeper(&dir);
    let frozen = FrozenByHand::new(&dir);
    let since = Instant::now();
    while freezer_state(&dir) != "FROZEN" {
        assert!(since.elapsed() < Duration::from_secs(5), "it does not freeze");
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = || {
        let ended = scratch.frostctl(&["doctor", "--npd", "--check", "frozen"]);
        let line = ended.stdout.trim_end().to_owned();
        assert!(ended.code == Some(1) && line.len() <= 80, "{ended:?}");
        line
    };
    // Parallel tests may have a frozen pod at the same time, which is counted.
    let begins = format!("pod {UID} frozen for ");
    assert!(said().starts_with(&begins), "{}", said());

    // A refused exec says nothing about the freeze; a successful one says that the freeze is
    // younger.
    std::fs::create_dir(scratch.state()).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let now = cgroup::process::since_boot_ns();
    let record = |ago: u64, verb: &str, code: i32| {
        let at = now.saturating_sub(ago * 1_000_000_000);
        let record = json!({"v": 1, "boot_id": boot.trim(), "mono_ns": at, "verb": verb, "id": "c",
            "cgroup": cgroup, "exit": {"code": code}});
        format!("{record}\n")
    };
    let records = record(600, "exec", 0) + &record(3, "exec", 255) + &record(2, "kill", 0);
    std::fs::write(scratch.state().join("journal.jsonl"), records).unwrap();
    let (_, report) = doctor(&scratch, &["--check", "frozen"]);
    let finding = about(&report, &cgroup).expect("it is frozen");
    let what = finding["what"].as_str().unwrap();
    assert!(
        what.contains("is frozen, for at most 10 min (it was not before the last exec)"),
        "{what}"
    );
    assert!(said().starts_with(&begins), "{}", said());
    drop((frozen, sleeper));
}

/// Frozen processes cannot end: thawed before waiting for their end, even after a failure.
struct FrozenByHand(PathBuf);

impl FrozenByHand {
    fn new(dir: &Path) -> FrozenByHand {
        let file = dir.join("freezer.state");
        std::fs::write(&file, "FROZEN").unwrap();
        FrozenByHand(file)
    }
}

impl Drop for FrozenByHand {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.0, "THAWED");
    }
}

/// A copy that anybody can execute.
fn as_nobody(scratch: &Scratch, args: &[&str]) -> Ended {
    use std::os::unix::fs::PermissionsExt;
    let copy = scratch.dir.path().join("frostctl");
    install(frostctl(), &copy);
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    open(scratch.dir.path());
    open(&copy);
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(copy).args(args);
    Ended::of(&mut command)
}

#[test]
fn what_only_root_sees_is_not_called_fine_to_others() {
    let scratch = Scratch::new();
    let ended = as_nobody(&scratch, &["doctor", "--json"]);
    let report = ended.json();
    let unseen = report["not_checked"].to_string();
    for name in ["freezer", "lift", "lifted", "accounts", "own-state", "inotify", "installation"] {
        assert!(unseen.contains(&format!("{name:?}")), "{name}: {unseen}");
    }
    // They cannot use root's state directory, which is as it should be.
    let wrong = problems(&report);
    assert!(!wrong.iter().any(|it| it.contains("state directory")), "{wrong:?}");
    for args in [&["doctor", "--check", "lifted"][..], &["doctor", "--check", "lifted", "--npd"]] {
        let ended = as_nobody(&scratch, args);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stdout.contains("not checked") && !ended.stdout.contains("OK"), "{ended:?}");
        assert!(!ended.stdout.contains("Nothing is wrong"), "{ended:?}");
    }
    // It also does not claim that nothing runs, or which version.
    for check in ["versions", "cgroup-driver"] {
        let ended = as_nobody(&scratch, &["doctor", "--check", check]);
        assert!(ended.stdout.contains("only root can see all of this"), "{ended:?}");
        assert!(!ended.stdout.contains("runs\n"), "{ended:?}");
        let ended = scratch.frostctl(&["doctor", "--check", check]);
        assert!(!ended.stdout.contains("only root"), "the control: {ended:?}");
    }
    // The control: root sees it.
    let ended = scratch.frostctl(&["doctor", "--check", "lifted", "--npd"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "OK: 1 check\n"));
}

#[test]
fn without_proc_nothing_is_said_of_cgroups() {
    let scratch = Scratch::new();
    let ended = aside(
        &scratch,
        "cp \"$0\" /dev/shm/frostctl-$$
        trap 'rm -f /dev/shm/frostctl-'$$ EXIT; mount -t tmpfs none /proc
        /dev/shm/frostctl-$$ doctor --npd --check kubepods || echo code $?
        /dev/shm/frostctl-$$ doctor || echo code $?",
    );
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(
        lines[..2],
        ["not checked: kubepods: the mounts of this node cannot be read", "code 2"]
    );
    assert_eq!(lines.last(), Some(&"code 2"), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");
}

/// As in a pod without `hostPID: true`: process 1 is the container's.
#[test]
fn without_the_nodes_processes_it_does_not_count_them() {
    let of = |words: &[&str]| {
        let checks = [frostctl(), "doctor", "--json", "--check", "inotify", "--check", "versions"];
        let all = [words, &checks[..]].concat();
        let report = Ended::of(Command::new(all[0]).args(&all[1..])).json();
        let checks = report["not_checked"].as_array().unwrap().clone();
        checks.iter().map(|it| it.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let control = of(&["env"]);
    assert!(!control.contains(&"inotify".to_owned()), "{control:?}");
    let within = of(&["unshare", "--pid", "--fork", "--mount-proc"]);
    for check in ["inotify", "versions"] {
        assert!(within.contains(&check.to_owned()), "{within:?}");
    }
}

#[test]
fn a_state_directory_without_room_is_found() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.state()).unwrap();
    let script = "mount -t tmpfs -o size=1m,nr_inodes=9,mode=700 none \"$FROSTLOCK_STATE_DIR\"
        look() { \"$0\" doctor --check installation | grep '^error' | cut -d' ' -f2-; }
        look
        head -c 1m /dev/zero >\"$FROSTLOCK_STATE_DIR/fill\" 2>/dev/null || true
        look
        rm \"$FROSTLOCK_STATE_DIR/fill\"
        for n in 1 2 3 4 5 6 7 8 9; do touch \"$FROSTLOCK_STATE_DIR/$n\" || break; done 2>/dev/null
        look
        mount -o remount,ro \"$FROSTLOCK_STATE_DIR\"
        look";
    let ended = aside(&scratch, script);
    let full = " frostlock's state directory is full  [installation]\n";
    let read_only = " frostlock's state directory cannot be written to  [installation]\n";
    assert_eq!(ended.stdout, [full, full, read_only].concat(), "{}", ended.stderr);
}

/// A journal in every state, and what it says of the last hour.
#[test]
fn refused_lifts_are_found_with_their_reason_and_a_way_out() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.state()).unwrap();
    let journal = scratch.state().join("journal.jsonl");
    let check = || doctor(&scratch, &["--check", "accounts"]);
    assert_eq!((check().0, lines(&check().1)), (Some(0), vec![]));
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let record = |boot: &str, ago: u64| {
        let at = cgroup::process::since_boot_ns().saturating_sub(ago * 1_000_000_000);
        let pod = json!({"namespace": "shop", "name": "web-0"});
        json!({"v": 1, "boot_id": boot, "mono_ns": at, "verb": "exec", "id": "c", "pod": pod,
            "lift_refused": "no note: No space left on device"})
    };
    let now = format!("{}\n{}\n", record(boot.trim(), 5), record("another boot", 5));
    std::fs::write(&journal, now).unwrap();
    let (code, report) = check();
    let found = "warning accounts: in the last hour a lift was refused once";
    assert_eq!((code, lines(&report)), (Some(1), vec![found.to_owned()]));
    let finding = report["findings"][0].to_string();
    assert!(finding.contains("shop/web-0") && finding.contains("No space left"), "{finding}");
    assert!(finding.contains("doctor --check installation"), "{finding}");
    for age in [3700, 1_000_000_000] {
        std::fs::write(&journal, format!("{}\n", record(boot.trim(), age))).unwrap();
        let is_before_boot = cgroup::process::since_boot_ns() < 3_700_000_000_000;
        assert_eq!(check().0, Some(i32::from(is_before_boot)), "{age} s ago");
    }

    std::fs::write(&journal, b"\x7fELF\0\0binary\n{}\n[1]\n").unwrap();
    assert_eq!((check().0, lines(&check().1)), (Some(0), vec![]), "torn lines are passed over");
    std::fs::File::create(&journal).unwrap().set_len(1 << 40).unwrap();
    let since = Instant::now();
    assert_eq!(check().0, Some(0));
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    std::fs::remove_file(&journal).unwrap();
    std::fs::create_dir(&journal).unwrap();
    let (code, report) = check();
    let unread = "not-checked accounts: the journal cannot be read";
    assert_eq!((code, lines(&report)), (Some(2), vec![unread.to_owned()]));
}

#[test]
fn what_kubelet_was_told_about_qos_is_not_undone() {
    let scratch = Scratch::new();
    let tell = |qos: &str| {
        format!(
            "mount -t tmpfs none /var/lib; mkdir -p /var/lib/kubelet
             printf 'cgroupDriver: cgroupfs\ncgroupRoot: %s\ncgroupsPerQOS: {qos}\n' $1 \
                 >/var/lib/kubelet/config.yaml
             \"$0\" doctor --json --check kubepods --fix"
        )
    };
    let root = scratch.dir("cpu", "/kubepods");
    let ended = aside(&scratch, &tell("false"));
    let report = ended.json();
    assert_eq!((ended.code, problems(&report)), (Some(0), vec![]), "{report}");
    assert!(lines(&report).iter().any(|it| it.starts_with("note kubepods: kubelet was told")));
    assert_eq!(report["fixes"], json!([]));
    assert!(!root.exists(), "kubelet would not use it");
    // The control.
    let ended = aside(&scratch, &tell("true"));
    assert_eq!(ended.json()["fixes"].as_array().unwrap().len(), 1, "{ended:?}");
    assert!(root.exists());
}

/// The configuration of a containerd that does not run names these programs.
#[test]
fn a_wrapper_that_cannot_be_run_or_is_of_another_version_is_found() {
    let node = Node::up_with(&["--containerd", "2.1.9", "--runtime", "runc-1.5.3"]);
    let wrapper = frostlock();
    let configure = |binary: &str| {
        let at = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.frostlock";
        let v2 = "plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.frostlock";
        let script = format!(
            "cd /etc/containerd; [ -e whole ] || cp config.toml whole; cp whole config.toml
             grep -q 'version = 3' whole && at=\"{at}\" || at=\"{v2}\"
             printf '[%s]\nruntime_type = \"io.containerd.runc.v2\"\n[%s.options]\nBinaryName = \"%s\"\n' \
                 \"$at\" \"$at\" '{binary}' >>config.toml"
        );
        succeed(node.script("exec").args(["sh", "-c", &script]));
    };
    let look = || {
        let mut doctor = node.script("exec");
        let ended =
            Ended::of(doctor.arg(frostctl()).args(["doctor", "--json", "--check", "installation"]));
        (ended.code, problems(&ended.json()))
    };
    let not_loaded = "runtime frostlock is configured, and containerd has not loaded it";
    assert_eq!(look(), (Some(0), vec![]));

    configure("/opt/none");
    let missing = "error installation: the program of containerd's runtime frostlock is not there";
    assert_eq!(look(), (Some(1), vec![missing.to_owned()]));

    let copy = format!(
        "mkdir -p /opt && cp {} /opt/frostlock && chmod 0644 /opt/frostlock",
        wrapper.display()
    );
    succeed(node.script("exec").args(["sh", "-c", &copy]));
    configure("/opt/frostlock");
    let not_executable =
        "error installation: the program of containerd's runtime frostlock is not executable";
    let owed = format!("warning installation: {not_loaded}");
    assert_eq!(look(), (Some(1), vec![not_executable.to_owned(), owed.clone()]));

    succeed(node.script("exec").args(["chmod", "0755", "/opt/frostlock"]));
    assert_eq!(look(), (Some(1), vec![owed.clone()]));
    restart(&node);
    assert_eq!(look(), (Some(0), vec![]), "it has loaded it");

    // The same file with another version in its mark.
    let own = env!("CARGO_PKG_VERSION");
    let other: String = own.chars().map(|it| if it.is_ascii_digit() { '9' } else { it }).collect();
    let edit = format!("sed -i 's/frostlock {own}/frostlock {other}/' /opt/frostlock");
    succeed(node.script("exec").args(["sh", "-c", &edit]));
    let found = format!("warning installation: frostlock is not of frostctl's version, {own}");
    assert_eq!(look(), (Some(1), vec![found]));

    // An entry removed only from the file is still loaded.
    succeed(node.script("exec").args([
        "cp",
        "/etc/containerd/whole",
        "/etc/containerd/config.toml",
    ]));
    let still = "warning installation: runtime frostlock is no longer frostlock in the file, and containerd still has it loaded";
    assert_eq!(look(), (Some(1), vec![still.to_owned()]));

    // A containerd that does not run cannot be asked.
    configure("/opt/frostlock");
    succeed(node.script("exec").args([
        "sh",
        "-c",
        &format!("cp {} /opt/frostlock", wrapper.display()),
    ]));
    succeed(node.script("exec").args(["systemctl", "stop", "containerd"]));
    let ended =
        Ended::of(node.script("exec").arg(frostctl()).args(["doctor", "--check", "installation"]));
    assert_eq!(ended.code, Some(2), "{}", ended.stdout);
    assert!(
        ended.stdout.contains("not checked  whether containerd has loaded"),
        "{}",
        ended.stdout
    );
}

fn restart(node: &Node) {
    succeed(node.script("exec").args(["systemctl", "restart", "containerd"]));
}

#[test]
fn the_trials_work_here_and_leave_nothing() {
    let scratch = Scratch::new();
    let ended = scratch.frostctl(&["doctor", "--json", "--check", "freezer", "--check", "lift"]);
    let findings = lines(&ended.json());
    assert!(!findings.iter().any(|it| it.contains("freezer")), "{findings:?}");
    assert_eq!(trials_of(ended.pid), Vec::<PathBuf>::new());
}

/// util-linux asks the same kernel the same, for a process in one of the test's cgroups.
#[test]
fn whether_a_lift_works_is_as_chrt_says() {
    let scratch = Scratch::new();
    let dir = scratch.dir("cpu", "/lift");
    std::fs::create_dir_all(&dir).unwrap();
    let sleeper = scratch.sleeper(&dir);
    let pid = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap().trim().to_owned();
    let mut chrt = Command::new("chrt");
    let chrt = chrt.args(["-R", "-r", "-p", "1", &pid]).stderr(Stdio::null()).status().unwrap();
    drop(sleeper);

    let (code, report) = doctor(&scratch, &["--check", "lift"]);
    if chrt.success() {
        assert_eq!((code, lines(&report)), (Some(0), vec![]));
        return;
    }
    let refused = "warning lift: this kernel lets no thread in a cgroup be lifted (RT_GROUP_SCHED)";
    assert_eq!((code, lines(&report)), (Some(1), vec![refused.to_owned()]));
    let finding = &report["findings"][0];
    assert!(finding["remedy"].as_str().unwrap().contains("sched_rt_runtime_us=-1"), "{finding}");
    assert_eq!(finding["fix"], Value::Null);
}

/// The control is doctor with the capability, as above.
#[test]
fn without_the_capability_it_cannot_tell() {
    let scratch = Scratch::new();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-sys_nice", frostctl(), "doctor", "--json", "--check", "lift"]);
    let ended = Ended::of(command.env("FROSTLOCK_STATE_DIR", scratch.state()));
    let what =
        "not-checked lift: whether the kernel lets frostlock lift was not tried: no CAP_SYS_NICE";
    assert_eq!((ended.code, lines(&ended.json())), (Some(2), vec![what.to_owned()]));
}

/// Leftovers of a killed doctor belong to the node, so that every doctor finds them.
static OWN_STATE: Mutex<()> = Mutex::new(());

fn trials_of(pid: u32) -> Vec<PathBuf> {
    let prefix = format!("frostlock-doctor-{pid}-");
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let below = hierarchies.filter_map(|it| std::fs::read_dir(it.path()).ok()).flatten().flatten();
    let paths = below.map(|it| it.path());
    paths.filter(|it| it.file_name().unwrap().to_string_lossy().starts_with(&prefix)).collect()
}

/// Its trial takes milliseconds: if it was faster than the kill, another one follows.
fn killed_doctor() -> u32 {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(20) {
        let mut doctor = Command::new(frostctl());
        doctor.args(["doctor", "--check", "freezer"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut doctor = doctor.spawn().unwrap();
        while trials_of(doctor.id()).is_empty() && doctor.try_wait().unwrap().is_none() {}
        doctor.kill().unwrap();
        doctor.wait().unwrap();
        if !trials_of(doctor.id()).is_empty() {
            return doctor.id();
        }
    }
    panic!("none was caught in its trial");
}

#[test]
fn what_a_killed_doctor_left_goes() {
    let _alone = OWN_STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let scratch = Scratch::new();
    let killed = killed_doctor();
    // As if it was killed during a freeze.
    for dir in trials_of(killed) {
        let _ = std::fs::write(dir.join("freezer.state"), "FROZEN");
    }

    let (code, report) = doctor(&scratch, &["--check", "own-state"]);
    let found = problems(&report);
    let left = format!("a killed doctor left /frostlock-doctor-{killed}-");
    assert!(code == Some(1) && found.len() == 1 && found[0].contains(&left), "{found:?}");
    let (_, report) = doctor(&scratch, &["--check", "own-state", "--fix"]);
    assert_eq!(report["fixes"][0]["ok"], true, "{}", report["fixes"]);
    assert_eq!(trials_of(killed), Vec::<PathBuf>::new());
}

/// A name is not enough.
#[test]
fn what_is_called_as_a_doctors_and_is_none_stays() {
    let _alone = OWN_STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let scratch = Scratch::new();
    let below = scratch.dir("freezer", "/frostlock-doctor-1-2");
    std::fs::create_dir_all(&below).unwrap();
    let (code, report) = doctor(&scratch, &["--check", "own-state"]);
    assert_eq!((code, problems(&report)), (Some(0), vec![]), "it is below another");

    let dir = PathBuf::from("/sys/fs/cgroup/freezer/frostlock-doctor-1-2");
    std::fs::create_dir(&dir).unwrap();
    let sleeper = scratch.sleeper(&dir);
    std::fs::write(dir.join("freezer.state"), "FROZEN").unwrap();
    let (code, report) = doctor(&scratch, &["--check", "own-state", "--fix"]);
    let state = freezer_state(&dir);
    std::fs::write(dir.join("freezer.state"), "THAWED").unwrap();
    drop(sleeper);
    std::fs::remove_dir(&dir).unwrap();
    assert_eq!((code, state.as_str()), (Some(1), "FROZEN"), "{report}");
    let result = report["fixes"][0]["result"].as_str().unwrap();
    assert!(result.ends_with("which is none of doctor's"), "{result}");
}

/// Each ends while another has its cgroups in a list.
#[test]
fn doctors_at_once_do_not_take_each_other_for_killed() {
    let _alone = OWN_STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let scratch = Scratch::new();
    let once = || problems(&doctor(&scratch, &["--check", "own-state", "--check", "freezer"]).1);
    for _ in 0..3 {
        let found: Vec<String> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..6).map(|_| scope.spawn(once)).collect();
            all.into_iter().flat_map(|it| it.join().unwrap()).collect()
        });
        assert!(!found.iter().any(|it| it.contains("was killed")), "{found:?}");
    }
}

#[test]
fn stale_locks_go_and_those_that_are_held_stay() {
    let _alone = OWN_STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let scratch = Scratch::new();
    let locks = scratch.state().join("locks");
    succeed(Command::new("install").args(["-d", "-m", "700"]).arg(scratch.state()).arg(&locks));
    let file = |name: &str| locks.join(format!("{name}-{:032x}.lock", 0));
    for name in ["stale", "held"] {
        succeed(Command::new("touch").args(["-d", "2 hours ago"]).arg(file(name)));
    }
    let young = file("young");
    let ours = cgroup::process::Process::ourselves().unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let holding = |since: u64| json!({"pid": ours.pid, "start": ours.start, "verb": "update", "id": "c", "since": since});
    std::fs::write(&young, holding(now).to_string()).unwrap();
    let mut holder = Command::new("flock");
    holder.arg(file("held")).args(["sh", "-c", "echo; exec sleep 60"]).stdout(Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();

    let (code, report) = doctor(&scratch, &["--check", "own-state"]);
    let found = report["findings"][0]["evidence"].to_string();
    assert!(found.contains("stale-") && !found.contains("held-"), "{found}");
    assert_eq!(code, Some(0), "it does no harm");
    std::fs::write(&young, holding(now - 45_000).to_string()).unwrap();
    let (code, report) = doctor(&scratch, &["--check", "own-state"]);
    let long = "warning own-state: the lock of container c has been held for 45 s by update";
    let found = problems(&report);
    assert!(code == Some(1) && found.len() == 1 && found[0].starts_with(&long[..60]), "{found:?}");
    std::fs::write(&young, "").unwrap();
    let (_, report) = doctor(&scratch, &["--check", "own-state", "--fix"]);
    assert_eq!(report["fixes"][0]["result"], "removed 1 stale files");
    let left = [file("stale").exists(), file("held").exists(), young.exists()];
    assert_eq!(left, [false, true, true]);
    // flock waits for its command.
    let children = format!("/proc/{0}/task/{0}/children", holder.id());
    for pid in std::fs::read_to_string(children).unwrap().split_whitespace() {
        succeed(Command::new("kill").arg(pid));
    }
    holder.wait().unwrap();
}

/// A node with systemd, which ends with us.
struct Node(PathBuf);

impl Node {
    fn up() -> Node {
        Node::up_with(&["--containerd", "none"])
    }

    fn up_with(args: &[&str]) -> Node {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let node =
            Node(PathBuf::from(format!("/dev/shm/frostctl-node-{}-{number}", std::process::id())));
        let owner = std::process::id().to_string();
        succeed(node.script("up").args(args).args(["--owner", &owner]));
        node
    }

    fn script(&self, verb: &str) -> Command {
        let mut command = Command::new(repository().join("scripts/node"));
        command.arg(verb).env("FROSTLOCK_NODE", &self.0);
        command
    }

    fn doctor(&self, more: &[&str]) -> Ended {
        let args = ["doctor", "--json", "--check", "kubepods", "--cgroup-root", "/"];
        Ended::of(self.script("exec").arg(frostctl()).args(args).args(more))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.script("down").status();
    }
}

#[test]
fn with_the_systemd_driver_the_root_is_a_slice_that_systemd_knows() {
    let node = Node::up();
    let config =
        "mkdir -p /var/lib/kubelet && echo 'cgroupDriver: systemd' >/var/lib/kubelet/config.yaml";
    succeed(node.script("exec").args(["sh", "-c", config]));
    let ended = node.doctor(&[]);
    let missing = "error kubepods: kubelet's root /kubepods.slice is not there";
    assert_eq!((ended.code, problems(&ended.json())), (Some(1), vec![missing.to_owned()]));
    let ended = node.doctor(&["--fix"]);
    assert_eq!((ended.code, problems(&ended.json())), (Some(0), vec![]), "{}", ended.stdout);
    let state = succeed(node.script("exec").args(["systemctl", "is-active", "kubepods.slice"]));
    assert_eq!(state.stdout, "active\n");
    succeed(node.script("exec").args(["systemctl", "daemon-reload"]));
    let ended = node.doctor(&[]);
    assert_eq!((ended.code, problems(&ended.json())), (Some(0), vec![]), "{}", ended.stdout);

    // Another driver than containerd's: --fix cannot fix that, but the finding says what to do.
    let mismatch = "mkdir -p /etc/containerd && printf 'version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"\
                    .containerd.runtimes.runc.options]\nSystemdCgroup = false\n' >/etc/containerd/config.toml";
    succeed(node.script("exec").args(["sh", "-c", mismatch]));
    let check = |what: &str| {
        Ended::of(node.script("exec").arg(frostctl()).args([
            "doctor",
            "--check",
            "cgroup-driver",
            what,
        ]))
    };
    let found = problems(&check("--json").json());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("error cgroup-driver: kubelet uses the systemd driver"),
        "{found:?}"
    );
    let advice = "sed -i s/false/true/ /etc/containerd/config.toml";
    succeed(node.script("exec").args(["sh", "-c", advice]));
    assert_eq!(check("--npd").stdout, "OK: 1 check\n");
}

/// Our own limit in place of the node's: nobody else's instances are used up.
#[test]
fn instances_of_inotify_that_are_nearly_used_up_are_found_with_their_holder() {
    let scratch = Scratch::new();
    let limit = scratch.dir.path().join("limit");
    let doctor = |most: &str| {
        std::fs::write(&limit, most).unwrap();
        let script =
            "mount --bind \"$1\" /proc/sys/fs/inotify/max_user_instances && shift && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(&limit).arg(frostctl());
        let ended = Ended::of(command.args(["doctor", "--json", "--check", "inotify"]));
        (ended.code, ended.json())
    };
    let held: Vec<_> = (0..20).map(|_| inotify()).collect();
    let (code, report) = doctor("21\n");
    let [finding] = &report["findings"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!(code, Some(1));
    assert_ne!(finding["severity"], "note");
    assert!(
        finding["what"].as_str().unwrap().ends_with("of root's 21 inotify instances are in use")
    );
    let ours = format!("/proc/{}/fd", std::process::id());
    let evidence = finding["evidence"].as_array().unwrap();
    let seen = evidence.iter().find(|it| it["path"] == ours.as_str()).expect("the holder is named");
    assert!(seen["content"].as_str().unwrap().starts_with("doctor-"), "{seen}");
    assert!(seen["content"].as_str().unwrap().ends_with(": 20"), "{seen}");
    assert_eq!(doctor("100000\n").1["findings"], json!([]));
    drop(held);
}

fn inotify() -> nix::sys::inotify::Inotify {
    nix::sys::inotify::Inotify::init(nix::sys::inotify::InitFlags::IN_CLOEXEC).unwrap()
}
