//! After a delete no cgroup of the container is left in any hierarchy, and nothing of others is
//! touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use testkit::cpu::{Cpu, Version};
use testkit::fake_runtime::Fake;
use testkit::scene::{HANGS, Log, MS, Scene, Via, report, timed, tolerance};
use testkit::{Scratch, cgroup_dirs, pids, proof, slowness, succeed};

use crate::NOTHING;

/// Removes its state and forgets its cgroups, as runc up to 1.1 does if they are busy at that
/// moment: with an error in its log, and exit status 0.
struct Forgetful<'a> {
    fake: Fake<'a>,
}

impl<'a> Forgetful<'a> {
    fn new(scratch: &'a Scratch) -> Forgetful<'a> {
        Forgetful { fake: Fake::new(scratch, "") }
    }

    /// The container, its cgroups in all hierarchies, and the cgroups that it has made in them
    /// itself.
    fn create(&self, id: &str) {
        succeed(&mut self.fake.create(id));
        for dir in hierarchies() {
            let cgroup = dir.join(&self.fake.cgroup(id)[1..]);
            fs::create_dir_all(cgroup.join("system.slice/x.service")).unwrap();
            fs::create_dir_all(cgroup.join("init.scope")).unwrap();
        }
    }

    fn left(&self, id: &str) -> Vec<PathBuf> {
        cgroup_dirs(&self.fake.cgroup(id))
    }
}

/// On a hybrid host only those of v1; runc's state also names the v2 tree.
fn hierarchies() -> Vec<PathBuf> {
    if Version::here() == Version::V2 {
        return vec![PathBuf::from("/sys/fs/cgroup")];
    }
    let entries = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let names = dirs.filter(|dir| dir.file_name() != "unified" && dir.file_name() != "systemd");
    names.map(|dir| dir.path()).collect()
}

#[test]
fn what_the_runtime_forgets_is_removed() {
    let scratch = Scratch::new();
    let forgetful = Forgetful::new(&scratch);
    forgetful.create("a");
    let all = forgetful.left("a").len();
    succeed(&mut forgetful.fake.bare(&["delete", "a"]));
    assert_eq!(forgetful.left("a").len(), all, "not shown");
    report!("bare: {all} directories left");

    forgetful.create("b");
    // Not the container's, though its name begins with the same letter.
    forgetful.create("bb");
    let ended = timed(&mut forgetful.fake.wrapped(&["delete", "b"]), HANGS);
    report!("wrapped: {} left, {:?}", forgetful.left("b").len(), ended.took);
    assert!(ended.succeeded(), "{ended:?}");
    assert_eq!(forgetful.left("b"), NOTHING);
    assert_eq!(forgetful.left("bb").len(), all);
    assert_eq!(ended.stderr, "");
    let names = |path: &PathBuf| path.to_string_lossy().contains("/b-");
    assert!(!scratch.lock_files().iter().any(names), "{:?}", scratch.lock_files());
}

/// The container never existed, or still exists: then nothing is a leftover.
#[test]
fn a_container_that_stays_keeps_its_cgroups() {
    let scratch = Scratch::new();
    let forgetful = Forgetful::new(&scratch);
    forgetful.create("a");
    let all = forgetful.left("a").len();
    let refuses = testkit::fake_runtime::Attempt {
        stderr: "cannot delete container a that is not stopped: running\n".to_owned(),
        exit: 1,
        ..Default::default()
    };
    forgetful.fake.script(&[("delete", &[refuses])]);
    let ended = timed(&mut forgetful.fake.wrapped(&["delete", "a"]), HANGS);
    assert_eq!((ended.code, forgetful.left("a").len()), (Some(1), all));
    // The cgroup may belong to a container that is just being created.
    forgetful.fake.script(&[]);
    let ended = timed(&mut forgetful.fake.wrapped(&["delete", "nobody"]), HANGS);
    assert_eq!((ended.code, forgetful.left("a").len()), (Some(1), all));
}

/// An independent process in a cgroup.
struct Straggler(Child);

impl Straggler {
    fn in_cgroup(dir: &Path) -> Straggler {
        let child = Command::new("sleep").arg("3600").stdin(Stdio::null()).spawn().unwrap();
        fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        Straggler(child)
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Straggler {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_that_stays_is_not_ours_to_kill() {
    let scratch = Scratch::new();
    let forgetful = Forgetful::new(&scratch);
    forgetful.create("a");
    let dir = Version::here().dir("freezer", &forgetful.fake.cgroup("a"));
    let mut straggler = Straggler::in_cgroup(&dir.join("init.scope"));
    let ended = timed(&mut forgetful.fake.wrapped(&["delete", "a"]), HANGS);
    report!("wrapped: {:?} in {:?}; left: {:?}", ended.code, ended.took, forgetful.left("a"));
    assert!(ended.succeeded(), "{ended:?}");
    assert!(ended.took >= 900 * MS && ended.took < 1000 * MS + tolerance(), "{:?}", ended.took);
    assert!(straggler.lives(), "it was killed");
    assert_eq!(forgetful.left("a"), [dir.clone(), dir.join("init.scope")]);
    let record = scratch.journal().into_iter().rfind(|record| record["verb"] == "delete").unwrap();
    let note = record["note"].as_str().unwrap_or_else(|| panic!("no note: {record}"));
    let said = [dir.to_str().unwrap(), &forgetful.fake.cgroup("a")];
    assert!(said.iter().any(|path| note.contains(path)), "{note:?}");
    assert!(note.contains(&straggler.0.id().to_string()), "{note:?}");
}

/// A process that ends meanwhile is waited for.
#[test]
fn a_process_that_is_about_to_end_is_waited_for() {
    let scratch = Scratch::new();
    let forgetful = Forgetful::new(&scratch);
    forgetful.create("a");
    let dir = Version::here().dir("memory", &forgetful.fake.cgroup("a"));
    let mut straggler = Straggler::in_cgroup(&dir);
    let end = std::thread::spawn(move || {
        std::thread::sleep(300 * MS);
        assert!(straggler.lives(), "it was killed");
    });
    let ended = timed(&mut forgetful.fake.wrapped(&["delete", "a"]), HANGS);
    end.join().unwrap();
    report!("wrapped: {:?} in {:?}", ended.code, ended.took);
    assert_eq!((ended.code, forgetful.left("a")), (Some(0), NOTHING.to_vec()));
    assert!(ended.took < 300 * MS + tolerance(), "{:?}", ended.took);
}

/// podman's pods and hand-made bundles: two containers, one cgroupsPath.
#[test]
fn a_cgroup_of_two_containers_outlives_the_first() {
    let scene = Scene::of("runc-1.1.5");
    let shared = format!("{}/shared", scene.scratch.cgroup);
    for id in ["a", "b"] {
        let bundle = scene.scratch.bundle("idle", id);
        scene.scratch.edit(&bundle, |config| {
            config["linux"]["cgroupsPath"] = json!(shared);
            config["linux"]["resources"] =
                json!({ "cpu": { "quota": 50000, "period": 100000 }, "pids": { "limit": 77 } });
        });
        let bundle = bundle.to_str().unwrap();
        scene.must(Via::Wrapped, &["run", "--detach", "--bundle", bundle, id]);
    }
    let dirs = cgroup_dirs(&shared);
    let seen = || {
        let most = Version::here().dir("pids", &shared).join("pids.max");
        (Cpu::of(&shared).settings(), fs::read_to_string(most).unwrap())
    };
    let limits = seen();
    let all = pids(&dirs[0]);
    assert_eq!(all.len(), 2, "not shown");
    let ended = scene.give_logged(Via::Wrapped, Log::Json, &["delete", "--force", "a"], 20 * HANGS);
    report!("wrapped delete of one of two: {:?} in {:?}", ended.code, ended.took);
    assert!(ended.succeeded(), "{ended:?}");
    assert_eq!(cgroup_dirs(&shared), dirs);
    assert_eq!(seen(), limits);
    let rest = pids(&dirs[0]);
    assert!(rest.len() == 1 && all.contains(&rest[0]), "{all:?}, then {rest:?}");
    assert!(scene.give(Via::Wrapped, &["exec", "b", "true"]).succeeded());
    let ended = scene.give(Via::Wrapped, &["delete", "--force", "b"]);
    assert!(ended.succeeded(), "{ended:?}");
    assert_eq!(cgroup_dirs(&shared), NOTHING);
}

#[test]
fn a_throttled_container_is_gone_with_its_delete() {
    // Wrapped it takes 110 to 150 ms, of which runc waits 100; bare 600 ms to 5 s.
    let quick = 400 * MS * slowness();
    for runtime in ["runc-1.1.5", "runc-1.5.3"] {
        let is_worse = (0..5).any(|_| {
            let scene = Scene::throttled(runtime, 8);
            let bare = scene.give(Via::Bare, &["delete", "--force", "c"]);
            let left = cgroup_dirs(&scene.cgroup()).len();
            report!("{runtime}: bare: {:?} in {:?}, {left} directories left", bare.code, bare.took);
            !bare.succeeded() || bare.took > 3 * quick / 2 || left > 0
        });
        assert!(is_worse, "not shown: {runtime}");
        let mut times = Vec::new();
        for _ in 0..(if proof() { 20 } else { 3 }) {
            let scene = Scene::throttled(runtime, 8);
            let wrapped = scene.give(Via::Wrapped, &["delete", "--force", "c"]);
            let left = cgroup_dirs(&scene.cgroup());
            report!("{runtime}: wrapped: {:?} in {:?}", wrapped.code, wrapped.took);
            assert!(wrapped.succeeded(), "{wrapped:?}");
            times.push(wrapped.took);
            assert_eq!(left, NOTHING);
            assert_eq!(scene.scratch.lock_files(), NOTHING);
        }
        times.sort_unstable();
        // Of three in a short run, the machine may delay one.
        let judged = if proof() { times[times.len() - 1] } else { times[times.len() / 2] };
        assert!(judged < quick, "{times:?}");
    }
}
