//! What a node can write to on the host, as scripts/node promises: what `--share` names, and
//! nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{frostlock, install, run, succeed, text};

use crate::Node;

/// A directory of the host with a binary and a file, which a node must not reach.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = tempfile::Builder::new().prefix("frostlock-shares-").tempdir_in("/dev/shm");
        let place = Place(place.unwrap());
        install(frostlock(), place.binary());
        for dir in ["shown", "shared"] {
            fs::create_dir(place.at(dir)).unwrap();
            fs::write(place.at(dir).join("file"), "").unwrap();
        }
        fs::write(place.at("beside"), "").unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn binary(&self) -> PathBuf {
        self.at("frostlock")
    }
}

#[test]
fn a_node_can_write_to_what_it_shares_alone() {
    let place = Place::new();
    let node = Node::up_with(|up| {
        up.env("FROSTLOCK_BIN", place.binary()).arg("--wrapped");
        up.arg("--show").arg(place.at("shown")).arg("--share").arg(place.at("shared"));
    });
    let inside = |script: &str, path: &Path| {
        let mut command = node.script("exec");
        run(command.args(["sh", "-c", script, "sh"]).arg(path)).status.success()
    };

    assert!(inside("\"$1\" --version", &place.binary()), "the binary is there");
    assert!(!inside("echo >>\"$1\"", &place.binary()), "the binary can be written to");
    assert!(!inside("rm \"$1\"", &place.binary()), "the binary can be removed");
    assert!(!inside("test -e \"$1\"", &place.at("beside")), "what is beside the binary is there");
    assert!(inside("test -e \"$1\"", &place.at("shown").join("file")));
    assert!(!inside("rm \"$1\"", &place.at("shown").join("file")), "what is shown can be removed");
    // The control, which is what sharing means.
    assert!(inside("rm \"$1\"", &place.at("shared").join("file")));
    assert!(!place.at("shared").join("file").exists(), "not shown: it is another file");

    // To find also what nobody has thought of.
    let writable = writable(&node);
    let own = node.dir.path().join("node");
    let expected = |path: &Path| path.starts_with(&own) || path.starts_with(place.at("shared"));
    let others: Vec<&PathBuf> = writable.iter().filter(|path| !expected(path)).collect();
    assert!(others.is_empty(), "the node can write to {others:?}");
    assert!(writable.contains(&place.at("shared")), "not shown: {writable:?}");
}

/// The host's file systems, except cgroups, that are mounted in the node and writable.
fn writable(node: &Node) -> Vec<PathBuf> {
    let here = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let there = text(&succeed(node.script("exec").args(["cat", "/proc/1/mountinfo"])).stdout);
    let hosts: Vec<Mount> = here.lines().map(Mount::parse).collect();
    let nodes = there.lines().map(Mount::parse).filter(|mount| mount.writable && !mount.cgroup);
    let on_host = |mount: Mount| {
        let host = hosts.iter().find(|host| host.device == mount.device && host.root == "/")?;
        Some(Path::new(host.at).join(mount.root.trim_start_matches('/')))
    };
    nodes.filter_map(on_host).collect()
}

/// A line of proc_pid_mountinfo(5), in part.
struct Mount<'a> {
    device: &'a str,
    root: &'a str,
    at: &'a str,
    writable: bool,
    cgroup: bool,
}

impl Mount<'_> {
    fn parse(line: &str) -> Mount<'_> {
        let fields: Vec<&str> = line.split(' ').collect();
        let (_, kind) = line.split_once(" - ").unwrap();
        let writable = fields[5].split(',').any(|option| option == "rw");
        let cgroup = kind.starts_with("cgroup");
        Mount { device: fields[2], root: fields[3], at: fields[4], writable, cgroup }
    }
}

#[test]
fn what_is_not_there_cannot_be_shared() {
    let place = Place::new();
    for option in ["--show", "--share"] {
        let mut up = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/node"));
        up.env("FROSTLOCK_NODE", place.at("node")).args(["up", option]).arg(place.at("missing"));
        let ended = run(&mut up);
        let wanted = format!("node: there is no {}\n", place.at("missing").display());
        assert_eq!((text(&ended.stderr), ended.status.success()), (wanted, false));
    }
}
