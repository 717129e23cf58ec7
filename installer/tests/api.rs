//! Turns, labels and waits against an API server of the test's own (api_server.py).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::{Value, json};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/system/leases/l";
const DAEMONSET: &str = "/apis/apps/v1/namespaces/system/daemonsets/d";
const TOKEN: &str = "a.token";

struct Server {
    child: Child,
    /// Each change, in order.
    changes: BufReader<ChildStdout>,
    port: String,
    dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn object(name: &str) -> Value {
    json!({ "metadata": { "name": name, "resourceVersion": "1", "generation": 1 } })
}

/// A certificate of its own authority, for an address as the API server's is one.
fn certificates(dir: &Path) {
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
         -keyout ca.key -out ca.crt -subj /CN=ca \
     && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out csr -subj /CN=api \
     && printf 'subjectAltName=IP:127.0.0.1' >ext \
     && openssl x509 -req -in csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out crt";
    let made = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::write(dir.join("token"), TOKEN).unwrap();
}

impl Server {
    fn with(objects: &Value) -> Server {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api_server.py");
        let mut child = Command::new("python3")
            .arg(script)
            .args([dir.path().join("crt"), dir.path().join("key"), PathBuf::from(TOKEN)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(child.stdin.take().unwrap(), "{objects}").unwrap();
        let mut changes = BufReader::new(child.stdout.take().unwrap());
        let mut port = String::new();
        changes.read_line(&mut port).unwrap();
        Server { child, changes, port: port.trim().to_owned(), dir }
    }

    fn command(&self, node: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_frostlock-installer"));
        command
            .args(args)
            .arg("--account")
            .arg(self.dir.path())
            .env("NODE_NAME", node)
            .env("POD_NAMESPACE", "system")
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", &self.port)
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, node: &str, args: &[&str]) -> Output {
        self.command(node, args).output().unwrap()
    }

    fn change(&mut self) -> (String, Value) {
        let mut line = String::new();
        self.changes.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn cluster() -> Value {
    let mut objects = json!({ LEASE: object("l") });
    for node in ["a", "b", "c"] {
        objects[format!("/api/v1/nodes/{node}")] = object(node);
    }
    objects
}

fn holder(lease: &Value) -> Option<&str> {
    lease["spec"]["holderIdentity"].as_str()
}

#[test]
fn one_node_at_a_time() {
    let mut server = Server::with(&cluster());
    let take = ["take-turn", "--lease", "l", "--wait", "1s"];
    // All at once, as after the first `helm install`: one gets it, and all others say who.
    let started: Vec<_> =
        ["a", "b", "c"].map(|node| (node, server.command(node, &take).spawn().unwrap())).into();
    let ended: Vec<_> =
        started.into_iter().map(|(node, it)| (node, it.wait_with_output().unwrap())).collect();
    let (taken, refused): (Vec<_>, Vec<_>) =
        ended.into_iter().partition(|(_, output)| output.status.success());
    let [(first, _)] = taken[..] else { panic!("{taken:?}") };
    for (_, output) in &refused {
        assert_eq!(output.status.code(), Some(1));
        assert!(said(output).contains(&format!("which node {first} holds")), "{}", said(output));
    }
    let (_, lease) = server.change();
    assert_eq!(holder(&lease), Some(first));

    let second = refused[0].0;
    // Again after a restart of its pod; another cannot give it back; then the next one.
    assert!(server.run(first, &take).status.success());
    assert!(server.run(second, &["give-turn", "--lease", "l"]).status.success());
    assert!(!server.run(second, &take).status.success());
    assert!(server.run(first, &["give-turn", "--lease", "l"]).status.success());
    assert_eq!(holder(&server.change().1), None);
    assert!(server.run(second, &take).status.success());
    assert_eq!(holder(&server.change().1), Some(second));
}

#[test]
fn a_node_that_has_left_the_cluster_holds_nobody_up() {
    let mut objects = cluster();
    objects[LEASE]["spec"] = json!({ "holderIdentity": "gone" });
    let mut server = Server::with(&objects);
    let taken = server.run("a", &["take-turn", "--lease", "l"]);
    assert!(taken.status.success(), "{}", said(&taken));
    assert_eq!(holder(&server.change().1), Some("a"));
}

#[test]
fn the_label_comes_and_goes() {
    let mut server = Server::with(&cluster());
    let labelled = server.run("b", &["label", "frostlock.io/ready"]);
    assert!(labelled.status.success(), "{}", said(&labelled));
    let (path, node) = server.change();
    assert_eq!(path, "/api/v1/nodes/b");
    assert_eq!(node["metadata"]["labels"], json!({ "frostlock.io/ready": "true" }));
    assert!(server.run("b", &["unlabel", "frostlock.io/ready"]).status.success());
    assert_eq!(server.change().1["metadata"]["labels"], json!({}));
    let nobody = server.run("z", &["label", "frostlock.io/ready"]);
    assert!(!nobody.status.success() && said(&nobody).contains("no node z"), "{}", said(&nobody));
}

#[test]
fn who_cannot_be_trusted_is_told_nothing() {
    let server = Server::with(&cluster());
    std::fs::write(server.dir.path().join("token"), "another").unwrap();
    let refused = server.run("a", &["label", "l"]);
    assert!(said(&refused).contains("401") && said(&refused).contains("Unauthorized"));
    // The server's own certificate is none that this authority has signed.
    std::fs::copy(server.dir.path().join("ca.crt"), server.dir.path().join("real")).unwrap();
    certificates(server.dir.path());
    let stranger = server.run("a", &["label", "l"]);
    assert!(
        !stranger.status.success() && said(&stranger).contains("ertificate"),
        "{}",
        said(&stranger)
    );
    std::fs::write(server.dir.path().join("ca.crt"), "").unwrap();
    let none = server.run("a", &["label", "l"]);
    assert!(said(&none).contains("has no certificate"), "{}", said(&none));
}

#[test]
fn nothing_is_put_back_while_it_is_taken_off() {
    let mut objects = cluster();
    objects[DAEMONSET] = object("d");
    let mut server = Server::with(&objects);
    let take = |daemonset| ["take-turn", "--lease", "l", "--unless-daemonset", daemonset];
    let refused = server.run("a", &take("d"));
    assert!(!refused.status.success() && said(&refused).contains("helm uninstall"));
    assert!(server.run("a", &take("none")).status.success());
    assert_eq!(holder(&server.change().1), Some("a"));
}

/// The DaemonSet appears after the first look. The control is an installer that does not look for it.
#[test]
fn nothing_is_put_back_by_an_installer_that_waited_when_the_removal_began() {
    let take = ["take-turn", "--lease", "l", "--wait", "1s", "--unless-daemonset", "d"];
    let mut objects = cluster();
    objects[DAEMONSET] = object("d");
    objects[DAEMONSET]["hiddenFor"] = json!(1);

    // Between its look and its turn.
    let mut server = Server::with(&objects);
    let refused = server.run("a", &take);
    assert!(!refused.status.success() && said(&refused).contains("helm uninstall"));
    assert_eq!(holder(&server.change().1), Some("a"));
    assert_eq!(holder(&server.change().1), None, "given back to the removal");

    // While another node has its turn.
    objects[LEASE]["spec"] = json!({ "holderIdentity": "b" });
    let server = Server::with(&objects);
    let refused = server.run("a", &take);
    assert!(said(&refused).contains("helm uninstall"), "{}", said(&refused));
    let waited = server.run("a", &take[..5]);
    assert!(said(&waited).contains("which node b holds"), "the control: {}", said(&waited));

    // Its own node has its turn, which the removal may have taken.
    objects[LEASE]["spec"] = json!({ "holderIdentity": "a" });
    objects[DAEMONSET]["hiddenFor"] = json!(0);
    let server = Server::with(&objects);
    let refused = server.run("a", &take);
    assert!(said(&refused).contains("helm uninstall"), "{}", said(&refused));
    let held = server.run("b", &take[..5]);
    assert!(said(&held).contains("which node a holds"), "it was given back: {}", said(&held));
}

#[test]
fn uninstall_waits_for_every_node_and_says_how_many_are_left() {
    let mut objects = cluster();
    objects[DAEMONSET] = object("d");
    objects[DAEMONSET]["status"] =
        json!({ "observedGeneration": 1, "desiredNumberScheduled": 2, "numberReady": 1 });
    let server = Server::with(&objects);
    let waited = server.run("a", &["await-daemonset", "d", "--wait", "1s"]);
    assert_eq!(waited.status.code(), Some(1));
    assert!(said(&waited).contains("1 of 2 nodes are done"), "{}", said(&waited));

    objects[DAEMONSET]["status"]["numberReady"] = json!(2);
    let mut server = Server::with(&objects);
    let done = server.run("a", &["await-daemonset", "d"]);
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(server.change(), (DAEMONSET.to_owned(), Value::Null));
}
