//! `frostctl paths` for containers of real runtimes, compared with /proc/PID/cgroup.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testkit::live::{Container, Ended, Scratch, bundle};
use testkit::{frostctl, frostlock, repository, runtime};

const UID: &str = "8b9b5a3e-2a53-4a6e-9f0e-3a2b7f1c5d11";

fn names() -> Value {
    json!({
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.sandbox-uid": UID,
        "io.kubernetes.cri.container-name": "nginx",
    })
}

fn paths(scratch: &Scratch, query: &str) -> Ended {
    let root = scratch.dir.path().join("root");
    scratch.frostctl(&["paths", "--json", "--runtime-root", root.to_str().unwrap(), query])
}

/// A hierarchy's line in /proc/PID/cgroup.
fn membership(pid: i64, controller: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let line = text.lines().find(|line| line.split(':').nth(1) == Some(controller)).unwrap();
    line.splitn(3, ':').nth(2).unwrap().to_owned()
}

#[test]
fn a_container_and_its_pod_under_v1() {
    for program in [runtime("runc-1.1.15").path, frostlock()] {
        let scratch = Scratch::new();
        let below = format!("/kubepods/burstable/pod{UID}/ctr");
        let bundle = bundle(&scratch, "bundle", &below, names());
        let id = "4f2c9be01d7a";
        let container =
            Container::run(&program, &runtime("runc-1.1.15").path, &scratch, id, &bundle);

        let ended = paths(&scratch, "4f2c");
        let it = &ended.json()[0];
        assert_eq!((it["kind"].as_str(), it["id"].as_str()), (Some("container"), Some(id)), "{it}");
        let pid = it["pid"].as_i64().expect("it runs");
        for controller in ["cpu", "memory", "freezer", "devices", "pids", "name=systemd"] {
            let place = controller.strip_prefix("name=").unwrap_or(controller);
            let expected = format!("/sys/fs/cgroup/{place}{}", membership(pid, controller));
            assert_eq!(it["paths"][controller], expected.as_str(), "{it}");
            assert!(Path::new(&expected).is_dir());
        }
        for query in ["shop/web-0", UID, &format!("pod{}", UID.replace('-', "_"))] {
            let ended = paths(&scratch, query);
            let all = ended.json();
            // The pods of parallel tests have the same uid.
            let is_ours = |it: &&Value| it["cgroup"].as_str().unwrap().starts_with(&scratch.cgroup);
            let all: Vec<&Value> = all.as_array().unwrap().iter().filter(is_ours).collect();
            let kinds: Vec<_> = all.iter().map(|it| it["kind"].clone()).collect();
            assert_eq!(kinds, ["pod", "container"], "{query}: {all:?}");
            let pod = format!("/sys/fs/cgroup/cpu{}/kubepods/burstable/pod{UID}", scratch.cgroup);
            assert_eq!(all[0]["paths"]["cpu"], pod.as_str());
        }
        let nobody = paths(&scratch, "no-such-container");
        assert_eq!(nobody.code, Some(3));
        assert!(nobody.stderr.contains("no container or pod `no-such-container`"), "{nobody:?}");
        drop(container);
    }
}

#[test]
fn the_beginning_of_two_ids_names_neither() {
    let scratch = Scratch::new();
    let runc = runtime("runc-1.5.3").path;
    let make = |id: &str| {
        let bundle = bundle(&scratch, id, &format!("/{id}"), json!({}));
        Container::run(&runc, &runc, &scratch, id, &bundle)
    };
    let both = (make("beef01"), make("beef02"));
    let ended = paths(&scratch, "beef0");
    assert_eq!(ended.code, Some(3));
    assert!(ended.stderr.contains("beef01, beef02"), "{ended:?}");
    assert_eq!(paths(&scratch, "beef01").code, Some(0));
    drop(both);
}

#[test]
fn a_container_of_crun_under_v2() {
    let scratch = Scratch::new();
    let bundle = bundle(&scratch, "bundle", &format!("/kubepods/pod{UID}/ctr"), names());
    let script = "trap '\"$crun\" --root \"$root\" delete --force cafe01' EXIT
        \"$crun\" --root \"$root\" run --detach --bundle \"$bundle\" cafe01 >\"$root.out\" 2>&1 </dev/null
        \"$0\" paths --json --runtime-root \"$root\" shop/web-0";
    let mut command = Command::new(repository().join("scripts/v2ns"));
    command.args(["sh", "-euc", script, frostctl()]);
    command.env("crun", runtime("crun-1.21").path).env("bundle", &bundle);
    command
        .env("root", scratch.dir.path().join("root"))
        .env("FROSTLOCK_STATE_DIR", scratch.state());
    let ended = Ended::of(&mut command);
    let all = ended.json();
    let dir = format!("/sys/fs/cgroup{}/kubepods/pod{UID}", scratch.cgroup);
    assert_eq!(all[0]["kind"], "pod", "{all}");
    assert_eq!(all[0]["paths"]["unified"], dir.as_str());
    let container = format!("{dir}/ctr");
    assert_eq!(all[1]["paths"]["freezer"], container.as_str(), "{all}");
    assert_eq!(all[1]["id"], "cafe01");
}
