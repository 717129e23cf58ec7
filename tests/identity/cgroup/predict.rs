use std::ffi::OsStr;
use std::path::Path;

use cgroup::RuntimeKind::{self, Crun, Runc, Youki};
use cgroup::predict::Plan;

use super::{HYBRID, UNIFIED, parse, procfs};

const OWN_V1: &str = "9:name=systemd:/s\n6:freezer:/own/fr\n4:memory:/own/mem\n0::/v2own\n";
const INIT_V1: &str = "9:name=systemd:/init.scope\n6:freezer:/\n";

struct Case {
    mounts: &'static str,
    own: &'static str,
    init: &'static str,
    rootless: Option<u32>,
}

const V1: Case = Case { mounts: HYBRID, own: OWN_V1, init: INIT_V1, rootless: None };
const V2: Case = Case {
    mounts: UNIFIED,
    own: "0::/system.slice/containerd.service\n",
    init: "0::/init.scope\n",
    rootless: None,
};

impl Case {
    fn predict(&self, kind: RuntimeKind, systemd: bool, path: &str) -> String {
        let (_dir, proc) = procfs(self.own, self.init);
        let cgroups_path = (path != "none").then_some(Path::new(path));
        let plan =
            Plan { kind, id: OsStr::new("id1"), systemd, cgroups_path, rootless: self.rootless };
        match plan.predict(&parse(self.mounts), &proc) {
            Ok(id) => id.to_string(),
            Err(why) => {
                assert!(why.to_string().starts_with("the runtime will refuse"), "{why}");
                "refused".into()
            }
        }
    }
}

#[test]
fn runc_cgroupfs() {
    for (path, v1, v2) in [
        ("/a/b/", "/a/b", "/a/b"),
        ("/../a", "/a", "/a"),
        ("rel/x", "/own/fr/rel/x", "/system.slice/rel/x"),
        ("../../rel", "/own/fr/rel", "/system.slice/rel"),
        ("none", "/own/fr/id1", "/system.slice/id1"),
        ("", "/own/fr/id1", "/system.slice/id1"),
    ] {
        assert_eq!(V1.predict(Runc, false, path), v1, "{path}");
        assert_eq!(V2.predict(Runc, false, path), v2, "{path}");
    }
}

/// Below the caller's own cgroup in each hierarchy; the v2 tree of a hybrid host has it at the top.
#[test]
fn runc_cgroupfs_in_each_hierarchy() {
    let (_dir, proc) = procfs(OWN_V1, INIT_V1);
    let mounts = parse(HYBRID);
    let dirs = |systemd, path: Option<&str>| {
        let cgroups_path = path.map(Path::new);
        let id = OsStr::new("id1");
        let plan = Plan { kind: Runc, id, systemd, cgroups_path, rootless: None };
        let places = plan.places(&mounts, &proc).unwrap();
        assert_eq!(places.named(), &plan.predict(&mounts, &proc).unwrap());
        let dirs = mounts.dirs_at(&places).into_iter();
        let dirs = dirs.map(|dir| dir.to_str().unwrap().replace("/sys/fs/cgroup/", ""));
        dirs.collect::<Vec<String>>()
    };
    let below = ["freezer/own/fr", "memory/own/mem", "systemd/s", "unified"];
    assert_eq!(dirs(false, None), below.map(|dir| format!("{dir}/id1")));
    assert_eq!(dirs(false, Some("../x")), below.map(|dir| format!("{dir}/x")));
    let all = ["cpu", "devices", "freezer", "memory", "systemd", "unified"];
    assert_eq!(dirs(false, Some("/x")), all.map(|dir| format!("{dir}/x")));
    assert_eq!(dirs(true, Some("a.slice:p:n")), all.map(|dir| format!("{dir}/a.slice/p-n.scope")));
}

#[test]
fn runc_systemd() {
    for (path, wanted) in [
        (
            "kubepods-burstable-podX.slice:cri-containerd:ID",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice/cri-containerd-ID.scope",
        ),
        ("-.slice:p:n", "/p-n.scope"),
        (":p:n", "/system.slice/p-n.scope"),
        ("none", "/system.slice/runc-id1.scope"),
        ("a.slice:p:b.slice", "/a.slice/b.slice"),
        ("a:b", "refused"),
        ("/abs", "refused"),
        ("a--b.slice:p:n", "refused"),
        (".slice:p:n", "refused"),
        ("x:p:n", "refused"),
        ("a:b:c:d", "refused"),
    ] {
        assert_eq!(V1.predict(Runc, true, path), wanted, "{path}");
        assert_eq!(V2.predict(Runc, true, path), wanted, "{path}");
    }
}

#[test]
fn systemd_below_another_cgroup() {
    let v1 = Case { init: "9:name=systemd:/docker/x/init.scope\n", ..V1 };
    assert_eq!(v1.predict(Runc, true, "a.slice:p:n"), "/docker/x/a.slice/p-n.scope");
    let rootless = Case {
        own: "0::/user.slice/user-7.slice/user@7.service/app.slice/x.scope\n",
        rootless: Some(7),
        ..V2
    };
    let manager = "/user.slice/user-7.slice/user@7.service";
    assert_eq!(
        rootless.predict(Runc, true, "none"),
        format!("{manager}/user.slice/runc-id1.scope")
    );
    let elsewhere = Case { rootless: Some(7), ..V2 };
    assert_eq!(
        elsewhere.predict(Runc, true, "a.slice:p:n"),
        format!("{manager}/a.slice/p-n.scope")
    );
}

#[test]
fn crun() {
    for (path, fs, systemd) in [
        ("/a/b", "/a/b", "refused"),
        ("rel/x", "/rel/x", "refused"),
        ("none", "/id1", "/system.slice/crun-id1.scope"),
        ("", "/", "/system.slice/crun-id1.scope"),
        ("a-b.slice:p:n", "/a-b.slice:p:n", "/a.slice/a-b.slice/p-n.scope"),
        ("a.slice:p:b.slice", "/a.slice:p:b.slice", "/a.slice/p-b.slice.scope"),
        ("a.slice:n", "/a.slice:n", "/a.slice/n.scope"),
    ] {
        for case in [&V1, &V2] {
            assert_eq!(case.predict(Crun, false, path), fs, "{path}");
            assert_eq!(case.predict(Crun, true, path), systemd, "{path}");
        }
    }
}

#[test]
fn youki() {
    for (path, fs, systemd) in [
        ("/a/b", "/a/b", "/a/b"),
        ("rel/x", "/rel/x", "refused"),
        ("none", "/:youki:id1", "/system.slice/youki-id1.scope"),
        (
            "a-b.slice:p:n/sub/init",
            "/a-b.slice:p:n/sub/init",
            "/a.slice/a-b.slice/p-n.scope/sub/init",
        ),
        ("p:n", "/p:n", "/system.slice/p-n.scope"),
    ] {
        assert_eq!(V2.predict(Youki, false, path), fs, "{path}");
        assert_eq!(V2.predict(Youki, true, path), systemd, "{path}");
        assert_eq!(V1.predict(Youki, true, path), fs, "v1 has no systemd driver: {path}");
    }
}

#[test]
fn a_mount_that_shows_a_part_of_the_tree() {
    let part = "1 0 0:1 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
    let case = Case { mounts: part, own: "0::/docker/x\n", ..V2 };
    assert_eq!(case.predict(Runc, false, "/a"), "/docker/x/a");
    assert_eq!(case.predict(Runc, true, "a.slice:p:n"), "/docker/x/a.slice/p-n.scope");
}

#[test]
fn an_unreadable_proc_is_a_reason() {
    let plan = Plan {
        kind: Runc,
        id: OsStr::new("x"),
        systemd: false,
        cgroups_path: None,
        rootless: None,
    };
    let nowhere = cgroup::Proc::at("/nonexistent");
    assert!(plan.predict(&parse(UNIFIED), &nowhere).is_err());
    // A v1 systemd path does not need it: a missing line means the root.
    let plan = Plan { systemd: true, ..plan };
    assert_eq!(
        plan.predict(&parse(HYBRID), &nowhere).unwrap().to_string(),
        "/system.slice/runc-x.scope"
    );
}
