//! The hook in real runtimes, with a cgroup frozen by hand, compared with runs without the hook.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Runtime, Scratch, eventually, frostlock, on_v2, proof, run, runtime, succeed, text};

use crate::{Freezer, SOON, alone, hook_records, ms, ours_of};

/// Longer than the second that the hook after ours has.
const FROZEN_FOR: Duration = Duration::from_millis(1500);

/// How long nothing may happen before the thaw; a hook would have run within 50 ms.
const STALLED_FOR: Duration = Duration::from_millis(600);

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
    on_v2("runtimes::inside_v2::a_hook_with_a_timeout_is_kept_out_of_a_freeze");
    on_v2("runtimes::inside_v2::a_cgroup_frozen_before_create_stalls_it_before_any_hook");
}

mod inside_v2 {
    use testkit::{proof, runtime};

    use super::{frozen_during_a_slow_hook, stalls_before_any_hook};

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
