//! cgroup v1, and a caller that is in another cgroup of each hierarchy. A container whose
//! configuration names no cgroup then has as many different paths. frostlock acts on these, and not
//! on a stranger that has the container's path in another hierarchy.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::cpu::Cpu;
use testkit::{Runtime, Scratch, eventually, run, runtime, succeed, text, wait};

/// Longer than any wait of ours; a command that takes longer hangs.
const HANGS: Duration = Duration::from_secs(5);

/// The hierarchies in which the caller is elsewhere; in the others it stays where the tests are.
const APART: [&str; 4] = ["cpu", "cpuacct", "memory", "freezer"];

struct Scene {
    scratch: Scratch,
    runtime: Runtime,
    id: String,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let scratch = Scratch::new();
        // So that top-level cgroups of a hierarchy are removed with the scratch, too.
        let id = scratch.cgroup[1..].to_owned();
        let scene = Scene { scratch, runtime: runtime(name), id };
        for hierarchy in APART {
            fs::create_dir_all(scene.callers(hierarchy)).unwrap();
        }
        scene
    }

    fn callers(&self, hierarchy: &str) -> PathBuf {
        directory(hierarchy, &format!("{}/caller-{}", self.scratch.cgroup, group_of(hierarchy)))
    }

    /// The path by which the container is known.
    fn identity(&self) -> String {
        format!("{}/caller-freezer/{}", self.scratch.cgroup, self.id)
    }

    fn cpu_path(&self) -> String {
        format!("{}/caller-cpu/{}", self.scratch.cgroup, self.id)
    }

    fn bundle(&self, quota_us: i32) -> PathBuf {
        let bundle = self.scratch.bundle("throttled", &self.id);
        self.scratch.edit(&bundle, |config| {
            config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
            config["linux"]["resources"] =
                json!({ "cpu": { "quota": quota_us, "period": 100_000 } });
            config["process"]["env"] = json!(["PATH=/bin", "LOOPS=8"]);
        });
        bundle
    }

    /// Runs as a caller in other cgroups than ours.
    fn as_the_caller(&self, command: &Command) -> Command {
        let joins = APART.map(|hierarchy| self.callers(hierarchy).join("cgroup.procs"));
        let joins = joins.map(|file| format!("echo $$ >{} && ", file.display())).concat();
        let mut inner = Command::new("sh");
        inner.args(["-c", &format!("{joins}exec \"$@\""), "sh"]);
        inner.arg(command.get_program()).args(command.get_args());
        inner.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        inner.stdin(Stdio::null());
        inner
    }

    fn create(&self, command: Command, quota_us: i32) {
        let mut command = command;
        command.args(["run", "--detach", "--bundle"]).arg(self.bundle(quota_us)).arg(&self.id);
        succeed(&mut self.as_the_caller(&command));
    }

    fn bare(&self) -> Command {
        self.scratch.bare(&self.runtime.path)
    }

    fn wrapped(&self) -> Command {
        self.scratch.wrapped(&self.runtime.path)
    }

    /// The container's cgroups, according to the kernel.
    fn places(&self) -> BTreeMap<String, PathBuf> {
        let state = succeed(self.bare().args(["state", &self.id]));
        let state: Value = serde_json::from_slice(&state.stdout).unwrap();
        let lines = fs::read_to_string(format!("/proc/{}/cgroup", state["pid"])).unwrap();
        let places = lines.lines().flat_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next().unwrap(), fields.next().unwrap());
            controllers.split(',').map(move |controller| {
                let hierarchy = match controller {
                    "" => "unified",
                    "name=systemd" => "systemd",
                    controller => controller,
                };
                (hierarchy.to_owned(), directory(hierarchy, path))
            })
        });
        places.collect()
    }

    fn record(&self, verb: &str) -> Value {
        let mut journal = self.scratch.journal().into_iter();
        journal.rfind(|record| record["verb"] == verb).unwrap_or_else(|| panic!("no {verb}"))
    }

    /// The last record of this operation says that the runtime's own work was lifted.
    fn was_lifted(&self, verb: &str) {
        let record = self.record_of_ours(verb);
        assert!(has_lift(&record), "{record}");
    }

    /// Or no lift was needed: nothing is busy there before, and the first period may be enough for
    /// all of it.
    fn was_lifted_or_quick(&self, verb: &str) {
        let record = self.record_of_ours(verb);
        assert!(has_lift(&record) || is_quick(&record), "{record}");
    }

    fn record_of_ours(&self, verb: &str) -> Value {
        let record = self.record(verb);
        assert_eq!(record["cgroup"], json!(self.identity()), "{record}");
        record
    }
}

fn has_lift(record: &Value) -> bool {
    let lifts = record["lifts"].as_array().map_or(&[][..], Vec::as_slice);
    lifts.iter().any(|lift| lift["whose"] == "runtime")
}

/// Less than a period; 14 ms were seen without a lift.
fn is_quick(record: &Value) -> bool {
    record["run_ms"].as_f64().is_some_and(|ms| ms < 50.0)
}

/// cpu and cpuacct are one hierarchy on most machines.
fn group_of(hierarchy: &str) -> &str {
    hierarchy.strip_suffix("acct").unwrap_or(hierarchy)
}

fn directory(hierarchy: &str, path: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(hierarchy).join(path.trim_start_matches('/'))
}

/// Somebody's busy process with a small quota, at the container's path but in the cpu hierarchy; in
/// the memory hierarchy the path has a cgroup that is currently empty.
struct Stranger {
    busy: Child,
    cpu: Cpu,
    dirs: [PathBuf; 3],
}

impl Stranger {
    fn at(path: &str) -> Stranger {
        let dirs = ["cpu", "cpuacct", "memory"].map(|hierarchy| directory(hierarchy, path));
        for dir in &dirs {
            fs::create_dir_all(dir).unwrap();
        }
        let cpu = Cpu::of(path);
        cpu.limit(1000, 100_000);
        let busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        for dir in &dirs[..2] {
            fs::write(dir.join("cgroup.procs"), busy.id().to_string()).unwrap();
        }
        let stranger = Stranger { busy, cpu, dirs };
        eventually(HANGS, "the stranger is throttled", || stranger.cpu.nr_throttled() > 2);
        stranger
    }

    /// The stranger gets its quota meanwhile, and hardly more.
    fn gains_nothing(&self, while_this: impl FnOnce()) {
        let (before, since) = (self.cpu.usage(), Instant::now());
        while_this();
        let (used, elapsed) = (self.cpu.usage() - before, since.elapsed());
        println!("the stranger used {used:?} in {elapsed:?}");
        // A tick of the scheduler, and the quota of the period before.
        assert!(used < elapsed / 50 + Duration::from_millis(12), "{used:?} in {elapsed:?}");
    }

    fn is_there(&self) {
        assert!(self.dirs.iter().all(|dir| dir.is_dir()), "removed: {:?}", self.dirs);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.cpu.unlimit();
        let _ = self.busy.kill();
        let _ = self.busy.wait();
    }
}

/// Where the runtime puts it, and what happens to a probe there.
fn control(name: &str) {
    let scene = Scene::new(name);
    scene.create(scene.bare(), -1);
    let places = scene.places();
    assert_eq!(places["freezer"], directory("freezer", &scene.identity()), "control");
    assert_eq!(places["cpu"], directory("cpu", &scene.cpu_path()), "control");
    assert!(!directory("cpu", &scene.identity()).exists(), "control");
    let cpu = Cpu::of(&scene.cpu_path());
    cpu.limit(1000, 100_000);
    eventually(HANGS, "it is throttled", || cpu.nr_throttled() > 2);
    let mut exec = scene.bare();
    exec.args(["exec", &scene.id, "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    let limit = Duration::from_secs(1);
    let ended = wait(&mut exec.spawn().unwrap(), limit);
    assert_eq!(ended, None, "control: not shown: a bare exec needs no more than {limit:?}");
}

fn lifted(name: &str) {
    let scene = Scene::new(name);
    let stranger = Stranger::at(&scene.identity());
    stranger.gains_nothing(|| scene.create(scene.wrapped(), 1000));
    scene.was_lifted_or_quick("run");
    let places = scene.places();
    assert_eq!(places["freezer"], directory("freezer", &scene.identity()));
    assert_eq!(places["cpu"], directory("cpu", &scene.cpu_path()));
    let cpu = Cpu::of(&scene.cpu_path());
    eventually(HANGS, "it is throttled", || cpu.nr_throttled() > 2);

    // By callers elsewhere, like any other caller.
    stranger.gains_nothing(|| {
        for _ in 0..5 {
            let mut exec = scene.wrapped();
            exec.args(["exec", &scene.id, "true"]);
            let began = Instant::now();
            let status = wait(&mut exec.spawn().unwrap(), HANGS);
            assert!(status.is_some_and(|status| status.success()), "{status:?}");
            println!("{name}: wrapped exec: {:?}", began.elapsed());
            scene.was_lifted("exec");
        }
    });
    stranger.gains_nothing(|| {
        succeed(scene.wrapped().args(["pause", &scene.id]));
    });
    let frozen = fs::read_to_string(places["freezer"].join("freezer.state")).unwrap();
    assert_eq!(frozen.trim(), "FROZEN");
}

fn deleted(name: &str) {
    let scene = Scene::new(name);
    let stranger = Stranger::at(&scene.identity());
    scene.create(scene.wrapped(), 1000);
    let places = scene.places();
    let deleted = run(scene.wrapped().args(["delete", "--force", &scene.id]));
    assert!(deleted.status.success(), "{}", text(&deleted.stderr));
    let left: Vec<&PathBuf> = places.values().filter(|dir| dir.exists()).collect();
    // A top-level cgroup has the scratch's name, and the caller's cgroup is below it.
    let callers = APART.map(|hierarchy| directory(hierarchy, &scene.scratch.cgroup));
    let left: Vec<_> = left.into_iter().filter(|dir| !callers.contains(dir)).collect();
    assert_eq!(left, Vec::<&PathBuf>::new());
    stranger.is_there();
    assert_eq!(scene.scratch.lock_files(), Vec::<PathBuf>::new());
}

const RUNTIMES: [&str; 2] = ["runc-1.1.5", "runc-1.5.3"];

#[test]
fn it_is_lifted_where_its_processes_are() {
    for name in RUNTIMES {
        control(name);
        lifted(name);
    }
}

#[test]
fn its_own_cgroups_go_and_no_others() {
    RUNTIMES.into_iter().for_each(deleted);
}
