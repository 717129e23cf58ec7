//! `frostlock hook` in real runtimes and real podman, with a cgroup frozen by hand, beside the same
//! without it; and whatever can come over its standard input.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    Runtime, Scratch, cgroup_dirs, eventually, frostlock, on_v2, pids, run, runtime, succeed, text,
};

const SOON: Duration = Duration::from_secs(10);

/// Longer than the second that the hook behind ours is given.
const FROZEN_FOR: Duration = Duration::from_millis(1500);

/// One at a time: these measure.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The freezer of a cgroup of ours, of either version.
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

    /// Everybody who is in it, or below.
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
        std::fs::write(&path, format!("#!/bin/bash\ncd {:?}\n{body}\n", self.scratch.path("")))
            .unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let mut hook = json!({ "path": path, "args": [name] });
        if let Some(timeout) = timeout {
            hook["timeout"] = timeout.into();
        }
        self.hooks.push(hook);
    }

    fn ours(&mut self, args: &[&str]) {
        self.hooks.push(ours(self.scratch, args));
    }

    /// One that takes a while: until the file `go` is there.
    fn slow(&mut self) {
        let wait = "touch in; for i in {1..1000}; do [ -e go ] && exit; sleep 0.01; done";
        self.script("slow", wait, None);
    }

    /// One that does its work in the container's cgroup, and is given a second.
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

/// Us as a hook, as it stands in a configuration.
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

/// While a hook that takes its time runs, somebody freezes the pod. The next one, with a second to
/// do its work in the container's cgroup, runs into the freeze and is timed out, which costs the
/// container; behind ours it does not start before the thaw.
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
            std::fs::write(scratch.path("go"), "").unwrap();
            std::thread::sleep(FROZEN_FOR);
            freezer.thaw();
            create.join().unwrap()
        });
        let said = text(&output.stderr);
        let what = if with_ours { "with ours" } else { "without" };
        println!("{} {what}: {} after {:?}; {said}", runtime.name, output.status, since.elapsed());
        if !with_ours {
            assert!(!output.status.success(), "not shown: the create without ours succeeded");
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
        assert!(ms(&record["hook"]["wait_ms"]) > 1000.0, "{record}");
        assert_eq!((&record["exit"]["code"], &record["lock"]), (&json!(0), &json!("none")));
        assert_eq!(record["cgroup"], format!("{}/a", scratch.cgroup));
    }
}

#[test]
fn a_hook_with_a_timeout_is_kept_out_of_a_freeze() {
    let _alone = alone();
    for name in ["runc-1.1.5", "runc-1.1.15", "runc-1.3.6"] {
        frozen_during_a_slow_hook(&runtime(name));
    }
}

#[test]
fn the_same_on_v2() {
    let _alone = alone();
    on_v2("inside_v2::a_hook_with_a_timeout_is_kept_out_of_a_freeze");
}

mod inside_v2 {
    use super::*;

    #[test]
    #[ignore = "started by the_same_on_v2 where there is cgroup v2 alone"]
    fn a_hook_with_a_timeout_is_kept_out_of_a_freeze() {
        for name in ["runc-1.3.6", "crun-1.8.1", "crun-1.28"] {
            frozen_during_a_slow_hook(&runtime(name));
        }
    }
}

/// The limit of it: the container's own process joins the frozen cgroup before any hook of the
/// runtime's, and stalls there. With ours or without, `create` takes as long as the freeze.
#[test]
fn a_cgroup_frozen_before_create_stalls_it_before_any_hook() {
    let _alone = alone();
    for name in ["runc-1.1.5", "runc-1.3.6"] {
        for stage in ["prestart", "createRuntime"] {
            let runtime = runtime(name);
            let took = [false, true].map(|with_ours| {
                let scratch = Scratch::new();
                let freezer = Freezer::of(&scratch.cgroup);
                let mut scene = Scene::new(&scratch, &runtime);
                if with_ours {
                    scene.ours(&[stage]);
                }
                let mut create = scene.create(stage);
                freezer.freeze();
                let since = Instant::now();
                std::thread::scope(|scope| {
                    let create = scope.spawn(|| succeed(&mut create));
                    std::thread::sleep(Duration::from_secs(1));
                    assert!(hook_records(&scratch).is_empty(), "no hook runs before the thaw");
                    freezer.thaw();
                    create.join().unwrap();
                });
                let took = since.elapsed();
                for record in hook_records(&scratch) {
                    assert_eq!(record["hook"]["found"], "thawed", "{record}");
                    assert!(ms(&record["hook"]["wait_ms"]) < 100.0, "{record}");
                }
                assert_eq!(hook_records(&scratch).len(), usize::from(with_ours));
                took
            });
            println!("{name} {stage}: {:?} without, {:?} with", took[0], took[1]);
            assert!(took.iter().all(|took| *took > Duration::from_millis(950)), "{took:?}");
        }
    }
}

/// A freeze that lasts: without `--strict` the create goes on, and ends when the cgroup is thawed, as
/// it does without us; with it, it fails and says why, which on v1 is heard no earlier, as a frozen
/// process cannot die.
#[test]
fn only_a_strict_hook_fails() {
    let _alone = alone();
    let runtime = runtime("runc-1.3.6");
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

/// Inside an operation of ours there is nothing to wait for and nothing to remove.
#[test]
fn below_a_wrapper_that_has_the_lock_it_only_records() {
    let _alone = alone();
    let runtime = runtime("runc-1.3.6");
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

/// Our files of containers.
fn ours_of(scratch: &Scratch) -> Vec<PathBuf> {
    let below = ["containers", "locks", "intents"].map(|name| scratch.state().join(name));
    let entries = below.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Made through us, deleted without us: the files stay, unless there is the hook.
#[test]
fn after_a_bare_delete_nothing_of_ours_is_left() {
    let _alone = alone();
    for name in ["runc-1.1.5", "runc-1.3.6"] {
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

/// As an update that was killed leaves one behind.
fn leave_a_note(scratch: &Scratch) {
    let name = ours_of(scratch).into_iter().find(|path| path.extension() == Some("lock".as_ref()));
    let notes = scratch.state().join("intents").join(name.unwrap().file_stem().unwrap());
    for dir in [notes.parent().unwrap(), &notes] {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700)).unwrap();
    }
    std::fs::write(notes.join("4194304.json"), "{").unwrap();
}

/// Of a container that runs under the same id nothing is removed, whatever the state says.
#[test]
fn what_lives_keeps_its_files() {
    let _alone = alone();
    let runtime = runtime("runc-1.3.6");
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
    /// Nothing, and no end.
    Silence,
    /// No end, but all of it.
    OpenAfter(Vec<u8>),
    Endless,
}

/// The hook alone, with nothing in its environment but where its state is. It must end by itself.
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
        let odd =
            [Feed::Text(huge.clone()), Feed::Closed, Feed::Silence, Feed::Endless];
        texts.into_iter().chain(odd)
    };
    for stage in ["createRuntime", "prestart", "poststop", "poststart", "nonsense"] {
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

/// The role is the first word, whatever our name is; another word `hook` is the runtime's.
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
    let runtime = runtime("runc-1.3.6");
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
