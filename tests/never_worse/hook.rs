//! `frostlock hook` in real runtimes and real podman, with a cgroup frozen by hand, compared with
//! runs without the hook; and any possible standard input.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{
    Runtime, Scratch, eventually, frostlock, on_v2, pids, proof, run, runtime, succeed, text, wait,
};

const SOON: Duration = Duration::from_secs(10);

/// Longer than the second that the hook after ours has.
const FROZEN_FOR: Duration = Duration::from_millis(1500);

/// How long nothing may happen before the thaw; a hook would have run within 50 ms.
const STALLED_FOR: Duration = Duration::from_millis(600);

/// One at a time: these measure.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The freezer of a cgroup of ours, in either version.
struct Freezer(PathBuf);

impl Freezer {
    fn of(cgroup: &str) -> Freezer {
        let below = cgroup.trim_start_matches('/');
        let v1 = Path::new("/sys/fs/cgroup/freezer");
        let top = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
        let dir = top.join(below);
        std::fs::create_dir_all(&dir).unwrap();
        Freezer(dir)
    }

    fn is_v1(&self) -> bool {
        self.0.join("freezer.state").exists()
    }

    fn set(&self, frozen: bool) {
        let (file, values) = match self.is_v1() {
            true => ("freezer.state", ["THAWED", "FROZEN"]),
            false => ("cgroup.freeze", ["0", "1"]),
        };
        std::fs::write(self.0.join(file), values[usize::from(frozen)]).unwrap();
    }

    fn freeze(&self) {
        self.set(true);
        eventually(SOON, "frozen", || match self.is_v1() {
            true => self.read("freezer.state").trim() == "FROZEN",
            false => self.read("cgroup.events").contains("frozen 1"),
        });
    }

    fn thaw(&self) {
        self.set(false);
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.join(file)).unwrap()
    }

    /// All processes in it and below.
    fn pids(&self) -> Vec<i32> {
        let below = std::fs::read_dir(&self.0).unwrap().flatten().map(|entry| entry.path());
        below.chain([self.0.clone()]).flat_map(|dir| pids(&dir)).collect()
    }
}

/// A container's hooks in one stage.
struct Scene<'a> {
    scratch: &'a Scratch,
    runtime: &'a Runtime,
    hooks: Vec<Value>,
}

impl<'a> Scene<'a> {
    fn new(scratch: &'a Scratch, runtime: &'a Runtime) -> Scene<'a> {
        Scene { scratch, runtime, hooks: Vec::new() }
    }

    fn script(&mut self, name: &str, body: &str, timeout: Option<u64>) {
        let path = self.scratch.path(name);
        let text = format!("#!/bin/bash\ncd {:?}\n{body}\n", self.scratch.path(""));
        testkit::program(&path, &text);
        let mut hook = json!({ "path": path, "args": [name] });
        if let Some(timeout) = timeout {
            hook["timeout"] = timeout.into();
        }
        self.hooks.push(hook);
    }

    fn ours(&mut self, args: &[&str]) {
        self.hooks.push(ours(self.scratch, args));
    }

    /// A slow hook: it waits for the file `go`.
    fn slow(&mut self) {
        let wait = "touch in; for i in {1..1000}; do [ -e go ] && exit; sleep 0.01; done";
        self.script("slow", wait, None);
    }

    /// A hook that works in the container's cgroup, and has a second.
    fn works_inside(&mut self, freezer: &Freezer) {
        let file = if freezer.is_v1() { "tasks" } else { "cgroup.procs" };
        let join = format!("echo $$ >{:?}\ntouch worked", freezer.0.join("a").join(file));
        self.script("inside", &join, Some(1));
    }

    fn bundle(&self, stage: &str) -> PathBuf {
        let bundle = self.scratch.bundle("idle", "a");
        self.scratch.edit(&bundle, |config| config["hooks"] = json!({ stage: self.hooks }));
        bundle
    }

    fn create(&self, stage: &str) -> Command {
        let mut create = self.scratch.bare(&self.runtime.path);
        create.args(["create", "--bundle"]).arg(self.bundle(stage)).arg("a");
        create
    }
}

/// frostlock as a hook, as in a configuration.
fn ours(scratch: &Scratch, args: &[&str]) -> Value {
    let args = [&["frostlock", "hook"], args].concat();
    let env = [format!("FROSTLOCK_STATE_DIR={}", scratch.state().display()), no_config()];
    json!({ "path": frostlock(), "args": args, "env": env })
}

fn no_config() -> String {
    "FROSTLOCK_CONFIG=/dev/null".to_owned()
}

fn hook_records(scratch: &Scratch) -> Vec<Value> {
    scratch.journal().into_iter().filter(|record| record["verb"] == "hook").collect()
}

fn ms(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn ms_of(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// While a slow hook runs, somebody freezes the pod. The next hook has a second to work in the
/// container's cgroup, meets the freeze and times out, which makes the create fail. After ours, it
/// does not start before the thaw.
fn frozen_during_a_slow_hook(runtime: &Runtime) {
    for with_ours in [false, true] {
        let scratch = Scratch::new();
        let freezer = Freezer::of(&scratch.cgroup);
        let mut scene = Scene::new(&scratch, runtime);
        scene.slow();
        if with_ours {
            scene.ours(&["createRuntime"]);
        }
        scene.works_inside(&freezer);
        let mut create = scene.create("createRuntime");
        let since = Instant::now();
        let output = std::thread::scope(|scope| {
            let create = scope.spawn(|| run(&mut create));
            eventually(SOON, "the slow hook runs", || scratch.path("in").exists());
            freezer.freeze();
            let before = freezer.pids().len();
            std::fs::write(scratch.path("go"), "").unwrap();
            if !with_ours {
                eventually(SOON, "the next one is frozen", || freezer.pids().len() > before);
            }
            std::thread::sleep(FROZEN_FOR);
            freezer.thaw();
            create.join().unwrap()
        });
        let said = text(&output.stderr);
        let what = if with_ours { "with ours" } else { "without" };
        println!("{} {what}: {} after {:?}; {said}", runtime.name, output.status, since.elapsed());
        if !with_ours {
            assert!(!output.status.success(), "not shown: the create without ours succeeded");
            assert!(said.contains("timeout"), "not shown: it failed of something else");
            continue;
        }
        assert!(output.status.success(), "{said}");
        assert!(scratch.path("worked").exists());
        let records = hook_records(&scratch);
        let [record] = &records[..] else { panic!("{records:?}") };
        println!("{record}");
        assert_eq!(record["hook"]["stage"], "createRuntime");
        assert_eq!(record["hook"]["found"], "thawed meanwhile");
        assert_eq!(record["hook"]["frozen"], freezer.0.to_str().unwrap());
        assert!(ms(&record["hook"]["wait_ms"]) > 500.0, "{record}");
        assert_eq!((&record["exit"]["code"], &record["lock"]), (&json!(0), &json!("none")));
        assert_eq!(record["cgroup"], format!("{}/a", scratch.cgroup));
    }
}

#[test]
fn a_hook_with_a_timeout_is_kept_out_of_a_freeze() {
    let _alone = alone();
    let names = ["runc-1.1.5", "runc-1.5.3", "runc-1.1.15"];
    for name in &names[..if proof() { 3 } else { 2 }] {
        frozen_during_a_slow_hook(&runtime(name));
    }
}

#[test]
fn the_same_on_v2() {
    let _alone = alone();
    on_v2("inside_v2::a_hook_with_a_timeout_is_kept_out_of_a_freeze");
    on_v2("inside_v2::a_cgroup_frozen_before_create_stalls_it_before_any_hook");
}

mod inside_v2 {
    use super::*;

    #[test]
    #[ignore = "started by the_same_on_v2 where there is cgroup v2 alone"]
    fn a_hook_with_a_timeout_is_kept_out_of_a_freeze() {
        for name in names() {
            frozen_during_a_slow_hook(&runtime(name));
        }
    }

    fn names() -> &'static [&'static str] {
        let names = &["runc-1.5.3", "crun-1.28", "crun-1.8.1"];
        &names[..if proof() { 3 } else { 2 }]
    }

    #[test]
    #[ignore = "started by the_same_on_v2 where there is cgroup v2 alone"]
    fn a_cgroup_frozen_before_create_stalls_it_before_any_hook() {
        for name in names() {
            stalls_before_any_hook(&runtime(name));
        }
    }
}

/// The hook's limit: the container's own process joins the frozen cgroup before any hook of the
/// runtime's, and stalls there. With our hook or without, `create` takes as long as the freeze.
fn stalls_before_any_hook(runtime: &Runtime) {
    for stage in ["prestart", "createRuntime"] {
        let took = [false, true].map(|with_ours| frozen_before_create(runtime, stage, with_ours));
        println!("{} {stage}: {:?} without, {:?} with", runtime.name, took[0], took[1]);
        assert!(took.iter().all(|took| *took >= STALLED_FOR), "{took:?}");
    }
}

fn frozen_before_create(runtime: &Runtime, stage: &str, with_ours: bool) -> Duration {
    let scratch = Scratch::new();
    let freezer = Freezer::of(&scratch.cgroup);
    let mut scene = Scene::new(&scratch, runtime);
    if with_ours {
        scene.ours(&[stage]);
    }
    let mut create = scene.create(stage);
    freezer.freeze();
    let since = Instant::now();
    std::thread::scope(|scope| {
        let create = scope.spawn(|| succeed(&mut create));
        eventually(SOON, "its process is frozen", || !freezer.pids().is_empty());
        std::thread::sleep(STALLED_FOR);
        assert!(hook_records(&scratch).is_empty(), "no hook runs before the thaw");
        freezer.thaw();
        create.join().unwrap();
    });
    let took = since.elapsed();
    let records = hook_records(&scratch);
    assert_eq!(records.len(), usize::from(with_ours));
    for record in records {
        assert_eq!(record["hook"]["found"], "thawed", "{record}");
        assert!(ms(&record["hook"]["wait_ms"]) < ms_of(STALLED_FOR), "{record}");
    }
    took
}

#[test]
fn a_cgroup_frozen_before_create_stalls_it_before_any_hook() {
    let _alone = alone();
    for name in ["runc-1.1.5", "runc-1.5.3"] {
        stalls_before_any_hook(&runtime(name));
    }
}

/// A lasting freeze. Without `--strict` the create continues, and ends when the cgroup is thawed,
/// as without our hook. With `--strict` it fails and says why; on v1 that is reported no earlier,
/// since a frozen process cannot die.
#[test]
fn only_a_strict_hook_fails() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    for strict in [false, true] {
        let scratch = Scratch::new();
        let freezer = Freezer::of(&scratch.cgroup);
        std::fs::write(scratch.path("config"), "[hook]\nwait_ms = 200\n").unwrap();
        let mut scene = Scene::new(&scratch, &runtime);
        scene.slow();
        scene.ours(if strict { &["--strict", "createRuntime"] } else { &["createRuntime"] });
        let config = format!("FROSTLOCK_CONFIG={}", scratch.path("config").display());
        scene.hooks[1]["env"][1] = config.into();
        let mut create = scene.create("createRuntime");
        let output = std::thread::scope(|scope| {
            let create = scope.spawn(|| run(&mut create));
            eventually(SOON, "the slow hook runs", || scratch.path("in").exists());
            freezer.freeze();
            std::fs::write(scratch.path("go"), "").unwrap();
            eventually(SOON, "a record", || !hook_records(&scratch).is_empty());
            freezer.thaw();
            create.join().unwrap()
        });
        let record = hook_records(&scratch).remove(0);
        assert_eq!(record["hook"]["found"], "still frozen", "{record}");
        let waited = ms(&record["hook"]["wait_ms"]);
        assert!((200.0..1000.0).contains(&waited), "{record}");
        assert_eq!(record["exit"]["code"], u32::from(strict));
        assert_eq!(output.status.success(), !strict);
        let said = text(&output.stderr);
        let why = format!("frostlock: {} is frozen, and was not thawed", freezer.0.display());
        assert_eq!(said.contains(&why), strict, "{said}");
    }
}

/// Inside an operation of frostlock there is nothing to wait for and nothing to remove.
#[test]
fn below_a_wrapper_that_has_the_lock_it_only_records() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let freezer = Freezer::of(&scratch.cgroup);
    let mut scene = Scene::new(&scratch, &runtime);
    scene.slow();
    scene.ours(&["createRuntime"]);
    let bundle = scene.bundle("createRuntime");
    let poststop = ours(&scratch, &["poststop"]);
    scratch.edit(&bundle, |config| config["hooks"]["poststop"] = json!([poststop]));
    let mut create = scratch.wrapped(&runtime.path);
    create.args(["create", "--bundle"]).arg(&bundle).arg("a");
    std::thread::scope(|scope| {
        let create = scope.spawn(|| succeed(&mut create));
        eventually(SOON, "the slow hook runs", || scratch.path("in").exists());
        freezer.freeze();
        std::fs::write(scratch.path("go"), "").unwrap();
        eventually(SOON, "a record", || !hook_records(&scratch).is_empty());
        freezer.thaw();
        create.join().unwrap();
    });
    succeed(scratch.wrapped(&runtime.path).args(["delete", "--force", "a"]));
    let records = hook_records(&scratch);
    let [first, last] = &records[..] else { panic!("{records:?}") };
    for (record, stage, within) in
        [(first, "createRuntime", "create a "), (last, "poststop", "delete a ")]
    {
        assert_eq!(record["lock"], "nested", "{record}");
        assert!(record["holders"][0].as_str().unwrap().starts_with(within), "{record}");
        assert_eq!(record["hook"]["stage"], stage);
        assert_eq!(record["hook"]["found"], "not asked");
    }
    assert_eq!(ours_of(&scratch), Vec::<PathBuf>::new());
}

/// Our files for containers.
fn ours_of(scratch: &Scratch) -> Vec<PathBuf> {
    let below = ["containers", "locks", "intents"].map(|name| scratch.state().join(name));
    let entries = below.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Created through frostlock, deleted without it: the files stay, unless there is the hook.
#[test]
fn after_a_bare_delete_nothing_of_ours_is_left() {
    let _alone = alone();
    for name in ["runc-1.1.5", "runc-1.5.3"] {
        let runtime = runtime(name);
        for with_ours in [false, true] {
            let scratch = Scratch::new();
            let mut scene = Scene::new(&scratch, &runtime);
            if with_ours {
                scene.ours(&["poststop"]);
            }
            let bundle = scene.bundle("poststop");
            let mut create = scratch.wrapped(&runtime.path);
            succeed(create.args(["create", "--bundle"]).arg(&bundle).arg("a"));
            leave_a_note(&scratch);
            assert_eq!(ours_of(&scratch).len(), 4, "record, lock, turnstile, note");
            succeed(scratch.bare(&runtime.path).args(["delete", "--force", "a"]));
            let left = ours_of(&scratch).len();
            println!("{name}: {left} files left, hook: {with_ours}");
            assert_eq!(left, if with_ours { 0 } else { 4 }, "{:?}", ours_of(&scratch));
            let records = hook_records(&scratch);
            assert_eq!(records.len(), usize::from(with_ours));
            assert!(records.iter().all(|record| record["exit"]["code"] == 0), "{records:?}");
        }
    }
}

/// As a killed update leaves one behind.
fn leave_a_note(scratch: &Scratch) {
    let name = ours_of(scratch).into_iter().find(|path| path.extension() == Some("lock".as_ref()));
    let notes = scratch.state().join("intents").join(name.unwrap().file_stem().unwrap());
    for dir in [notes.parent().unwrap(), &notes] {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700)).unwrap();
    }
    std::fs::write(notes.join("4194304.json"), "{").unwrap();
}

/// Nothing is removed of a running container with the same id, whatever the state says.
#[test]
fn what_lives_keeps_its_files() {
    let _alone = alone();
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let bundle = scratch.bundle("idle", "a");
    let mut create = scratch.wrapped(&runtime.path);
    succeed(create.args(["create", "--bundle"]).arg(&bundle).arg("a"));
    let before = ours_of(&scratch);
    let state = json!({ "ociVersion": "1.0.2", "id": "a", "status": "stopped", "bundle": bundle });
    let output = hook(&scratch, &["poststop"], Feed::Text(state.to_string().into_bytes()));
    assert!(output.status.success());
    assert_eq!(ours_of(&scratch), before);
    assert_eq!(before.len(), 3);
}

/// What the hook gets on its standard input.
enum Feed {
    Text(Vec<u8>),
    Closed,
    /// No input, and no end.
    Silence,
    /// All of the input, but no end.
    OpenAfter(Vec<u8>),
    Endless,
}

/// The hook alone, with only its state directory in the environment. It must end by itself.
fn hook(scratch: &Scratch, args: &[&str], feed: Feed) -> Output {
    let mut command = match feed {
        Feed::Closed => {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "exec \"$@\" <&-", "sh"]).arg(frostlock());
            shell
        }
        _ => Command::new(frostlock()),
    };
    command.arg("hook").args(args).env_clear();
    command.env("FROSTLOCK_STATE_DIR", scratch.state()).env("FROSTLOCK_CONFIG", "/dev/null");
    match feed {
        Feed::Endless => command.stdin(File::open("/dev/zero").unwrap()),
        _ => command.stdin(Stdio::piped()),
    };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take();
    if let (Some(stdin), Feed::Text(bytes) | Feed::OpenAfter(bytes)) = (&mut stdin, &feed) {
        let _ = stdin.write_all(bytes);
    }
    if !matches!(feed, Feed::Silence | Feed::OpenAfter(_)) {
        drop(stdin.take());
    }
    let since = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(since.elapsed() < Duration::from_secs(5), "{args:?}: {:?}", since.elapsed());
    drop(stdin);
    output
}

#[test]
fn whatever_comes_in_is_no_reason_to_fail() {
    let _alone = alone();
    let scratch = Scratch::new();
    let huge = [br#"{"id":"a","annotations":{"x":""#.to_vec(), vec![b'x'; 8 << 20]].concat();
    let feeds = || {
        let texts: [&[u8]; 6] = [b"", b"{", b"[]", b"null", b"\xff\xfe", br#"{"id":7,"pid":"x"}"#];
        let texts = texts.map(|text| Feed::Text(text.to_vec()));
        let odd = [Feed::Text(huge.clone()), Feed::Closed, Feed::Silence, Feed::Endless];
        texts.into_iter().chain(odd)
    };
    for stage in ["createRuntime", "prestart", "poststop", "poststart", "startContainer"] {
        for (number, feed) in feeds().enumerate() {
            let output = hook(&scratch, &[stage], feed);
            assert!(output.status.success(), "{stage} {number}: {output:?}");
            assert!(output.stderr.is_empty() && output.stdout.is_empty(), "{output:?}");
        }
    }
    for (number, feed) in feeds().enumerate() {
        let output = hook(&scratch, &["--strict", "createRuntime"], feed);
        assert_eq!(output.status.code(), Some(1), "{number}: {output:?}");
        let said = text(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("frostlock: cannot tell whether"), "{said}");
    }
    let records = hook_records(&scratch);
    assert_eq!(records.len(), 60);
}

/// A failing hook makes the create fail, so a mistake in a configuration is only reported.
#[test]
fn a_wrong_stage_and_a_question_leave_no_record() {
    let _alone = alone();
    let scratch = Scratch::new();
    let state = || Feed::Text(br#"{"ociVersion":"1.0.2","id":"a","status":"creating"}"#.to_vec());
    for (args, code) in [(&["pre-start"][..], 0), (&["--strict", "pre-start"], 1)] {
        let output = hook(&scratch, args, state());
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.starts_with("frostlock: hook: there is no stage pre-start"), "{said}");
        assert!(said.lines().count() == 1 && output.stdout.is_empty(), "{output:?}");
    }
    for (args, said) in [
        (&["--help"][..], "frostlock hook [--strict] [STAGE]"),
        (&["prestart", "-h"], "frostlock hook [--strict] [STAGE]"),
        (&["--version"], "frostlock "),
    ] {
        // It does not wait for input.
        let output = hook(&scratch, args, Feed::Silence);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert!(text(&output.stdout).starts_with(said), "{output:?}");
    }
    // Except for a full disk, which is reported; a reader that has left is no error.
    for (to, code) in [("/dev/full", 1), ("|true", 0)] {
        let line = match to.strip_prefix('|') {
            Some(reader) => format!("{{ sleep 0.2; \"$@\"; echo $? >&2; }} | {reader}"),
            None => format!("\"$@\" >{to}; echo $? >&2"),
        };
        let mut command = Command::new("sh");
        command.args(["-c", &line, "sh"]).arg(frostlock()).args(["hook", "--version"]);
        let output = command.output().unwrap();
        let said = text(&output.stderr);
        assert!(said.ends_with(&format!("{code}\n")), "{to}: {said}");
        assert_eq!(said.contains("cannot write to standard output"), code == 1, "{to}: {said}");
    }
    assert_eq!(hook_records(&scratch), Vec::<Value>::new());
    assert!(hook(&scratch, &["prestart"], state()).status.success());
    assert_eq!(hook_records(&scratch).len(), 1, "the control");
}

#[test]
fn a_state_of_any_version_leads_to_the_cgroup() {
    let _alone = alone();
    let scratch = Scratch::new();
    let freezer = Freezer::of(&format!("{}/a", scratch.cgroup));
    let bundle = scratch.bundle("idle", "a");
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    let file = if freezer.is_v1() { "tasks" } else { "cgroup.procs" };
    std::fs::write(freezer.0.join(file), sleeper.id().to_string()).unwrap();
    let pid = sleeper.id();
    let states = [
        json!({ "version": "0.1.0", "id": "a", "pid": pid, "root": "/r", "bundlePath": bundle }),
        json!({ "ociVersion": "0.5.0", "id": "a", "bundlePath": bundle }),
        json!({ "ociVersion": "1.0.0", "id": "a", "status": "creating", "pid": pid }),
        json!({ "ociVersion": "1.0.2", "id": "a", "status": "created", "bundle": bundle }),
        json!({ "ociVersion": "1.2.0", "id": "a", "status": "odd", "pid": pid, "bundle": bundle }),
    ];
    for state in states {
        let feed = Feed::OpenAfter(state.to_string().into_bytes());
        let output = hook(&scratch, &["--strict", "createRuntime"], feed);
        assert!(output.status.success(), "{state}: {}", text(&output.stderr));
        let record = hook_records(&scratch).pop().unwrap();
        assert_eq!(record["cgroup"], format!("{}/a", scratch.cgroup), "{state}");
        assert_eq!(record["hook"]["found"], "thawed");
        assert_eq!(record["id"], "a");
    }
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

/// The role is the first word, whatever our program name; another word `hook` is the runtime's.
#[test]
fn under_the_name_of_a_runtime_it_is_a_hook_all_the_same() {
    let _alone = alone();
    let scratch = Scratch::new();
    let link = scratch.path("runc");
    std::os::unix::fs::symlink(frostlock(), &link).unwrap();
    let mut command = Command::new(&link);
    command.args(["hook", "poststop"]).env_clear().stdin(Stdio::null());
    command.env("FROSTLOCK_STATE_DIR", scratch.state()).env("FROSTLOCK_CONFIG", "/dev/null");
    succeed(&mut command);
    assert_eq!(hook_records(&scratch).len(), 1);
    let runtime = runtime("runc-1.5.3");
    let output = run(scratch.wrapped(&runtime.path).args(["state", "hook"]));
    assert!(text(&output.stderr).contains("does not exist"), "{}", text(&output.stderr));
    assert_eq!(hook_records(&scratch).len(), 1);
}

#[test]
fn the_off_switch_holds_for_it_and_a_configuration_passes_through() {
    let _alone = alone();
    let scratch = Scratch::new();
    let freezer = Freezer::of(&scratch.cgroup);
    let bundle = scratch.bundle("idle", "a");
    freezer.freeze();
    std::fs::create_dir(scratch.state()).unwrap();
    std::fs::set_permissions(scratch.state(), PermissionsExt::from_mode(0o700)).unwrap();
    let state = || Feed::Text(json!({ "id": "a", "bundle": bundle }).to_string().into_bytes());
    std::fs::write(scratch.state().join("off"), "").unwrap();
    let since = Instant::now();
    assert!(hook(&scratch, &["--strict", "createRuntime"], state()).status.success());
    assert!(since.elapsed() < Duration::from_secs(1));
    assert!(hook_records(&scratch).is_empty());
    let config = std::fs::read(bundle.join("config.json")).unwrap();
    let output = hook(&scratch, &["precreate"], Feed::Text(config.clone()));
    assert_eq!(output.stdout, config);
    std::fs::remove_file(scratch.state().join("off")).unwrap();
    let output = hook(&scratch, &["--strict", "precreate"], Feed::Text(config.clone()));
    assert_eq!((output.status.code(), output.stdout), (Some(1), config));
    freezer.thaw();
}

/// As in tests/transparent/podman.rs: the namespace's own /run and /dev/shm, and the wanted runc
/// over Debian's. `hooks/` is copied to /run/hooks, with the path of the tested binary.
const SET_UP: &str = r##"
    mount -t tmpfs none /run && mount -t tmpfs none /dev/shm && mount --bind "$1" /usr/sbin/runc &&
    cp -a "$2" /run/rootfs && mkdir /run/podman /run/no-hooks && cp -a "$3" /run/hooks &&
    sed -i "s#/usr/local/bin/frostlock#$4#" /run/hooks/*/*.json && : >/run/conf &&
    mkdir -p /run/strict /run/frostlock && chmod 700 /run/frostlock &&
    sed 's#"hook", #"hook", "--strict", #; s#"path"#"env": ["FROSTLOCK_CONFIG=/run/short"], "path"#' \
        /run/hooks/podman/frostlock-precreate.json >/run/strict/frostlock-precreate.json &&
    printf '[hook]\nwait_ms = 500\n' >/run/short && echo ready && exec cat"##;

struct Podman {
    scratch: Scratch,
    freezer: Freezer,
    /// Keeps the namespace alive.
    namespace: Child,
}

impl Podman {
    fn with(runc: &Runtime) -> Podman {
        let scratch = Scratch::new();
        let freezer = Freezer::of(&scratch.cgroup);
        let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("hooks");
        let mut namespace = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", SET_UP, "sh"])
            .args([&runc.path, &testkit::lab().join("rootfs"), &hooks, &frostlock()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(namespace.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Podman { scratch, freezer, namespace }
    }

    fn command(&self, hooks: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.namespace.id())).arg("podman");
        command.env("CONTAINERS_CONF", "/run/conf").stdin(Stdio::null());
        command.args(["--root", "/run/podman/root", "--runroot", "/run/podman/run"]);
        command.args(["--tmpdir", "/run/podman/tmp", "--storage-driver", "vfs"]);
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command.args(["--runtime", "/usr/sbin/runc"]);
        for dir in hooks {
            command.args(["--hooks-dir", dir]);
        }
        command
    }

    fn run(&self, hooks: &[&str]) -> Command {
        let mut podman = self.command(hooks);
        podman.args(["run", "--network", "none", "--rm", "--name", "c1"]);
        podman.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        podman.args(["--cgroup-parent", &self.scratch.cgroup]);
        podman.args(["--rootfs", "/run/rootfs", "echo", "hello"]);
        podman
    }

    /// In the background, its output in files.
    fn start(&self, hooks: &[&str]) -> (Child, PathBuf) {
        let said = self.scratch.path("said");
        let file = File::create(&said).unwrap();
        let mut podman = self.run(hooks);
        let child = podman.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        (child, said)
    }

    /// The conmon of the previous container may still exist.
    fn freeze_nobody(&self) {
        eventually(SOON, "nobody is left", || self.freezer.pids().is_empty());
        self.freezer.freeze();
    }

    /// In this namespace.
    fn hook_runs(&self, stage: &str) -> bool {
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let ours = namespace(&self.namespace.id().to_string());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().into_string().ok());
        pids.any(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
            words.contains(&b"hook".as_slice())
                && words.contains(&stage.as_bytes())
                && namespace(&pid) == ours
        })
    }

    fn state(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/frostlock", self.namespace.id()))
    }

    fn records(&self) -> Vec<Value> {
        let journal = std::fs::read_to_string(self.state().join("journal.jsonl"));
        let journal = journal.unwrap_or_default();
        journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn stages(&self) -> Vec<String> {
        let stage = |record: &Value| record["hook"]["stage"].as_str().unwrap().to_owned();
        self.records().iter().map(stage).collect()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.freezer.thaw();
        let removed = run(self.command(&[]).args(["rm", "--force", "--all", "--time", "0"]));
        drop(self.namespace.stdin.take());
        let _ = self.namespace.wait();
        if !std::thread::panicking() {
            assert!(removed.status.success(), "{}", text(&removed.stderr));
        }
    }
}

/// The files of `hooks/`, as they are.
#[test]
fn podman_runs_the_hooks_as_they_are_shipped() {
    let _alone = alone();
    let podman = Podman::with(&runtime("runc-1.1.15"));
    let all = ["/run/hooks/hooks.d", "/run/hooks/podman"];
    let output = succeed(&mut podman.run(&all));
    assert_eq!(text(&output.stdout), "hello\n");
    eventually(SOON, "three records", || podman.records().len() >= 3);
    assert_eq!(podman.stages(), ["precreate", "createRuntime", "poststop"]);
    let by: Vec<_> = podman.records().iter().map(|record| record["requested_by"].clone()).collect();
    assert_eq!(by, ["podman", "runc", "podman"]);
    for record in podman.records() {
        println!("{record}");
        assert_eq!(record["exit"]["code"], 0);
        let cgroup = record["cgroup"].as_str().unwrap();
        assert!(cgroup.starts_with(&format!("{}/libpod-", podman.scratch.cgroup)), "{record}");
    }
    let left = std::fs::read_dir(podman.state()).unwrap().flatten();
    let mut left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["journal.carried", "journal.jsonl"]);
}

/// The container's parent is frozen before podman starts. Without our hook conmon, runc and the
/// container's process stall in the frozen cgroup. With the hook at `precreate`, which podman
/// itself runs, no process is there before the thaw.
#[test]
fn podman_puts_nobody_into_a_frozen_parent_before_precreate_has_seen_it_thawed() {
    let _alone = alone();
    let podman = Podman::with(&runtime("runc-1.1.15"));
    for with_ours in [false, true] {
        let hooks = if with_ours { "/run/hooks/podman" } else { "/run/no-hooks" };
        podman.freeze_nobody();
        let (mut child, said) = podman.start(&[hooks]);
        if with_ours {
            eventually(SOON, "the hook runs", || podman.hook_runs("precreate"));
        } else {
            eventually(SOON, "somebody is frozen", || !podman.freezer.pids().is_empty());
        }
        std::thread::sleep(Duration::from_secs(1));
        let stuck = podman.freezer.pids().len();
        assert!(child.try_wait().unwrap().is_none(), "it did not wait for the thaw");
        podman.freezer.thaw();
        let status = wait(&mut child, SOON).expect("it ends after the thaw");
        println!("hook {with_ours}: {stuck} processes in the frozen cgroup, {status}");
        assert!(status.success(), "{}", std::fs::read_to_string(said).unwrap());
        assert_eq!(stuck == 0, with_ours, "{stuck} processes in the frozen cgroup");
    }
    let records = podman.records();
    let [record] = &records[..] else { panic!("{records:?}") };
    println!("{record}");
    assert_eq!(record["hook"]["found"], "thawed meanwhile");
    assert!(ms(&record["hook"]["wait_ms"]) > 500.0, "{record}");
    assert_eq!(record["hook"]["frozen"], podman.freezer.0.to_str().unwrap());
}

/// A lasting freeze: without our hook podman does not return before its end; a strict hook says
/// why, and nothing is started.
#[test]
fn podman_comes_back_from_a_frozen_parent_with_a_strict_hook() {
    let _alone = alone();
    let podman = Podman::with(&runtime("runc-1.1.15"));
    podman.freezer.freeze();
    let (mut child, said) = podman.start(&["/run/strict"]);
    let since = Instant::now();
    let status = wait(&mut child, SOON).expect("the hook is strict");
    let took = since.elapsed();
    let said = std::fs::read_to_string(said).unwrap();
    println!("with: {status} after {took:?}: {said}");
    assert!(!status.success());
    assert_eq!(podman.freezer.pids(), Vec::<i32>::new());
    assert_eq!(podman.records()[0]["hook"]["found"], "still frozen");
    assert!(podman.records()[0]["note"].as_str().unwrap().contains("was not thawed within 50"));

    let (mut child, _) = podman.start(&["/run/no-hooks"]);
    eventually(SOON, "somebody is frozen", || !podman.freezer.pids().is_empty());
    std::thread::sleep(2 * took);
    let stuck = podman.freezer.pids().len();
    println!("without: not back after twice that, {stuck} processes in the frozen cgroup");
    assert!(child.try_wait().unwrap().is_none(), "not shown: podman came back without the hook");
    assert!(stuck > 0);
    podman.freezer.thaw();
    assert!(wait(&mut child, SOON).expect("it ends after the thaw").success());
}

/// The hook's limit: podman puts conmon below the container's parent, and so the hooks that runc
/// runs. They are frozen with it, and see only the thaw.
#[test]
fn in_podman_a_hook_of_the_runtime_is_frozen_with_its_pod() {
    let _alone = alone();
    let podman = Podman::with(&runtime("runc-1.1.15"));
    for with_ours in [false, true] {
        let hooks = if with_ours { "/run/hooks/hooks.d" } else { "/run/no-hooks" };
        podman.freeze_nobody();
        let since = Instant::now();
        let (mut child, _) = podman.start(&[hooks]);
        eventually(SOON, "somebody is frozen", || !podman.freezer.pids().is_empty());
        std::thread::sleep(Duration::from_secs(1));
        assert!(podman.records().is_empty(), "no hook runs before the thaw");
        podman.freezer.thaw();
        assert!(wait(&mut child, SOON).expect("it ends after the thaw").success());
        println!("hook {with_ours}: {:?}", since.elapsed());
        assert!(since.elapsed() > Duration::from_secs(1));
    }
    eventually(SOON, "two records", || podman.records().len() >= 2);
    assert_eq!(podman.records()[0]["hook"]["found"], "thawed");
}

/// containerd with a base spec that has our hooks, made by the script in `hooks/`.
#[test]
fn containerd_runs_the_hooks_of_the_base_spec() {
    let _alone = alone();
    let scratch = Scratch::new();
    let dir = scratch.path("c");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let containerd = |action: &str| {
        let mut script = Command::new(root.join("scripts/containerd"));
        script.arg(action).arg(&dir).env("FROSTLOCK_STATE_DIR", scratch.state());
        run(script.env("FROSTLOCK_CONFIG", "/dev/null"))
    };
    let up = containerd("up");
    assert!(up.status.success(), "{}", text(&up.stderr));
    let made = succeed(Command::new(root.join("hooks/containerd-base-spec")).arg(frostlock()));
    let mut spec: Value = serde_json::from_slice(&made.stdout).unwrap();
    spec["root"] = json!({ "path": testkit::lab().join("rootfs"), "readonly": true });
    spec["process"]["args"] = json!(["/bin/echo", "hello"]);
    spec["linux"]["cgroupsPath"] = format!("{}/a", scratch.cgroup).into();
    std::fs::write(scratch.path("spec"), spec.to_string()).unwrap();
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(dir.join("containerd.sock")).args(["--namespace", "frostlock-test"]);
    ctr.args(["run", "--rm", "--runc-root"]).arg(dir.join("runc")).stdin(Stdio::null());
    let output = run(ctr.arg("--config").arg(scratch.path("spec")).arg("a"));
    let down = containerd("down");
    assert_eq!(text(&output.stdout), "hello\n", "{}", text(&output.stderr));
    assert!(down.status.success(), "{}", text(&down.stderr));
    let records = hook_records(&scratch);
    let stages: Vec<_> = records.iter().map(|record| record["hook"]["stage"].clone()).collect();
    assert_eq!(stages, ["createRuntime", "poststop"]);
    assert!(records.iter().all(|record| record["exit"]["code"] == 0), "{records:?}");
}
