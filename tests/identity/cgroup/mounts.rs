use std::path::{Path, PathBuf};

use cgroup::{Identity, Membership};

use super::{HYBRID, UNIFIED, id, parse};

#[test]
fn hybrid_is_v1_to_the_runtimes() {
    let h = parse(HYBRID);
    assert!(!h.unified());
    assert_eq!(h.v1.len(), 5);
    assert_eq!(h.v1("name=systemd").unwrap().mountpoint, Path::new("/sys/fs/cgroup/systemd"));
    assert_eq!(h.v2.as_ref().unwrap().mountpoint, Path::new("/sys/fs/cgroup/unified"));
    let dir = h.v1_dir("freezer", &id("/a/b")).unwrap();
    assert_eq!(dir, Path::new("/sys/fs/cgroup/freezer/a/b"));
    assert_eq!(h.identify("freezer", &dir), Some(id("/a/b")));
    assert_eq!(h.identify("", Path::new("/sys/fs/cgroup/unified/a")), Some(id("/a")));
    assert_eq!(h.dirs(&id("/a")).len(), 6);
}

#[test]
fn comounted_controllers_are_one_hierarchy() {
    let h = parse(
        "1 0 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,xattr,cpu,cpuacct,release_agent=/x\n",
    );
    assert_eq!(h.v1[0].controllers, ["cpu", "cpuacct"]);
    assert_eq!(h.v1("cpuacct"), h.v1("cpu"));
    assert!(h.v1("cp").is_none());
    assert_eq!(h.dirs(&id("/x")).len(), 1);
}

#[test]
fn a_v2_mount_over_the_v1_mounts_hides_them() {
    let over = format!("{HYBRID}90 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 none rw\n");
    assert!(parse(&over).v1.is_empty() && parse(&over).unified());
    // The order of lines is not the order of mounting.
    let mut lines: Vec<&str> = over.lines().collect();
    lines.reverse();
    assert!(parse(&lines.join("\n")).v1.is_empty() && parse(&lines.join("\n")).unified());
}

#[test]
fn several_mounts_of_one_hierarchy() {
    let more = format!("50 22 0:34 /kubepods /srv/part rw - cgroup cgroup rw,freezer\n{HYBRID}");
    let h = parse(&more);
    assert_eq!(h.v1("freezer").unwrap().mountpoint, Path::new("/sys/fs/cgroup/freezer"));
    // A path below either mount is the same cgroup.
    assert_eq!(h.identify("freezer", Path::new("/srv/part/podx")), Some(id("/kubepods/podx")));
}

#[test]
fn a_mount_that_shows_a_part_of_the_tree() {
    let h = parse("1 0 0:1 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup rw\n");
    assert_eq!(h.v2_dir(&id("/docker/x/c")), Some(PathBuf::from("/sys/fs/cgroup/c")));
    assert_eq!(h.v2_dir(&id("/elsewhere")), None);
    assert_eq!(h.identify("", Path::new("/sys/fs/cgroup/c")), Some(id("/docker/x/c")));
}

#[test]
fn odd_lines() {
    let h = parse(
        "garbage\n\n36 35\n7 1 0:1 / /mnt/a\\040b\\011\\134 rw shared:1 master:2 propagate_from:3 unbindable - cgroup2 cgroup2 rw\n40 31 0:3",
    );
    assert_eq!(h.v2.as_ref().unwrap().mountpoint, Path::new("/mnt/a b\t\\"));
    assert!(h.unified(), "v2 in an unusual place and no v1: nothing else it could be");
    // A disk with a cgroup-like source, and one with a cgroup-like mountpoint.
    assert!(
        parse("9 1 0:1 / /x rw - ext4 cgroup rw\n9 1 0:1 / /-/cgroup rw - ext4 - rw").v2.is_none()
    );
    assert!(parse(UNIFIED).unified() && parse(UNIFIED).v1.is_empty());
}

#[test]
fn membership_lines() {
    let m = Membership::parse(
        b"12:cpu,cpuacct:/a:b\n1:name=systemd:/s\nx\n:\n0::/v2 (deleted)\n3:torn",
    );
    assert_eq!(m.path("cpuacct"), Some(Path::new("/a:b")));
    assert_eq!(m.path("name=systemd"), Some(Path::new("/s")));
    assert_eq!(m.path(""), Some(Path::new("/v2")));
    assert_eq!(m.path("freezer"), None);
    assert_eq!(m.identity(&parse(HYBRID)), Some(id("/a:b")));
    // A v2 system also has v1 lines, if anything has ever used them.
    assert_eq!(m.identity(&parse(UNIFIED)), Some(id("/v2")));
    assert_eq!(Membership::parse(b"0::/../../x\n").identity(&parse(UNIFIED)), None);
    assert_eq!(Membership::parse(b"0::/\n").identity(&parse(UNIFIED)), Some(id("/")));
}

#[test]
fn identities_are_canonical_and_printable() {
    assert_eq!(id("a//b/./c/../d/"), id("/a/b/d"));
    assert_eq!(id("/../../x"), id("/x"));
    assert_eq!(id(""), id("/"));
    assert!(Identity::new("/a\0b").is_none());
    assert!(Identity::new("a".repeat(5000)).is_none());
    let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(
        b"/a\n\x1b[0m\xff\\/\xc3\xa4",
    );
    assert_eq!(Identity::new(odd).unwrap().to_string(), "/a\\n\\u{1b}[0m\\xff\\\\/ä");
}

#[test]
fn pods() {
    let pod = |path: &str| id(path).pod().map(|p| p.to_string());
    let slice = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a_2b.slice";
    assert_eq!(pod(&format!("{slice}/cri-containerd-x.scope")).as_deref(), Some(slice));
    assert_eq!(pod(&format!("{slice}/crio-x.scope/container")).as_deref(), Some(slice));
    assert_eq!(pod("/kubepods/pod1-2/x").as_deref(), Some("/kubepods/pod1-2"));
    assert_eq!(
        pod("/kubelet/kubepods/besteffort/podU/x").as_deref(),
        Some("/kubelet/kubepods/besteffort/podU")
    );
    let escaped = r"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a\x2d2b.slice";
    let found = id(&format!("{escaped}/x.scope")).pod();
    assert_eq!(found.map(|pod| pod.as_path().to_owned()), Some(escaped.into()));
    let kind = "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU.slice";
    assert_eq!(pod(&format!("{kind}/x.scope")).as_deref(), Some(kind));
    let podman = "/machine.slice/machine-libpod_pod_ab.slice";
    assert_eq!(pod(&format!("{podman}/libpod-x.scope/container")).as_deref(), Some(podman));
    assert_eq!(pod("/libpod_parent/ab/libpod-x").as_deref(), Some("/libpod_parent/ab"));
    for none in [
        "/kubepods/burstable/x",
        "/kubepods.slice/kubepods-burstable.slice/x.scope",
        "/kubepods/pod/x",
        "/podx/y",
        "/kubepods/podU",
        "/system.slice/docker-x.scope",
        "/machine.slice/libpod-x.scope",
        "/libpod_parent/libpod-x/container",
        "/user.slice/user-1.slice/x",
        "/",
    ] {
        assert_eq!(pod(none), None, "{none}");
    }
}
