//! The containerd of each distribution that can be configured, started in a node as the
//! distribution starts it: with its file at the right path, and its program outside of PATH. What
//! the distribution itself does around it (k3s' template, microk8s' variables, its `snap restart`)
//! is a script.
//!
//! Those that use the same port of the host, which nodes share, are in one test.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::copies::file_of;
use super::node::{CRI_LIMIT, Node, pod};
use super::status::{Status, must, sh};
use super::{NAME, frostctl, frostlock, repository, text};

const PLAIN: &str = "/etc/containerd/config.toml";

struct Layout {
    name: &'static str,
    containerd: &'static str,
    /// Where the distribution has containerd's programs.
    programs: &'static str,
    unit: &'static str,
    /// The words of its command line.
    args: &'static str,
    /// The file that it reads. If `made_by` is not empty, it generates the file at each start.
    config: &'static str,
    text: String,
    made_by: &'static str,
    /// Further files.
    files: &'static [(&'static str, &'static str)],
    socket: &'static str,
    pause: &'static str,
    /// The file that gets our entry.
    entry: &'static str,
    /// The expected notes.
    notes: &'static [&'static str],
}

const BASE: Layout = Layout {
    name: "",
    containerd: "1.7.24",
    programs: "/usr/local/bin",
    unit: "containerd.service",
    args: "",
    config: PLAIN,
    text: String::new(),
    made_by: "",
    files: &[],
    socket: "/run/containerd/containerd.sock",
    pause: "registry.k8s.io/pause:3.10",
    entry: PLAIN,
    notes: &["after: systemctl restart containerd"],
};

/// A node may not lower an OOM score. kind does the same to its file in a user namespace.
fn in_a_box(text: &str) -> String {
    let is_head = |line: &str| {
        let quotes = ["\"", "'"];
        let cri = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"];
        let heads =
            cri.iter().flat_map(|it| quotes.map(|quote| format!("[plugins.{quote}{it}{quote}]")));
        heads.into_iter().any(|it| line.trim() == it)
    };
    let key = "restrict_oom_score_adj";
    if text.contains(key) {
        return text.replace(&format!("{key} = false"), &format!("{key} = true"));
    }
    // In version 3, only the streaming server has the old name.
    let last = text.lines().enumerate().filter(|(_, line)| is_head(line)).last();
    let (last, _) = last.expect("a table of CRI");
    let lines = text.lines().enumerate().map(|(at, line)| {
        if at == last { format!("{line}\n  {key} = true\n") } else { format!("{line}\n") }
    });
    lines.collect()
}

struct Booth<'a> {
    node: Node,
    layout: &'a Layout,
}

impl Booth<'_> {
    fn of(layout: &Layout) -> Booth<'_> {
        let this = Booth { node: Node::up("none"), layout };
        let node = &this.node;
        let lab = |name: &str| repository().join("target/lab").join(name).canonicalize().unwrap();
        let programs = lab(&format!("containerd-{}", layout.containerd));
        let data = "/var/lib/rancher /var/lib/k0s /var/snap/microk8s/common /snap/microk8s";
        sh(
            node,
            &format!(
                "ln -s {} /usr/sbin/runc
                for it in {data}; do mkdir -p $it && mount -t tmpfs none $it; done
                mkdir -p {1} $(dirname {2}) && mount --bind {3} {1}",
                lab("runc-1.5.3/runc").display(),
                layout.programs,
                layout.config,
                programs.display(),
            ),
        );
        // Not where the layout has its own programs.
        let own = if layout.programs == BASE.programs { "/usr/bin" } else { "/usr/local/bin" };
        for (program, name) in [(frostctl(), "frostctl"), (frostlock(), "frostlock")] {
            must(node, &["install", "-D", program.to_str().unwrap(), &format!("{own}/{name}")]);
        }
        for (path, text) in layout.files {
            this.write(path, text);
        }
        this.write("/usr/lib/made", &in_a_box(&layout.text));
        this.write("/usr/lib/make", &format!("set -eu\n{}\n", layout.made_by));
        if layout.made_by.is_empty() {
            this.write(layout.config, &in_a_box(&layout.text));
        }
        this.write(
            &format!("/etc/systemd/system/{}", layout.unit),
            &format!(
                "[Service]\nType=notify\nDelegate=yes\nKillMode=process\n\
                 Environment=PATH={0}:/usr/sbin:/usr/bin:/sbin:/bin\n\
                 Environment=CONTAINERD_CONFIG={1}\n\
                 ExecStartPre=sh /usr/lib/make\nExecStart={0}/containerd {2}\n",
                layout.programs, layout.config, layout.args
            ),
        );
        must(node, &["systemctl", "daemon-reload"]);
        must(node, &["systemctl", "start", layout.unit]);
        this.has_an_image(lab("pause.tar").to_str().unwrap());
        this
    }

    fn write(&self, path: &str, text: &str) {
        let place = self.node.root().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        // A symlink of the node would lead out of it.
        let _ = std::fs::remove_file(&place);
        std::fs::write(&place, text).unwrap();
        let is_program =
            std::fs::Permissions::from_mode(if text.starts_with("#!") { 0o755 } else { 0o644 });
        std::fs::set_permissions(place, is_program).unwrap();
    }

    fn has_an_image(&self, tar: &str) {
        let layout = self.layout;
        let ctr = format!("{}/ctr -a {} -n k8s.io images", layout.programs, layout.socket);
        let was = "registry.k8s.io/pause:3.6";
        sh(&self.node, &format!("{ctr} import {tar} && {ctr} tag {was} {}", layout.pause));
        let began = Instant::now();
        let is_there = || {
            let images = self.client().list_images().unwrap();
            images.iter().any(|it| it.repo_tags.iter().any(|tag| tag == layout.pause))
        };
        while !is_there() {
            assert!(began.elapsed() < CRI_LIMIT, "{}", layout.pause);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    fn client(&self) -> frostlock_cri::Client {
        let socket = self.node.root().join(self.layout.socket.trim_start_matches('/'));
        self.node.client_at(&socket)
    }

    fn frostctl(&self, words: &[&str]) -> (i32, String, String) {
        let output = self.node.script(&[&["exec", "frostctl"], words].concat());
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    /// All names and bytes beside the file that it reads, and beside that of its image.
    fn files(&self) -> String {
        let beside = self.layout.config.rsplit_once('/').unwrap().0;
        let places = format!("{beside} /etc/containerd /usr/share/containerd");
        sh(
            &self.node,
            &format!(
                "find {places} 2>/dev/null | sort -u; find {places} -type f -exec cksum {{}} + 2>/dev/null | sort -u"
            ),
        )
    }

    fn knows_nothing_of_it(&self) {
        let error = self.client().run_pod_sandbox_by(NAME, &pod("none")).unwrap_err().to_string();
        assert!(error.contains("no runtime for \"frostlock\""), "{error}");
    }

    /// Configures, runs a pod through it, and unconfigures.
    fn round(&self) {
        let (layout, before) = (self.layout, self.files());
        self.knows_nothing_of_it();
        let engine = ["--runtime", "containerd", "--restart"];
        let (status, said, errors) = self.frostctl(&[&["configure"], &engine[..]].concat());
        assert_eq!(status, 0, "{}: {said}{errors}", layout.name);
        for note in layout.notes {
            assert!(said.contains(note), "{}: {note}: {said}", layout.name);
        }
        let path = self.node.root().join(layout.entry.trim_start_matches('/'));
        let entry = std::fs::read_to_string(path);
        let entry = entry.unwrap_or_else(|error| panic!("{}: {error}: {said}", layout.name));
        assert!(entry.contains(&format!("runtimes.{NAME}")), "{}: {entry}", layout.name);
        if layout.entry != layout.config {
            let reads = sh(&self.node, &format!("cat {}", layout.config));
            let is_ours = !layout.made_by.is_empty() || reads.contains("99-frostlock.toml");
            assert!(is_ours || reads == in_a_box(&layout.text), "{}: {reads}", layout.name);
        }
        let status = Status::by(&self.node, &["frostctl"]);
        status.says("loaded", "good", "by the running containerd");
        let (_, doctor, _) = self.frostctl(&["doctor", "--check", "installation"]);
        let of_ours = doctor.lines().filter(|it| it.starts_with("error") && it.contains(NAME));
        assert_eq!(of_ours.collect::<Vec<_>>(), [""; 0], "{}", layout.name);
        let sandbox = self.client().run_pod_sandbox_by(NAME, &pod("through")).unwrap();
        let journal = must(&self.node, &["cat", "/run/frostlock/journal.jsonl"]);
        assert!(journal.contains(&sandbox), "{}: {journal}", layout.name);
        self.client().stop_pod_sandbox(&sandbox).unwrap();
        self.client().remove_pod_sandbox(&sandbox).unwrap();

        let (status, out, errors) = self.frostctl(&[&["unconfigure"], &engine[..]].concat());
        assert_eq!(status, 0, "{}: {out}{errors}", layout.name);
        self.knows_nothing_of_it();
        assert_eq!(self.files(), before, "{}", layout.name);
        println!("{}, containerd {}:\n{said}{out}", layout.name, layout.containerd);
    }
}

fn rounds(layouts: &[Layout]) {
    for layout in layouts {
        let began = Instant::now();
        Booth::of(layout).round();
        println!("{}: in all {:.1?}", layout.name, began.elapsed());
    }
}

/// The file is generated at each start, from the template if there is one.
const OF_RKE2: &str = r#"cd /var/lib/rancher/rke2/agent/etc/containerd
    if [ ! -e config.toml.tmpl ]; then exec cp /usr/lib/made config.toml; fi
    sed -e '/{{ template "base" . }}/{r /usr/lib/made' -e 'd}' config.toml.tmpl >config.toml"#;

/// Their streaming servers use port 10010.
#[test]
fn k3s_rke2_and_minikube_run_a_pod_through_it() {
    let imports = "version = 3\nimports = [\"/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/*.toml\"]\n";
    rounds(&[
        Layout {
            name: "k3s",
            containerd: "2.1.9",
            programs: "/var/lib/rancher/k3s/data/0123abcd/bin",
            unit: "k3s.service",
            args: "-c /var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            config: "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            text: file_of("k3s-v3.toml").replacen("version = 3\n", imports, 1),
            made_by: "cp /usr/lib/made /var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            socket: "/run/k3s/containerd/containerd.sock",
            pause: "docker.io/rancher/mirrored-pause:3.6",
            entry: "/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/99-frostlock.toml",
            notes: &["after: systemctl restart $(systemctl list-units", "config dump"],
            ..BASE
        },
        Layout {
            name: "rke2",
            programs: "/var/lib/rancher/rke2/data/v1.30.9-rke2r1-0123456789ab/bin",
            unit: "rke2-agent.service",
            args: "-c /var/lib/rancher/rke2/agent/etc/containerd/config.toml -a /run/k3s/containerd/containerd.sock \
                   --state /run/k3s/containerd --root /var/lib/rancher/rke2/agent/containerd",
            config: "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
            text: file_of("k3s-v2.toml")
                .replace("by k3s", "by rke2")
                .replace("rancher/k3s", "rancher/rke2"),
            made_by: OF_RKE2,
            socket: "/run/k3s/containerd/containerd.sock",
            pause: "docker.io/rancher/mirrored-pause:3.6",
            entry: "/var/lib/rancher/rke2/agent/etc/containerd/config.toml.tmpl",
            notes: &[
                "after: systemctl restart $(systemctl list-units",
                "of what will be generated",
            ],
            ..BASE
        },
        Layout {
            name: "minikube",
            text: file_of("minikube.toml"),
            files: &[("/var/lib/minikube/certs/ca.crt", "")],
            pause: "k8s.gcr.io/pause:3.6",
            notes: &["after: systemctl restart containerd", "minikube start"],
            ..BASE
        },
    ]);
}

/// The metrics of microk8s and GKE use port 1338.
#[test]
fn microk8s_gke_and_k0s_run_a_pod_through_it() {
    rounds(&[
        Layout {
            name: "microk8s",
            programs: "/snap/microk8s/7229/bin",
            unit: "snap.microk8s.daemon-containerd.service",
            args: "--config /var/snap/microk8s/7229/args/containerd.toml \
                   --root /var/snap/microk8s/common/var/lib/containerd \
                   --state /var/snap/microk8s/common/run/containerd \
                   --address /var/snap/microk8s/common/run/containerd.sock",
            config: "/var/snap/microk8s/7229/args/containerd.toml",
            text: file_of("microk8s-template.toml"),
            made_by: "cd /var/snap/microk8s/7229/args
                test -e containerd-template.toml || cp /usr/lib/made containerd-template.toml
                sed 's@${SNAPSHOTTER}@overlayfs@; s@${RUNTIME}@runc@; s@${RUNTIME_TYPE}@io.containerd.runc.v2@
                     s@${SNAP_DATA}@/var/snap/microk8s/7229@' containerd-template.toml >containerd.toml",
            files: &[(
                "/usr/bin/snap",
                "#!/bin/sh\ntest \"$1\" = restart && exec systemctl restart \"snap.$2\"\n",
            )],
            socket: "/var/snap/microk8s/common/run/containerd.sock",
            entry: "/var/snap/microk8s/7229/args/containerd-template.toml",
            notes: &["after: snap restart microk8s.daemon-containerd"],
            ..BASE
        },
        Layout {
            name: "Container-Optimized OS",
            programs: "/usr/local/bin",
            text: file_of("cos.toml"),
            files: &[("/etc/os-release", "NAME=\"Container-Optimized OS\"\nID=cos\nVERSION_ID=117\n")],
            pause: "gke.gcr.io/pause:3.8",
            notes: &["after: systemctl restart containerd", "after every boot"],
            ..BASE
        },
        Layout {
            name: "k0s",
            containerd: "2.1.9",
            programs: "/var/lib/k0s/bin",
            unit: "k0sworker.service",
            args: "--root=/var/lib/k0s/containerd --state=/run/k0s/containerd \
                   --address=/run/k0s/containerd.sock --log-level=info --config=/etc/k0s/containerd.toml",
            config: "/etc/k0s/containerd.toml",
            text: file_of("k0s-v3.toml"),
            socket: "/run/k0s/containerd.sock",
            entry: "/etc/k0s/containerd.d/99-frostlock.toml",
            notes: &["after: systemctl restart $(systemctl list-units", "checked by: containerd config dump"],
            ..BASE
        },
    ]);
}

#[test]
fn kind_and_flatcar_run_a_pod_through_it() {
    let kind = |containerd| Layout {
        name: "kind",
        containerd,
        text: file_of("kind.toml"),
        files: &[("/kind/version", "v0.29.0\n")],
        made_by: "cd /etc/containerd
            test -e cri-base.json || ctr oci spec >cri-base.json
            test -e config.toml || cp /usr/lib/made config.toml",
        notes: &["after: systemctl restart containerd", "containerdConfigPatches"],
        ..BASE
    };
    let image = "/usr/share/containerd/config.toml";
    let flatcar = |containerd, text, entry| Layout {
        name: "Flatcar",
        containerd,
        args: "--config ${CONTAINERD_CONFIG}",
        config: image,
        text,
        files: &[("/etc/os-release", "NAME=\"Flatcar Container Linux by Kinvolk\"\nID=flatcar\n")],
        entry,
        ..BASE
    };
    rounds(&[Layout { entry: "/etc/containerd/conf.d/99-frostlock.toml", ..kind("2.1.9") }]);

    // The operator must act first: nobody can write the image's own file.
    let pause = |text: String| {
        text.replacen(
            "enable_selinux = true\n",
            "enable_selinux = true\nsandbox_image = \"registry.k8s.io/pause:3.10\"\n",
            1,
        )
    };
    let text = pause(file_of("flatcar.toml"));
    let layout = flatcar("1.7.24", text.clone(), PLAIN);
    let there = Booth::of(&layout);
    let before = there.files();
    let (status, _, errors) = there.frostctl(&["configure", "--runtime", "containerd"]);
    assert!(status == 3 && errors.contains(&format!("copy it to {PLAIN}")), "{errors}");
    assert_eq!(there.files(), before);
    sh(
        &there.node,
        &format!(
            "mkdir -p /etc/containerd /etc/systemd/system/containerd.service.d && cp {image} {PLAIN}
            printf '[Service]\\nEnvironment=CONTAINERD_CONFIG={PLAIN}\\n' >/etc/systemd/system/containerd.service.d/x.conf
            systemctl daemon-reload && systemctl restart containerd"
        ),
    );
    there.round();
    drop(there);

    // If the image's file imports a writable directory, containerd 2 merges the files in it.
    let imports = "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n";
    let text = text.replacen("version = 2\n", imports, 1);
    rounds(&[flatcar("2.1.9", text, "/etc/containerd/conf.d/99-frostlock.toml")]);
}
