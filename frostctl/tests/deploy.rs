//! Kubernetes and systemd accept what is in deploy/.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use testkit::repository;

/// The oldest and the newest version with known schemas.
const KUBERNETES: [&str; 2] = ["1.25", "1.37"];

fn run(program: &Path, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output();
    output.unwrap_or_else(|error| {
        panic!("{}: {error}; it comes with: scripts/setup lab", program.display())
    })
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

fn validate(version: &str, file: &Path) -> Output {
    let program = repository().join("target/python/bin/kubernetes-validate");
    run(&program, &["-k", version, "--strict", file.to_str().unwrap()])
}

fn chart() -> PathBuf {
    repository().join("deploy/chart/frostlock")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Renderings by helm, which `make chart-test` builds; each `[...]` of values is one.
mod rendered {
    use super::*;

    const ALL: [&str; 5] = [
        "podMonitor.enabled=true",
        "prometheusRule.enabled=true",
        "grafana.enabled=true",
        "nodeProblemDetector.enabled=true",
        "audit.enabled=true",
    ];
    const LEAST: [&str; 6] = [
        "runtimeClass.create=false",
        "exporter.enabled=false",
        "networkPolicy.enabled=false",
        "remove.enabled=false",
        "audit.enabled=false",
        "tolerations=null",
    ];
    const OTHER: [&str; 7] = [
        "engine=crio",
        "installDir=/home/kubernetes/bin",
        "configureArgs={--wrap,crun}",
        "imagePullSecrets[0].name=secret",
        "networkPolicy.from[0].namespaceSelector.matchLabels.name=monitoring",
        "exporter.port=9999",
        "fullnameOverride=other",
    ];

    fn helm(args: &[&str]) -> Output {
        let program = repository().join("target/lab-chart/helm");
        let output = Command::new(&program).args(args).output();
        output
            .unwrap_or_else(|error| panic!("{}: {error}, try: make chart-test", program.display()))
    }

    fn template(values: &[&str]) -> Output {
        let chart = chart();
        let mut args =
            vec!["template", "frostlock", chart.to_str().unwrap(), "--namespace", "system"];
        args.extend(values.iter().flat_map(|value| ["--set", value]));
        helm(&args)
    }

    fn manifests(values: &[&str]) -> String {
        let output = template(values);
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// As JSON, by `kind/name`.
    fn objects(manifests: &str) -> Vec<serde_json::Value> {
        let python = repository().join("target/python/bin/python");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("all.yaml");
        std::fs::write(&file, manifests).unwrap();
        let script = "import sys, yaml, json\n\
                      print(json.dumps([d for d in yaml.safe_load_all(open(sys.argv[1])) if d]))";
        let output = run(&python, &["-c", script, file.to_str().unwrap()]);
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn object<'a>(all: &'a [serde_json::Value], kind: &str, name: &str) -> &'a serde_json::Value {
        let found = all.iter().find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    #[test]
    #[ignore = "make chart-test"]
    fn helm_finds_nothing_to_say() {
        let chart = chart();
        let linted = helm(&["lint", "--strict", chart.to_str().unwrap()]);
        assert!(linted.status.success(), "{}", said(&linted));
        assert!(!said(&linted).contains("[WARNING]"), "{}", said(&linted));
    }

    #[test]
    #[ignore = "make chart-test"]
    fn every_rendering_is_of_the_api() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("all.yaml");
        for (values, count) in [(&[][..], 14), (&ALL, 16), (&LEAST, 8), (&OTHER, 14)] {
            // Kubernetes has no schemas for the resources of Prometheus' operator; promtool checks
            // their rules below.
            let all = manifests(values);
            let all: Vec<&str> = all
                .split("\n---\n")
                .filter(|it| !it.contains("apiVersion: monitoring.coreos.com/"))
                .collect();
            let manifests = all.join("\n---\n");
            for version in KUBERNETES {
                std::fs::write(&file, &manifests).unwrap();
                let checked = validate(version, &file);
                assert!(checked.status.success(), "{version}: {}", said(&checked));
                let passed = said(&checked).matches(" passed for ").count();
                assert_eq!(passed, count, "{values:?}: {}", said(&checked));

                std::fs::write(&file, manifests.replace("hostPID:", "hostPid:")).unwrap();
                let control = validate(version, &file);
                assert!(!control.status.success() && said(&control).contains("hostPid"));
            }
        }
    }

    /// So that `helm template | kubectl apply` creates nothing outside the network policies'
    /// namespace.
    #[test]
    #[ignore = "make chart-test"]
    fn every_object_says_its_namespace() {
        const OF_THE_CLUSTER: [&str; 3] = ["ClusterRole", "ClusterRoleBinding", "RuntimeClass"];
        for object in objects(&manifests(&ALL)) {
            let kind = object["kind"].as_str().unwrap();
            let namespace = object["metadata"]["namespace"].as_str();
            assert_eq!(namespace.is_none(), OF_THE_CLUSTER.contains(&kind), "{object}");
        }
    }

    /// Checks that kube-score skips, and why.
    const REASONED: [(&str, &str); 8] = [
        ("container-ephemeral-storage-request-and-limit", "logs are all, and end no installer"),
        (
            "container-image-pull-policy",
            "image.digest names one image; image.pullPolicy is a value",
        ),
        ("container-resources", "no CPU limit: a starved installer would leave a node half done"),
        ("container-security-context-privileged", "the steps on the node change the node"),
        ("container-security-context-readonlyrootfilesystem", "the same steps"),
        ("container-security-context-user-group-id", "the same steps"),
        ("pod-networkpolicy", "the steps ask the API server, whose address no policy can name"),
        ("pod-probes-identical", "/healthz says all that either probe asks"),
    ];

    fn kube_score(manifests: &Path, ignored: &[&str]) -> Output {
        let ignored = ignored.iter().flat_map(|name| ["--ignore-test", name]);
        let args: Vec<&str> =
            ["score", manifests.to_str().unwrap()].into_iter().chain(ignored).collect();
        run(&repository().join("target/lab-chart/kube-score"), &args)
    }

    #[test]
    #[ignore = "make chart-test"]
    fn kube_score_finds_nothing_without_a_reason() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("all.yaml");
        std::fs::write(&file, manifests(&ALL)).unwrap();
        let names = REASONED.map(|(name, _)| name);
        let scored = kube_score(&file, &names);
        assert!(scored.status.success(), "{}", said(&scored));
        assert!(!said(&scored).contains("WARNING"), "{}", said(&scored));
        // Each skipped check finds something.
        for left in names {
            let ignored: Vec<&str> = names.into_iter().filter(|name| *name != left).collect();
            let scored = kube_score(&file, &ignored);
            let is_found = !scored.status.success() || said(&scored).contains("WARNING");
            assert!(is_found, "{left} needs no reason");
        }
    }

    #[test]
    #[ignore = "make chart-test"]
    fn a_wrong_value_is_named() {
        let wrong = [
            ("image.digest=sha256:abc", "/image/digest"),
            ("engine=docker", "/engine"),
            ("exporters.port=1", "exporters"),
            ("audit.interval=10m", "/audit/interval"),
            ("exporter.runAsUser=0", "/exporter/runAsUser"),
            ("installDir=bin", "/installDir"),
            ("configureArgs={--dry-run}", "/configureArgs"),
            ("configureArgs={--name,x}", "runtimeClass.create=false"),
        ];
        for (value, named) in wrong {
            let output = template(&[value]);
            assert!(!output.status.success() && said(&output).contains(named), "{}", said(&output));
        }
    }

    #[test]
    #[ignore = "make chart-test"]
    fn who_may_change_the_node_has_no_token_and_the_exporter_has_nothing() {
        let all = objects(&manifests(&[]));
        for (kind, name, privileged) in [
            ("DaemonSet", "frostlock-installer", 2),
            ("DaemonSet", "frostlock-remove", 2),
            ("DaemonSet", "frostlock-exporter", 0),
            ("Job", "frostlock-await-remove", 0),
        ] {
            let pod = &object(&all, kind, name)["spec"]["template"]["spec"];
            assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
            assert_eq!(pod["hostPID"].as_bool().unwrap_or(false), privileged > 0, "{name}");
            assert!(pod["hostNetwork"].is_null(), "{name}");
            let steps = ["initContainers", "containers"].map(|it| pod[it].as_array());
            let mut seen = 0;
            for container in steps.into_iter().flatten().flatten() {
                let context = &container["securityContext"];
                if context["privileged"] == true {
                    seen += 1;
                    assert!(container["volumeMounts"].is_null(), "{container}");
                    continue;
                }
                assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
                assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
                for key in ["runAsNonRoot", "readOnlyRootFilesystem"] {
                    assert_eq!(context[key], true, "{container}");
                }
                for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                    assert_eq!(mount["readOnly"], true, "{container}");
                }
            }
            assert_eq!(seen, privileged, "{name}");
        }
    }

    #[test]
    #[ignore = "make chart-test"]
    fn pods_go_where_the_handler_is_loaded() {
        let all = objects(&manifests(&["readyLabel=example.org/here"]));
        let ready = serde_json::json!({ "example.org/here": "true" });
        let class = object(&all, "RuntimeClass", "frostlock");
        assert_eq!(class["scheduling"]["nodeSelector"], ready);
        let spec = |name| &object(&all, "DaemonSet", name)["spec"]["template"]["spec"];
        let exporter = spec("frostlock-exporter");
        assert_eq!(exporter["nodeSelector"]["example.org/here"], "true");
        // The label comes after the step that ends with `frostctl status`, and is removed first.
        let steps = |name| -> Vec<&str> {
            let steps = spec(name)["initContainers"].as_array().unwrap().iter();
            steps.map(|it| it["name"].as_str().unwrap()).collect()
        };
        assert_eq!(steps("frostlock-installer"), ["take-turn", "install", "label", "give-turn"]);
        assert_eq!(
            steps("frostlock-remove"),
            ["unlabel", "await-idle", "take-turn", "remove", "give-turn"]
        );
    }

    /// Otherwise the removal would look for another entry, and never end.
    #[test]
    #[ignore = "make chart-test"]
    fn every_step_on_the_node_gets_the_arguments_of_configure() {
        let all = manifests(&["configureArgs={--name,x}", "runtimeClass.create=false"]);
        let all = objects(&all);
        let mut seen = 0;
        for name in ["frostlock-installer", "frostlock-remove"] {
            let spec = &object(&all, "DaemonSet", name)["spec"]["template"]["spec"];
            for step in spec["initContainers"].as_array().unwrap() {
                if !step["securityContext"]["privileged"].is_null() {
                    let args: Vec<_> = step["args"].as_array().unwrap().iter().collect();
                    assert_eq!(args[args.len() - 3..], ["--", "--name", "x"], "{step}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 3);
    }

    #[test]
    #[ignore = "make chart-test"]
    fn a_digest_goes_before_a_tag() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let all =
            manifests(&["image.repository=r/f", "image.tag=x", &format!("image.digest={digest}")]);
        assert!(
            all.contains(&format!("image: \"r/f@{digest}\"")) && !all.contains("r/f:x"),
            "{all}"
        );
    }

    #[test]
    #[ignore = "make chart-test"]
    fn rules_and_dashboard_are_those_of_deploy() {
        let base = "https://git.example.org/f/blob/v1";
        let mut values = ALL.to_vec();
        let runbooks = format!("prometheusRule.runbookBase={base}/");
        values.push(&runbooks);
        let all = objects(&manifests(&values));
        let rules =
            serde_json::to_string(&object(&all, "PrometheusRule", "frostlock")["spec"]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("alerts.yml", rules.replace(&format!("{base}/docs/"), "docs/")),
            ("alerts.test.yml", read(&repository().join("deploy/prometheus/alerts.test.yml"))),
        ] {
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        let tests = directory.path().join("alerts.test.yml");
        let tested = run(Path::new("promtool"), &["test", "rules", tests.to_str().unwrap()]);
        assert!(tested.status.success(), "{}", said(&tested));
        assert!(rules.contains(&format!("{base}/docs/runbooks.md#frostlockabsent")), "{rules}");

        let dashboard = object(&all, "ConfigMap", "frostlock-dashboard");
        assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
        let of_deploy = read(&repository().join("deploy/grafana/frostlock.json"));
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(json(dashboard["data"]["frostlock.json"].as_str().unwrap()), json(&of_deploy));
    }
}

/// So that no copy of them can differ.
#[test]
fn the_chart_has_the_files_of_deploy_themselves() {
    for (link, file) in [
        ("alerts.yml", "prometheus/alerts.yml"),
        ("dashboard.json", "grafana/frostlock.json"),
        ("frostlock-doctor.json", "npd/frostlock-doctor.json"),
    ] {
        let link = chart().join("files").join(link);
        assert!(link.is_symlink(), "{link:?}");
        let meant = repository().join("deploy").join(file).canonicalize().unwrap();
        assert_eq!(link.canonicalize().unwrap(), meant);
    }
}

#[test]
fn the_chart_is_of_this_version() {
    let text = read(&chart().join("Chart.yaml"));
    for key in ["version", "appVersion"] {
        let line = format!("{key}: {}", env!("CARGO_PKG_VERSION"));
        assert!(text.lines().any(|it| it == line), "{line}: {text}");
    }
}

#[test]
fn every_alert_has_a_runbook() {
    let rules = read(&repository().join("deploy/prometheus/alerts.yml"));
    let book = read(&repository().join("docs/runbooks.md"));
    let names: Vec<_> =
        rules.lines().filter_map(|it| it.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 5 && names.contains(&"FrostlockAbsent"), "{names:?}");
    for name in names {
        let address = format!("runbook_url: docs/runbooks.md#{}\n", name.to_lowercase());
        assert!(rules.contains(&address), "{address}");
        assert!(book.contains(&format!("\n## {name}\n")), "{name}");
    }
}

/// The installer leaves an engine alone after this message of frostctl.
#[test]
fn installer_and_frostctl_mean_the_same_failure() {
    let phrase = "was restarted with its files as they were";
    for file in ["installer/src/install.rs", "frostctl/src/configure/restart.rs"] {
        assert!(read(&repository().join(file)).contains(phrase), "{file}");
    }
}

#[test]
fn systemd_takes_the_units() {
    let directory = tempfile::tempdir().unwrap();
    let binary = env!("CARGO_BIN_EXE_frostctl");
    let units = ["frostctl-metrics.service", "frostctl-metrics.timer", "frostctl-serve.service"];
    let mut paths = Vec::new();
    for unit in units {
        let text = std::fs::read_to_string(repository().join("deploy/systemd").join(unit)).unwrap();
        let path = directory.path().join(unit);
        // The programs to run must exist.
        std::fs::write(&path, text.replace("/usr/local/bin/frostctl", binary)).unwrap();
        paths.push(path);
    }
    let verify = |paths: &[PathBuf]| {
        let mut args = vec!["verify", "--man=no"];
        args.extend(paths.iter().map(|path| path.to_str().unwrap()));
        run(Path::new("systemd-analyze"), &args)
    };
    let checked = verify(&paths);
    let ours = |output: &Output| said(output).lines().filter(|it| it.contains("frostctl")).count();
    assert!(checked.status.success() && ours(&checked) == 0, "{}", said(&checked));

    let text = std::fs::read_to_string(&paths[2]).unwrap();
    std::fs::write(&paths[2], text.replace("PrivateTmp=", "PrivateTemp=")).unwrap();
    assert!(said(&verify(&paths[2..])).contains("PrivateTemp"), "the control");
}

#[test]
fn every_server_audits_as_there_is_an_alert_about_it() {
    let unit = read(&repository().join("deploy/systemd/frostctl-serve.service"));
    assert!(unit.contains("/usr/local/bin/frostctl serve --audit"), "{unit}");
    let values = read(&chart().join("values.yaml"));
    assert!(values.contains("\naudit:\n  enabled: true\n"), "{values}");
}
