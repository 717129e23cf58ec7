use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use cgroup::RuntimeKind::{self, Crun, Runc, Youki};
use cgroup::state_file::{RuntimeState, Surroundings, locate, read};
use cgroup::text::chain;
use cgroup::{Places, Proc, Reader, Unknown};

use super::{HYBRID, UNIFIED, id, parse, procfs};

fn read_one(
    kind: RuntimeKind,
    files: &[(&str, &str)],
    mounts: &str,
) -> Result<RuntimeState, Unknown> {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("c")).unwrap();
    for (name, text) in files {
        fs::write(root.path().join("c").join(name), text).unwrap();
    }
    let roots = [PathBuf::from("/nonexistent"), root.path().into()];
    let (_dir, proc) = procfs("0::/x\n", "0::/init.scope\n");
    read(&roots, kind, OsStr::new("c"), &parse(mounts), &proc)
}

#[test]
fn runc_on_a_hybrid_host() {
    let text = include_str!("../fixtures/state/runc-1.1.5-hybrid.json");
    let state = read_one(Runc, &[("state.json", text)], HYBRID).unwrap();
    assert_eq!(state.places, Some(Places::of(id("/frostlock-test-cg/x"))), "the same in all");
    assert!(state.init_pid.is_some() && state.init_start.is_some());
    assert_eq!(state.bundle.as_deref(), Some(Path::new("/bundles/b")));
}

#[test]
fn runc_on_v2_and_with_diverging_v1_paths() {
    let v2 =
        r#"{"cgroup_paths":{"":"/sys/fs/cgroup/kubepods.slice/c.scope"},"init_process_pid":7}"#;
    let state = read_one(Runc, &[("state.json", v2)], UNIFIED).unwrap();
    assert_eq!(state.identity(), Some(&id("/kubepods.slice/c.scope")));
    assert_eq!((state.init_pid, state.init_start), (Some(7), None));
    let v1 = r#"{"cgroup_paths":{"memory":"/sys/fs/cgroup/memory/own/c",
        "freezer":"/sys/fs/cgroup/freezer/c","":"/sys/fs/cgroup/unified/u"}}"#;
    let state = read_one(Runc, &[("state.json", v1)], HYBRID).unwrap();
    assert_eq!(state.identity(), Some(&id("/c")));
    let mounts = parse(HYBRID);
    let places = state.places.unwrap();
    let wanted = ["freezer/c", "memory/own/c", "unified/u"].map(in_hierarchy);
    assert_eq!(mounts.dirs_at(&places), wanted, "where nothing is listed there may be a stranger");
    let reader = Reader::at(&mounts, &places);
    assert_eq!(reader.freezer_dir().map(|(_, dir)| dir), Some(wanted[0].as_path()));
    assert_eq!(reader.cpu_dir(), None);
}

fn in_hierarchy(path: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(path)
}

#[test]
fn crun_status() {
    let fs =
        r#"{"pid":12,"process-start-time":80669,"cgroup-path":"/a/b","scope":"","bundle":"/b"}"#;
    let state = read_one(Crun, &[("status", fs)], UNIFIED).unwrap();
    assert_eq!((state.identity(), &state.leaf), (Some(&id("/a/b")), &None));
    assert_eq!((state.init_pid, state.init_start), (Some(12), Some(80669)));
    assert_eq!(state.bundle.as_deref(), Some(Path::new("/b")));
    let systemd =
        r#"{"pid":1,"cgroup-path":"/m.slice/libpod-x.scope/container","scope":"libpod-x.scope"}"#;
    let state = read_one(Crun, &[("status", systemd)], UNIFIED).unwrap();
    assert_eq!(state.identity(), Some(&id("/m.slice/libpod-x.scope")));
    assert_eq!(state.leaf, Some(id("/m.slice/libpod-x.scope/container")));
    let none = read_one(Crun, &[("status", r#"{"pid":1,"cgroup-path":""}"#)], UNIFIED).unwrap();
    assert_eq!(none.identity(), None);
}

#[test]
fn youki_works_it_out_again() {
    let state = r#"{"pid":5,"bundle":"/b","useSystemd":true}"#;
    let plain = r#"{"hooks":null,"cgroup_path":"a.slice:p:n"}"#;
    let got = read_one(Youki, &[("state.json", state), ("youki_config.json", plain)], UNIFIED);
    assert_eq!(got.unwrap().identity(), Some(&id("/a.slice/p-n.scope")));
    let nested = r#"{"cgroup_config":{"cgroup_path":"a:b","systemd_cgroup":false}}"#;
    let got = read_one(Youki, &[("state.json", state), ("youki_config.json", nested)], UNIFIED);
    assert_eq!(got.unwrap().identity(), Some(&id("/a:b")));
    let got = read_one(Youki, &[("state.json", state)], UNIFIED).unwrap();
    assert_eq!((got.identity(), got.init_pid), (None, Some(5)));
}

#[test]
fn wrong_types_lose_only_themselves() {
    let odd = r#"{"cgroup_paths":{"freezer":7,"devices":"/sys/fs/cgroup/devices/d","cpu":"rel"},
        "init_process_pid":"x","init_process_start":-1,"config":{"labels":"bundle=/b"}}"#;
    let state = read_one(Runc, &[("state.json", odd)], HYBRID).unwrap();
    assert_eq!(
        state,
        RuntimeState { places: Some(Places::of(id("/d"))), ..RuntimeState::default() }
    );
    let elsewhere = r#"{"cgroup_paths":{"freezer":"/elsewhere/x"}}"#;
    assert_eq!(read_one(Runc, &[("state.json", elsewhere)], HYBRID).unwrap().identity(), None);
}

#[test]
fn no_cgroup_is_told_from_one_that_is_not_known() {
    let has_none = |kind, file, text, mountinfo| {
        let state = read_one(kind, &[(file, text)], mountinfo).unwrap();
        assert_eq!(state.places, None, "{text}");
        state.has_no_cgroup
    };
    assert!(has_none(Crun, "status", r#"{"cgroup-path":""}"#, UNIFIED));
    assert!(!has_none(Crun, "status", r#"{"pid":7}"#, UNIFIED));
    let none = r#"{"cgroup_paths":{}}"#;
    assert!(has_none(Runc, "state.json", none, HYBRID));
    assert!(!has_none(Runc, "state.json", none, UNIFIED), "runc works it out anew");
    let elsewhere = r#"{"cgroup_paths":{"freezer":"/elsewhere/x"}}"#;
    assert!(!has_none(Runc, "state.json", elsewhere, HYBRID));
}

#[test]
fn torn_missing_and_huge_files_are_a_reason() {
    let torn = read_one(Runc, &[("state.json", "{\"cgroup_paths\":{\"")], HYBRID).unwrap_err();
    assert!(torn.to_string().starts_with("cannot read "), "{torn}");
    let missing = read_one(Crun, &[("state.json", "{}")], HYBRID).unwrap_err();
    assert!(chain(&missing).contains("status: No such file"), "{missing}");
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("c")).unwrap();
    fs::File::create(root.path().join("c/state.json")).unwrap().set_len(17 << 20).unwrap();
    let huge = read(&[root.path().into()], Runc, OsStr::new("c"), &parse(HYBRID), &Proc::default());
    assert!(chain(&huge.unwrap_err()).contains("larger than"));
}

#[test]
fn an_id_never_leaves_the_root() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("inner")).unwrap();
    fs::write(root.path().join("state.json"), "{}").unwrap();
    for odd in ["", ".", "..", "../inner", "a/b", "/etc", "a\0"] {
        let roots = [root.path().join("inner")];
        let got = read(&roots, Runc, OsStr::new(odd), &parse(HYBRID), &Proc::default());
        assert_eq!(got.unwrap_err().to_string(), "not a container id", "{odd:?}");
    }
}

#[test]
fn default_roots() {
    let root =
        Surroundings { xdg_runtime_dir: Some("/run/user/0".into()), ..Surroundings::default() };
    let one = |kind, env: &Surroundings| locate(None, kind, env)[0].display().to_string();
    assert_eq!(locate(Some(Path::new("/r")), Runc, &root), [PathBuf::from("/r")]);
    assert_eq!(one(Runc, &root), "/run/runc");
    assert_eq!(one(Crun, &root), "/run/user/0/crun");
    assert_eq!(one(Youki, &root), "/run/youki");
    let user = Surroundings { euid: 7, home: Some("/home/u".into()), ..root.clone() };
    assert_eq!(one(Runc, &user), "/run/user/0/runc");
    assert_eq!(locate(None, Youki, &user).len(), 4);
    let empty = Surroundings { xdg_runtime_dir: Some(OsString::new()), ..user };
    assert_eq!(one(Runc, &empty), "/run/runc");
    assert_eq!(one(Crun, &empty), "/run/crun");
    assert_eq!(one(Youki, &empty), "/run/user/7/youki");
    let nested = Surroundings { user_namespace: true, user: Some("root".into()), ..root };
    assert_eq!(one(Runc, &nested), "/run/runc");
    assert_eq!(one(Runc, &Surroundings { user: None, ..nested }), "/run/user/0/runc");
}
