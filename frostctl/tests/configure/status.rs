//! `frostctl status` through the life of an installation, on a node with containerd.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::node::{Node, pod};
use super::{NAME, frostctl, frostlock};

/// Where `make install` puts them.
pub(super) const FROSTCTL: &str = "/usr/local/bin/frostctl";
pub(super) const FROSTLOCK: &str = "/usr/local/bin/frostlock";

/// All ten questions, each with its own limit, on a containerd that hangs.
const LIMIT: Duration = Duration::from_secs(20);

pub(super) struct Status {
    code: i32,
    json: Value,
}

impl Status {
    pub(super) fn of(node: &Node, before: &[&str]) -> Status {
        Status::by(node, &[before, &[FROSTCTL]].concat())
    }

    pub(super) fn by(node: &Node, frostctl: &[&str]) -> Status {
        let words = [&["exec"], frostctl, &["status", "--json"]].concat();
        let output = node.script(&words);
        let said = super::text(&output.stdout);
        let json = serde_json::from_str(&said)
            .unwrap_or_else(|error| panic!("{error}: {said} {}", super::text(&output.stderr)));
        Status { code: output.status.code().unwrap(), json }
    }

    /// The judgement of a question, and its answer.
    fn answer(&self, question: &str) -> (&str, &str) {
        let answers = self.json["answers"].as_array().unwrap();
        let found = answers.iter().find(|it| it["question"] == question);
        let found = found.unwrap_or_else(|| panic!("{question}: {}", self.json));
        (found["judged"].as_str().unwrap(), found["answer"].as_str().unwrap())
    }

    #[track_caller]
    pub(super) fn says(&self, question: &str, judged: &str, what: &str) {
        let answer = self.answer(question);
        assert!(answer.0 == judged && answer.1.contains(what), "{question}: {answer:?}");
    }

    #[track_caller]
    pub(super) fn is(&self, verdict: &str, code: i32) {
        assert_eq!((self.json["verdict"].as_str().unwrap(), self.code), (verdict, code), "{self}");
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for answer in self.json["answers"].as_array().unwrap() {
            writeln!(f, "{} {}: {}", answer["judged"], answer["question"], answer["answer"])?;
        }
        Ok(())
    }
}

pub(super) fn must(node: &Node, words: &[&str]) -> String {
    let output = node.script(&[&["exec"], words].concat());
    let said = super::text(&output.stdout);
    assert!(output.status.success(), "{words:?}: {said}{}", super::text(&output.stderr));
    said
}

pub(super) fn sh(node: &Node, script: &str) -> String {
    must(node, &["sh", "-c", script])
}

#[test]
fn from_not_installed_to_broken() {
    let all = std::env::var_os("FROSTLOCK_PROOF").is_some();
    for containerd in if all { &["1.6.20", "1.7.24", "2.1.9"][..] } else { &["2.1.9"] } {
        a_life(&Node::up(containerd));
    }
}

fn a_life(node: &Node) {
    must(node, &["install", frostctl().to_str().unwrap(), FROSTCTL]);
    let status = |before: &[&str]| Status::of(node, before);

    let now = status(&[]);
    now.is("owed", 1);
    now.says("installed", "owed", "no frostlock");
    now.says("configured", "owed", "no engine");
    now.says("loaded", "moot", "nothing is configured");

    must(node, &["install", frostlock().to_str().unwrap(), FROSTLOCK]);
    let now = status(&[]);
    now.says("installed", "good", FROSTLOCK);
    now.says("configured", "owed", "no engine");

    let path = format!("PATH={}", node.path);
    must(node, &["env", &path, FROSTCTL, "configure", "--runtime", "containerd"]);
    let now = status(&[]);
    now.is("owed", 1);
    now.says("configured", "good", "frostlock (not the default)");
    now.says("loaded", "owed", "containerd needs a restart: it has no runtime frostlock yet");

    node.restart();
    let sandbox = node.client().run_pod_sandbox_by(NAME, &pod("through")).unwrap();
    let now = status(&[]);
    now.is("works", 0);
    now.says("loaded", "good", "by the running containerd");
    now.says("runtime", "good", "runc version 1.5.3");
    now.says("containers", "good", "1 goes through it");
    now.says("last record", "good", "start of default/pod, ok");
    now.says("last 24 h", "good", "0 failed");
    let said = must(node, &[FROSTCTL, "status"]);
    assert!(said.starts_with("frostlock works\n"), "{said}");
    println!("{said}");

    must(node, &[FROSTCTL, "off", "--reason", "a storm"]);
    let now = status(&[]);
    now.is("owed", 1);
    now.says("switch", "owed", "a storm");
    must(node, &[FROSTCTL, "on"]);
    status(&[]).is("works", 0);

    an_option_of_the_file_that_is_not_loaded_is_owed(node);
    unprivileged_it_does_not_say_that_it_works(node);
    it_hangs_with_no_containerd(node);
    what_containerd_hands_on_counts(node);

    // A typo breaks nothing.
    sh(
        node,
        "cd /etc/frostlock && cp config.toml whole && sed 's#^runtime = .*#runtime = \"/x/runc\"#' \
         whole >config.toml && ln -sf $(sed 's/^runtime = //; s/\"//g' whole) /usr/sbin/runc",
    );
    let now = status(&[]);
    now.is("owed", 1);
    now.says("runtime", "owed", "fell back to /usr/sbin/runc");
    let another = node.client().run_pod_sandbox_by(NAME, &pod("typo")).unwrap();
    for sandbox in [&sandbox, &another] {
        node.client().stop_pod_sandbox(sandbox).unwrap();
        node.client().remove_pod_sandbox(sandbox).unwrap();
    }
    let journal = must(node, &["cat", "/run/frostlock/journal.jsonl"]);
    assert!(journal.contains("fell back to /usr/sbin/runc"), "{journal}");

    // No runtime at all does.
    sh(node, "for it in runc crun; do at=$(command -v $it) || continue; mv $at /away-$it; done");
    let now = status(&[]);
    now.is("broken", 2);
    now.says("runtime", "broken", "cannot find the runtime");
    sh(node, "mv /away-runc /usr/sbin/runc && mv /etc/frostlock/whole /etc/frostlock/config.toml");
    status(&[]).is("works", 0);
    sh(node, &format!("chmod a-x {FROSTLOCK}"));
    let now = status(&[]);
    now.is("broken", 2);
    now.says("installed", "broken", "is not executable");
    sh(node, &format!("rm {FROSTLOCK}"));
    let now = status(&[]);
    now.is("broken", 2);
    now.says("installed", "broken", "is not there");
    let error = node.client().run_pod_sandbox_by(NAME, &pod("none")).unwrap_err().to_string();
    assert!(error.contains(FROSTLOCK), "the control: {error}");
}

fn unprivileged_it_does_not_say_that_it_works(node: &Node) {
    let now = Status::of(node, &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    now.is("not_known", 1);
    for question in ["loaded", "switch", "state", "containers", "last record", "last 24 h"] {
        now.says(question, "not_checked", "not checked: ");
    }
    // Only root can read frostctl's records.
    now.says("configured", "not_checked", "frostlock");
}

fn an_option_of_the_file_that_is_not_loaded_is_owed(node: &Node) {
    let file = sh(node, "grep -rl /usr/local/bin/frostlock /etc/containerd");
    let file = file.trim();
    sh(node, &format!("cp {file} /whole && sed -i '/^ *SystemdCgroup/s/true/false/' {file}"));
    let now = Status::of(node, &[]);
    let what = "its runtime frostlock has SystemdCgroup = true, and the file not set";
    now.says("loaded", "owed", what);
    let doctor = sh(node, &format!("{FROSTCTL} doctor --check installation || true"));
    let what = "runtime frostlock has another SystemdCgroup in the file than containerd has loaded";
    assert!(doctor.contains(what), "{doctor}");
    sh(node, &format!("cat /whole >{file} && rm /whole"));
    Status::of(node, &[]).is("works", 0);
}

fn it_hangs_with_no_containerd(node: &Node) {
    let pid = must(node, &["systemctl", "show", "-p", "MainPID", "--value", "containerd"]);
    sh(node, &format!("kill -STOP {pid}"));
    let began = Instant::now();
    let now = Status::of(node, &[]);
    let took = began.elapsed();
    sh(node, &format!("kill -CONT {pid}"));
    assert!(took < LIMIT, "{took:?}");
    now.is("not_known", 1);
    now.says("loaded", "not_checked", "no answer");
}

/// Its wrappers inherit its environment, and so use another state.
fn what_containerd_hands_on_counts(node: &Node) {
    let drop_in = "/run/systemd/system/containerd.service.d";
    let unit = "[Service]\nEnvironment=FROSTLOCK_STATE_DIR=/run/elsewhere\n";
    sh(node, &format!("mkdir -p {drop_in} && printf '{unit}' >{drop_in}/state.conf"));
    must(node, &["systemctl", "daemon-reload"]);
    node.restart();
    node.client();
    let now = Status::of(node, &[]);
    now.says("switch", "not_checked", "FROSTLOCK_STATE_DIR=/run/elsewhere");
    let now = Status::of(node, &["env", "FROSTLOCK_STATE_DIR=/run/elsewhere"]);
    now.says("switch", "good", "on");
    let switches = "ls /run/frostlock/off /run/elsewhere/off 2>/dev/null || true";
    let said = must(node, &[FROSTCTL, "off"]);
    assert!(said.contains("and by /run/elsewhere/off"), "{said}");
    assert_eq!(sh(node, switches), "/run/elsewhere/off\n/run/frostlock/off\n");
    must(node, &[FROSTCTL, "on"]);
    assert_eq!(sh(node, switches), "");
    // If one is named, only that one is meant.
    let words = "FROSTLOCK_STATE_DIR=/run/frostlock";
    let output = node.script(&["exec", "env", words, FROSTCTL, "off"]);
    let said = super::text(&output.stderr);
    assert!(said.contains("its containers were not switched off"), "{said}");
    assert_eq!(sh(node, switches), "/run/frostlock/off\n");
    must(node, &["env", words, FROSTCTL, "on"]);
    sh(node, &format!("rm -r {drop_in}"));
    must(node, &["systemctl", "daemon-reload"]);
    node.restart();
    node.client();
    Status::of(node, &[]).is("works", 0);
}
