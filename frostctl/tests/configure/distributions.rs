//! The files of distributions, below a directory that stands for the node.

use super::copies::{Copies, MIDDLE, NEW, file_of};
use super::{NAME, frostlock};

const K3S: &str = "var/lib/rancher/k3s/agent/etc/containerd";
const RKE2: &str = "var/lib/rancher/rke2/agent/etc/containerd";
const PLAIN: &str = "etc/containerd/config.toml";

struct Node(Copies);

impl Node {
    fn new(containerd: &str, files: &[(&str, String)]) -> Node {
        let copies = Copies::of(containerd);
        for (path, text) in files {
            copies.write(&format!("node/{path}"), text);
        }
        Node(copies)
    }

    fn frostctl(&self, verb: &str, words: &[&str]) -> (i32, String, String) {
        let (root, binary) = (self.0.file("node"), frostlock());
        let mut all = vec![verb, "--runtime", "containerd", "--root", root.to_str().unwrap()];
        if verb == "configure" {
            all.extend(["--binary", binary.to_str().unwrap()]);
        }
        self.0.frostctl(&[&all[..], words].concat())
    }

    #[track_caller]
    fn configure(&self) -> String {
        let (status, said, errors) = self.frostctl("configure", &[]);
        assert_eq!(status, 0, "{said}{errors}");
        said
    }

    fn read(&self, path: &str) -> String {
        self.0.read(&format!("node/{path}"))
    }

    fn is_there(&self, path: &str) -> bool {
        self.0.file(&format!("node/{path}")).exists()
    }

    fn process(&self, pid: u32, line: &str, exe: &str) {
        let process = self.0.file(&format!("node/proc/{pid}"));
        std::fs::create_dir_all(&process).unwrap();
        std::fs::write(process.join("comm"), "containerd\n").unwrap();
        std::fs::write(process.join("cmdline"), line.replace(' ', "\0")).unwrap();
        std::os::unix::fs::symlink(exe, process.join("exe")).unwrap();
    }
}

fn os(id: &str) -> (&'static str, String) {
    ("etc/os-release", format!("NAME=\"x\"\nID={id}\n"))
}

/// The generated file stays; the template is added and removed.
#[test]
fn k3s_and_rke2_get_a_template_and_never_a_generated_file() {
    for (place, version, template, containerd) in [
        (K3S, "k3s-v2.toml", "config.toml.tmpl", MIDDLE),
        (K3S, "k3s-v3.toml", "config-v3.toml.tmpl", NEW),
        (RKE2, "k3s-v2.toml", "config.toml.tmpl", MIDDLE),
        (RKE2, "k3s-v3.toml", "config-v3.toml.tmpl", NEW),
    ] {
        let (generated, template) = (format!("{place}/config.toml"), format!("{place}/{template}"));
        for theirs in [
            None,
            Some(
                "{{ template \"base\" . }}\n\n# mine {{ .NodeConfig.X }}\n[debug]\n  level = \"info\"\n",
            ),
        ] {
            let node = Node::new(containerd, &[(&generated, file_of(version))]);
            if let Some(theirs) = theirs {
                node.0.write(&format!("node/{template}"), theirs);
            }
            let said = node.configure();
            assert!(said.contains("config dump, of what will be generated"), "{said}");
            assert!(said.contains("next: systemctl restart $(systemctl list-units "), "{said}");
            assert_eq!(node.read(&generated), file_of(version));
            let written = node.read(&template);
            assert!(
                written.starts_with(theirs.unwrap_or("{{ template \"base\" . }}\n")),
                "{written}"
            );
            assert!(
                written.contains("SystemdCgroup = true") && !written.contains("runtimes.runc"),
                "{written}"
            );
            let again = node.configure();
            assert!(again.contains("nothing to change"), "{again}");

            // As after a restart: the generated file has our entry, which must not become the
            // model.
            let block = &written[written.find("# By `frostctl").unwrap()..];
            node.0.write(&format!("node/{generated}"), &format!("{}\n{block}", file_of(version)));
            let again = node.configure();
            assert!(again.contains("nothing to change"), "{again}");

            let (status, _, errors) = node.frostctl("configure", &["--set-as-default"]);
            assert!(status == 3 && errors.contains("`default-runtime: frostlock`"), "{errors}");
            let (status, said, errors) = node.frostctl("unconfigure", &[]);
            assert_eq!(status, 0, "{said}{errors}");
            assert_eq!(node.is_there(&template).then(|| node.read(&template)).as_deref(), theirs);
        }
    }
}

#[test]
fn k3s_that_imports_a_directory_gets_a_file_in_it() {
    let generated = format!("{K3S}/config.toml");
    let imports = "version = 3\nimports = [\"config-v3.toml.d/*.toml\"]\n";
    let node =
        Node::new(NEW, &[(&generated, file_of("k3s-v3.toml").replace("version = 3\n", imports))]);
    let before = node.read(&generated);
    node.configure();
    let drop_in = format!("{K3S}/config-v3.toml.d/99-frostlock.toml");
    assert!(node.read(&drop_in).contains("runtimes.frostlock.options]"));
    assert_eq!(node.read(&generated), before);
    assert!(!node.is_there(&format!("{K3S}/config-v3.toml.tmpl")));
    let (status, said, errors) = node.frostctl("unconfigure", &[]);
    assert!(status == 0 && !node.is_there(&drop_in), "{said}{errors}");
}

/// The version is reported by the program itself, or is in the path of its containerd.
#[test]
fn a_k3s_that_knows_no_base_template_is_refused() {
    let generated = format!("{K3S}/config.toml");
    let template = format!("{K3S}/config.toml.tmpl");
    let node = Node::new(MIDDLE, &[(&generated, file_of("k3s-v2.toml"))]);
    let is = |version: &str| {
        node.0.program("bin/k3s", &format!("#!/bin/sh\necho 'k3s version {version}'\n"));
    };
    is("v1.26.7+k3s1 (52e2c08a)");
    let (status, _, errors) = node.frostctl("configure", &[]);
    assert!(status == 3 && errors.contains("1.26.8") && errors.lines().count() == 1, "{errors}");
    assert!(!node.is_there(&template));
    // A template that has everything written out needs no "base".
    node.0.write(&format!("node/{template}"), &file_of("k3s-v2.toml"));
    let said = node.configure();
    assert!(!said.contains("is not known"), "{said}");
    let (status, said, errors) = node.frostctl("unconfigure", &[]);
    assert_eq!(status, 0, "{said}{errors}");
    std::fs::remove_file(node.0.file(&format!("node/{template}"))).unwrap();
    is("v1.26.8+k3s1 (08ab1a5a)");
    let said = node.configure();
    assert!(node.is_there(&template) && !said.contains("is not known"), "{said}");

    let generated = format!("{RKE2}/config.toml");
    let node = Node::new(MIDDLE, &[(&generated, file_of("k3s-v2.toml"))]);
    let program = "/var/lib/rancher/rke2/data/v1.27.4-rke2r1-3ac5d6a0f3a0/bin/containerd";
    let config = format!("/{generated}");
    node.process(7, &format!("containerd -c {config}"), program);
    // `containerd --config FILE config dump`
    node.0.program(&format!("node{program}"), "#!/bin/sh\nexec cat \"$2\"\n");
    let (status, _, errors) = node.frostctl("configure", &[]);
    assert!(status == 3 && errors.contains("rke2 1.27.4 knows no"), "{errors}");
}

#[test]
fn k3s_that_was_never_started_is_refused_with_what_to_do() {
    let node = Node::new(NEW, &[]);
    node.process(
        7,
        "containerd -c /var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        "/var/lib/rancher/k3s/x",
    );
    let (status, _, errors) = node.frostctl("configure", &[]);
    assert!(status == 3 && errors.contains("start it once"), "{errors}");
}

#[test]
fn k0s_gets_a_file_in_its_directory_as_long_as_it_manages_its_own() {
    let cri = file_of("kind.toml");
    let node = Node::new(
        NEW,
        &[("etc/k0s/containerd.toml", file_of("k0s.toml")), ("run/k0s/containerd-cri.toml", cri)],
    );
    // The import is read from the node's root.
    let import = node.0.file("node/run/k0s/containerd-cri.toml");
    let text =
        file_of("k0s.toml").replace("/run/k0s/containerd-cri.toml", import.to_str().unwrap());
    node.0.write("node/etc/k0s/containerd.toml", &text);
    let said = node.configure();
    assert!(said.contains("k0s merges this file") && said.contains("k0sworker"), "{said}");
    let drop_in = "etc/k0s/containerd.d/99-frostlock.toml";
    let written = node.read(drop_in);
    assert!(
        written.contains("version = 2") && written.contains("SystemdCgroup = true"),
        "{written}"
    );
    assert!(!written.contains("runtimes.runc]"), "{written}");
    assert_eq!(node.read("etc/k0s/containerd.toml"), text);
    let (status, said, errors) = node.frostctl("unconfigure", &[]);
    assert!(status == 0 && !node.is_there(drop_in), "{said}{errors}");

    let own = file_of("kind.toml");
    node.0.write("node/etc/k0s/containerd.toml", &own);
    node.configure();
    assert!(!node.is_there(drop_in));
    assert_ne!(node.read("etc/k0s/containerd.toml"), own);
}

#[test]
fn microk8s_gets_its_template_edited() {
    let [template, generated] = ["containerd-template.toml", "containerd.toml"]
        .map(|it| format!("var/snap/microk8s/current/args/{it}"));
    let text = file_of("microk8s-template.toml");
    let made =
        text.replace("${RUNTIME}", "runc").replace("${RUNTIME_TYPE}", "io.containerd.runc.v2");
    let node = Node::new(MIDDLE, &[(&template, text.clone()), (&generated, made.clone())]);
    let said = node.configure();
    assert!(said.contains("snap restart microk8s.daemon-containerd"), "{said}");
    let written = node.read(&template);
    assert!(
        written.contains("in front of runc;")
            && written.contains("runtime_type = \"${RUNTIME_TYPE}\""),
        "{written}"
    );
    assert_eq!(node.read(&generated), made);
    let (status, said, errors) = node.frostctl("unconfigure", &[]);
    assert_eq!(status, 0, "{said}{errors}");
    assert_eq!(node.read(&template), text);
}

#[test]
fn those_with_containerds_own_file_get_it_edited_and_a_word_of_what_writes_it_anew() {
    for (file, id, mark, note) in [
        ("kind.toml", "debian", "kind/version", "containerdConfigPatches"),
        ("minikube.toml", "buildroot", "var/lib/minikube/x", "minikube start"),
        ("cos.toml", "cos", "home/kubernetes/bin/x", "after every boot"),
        ("flatcar.toml", "flatcar", "x", ""),
    ] {
        for containerd in [MIDDLE, NEW] {
            let node =
                Node::new(containerd, &[(PLAIN, file_of(file)), os(id), (mark, String::new())]);
            let said = node.configure();
            assert!(
                said.contains(note) && said.contains("checked by: containerd config dump"),
                "{said}"
            );
            let drop_in = "etc/containerd/conf.d/99-frostlock.toml";
            assert_eq!(node.is_there(drop_in), containerd == NEW, "{file}");
            let ours = if containerd == NEW { node.read(drop_in) } else { node.read(PLAIN) };
            assert!(ours.contains(&format!("runtimes.{NAME}")), "{ours}");
            let (status, said, errors) = node.frostctl("unconfigure", &[]);
            assert_eq!(status, 0, "{said}{errors}");
            assert_eq!(node.read(PLAIN), file_of(file));
        }
    }
}

/// Talos has a second containerd for its own services, with a file that nobody wrote.
#[test]
fn what_cannot_be_edited_is_refused_with_what_to_do() {
    let talos = "/bin/containerd --address /run/containerd/containerd.sock --config /etc/cri/containerd.toml";
    let usr = "/usr/bin/containerd --config /usr/share/containerd/config.toml";
    let cri = "etc/cri/containerd.toml";
    for (id, file, text, line, why) in [
        ("talos", cri, "talos.toml", talos, "CRICustomizationConfig"),
        ("bottlerocket", PLAIN, "bottlerocket.toml", "/usr/bin/containerd", "variant"),
        (
            "flatcar",
            "usr/share/containerd/config.toml",
            "flatcar.toml",
            usr,
            "copy it to /etc/containerd/config.toml",
        ),
    ] {
        let node = Node::new(NEW, &[(file, file_of(text)), os(id)]);
        node.process(7, line, "/usr/bin/containerd");
        if id == "talos" {
            let own = "/bin/containerd --address /system/run/containerd/containerd.sock";
            node.process(8, own, "/bin/containerd");
        }
        let (status, said, errors) = node.frostctl("configure", &[]);
        assert!(status == 3 && errors.contains(why) && said.is_empty(), "{said}{errors}");
        assert!(errors.contains("nothing was changed") && errors.lines().count() == 1, "{errors}");
        assert_eq!(node.read(file), file_of(text));
    }
}

#[test]
fn of_two_containerds_one_has_to_be_named() {
    let k3s = format!("{K3S}/config.toml");
    let node = Node::new(MIDDLE, &[(PLAIN, file_of("kind.toml")), (&k3s, file_of("k3s-v2.toml"))]);
    node.process(7, "/usr/bin/containerd", "/usr/bin/containerd");
    node.process(
        8,
        "containerd -c /var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        "/x/containerd",
    );
    let (status, _, errors) = node.frostctl("configure", &[]);
    assert!(
        status == 3 && errors.contains("several containerds run") && errors.contains("--config"),
        "{errors}"
    );
    let (status, said, errors) = node.frostctl("configure", &["--config", &format!("/{k3s}")]);
    assert_eq!(status, 0, "{said}{errors}");
    assert!(node.is_there(&format!("{K3S}/config.toml.tmpl")), "{said}");
}
