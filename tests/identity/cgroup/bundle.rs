use std::path::Path;

use cgroup::bundle::{Bundle, PodNames};
use cgroup::text::chain;

fn parse(json: &str) -> Bundle {
    Bundle::parse(json.as_bytes()).unwrap()
}

#[test]
fn containerd() {
    let b = parse(
        r#"{"ociVersion":"1.0.2","process":{"terminal":true,"args":["x"]},
        "annotations":{"io.kubernetes.cri.container-name":"web","io.kubernetes.cri.container-type":"container",
          "io.kubernetes.cri.sandbox-name":"web-0","io.kubernetes.cri.sandbox-namespace":"default",
          "io.kubernetes.cri.sandbox-uid":"1-2"},
        "linux":{"cgroupsPath":"kubepods-podX.slice:cri-containerd:ID",
          "resources":{"cpu":{"shares":2,"quota":1000,"period":100000},"devices":[{"allow":false}]}}}"#,
    );
    assert_eq!(b.cgroups_path.as_deref(), Some(Path::new("kubepods-podX.slice:cri-containerd:ID")));
    let name = |s: &str| Some(s.to_owned());
    let (namespace, uid) = (name("default"), name("1-2"));
    let names = PodNames { namespace, name: name("web-0"), uid, container: name("web") };
    assert_eq!(b.pod, names);
}

#[test]
fn crio() {
    let b = parse(
        r#"{"annotations":{"io.kubernetes.pod.namespace":"ns","io.kubernetes.pod.name":"p","io.kubernetes.pod.uid":"u",
        "io.kubernetes.container.name":"POD","io.kubernetes.cri-o.ContainerType":"sandbox"}}"#,
    );
    assert_eq!(b.pod.namespace.as_deref(), Some("ns"));
    assert_eq!(b.pod.container.as_deref(), Some("POD"));
}

#[test]
fn a_wrong_type_loses_only_itself() {
    let b = parse(
        r#"{"process":[],"annotations":{"io.kubernetes.pod.name":7,"io.kubernetes.pod.uid":"u"},"hooks":"?",
        "linux":{"cgroupsPath":"/a","resources":{"cpu":{"shares":"many","quota":-1,"period":"x"}}}}"#,
    );
    assert_eq!(b.cgroups_path.as_deref(), Some(Path::new("/a")));
    assert_eq!((b.pod.name, b.pod.uid.as_deref()), (None, Some("u")));
    let b = parse(r#"{"linux":{"cgroupsPath":"/a","resources":[]},"annotations":null}"#);
    assert_eq!(b.cgroups_path.as_deref(), Some(Path::new("/a")));
    assert_eq!(parse("{}"), Bundle::default());
    assert_eq!(parse(r#"{"linux":{"cgroupsPath":["/a"]}}"#).cgroups_path, None);
}

#[test]
fn odd_documents() {
    assert_eq!(
        parse(r#"{"linux":{"cgroupsPath":"/a","cgroupsPath":"/b"}}"#).cgroups_path.as_deref(),
        Some(Path::new("/b"))
    );
    assert_eq!(
        parse(r#"{"linux":{"cgroupsPath":"/a\u0000"}}"#).cgroups_path.as_deref(),
        Some(Path::new("/a\0"))
    );
    let raw = Bundle::parse(b"{\"linux\":{\"cgroupsPath\":\"/\xff\"},\"x\":\"\xfe\"}").unwrap();
    assert_eq!(raw.cgroups_path.as_deref(), Some(Path::new("/\u{fffd}")));
    for bad in ["", "[]", "null", "{", r#"{"linux":{"cgroupsPath":"/a"}"#] {
        assert!(Bundle::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    let deep = format!(
        "{{\"x\":{}{},\"linux\":{{\"cgroupsPath\":\"/a\"}}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert_eq!(parse(&deep).cgroups_path.as_deref(), Some(Path::new("/a")));
    let long = format!(r#"{{"annotations":{{"io.kubernetes.pod.name":"{}"}}}}"#, "n".repeat(600));
    assert_eq!(parse(&long).pod.name, None);
}

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let missing = chain(&Bundle::read(dir.path()).unwrap_err());
    assert!(missing.ends_with("config.json: No such file or directory (os error 2)"), "{missing}");
    let config = dir.path().join("config.json");
    std::fs::write(&config, r#"{"linux":{"cgroupsPath":"/a"}}"#).unwrap();
    let read = Bundle::read(dir.path()).unwrap();
    assert_eq!(read.cgroups_path.as_deref(), Some(Path::new("/a")));
    std::fs::remove_file(&config).unwrap();
    // Nobody writes to it: opening it without O_NONBLOCK would wait forever.
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(chain(&Bundle::read(dir.path()).unwrap_err()).contains("not a regular file"));
}
