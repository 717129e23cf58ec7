//! `frostctl report --estimate` compared with a measurement: a node whose probes mode "observe"
//! records is switched to mode "full", with the same load and the same seed. The control comes
//! first: an idle container without a quota has nothing to save.
//!
//! Short by default; with FROSTLOCK_PROOF it runs more probes, detached ones, and a quota above the
//! container.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::live::{Container, Scratch, succeed};
use testkit::{frostctl, frostlock, repository, runtime};

/// The seed for the gaps between probes, so that probes hit each part of a period.
const SEED: u64 = 17;
const LONGEST_GAP_MS: u64 = 100;

/// The estimate's range covers its own error, but not a machine that is busy with something else.
const SLACK: f64 = 0.25;

/// How much one probe may differ from its estimate, again because of a busy machine.
const SLACK_MS: f64 = 60.0;

fn is_v2_alone() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn proof() -> bool {
    std::env::var_os("FROSTLOCK_PROOF").is_some()
}

#[derive(Debug, Clone, Copy)]
struct Scene {
    name: &'static str,
    loops: u32,
    quota_us: u32,
    /// The quota is on the cgroup above the container's.
    above: bool,
    detached: bool,
    probes: usize,
}

const SHORT: Scene =
    Scene { name: "short", loops: 2, quota_us: 5000, above: false, detached: false, probes: 4 };

fn scenes() -> Vec<Scene> {
    if !proof() {
        return vec![SHORT];
    }
    let many = Scene { probes: 20, ..SHORT };
    vec![
        Scene { name: "10 of 100 ms, 2 loops", quota_us: 10_000, ..many },
        Scene { name: "5 of 100 ms, 4 loops", loops: 4, quota_us: 5000, ..many },
        Scene { name: "20 of 100 ms, 1 loop", loops: 1, quota_us: 20_000, probes: 60, ..many },
        Scene { name: "the same, detached", loops: 4, quota_us: 5000, detached: true, ..many },
        Scene { name: "the quota above", loops: 4, quota_us: 5000, above: true, ..many },
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Observe,
    Full,
}

/// A small node: a state directory with its journal, and a container that is probed.
struct Node {
    // Dropped before the scratch place, which has its cgroup.
    container: Container,
    scratch: Scratch,
}

impl Node {
    fn of(loops: u32) -> Node {
        let scratch = Scratch::new();
        let bundle = bundle(&scratch, loops);
        let runc = runtime("runc-1.5.3").path;
        let container = Container::run(&runc, &runc, &scratch, "c", &bundle);
        Node { container, scratch }
    }

    fn limit(&self, quota_us: i64, above: bool) {
        self.set_quota(if above { "" } else { "/c" }, Some(quota_us)).unwrap();
    }

    fn set_quota(&self, below: &str, quota_us: Option<i64>) -> std::io::Result<()> {
        let dir = self.cpu_dir(below);
        let v1 = dir.join("cpu.cfs_quota_us");
        if v1.exists() {
            return std::fs::write(v1, quota_us.unwrap_or(-1).to_string());
        }
        let quota = quota_us.map_or_else(|| "max".to_owned(), |it| it.to_string());
        std::fs::write(dir.join("cpu.max"), format!("{quota} 100000"))
    }

    fn cpu_dir(&self, below: &str) -> PathBuf {
        if is_v2_alone() {
            return PathBuf::from(format!("/sys/fs/cgroup{}{below}", self.scratch.cgroup));
        }
        self.scratch.dir("cpu", below)
    }

    fn nr_throttled(&self, above: bool) -> u64 {
        let below = if above { "" } else { "/c" };
        let stat = std::fs::read_to_string(self.cpu_dir(below).join("cpu.stat")).unwrap();
        let line = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap();
        line.parse().unwrap()
    }

    fn probe(&self, mode: Mode, detached: bool) {
        let config = self.scratch.dir.path().join("config.toml");
        let word = if mode == Mode::Full { "full" } else { "observe" };
        std::fs::write(&config, format!("mode = '{word}'\n[log]\nsyslog = 'off'\n")).unwrap();
        let pid_file = self.scratch.dir.path().join("pid");
        let mut exec = Command::new(frostlock());
        exec.arg("--root").arg(&self.container.root).arg("exec");
        if detached {
            exec.arg("--detach").arg("--pid-file").arg(pid_file);
        }
        exec.args(["c", "/bin/true"]).env("FROSTLOCK_RUNTIME", &self.container.runtime);
        exec.env("FROSTLOCK_STATE_DIR", self.scratch.state()).env("FROSTLOCK_CONFIG", config);
        succeed(&mut exec);
    }

    fn probes(&self, mode: Mode, scene: Scene) -> Vec<Value> {
        let before = self.records().len();
        let mut seed = SEED;
        for _ in 0..scene.probes {
            self.probe(mode, scene.detached);
            // xorshift64
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            std::thread::sleep(Duration::from_millis(seed % LONGEST_GAP_MS));
        }
        let records = self.records().split_off(before);
        let execs: Vec<Value> = records.into_iter().filter(|it| it["verb"] == "exec").collect();
        assert_eq!(execs.len(), scene.probes);
        execs
    }

    fn journal(&self) -> PathBuf {
        self.scratch.state().join("journal.jsonl")
    }

    fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.journal()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn frostctl(&self, args: &[&str]) -> String {
        let mut command = Command::new(frostctl());
        command.args(args).arg("--journal").arg(self.journal());
        succeed(&mut command).stdout
    }

    fn estimate(&self) -> Value {
        let estimate = self.frostctl(&["report", "--estimate", "--json"]);
        serde_json::from_str(&estimate).unwrap()
    }
}

impl Drop for Node {
    /// Under their quota its processes would take seconds to die.
    fn drop(&mut self) {
        for below in ["", "/c"] {
            let _ = self.set_quota(below, None);
        }
    }
}

/// Without limits: under them its start would take seconds.
fn bundle(scratch: &Scratch, loops: u32) -> PathBuf {
    let bundle = scratch.dir.path().join("bundle");
    let scene = if loops == 0 { "idle" } else { "throttled" };
    let mut make = Command::new(repository().join("scripts/make-bundle"));
    make.arg(scene).arg(&bundle).args(["--cgroup", &format!("{}/c", scratch.cgroup)]);
    succeed(&mut make);
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["linux"]["resources"] = json!({});
    if loops > 0 {
        config["process"]["env"] = json!(["PATH=/bin", format!("LOOPS={loops}")]);
    }
    std::fs::write(&file, config.to_string()).unwrap();
    bundle
}

fn ms(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

fn took(record: &Value) -> f64 {
    ["prepare", "lock", "run"].iter().map(|stage| ms(&record["stages"][stage])).sum()
}

fn sum(records: &[Value]) -> f64 {
    records.iter().map(took).sum()
}

fn range(value: &Value) -> (f64, f64) {
    (ms(&value["least"]), ms(&value["most"]))
}

/// Mode "observe" does nothing but record.
fn assert_observed(records: &[Value]) {
    for record in records {
        assert_eq!((&record["lock"], &record["attempts"]), (&json!("none"), &json!(1)), "{record}");
        assert!(record["lifts"].is_null() && record["throttling"].is_object(), "{record}");
    }
}

#[test]
fn an_idle_container_has_nothing_to_save() {
    let node = Node::of(0);
    let scene = Scene { loops: 0, ..SHORT };
    let observed = node.probes(Mode::Observe, scene);
    assert_observed(&observed);
    let estimate = node.estimate();
    let exec = &estimate["verbs"][0];
    assert_eq!(
        (&exec["verb"], &exec["count"]),
        (&json!("exec"), &json!(SHORT.probes)),
        "{estimate}"
    );
    assert_eq!((&exec["throttled"], range(&exec["saved_ms"])), (&json!(0), (0.0, 0.0)), "{exec}");
    let text = node.frostctl(&["report", "--estimate"]);
    assert!(text.contains("nothing: no operation was throttled\n"), "{text}");
}

/// On v1 and on v2, whose `cpu.stat` has another unit; says nothing about times.
#[test]
fn what_a_quota_has_cost_is_recorded_and_estimated() {
    let scene = Scene { quota_us: 20_000, probes: 3, ..SHORT };
    let node = Node::of(scene.loops);
    node.limit(scene.quota_us.into(), false);
    let throttled = node.nr_throttled(false);
    until_throttled(|| node.nr_throttled(false) > throttled);
    let observed = node.probes(Mode::Observe, scene);
    assert_observed(&observed);
    for record in &observed {
        let throttling = &record["throttling"];
        let (throttled, explained) =
            (ms(&throttling["throttled_ms"]), ms(&throttling["explained_ms"]));
        let run = ms(&record["stages"]["run"]);
        assert!(explained <= throttled && throttled <= run, "{record}");
    }
    let of_all: f64 = observed.iter().map(|it| ms(&it["throttling"]["throttled_ms"])).sum();
    // A count in the wrong unit would be far off.
    assert!(of_all > sum(&observed) / 20.0, "{of_all}: {observed:?}");
    let estimate = node.estimate();
    let exec = &estimate["verbs"][0];
    assert_eq!((&exec["verb"], &exec["count"]), (&json!("exec"), &json!(scene.probes)), "{exec}");
    assert!(exec["throttled"].as_u64().unwrap() > 0 && range(&exec["saved_ms"]).1 > 0.0, "{exec}");
    println!("{}", node.frostctl(&["report", "--estimate"]));
}

#[test]
fn the_estimate_is_what_mode_full_then_saves() {
    for scene in scenes() {
        one(scene);
    }
}

fn one(scene: Scene) {
    let node = Node::of(scene.loops);
    // The sleep of an unthrottled exec, and the control in the same container.
    let calm = node.probes(Mode::Observe, scene);
    assert_observed(&calm);
    let before = range(&node.estimate()["verbs"][0]["saved_ms"]);
    assert_eq!(before, (0.0, 0.0), "{}: without a quota nothing is to be saved", scene.name);

    node.limit(scene.quota_us.into(), scene.above);
    let throttled = node.nr_throttled(scene.above);
    until_throttled(|| node.nr_throttled(scene.above) > throttled);
    let observed = node.probes(Mode::Observe, scene);
    assert_observed(&observed);
    let estimate = node.estimate();
    let text = node.frostctl(&["report", "--estimate"]);

    let full = node.probes(Mode::Full, scene);
    let lifted = full.iter().filter(|it| it["lifts"].is_array()).count();
    assert!(lifted * 2 > full.len(), "{}: not shown: {lifted} lifted; with-realtime?", scene.name);
    assert!(full.iter().all(|it| it["throttling"].is_null()), "mode full observes nothing");
    let after = node.estimate();
    assert_eq!(after["verbs"], estimate["verbs"], "records of mode full change no estimate");

    let saved = sum(&observed) - sum(&full);
    let (least, most) = range(&estimate["verbs"][0]["saved_ms"]);
    let mut took_full: Vec<f64> = full.iter().map(took).collect();
    took_full.sort_by(f64::total_cmp);
    // In a short run of few probes, the machine may delay one.
    let worst = took_full[took_full.len() - if proof() { 1 } else { 2 }];
    let (fastest, slowest) = range(&estimate["verbs"][0]["full"]["p99_ms"]);
    println!(
        "{}: {} probes took {:.0} ms in all, in mode full {:.0}\n  saved {saved:.0} ms, estimated \
         {least:.0} to {most:.0}; slowest {worst:.1} ms, estimated {fastest:.1} to {slowest:.1}\n{text}",
        scene.name,
        scene.probes,
        sum(&observed),
        sum(&full)
    );
    let busy = SLACK_MS * scene.probes as f64 * if proof() { 1.0 } else { 2.0 };
    assert!(saved >= least * (1.0 - SLACK) - busy, "{}: {saved} of {least}", scene.name);
    assert!(saved <= most * (1.0 + SLACK) + busy, "{}: {saved} of {most}", scene.name);
    assert!(worst <= slowest * (1.0 + SLACK) + SLACK_MS, "{}: {worst} of {slowest}", scene.name);
}

fn until_throttled(mut is_so: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(std::time::Instant::now() < until, "not throttled within 10 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// As `make proof` and a person may run it: on a journal without mode "observe".
#[test]
fn without_records_of_mode_observe_there_is_no_answer() {
    let scratch = Scratch::new();
    let refused = |journal: &Path, more: &[&str]| {
        let args = [&["report", "--estimate", "--journal", journal.to_str().unwrap()], more];
        let ended = scratch.frostctl(&args.concat());
        assert_eq!((ended.code, ended.stderr.lines().count()), (Some(3), 1), "{ended:?}");
        assert!(ended.stdout.is_empty(), "{ended:?}");
        ended.stderr
    };
    let journal = scratch.dir.path().join("j");
    std::fs::write(&journal, "").unwrap();
    assert!(refused(&journal, &[]).contains("the journal is empty"));
    let record = |verb: &str, more: Value| {
        let mut record = json!({"v": 1, "boot_id": "b", "time": "2026-01-01T00:00:01.000Z",
            "mono_ns": 1, "verb": verb, "id": "c", "verdict": "ok", "stages": {"run": 50.0}});
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        format!("{record}\n")
    };
    std::fs::write(&journal, record("exec", json!({}))).unwrap();
    for more in [&[][..], &["--json"]] {
        let said = refused(&journal, more);
        assert!(said.contains("no operation that mode \"observe\" has recorded"), "{said}");
    }
    let throttling = json!({"throttling": {"throttled_ms": 0.0, "cpu_ms": 9.0, "explained_ms": 0}});
    std::fs::write(&journal, record("exec", throttling)).unwrap();
    let said = refused(&journal, &["--since", "2026-06-01T00:00:00Z"]);
    assert!(said.contains("no operation since 2026-06-01T00:00:00Z that mode"), "{said}");
    assert!(refused(&journal, &["--pod", "nosuch"]).contains("has no pod nosuch;"));
    let ended = scratch.frostctl(&["report", "--estimate", "--journal", journal.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let both = scratch.frostctl(&["report", "--estimate", "--html", "page"]);
    assert_eq!(both.code, Some(2), "{both:?}");
}
