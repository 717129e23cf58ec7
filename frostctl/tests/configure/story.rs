//! From the install to the purge, as in the README, on one node after another: the exit status of
//! each command, and at the end nothing of ours is left.

use std::time::Instant;

use super::node::{Node, ours, pod};
use super::status::{FROSTCTL, FROSTLOCK, must, sh};
use super::{NAME, frostctl, frostlock, repository, text};

/// Exit status, standard output and standard error.
type Said = (i32, String, String);

/// A node, and its engine.
struct Place<'a> {
    engine: &'a str,
    frostctl: &'a dyn Fn(&[&str]) -> Said,
    /// Further arguments of `configure`.
    words: &'a [&'a str],
    /// Starts a container through it, and returns its id.
    start: &'a dyn Fn() -> String,
    end: &'a dyn Fn(&str),
    restart: &'a dyn Fn(),
    /// The engine's configuration, and our files.
    look: &'a dyn Fn() -> String,
}

impl Place<'_> {
    #[track_caller]
    fn says(&self, words: &[&str], status: i32, what: &str) {
        let (code, said, errors) = (self.frostctl)(words);
        println!("$ frostctl {}    # {code}\n{said}{errors}", words.join(" "));
        let has = said.contains(what) || errors.contains(what);
        assert!(
            code == status && has,
            "{words:?}: {code}, expected {status} and {what:?}: {said}{errors}"
        );
    }
}

fn story(place: &Place<'_>, before: &str) {
    let began = Instant::now();
    let configure = |more| [&["configure", "--runtime", place.engine, more], place.words].concat();
    let installed = (place.look)();
    place.says(&["status"], 1, "something is left to do");
    place.says(&configure("--dry-run"), 1, "frostlock");
    assert_eq!((place.look)(), installed, "--dry-run");
    place.says(&configure("--restart"), 0, "checked by");
    let container = (place.start)();
    place.says(&["status"], 0, "frostlock works");
    place.says(&["selftest"], 0, "works");
    place.says(&["off", "--reason", "a look"], 0, "off");
    place.says(&["status"], 1, "a look");
    place.says(&["on"], 0, "on");
    place.says(&["status"], 0, "frostlock works");
    place.says(&["uninstall", "--purge"], 3, &container);
    (place.end)(&container);
    place.says(&["unconfigure", "--runtime", place.engine, "--restart"], 0, "");
    (place.restart)();
    place.says(&["uninstall"], 0, "stays");
    place.says(&["uninstall", "--purge"], 0, "removed");
    assert_eq!((place.look)(), before);
    println!("{}: in all {:.1?}", place.engine, began.elapsed());
}

fn install(node: &Node) {
    for (program, path) in [(frostctl(), FROSTCTL), (frostlock(), FROSTLOCK)] {
        must(node, &["install", "-D", program.to_str().unwrap(), path]);
    }
}

fn run(node: &Node, words: &[&str]) -> Said {
    let path = format!("PATH={}", node.path);
    let output = node.script(&[&["exec", "env", &path, FROSTCTL], words].concat());
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn of_containerd() {
    for containerd in ["1.7.24", "2.1.9"] {
        let node = Node::up(containerd);
        let look = || {
            sh(&node, "cat /etc/containerd/config.toml; ls /etc/containerd")
                + &ours(&node).join("\n")
        };
        let before = look();
        install(&node);
        let start = || node.client().run_pod_sandbox_by(NAME, &pod("told")).unwrap();
        let end = |sandbox: &str| {
            node.client().stop_pod_sandbox(sandbox).unwrap();
            node.client().remove_pod_sandbox(sandbox).unwrap();
        };
        let place = Place {
            engine: "containerd",
            frostctl: &|words| run(&node, words),
            words: &[],
            start: &start,
            end: &end,
            restart: &|| {},
            look: &look,
        };
        println!("containerd {containerd}");
        story(&place, &before);
    }
}

/// What a `docker.service` has, except what affects the network, which is the host's.
const DOCKER: &str = "[Service]
Type=notify
Environment=PATH=PROGRAMS:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=DOCKERD --containerd=/run/containerd/containerd.sock --bridge=none --iptables=false --ip6tables=false --ip-forward=false --storage-driver=vfs
ExecReload=/bin/sh -c 'kill -s HUP $MAINPID'
Delegate=yes
KillMode=process
";

#[test]
fn of_dockerd() {
    let mut node = Node::up("1.7.24");
    let lab = |name: &str| repository().join("target/lab").join(name).canonicalize().unwrap();
    let dockers = lab("dockerd-26.1.5");
    node.path = format!("{}:{}", dockers.display(), node.path);
    let runc = lab("runc-1.5.3/runc");
    let unit = DOCKER
        .replace(
            "PROGRAMS",
            &format!("{}:{}", dockers.display(), lab("containerd-1.7.24").display()),
        )
        .replace("DOCKERD", dockers.join("dockerd").to_str().unwrap());
    let json = "{\n    \"debug\": false,\n    \"shutdown-timeout\": 1 }";
    let docker = format!("{}/docker", dockers.display());
    let image = "frostlock-busybox:test";
    sh(
        &node,
        &format!(
            "mkdir -p /etc/docker /var/lib/docker && mount -t tmpfs none /var/lib/docker
            ln -s {} /usr/sbin/runc && printf '%s' '{json}' >/etc/docker/daemon.json
            cat >/etc/systemd/system/docker.service <<\\UNIT
{unit}
UNIT

            systemctl daemon-reload && systemctl start docker
            {docker} load --quiet --input {}",
            runc.display(),
            lab("busybox.tar").display()
        ),
    );
    let node = node;
    let look =
        || sh(&node, "cat /etc/docker/daemon.json; ls /etc/docker") + &ours(&node).join("\n");
    let before = look();
    install(&node);
    let container = "run --detach --network none --runtime frostlock --ulimit nofile=1024:1024";
    let start = || sh(&node, &format!("{docker} {container} {image} sleep 1000")).trim().to_owned();
    let place = Place {
        engine: "docker",
        frostctl: &|words| run(&node, words),
        words: &[],
        start: &start,
        end: &|id| drop(sh(&node, &format!("{docker} rm --force {id}"))),
        restart: &|| drop(must(&node, &["systemctl", "restart", "docker"])),
        look: &look,
    };
    story(&place, &before);
}

/// The programs are the host's instead of the node's. Without a daemon in it, a node in a box looks
/// like a container on a node.
#[test]
fn of_podman() {
    let mut node = Node::up("1.7.24");
    node.path = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    let rootfs = repository().join("target/lab/rootfs").canonicalize().unwrap();
    sh(
        &node,
        &format!(
            "mount --bind /host/usr /usr && mount -t tmpfs none /usr/local && rm /etc/frostlock/config.toml
            mkdir -p /usr/local/bin /etc/containers /var/lib/containers
            mount -t tmpfs none /var/lib/containers && cp -a {} /run/rootfs
            printf '[storage]\\ndriver = \"vfs\"\\nrunroot = \"/run/containers/storage\"\\ngraphroot = \"/var/lib/containers/storage\"\\n' >/etc/containers/storage.conf
            printf '[engine]\\ncgroup_manager = \"cgroupfs\"\\nevents_logger = \"none\"\\n' >/etc/containers/containers.conf",
            rootfs.display()
        ),
    );
    let node = node;
    let look = || {
        sh(&node, "cd /etc/containers && find . -type f -exec cksum {} + | sort")
            + &ours(&node).join("\n")
    };
    let before = look();
    install(&node);
    let limits = "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024";
    let run_one = format!(
        "podman run --detach --network none --runtime {NAME} {limits} --rootfs /run/rootfs sleep 1000"
    );
    let place = Place {
        engine: "podman",
        frostctl: &|words| run(&node, words),
        // podman's default is crun, if it is installed.
        words: &["--wrap", "runc"],
        start: &|| sh(&node, &run_one).trim().to_owned(),
        end: &|id| drop(sh(&node, &format!("podman rm --force --time 0 {id}"))),
        restart: &|| {},
        look: &look,
    };
    story(&place, &before);
}
